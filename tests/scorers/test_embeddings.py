"""Scores of embeddings that are there: lengths checked, rows without one told apart, blocks that make no difference."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from prep.errors import DataError
from prep.scorers.embeddings import read_embeddings, score_embeddings
from prep.scorers.heads import WIDTH, Head

RANDOM = np.random.default_rng(0)
HEAD = Head(((RANDOM.normal(size=(1, WIDTH)).astype(np.float32), np.array([5], np.float32)),))


def unit(count: int) -> np.ndarray:
    rows: np.ndarray = RANDOM.normal(size=(count, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def test_scores_are_the_heads_in_blocks_of_any_size() -> None:
    rows = unit(10)
    whole = HEAD.score(rows)
    blocks = list(score_embeddings(HEAD, rows, block_rows=4))
    assert [len(block.scores) for block in blocks] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate([block.scores for block in blocks]), whole, rtol=1e-6)
    assert [block.statuses for block in blocks] == [["ok"] * 4, ["ok"] * 4, ["ok"] * 2]
    assert list(score_embeddings(HEAD, np.empty((0, WIDTH)))) == []


@pytest.mark.parametrize(("type_", "tolerance"), [(np.float16, 5e-3), (np.float32, 1e-6), (np.float64, 1e-6)])
def test_embeddings_of_a_file_in_any_precision(type_: type, tolerance: float, tmp_path: Path) -> None:
    rows = unit(3)
    np.save(tmp_path / "e.npy", rows.astype(type_))
    held = read_embeddings(tmp_path / "e.npy")
    assert isinstance(held, np.memmap) and held.dtype == type_
    [block] = score_embeddings(HEAD, held)
    np.testing.assert_allclose(block.scores, HEAD.score(rows), rtol=tolerance)


def test_rows_that_are_no_embedding_get_no_score() -> None:
    rows = unit(5)
    rows[1, 7], rows[2, 7], rows[3] = np.nan, np.inf, 0
    [block] = score_embeddings(HEAD, rows)
    assert block.statuses == ["ok", "not_finite", "not_finite", "zero", "ok"]
    assert np.isnan(block.scores).tolist() == [False, True, True, True, False]
    np.testing.assert_allclose(block.scores[[0, 4]], HEAD.score(rows[[0, 4]]), rtol=1e-6)


def test_embeddings_that_were_not_normalised_are_refused() -> None:
    """CLIP's own have lengths of about 10, and one row is enough."""
    with pytest.raises(
        DataError, match=r"^e\.npy: not normalised, but of lengths from 9\.5 to 10\.5, .*about 10, not 1"
    ):
        list(score_embeddings(HEAD, unit(3) * [[9.5], [10], [10.5]], "e.npy"))
    rows = unit(100)
    rows[70] *= 1.02
    with pytest.raises(DataError, match=r"1 to 1\.02"):
        list(score_embeddings(HEAD, rows))


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (np.zeros((3, 512), np.float32), r"float32 \[3, 512\]"),
        (np.zeros(WIDTH, np.float32), r"float32 \[768\]"),
        (np.zeros((3, WIDTH), np.int8), r"int8 \[3, 768\]"),
    ],
    ids=["narrow", "one row", "numbers"],
)
def test_other_arrays_are_refused(held: np.ndarray, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", held)
    with pytest.raises(DataError, match=f"no CLIP ViT-L/14 embeddings but {words}"):
        read_embeddings(tmp_path / "e.npy")


def test_files_that_hold_no_array_are_refused(tmp_path: Path) -> None:
    page, objects, several = tmp_path / "page.npy", tmp_path / "objects.npy", tmp_path / "several.npz"
    os.mkfifo(tmp_path / "pipe.npy")
    page.write_text("<!DOCTYPE html>")
    np.save(objects, np.array([{"a": 1}]), allow_pickle=True)
    np.savez(several, a=unit(2))
    for path in (page, objects, several, tmp_path / "gone.npy", tmp_path / "pipe.npy"):
        with pytest.raises(DataError, match=f"{path} holds no array"):
            read_embeddings(path)
