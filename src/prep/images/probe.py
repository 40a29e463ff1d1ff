"""What an image is, from its bytes: format and size from the header, and whether its end is there."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from itertools import chain

from PIL import Image, UnidentifiedImageError
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


@dataclass(frozen=True)
class Probe:
    """What the bytes are.

    Attributes:
        status: `ok`, `empty`, `not_an_image`, `truncated`, `too_large` or `too_many_pixels`.
        format: Pillow's name of the format, also of a truncated image.
        width, height: in pixels, as stored; EXIF rotation is not applied, as the trainer does not apply it.
    """

    status: str
    format: str | None = None
    width: int | None = None
    height: int | None = None

    @property
    def extension(self) -> str:
        """The extension its content deserves."""
        return EXTENSIONS.get(self.format or "", "")


def probe(data: bytes) -> Probe:
    """Look at an image's header, and at its last bytes for the end its format must have; nothing is decoded.

    Images above Pillow's limit for decompression bombs, which the trainer's Pillow refuses, are `too_many_pixels`.
    """
    if not data:
        return Probe("empty")
    if len(data) > MAX_IMAGE_BYTES:
        return Probe("too_large")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_OPENED) as image:
                format_, (width, height) = image.format or "", image.size
                status = "ok" if _is_whole(image, data) else "truncated"
    except Image.DecompressionBombError:
        return Probe("too_many_pixels")
    except UnidentifiedImageError:
        return Probe("not_an_image")
    except Exception:  # Pillow's parsers raise almost anything on hostile headers
        return Probe("not_an_image")
    return Probe(status, format_, width, height)


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
    return data.find(end, max(0, data.rfind(start))) >= 0
