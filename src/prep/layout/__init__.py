"""The guide's folder tree of ConvLLaVA: built from a workspace by links, or mended where somebody has one already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.config import STAGE_FOLDERS, Catalogue
from prep.errors import UsageError, WorkspaceError
from prep.layout.journal import open_journal
from prep.layout.links import How, Linked, link_all, shown_folders
from prep.layout.mend import Findings, find, mend
from prep.layout.places import printable
from prep.layout.report import Archive, Tree, Wanted, folders_of, known_archives, look_at
from prep.workspace import CONFIG_NAME, Workspace

TREE = "data"  # of a workspace


@dataclass
class Layout:
    """What was done to a tree, or would be.

    Attributes:
        root: the folder that the guide calls `data`.
        found: what was moved and linked in it, or is to be, and what was left.
        archives: what lies in the tree and can be unpacked.
        linked: images that were linked; None without a workspace.
        tree: what the tree holds; None of a dry run.
    """

    root: Path
    found: Findings
    archives: list[Archive]
    linked: Linked | None = None
    tree: Tree | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`; of a dry run with every name that would move."""
        moves = [move.as_json(self.root if self.tree is None else None) for move in self.found.moves]
        left = [printable(sentence) for sentence in self.found.left]
        facts = {"root": str(self.root), "moves": moves, "links": self.found.links, "left": left}
        archives = {archive.path: archive.command for archive in self.archives}
        return facts | {"archives": archives, "linked": self.linked, "tree": self.tree}


def tree_of(start: Path, root: Path | None) -> tuple[Workspace | None, Path]:
    """The workspace of a recipe of ConvLLaVA that `start` lies in, or None; and the tree's folder.

    Args:
        root: the tree that the user names; without one, `data` of the workspace.

    Raises:
        UsageError: no tree is named, and there is no such workspace.
        WorkspaceError: the same, outside any workspace.
    """
    workspace = None
    try:
        workspace = Workspace.find(start)
    except WorkspaceError:
        if root is None:
            raise
    if workspace is not None and workspace.recipe.trainer != "convllava":
        if root is None:
            raise UsageError(
                f"{workspace.recipe.name} is no recipe of ConvLLaVA, so it has no tree",
                "Name a tree with --root DIR; or `prep init convllava-s3` in another folder.",
            )
        workspace = None
    if workspace is None:
        return None, root or start
    return workspace, root or workspace.root / TREE


def lay_out(root: Path, workspace: Workspace | None, *, how: How = "hard", dry_run: bool = False) -> Layout:
    """Mend the tree at `root`, then (in a workspace) link every image and list of its recipe into it.

    A second run finds nothing to do; one that was killed is gone on with by the next.

    Raises:
        UsageError: `root` is no place for a tree, or (without a workspace) nothing in it is known.
        WorkspaceError: no links can be made there, or another process is at work in it.
    """
    root = root.resolve()
    check_root(root, workspace)
    found = find(root, _adopted(workspace))
    layout = Layout(root, found, known_archives(root, found.archives))
    if workspace is None and not (found.is_known or layout.archives):
        raise UsageError(
            f"{root} holds nothing of the guide's tree", "Name the folder that the guide calls data/, with its files."
        )
    if not (dry_run or found.is_sound):
        root.mkdir(parents=True, exist_ok=True)
        with open_journal(root) as journal:
            mend(root, found, journal)
    catalogue, wanted = Catalogue(), Wanted()
    if workspace is not None:
        layout.linked = link_all(workspace, root, how, dry_run=dry_run)
        shown = shown_folders(workspace)
        indexed = {item.dataset for item in shown} - set(layout.linked.unready)
        names = [entry.label for entry in workspace.entries]
        catalogue, wanted = workspace.catalogue, Wanted(folders_of([item.folder for item in shown]), names, indexed)
    if not dry_run:
        layout.tree = look_at(root, catalogue, layout.archives, wanted)
    return layout


def check_root(root: Path, workspace: Workspace | None) -> None:
    """Make sure that nothing of a workspace, and no repository, is taken for a tree.

    Raises:
        UsageError: it would be.
    """
    if workspace is None and not root.is_dir():
        raise UsageError(
            f"there is no folder {root}",
            "Name the folder that the guide calls data/; or `prep init convllava-s3` starts a workspace.",
        )
    if (root / ".git").exists():
        raise UsageError(f"{root} is a repository", "Name the folder of the data in it, such as its data/.")
    around = next((folder for folder in (root, *root.parents) if (folder / CONFIG_NAME).is_file()), None)
    for owner in (workspace, None if around is None else Workspace(around)):
        if owner is None:
            continue
        ours = [owner.root / name for name in STAGE_FOLDERS]
        ours += [] if owner.image_root.startswith("s3://") else [Path(owner.image_root).resolve()]
        if (
            root == owner.root
            or root in owner.root.parents
            or any(root == place or place in root.parents or root in place.parents for place in ours)
        ):
            raise UsageError(
                f"{root} holds what prep keeps for the workspace {owner.root}, or lies in it",
                "Name a folder of its own for the tree: --root DIR.",
            )


def _adopted(workspace: Workspace | None) -> list[Path]:
    """Folders that the workspace indexes where they are: nothing in them may move."""
    folders = {} if workspace is None else workspace.config.image_folders
    return [] if workspace is None else [workspace.path(path, name) for name, path in folders.items()]
