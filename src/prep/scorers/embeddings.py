"""Scores of CLIP embeddings that were computed before, such as LAION publishes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prep.errors import DataError
from prep.files import size_of
from prep.scorers.heads import WIDTH, Head
from prep.scorers.scorer import NOT_FINITE, OK

ZERO = "zero"  # a row of zeros, as some write for an image that could not be read
TOLERANCE = 1e-2  # of a length; rounding to float16 changes it by 1e-3 at most
BLOCK_ROWS = 65_536


class Block(NamedTuple):
    """Scores of some rows: float64 [n], NaN where there is none; and what became of each, `ok` or why not."""

    scores: np.ndarray
    statuses: list[str]


def read_embeddings(path: Path) -> np.ndarray:
    """The embeddings of a `.npy` file, [n, 768], float16, float32 or float64; they stay on the disk until used.

    Raises:
        DataError: it is no such file.
    """
    if size_of(path) is None:  # opening a pipe would never end
        raise DataError(f"{path} holds no array: no such file", f"Give a .npy file of floats, [n, {WIDTH}].")
    try:
        held = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} holds no array: {error}", f"Give a .npy file of floats, [n, {WIDTH}].") from error
    if held.ndim != 2 or held.shape[1] != WIDTH or held.dtype.kind != "f":
        raise DataError(
            f"{path} holds no CLIP ViT-L/14 embeddings but {held.dtype} {list(held.shape)}",
            f"Give a .npy file of floats, [n, {WIDTH}].",
        )
    return held


def score_embeddings(
    head: Head, embeddings: np.ndarray, about: object = "the embeddings", *, block_rows: int = BLOCK_ROWS
) -> Iterator[Block]:
    """Scores of embeddings of length 1, [n, 768], block by block.

    Args:
        about: what they are called where they cannot be scored.

    Raises:
        DataError: lengths are not 1.
    """
    for start in range(0, len(embeddings), block_rows):
        rows = np.asarray(embeddings[start : start + block_rows], np.float32)
        lengths = np.linalg.norm(rows, axis=1)
        is_finite, is_zero = np.isfinite(lengths), lengths == 0
        is_good = is_finite & ~is_zero
        _check_lengths(lengths[is_good], about)
        scores = np.full(len(rows), np.nan)
        scores[is_good] = head.score(rows[is_good])
        yield Block(scores, np.where(is_good, OK, np.where(is_zero, ZERO, NOT_FINITE)).tolist())


def _check_lengths(lengths: np.ndarray, about: object) -> None:
    """Refuse embeddings that were not normalised."""
    if (np.abs(lengths - 1) > TOLERANCE).any():
        shortest, middle, longest = lengths.min(), np.median(lengths), lengths.max()
        raise DataError(
            f"{about}: not normalised, but of lengths from {shortest:.3g} to {longest:.3g}, mostly about {middle:.3g}, "
            "not 1; the head would give scores of 20 to 30",
            "Divide each row by its length (numpy: e / np.linalg.norm(e, axis=1, keepdims=True)).",
        )
