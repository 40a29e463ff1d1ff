"""Pixels as the models' own code makes them of an image, whatever its form."""

from __future__ import annotations

import io
import resource

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from prep.scorers.pixels import CLIP, HPS, Preprocessing, Undecodable, pixels


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours and some noise."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
    noise = random.integers(-9, 10, (height, width, 3))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8))


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def reference(image: Image.Image, how: Preprocessing) -> Image.Image:
    """What torchvision does: scale the whole, then cut or pad."""
    width, height = image.size
    if how is CLIP:
        size = [int(224 * side / min(width, height)) for side in (width, height)]
        left, top = (round((side - 224) / 2) for side in size)
        return image.resize((size[0], size[1]), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    wide, high = (round(side * 224 / max(width, height)) for side in (width, height))
    square = Image.new("RGB", (224, 224))
    square.paste(image.resize((wide, high), Image.Resampling.BICUBIC), ((224 - wide) // 2, (224 - high) // 2))
    return square


def difference(one: np.ndarray, other: object) -> int:
    return int(np.abs(one.astype(int) - np.asarray(other, int)).max())


SIDES = st.integers(3, 700)


@pytest.mark.parametrize("how", [CLIP, HPS], ids=["crop", "pad"])
@given(width=SIDES, height=SIDES)
@example(width=224, height=224)
@example(width=223, height=225)
@example(width=640, height=3)
@example(width=36, height=682)
@settings(max_examples=30)
def test_pixels_are_those_of_torchvision(how: Preprocessing, width: int, height: int) -> None:
    image = photo(width, height)
    found = pixels(saved(image), how)
    assert found.shape == (224, 224, 3)
    assert found.dtype == np.uint8
    assert difference(found, reference(image, how)) <= 4  # Pillow rounds between its two passes, in the order it likes


@pytest.mark.parametrize("how", [CLIP, HPS], ids=["crop", "pad"])
@pytest.mark.parametrize("size", [(1024, 768), (3601, 2403), (896, 460)])
def test_a_jpeg_decoded_at_a_fraction_is_nearly_the_same(how: Preprocessing, size: tuple[int, int]) -> None:
    jpeg = saved(photo(*size), "JPEG", quality=95)
    with Image.open(io.BytesIO(jpeg)) as image:
        whole = np.asarray(reference(image.convert("RGB"), how), int)
    found = pixels(jpeg, how)
    assert np.abs(found - whole).mean() < 1
    assert difference(found, whole) < 16


def test_a_jpeg_and_a_png_of_the_same_pixels_are_the_same() -> None:
    jpeg = saved(photo(440, 600), "JPEG")
    with Image.open(io.BytesIO(jpeg)) as image:
        png = saved(image)
    assert difference(pixels(jpeg, CLIP), pixels(png, CLIP)) == 0


def test_a_jpeg_is_drafted_only_where_twice_the_side_is_left() -> None:
    jpeg = saved(photo(895, 1200), "JPEG")
    with Image.open(io.BytesIO(jpeg)) as image:
        assert difference(pixels(jpeg, CLIP), reference(image.convert("RGB"), CLIP)) <= 1


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (300, 300), 70), (70, 70, 70)),
        (Image.new("1", (300, 300), 1), (255, 255, 255)),
        (Image.new("P", (300, 300), 0), (0, 0, 0)),
        (Image.new("LA", (300, 300), (70, 0)), (70, 70, 70)),
        (Image.new("RGBA", (300, 300), (10, 200, 30, 0)), (10, 200, 30)),
        (Image.new("I;16", (300, 300), 200), (200, 200, 200)),
        (Image.new("I;16", (300, 300), 60_000), (255, 255, 255)),
    ],
    ids=["grey", "bits", "palette", "grey-alpha", "alpha", "dark-16-bits", "16-bits"],
)
def test_every_mode_becomes_rgb_as_pillow_converts_it(image: Image.Image, colour: tuple[int, int, int]) -> None:
    assert np.unique(pixels(saved(image), CLIP).reshape(-1, 3), axis=0).tolist() == [list(colour)]


def test_cmyk_becomes_rgb_without_a_profile() -> None:
    found = pixels(saved(Image.new("CMYK", (300, 300), (255, 0, 0, 0)), "JPEG", quality=100), CLIP)
    assert difference(found, np.full((224, 224, 3), (0, 255, 255))) <= 2


def test_the_first_frame_counts_and_exif_does_not_turn() -> None:
    red, blue = Image.new("RGB", (300, 300), "red"), Image.new("RGB", (300, 300), "blue")
    film = saved(red, "GIF", save_all=True, append_images=[blue])
    assert np.unique(pixels(film, CLIP).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo(400, 300)
    assert difference(pixels(saved(turned, "JPEG", exif=exif), CLIP), pixels(saved(turned, "JPEG"), CLIP)) == 0


@pytest.mark.parametrize("how", [CLIP, HPS], ids=["crop", "pad"])
@pytest.mark.parametrize("size", [(2, 60_000), (60_000, 2)])
def test_a_very_long_image_takes_little_memory(how: Preprocessing, size: tuple[int, int]) -> None:
    data = saved(Image.new("RGB", size, "green"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = pixels(data, how)
    assert found.max(axis=(0, 1)).tolist() == [0, 128, 0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; scaled as a whole 4.5 GB


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"<!DOCTYPE html><title>Sign in</title>", "not an image"),
        (saved(photo(300, 300), "JPEG")[:4000], "image file is truncated"),
        (saved(photo(300, 300))[:4000], "image file is truncated"),
    ],
    ids=["empty", "page", "half a JPEG", "half a PNG"],
)
def test_what_cannot_be_decoded_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        pixels(data, CLIP)
