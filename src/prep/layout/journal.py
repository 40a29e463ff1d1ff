"""Moves inside a tree, each written down before it is made, so that all of them can be taken back.

The journal is `.prep-layout/journal.jsonl` below the tree's root: one JSON object a line, on the disk before the move.
A line whose move was never made (a kill came between) is passed over when all is taken back.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from prep.errors import UsageError, WorkspaceError
from prep.files import open_own, sync, try_lock, write_text
from prep.layout.places import printable

FOLDER = ".prep-layout"
NAME = "journal.jsonl"


class Journal:
    """The journal of a tree, open for more; every method does one thing after writing it down.

    All paths are below the root, with `/` between their steps.
    """

    def __init__(self, root: Path, file: IO[str]) -> None:
        self._root, self._file = root, file

    def move(self, source: str, target: str, names: Sequence[str] | None = None) -> None:
        """Move a file or folder; or, of a folder, entries of these names into another that is there.

        Raises:
            FileExistsError: something stands at the target; it is never replaced.
            OSError: the system's own.
        """
        size = os.fstat(self._file.fileno()).st_size
        self._write({"move": [source, target]} | ({} if names is None else {"names": list(names)}))
        pairs = _pairs(self._root, source, target, names)
        for old, new in pairs:
            try:
                _rename(old, new)
            except OSError:
                if old == pairs[0][0]:  # nothing was moved
                    os.ftruncate(self._file.fileno(), size)
                raise

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write new files: each beside its place, then all on the disk, then each renamed.

        The time that they get is in the journal too: by it and its size `undo` knows a file that nobody has changed.

        Raises:
            FileExistsError: something stands in a place; it is never replaced.
            OSError: the system's own.
        """
        for folder in {path.rpartition("/")[0] for path in files}:
            self.make_folder(folder)
        now = int(time.time()) // 2 * 2 * 10**9  # some disks know even seconds only
        self._write({"new": {path: len(data) for path, data in files.items()}, "time": now})
        try:
            for path, data in files.items():
                temporary = _temporary(self._root, path)
                temporary.unlink(missing_ok=True)
                with temporary.open("xb") as file:
                    file.write(data)
                os.utime(temporary, ns=(now, now))
            os.sync()
            for path in files:
                _rename(str(_temporary(self._root, path)), f"{self._root}/{path}")
        finally:
            for path in files:
                _temporary(self._root, path).unlink(missing_ok=True)

    def make_folder(self, path: str) -> None:
        """Make a folder, and those that it lies in, where they are not there."""
        if path and not (self._root / path).exists():
            self.make_folder(path.rpartition("/")[0])
            self._write({"mkdir": path})
            (self._root / path).mkdir()

    def make_link(self, path: str, to: str) -> None:
        """Make a symbolic link."""
        self.make_folder(path.rpartition("/")[0])
        self._write({"link": path, "to": to})
        (self._root / path).symlink_to(to)

    def remove_empty(self, path: str) -> None:
        """Remove a folder if nothing is left in it, then those that it lay in."""
        folder = self._root / path
        while path and folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            self._write({"rmdir": path})
            folder.rmdir()
            path, folder = path.rpartition("/")[0], folder.parent

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")  # in ASCII: names that are no UTF-8 come back as they were
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def open_journal(root: Path) -> Iterator[Journal]:
    """Open the journal of a tree for this process alone.

    Raises:
        WorkspaceError: another process moves things in the tree.
    """
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    with open_own(folder / NAME, "a+") as file:
        _lock(root, file)
        end = file.seek(0, os.SEEK_END)
        if end and (folder / NAME).read_bytes()[-1:] != b"\n":  # a line cut off by a kill
            file.write("\n")
        sync(folder)
        yield Journal(root, file)


def _lock(root: Path, file: IO[str]) -> None:
    if not try_lock(file.fileno()):
        raise WorkspaceError(f"another prep is at work in {root}", "Wait for it to end; then run the same command.")


def _pairs(root: Path, source: str, target: str, names: Sequence[str] | None) -> list[tuple[str, str]]:
    old, new = f"{root}/{source}", f"{root}/{target}"
    return [(old, new)] if names is None else [(f"{old}/{name}", f"{new}/{name}") for name in names]


def _rename(old: str, new: str) -> None:
    if os.path.lexists(new):
        raise FileExistsError(17, "something else stands there", new)
    os.rename(old, new)  # noqa: PTH104  # of a million files, pathlib would take as long as the renaming


def _temporary(root: Path, path: str) -> Path:
    return (root / path).with_name(f".{path.rpartition('/')[2]}.tmp")


def emptied(root: Path) -> list[str]:
    """Folders that moves have emptied and a kill has left, by the journal of a tree."""
    path = root / FOLDER / NAME
    if not path.is_file():
        return []
    with open_own(path, "r") as file:
        moves = [(line["move"][0], "names" in line) for line in _lines(file) if "move" in line]
    folders = {}
    for source, has_names in moves:
        folder = source if has_names else source.rpartition("/")[0]
        while folder and not (root / folder).exists():
            folder = folder.rpartition("/")[0]
        folders[folder] = root / folder
    return [folder for folder, path in folders.items() if folder and path.is_dir() and not any(path.iterdir())]


# -- taking all back ---------------------------------------------------------------------------------------------


@dataclass
class Undone:
    """What was taken back.

    Attributes:
        moved: files and folders that are where they were.
        removed: files that were unpacked, and are gone.
        left: paths that could not be moved back, because something else stands there by now; and unpacked files that
            have changed since.
    """

    moved: int = 0
    removed: int = 0
    left: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"moved_back": self.moved, "removed": self.removed, "left": [printable(path) for path in self.left]}


def undo(root: Path, *, dry_run: bool = False) -> Undone:
    """Take back everything that the journal of a tree holds, the last first; what a kill interrupts goes on next time.

    The journal goes with it, but for what could not be taken back.

    Raises:
        UsageError: there is no journal.
        WorkspaceError: another process moves things in the tree.
    """
    path = root / FOLDER / NAME
    if not path.is_file():
        raise UsageError(f"nothing was moved in {root}: it has no {FOLDER}/{NAME}", "There is nothing to take back.")
    undone, kept = Undone(), []
    with open_own(path, "r+") as file:
        _lock(root, file)
        lines = list(_lines(file))
        for line in reversed(lines):
            if (rest := _take_back(root, line, undone, dry_run)) is not None:
                kept.append(json.dumps(rest) + "\n")
        if not dry_run and kept:
            write_text(path, "".join(reversed(kept)))
        elif not dry_run:
            shutil.rmtree(path.parent)
    return undone


def _lines(file: IO[str]) -> Iterator[dict[str, Any]]:
    for text in file:
        with suppress(ValueError):  # cut off by a kill: its move was not made
            yield json.loads(text)


def _take_back(root: Path, line: dict[str, Any], undone: Undone, dry_run: bool) -> dict[str, Any] | None:
    """Take one line back; what of it has to stay in the journal, or None."""
    if "move" in line:
        return _move_back(root, line, undone, dry_run)
    if "new" in line:
        return _remove_new(root, line, undone, dry_run)
    if dry_run:
        return None
    if "rmdir" in line:
        (root / line["rmdir"]).mkdir(parents=True, exist_ok=True)
    elif "link" in line and (link := root / line["link"]).is_symlink() and os.readlink(link) == line["to"]:  # noqa: PTH115
        link.unlink()
    elif "mkdir" in line:
        with suppress(OSError):  # a folder that holds more by now stays
            (root / line["mkdir"]).rmdir()
    return None


def _move_back(root: Path, line: dict[str, Any], undone: Undone, dry_run: bool) -> dict[str, Any] | None:
    stuck = []
    source, target = line["move"]
    names = line.get("names")
    for number, (old, new) in enumerate(_pairs(root, source, target, names)):
        if not os.path.lexists(new):
            continue  # never made, or taken back by a run that was killed
        if os.path.lexists(old):
            stuck.append(number)
            undone.left.append(os.path.relpath(new, root))
            continue
        undone.moved += 1
        if not dry_run:
            _rename(new, old)
    if not stuck:
        return None
    return {"move": line["move"]} if names is None else {"move": line["move"], "names": [names[n] for n in stuck]}


def _remove_new(root: Path, line: dict[str, Any], undone: Undone, dry_run: bool) -> dict[str, Any] | None:
    """Remove unpacked files that are as they were written; the line of those that are not."""
    kept = {}
    for path, size in line["new"].items():
        with suppress(FileNotFoundError, NotADirectoryError):  # never written, or removed by a run that was killed
            if not dry_run:
                _temporary(root, path).unlink(missing_ok=True)
            status = (root / path).lstat()
            if not stat.S_ISREG(status.st_mode) or (status.st_size, status.st_mtime_ns) != (size, line["time"]):
                kept[path] = size
                undone.left.append(path)
                continue
            undone.removed += 1
            if not dry_run:
                (root / path).unlink()
    return {"new": kept, "time": line["time"]} if kept else None
