"""The published third stage, rebuilt beside the small world: every entry that public data allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import contract_loader
from prep.config import Catalogue, Recipe, load
from prep.publishers import World
from worlds import make_workspace, prep, prep_json

NAME = "lavida-o-s3"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, running_world: World) -> Path:
    recipe = yaml.safe_load(Catalogue().recipe_path(NAME).read_text())
    workspace = make_workspace(tmp_path_factory.mktemp("recipe") / "w", recipe, running_world, workers=2)
    result = prep_json(workspace, "run", world=running_world)
    assert [finding["level"] for finding in result["check"]["findings"]] == ["warning"] * 5
    return workspace


def entries(root: Path) -> list[dict[str, Any]]:
    return contract_loader.load_yaml(root / f"training/{NAME}.yaml")


def test_every_public_entry_is_there_in_order(root: Path) -> None:
    recipe = load(Recipe, Catalogue().recipe_path(NAME))
    public = [entry for entry in recipe.entries if not entry.not_public]
    text_only = {"vw": "vw-text", "mammoth-s": "mammoth-s-text"}
    expected = [name for entry in public for name in (entry.label, text_only.get(entry.label)) if name]
    assert [entry["name"] for entry in entries(root)] == expected and len(public) == 23
    text = (root / f"training/{NAME}.yaml").read_text()
    for entry in recipe.entries:
        assert (f"# Left out: {entry.table} (not public: " in text) == bool(entry.not_public), entry.table


def test_the_loader_builds_every_row(root: Path) -> None:
    copies = {"all": 1, "dup:1": 1, "dup:2": 2, "dup:3": 3}
    for entry in entries(root):
        whole = pd.read_parquet(entry["json_path"])
        drawn = contract_loader.load_entry(entry)
        assert len(drawn) == len(whole) * copies[entry["sampling_strategy"]] > 0, entry["name"]
        for row in range(len(whole)):
            sample = contract_loader.build_sample(entry, row)
            assert bool(sample["images"]) != entry["name"].endswith("-text"), entry["name"]


def test_what_is_left_out_is_told_and_what_is_there_is_up_to_date(root: Path) -> None:
    done = prep(root, "run")
    assert done.returncode == 0 and "Nothing to do" in done.stdout, done.stdout + done.stderr
    shown = prep(root, "recipe", "show")
    assert shown.returncode == 0 and "not public" in shown.stdout
