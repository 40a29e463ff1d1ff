"""Images out of tar and zip parts, in the archive's order, one at a time.

Member names are hostile: they never become a path before `safe_member` has taken them.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from prep.errors import DataError
from prep.images.probe import MAX_IMAGE_BYTES

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}

Member = tuple[str, bytes | None]  # name, and the bytes; None for a member over the cap


def image_members(path: Path) -> Iterator[Member]:
    """Every regular member with an image's extension: its name as it stands, and its bytes.

    Raises:
        DataError: the file is not a tar or zip, or breaks off.
    """
    with _readable(path):
        yield from _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if not member.isfile() or not _is_image(member.name):
                continue
            archive.members = []  # type: ignore[attr-defined]  # else the whole listing stays in memory
            if member.size > MAX_IMAGE_BYTES:
                yield member.name, None
                continue
            file = archive.extractfile(member)
            data = file.read() if file else b""
            if len(data) != member.size:
                raise tarfile.ReadError(f"member {member.name} breaks off")
            yield member.name, data


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir() or not _is_image(info.filename):
                continue
            # The size a zip announces may lie; reading one byte past the cap finds out.
            with archive.open(info) as file:
                data = file.read(MAX_IMAGE_BYTES + 1)
            yield info.filename, data if len(data) <= MAX_IMAGE_BYTES else None


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def safe_member(name: str) -> str | None:
    """The member's path inside a folder of its own, or None for a name that would leave it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name or not path.parts:
        return None
    return None if any(len(part.encode()) > 200 for part in path.parts) else str(path)


def split_member(name: str) -> tuple[str, str]:
    """A member's record and extension: `a/b.c/0001.seg.png` is `seg.png` of record `a/b.c/0001`."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def archive_stem(part: str) -> str:
    """A part's path without the endings of an archive: names its images' folder, and qualifies their keys."""
    name = part
    for suffix in (".gz", ".tgz", ".tar", ".zip"):
        name = name.removesuffix(suffix)
    return name


def image_key(kind: str, archive: str, member: str) -> str:
    """The key of an archive's member (see ArchiveImages)."""
    path = PurePosixPath(member)
    if kind == "name":
        return path.name
    if kind == "part-member":
        return f"{archive}/{split_member(member)[0]}"
    return str(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        with path.open("rb") as file:
            start = file.read(16)
        raise DataError(
            f"{path} cannot be read as an archive to its end: {error} (it begins with {start!r})",
            "Delete it and run `prep download` again; if it stays so, the publisher's file is broken.",
        ) from error
