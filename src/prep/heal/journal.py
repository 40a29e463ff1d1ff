"""What was changed below a folder of images, written down before it is done, so that all of it can be undone."""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from prep.errors import WorkspaceError
from prep.files import hash_file, sync, try_lock
from prep.heal.inventory import OWN_FOLDER

MKDIR, LINK, MOVE, ENCODE, WRITE, FAILED = "mkdir", "link", "move", "encode", "write", "failed"
_NAME = re.compile(r"journal-([0-9]+)\.jsonl")
_NUMBER = re.compile(r"-([0-9]+)$")

Entry = dict[str, Any]


def own_folder(base: Path) -> Path:
    """Where journals and originals of a folder of images are."""
    return base / OWN_FOLDER


@contextmanager
def locked(base: Path) -> Iterator[None]:
    """Let no other process change what is below `base`.

    Raises:
        WorkspaceError: one does already.
        OSError: nothing can be written there.
    """
    folder = own_folder(base)
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        if not try_lock(descriptor):
            raise WorkspaceError(f"another `prep heal` is at work below {base}", "Wait for it to end.")
        yield
    finally:
        os.close(descriptor)


class Journal:
    """The journal of one run, made with its first entry.

    Attributes:
        path: the file; paths in it are relative to the folder of images, but those of lists.
        originals: the folder of files that others took the place of.
    """

    def __init__(self, base: Path) -> None:
        taken = [_NUMBER.search(path.stem) for path in own_folder(base).iterdir()]
        number = max((int(found[1]) for found in taken if found), default=0) + 1
        self.path = own_folder(base) / f"journal-{number}.jsonl"
        self.originals = own_folder(base) / f"originals-{number}"
        self._file: IO[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written down."""
        return self._file is None

    def write(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write entries and have them on the disk."""
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        if not text:
            return
        if self._file is None:
            self._file = self.path.open("x", encoding="utf-8")
            sync(self.path.parent)
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def journals(base: Path) -> list[tuple[int, Path]]:
    """Number and path of every journal that was not undone, the oldest first."""
    folder = own_folder(base)
    names = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(found[1]), path) for found, path in names if found)


def written_lists(base: Path) -> dict[str, set[str]]:
    """Real paths of the lists that earlier runs wrote, and the SHA-256 of each that they wrote there."""
    mark = f'{{"do": "{WRITE}"'
    found: dict[str, set[str]] = {}
    for _, path in journals(base):
        with path.open(encoding="utf-8") as file:
            for entry in (json.loads(line) for line in file if line.startswith(mark) and line.endswith("\n")):
                found.setdefault(real_path(Path(entry["to"])), set()).add(entry["sha256"])
    return found


def real_path(path: Path) -> str:
    """One spelling for a file's place, be there a file or a link or neither."""
    return str(Path(os.path.realpath(path.parent)) / path.name)


# -- undoing -----------------------------------------------------------------------------------------------------


@dataclass
class Undone:
    """What `undo` did.

    Attributes:
        images: the folder.
        undone: number of changes that were taken back.
        left: paths that are no longer as the repair left them, with what is in the way; they stay as they are.
    """

    images: str
    undone: int = 0
    left: list[tuple[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The document that `--as-json` prints."""
        return {
            "images": self.images,
            "undone": self.undone,
            "left": [{"path": path, "reason": reason} for path, reason in self.left],
        }


def undo(base: Path) -> Undone:
    """Take back every change that was made below a folder of images, the newest first.

    Safe to be killed and run again: each step looks at what is there. What somebody changed since stays as it is.

    Raises:
        WorkspaceError: there is nothing to undo.
    """
    found = journals(base)
    if not found:
        raise WorkspaceError(
            f"there is nothing to undo in {base}: it has no journal of a repair",
            f"Repairs are written down in {OWN_FOLDER}/ of the folder that was given with --images.",
        )
    result = Undone(str(base))
    with locked(base):
        for number, path in reversed(found):
            failed: set[str] = set()
            for entry in _backwards(path):
                if entry["do"] == FAILED:
                    failed.add(entry["to"])
                elif entry["to"] not in failed:
                    _take_back(base, entry, result)
            with suppress(OSError):  # it stays where an original could not be put back, and many runs have none
                (own_folder(base) / f"originals-{number}").rmdir()
            path.rename(path.with_name(f"undone-{number}.jsonl"))
    return result


def _backwards(path: Path) -> Iterator[Entry]:
    """Entries of a journal from the last to the first; a last line that is torn was never acted on."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            end = data.rfind(b"\n") + 1
            while end > 0:
                start = data.rfind(b"\n", 0, end - 1) + 1
                yield json.loads(data[start:end])
                end = start


def _take_back(base: Path, entry: Entry, result: Undone) -> None:
    """Take back one change, if it was made and nothing came after it."""
    target = base / entry["to"]
    try:
        if entry["do"] == MKDIR:
            target.rmdir()
        elif os.path.lexists(target):
            problem = _TAKE_BACK[entry["do"]](base, target, entry)
            if problem:
                result.left.append((entry["to"], problem))
            elif problem is not None:
                result.undone += 1
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def _take_back_name(base: Path, target: Path, entry: Entry) -> str:
    """Of a link or a move: give the file its old name again, and only that."""
    source = base / entry["from"]
    if target.lstat().st_ino != entry["inode"]:
        return "it is another file now"
    if not os.path.lexists(source):
        source.parent.mkdir(parents=True, exist_ok=True)
        target.rename(source)
    elif source.lstat().st_ino == entry["inode"]:
        target.unlink()
    else:
        return f"{entry['from']} is another file now"
    return ""


def _take_back_encoded(base: Path, target: Path, entry: Entry) -> str | None:
    """Of an image encoded anew: put the original back where it took its place; None where it was only planned."""
    kept = base / entry["kept"] if entry["kept"] else None
    if hash_file(target) != entry["sha256"]:
        if kept is not None and not os.path.lexists(kept):
            return None  # as the original is put by first
        if kept is not None and _is_same(kept, target):
            kept.unlink()  # the original was put by, and nothing took its place
            return ""
        return "it is another file now"
    if kept is None:
        target.unlink()
    else:
        kept.replace(target)
    return ""


def _is_same(kept: Path, target: Path) -> bool:
    if kept.is_symlink() or target.is_symlink():
        return kept.is_symlink() and target.is_symlink() and kept.readlink() == target.readlink()
    return hash_file(kept) == hash_file(target)


def _take_back_list(base: Path, target: Path, entry: Entry) -> str:
    if hash_file(target) != entry["sha256"]:
        return "it is another file now"
    target.unlink()
    return ""


_TAKE_BACK = {
    LINK: _take_back_name,
    MOVE: _take_back_name,
    ENCODE: _take_back_encoded,
    WRITE: _take_back_list,
}


def put_by(original: Path, kept: Path) -> None:
    """Keep an original: a second name for it, or a copy where the file system has no hard links."""
    kept.parent.mkdir(exist_ok=True)
    if original.is_symlink():
        kept.symlink_to(original.readlink())
        return
    try:
        os.link(original, kept)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        shutil.copy2(original, kept)
        sync(kept)
