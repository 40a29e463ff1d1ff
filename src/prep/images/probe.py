"""What an image is, from its bytes: format and size from the header, and whether its end is there."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

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
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}


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
    except Image.DecompressionBombError:
        return Probe("too_many_pixels")
    except UnidentifiedImageError:
        return Probe("not_an_image")
    except Exception:  # Pillow's parsers raise almost anything on hostile headers
        return Probe("not_an_image")
    status = "ok" if _has_end(format_, data) else "truncated"
    return Probe(status, format_, width, height)


def _has_end(format_: str, data: bytes) -> bool:
    """Whether the format's end marker is near the end (some writers append padding or metadata)."""
    if format_ == "WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    end = _ENDS.get(format_)
    return end is None or end in data[-65_536:]
