"""LAION's first aesthetic predictor: one linear layer; `aesthetic` of the laion2B-*-aesthetic sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prep.scorers import pixels
from prep.scorers.clip import CONFIG, MODEL
from prep.scorers.heads import WIDTH, Head, read_head, with_clip
from prep.scorers.model import Parts
from prep.scorers.weights import Weight, WeightFile

HEAD = WeightFile(
    "sa_0_4_vit_l_14_linear.pth",
    "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
    "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
    4_071,
)
FILES = (CONFIG, MODEL, HEAD)
PREPROCESSING = pixels.CLIP


def load_head(path: Path) -> Head:
    """The head of a file.

    Raises:
        DataError: it holds another one.
    """
    return read_head(path, [""], [WIDTH, 1])


def load(weights: Mapping[str, Weight], device: str, dtype: str) -> Parts:
    """The model of `FILES`; raises DataError where they are no such model's."""
    return with_clip(load_head(weights[HEAD.name].path), weights, device, dtype)
