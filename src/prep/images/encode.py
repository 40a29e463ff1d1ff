"""Images encoded anew, where they are not already what is wanted; and whether an image can be decoded at all."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from prep.config import Encode
from prep.images.probe import Probe, open_image, orientation

QUALITY = 95  # as ConvLLaVA's authors re-encode OCR-VQA
MAX_PROFILE_BYTES = 1 << 20  # profiles of displays have 500 to 4,000 bytes
MAX_SCANS = 100  # of a progressive JPEG, which has some ten; each makes a decoder go over all pixels again
_SAVED_AS = {"jpeg": "JPEG", "webp": "WEBP", "JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "WEBP": "WEBP"}
_PROFILE_OF = {"RGB": b"RGB ", "L": b"GRAY"}  # the colour space that an ICC profile names in its header
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")  # of a JPEG's pieces, all with a length but the end
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_UPRIGHT = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Undecodable(Exception):
    """An image that cannot be decoded, or not be encoded as wanted; its text is a short reason."""


def encode(data: bytes, seen: Probe, how: Encode) -> bytes | None:
    """The image as it is wanted, or None where it is so already and its bytes can stay.

    What is encoded anew is its first frame, turned as EXIF says, as RGB on white (or L, where the format has that),
    scaled down to `how.max_side`, without metadata but its ICC profile. The same bytes give the same bytes.

    Args:
        seen: what `probe` says of `data`, with status `ok` or `too_small`.

    Raises:
        Undecodable: the image is broken, or the wanted format cannot hold it.
    """
    if _is_so(data, seen, how):
        return None
    with reasons(data), open_image(data) as image:
        turned = orientation(image)
        profile = image.info.get("icc_profile")
        upright = _shrunk(image, how.max_side)
        if turned in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[turned])
        return _save(upright, profile, _SAVED_AS.get(how.format or image.format or "", "JPEG"), how.quality or QUALITY)


def rgb_jpeg(data: bytes, quality: int = QUALITY) -> bytes:
    """The first frame as a JPEG in RGB, what is transparent on white, turned as EXIF says, without metadata.

    Raises:
        Undecodable: the image is broken, or too large for a JPEG.
    """
    with reasons(data), open_image(data) as image:
        turned = orientation(image)
        upright = _plain(image)
        if turned in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[turned])
        return _save(upright.convert("RGB"), None, "JPEG", quality)


def decode_problem(data: bytes) -> str | None:
    """Decode every pixel of the first frame; None where that works, else a short reason why it does not."""
    try:
        with reasons(data), open_image(data) as image:
            image.load()
    except Undecodable as error:
        return str(error)
    return None


@contextmanager
def reasons(data: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises into a short reason."""
    if data.startswith(b"\xff\xd8") and data.count(_SCAN) > MAX_SCANS and _count_scans(data) > MAX_SCANS:
        raise Undecodable(f"more than {MAX_SCANS} scans")
    try:
        with _without_stderr() if data[:2] in (b"II", b"MM") else nullcontext():
            yield
    except UnidentifiedImageError as error:
        raise Undecodable("not an image") from error
    except Exception as error:  # Pillow's decoders raise almost anything on hostile bytes
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise Undecodable(reason[:200].encode(errors="replace").decode()) from error


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep what libtiff writes there from a terminal's bars and from whoever reads JSON; it reports errors as well."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _count_scans(jpeg: bytes) -> int:
    """Scans of a JPEG itself, not those of a thumbnail inside it or of whatever stands behind it."""
    scans = at = 0
    while (found := _MARKER.search(jpeg, at)) and found[0] != _END:
        scans += found[0] == _SCAN
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])
    return scans


def _is_so(data: bytes, seen: Probe, how: Encode) -> bool:
    """Whether an image is as it is wanted."""
    if how.max_side is not None and max(seen.width or 0, seen.height or 0) > how.max_side:
        return False
    if how.format == "jpeg":
        return seen.format in ("JPEG", "MPO") and seen.mode in ("RGB", "L")
    if how.format == "webp":
        is_film = data[12:16] == b"VP8X" and bool(data[20] & 0x02)  # https://developers.google.com/speed/webp/docs
        return seen.format == "WEBP" and not is_film
    return True


def scaled_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Width and height in pixels with the longest side at most `max_side`, each at least 1, never enlarged."""
    longest = max(size)
    if max_side is None or longest <= max_side:
        return size
    width, height = (max(1, (side * max_side + longest // 2) // longest) for side in size)
    return width, height


def _shrunk(image: Image.Image, max_side: int | None) -> Image.Image:
    """The pixels as RGB or L, scaled as `scaled_size` says.

    A JPEG is decoded at a half, a quarter or an eighth where that is still large enough. Of Pillow's filters for the
    rest, bicubic made it a fifth slower than Hamming's and no better to see; a box is a tenth faster, and aliases.
    """
    size = scaled_size(image.size, max_side)
    drafted = image.draft(None, size) if size != image.size else None
    box = drafted[1] if drafted else None
    plain = _plain(image)
    if plain.size != size:
        plain = plain.resize(size, Image.Resampling.HAMMING, box=box, reducing_gap=1.0)
    return plain


def _plain(image: Image.Image) -> Image.Image:
    """The decoded pixels as RGB or L of 8 bits, what is transparent on white."""
    image.load()
    if image.mode in _SIXTEEN_BITS or image.mode in ("I", "F"):
        return _eight_bits(image)
    if image.has_transparency_data:
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(clear, mask=clear)
        return white
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits, or floats, as 8 bits.

    Nothing in a file says where the white of 32 bits or of floats is: it is the first of 1 (floats), 255 and 65,535
    that no value exceeds; values beyond, or below 0, are stretched from the lowest to the highest.
    """
    if image.mode in _SIXTEEN_BITS:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    grey = np.array(image, np.float32)  # and in place from here on: it can be hundreds of megabytes
    np.nan_to_num(grey, copy=False, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    tops = (255, 65535) if image.mode == "I" else (1, 255, 65535)
    white: float | None = next((top for top in tops if low >= 0 and high <= top), None)
    if white is None:
        grey -= low
        white = high - low or 1
    grey *= 255 / white
    grey += 0.5
    return Image.fromarray(grey.astype(np.uint8))


def _save(image: Image.Image, profile: object, format_: str, quality: int) -> bytes:
    """The pixels as bytes of a format."""
    if format_ == "WEBP":
        image = image.convert("RGB")
    image.info = {}  # comments and transparency, which Pillow would write too
    options: dict[str, Any] = {} if format_ == "PNG" else {"quality": quality}
    if format_ == "JPEG":
        options["subsampling"] = "4:2:0"
    if isinstance(profile, bytes) and len(profile) <= MAX_PROFILE_BYTES and profile[16:20] == _PROFILE_OF[image.mode]:
        options["icc_profile"] = profile
    target = io.BytesIO()
    image.save(target, format_, **options)
    return target.getvalue()
