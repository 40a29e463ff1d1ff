"""ConvLLaVA's sixteen collections beside the small world: lists, the tree, entries, judged by its dataset class."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import convllava_loader
from prep.config import Catalogue
from prep.publishers import World
from prep.publishers.llava import MIX, MIX_ROWS, mix_source
from prep.trainers.convllava import FOLDERS, LINKS, NAMES, read_module
from worlds import make_workspace, prep, prep_json


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, running_world: World) -> Path:
    recipe = yaml.safe_load(Catalogue().recipe_path("convllava").read_text())
    workspace = make_workspace(tmp_path_factory.mktemp("convllava") / "w", recipe, running_world, workers=2)
    result = prep_json(workspace, "run", world=running_world)
    for outcome in result["outcomes"]:
        if outcome["stage"] == "filter":  # no row vanishes
            assert outcome["rows"] + sum(outcome["counts"].values()) == outcome["facts"]["rows_in"], outcome
    assert prep(workspace, "layout", "convllava").returncode == 0
    return workspace


def judged(module: Path) -> dict[str, int]:
    """Rows of every list that the module names, each built as training builds it."""
    paths, _ = read_module(module)
    counts: dict[str, int] = {}
    for name, (json_path, image_folder) in paths.items():
        data: Any = convllava_loader.Dataset(json_path, image_folder)
        counts[name] = sum(1 for row in range(len(data)) if data[row].turns)
    return counts


def test_every_row_of_all_nine_can_be_trained_on(root: Path) -> None:
    counts = judged(root / "training/convllava.py")
    assert counts.keys() == NAMES.keys() and min(counts.values()) > 0


def sources(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    return Counter(map(mix_source, rows))


def test_rows_of_each_source_are_kept_or_dropped_with_a_reason(root: Path) -> None:
    published = json.loads((root / "raw/llava-mix665k" / MIX).read_text())
    assert {source: count for source, count in sources(published).items() if source} == MIX_ROWS
    paths, _ = read_module(root / "training/convllava.py")
    list_, folder = paths["llava665k"]
    kept = [published[int(row["id"].rpartition("#")[2])] for row in json.loads(Path(list_).read_text())]
    lost = pd.read_parquet(root / "dropped/llava-mix665k.parquet")
    dropped = [published[row] for row in lost["row"]]
    assert sources(kept) + sources(dropped) == sources(published)
    assert {source: count for source, count in sources(dropped).items() if source} == {
        "coco": 7,
        "vg": 1,
        "gqa": 1,
        "ocr_vqa": 2,
        "text": 1,
    }
    assert lost["reason"].notna().all() and Path(folder).is_dir()


def test_the_tree_is_the_guides_and_serves_the_same_rows(root: Path) -> None:
    tree = root / "data"
    assert {folder for folder in FOLDERS if not (tree / folder).is_dir()} == set()
    assert {link: (tree / link).readlink().as_posix() for link in LINKS} == dict(LINKS)
    assert {name for name, builder in NAMES.items() if not (tree / builder.json_path).is_file()} == set()
    done = prep(root, "emit", "--format", "convllava", "--root", "data", "-o", "there.py")
    assert done.returncode == 0, done.stderr
    assert judged(root / "there.py") == judged(root / "training/convllava.py")
    suffixes = Counter(path.suffix for path in (tree / "ocr_vqa/images").iterdir())
    assert suffixes.keys() == {".jpg"}


def test_a_second_run_and_a_second_layout_do_nothing(root: Path) -> None:
    done = prep(root, "run")
    assert done.returncode == 0 and "Nothing to do" in done.stdout, done.stdout + done.stderr
    before = {path: path.lstat().st_mtime_ns for path in (root / "data").rglob("*")}
    assert prep(root, "layout", "convllava").returncode == 0
    assert {path: path.lstat().st_mtime_ns for path in (root / "data").rglob("*") if path in before} == before
