"""Pixels as a CLIP model takes them, from an image's bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from prep.images.encode import Undecodable, reasons
from prep.images.probe import open_image

__all__ = ["CLIP", "HPS", "Preprocessing", "Undecodable", "pixels"]


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pixels.

    Attributes:
        name: for the passport; of all that changes a pixel, `draft` among it: a JPEG is decoded at a half, a quarter
            or an eighth where its shorter side stays at least twice `side`.
        fit: `crop` scales the shorter side to `side` and takes the middle; `pad` scales the longer one and puts the
            image in the middle of black.
        side: in pixels.
    """

    name: str
    fit: Literal["crop", "pad"]
    side: int = 224


# OpenAI's own transform; open_clip's is the same.
CLIP = Preprocessing("224 px, bicubic, centre crop, RGB without alpha, no EXIF turn, JPEG draft from 448 px", "crop")
# What HPSv2 scores with: `resize_longest_max`, filled with 0 before the pixels are normalised.
HPS = Preprocessing("224 px, bicubic, black padding, RGB without alpha, no EXIF turn, JPEG draft from 448 px", "pad")


def pixels(data: bytes, how: Preprocessing) -> np.ndarray:
    """The first frame as uint8 of shape [side, side, 3].

    What is transparent shows the colour stored beneath it, and 16-bit grey is cut at 255, as Pillow's `convert("RGB")`
    has it in the models' own code. EXIF's orientation is not applied: those that trained the models did not.

    Raises:
        Undecodable: with a short reason.
    """
    with reasons(data), open_image(data) as image:
        size = image.size
        drafted = image.draft(None, (2 * how.side, 2 * how.side))
        width, height = drafted[1][2:] if drafted else size
        resize = _cropped if how.fit == "crop" else _padded
        return np.asarray(resize(image.convert("RGB"), size, width / size[0], height / size[1], how.side))


def _cropped(image: Image.Image, size: tuple[int, int], right: float, down: float, side: int) -> Image.Image:
    """The middle, of the shorter side's length; sizes are cut and places rounded as torchvision does.

    Only the pixels that stay are computed: an image of 10 x 100,000 pixels would be 1.5 GB when scaled.

    Args:
        size: width and height in pixels before a JPEG was drafted.
        right, down: how long a drafted pixel is, against one of `size`.
    """
    shorter = min(size)
    wide, high = (int(side * length / shorter) for length in size)
    left, top = round((wide - side) / 2), round((high - side) / 2)
    across, along = size[0] / wide * right, size[1] / high * down
    end = min((left + side) * across, image.width), min((top + side) * along, image.height)
    return image.resize((side, side), Image.Resampling.BICUBIC, (left * across, top * along, *end))


def _padded(image: Image.Image, size: tuple[int, int], right: float, down: float, side: int) -> Image.Image:
    """The whole image in the middle of a black square; the arguments are those of `_cropped`."""
    wide, high = (max(1, round(length * side / max(size))) for length in size)
    square = Image.new("RGB", (side, side))
    small = image.resize((wide, high), Image.Resampling.BICUBIC, (0, 0, size[0] * right, size[1] * down))
    square.paste(small, ((side - wide) // 2, (side - high) // 2))
    return square
