"""What an image is, from whatever bytes a host or an archive gives."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from prep.images import probe as probe_module
from prep.images.probe import EXTENSIONS, Probe, probe

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


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes = b"", extra: bytes = b"", bits: int = 8, colours: int = 2) -> bytes:
    """A PNG that claims a size, and what it is to hold."""
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def seen(status: str, format_: str, width: int = WIDTH, height: int = HEIGHT) -> Probe:
    """What is seen of an upright picture."""
    return Probe(status, format_, width, height, width, height, "P" if format_ == "GIF" else "RGB")


@pytest.mark.parametrize("name", IMAGES)
def test_a_whole_image_is_what_it_is(name: str) -> None:
    format_, data = IMAGES[name]
    assert probe(data) == seen("ok", format_)


def test_an_image_with_too_short_a_side_is_too_small() -> None:
    for data in (encode("PNG"), encode("JPEG")):
        assert probe(data, min_side=HEIGHT).status == "ok"
        assert probe(data, min_side=HEIGHT + 1) == seen("too_small", "PNG" if data[1:4] == b"PNG" else "JPEG")
    assert probe(encode("PNG")[:-3], min_side=HEIGHT + 1).status == "truncated"
    assert probe(png(1, 500), min_side=2) == seen("too_small", "PNG", 1, 500)


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
        assert found in (seen("truncated", format_), Probe("not_an_image")), part
        if part > 0.5 and format_ not in ("WEBP", "TIFF", "MPO"):
            assert found.status == "truncated"
    assert probe(data[:-3]).status != "ok"


@pytest.mark.parametrize("name", IMAGES)
def test_what_stands_behind_the_end_does_not_matter(name: str) -> None:
    format_, data = IMAGES[name]
    padding = b"\0" * 100_000 if format_ != "GIF" else b"\0\r\n"
    assert probe(data + padding) == seen("ok", format_)


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
        (b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b",\0\0\0\0\0\0\0\0\0\2\0;", "not_an_image"),
        (b"BM" + struct.pack("<LLLLllHHLLLLLL", 58, 0, 54, 40, -9, 9, 1, 24, 0, 4, 1, 1, 0, 0), "too_many_pixels"),
        (png(20_000, 20_000), "too_many_pixels"),
        (png(2**31 - 1, 2**31 - 1), "too_many_pixels"),
    ],
    ids=[
        "empty",
        "zeros",
        "html",
        "jpeg",
        "png",
        "gif",
        "webp",
        "pdf",
        "svg",
        "ppm",
        "flat",
        "flat gif",
        "negative",
        "bomb",
        "huge bomb",
    ],
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


def test_a_bomb_costs_no_memory() -> None:
    bomb = png(20_000, 20_000, bytes(2_501 * 20_000), bits=1, colours=0)
    assert len(bomb) < 50_000
    assert traced(bomb) == (Probe("too_many_pixels"), 1)


# -- EXIF ------------------------------------------------------------------------------------------------------------


def exif(*tags: tuple[int, int, int, bytes], order: str = "<", start: int = 8, behind: bytes = b"") -> bytes:
    """An EXIF block of (tag, type, count, value or its place); `behind` comes after the tags."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", start)
    body = b"".join(struct.pack(order + "HHL", *tag[:3]) + tag[3].ljust(4, b"\0") for tag in tags)
    return head.ljust(start, b"\0") + struct.pack(order + "H", len(tags)) + body + b"\0" * 4 + behind


def with_exif(block: bytes, format_: str) -> bytes:
    """The picture with an EXIF block."""
    return encode(format_, exif=b"Exif\0\0" + block)


WITH_EXIF = ("JPEG", "PNG", "WEBP")
TURNED = (WIDTH, HEIGHT, HEIGHT, WIDTH)
UPRIGHT = (WIDTH, HEIGHT, WIDTH, HEIGHT)


def sizes(data: bytes) -> tuple[int | None, ...]:
    found = probe(data)
    assert found.status == "ok"
    return found.width, found.height, found.displayed_width, found.displayed_height


@pytest.mark.parametrize("format_", [*WITH_EXIF, "TIFF"])
@pytest.mark.parametrize("turned", range(10))
def test_exif_rotation_is_displayed_and_not_applied(format_: str, turned: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = turned
    data = encode(format_, exif=tags)
    with Image.open(io.BytesIO(data)) as image:
        stored, displayed = image.size, ImageOps.exif_transpose(image).size
    assert sizes(data) == (*stored, *displayed)
    assert (stored == (WIDTH, HEIGHT)) == (format_ != "TIFF" or turned not in (5, 6, 7, 8)), "Pillow turns TIFFs itself"


SHORT, LONG, RATIONAL = 3, 4, 5


@given(
    st.sampled_from("<>"),
    st.integers(0, 20),
    st.integers(0, 20),
    st.sampled_from([SHORT, LONG]),
    st.integers(0, 9),
    st.integers(8, 200),
)
def test_orientation_is_found_wherever_it_stands(
    order: str, before: int, after: int, kind: int, turned: int, start: int
) -> None:
    others = [(0x8000 + n, SHORT, 1, b"\1\1") for n in range(before + after)]
    own = (0x0112, kind, 1, struct.pack(order + ("H" if kind == SHORT else "L"), turned))
    block = exif(*others[:before], own, *others[before:], order=order, start=start)
    for format_ in WITH_EXIF:
        assert sizes(with_exif(block, format_)) == (TURNED if turned in (5, 6, 7, 8) else UPRIGHT)


@given(st.binary(max_size=60), st.sampled_from([b"", b"II*\0", b"MM\0*", b"II*\0\x08\0\0\0"]))
def test_hostile_exif_turns_nothing_or_all(noise: bytes, start: bytes) -> None:
    for format_ in WITH_EXIF:
        assert sizes(with_exif(start + noise, format_)) in (UPRIGHT, TURNED)


@pytest.mark.parametrize(
    "block",
    [
        exif((0x0112, SHORT, 2, b"\6\0\6\0")),
        exif((0x0112, RATIONAL, 6_000, b"\x1a\0\0\0"), behind=bytes(48_000)),
        exif((0x0112, 2, 1, b"6")),
        exif((0x0112, SHORT, 1, b"\6\0"))[:20],
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
    ],
    ids=["two", "many", "text", "cut", "far away", "none of many"],
)
def test_an_orientation_that_is_none_turns_nothing(block: bytes) -> None:
    for format_ in WITH_EXIF:
        assert sizes(with_exif(block, format_)) == UPRIGHT


# -- hostile bytes ---------------------------------------------------------------------------------------------------


def traced(data: bytes) -> tuple[Probe, int]:
    """What is seen, and the megabytes that looking took, rounded up."""
    tracemalloc.start()
    try:
        found = probe(data)
        return found, -(-tracemalloc.get_traced_memory()[1] // (1 << 20))
    finally:
        tracemalloc.stop()


def segments(block: bytes) -> bytes:
    """An EXIF block over as many segments of a JPEG as it takes."""
    pieces = (b"Exif\0\0" + block[at : at + 65_000] for at in range(0, len(block), 65_000))
    return b"".join(b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece for piece in pieces)


MANY = 600_000  # entries, numbers or pieces: megabytes of a file, and as many objects if they were believed
BARE = encode("JPEG")[:2], encode("JPEG")[20:]  # without the JFIF segment, so that EXIF is asked for the resolution
TINY = ((256, LONG, 1, b"\x08"), (257, LONG, 1, b"\x08"), (258, SHORT, 1, b"\x08"), (262, SHORT, 1, b"\1"))
STRIP = ((273, LONG, 1, b"\x08"), (278, LONG, 1, b"\x08"), (279, LONG, 1, b"\x40"))
AT = struct.pack("<L", 200)
REST = bytes(4 * MANY + 400)
EXPOSURES = exif((33434, RATIONAL, MANY // 2, AT))[8:]
HOSTILE = {
    "jpeg of empty segments": BARE[0] + b"\xff\xe0\0\2" * MANY + BARE[1],
    "jpeg with a long resolution": BARE[0]
    + segments(exif((0x011A, RATIONAL, MANY // 2, AT), (0x0128, SHORT, 1, b"\2"), behind=REST))
    + BARE[1],
    "png of empty chunks": png(9, 9, extra=chunk(b"prVt", b"") * MANY),
    "png with long texts": png(9, 9, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 100),
    "png with a long profile": png(9, 9, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
    "gif of short comments": b"GIF89a" + bytes([9, 0, 9, 0, 0, 0, 0]) + b"!\xfe" + b"\1a" * MANY,
    "tiff of many strips": exif(*TINY, (273, LONG, MANY, AT), (278, LONG, 1, b"\1"), behind=REST),
    "tiff of many strips as bytes": exif(*TINY, (273, 1, 4 * MANY, AT), (278, LONG, 1, b"\1"), behind=REST),
    "tiff with a long resolution": exif(*TINY, *STRIP, (282, RATIONAL, MANY // 2, AT), behind=REST),
    "tiff with a long exposure": exif(*TINY, *STRIP, (34665, LONG, 1, AT), behind=bytes(90) + EXPOSURES + REST),
    "bigtiff of many entries": b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, MANY) + bytes(20 * MANY),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_cost_little(name: str) -> None:
    started = time.process_time()
    assert probe(HOSTILE[name]) == Probe("not_an_image")
    assert time.process_time() - started < 1
    assert traced(HOSTILE[name])[1] < 20, "megabytes"


def test_a_profile_and_xml_in_a_tiff_may_be_long() -> None:
    with Image.open(io.BytesIO(encode("TIFF"))) as plain:
        tags = {700: bytes(600_000), 34675: bytes(600_000), 270: "x" * 600_000}
        target = io.BytesIO()
        plain.save(target, "TIFF", tiffinfo=tags)
    assert probe(target.getvalue()) == seen("ok", "TIFF")


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
