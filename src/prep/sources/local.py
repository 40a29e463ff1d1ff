"""Files that are on this machine already: linked into `raw/`, or copied where the dataset's source says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from prep.config import LocalSource
from prep.errors import SourceError
from prep.files import atomic_path
from prep.sources import Listing, Part, matching
from prep.sources.transfer import Session

CHUNK_BYTES = 1 << 20


def list_parts(source: LocalSource, folder: Path, revision: str | None) -> Listing:
    """The file, or the files of the folder that match; a changed size or modification time makes a new version.

    Raises:
        SourceError: there is nothing at the path, or the workspace itself is below it.
    """
    root = Path(source.path).expanduser()
    if root.is_file():
        return Listing((part_of(root, root.name),))
    if not root.is_dir():
        raise SourceError(f"{root} is neither a file nor a folder", "Mend the path in the dataset's `source`.")
    if root.resolve() in folder.resolve().parents:
        raise SourceError(
            f"{root} contains this workspace, whose own files would be taken too", "Name a folder of the data alone."
        )
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    return Listing(tuple(part_of(paths[name], name) for name in matching(paths, source.include)))


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


def part_of(path: Path, name: str) -> Part:
    """The file at `path` as the part `name`.

    Raises:
        SourceError: its name is not UTF-8, so no manifest or query could hold it.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{str(path)!r}: its name is not UTF-8", "Rename it.") from error
    status = path.stat()
    return Part(name, str(path.absolute()), status.st_size, version=str(status.st_mtime_ns))


def read_through(part: Part, path: Path, session: Session, copy: IO[bytes] | None = None) -> str:
    """Read the file at `path` once, telling the session, into `copy` if there is one; gives its SHA-256.

    Raises:
        SourceError: size or hash is not the part's; what was told is taken back.
    """
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
    try:
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
