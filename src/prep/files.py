"""Files that are either whole under their final name or not there at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Bytes that ijson is fed at once: it copies the path of every event, and of 64 KiB of `[` that is 10 GB.
JSON_BUFFER = 4096
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems without them, as clusters have


_writer = ""  # in the names of this process's temporary files


def write_as(writer: str) -> None:
    """Name this process's temporary files for `writer`, where others may write the same files at the same time."""
    global _writer
    _writer = f"{writer}." if writer else ""


def temporary_path(target: Path, end: str = "tmp") -> Path:
    """A path beside `target` for this process alone, whose name ends with `end`.

    It starts with a dot (loaders of a folder pass over it), and is the same in the next run: what a killed one leaves
    behind is written over.
    """
    return target.with_name(f".{target.name}.{_writer}{end}")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success make it durable and rename it to `target`.

    On an error the temporary file is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target)
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str, *, follow_links: bool = False) -> None:
    """Write `text` to `target`, whole or not at all; rights stay as they are.

    Args:
        follow_links: let a link stay one and write the file it leads to: for files of the user's (a recipe,
            prep.yaml, a YAML to append to). Of what is wholly ours a link is replaced: it may lead to one that is not.
    """
    if follow_links:
        target = Path(os.path.realpath(target))
    with atomic_path(target) as temporary:
        temporary.write_bytes(text.encode())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))


def open_own(path: Path, mode: str) -> IO[str]:
    """Open a text file that is wholly ours; not (ELOOP) through a link, which may lead to one that is not."""
    return open(path, mode, encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def try_lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock a file for this process alone; False where another has it, True where the file system knows no locks.

    Args:
        shared: others may have it too, if they ask for no more.
        wait: until it can be had.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def size_of(path: Path) -> int | None:
    """Bytes of the file at `path`; None where there is none that can be looked at (rights, a name too long)."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file's, or a folder's, contents to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
