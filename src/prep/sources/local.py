"""Files that are on this machine already: linked into `raw/`, or copied where the dataset's source says so."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from prep.config import LocalSource
from prep.errors import SourceError
from prep.files import atomic_path
from prep.sources import Listing, Part, matching
from prep.sources.file_list import list_named
from prep.sources.paths import checked
from prep.sources.transfer import Session

CHUNK_BYTES = 1 << 20
_LEAVE_OUT = "Mend or remove it; or leave it out, and name what to take with `include`."


def list_parts(source: LocalSource, folder: Path, revision: str | None) -> Listing:
    """The file, or the files of the folder that match; a changed size or modification time makes a new version.

    Raises:
        SourceError: there is nothing at the path, the workspace itself is below it, a folder cannot be read, or what
            matches is no file or has a name that a part cannot have; a list of files that cannot be had.
    """
    if source.files_from is not None:
        return list_named(Path(source.files_from), source.path, _named_part)
    try:
        root = Path(source.path).expanduser()
    except RuntimeError as error:  # ~ of nobody here
        raise SourceError(
            f"{source.path}: there is no such home", "Mend the path in the dataset's `source`."
        ) from error
    if root.is_file():
        return Listing(checked([part_of(root, root.name)], SourceError, "Rename it."))
    if not root.is_dir():
        raise SourceError(f"{root} is neither a file nor a folder", "Mend the path in the dataset's `source`.")
    paths = _paths(root, source.include, folder)
    found = (part_of(paths[name], name) for name in matching(paths, source.include))
    return Listing(checked(found, SourceError, "Rename it, or leave it out and name what to take with `include`."))


def fetch(source: LocalSource, part: Part, target: Path, session: Session) -> str:
    """Link or copy the file to its place; gives its SHA-256.

    Raises:
        SourceError: it is gone, or changes while it is read.
    """
    origin = Path(part.url)
    if not origin.is_file():
        raise SourceError(f"{origin} is gone", "Put it back, then run the same command.")
    if target.exists() and not target.is_symlink() and target.samefile(origin):  # it lies there itself
        return read_through(part, origin, session)
    if source.copied:
        with atomic_path(target) as temporary, temporary.open("wb") as copy:
            return read_through(part, origin, session, copy)
    sha256 = read_through(part, origin, session)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(origin)
    temporary.replace(target)
    return sha256


def _paths(root: Path, include: Iterable[str], folder: Path) -> dict[str, Path]:
    """What is below `root` and no folder, by its path from there; folders that `include` cannot mean are not read.

    Links to folders are followed, after the folders themselves; each folder is read once, so links in a circle end.

    Raises:
        SourceError: a folder cannot be read, or the workspace that has `folder` is in it.
    """
    paths: dict[str, Path] = {}
    workspace, seen, queue = folder.resolve().parents, set[Path](), deque([(root, "")])
    while queue:
        here, prefix = queue.popleft()
        real = here.resolve()
        if real in workspace:
            raise SourceError(
                f"{here} contains this workspace, whose own files would be taken too",
                "Name a folder of the data alone.",
            )
        for entry, is_folder in _entries(here) if real not in seen else ():
            name = f"{prefix}{entry.name}"
            if not is_folder:
                paths[name] = Path(entry.path)
            elif not entry.name.startswith(".") and any(_may_match(glob, f"{name}/") for glob in include):
                (queue.append if entry.is_symlink() else queue.appendleft)((Path(entry.path), f"{name}/"))
        seen.add(real)
    return paths


def _may_match(glob: str, folder: str) -> bool:
    """Whether a glob may match something in a folder, by what it begins with."""
    beginning = re.split(r"[*?[]", glob, maxsplit=1)[0]
    return beginning.startswith(folder) or folder.startswith(beginning)


def _entries(folder: Path) -> list[tuple[os.DirEntry[str], bool]]:
    """What is in a folder, and whether it is a folder or a link to one."""
    try:
        with os.scandir(folder) as entries:
            return [(entry, _is_folder(entry)) for entry in sorted(entries, key=lambda entry: entry.name)]
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read: {error.strerror}", _LEAVE_OUT) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself leads nowhere
            return False
        raise


def _named_part(address: str, name: str) -> Part:
    """A file that a list names."""
    path = Path(address)
    if path.is_dir():
        raise SourceError(f"{path} is a folder", "Name its files one by one, or `prep add` the folder itself.")
    try:
        return part_of(path, name)
    except SourceError as error:
        raise SourceError(error.message) from error


def part_of(path: Path, name: str) -> Part:
    """The file at `path` as the part `name`.

    Raises:
        SourceError: it is no file; or its name is not UTF-8, so no manifest or query could hold it.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{str(path)!r}: its name is not UTF-8", "Rename it.") from error
    try:
        status = path.stat()
    except OSError as error:
        wrong = "is a link that leads nowhere" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise SourceError(f"{path} {wrong}", _LEAVE_OUT) from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} is a FIFO, a socket or a device, not a file", _LEAVE_OUT)
    return Part(name, str(path.absolute()), status.st_size, version=str(status.st_mtime_ns))


def read_through(part: Part, path: Path, session: Session, copy: IO[bytes] | None = None) -> str:
    """Read the file at `path` once, telling the session, into `copy` if there is one; gives its SHA-256.

    Raises:
        SourceError: size or hash is not the part's, or it changes meanwhile; what was told is taken back.
    """
    before = path.stat()
    hashes = {"sha256": hashlib.sha256()} | ({"md5": hashlib.md5(usedforsecurity=False)} if part.md5 else {})
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            for digest in hashes.values():
                digest.update(chunk)
            if copy is not None:
                copy.write(chunk)
            size += len(chunk)
            session.count(len(chunk))
    if copy is not None:
        copy.flush()
    after = path.stat()
    try:
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise SourceError(
                f"{path} changed while it was {'read' if copy is None else 'copied'}",
                "Wait until nothing writes to it, then run the same command.",
            )
        _check(part, path, size, {kind: digest.hexdigest() for kind, digest in hashes.items()})
    except SourceError:
        session.count(-size)
        raise
    return hashes["sha256"].hexdigest()


def _check(part: Part, path: Path, size: int, hashes: Mapping[str, str]) -> None:
    if part.size_bytes not in (None, size):
        raise SourceError(
            f"{path} has {size} bytes, {part.size_bytes} when it was listed: something writes to it",
            "Wait until it is whole, then run the same command.",
        )
    for kind, wanted in (("sha256", part.sha256), ("md5", part.md5)):
        if wanted not in (None, hashes.get(kind)):
            raise SourceError(
                f"{path}: {kind} is {hashes[kind]}, {wanted} is expected",
                "It is damaged or another file: get it again, then run the same command.",
            )
