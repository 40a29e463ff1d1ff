"""A tree that somebody put together by hand, mended by moves inside it.

Nothing is replaced, no two files become one, and what is not known stays where it is and is named.
"""

from __future__ import annotations

import errno
import filecmp
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prep import progress
from prep.errors import WorkspaceError
from prep.layout.journal import Journal, emptied
from prep.layout.places import ARCHIVE, IMAGE, LISTS, Place, place_of, printable
from prep.trainers.convllava import LINKS

NAMES_AT_ONCE = 1000  # moved between two flushes of the journal
EXAMPLES = 3
VFLAN = "vflan/images_191task_1k"
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Move:
    """One move below the root.

    Attributes:
        place: of a folder whose entries move into one that is there: what they are called; None for a file or folder
            that moves as a whole.
        count: files (of LCS folders) that move.
        examples: the names of some.
    """

    source: str
    target: str
    place: Place | None
    count: int
    examples: tuple[str, ...] = ()

    def names(self, root: Path) -> list[str]:
        """The entries that move, sorted: those whose name is free at the target."""
        target = f"{root}/{self.target}"
        with os.scandir(f"{root}/{self.source}") as entries:
            names = [entry.name for entry in entries if self.place and _is_movable(entry, self.place)]
        return sorted(name for name in names if not os.path.lexists(f"{target}/{name}"))

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


def find(root: Path, kept: Collection[Path] = ()) -> Findings:
    """Look at a tree and decide what mends it; nothing is written.

    A root that is not there is an empty tree. Hidden folders, links to folders, other workspaces of prep and the
    folders in `kept` are not looked into.
    """
    search = _Search(root, {os.path.realpath(path) for path in kept})
    search.walk()
    search.place_lists()
    found = search.found
    found.emptied = emptied(root)
    for path, to in LINKS.items():
        here = root / path
        if not os.path.lexists(here) or any(f"{move.source}/".startswith(f"{path}/") for move in found.moves):
            found.links[path] = to
        elif here.is_symlink() and os.path.realpath(here) != os.path.realpath(here.parent / to):
            found.left.append(f"{path} is a link to {here.readlink()} and should lead to {to}")
    return found


class _Search:
    """One walk over a tree."""

    def __init__(self, root: Path, kept: set[str]) -> None:
        self.root, self.found = root, Findings()
        self._kept = kept
        self._lists: dict[str, list[str]] = {}
        self._claimed: dict[str, list[str]] = {}  # place -> folders that will move there

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
                if place and _is_movable(entry, place):
                    is_double = folder != place.path and any(
                        os.path.lexists(f"{holder}/{entry.name}") for holder in holders
                    )
                    counts["double" if is_double else "known"] += 1
                    if not is_double and len(examples) < EXAMPLES:
                        examples.append(entry.name)
                    if is_double and place.has_folders:
                        self._merge(path, place, entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    counts["folders"] += 1
                    if self._is_open(entry):
                        folders.append(entry.name)
                else:
                    counts["pictures" if IMAGE.fullmatch(entry.name) else "others"] += 1
                    self._note_file(entry, path)
        self.found.is_known |= bool(counts["known"])
        if place is None:
            if count := counts["pictures"]:
                self.found.left.append(f"{_number(count, 'picture')} in {folder or '.'}: no rule knows this folder")
        elif folder != place.path and not self._is_second_copy(folder, place, counts):
            self._place(folder, place, counts, tuple(sorted(examples)))
        return folders

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
            if entry.is_dir() and (place := place_of(path.split("/"))) and path not in (place.path, *LINKS):
                self.found.left.append(f"{path} is a link to a folder, and not looked into")
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
        if not counts["known"]:
            return
        is_whole = not (counts["double"] + counts["folders"] + counts["pictures"] + counts["others"])
        is_free = not os.path.lexists(self.root / place.path) and place.path not in self._claimed
        is_whole &= is_free and not place.path.startswith(f"{folder}/")
        self._claimed.setdefault(place.path, []).append(folder)
        self.found.moves.append(Move(folder, place.path, None if is_whole else place, counts["known"], examples))

    def _merge(self, path: str, place: Place, name: str) -> None:
        """Plan how a folder of LCS goes into the one of its name that is there."""
        target = f"{place.path}/{name}"
        if not (self.root / target).is_dir():
            self.found.left.append(f"{path}: another of its name will be moved to {target} before it")
            return
        pictures = Place(target, IMAGE)
        free = Move(path, target, pictures, 0).names(self.root)
        with os.scandir(self.root / path) as entries:
            doubles = sum(_is_movable(entry, pictures) for entry in entries) - len(free)
        if doubles:
            self.found.left.append(f"{_number(doubles, 'name')} of {path} in {target} too")
        if free:
            self.found.moves.append(Move(path, target, pictures, len(free), tuple(free[:EXAMPLES])))

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
            elif os.path.lexists(self.root / target):
                self.found.left.append(f"{first}: something else stands at {target}")
            else:
                self.found.moves.append(Move(first, target, None, 1))


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _is_movable(entry: os.DirEntry[str], place: Place) -> bool:
    """Whether an entry is called as its place wants it, and is no link that leads elsewhere once it is moved."""
    if not place.entry.fullmatch(entry.name):
        return False
    if entry.is_symlink():
        return not place.has_folders and os.path.isabs(os.readlink(entry.path))  # noqa: PTH115, PTH117
    return entry.is_dir() if place.has_folders else entry.is_file()


# -- making the moves --------------------------------------------------------------------------------------------


def mend(root: Path, found: Findings, journal: Journal) -> None:
    """Make the moves that `find` decided on, then the links; what cannot be moved is added to what was left.

    Raises:
        OSError: the system's own; what was moved is in the journal, and the same command goes on.
        WorkspaceError: no link can be made there.
    """
    with progress.bar("layout moves", sum(move.count for move in found.moves), "files") as advance:
        for move in found.moves:
            try:
                _make(root, move, journal, advance)
            except FileExistsError as error:
                found.left.append(f"{move.source}: something else stands at {os.path.relpath(error.filename, root)}")
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                found.left.append(f"{move.source} is on another disk than {move.target}: move it by hand")
    for folder in found.emptied:
        journal.remove_empty(folder)
    for path, to in found.links.items():
        if not os.path.lexists(root / path):  # else its folder could not be emptied
            _make_link(root, path, to, journal)


def _make(root: Path, move: Move, journal: Journal, advance: progress.Bar) -> None:
    if move.place is None:
        journal.make_folder(move.target.rpartition("/")[0])
        journal.move(move.source, move.target)
        advance(move.count)
        journal.remove_empty(move.source.rpartition("/")[0])
        return
    journal.make_folder(move.target)
    names = move.names(root)
    for start in range(0, len(names), NAMES_AT_ONCE):
        journal.move(move.source, move.target, names[start : start + NAMES_AT_ONCE])
        advance(len(names[start : start + NAMES_AT_ONCE]))
    journal.remove_empty(move.source)


def _make_link(root: Path, path: str, to: str, journal: Journal) -> None:
    try:
        journal.make_link(path, to)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise WorkspaceError(
            f"{root / path}: this disk holds no symbolic links ({error.strerror})",
            "Keep the tree on one that does; or write `vflan/` for `allava_vflan/images/` in a copy of ALLaVA's two "
            f"lists of Vision-Flan's pictures, and give {root} as their image folder.",
        ) from error
