"""The guide's folder tree of ConvLLaVA: built from a workspace by links, or mended where somebody has one already."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prep.config import STAGE_FOLDERS, Catalogue
from prep.errors import UsageError, WorkspaceError
from prep.layout.extract import unpack_all
from prep.layout.journal import open_journal
from prep.layout.links import How, Linked, check_disk, link_all, shown_folders
from prep.layout.mend import mend
from prep.layout.places import is_of_tree, printable
from prep.layout.report import Archive, Tree, Wanted, folders_of, known_archives, links_of, look_at
from prep.layout.search import Findings, find
from prep.manifest import read_finished
from prep.stages.plan import remembered_slice
from prep.trainers.convllava import NAMES
from prep.workspace import CONFIG_NAME, Workspace

TREE = "data"  # of a workspace


@dataclass
class Layout:
    """What was done to a tree, or would be.

    Attributes:
        root: the folder that the guide calls `data`.
        found: what was moved and linked in it, or is to be, and what was left.
        archives: what lies in the tree and can be unpacked.
        unpacked: archive below the root -> how many of its pictures were `unpacked`, were `there`, and so on.
        linked: images that were linked; None without a workspace.
        tree: what the tree holds; None of a dry run.
    """

    root: Path
    found: Findings
    archives: list[Archive]
    unpacked: dict[str, Counter[str]] = field(default_factory=dict)
    linked: Linked | None = None
    tree: Tree | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`; of a dry run with every name that would move."""
        moves = [move.as_json(self.root if self.tree is None else None) for move in self.found.moves]
        left = [printable(sentence) for sentence in self.found.left]
        facts = {"root": str(self.root), "moves": moves, "links": self.found.links, "left": left}
        archives = {archive.path: archive.command for archive in self.archives}
        facts |= {"archives": archives, "unpacked": {path: dict(counts) for path, counts in self.unpacked.items()}}
        return facts | {"linked": self.linked, "tree": self.tree}


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


def lay_out(
    root: Path, workspace: Workspace | None, *, how: How = "hard", extract: bool = False, dry_run: bool = False
) -> Layout:
    """Mend the tree at `root`, then (in a workspace) link every image and list of its recipe into it.

    A second run finds nothing to do; one that was killed is gone on with by the next.

    Args:
        extract: unpack the archives that lie in the tree, too.

    Raises:
        UsageError: `root` is no place for a tree, or (without a workspace) nothing in it is known.
        WorkspaceError: no links can be made there, or another process is at work in it.
    """
    root = Path(os.path.realpath(root))
    check_root(root, workspace)
    if workspace is not None and how == "hard" and not workspace.image_root.startswith("s3://"):
        check_disk(workspace, root)
    wanted = _wanted(workspace)
    found = find(root, _adopted(workspace), wanted.links)
    archives, unknown = known_archives(root, found.archives)
    found.left += unknown
    layout = Layout(root, found, archives)
    if workspace is None and not (found.is_known or archives):
        raise UsageError(
            f"{root} holds nothing of the guide's tree", "Name the folder that the guide calls data/, with its files."
        )
    if not (dry_run or (found.is_sound and not (extract and archives))):
        root.mkdir(parents=True, exist_ok=True)
        with open_journal(root) as journal:
            mend(root, found, journal, wanted.links)
            if extract:
                layout.unpacked, left = unpack_all(root, archives, journal)
                found.left += left
    if workspace is not None:
        layout.linked = link_all(workspace, root, how, dry_run=dry_run)
    if not dry_run:
        catalogue = Catalogue() if workspace is None else workspace.catalogue
        to_unpack = [archive for archive in archives if archive.path not in layout.unpacked]
        layout.tree = look_at(root, catalogue, to_unpack, wanted)
    return layout


def _wanted(workspace: Workspace | None) -> Wanted:
    """What the tree should have: all, or what a workspace's recipe shows."""
    if workspace is None:
        return Wanted()
    shown = shown_folders(workspace)
    names = [entry.label for entry in workspace.entries if entry.label in NAMES]
    indexed, slices = {}, []
    for name in {item.dataset for item in shown}:
        if remembered_slice(workspace, workspace.catalogue.dataset(name)):
            slices.append(name)
        elif read_finished(workspace.index(name)) is not None:
            whose = "the adopted folder has" if name in workspace.config.image_folders else "its archives have"
            indexed[name] = f"nothing: {whose} no more"
    return Wanted(folders_of([item.folder for item in shown]), names, indexed, slices, links_of(names))


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
    home = None
    with suppress(RuntimeError):  # there is none
        home = Path(os.path.realpath(Path.home()))
    if root == Path(root.anchor) or (home is not None and (root == home or root in home.parents)):
        raise UsageError(f"{root} holds more than a tree", "Name the folder that the guide calls data/: --root DIR.")
    if _is_around_tree(root):
        raise UsageError(
            f"{root} holds nothing of the guide's tree but in its {TREE}/", f"Name that folder: --root {root / TREE}"
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


def _is_around_tree(root: Path) -> bool:
    """Whether a folder is no tree, and the one in it called `data` is."""
    data = root / TREE
    is_tree = [any(is_of_tree(path.name) for path in folder.iterdir()) for folder in (root, data) if folder.is_dir()]
    return is_tree == [False, True]


def _adopted(workspace: Workspace | None) -> list[Path]:
    """Folders that the workspace indexes where they are: nothing in them may move."""
    folders = {} if workspace is None else workspace.config.image_folders
    return [] if workspace is None else [workspace.path(path, name) for name, path in folders.items()]
