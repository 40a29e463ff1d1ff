"""Images out of tar and zip parts, in the archive's order, one at a time.

Member names are hostile: they never become a path before `safe_member` has taken them.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from prep.errors import DataError
from prep.images.probe import MAX_IMAGE_BYTES

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}

MAX_NAME_BYTES = 800  # of S3's 1,024 for a key, which has a prefix before it
MAX_STEP_BYTES = 200  # of the 255 that file systems allow, which hold an extension and `.tmp` too

Member = tuple[str, bytes | None]  # name, and the bytes; None for a member over the cap


def image_members(path: Path) -> Iterator[Member]:
    """Every regular member with an image's extension: its name as it stands, and its bytes.

    Raises:
        DataError: the file is not a tar or zip, or breaks off.
    """
    with readable(path):
        # A tar that ends with a zip among its members looks like that zip.
        is_zip = zipfile.is_zipfile(path) and not tarfile.is_tarfile(path)
        yield from _zip_members(path) if is_zip else _tar_members(path)


def _tar_members(path: Path) -> Iterator[Member]:
    with open_tar(path, "r|*") as archive:
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


class _Header(tarfile.TarInfo):
    """A tar's header; a broken one is an error, where the standard library takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The header in one block; zeros end an archive, and so does the end of the file."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.strip(b"\0"):
                raise tarfile.ReadError(f"a member's header is broken ({error})") from error
            raise


def open_tar(path: Path, mode: Literal["r:*", "r|*"]) -> tarfile.TarFile:
    """A tar, compressed or not, whose broken headers are errors and whose names are valid text."""
    return tarfile.open(path, mode, tarinfo=_Header, errors="replace")


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
    is_long = len(name.encode()) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_STEP_BYTES for part in path.parts)
    return None if is_long else str(path)


def split_member(name: str) -> tuple[str, str]:
    """A member's record and extension: `./a/b.c/0001.seg.png` is `seg.png` of record `a/b.c/0001`."""
    folder, slash, file = str(PurePosixPath(name)).rpartition("/")
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
        return f"{archive}/{path.with_suffix('')}"
    return str(path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever reading an archive raises into a DataError that names it and says what it begins with."""
    try:
        yield
    except Exception as error:  # the standard library's readers raise almost anything on hostile bytes
        with path.open("rb") as file:
            start = file.read(16)
        raise DataError(
            f"{path} cannot be read as an archive to its end: {error} (it begins with {start!r})",
            "Delete it and run `prep download` again; if it stays so, the publisher's file is broken.",
        ) from error
