"""Image files that are on this machine already, below a folder that is adopted and not copied."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from prep.errors import WorkspaceError
from prep.images.archives import IMAGE_SUFFIXES

_SUFFIXES = tuple(IMAGE_SUFFIXES)
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # of links that lead to nothing, and of files just deleted


def list_images(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Every file below `folder` that is named like an image: its path from there, bytes, and time in nanoseconds.

    The time is that of the last change. Paths have `/` between their steps and come in order. Bytes of a name that are
    no UTF-8 are written as `\\xe9` is: a backslash makes it a name that is not safe, which a person can still find.

    Hidden files and folders are passed over, and whatever is no file. Links are followed, to folders outside too, as
    datasets are often put together from links; but no link to a folder that it stands in, and none that leads nowhere.

    Raises:
        WorkspaceError: the folder, or one below it, cannot be read.
    """
    try:
        yield from _walk(folder)
    except OSError as error:
        raise WorkspaceError.of(error) from error


def _walk(folder: Path) -> Iterator[tuple[str, int, int]]:
    status = folder.stat()
    # The folders that are open, from `folder` down: path, entries to come, identity. Not recursive: depth is no limit.
    opened = [("", _entries(str(folder)), (status.st_dev, status.st_ino))]
    while opened:
        above, entries, _ = opened[-1]
        entry = next(entries, None)
        if entry is None:
            opened.pop()
        elif _is_folder(entry):
            status = entry.stat()
            identity = (status.st_dev, status.st_ino)
            if all(identity != other for _, _, other in opened):
                opened.append((f"{above}{_text(entry.name)}/", _entries(entry.path), identity))
        elif entry.name.lower().endswith(_SUFFIXES) and (found := _file_status(entry)):
            yield above + _text(entry.name), found.st_size, found.st_mtime_ns


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What is not hidden in a folder, in the order of the paths of all that is below it."""
    with os.scandir(folder) as found:
        seen = [entry for entry in found if not entry.name.startswith(".")]
    seen.sort(key=lambda entry: _text(entry.name) + "/" * _is_folder(entry))
    return iter(seen)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        return False


def _file_status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _text(name: str) -> str:
    """A file's name as text that can be written anywhere."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
