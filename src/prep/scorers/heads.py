"""LAION's heads: linear layers one after the other, which turn an embedding into a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from prep.errors import DataError
from prep.scorers.clip import CONFIG, MODEL, load_clip
from prep.scorers.model import Parts
from prep.scorers.weights import Weight, read_tensors

WIDTH = 768  # of ViT-L/14's embeddings


@dataclass(frozen=True)
class Head:
    """Layers without activations between them, as float32: weights [out, in] and biases [out]."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores, float64 [n], of embeddings of length 1, [n, 768]."""
        values = np.asarray(embeddings, np.float32)
        for weight, bias in self.layers:
            values = values @ weight.T + bias
        return values[:, 0].astype(np.float64)


def read_head(path: Path, names: Sequence[str], widths: Sequence[int]) -> Head:
    """A head from its state dict.

    Args:
        names: of its layers, as its keys begin.
        widths: of what goes in, of what each layer gives on.

    Raises:
        DataError: other keys or shapes, or no numbers.
    """
    import torch

    state = read_tensors(path)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (wide, narrow) in zip(names, pairwise(widths), strict=True):
        shapes |= {f"{name}weight": (narrow, wide), f"{name}bias": (narrow,)}
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    if found != shapes:
        raise DataError(f"{path} is another head: it has {found}, not {shapes}", "Give the file of this scorer.")
    if not all(tensor.is_floating_point() and tensor.layout is torch.strided for tensor in state.values()):
        raise DataError(f"{path} has tensors that are no plain floats", "Fetch it anew.")
    arrays = {name: tensor.float().numpy() for name, tensor in state.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DataError(f"{path} has numbers that are not finite", "Fetch it anew.")
    return Head(tuple((arrays[f"{name}weight"], arrays[f"{name}bias"]) for name in names))


def with_clip(head: Head, weights: Mapping[str, Weight], device: str, dtype: str) -> Parts:
    """The head on CLIP's image tower.

    Raises:
        DataError: the files are no CLIP model's, or of one whose embeddings are not as wide as the head takes them.
    """
    tower = load_clip({name: weights[name] for name in (CONFIG.name, MODEL.name)}, device, dtype)
    if tower.width != WIDTH:
        raise DataError(
            f"{weights[CONFIG.name].path}: embeddings of {tower.width} numbers; the head takes {WIDTH}",
            "Give CLIP ViT-L/14.",
        )
    return Parts(lambda pixels, texts: tower.embed_images(pixels), head.score)
