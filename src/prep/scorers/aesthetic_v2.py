"""LAION's improved aesthetic predictor: a perceptron without activations; COYO's `aesthetic_score_laion_v2`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prep.scorers import pixels
from prep.scorers.clip import CONFIG, MODEL
from prep.scorers.heads import WIDTH, Head, read_head, with_clip
from prep.scorers.model import Parts
from prep.scorers.weights import Weight, WeightFile

HEAD = WeightFile(
    "sac+logos+ava1-l14-linearMSE.pth",
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth",
    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    3_714_759,
)
FILES = (CONFIG, MODEL, HEAD)
PREPROCESSING = pixels.CLIP
LAYERS = [f"layers.{number}." for number in (0, 2, 4, 6, 7)]  # what lies between them, dropout, scores nothing
WIDTHS = [WIDTH, 1024, 128, 64, 16, 1]  # 927,969 parameters


def load_head(path: Path) -> Head:
    """The head of a file.

    Raises:
        DataError: it holds another one, such as the variant with ReLU.
    """
    return read_head(path, LAYERS, WIDTHS)


def load(weights: Mapping[str, Weight], device: str, dtype: str) -> Parts:
    """The model of `FILES`; raises DataError where they are no such model's."""
    return with_clip(load_head(weights[HEAD.name].path), weights, device, dtype)
