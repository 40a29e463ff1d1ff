"""Lists and folders that the options of `prep heal` name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from prep.errors import UsageError, WorkspaceError
from prep.heal.heal import tree_pairs
from prep.heal.rows import Pair


def heal_pairs(
    json: Sequence[str], images: Sequence[str], root: str | None, workspace: Callable[[], Path], *, undo: bool
) -> tuple[list[Pair], list[Path]]:
    """The lists, each with its folder, and the folders.

    Args:
        json, images, root: as they were typed; of a path that is empty `Path` would make the current folder.
        workspace: finds the workspace's root, which is taken where no option says anything.
        undo: folders alone will do.

    Raises:
        UsageError: the options do not fit together.
    """
    for option, values in (("--json", json), ("--images", images), ("--root", [] if root is None else [root])):
        if "" in values:
            raise UsageError(f"{option} is empty", "Give a path; the current folder is a point.")
    if root is not None and (json or images):
        raise UsageError("--root names every list of a tree, so --json and --images go without it", "Give one of them.")
    folders = [Path(folder) for folder in images]
    if undo and images:
        return [], folders
    if not json and not images:
        pairs = tree_pairs(Path(root) if root is not None else _root(workspace))
        return pairs, [pair.images for pair in pairs]
    if not json or not images:
        raise UsageError("--json and --images go together", "`prep heal --json FILE --images FOLDER`.")
    if len(images) not in (1, len(json)):
        raise UsageError(
            f"{len(json)} times --json and {len(images)} times --images",
            "Give one folder for all lists, or one for each, in the same order.",
        )
    folders = folders * len(json) if len(folders) == 1 else folders
    return [Pair(Path(file), folder) for file, folder in zip(json, folders, strict=True)], folders


def _root(workspace: Callable[[], Path]) -> Path:
    try:
        return workspace()
    except WorkspaceError as error:
        raise UsageError(
            "nothing says what to heal", "`prep heal --json FILE --images FOLDER`, or `prep heal --root FOLDER`."
        ) from error
