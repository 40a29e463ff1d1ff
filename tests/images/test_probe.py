"""What an image is, from whatever bytes a host or an archive gives."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prep.images import probe as probe_module
from prep.images.probe import EXTENSIONS, Probe, probe
from prep.publishers.pictures import Picture

WIDTH, HEIGHT = 96, 72
NOISE = random.Random(3).randbytes(3 * WIDTH * HEIGHT)  # does not compress: most of each file is pixels
PICTURE = Image.frombytes("RGB", (WIDTH, HEIGHT), NOISE)


def encode(format_: str, **options: Any) -> bytes:
    target = io.BytesIO()
    PICTURE.save(target, format_, **options)
    return target.getvalue()


def with_thumbnail(jpeg: bytes) -> bytes:
    """`jpeg` with a whole JPEG inside its EXIF block, as cameras write it."""
    small = io.BytesIO()
    PICTURE.resize((32, 24)).save(small, "JPEG")
    block = b"Exif\0\0" + small.getvalue()
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


ANIMATED = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
IMAGES = {
    "jpeg": ("JPEG", encode("JPEG")),
    "progressive jpeg": ("JPEG", encode("JPEG", progressive=True)),
    "jpeg with a thumbnail": ("JPEG", with_thumbnail(encode("JPEG"))),
    "png": ("PNG", encode("PNG")),
    "webp": ("WEBP", encode("WEBP")),
    "lossless webp": ("WEBP", encode("WEBP", lossless=True)),
    "gif": ("GIF", encode("GIF")),
    "animated gif": ("GIF", encode("GIF", **ANIMATED)),
    "bmp": ("BMP", encode("BMP")),
    "tiff": ("TIFF", encode("TIFF")),
    "lzw tiff": ("TIFF", encode("TIFF", compression="tiff_lzw")),
    "mpo": ("MPO", encode("MPO", **ANIMATED)),
}


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    chunks = (
        (b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    body = b""
    for kind, data in chunks:
        body += struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("name", IMAGES)
def test_a_whole_image_is_what_it_is(name: str) -> None:
    format_, data = IMAGES[name]
    assert probe(data) == Probe("ok", format_, WIDTH, HEIGHT)


def test_the_extension_is_the_contents() -> None:
    extensions = {name: probe(data).extension for name, (_, data) in IMAGES.items()}
    assert extensions == {name: EXTENSIONS[format_] for name, (format_, _) in IMAGES.items()}
    assert Probe("empty").extension == ""


@pytest.mark.parametrize("name", IMAGES)
def test_a_truncated_image_is_not_ok(name: str) -> None:
    format_, data = IMAGES[name]
    for part in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        found = probe(data[: int(part * len(data))])
        # Where the header itself is cut, or stands at the end (TIFF), or Pillow reads on at once (WebP).
        assert found in (Probe("truncated", format_, WIDTH, HEIGHT), Probe("not_an_image")), part
        if part > 0.5 and format_ not in ("WEBP", "TIFF", "MPO"):
            assert found.status == "truncated"
    assert probe(data[:-3]).status != "ok"


@pytest.mark.parametrize("name", IMAGES)
def test_what_stands_behind_the_end_does_not_matter(name: str) -> None:
    format_, data = IMAGES[name]
    padding = b"\0" * 100_000 if format_ != "GIF" else b"\0\r\n"
    assert probe(data + padding) == Probe("ok", format_, WIDTH, HEIGHT)


def test_exif_rotation_is_not_applied() -> None:
    assert probe(Picture(1, 64, 32).encode(orientation=6)) == Probe("ok", "JPEG", 64, 32)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "empty"),
        (b"\0" * 5000, "not_an_image"),
        (b"<!doctype html><title>Not found</title>", "not_an_image"),
        (b"\xff\xd8\xff\xd9", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (b"GIF89a", "not_an_image"),
        (b"RIFF\x04\0\0\0WEBP", "not_an_image"),
        (b"%PDF-1.7", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (b"P6 1 1 255 abc", "not_an_image"),
        (png(0, 5), "not_an_image"),
        (png(20_000, 20_000), "too_many_pixels"),
        (png(2**31 - 1, 2**31 - 1), "too_many_pixels"),
    ],
    ids=["empty", "zeros", "html", "jpeg", "png", "gif", "webp", "pdf", "svg", "ppm", "flat", "bomb", "huge bomb"],
)
def test_what_is_no_image_for_the_trainer(data: bytes, status: str) -> None:
    started = time.perf_counter()
    assert probe(data) == Probe(status)
    assert time.perf_counter() - started < 0.5, "nothing is decoded"


def test_a_large_image_below_pillows_limit_is_ok_without_a_warning() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    assert probe(png(2 * limit // 10_000, 10_000)).status == "ok"
    assert probe(png(2 * limit // 10_000 + 1, 10_000)).status == "too_many_pixels"


def test_too_many_bytes_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode("PNG")
    monkeypatch.setattr(probe_module, "MAX_IMAGE_BYTES", len(data))
    assert probe(data).status == "ok"
    assert probe(data + b"\0") == Probe("too_large")


STATUSES = {"ok", "empty", "not_an_image", "truncated", "too_large", "too_many_pixels"}


@given(
    st.sampled_from(sorted(IMAGES)),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=5),
    st.integers(0, 20_000),
)
def test_hostile_headers_raise_nothing(name: str, changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(IMAGES[name][1])
    for place, byte in changes:
        data[place] = byte
    found = probe(bytes(data[: max(length, 301)]))
    assert found.status in STATUSES
    if found.status in ("ok", "truncated"):
        assert found.format in EXTENSIONS
        assert found.width and found.height and found.width > 0 and found.height > 0
    else:
        assert found == Probe(found.status)


STARTS = [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP"]


@given(st.binary(max_size=200), st.sampled_from(STARTS))
def test_noise_raises_nothing(noise: bytes, start: bytes) -> None:
    assert probe(start + noise).status in STATUSES
