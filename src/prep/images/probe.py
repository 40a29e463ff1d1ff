"""What an image is, from its bytes: format and size from the header, and whether its end is there."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

MAX_IMAGE_BYTES = 100 << 20

EXTENSIONS = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}
_OPENED = tuple(format_ for format_ in EXTENSIONS if format_ != "MPO")  # Pillow opens MPO as JPEG first
_JPEG = (b"\xff\xda", b"\xff\xd9")
_ENDS = {"JPEG": _JPEG, "MPO": _JPEG, "PNG": (b"IDAT", b"IEND\xaeB`\x82")}  # start of the last data, and its end
_TIFF_DATA = ((273, 279), (324, 325))  # tags: where strips, or tiles, are and how long

# What Pillow makes of a hostile header is bounded by the file's size alone, and that can be minutes and gigabytes.
_MAX_PIECES = 100_000  # reads of a header and its chunks; a JPEG of 25 MB can have six million segments
_MAX_EXIF_SEGMENTS = 16  # Pillow joins them, and reads a list of numbers as long as all of them
_MAX_TIFF_NUMBERS = 1 << 18  # in the tags of an image: two for each of 131,072 strips or tiles

_ORIENTATION = 0x0112
_DIRECTORIES = (34665, 34853, 40965)  # tags that lead to another directory, which Pillow reads when it decodes
_FIRST_PRIVATE = 700  # from this tag on, bytes are a profile or the like; before it Pillow takes them for numbers
_BYTES, _TEXT, _SHORT, _LONG = (1, 7), 2, 3, 4  # types of tags
_TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">"}


@dataclass(frozen=True)
class Probe:
    """What the bytes are.

    Attributes:
        status: `ok`, `empty`, `not_an_image`, `truncated`, `too_small`, `too_large` or `too_many_pixels`.
        format: Pillow's name of the format, also of a truncated image and one that is too small.
        width, height: in pixels, as stored; EXIF rotation is not applied, as the trainer does not apply it.
        displayed_width, displayed_height: in pixels, with EXIF rotation, as viewers show it.
        mode: Pillow's name of the kind of pixels.
    """

    status: str
    format: str | None = None
    width: int | None = None
    height: int | None = None
    displayed_width: int | None = None
    displayed_height: int | None = None
    mode: str | None = None

    @property
    def extension(self) -> str:
        """The extension its content deserves."""
        return EXTENSIONS.get(self.format or "", "")


def probe(data: bytes, *, min_side: int = 1) -> Probe:
    """Look at an image's header, and at its last bytes for the end its format must have; nothing is decoded.

    Images above Pillow's limit for decompression bombs, which the trainer's Pillow refuses, are `too_many_pixels`.

    Args:
        min_side: in pixels; a whole image with a shorter side is `too_small`.
    """
    if not data:
        return Probe("empty")
    if len(data) > MAX_IMAGE_BYTES:
        return Probe("too_large")
    try:
        with open_image(data) as image:
            format_, size, mode = image.format or "", image.size, image.mode
            displayed = size[::-1] if orientation(image) >= 5 else size
            status = "ok" if _is_whole(image, data) else "truncated"
    except Image.DecompressionBombError:
        return Probe("too_many_pixels")
    except Exception:  # Pillow's parsers raise almost anything on hostile headers
        return Probe("not_an_image")
    if status == "ok" and min(size) < min_side:
        status = "too_small"
    return Probe(status, format_, *size, *displayed, mode)


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open an image of a format in `EXTENSIONS` without decoding it, silently, in bounded time and memory.

    Warnings are silenced for the whole process meanwhile, so images are opened in one thread.

    Raises:
        Exception: almost anything, by Pillow; ValueError for a header that would take too long.
    """
    if data[:2] in (b"II", b"MM") and _count_numbers(data) > _MAX_TIFF_NUMBERS:
        raise ValueError("too many numbers in the header")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(_Pieces(data), formats=_OPENED) as image:
            yield image


class _Pieces(io.BytesIO):
    """The bytes as Pillow reads them; a file of endlessly many small pieces ends in an error."""

    _pieces = _exif_segments = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read, and count."""
        piece = super().read(size)
        self._pieces += 1
        self._exif_segments += piece.startswith(b"Exif\0\0")
        if self._pieces > _MAX_PIECES or self._exif_segments > _MAX_EXIF_SEGMENTS:
            raise ValueError("too many pieces")
        return piece


def _count_numbers(tiff: bytes, start: int | None = None, depth: int = 0) -> int:
    """How many numbers the tags of a TIFF's first directory hold, each of which Pillow makes an object."""
    order, is_big = "<" if tiff[:1] == b"I" else ">", tiff[2:3] == b"+"  # BigTIFF, told apart as Pillow does it
    place, length, entry = ("Q", "Q", "HHQ8s") if is_big else ("L", "H", "HHL4s")
    try:
        if start is None:
            (start,) = struct.unpack_from(order + place, tiff, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + length, tiff, start)
    except (struct.error, OverflowError):
        return 0  # Pillow refuses it
    numbers = 0
    entries = _entries(order + entry, tiff, start + struct.calcsize(order + length), min(count, _MAX_PIECES))
    for tag, kind, number, value in entries:
        if kind != _TEXT and (tag < _FIRST_PRIVATE or kind not in _BYTES):
            numbers += number
        if tag in _DIRECTORIES and depth < 2:
            numbers += _count_numbers(tiff, struct.unpack(order + place, value)[0], depth + 1)
    return numbers


def _entries(layout: str, tiff: bytes, start: int, count: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, count, and value or its place, of the whole entries of a directory."""
    size = struct.calcsize(layout)
    there = max(0, min(count, (len(tiff) - start) // size))
    return struct.iter_unpack(layout, tiff[start : start + there * size])


def orientation(image: Image.Image) -> int:
    """EXIF's orientation of an open image, 1 to 8; 1 where it says none. To be asked before the image is decoded.

    Read here and not by Pillow, which believes an entry that says to be millions of numbers long. A TIFF's is 1:
    Pillow turns those itself, so what the trainer sees is what is displayed.
    """
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    order = _TIFF_STARTS.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "L", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
    except struct.error:
        return 1
    for tag, kind, number, value in _entries(order + "HHL4s", tiff, start + 2, count):
        if tag == _ORIENTATION and number == 1 and kind in (_SHORT, _LONG):
            (turned,) = struct.unpack_from(order + ("H" if kind == _SHORT else "L"), value)
            return int(turned) if 1 <= turned <= 8 else 1
    return 1


def _is_whole(image: Image.Image, data: bytes) -> bool:
    """Whether the end is there that the format must have; what stands behind it (padding, a film) does not matter.

    A thumbnail inside a JPEG has an end of its own, so the end is looked for after the start of the last scan.
    """
    if image.format == "WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    if image.format == "BMP":
        return len(data) >= int.from_bytes(data[2:6], "little")
    if image.format == "GIF":
        return data.rstrip(b"\0\r\n ").endswith(b";")
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        pieces = (zip(tags.get(at, ()), tags.get(size, ()), strict=False) for at, size in _TIFF_DATA)
        return all(at + size <= len(data) for at, size in chain.from_iterable(pieces))
    start, end = _ENDS[image.format or ""]
    last = data.rfind(end)  # mostly at the very end, where a search from the last start would read the whole file
    return last >= 0 and data.find(start, last) < 0
