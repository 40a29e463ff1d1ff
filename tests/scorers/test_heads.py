"""LAION's heads: their arithmetic, and files that hold another one."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import write_heads
from prep.errors import DataError
from prep.scorers import aesthetic_v1, aesthetic_v2
from prep.scorers.heads import WIDTH

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heads")
    write_heads(path)
    return path


def unit(count: int) -> np.ndarray:
    rows: np.ndarray = np.random.default_rng(1).normal(size=(count, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def held(folder: Path, module: Any) -> dict[str, Any]:
    return dict(torch.load(folder / module.HEAD.name, weights_only=True))


def test_v1_is_one_linear_layer(folder: Path) -> None:
    rows, state = unit(5), held(folder, aesthetic_v1)
    weight, bias = (state[name].numpy().astype(np.float64) for name in ("weight", "bias"))
    expected = (rows.astype(np.float64) * weight).sum(axis=1) + bias
    found = aesthetic_v1.load_head(folder / aesthetic_v1.HEAD.name).score(rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_v2_is_five_linear_layers_without_activations(folder: Path) -> None:
    rows, state = unit(5), held(folder, aesthetic_v2)
    assert sum(tensor.numel() for tensor in state.values()) == 927_969
    expected = rows.astype(np.float64)
    for number in (0, 2, 4, 6, 7):
        weight, bias = (state[f"layers.{number}.{name}"].numpy().astype(np.float64) for name in ("weight", "bias"))
        expected = np.einsum("ni,oi->no", expected, weight) + bias
    found = aesthetic_v2.load_head(folder / aesthetic_v2.HEAD.name).score(rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-5)


def test_scores_do_not_depend_on_what_else_is_scored(folder: Path) -> None:
    head, rows = aesthetic_v2.load_head(folder / aesthetic_v2.HEAD.name), unit(33)
    alone = [float(head.score(rows[at : at + 1])[0]) for at in range(33)]
    np.testing.assert_allclose(alone, head.score(rows), rtol=1e-6)
    assert head.score(rows[:0]).tolist() == []


def test_a_state_in_half_precision_is_taken(folder: Path, tmp_path: Path) -> None:
    halves = OrderedDict((name, tensor.half()) for name, tensor in held(folder, aesthetic_v1).items())
    torch.save(halves, tmp_path / "head.pth")
    found, rows = aesthetic_v1.load_head(tmp_path / "head.pth").score(unit(3)), unit(3)
    np.testing.assert_allclose(found, aesthetic_v1.load_head(folder / aesthetic_v1.HEAD.name).score(rows), rtol=1e-2)


def test_other_heads_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    v2 = held(folder, aesthetic_v2)
    relu = {name.replace("layers.2.", "layers.3."): tensor for name, tensor in v2.items()}
    wide = {**v2, "layers.7.weight": torch.zeros(1, 17)}
    unfinished = {**v2, "layers.7.bias": torch.tensor([float("nan")])}
    sparse = {**v2, "layers.7.weight": v2["layers.7.weight"].to_sparse()}
    whole = {**v2, "layers.7.bias": torch.tensor([5])}
    complex_ = {**v2, "layers.7.bias": torch.tensor([5 + 1j])}
    for state, words in (
        (relu, "another head"),
        (wide, "another head"),
        (unfinished, "not finite"),
        (sparse, "no plain floats"),
        (whole, "no plain floats"),
        (complex_, "no plain floats"),
    ):
        torch.save(state, path)
        with pytest.raises(DataError, match=words):
            aesthetic_v2.load_head(path)
    with pytest.raises(DataError, match="another head"):
        aesthetic_v1.load_head(folder / aesthetic_v2.HEAD.name)
    with pytest.raises(DataError, match="another head"):
        aesthetic_v2.load_head(folder / aesthetic_v1.HEAD.name)
    torch.save({"layers": {"weight": torch.zeros(1)}, "epoch": 3}, path)
    with pytest.raises(DataError, match="another head"):
        aesthetic_v1.load_head(path)
