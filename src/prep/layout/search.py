"""A look at a tree that somebody put together by hand: which moves and links mend it, and what has to stay.

What is not known stays where it is and is named; so does what a link leads to, or what holds links that lead out of it.
"""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prep.layout.journal import emptied
from prep.layout.places import ARCHIVE, IMAGE, LISTS, Place, behind_links, place_of, printable
from prep.trainers.convllava import FOLDERS, LINKS

EXAMPLES = 3
VFLAN = "vflan/images_191task_1k"
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Move:
    """One move below the root.

    Attributes:
        place: of a folder whose entries move into one that is there: what they are called; None for a file or folder
            that moves as a whole.
        count: files (of LCS folders) that move.
        examples: the names of some.
        before: folders whose entries move to the same target before these do.
    """

    source: str
    target: str
    place: Place | None
    count: int
    examples: tuple[str, ...] = ()
    before: tuple[str, ...] = ()

    def names(self, root: Path) -> list[str]:
        """The entries that move, sorted: those whose name is free at the target, and will be."""
        holders = [f"{root}/{folder}" for folder in (self.target, *self.before)]
        with os.scandir(f"{root}/{self.source}") as entries:
            names = [entry.name for entry in entries if self.place and _is_movable(entry, self.place)]
        return sorted(name for name in names if not _is_in(name, holders))

    def as_json(self, root: Path | None) -> dict[str, Any]:
        """For `--json`; with `root`, before it is made, every name that would move."""
        facts: dict[str, Any] = {
            "from": printable(self.source),
            "to": printable(self.target),
            "count": self.count,
        }
        if self.place is None or root is None:
            return facts
        return facts | {"names": [printable(name) for name in self.names(root)]}


@dataclass
class Findings:
    """What a look at a tree found.

    Attributes:
        moves: what mends it, in order.
        links: symbolic links that it lacks -> what they lead to.
        archives: files that nobody has unpacked, maybe; below the root.
        emptied: folders that a run which was killed has emptied; they go.
        left: what stays as it is, a sentence each.
        is_known: whether anything of the guide's tree is there.
    """

    moves: list[Move] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    archives: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    is_known: bool = False

    @property
    def is_sound(self) -> bool:
        """Whether there is nothing to mend."""
        return not (self.moves or self.links or self.emptied)


def find(root: Path, kept: Collection[Path] = (), links: Mapping[str, str] = LINKS) -> Findings:
    """Look at a tree and decide what mends it; nothing is written.

    A root that is not there is an empty tree. Hidden folders, links to folders, other workspaces of prep and the
    folders in `kept` are not looked into.

    Args:
        links: those that the tree should have.
    """
    search = _Search(root, {os.path.realpath(path) for path in kept})
    search.walk()
    search.place_lists()
    search.keep_what_links_lead_to()
    found = search.found
    found.emptied = emptied(root)
    found.links, left = lacking_links(root, links, found)
    found.left += left
    return found


def lacking_links(root: Path, links: Mapping[str, str], found: Findings) -> tuple[dict[str, str], list[str]]:
    """The links that a tree lacks once the moves in `found` are made; and why some are not made, a sentence each.

    Where a folder stands in a link's place and something stays in it, the link's own folders are linked inside it.
    """
    lacking, left = {}, []
    for path, to in links.items():
        here = root / path
        if at := obstacle(root, path.rpartition("/")[0]):
            left.append(f"{path} is not linked: something else stands at {at}")
        elif here.is_symlink():
            if os.path.realpath(here) != os.path.realpath(here.parent / to):
                left.append(f"{path} is a link to {here.readlink()} and should lead to {to}")
        elif not here.exists() or (here.is_dir() and not _stays(root, path, found)):
            lacking[path] = to
        elif here.is_dir():
            for folder in (folder for folder in FOLDERS if f"{folder}/".startswith(f"{behind_links(path)}/")):
                inside = path + folder.removeprefix(behind_links(path))
                if not os.path.lexists(root / inside) or not _stays(root, inside, found):
                    lacking[inside] = os.path.relpath(folder, os.path.dirname(inside))  # noqa: PTH120
        else:
            left.append(f"{path} is not linked: something else stands there")
    return lacking, left


def _stays(root: Path, path: str, found: Findings) -> bool:
    """Whether something will be at a path that is there, when the moves are made."""
    move = next((move for move in found.moves if move.source == path), None)
    if (root / path).is_symlink() or not (root / path).is_dir():
        return move is None
    if move is not None and move.place is None:
        return False
    is_empty = True
    with os.scandir(root / path) as entries:
        for entry in entries:
            is_empty = False
            if not (move and move.place and _is_movable(entry, move.place)) and _stays(
                root, f"{path}/{entry.name}", found
            ):
                return True
    return is_empty and path not in found.emptied


def obstacle(root: Path, folder: str) -> str:
    """What stands where a folder, or one of those that it lies in, has to be; empty where nothing does."""
    path = ""
    for step in folder.split("/"):
        path = f"{path}/{step}".lstrip("/")
        if os.path.lexists(root / path) and not (root / path).is_dir():
            return path
    return ""


class _Search:
    """One walk over a tree."""

    def __init__(self, root: Path, kept: set[str]) -> None:
        self.root, self.found = root, Findings()
        self._kept = kept
        self._lists: dict[str, list[str]] = {}
        self._links: list[str] = []
        self._claimed: dict[str, list[str]] = {}  # place -> folders whose entries will move there

    def walk(self) -> None:
        """Look at every folder, in the order of the paths."""
        waiting = [""] if self.root.is_dir() else []
        while waiting:
            folder = waiting.pop()
            inside = [f"{folder}/{name}".lstrip("/") for name in self._look_at(folder)]
            waiting += sorted(inside, reverse=True)

    def _look_at(self, folder: str) -> list[str]:
        """Note what is in a folder; the folders in it to look at next."""
        place = place_of(folder.split("/")) if folder else None
        counts: Counter[str] = Counter()
        examples: list[str] = []
        folders: list[str] = []
        holders = self._holders(place) if place else []
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}".lstrip("/")
                if entry.is_symlink():
                    self._links.append(path)
                if place and place.entry.fullmatch(entry.name) and _is_kind(entry, place):
                    if place.has_folders:
                        self._note_links(entry.path, all_=False)
                    if not _is_movable(entry, place):
                        counts["links"] += 1
                    elif folder == place.path or not _is_in(entry.name, holders):
                        counts["known"] += 1
                        examples += [entry.name] if len(examples) < EXAMPLES else []
                    else:
                        counts["double"] += 1
                        if place.has_folders:
                            self._merge(path, place, entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    counts["folders"] += 1
                    if self._is_open(entry):
                        folders.append(entry.name)
                else:
                    is_picture = IMAGE.fullmatch(entry.name) and (entry.is_symlink() or entry.is_file())
                    kind = "pictures" if is_picture else "others"
                    counts["litter" if entry.name in LITTER else kind] += 1
                    self._note_file(entry, path)
        self.found.is_known |= bool(counts["known"] + counts["links"])
        if place is None:
            if count := counts["pictures"]:
                self.found.left.append(f"{_number(count, 'picture')} in {folder or '.'}: no rule knows this folder")
        elif folder != place.path and not self._is_second_copy(folder, place, counts):
            self._place(folder, place, counts, tuple(sorted(examples)))
        return folders

    def _note_links(self, folder: str, *, all_: bool) -> None:
        """Remember the links in a folder: those that lead elsewhere if it moves as a whole, or all."""
        links = [link for link in _links_in(folder) if all_ or _is_whole_path(link) or _leads_out(link, folder)]
        self._links += [os.path.relpath(link, self.root) for link in links]

    def _is_second_copy(self, folder: str, place: Place, counts: Counter[str]) -> bool:
        """Whether a folder is Vision-Flan unpacked again for ALLaVA, which works as it is."""
        if place.path != VFLAN or not folder.startswith("allava/") or not (self.root / VFLAN).is_dir():
            return False
        if counts["known"] + counts["double"]:
            self.found.left.append(f"{folder} is a second copy of {VFLAN}; a link would do in the place of its folder")
        return True

    def _holders(self, place: Place) -> list[str]:
        return [f"{self.root}/{path}" for path in (place.path, *self._claimed.get(place.path, ()))]

    def _is_open(self, entry: os.DirEntry[str]) -> bool:
        is_ours = entry.name.startswith(".") or os.path.exists(f"{entry.path}/prep.yaml")  # noqa: PTH110
        return not is_ours and os.path.realpath(entry.path) not in self._kept

    def _note_file(self, entry: os.DirEntry[str], path: str) -> None:
        if entry.is_symlink():
            is_folder = os.path.isdir(entry.path)  # noqa: PTH112  # of a loop, the entry itself would raise
            if is_folder and (place := place_of(path.split("/"))) and path not in (place.path, *LINKS):
                self.found.left.append(f"{path} is a link to a folder, and not looked into")
        elif not entry.is_file():  # a pipe would be waited at
            return
        elif entry.name in LISTS:
            self.found.is_known = True
            self._lists.setdefault(entry.name, []).append(path)
        elif ARCHIVE.fullmatch(entry.name):
            self.found.archives.append(path)

    def _place(self, folder: str, place: Place, counts: Counter[str], examples: tuple[str, ...]) -> None:
        """Plan the move of a folder's entries to their place, of the whole folder where nothing else is in it."""
        if counts["double"] and not place.has_folders:
            self.found.left.append(f"{_number(counts['double'], 'name')} of {folder} in {place.path} too")
        if counts["pictures"]:
            self.found.left.append(
                f"{_number(counts['pictures'], 'picture')} in {folder} not called like those of its set"
            )
        if counts["links"]:
            self.found.left.append(
                f"{_number(counts['links'], 'name')} in {folder} is or holds a link that would lead nowhere from "
                "another folder"
            )
        if not counts["known"]:
            return
        if at := obstacle(self.root, place.path):
            self.found.left.append(f"{folder}: something else stands at {at}")
            return
        stay = counts["double"] + counts["folders"] + counts["pictures"] + counts["others"] + counts["links"]
        is_free = not os.path.lexists(self.root / place.path) and place.path not in self._claimed
        is_whole = not stay and is_free and not place.path.startswith(f"{folder}/")
        if behind_links(folder) == place.path and not is_whole:
            self.found.left.append(
                f"{folder} stays, since it serves where it is and cannot go to {place.path} as a whole: take other "
                "things out of it"
            )
            return
        before = self._claimed.setdefault(place.path, [])
        move = Move(folder, place.path, None if is_whole else place, counts["known"], examples, tuple(before))
        self.found.moves.append(move)
        before.append(folder)

    def _merge(self, path: str, place: Place, name: str) -> None:
        """Plan how a folder of LCS goes into the one of its name that is there, or will be by then."""
        target = f"{place.path}/{name}"
        self._note_links(f"{self.root}/{path}", all_=True)
        before = self._claimed.setdefault(target, [f"{folder}/{name}" for folder in self._claimed.get(place.path, ())])
        pictures = Place(target, IMAGE)
        free = Move(path, target, pictures, 0, (), tuple(before)).names(self.root)
        with os.scandir(self.root / path) as entries:
            doubles = sum(_is_movable(entry, pictures) for entry in entries) - len(free)
        if doubles:
            self.found.left.append(f"{_number(doubles, 'name')} of {path} in {target} too")
        if free:
            self.found.moves.append(Move(path, target, pictures, len(free), tuple(free[:EXAMPLES]), tuple(before)))
            before.append(path)

    def place_lists(self) -> None:
        """Plan the moves of the publishers' lists."""
        for name, paths in sorted(self._lists.items()):
            target = LISTS[name]
            first = target if target in paths else min(paths, key=lambda path: (path.count("/"), path))
            others = [path for path in sorted(paths) if path != first]
            same = [filecmp.cmp(self.root / first, self.root / path, shallow=False) for path in others]
            for path, is_same in zip(others, same, strict=True):
                how = "the same file again" if is_same else f"another file than {first}"
                self.found.left.append(f"{path} is {how}")
            if first == target:
                continue
            if not all(same):
                self.found.left.append(f"{name} is not put in place: move the right one to {target}")
            elif at := obstacle(self.root, target) or (target if (self.root / target).is_dir() else ""):
                self.found.left.append(f"{first}: something else stands at {at}")
            else:
                self.found.moves.append(Move(first, target, None, 1))

    def keep_what_links_lead_to(self) -> None:
        """Take back the moves after which a link of the tree would lead nowhere."""
        root = os.path.realpath(self.root)
        for link in self._links:
            whole = os.path.join(root, link)  # noqa: PTH118
            first = os.path.join(os.path.realpath(os.path.dirname(whole)), os.readlink(whole))  # noqa: PTH115, PTH118, PTH120
            for to in {os.path.normpath(first), os.path.realpath(whole)}:
                path = os.path.relpath(to, root)
                for move in [move for move in self.found.moves if _is_gone(path, move)]:
                    self.found.moves.remove(move)
                    self.found.left.append(f"{move.source}: the link {link} leads there; take it away first")


def _is_gone(path: str, move: Move) -> bool:
    """Whether a move takes away what is at a path, or may leave an empty folder of it."""
    if not f"{path}/".startswith(f"{move.source}/") or path == move.source:
        return f"{move.source}/".startswith(f"{path}/") and not f"{move.target}/".startswith(f"{path}/")
    step = path[len(move.source) + 1 :].partition("/")[0]
    return move.place is None or move.place.entry.fullmatch(step) is not None


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _is_in(name: str, folders: Collection[str]) -> bool:
    return any(os.path.lexists(f"{folder}/{name}") for folder in folders)


def _is_kind(entry: os.DirEntry[str], place: Place) -> bool:
    """Whether an entry is what stands in a place: a folder, or a file or link."""
    return entry.is_dir(follow_symlinks=False) if place.has_folders else entry.is_symlink() or entry.is_file()


def _is_movable(entry: os.DirEntry[str], place: Place) -> bool:
    """Whether an entry is called as its place wants it, and neither is nor holds a link that leads elsewhere then."""
    if not place.entry.fullmatch(entry.name) or not _is_kind(entry, place):
        return False
    if place.has_folders:
        return not any(_leads_out(link, entry.path) for link in _links_in(entry.path))
    return not entry.is_symlink() or _is_whole_path(entry.path)


def _links_in(folder: str) -> Iterator[str]:
    """Symbolic links anywhere below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield entry.path
            elif entry.is_dir(follow_symlinks=False):
                yield from _links_in(entry.path)


def _is_whole_path(link: str) -> bool:
    return os.readlink(link).startswith("/")  # noqa: PTH115


def _leads_out(link: str, folder: str) -> bool:
    """Whether a link that names no whole path leads out of a folder that it is in."""
    to = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))  # noqa: PTH115, PTH118, PTH120
    return not _is_whole_path(link) and not f"{to}/".startswith(f"{folder}/")
