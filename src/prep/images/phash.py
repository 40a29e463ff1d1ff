"""A perceptual hash: 64 bits of an image's coarse structure, which copies of one picture share but for a few."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from prep.images.encode import reasons
from prep.images.probe import open_image

VERSION = 1  # raise when the same image gets another hash
SIDE = 32  # pixels that an image is scaled to
MIN_CONTRAST = 8  # of 256 greys, between the lightest and the darkest of those pixels
LOW = 8  # frequencies across and down that count, but for the mean


def phash(data: bytes) -> int | None:
    """The hash of an image's first frame, as training opens it: without EXIF's rotation, without alpha.

    The image is made grey and 32 x 32 pixels; of its discrete cosine transform the 8 x 8 lowest frequencies are taken,
    the mean of all pixels left out for the next one; a bit says whether one is above the median of them. An image of
    hardly more than one grey has none: its bits would be noise.

    Raises:
        Undecodable: the image is broken; with a short reason.
    """
    with reasons(data), open_image(data) as image:
        image.draft(
            None, (8 * SIDE, 8 * SIDE)
        )  # a JPEG is decoded at a half, a quarter or an eighth, if that is enough
        small = image.convert("RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        grey = np.asarray(small, dtype=np.float64)
    if np.ptp(grey) < MIN_CONTRAST:
        return None
    waves = _waves()
    frequencies = (waves @ grey @ waves.T).ravel()[1:]  # the first is the mean
    low = frequencies[_lowest()]
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@cache
def _waves() -> np.ndarray:
    """The first rows of the discrete cosine transform (type II), float64 [LOW + 1, SIDE]."""
    places = (2 * np.arange(SIDE) + 1) * np.pi / (2 * SIDE)
    return np.cos(np.arange(LOW + 1)[:, None] * places[None, :])


@cache
def _lowest() -> np.ndarray:
    """Places of the 64 frequencies that count among all but the mean, int64 [LOW * LOW].

    The 8 x 8 lowest, and in the mean's place the next one down.
    """
    wide = LOW + 1
    places = [*(row * wide + column for row in range(LOW) for column in range(LOW)), LOW * wide][1:]
    return np.array(places) - 1
