"""How near an image and its caption are to CLIP: the cosine, about 0.1 to 0.35 (not times 100, as some publish it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from prep.scorers import pixels
from prep.scorers.clip import CONFIG, MODEL, TOKENIZER, ClipTower, load_clip
from prep.scorers.model import Parts
from prep.scorers.weights import Weight

if TYPE_CHECKING:
    from torch import Tensor

FILES = (CONFIG, MODEL, TOKENIZER)
PREPROCESSING = pixels.CLIP


def load(weights: Mapping[str, Weight], device: str, dtype: str) -> Parts:
    """The model of `FILES`; raises DataError where they are no such model's."""
    return cosine(load_clip(weights, device, dtype))


def cosine(tower: ClipTower) -> Parts:
    """The cosine of image and caption as the score."""

    def run(pixels: Tensor, texts: list[str]) -> Tensor:
        return (tower.embed_images(pixels) * tower.embed_texts(texts)).sum(dim=-1, keepdim=True)

    return Parts(run, lambda cosines: cosines[:, 0].astype(np.float64))
