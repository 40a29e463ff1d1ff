"""Lists and folders that the options of `prep heal` name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from prep.errors import UsageError, WorkspaceError
from prep.heal.heal import tree_pairs
from prep.heal.rows import Pair


def heal_pairs(
    lists: Sequence[Path], images: Sequence[Path], root: Path | None, workspace: Callable[[], Path], *, undo: bool
) -> tuple[list[Pair], list[Path]]:
    """The lists, each with its folder, and the folders.

    Args:
        workspace: finds the workspace's root, which is taken where no option says anything.
        undo: folders alone will do.

    Raises:
        UsageError: the options do not fit together.
    """
    if root is not None and (lists or images):
        raise UsageError("--root names every list of a tree, so --json and --images go without it", "Give one of them.")
    if undo and images:
        return [], list(images)
    if not lists and not images:
        pairs = tree_pairs(root if root is not None else _root(workspace))
        return pairs, [pair.images for pair in pairs]
    if not lists or not images:
        raise UsageError("--json and --images go together", "`prep heal --json FILE --images FOLDER`.")
    if len(images) not in (1, len(lists)):
        raise UsageError(
            f"{len(lists)} times --json and {len(images)} times --images",
            "Give one folder for all lists, or one for each, in the same order.",
        )
    folders = list(images) * len(lists) if len(images) == 1 else list(images)
    return [Pair(file, folder) for file, folder in zip(lists, folders, strict=True)], folders


def _root(workspace: Callable[[], Path]) -> Path:
    try:
        return workspace()
    except WorkspaceError as error:
        raise UsageError(
            "nothing says what to heal", "`prep heal --json FILE --images FOLDER`, or `prep heal --root FOLDER`."
        ) from error
