"""The whole line with scores: beside the small world, and with torch through the command itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median_low
from typing import Any

import pyarrow.parquet as pq
import pytest

import contract_loader
from plain_scorer import PICTURES, PlainLoading
from prep import progress
from prep.publishers import World
from prep.scorers.scorer import SCORERS, Passport
from prep.stages.score import score_table
from prep.workspace import Workspace
from worlds import make_workspace, prep, prep_json

RECIPE = {
    "name": "scored",
    "entries": [
        {"table": "blip3o-60k", "min_size": 512, "aes_cutoff": 6},
        {"table": "laion-2b", "min_size": 512, "aes_cutoff": 6, "group": "urls"},
    ],
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    progress.use(progress.no_bar)
    yield
    progress.use(progress.tqdm_bar)


def column(root: Path, folder: str, table: str, name: str) -> list[Any]:
    values: list[Any] = pq.read_table(root / folder / f"{table}.parquet")[name].to_pylist()
    return values


def test_tables_without_scores_get_them_and_the_loader_cuts_where_filter_did(world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w", RECIPE, world)
    first = prep_json(root, "run", world=world)
    notes = {o["name"]: o.get("note", "") for o in first["outcomes"] if o["stage"] == "filter"}
    for table in ("blip3o-60k", "laion-2b"):
        assert notes[table] == f"no aesthetic scores, so no aes_cutoff; `prep score {table}` computes scores"
    cutoffs = {}
    for table in notes:
        outcome = score_table(Workspace(root), table, SCORERS["aesthetic-v2"], PlainLoading())
        assert outcome.manifest is not None and outcome.manifest.counts.keys() == {"ok"}
        cutoffs[table] = median_low(column(root, "scores/aesthetic-v2", table, "score"))
        prep_json(root, "filter", table, "--aes-cutoff", str(cutoffs[table]))
    prep_json(root, "run", world=world)
    entries = contract_loader.load_yaml(root / "training/scored.yaml")
    assert {entry["name"]: entry["aes_cutoff"] for entry in entries} == cutoffs
    for entry in entries:
        table = entry["name"]
        loaded = contract_loader.load_entry(entry)
        scores = column(root, "scores/aesthetic-v2", table, "score")
        assert loaded["fltLaionAesthScore"].tolist() == column(root, "filtered", table, "fltLaionAesthScore")
        assert sorted(loaded["fltLaionAesthScore"]) == sorted(score for score in scores if score > cutoffs[table])
        assert column(root, "dropped", table, "reason").count("aes_cutoff") == len(scores) - len(loaded) > 0
        for row in range(len(loaded)):
            contract_loader.build_sample(entry, row)
    again = prep_json(root, "run", world=world)
    assert {outcome["state"] for outcome in again["outcomes"]} == {"up to date"}


def test_rows_that_looser_rules_let_in_are_fetched_and_then_scored(world: World, tmp_path: Path) -> None:
    recipe = {"name": "r", "entries": [{"table": "laion-2b", "min_size": 800}]}
    root = make_workspace(tmp_path / "w", recipe, world)
    prep_json(root, "run", world=world)
    score_table(Workspace(root), "laion-2b", SCORERS["aesthetic-v2"], PlainLoading())
    before = len(column(root, "scores/aesthetic-v2", "laion-2b", "row"))
    prep_json(root, "filter", "--min-size", "512", "--aes-cutoff", "0")
    assert "image_not_fetched" in column(root, "dropped", "laion-2b", "reason")
    PICTURES.clear()
    prep_json(root, "run", world=world)
    outcome = score_table(Workspace(root), "laion-2b", SCORERS["aesthetic-v2"], PlainLoading())
    assert outcome.manifest is not None and len(PICTURES) == outcome.manifest.rows - before > 0
    prep_json(root, "run", world=world)
    assert not {"no_score", "image_not_fetched"} & {*column(root, "dropped", "laion-2b", "reason")}


def test_what_the_command_says_without_a_model(world: World, tmp_path: Path) -> None:
    recipe = {"name": "r", "entries": [{"table": "blip3o-60k"}, {"table": "grand-f-refcocog"}]}
    root = make_workspace(tmp_path / "w", recipe, world)
    assert "score     blip3o-60k        waits  (filter first)" in prep(root, "score").stdout
    prep_json(root, "run", world=world)
    planned = prep(root, "score", "--dry-run")
    assert planned.stdout.splitlines() == [
        "score     blip3o-60k        11 of 11 to do  (aesthetic-v2: 71 images)",
        "score     grand-f-refcocog  nothing to do  "
        "(passed over: table grand-f-refcocog: grounded-caption samples have no use for scores of aesthetic-v2)",
    ]
    for arguments, words in (
        (["--scorer", "aesthetic-v3"], "--scorer aesthetic-v3 is unknown; did you mean 'aesthetic-v2'?"),
        (["blip"], "'blip' is neither a dataset nor a table of this workspace; did you mean 'blip3o-60k'?"),
        (["grand-f-refcocog"], "grounded-caption samples have no use for scores of aesthetic-v2"),
        (["--output", "x.parquet"], "--output is for --embeddings without a table"),
        (["--embeddings", "a.npy", "blip3o-60k", "grand-f-refcocog"], "--embeddings are for one table"),
        (["--embeddings", "a.npy", "--embeddings", "b.npy", "-o", "c"], "--output is for one file, and 2 are given"),
        (["--weights", "/none"], "/none lacks 3 of 3 files"),
    ):
        done = prep(root, "score", *arguments)
        assert done.returncode == 1 and words in done.stderr, done.stderr
    refused = prep(root, "score", "--weights", "")
    assert refused.returncode == 2 and "Invalid value for '--weights': its name is empty" in refused.stderr
    refused = prep(root, "filter", "--scorer", "hpsv2")
    assert refused.returncode == 1 and "--scorer: Input should be 'aesthetic-v1'" in refused.stderr


def test_tiny_models_through_the_real_command(world: World, tmp_path: Path) -> None:
    for library in ("torch", "transformers"):
        pytest.importorskip(library, reason="the extra `score` is not installed")
    import numpy as np

    from checkpoints import write_weights

    weights = write_weights(tmp_path / "weights")
    root = make_workspace(tmp_path / "w", {"name": "r", "entries": [{"table": "blip3o-60k"}]}, world)
    prep_json(root, "run", world=world)
    rows = len(column(root, "filtered", "blip3o-60k", "key"))
    for scorer in ("aesthetic-v2", "hpsv2", "clip-similarity"):
        command = ["score", "--scorer", scorer, "--weights", weights, "--device", "cpu", "--workers", "1"]
        [outcome] = prep_json(root, *command)["outcomes"]
        assert (outcome["state"], outcome["counts"]) == ("done", {"ok": rows})
        [passport] = [Passport(**data) for data in outcome["facts"]["passports"]]
        assert passport.scale.startswith(f"{SCORERS[scorer].scale} with other weights (")
        assert passport.dtype == "fp32" and set(passport.libraries) >= {"torch", "transformers"}
        for again in (command, [*command, "--dry-run"]):
            assert [(o["state"], o["rows"]) for o in prep_json(root, *again)["outcomes"]] == [("up to date", rows)]
    prep_json(root, "filter", "--where", "clip_similarity > -2")
    [filtered] = prep_json(root, "filter")["outcomes"]
    assert filtered["facts"]["columns"] == [
        "s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth", "hpsv2",
    ]  # fmt: skip
    assert filtered["rows"] + filtered["counts"].get("aes_cutoff", 0) > 0

    embeddings = np.random.default_rng(0).standard_normal((3, 768)).astype(np.float32)
    np.save(tmp_path / "e.npy", embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    [found] = prep_json(root, "score", "--embeddings", tmp_path / "e.npy", "--weights", weights)["files"]
    assert found["counts"] == {"ok": 3} and found["low"] <= found["mean"] <= found["high"]
    assert json.loads(json.dumps(found))["output"] == str(tmp_path / "e.npy.scores.parquet")
