"""Datasets of the catalogue taken through the whole line beside the small world, and what came out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

import contract_loader
from prep.publishers import World
from prep.schema import IMAGE_KEY, KEY, KINDS, ROW, URL
from worlds import make_workspace, prep_json


@dataclass
class Finished:
    """A workspace after `prep run`, and what that printed with `--json`."""

    root: Path
    result: dict[str, Any]

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Kept rows in order, the trainer's columns alone, image paths from the image store on."""
        return self._read(self.root / "filtered" / f"{table}.parquet")

    def text_rows(self, table: str) -> list[dict[str, Any]]:
        """Kept rows without an image."""
        return self._read(self.root / "filtered" / f"{table}-text.parquet")

    def dropped(self, table: str) -> dict[str, str]:
        """Key -> reason."""
        frame = pd.read_parquet(self.root / "dropped" / f"{table}.parquet")
        return dict(zip(frame["key"], frame["reason"], strict=True))

    def entries(self) -> list[dict[str, Any]]:
        """Entries of the training YAML."""
        [path] = (self.root / "training").glob("*.yaml")
        return contract_loader.load_yaml(path)

    def samples(self, table: str) -> list[dict[str, Any]]:
        """What the loader builds of every row of the table's entries, its images opened."""
        entries = [entry for entry in self.entries() if Path(entry["json_path"]).stem in (table, f"{table}-text")]
        assert entries, table
        return [
            contract_loader.build_sample(entry, row)
            for entry in entries
            for row in range(len(contract_loader.load_entry(entry)))
        ]

    def _read(self, folder: Path) -> list[dict[str, Any]]:
        store = f"{self.root / 'images'}/"
        ours = {KEY, ROW, IMAGE_KEY, URL}
        rows = pq.read_table(folder).to_pylist()
        return [{name: _below(value, store) for name, value in row.items() if name not in ours} for row in rows]


def _below(value: Any, store: str) -> Any:
    """Paths of images cut to what follows the store's root, also in lists."""
    if isinstance(value, list):
        return [_below(item, store) for item in value]
    return value.removeprefix(store) if isinstance(value, str) else value


def finish(root: Path, entries: Sequence[Mapping[str, Any]], world: World) -> Finished:
    """Run the whole line for a recipe of these entries in a new workspace at `root / "workspace"`."""
    recipe = {"name": "tried", "entries": [dict(entry) for entry in entries]}
    workspace = make_workspace(root / "workspace", recipe, world)
    result = prep_json(workspace, "run", world=world)
    for outcome in result["outcomes"]:
        if outcome["stage"] == "filter":
            assert outcome["rows"] + sum(outcome["counts"].values()) == outcome["facts"]["rows_in"], outcome
    assert set(KINDS) >= {o["facts"]["kind"] for o in result["outcomes"] if o["stage"] == "filter"}
    return Finished(workspace, result)
