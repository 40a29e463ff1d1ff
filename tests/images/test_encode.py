"""Images encoded anew: when, as what, and what becomes of those that cannot be decoded."""

from __future__ import annotations

import io
import os
import random
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from prep.config import Encode
from prep.images.encode import MAX_PROFILE_BYTES, MAX_SCANS, Undecodable, decode_problem, encode, scaled_size
from prep.images.probe import Probe, probe

WIDTH, HEIGHT = 64, 48
ACROSS = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
PICTURE = Image.merge(
    "RGB", (ACROSS, ImageOps.mirror(ACROSS.rotate(90)).resize((WIDTH, HEIGHT)), ImageOps.flip(ACROSS))
)
FILM = {"save_all": True, "append_images": [ImageOps.invert(PICTURE)]}
FEW_COLOURS = PICTURE.quantize(256)
JPEG, WEBP = Encode(format="jpeg"), Encode(format="webp")


def written(image: Image.Image, format_: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, format_, **options)
    return target.getvalue()


def anew(data: bytes, how: Encode) -> Image.Image:
    """What `data` becomes; it has to be encoded anew."""
    encoded = encode(data, probe(data), how)
    assert encoded is not None
    seen = probe(encoded)
    assert (seen.status, seen.width, seen.height) == ("ok", seen.displayed_width, seen.displayed_height)
    return opened(encoded)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two images' values, of 255."""
    assert one.size == other.size
    values = [np.asarray(image.convert("RGB"), dtype=float) for image in (one, other)]
    return float(np.abs(values[0] - values[1]).mean())


# -- what is so already ------------------------------------------------------------------------------------------------


SO = [
    ("nothing is asked", written(PICTURE.convert("P"), "GIF", **FILM), Encode()),
    ("quality is of what is encoded anew", written(PICTURE, "JPEG"), Encode(quality=10)),
    ("small enough", written(PICTURE, "PNG"), Encode(max_side=WIDTH)),
    ("small enough, whatever it is", written(PICTURE.convert("CMYK"), "TIFF"), Encode(max_side=WIDTH)),
    ("a JPEG", written(PICTURE, "JPEG"), Encode(format="jpeg", max_side=WIDTH)),
    ("a grey JPEG", written(ACROSS, "JPEG"), JPEG),
    ("an MPO", written(PICTURE, "MPO", **FILM), JPEG),
    ("a WebP", written(PICTURE, "WEBP"), WEBP),
    ("a WebP with alpha", written(PICTURE.convert("RGBA"), "WEBP"), WEBP),
]
NOT_SO = [
    ("too large", written(PICTURE, "JPEG"), Encode(max_side=WIDTH - 1), "JPEG", "RGB"),
    ("CMYK", written(PICTURE.convert("CMYK"), "JPEG"), JPEG, "JPEG", "RGB"),
    ("a PNG", written(PICTURE, "PNG"), JPEG, "JPEG", "RGB"),
    ("a BMP", written(PICTURE, "BMP"), JPEG, "JPEG", "RGB"),
    ("a WebP for a JPEG", written(PICTURE, "WEBP"), JPEG, "JPEG", "RGB"),
    ("a JPEG for a WebP", written(ACROSS, "JPEG"), WEBP, "WEBP", "RGB"),
    ("a WebP film", written(PICTURE, "WEBP", **FILM), WEBP, "WEBP", "RGB"),
    ("a large PNG", written(PICTURE, "PNG"), Encode(max_side=32), "PNG", "RGB"),
    ("a large grey PNG", written(ACROSS, "PNG"), Encode(max_side=32), "PNG", "L"),
    ("a large WebP film", written(PICTURE, "WEBP", **FILM), Encode(max_side=32), "WEBP", "RGB"),
    ("a large MPO", written(PICTURE, "MPO", **FILM), Encode(max_side=32), "JPEG", "RGB"),
    ("a large GIF", written(PICTURE, "GIF"), Encode(max_side=32), "JPEG", "RGB"),
    ("a large BMP", written(PICTURE, "BMP"), Encode(max_side=32), "JPEG", "RGB"),
    ("a large TIFF", written(PICTURE, "TIFF"), Encode(max_side=32), "JPEG", "RGB"),
]


@pytest.mark.parametrize(("data", "how"), [case[1:] for case in SO], ids=[case[0] for case in SO])
def test_what_is_so_already_keeps_its_bytes(data: bytes, how: Encode) -> None:
    assert encode(data, probe(data), how) is None


@pytest.mark.parametrize(
    ("data", "how", "format_", "mode"), [case[1:] for case in NOT_SO], ids=[case[0] for case in NOT_SO]
)
def test_what_is_not_so_is_encoded_anew(data: bytes, how: Encode, format_: str, mode: str) -> None:
    image = anew(data, how)
    assert (image.format, image.mode) == (format_, mode)
    assert image.size == scaled_size((WIDTH, HEIGHT), how.max_side)
    first = ACROSS if opened(data).mode == "L" else PICTURE
    assert difference(image, first.resize(image.size, Image.Resampling.BOX)) < 8
    encoded = encode(data, probe(data), how)
    assert encoded == encode(data, probe(data), how), "the same bytes give the same bytes"
    assert encode(encoded or b"", probe(encoded or b""), how) is None, "what was encoded anew is so"


@pytest.mark.parametrize(
    "data",
    [
        written(FEW_COLOURS, "GIF"),
        written(FEW_COLOURS, "GIF", **FILM),
        written(FEW_COLOURS, "PNG"),
        written(PICTURE.convert("RGBA"), "PNG"),
    ],
    ids=["gif", "gif film", "palette", "alpha"],
)
def test_the_pictures_of_ocr_vqa_become_jpegs(data: bytes) -> None:
    image = anew(data, JPEG)
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))
    assert difference(image, PICTURE) < 8, "the first frame"


# -- pixels ------------------------------------------------------------------------------------------------------------


HALF = Image.new("L", PICTURE.size, 255)
HALF.paste(0, (0, 0, WIDTH // 2, HEIGHT))
ON_WHITE = Image.composite(PICTURE, Image.new("RGB", PICTURE.size, "white"), HALF)
GREY_ON_WHITE = Image.composite(ACROSS, Image.new("L", PICTURE.size, 255), HALF)
CLEAR = PICTURE.copy()
CLEAR.putalpha(HALF)
INDEXED = PICTURE.quantize(255)
INDEXED.putpalette([*(INDEXED.getpalette() or [])[:765], 0, 0, 0])
INDEXED.paste(255, (0, 0, WIDTH // 2, HEIGHT))
VALUES = np.asarray(ACROSS)


def grey(values: Any) -> Image.Image:
    return Image.fromarray(values)


MODES = {
    "1": (written(HALF.convert("1"), "PNG"), "L", HALF),
    "L": (written(ACROSS, "PNG"), "L", ACROSS),
    "grey with one clear": (written(HALF, "PNG", transparency=0), "RGB", Image.new("L", PICTURE.size, 255)),
    "LA": (written(Image.merge("LA", (ACROSS, HALF)), "PNG"), "RGB", GREY_ON_WHITE),
    "RGBA": (written(CLEAR, "PNG"), "RGB", ON_WHITE),
    "RGBA webp": (written(CLEAR, "WEBP", lossless=True), "RGB", ON_WHITE),
    "RGBA tiff": (written(CLEAR, "TIFF"), "RGB", ON_WHITE),
    "palette with alphas": (written(INDEXED, "PNG", transparency=b"\xff" * 255 + b"\0"), "RGB", ON_WHITE),
    "clear gif": (written(INDEXED, "GIF", transparency=255), "RGB", ON_WHITE),
    "CMYK jpeg": (written(PICTURE.convert("CMYK"), "JPEG", quality=100), "RGB", PICTURE),
    "YCbCr": (written(PICTURE.convert("YCbCr"), "TIFF"), "RGB", PICTURE),
    "16 bits png": (written(grey(VALUES.astype(np.uint16) * 257), "PNG"), "L", ACROSS),
    "16 bits tiff": (written(grey(VALUES.astype(np.uint16) * 257), "TIFF"), "L", ACROSS),
    "16 bits, big end first": (written(grey(VALUES.astype(">u2") * 257), "TIFF"), "L", ACROSS),
    "32 bits of 8": (written(grey(VALUES.astype(np.int32)), "TIFF"), "L", ACROSS),
    "32 bits of 16": (written(grey(VALUES.astype(np.int32) * 257), "TIFF"), "L", ACROSS),
    "32 bits": (written(grey((VALUES.astype(np.int32) - 100) * 5_000_000), "TIFF"), "L", ACROSS),
    "floats to 1": (written(grey(VALUES.astype(np.float32) / 255), "TIFF"), "L", ACROSS),
    "floats to 255": (written(grey(VALUES.astype(np.float32)), "TIFF"), "L", ACROSS),
    "floats to 65535": (written(grey(VALUES.astype(np.float32) * 257), "TIFF"), "L", ACROSS),
    "any floats": (written(grey(VALUES.astype(np.float32) * 1e30 - 1e32), "TIFF"), "L", ACROSS),
    "one float": (written(grey(np.full((HEIGHT, WIDTH), -7, np.float32)), "TIFF"), "L", Image.new("L", PICTURE.size)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_pixels_looks_as_it_should(name: str) -> None:
    data, mode, expected = MODES[name]
    image = anew(data, JPEG)
    assert (image.mode, image.size) == (mode, PICTURE.size)
    assert difference(image, expected) < 5


def test_no_number_is_black() -> None:
    values = VALUES.astype(np.float32) / 255
    values[:, : WIDTH // 2] = np.nan
    expected = Image.composite(ACROSS, Image.new("L", PICTURE.size, 0), HALF)
    assert difference(anew(written(grey(values), "TIFF"), JPEG), expected) < 5


# -- size --------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60_000), st.integers(1, 60_000), st.integers(16, 5_000))
def test_scaling_keeps_the_aspect_within_a_pixel_and_never_enlarges(width: int, height: int, max_side: int) -> None:
    scaled = scaled_size((width, height), max_side)
    assert scaled_size((height, width), max_side) == scaled[::-1]
    if max(width, height) <= max_side:
        assert scaled == (width, height)
        return
    assert max(scaled) == max_side
    assert min(scaled) >= 1
    factor = max_side / max(width, height)
    assert all(abs(new - max(1, old * factor)) <= 0.5 for old, new in zip((width, height), scaled, strict=True))


def test_without_a_longest_side_nothing_is_scaled() -> None:
    assert scaled_size((70_000, 3), None) == (70_000, 3)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(16, 300), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_images_are_made_as_small_as_said(width: int, height: int, max_side: int, format_: str) -> None:
    data = written(PICTURE.resize((width, height)), format_)
    encoded = encode(data, probe(data), Encode(max_side=max_side))
    assert opened(encoded or data).size == scaled_size((width, height), max_side)


@pytest.mark.parametrize("size", [(1_000, 750), (1_023, 769), (2_048, 1_536), (5_000, 400)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_decoded_in_part_is_the_same_picture(size: tuple[int, int], mode: str) -> None:
    large = PICTURE.resize(size, Image.Resampling.BICUBIC).convert(mode)
    image = anew(written(large, "JPEG"), Encode(max_side=256))
    expected = large.convert("RGB").resize(image.size, Image.Resampling.BOX)
    assert image.size == scaled_size(size, 256)
    assert difference(image, expected) < 3


# -- EXIF, profiles, and the rest of metadata --------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_an_image_encoded_anew_stands_upright(format_: str, turned: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = turned
    data = written(PICTURE, format_, exif=tags)
    for max_side in (None, 40):
        how = Encode(format="webp" if format_ == "JPEG" else "jpeg", max_side=max_side, quality=100)
        image = anew(data, how)
        upright = ImageOps.exif_transpose(opened(data))
        assert image.size == scaled_size(upright.size, max_side)
        assert difference(image, upright.resize(image.size, Image.Resampling.BOX)) < 6


def test_a_profile_stays_where_it_still_describes_the_pixels() -> None:
    rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey_profile = rgb[:16] + b"GRAY" + rgb[20:]
    long = rgb + bytes(MAX_PROFILE_BYTES)
    kept = {
        ("RGB", rgb): True,
        ("RGBA", rgb): True,
        ("P", rgb): True,
        ("L", grey_profile): True,
        ("L", rgb): False,
        ("RGB", grey_profile): False,
        ("RGB", long): False,
    }
    for (mode, profile), is_kept in kept.items():
        data = written(PICTURE.convert(mode), "TIFF", icc_profile=profile)
        assert anew(data, JPEG).info.get("icc_profile") == (profile if is_kept else None), mode
        is_grey = profile == grey_profile
        assert anew(data, WEBP).info.get("icc_profile") == (None if is_grey or profile == long else profile), mode
    cmyk = written(PICTURE.convert("CMYK"), "JPEG", icc_profile=rgb[:16] + b"CMYK" + rgb[20:])
    assert "icc_profile" not in anew(cmyk, JPEG).info


def test_other_metadata_goes() -> None:
    tags = Image.Exif()
    tags[0x010E] = "where I live"
    jpeg = written(PICTURE, "JPEG", exif=tags, comment=b"where I live", xmp=b"where I live", dpi=(300, 300))
    png = written(PICTURE, "PNG", exif=tags, dpi=(300, 300))
    for data, how in ((jpeg, Encode(max_side=32)), (jpeg, WEBP), (png, Encode(max_side=32)), (png, JPEG)):
        encoded = encode(data, probe(data), how)
        assert encoded is not None
        assert b"where I live" not in encoded
        assert not {"exif", "comment", "xmp", "dpi"} & set(opened(encoded).info)


def test_a_jpeg_is_written_plainly_with_the_quality_asked_for() -> None:
    data = written(PICTURE.resize((256, 192)).effect_spread(5), "PNG")
    sizes = []
    for quality in (None, 95, 50):
        image: Any = anew(data, Encode(format="jpeg", quality=quality))
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)], "4:2:0"
        assert "progressive" not in image.info
        sizes.append(len(encode(data, probe(data), Encode(format="jpeg", quality=quality)) or b""))
    assert sizes[0] == sizes[1] > sizes[2]


# -- what cannot be decoded --------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8) -> bytes:
    """A grey PNG that claims a size and holds these chunks."""
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def with_scans(times: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = written(PICTURE, "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * times + data[-2:]


NOISE = random.Random(3).randbytes(WIDTH * HEIGHT)
BROKEN = {
    "no pixels": (png(9, 9, chunk(b"IDAT", b"")), "image file is truncated"),
    "too few pixels": (png(64, 48, chunk(b"IDAT", zlib.compress(NOISE)[:1_000])), "unrecognized data stream contents"),
    "no zlib": (png(9, 9, chunk(b"IDAT", NOISE)), "broken data stream when reading image file"),
    "cut": (written(PICTURE, "JPEG")[:-300], "image file is truncated"),
    "no image": (b"<!doctype html>", "not an image"),
    "bomb": (png(20_000, 20_000, chunk(b"IDAT", b"")), "Image size (400000000 pixels) exceeds limit"),
    "scans": (with_scans(MAX_SCANS), f"more than {MAX_SCANS} scans"),
    "texts": (
        png(9, 9, chunk(b"IDAT", zlib.compress(bytes(90))), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))),
        "Decompressed data too large",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_decoded_is_said_shortly(name: str) -> None:
    data, reason = BROKEN[name]
    problem = decode_problem(data)
    assert problem is not None
    assert problem.startswith(reason)
    assert len(problem) <= 200 and "\n" not in problem and "0x" not in problem
    with pytest.raises(Undecodable) as caught:
        encode(data, Probe("ok", "PNG", 9, 9, 9, 9, "L"), JPEG)
    assert str(caught.value) == problem


def test_libtiff_does_not_write_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(written(PICTURE, "TIFF", compression="tiff_adobe_deflate"))
    data[8:40] = bytes(32)
    assert probe(bytes(data)).status == "ok"
    assert decode_problem(bytes(data)) == "decoder error -2"
    os.write(2, b"but others may")
    assert capfd.readouterr().err == "but others may"


def test_what_the_wanted_format_cannot_hold_is_said() -> None:
    wide = png(17_000, 1, chunk(b"IDAT", zlib.compress(bytes(17_001))))
    with pytest.raises(Undecodable, match=r"^encoding error 5"):
        encode(wide, probe(wide), WEBP)
    assert anew(wide, Encode(format="webp", max_side=16_000)).size == (16_000, 1)


@pytest.mark.parametrize(
    "data",
    [case[1] for case in (*SO, *NOT_SO)] + [case[0] for case in MODES.values()] + [with_scans(20)],
)
def test_what_can_be_decoded_has_no_problem(data: bytes) -> None:
    assert decode_problem(data) is None


def test_scans_are_counted_in_the_image_alone() -> None:
    jpeg = with_scans(MAX_SCANS - 20)
    inside = b"\xff\xe1" + struct.pack(">H", 2 + 60_000) + b"\xff\xda" * 30_000
    for data in (jpeg, jpeg[:2] + inside + jpeg[2:], jpeg + b"\xff\xda" * 1_000):
        assert decode_problem(data) is None


def test_films_cost_no_more_than_their_first_frame() -> None:
    frames = [Image.new("P", (500, 500), number % 256) for number in range(1_000)]
    gif = written(frames[0], "GIF", save_all=True, append_images=frames[1:])
    webp = written(PICTURE.resize((500, 500)), "WEBP", save_all=True, append_images=[PICTURE.resize((500, 500))] * 50)
    started = time.process_time()
    for data in (gif, webp):
        assert decode_problem(data) is None
        assert anew(data, Encode(format="jpeg", max_side=100)).size == (100, 100)
    assert time.process_time() - started < 1


WHOLE = [written(PICTURE, format_) for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]


@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), max_size=8),
    st.sampled_from([JPEG, WEBP, Encode(max_side=16)]),
)
def test_damage_gives_an_image_or_a_reason(data: bytes, changes: list[tuple[int, int]], how: Encode) -> None:
    damaged = bytearray(data)
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    seen = probe(bytes(damaged))
    if seen.status != "ok":
        return
    problem = decode_problem(bytes(damaged))
    assert problem is None or 0 < len(problem) <= 200
    try:
        encoded = encode(bytes(damaged), seen, how)
    except Undecodable as error:
        assert 0 < len(str(error)) <= 200
    else:
        assert encoded is None or probe(encoded).status == "ok"
