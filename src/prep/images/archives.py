"""Images out of tars and zips, compressed or not, whole or cut into parts, sound or broken.

Member names are hostile: they never become a path before `safe_member` has taken them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from prep.errors import DataError
from prep.images import tars, zips
from prep.images.entries import Damaged, Entry, NoArchive
from prep.images.joined import JoinedFile
from prep.images.parts import archive_stem as archive_stem
from prep.images.parts import group_parts as group_parts
from prep.images.probe import MAX_IMAGE_BYTES
from prep.images.unpacked import MAGIC, Unpacked

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}

SHARE_BYTES = 1 << 30  # at most, of an archive that can be read from anywhere, for one worker

MAX_NAME_BYTES = 800  # of S3's 1,024 for a key, which has a prefix before it
MAX_STEP_BYTES = 200  # of the 255 that file systems allow, which hold an extension and `.tmp` too

_ZIP_STARTS = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")


@dataclass(frozen=True)
class Member:
    """An image of an archive, or a stretch of the archive that cannot be read.

    Attributes:
        name: as the publisher means it, with what a zip escapes decoded; of a stretch `bytes 1,024 to 9,999`, or
            `bytes 1,024 on` where the archive is cut.
        data: None where the status is not `ok`.
        status: `ok`, `too_large` (over MAX_IMAGE_BYTES), `damaged` (named, but its bytes cannot be read to the end
            or are wrong), `lost` (a stretch; nobody knows what was in it).
        error: what is wrong.
    """

    name: str
    data: bytes | None
    status: str
    error: str | None = None


def count_shares(paths: Sequence[Path]) -> int:
    """Into how many equal pieces of work of at most SHARE_BYTES an archive is cut; 1 if it has to be read in order.

    Args:
        paths: the archive's parts, in order.
    """
    with JoinedFile(paths) as file:
        return _count_shares(file, _kind(file))


def read_members(paths: Sequence[Path], share: int = 0, *, skip: int = 0) -> Iterator[Member]:
    """Images of one share of an archive, in its order; all shares together give each once.

    Of members with one name the last counts, as when an archive is unpacked; in a compressed tar all come, since what
    follows is not known. Links, folders, sparse files and macOS's own files are passed over.

    Args:
        paths: the archive's parts, in order.
        skip: leave out so many members without reading their bytes.

    Raises:
        DataError: nothing of it can be read as an archive.
        OSError: the disk's own.
    """
    with JoinedFile(paths) as file, archive_errors(paths[0]):
        kind = _kind(file)
        shares = _count_shares(file, kind)
        span = range(file.size * share // shares, file.size * (share + 1) // shares)
        if share == shares - 1:
            span = range(span.start, 1 << 64)
        entries: Iterable[Entry]
        if kind == "zip":
            entries, read = _zip_entries(file, span), partial(zips.read, file)
        elif kind in MAGIC:
            source = Unpacked(file, kind)
            entries, read = filter(_is_wanted, tars.walk(source)), partial(tars.read, source)
        else:
            entries, read = _in_span(tars.walk(file), span), partial(tars.read, file)
        for entry in islice(entries, skip, None):
            yield _member(entry, read)


@contextmanager
def archive_errors(path: Path) -> Iterator[None]:
    """Turn what is no archive into a DataError that names it and says what it begins with."""
    try:
        yield
    except NoArchive as error:
        with path.open("rb") as file:
            start = file.read(16)
        raise DataError(
            f"{path} cannot be read as an archive to its end: {error} (it begins with {start!r})",
            "Delete it and run `prep download` again; if it stays so, the publisher's file is broken, and can be left "
            "out with a narrower images.parts in a copy of the dataset's YAML in datasets/.",
        ) from error


def tar_source(file: JoinedFile) -> tars.Source:
    """The tar in a file, unpacked while it is read where it is compressed.

    Raises:
        NoArchive: it is a zip.
    """
    kind = _kind(file)
    if kind == "zip":
        raise NoArchive("it is a zip and no tar")
    return Unpacked(file, kind) if kind in MAGIC else file


def _kind(file: JoinedFile) -> str:
    """What an archive is, by its content: `tar`, `zip`, what a tar is compressed with, or `` for none of these."""
    start = file.pread(tars.BLOCK, 0)
    for kind, magic in MAGIC.items():
        if start.startswith(magic):
            return kind
    if tars.begins(start):
        return "tar"
    if start.startswith(_ZIP_STARTS):
        return "zip"
    # A tar's own beginning may be broken and a zip stand at its end.
    is_zip = zips.find_directory(file) is not None and not tars.has_member(file, tars.SEARCH_BYTES)
    return "zip" if is_zip else ""


def _count_shares(file: JoinedFile, kind: str) -> int:
    return -(-file.size // SHARE_BYTES) if kind in ("tar", "zip") else 1


def _zip_entries(file: JoinedFile, span: range) -> list[Entry]:
    directory = zips.find_directory(file)
    if directory is not None:
        with suppress(zips.BrokenDirectory):
            return _in_span(zips.walk_directory(file, directory), span)
    return _in_span(zips.walk_headers(file), span)


def _in_span(entries: Iterable[Entry], span: range) -> list[Entry]:
    """Those wanted whose header begins within `span`; of one name only the last of the whole archive."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if _is_wanted(entry):
            found.pop(entry.name, None)
            if entry.at in span:
                found[entry.name] = entry
    return list(found.values())


def _is_wanted(entry: Entry) -> bool:
    return entry.is_lost or (entry.is_file and _is_image(entry.name))


def _is_image(name: str) -> bool:
    stem, _, extension = name.rpartition("/")[2].rpartition(".")
    return bool(stem) and f".{extension.lower()}" in IMAGE_SUFFIXES and not is_litter(name)


def is_litter(name: str) -> bool:
    """Whether a name is one of those that macOS adds to an archive: `__MACOSX/._a.jpg`, `.DS_Store`."""
    *folders, file = name.split("/")
    return file.startswith("._") or file == ".DS_Store" or "__MACOSX" in folders


def _member(entry: Entry, read: Callable[[Entry], bytes]) -> Member:
    if entry.error is not None:
        return Member(entry.name, None, "lost" if entry.is_lost else "damaged", entry.error)
    if entry.size > MAX_IMAGE_BYTES:
        return Member(entry.name, None, "too_large")
    try:
        return Member(entry.name, read(entry), "ok")
    except Damaged as error:
        return Member(entry.name, None, "damaged", str(error))


def safe_member(name: str) -> str | None:
    """The member's path inside a folder of its own, or None for a name that would leave it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name or not path.parts:
        return None
    is_long = len(name.encode()) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_STEP_BYTES for part in path.parts)
    return None if is_long else str(path)


def split_member(name: str) -> tuple[str, str]:
    """A member's record and extension: `./a/b.c/0001.seg.png` is `seg.png` of record `a/b.c/0001`."""
    if "//" in name or "./" in name:
        name = str(PurePosixPath(name))
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def image_key(kind: str, archive: str, member: str) -> str:
    """The key of an archive's member (see ArchiveImages)."""
    path = PurePosixPath(member)
    if kind == "name":
        return path.name
    if kind == "part-member":
        return f"{archive}/{path.with_suffix('')}"
    return str(path)
