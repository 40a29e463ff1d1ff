"""`prep report` and `prep stats` in a workspace that the line made, beside the small world of publishers."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from report_world import Page

from prep.publishers import World
from worlds import make_workspace, prep, prep_json, snapshot

RECIPE = {
    "name": "mixture",
    "entries": [
        {"table": "coyo-700m", "group": "a", "aes_cutoff": 5.67, "min_size": 512, "where": "watermark_score < 0.8"},
        {"table": "grand-f-flickr", "group": "b", "sampling": "dup:3"},
    ],
    "weights": {"a": 3, "b": 1},
}


@pytest.fixture(scope="module")
def made(running_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which all is done."""
    root = make_workspace(tmp_path_factory.mktemp("report") / "w", RECIPE, running_world)
    done = prep(root, "run", world=running_world)
    assert done.returncode == 0, done.stderr
    return root


def reported(root: Path, *options: str) -> Any:
    return prep_json(root, "report", "-o", root / "page.html", *options)


def test_every_number_of_a_workspace(made: Path) -> None:
    found = reported(made, "--no-pictures", "--steps", "10", "--batch", "100")
    assert (made / "page.html").stat().st_size == found["size_bytes"]
    stages = {stage["stage"]: stage for stage in found["stages"]}
    amounts = {name: (stage["amount"], stage["unit"], stage["done"], stage["total"]) for name, stage in stages.items()}
    assert amounts == {
        "download": (7, "parts", 3, 3),
        "images": (59, "images", 2, 2),
        "normalize": (121, "rows", 2, 2),
        "filter": (74, "rows kept", 2, 2),
    }
    raw = [path for path in (made / "raw").rglob("*") if path.is_file() and path.name[0] not in "._"]
    stored = {
        row["path"]: row["size_bytes"]  # an address in two chunks is fetched for each, and stored once
        for name in ("coyo-700m", "flickr30k")
        for row in pq.read_table(made / "index" / f"{name}.parquet").to_pylist()
        if row["status"] == "ok"
    }
    on_disk = sum(path.stat().st_size for path in (made / "images").rglob("*") if path.is_file())
    assert stages["download"]["size_bytes"] == sum(path.stat().st_size for path in raw)
    assert sum(stored.values()) == on_disk <= stages["images"]["size_bytes"] < 1.05 * on_disk
    numbers = [(table["table"], table["samples"], table["kept"], table["note"]) for table in found["tables"]]
    assert numbers == [("coyo-700m", 82, 40, ""), ("grand-f-flickr", 39, 34, "")]
    coyo, flickr = found["details"]
    manifest = json.loads((made / "filtered" / "coyo-700m.parquet" / "_manifest.json").read_text())
    counts = Counter[str]()
    for shard in manifest["shards"]:
        counts.update(shard["counts"])
    assert {step["reason"]: step["dropped"] for step in coyo["steps"] if step["dropped"]} == dict(counts)
    left = [82, *(step["left"] for step in coyo["steps"])]
    assert [before - after for before, after in pairwise(left)] == [step["dropped"] for step in coyo["steps"]]
    assert left[-1] == coyo["kept"] == 40
    assert [(step["reason"], step["left"]) for step in flickr["steps"]] == [
        ("no_phrase", 38),
        ("short_caption", 37),
        ("small_image", 36),
        ("image_missing", 35),
        ("image_truncated", 34),
    ]
    for table in found["details"]:
        for histogram in table["histograms"]:
            assert sum(histogram["kept"]) + histogram["kept_unknown"] == table["kept"], histogram
            dropped = sum(histogram["dropped"]) + histogram["dropped_unknown"]
            assert dropped == table["rows"] - table["kept"], histogram
    names = [histogram["name"] for histogram in coyo["histograms"]]
    assert names == ["fltLaionAesthScore", "width", "height", "aspect_ratio", "text_length"]
    mixture = [(item["entry"], item["sampled"], item["share"], item["seen"]) for item in found["mixture"]]
    assert mixture == [("coyo-700m", 40, 0.75, 10 * 75 / 40), ("grand-f-flickr", 102, 0.25, 10 * 25 / 34)]


def test_images_and_provenance_of_a_workspace(made: Path) -> None:
    found = reported(made, "--no-pictures")
    coyo, flickr = found["images"]
    assert (coyo["dataset"], coyo["hosts"][0]["name"], coyo["histograms"]) == ("coyo-700m", "127.0.0.1", [])
    assert sum(host["failed"] for host in coyo["hosts"]) == sum(coyo["statuses"].values())
    assert (flickr["dataset"], flickr["hosts"]) == ("flickr30k", [])
    assert [histogram["name"] for histogram in flickr["histograms"]] == ["width", "height", "aspect_ratio"]
    for histogram in flickr["histograms"]:  # grounded captions do not say how large their images are
        assert sum(histogram["kept"]) == flickr["good"]
    by_name = {item["dataset"]: item for item in found["provenance"]}
    lock = json.loads((made / "prep.lock").read_text())["datasets"]
    assert {name: item["revision"] for name, item in by_name.items()} == {
        name: facts.get("revision", "") for name, facts in lock.items()
    }
    assert by_name["coyo-700m"]["license"] == "cc-by-4.0"
    assert by_name["coyo-700m"]["source"] == "huggingface kakaobrain/coyo-700m"
    assert by_name["coyo-700m"]["tables"][0]["rules"]["where"] == "watermark_score < 0.8"


def test_a_page_with_pictures_and_nothing_else_changed(made: Path) -> None:
    before = snapshot(made)
    done = prep(made, "report")
    assert (done.returncode, done.stderr) == (0, "")
    page = made / "report.html"
    assert done.stdout == f"{page}: 2 tables, {page.stat().st_size / 1000:.1f} kB\n"
    first = page.read_bytes()
    assert prep(made, "report").returncode == 0
    assert page.read_bytes() == first
    after = snapshot(made)
    assert {name for name in after if after[name] != before.get(name)} == {"report.html"}
    parsed = Page(first.decode())
    assert len(parsed.named("img")) == 60  # forty by their scores, twenty of a table without
    assert "laion" not in parsed.text and "Tenth 10 score" in parsed.text
    page.unlink()


def test_stats_in_a_terminal(made: Path) -> None:
    done = prep(made, "stats", "grand-f-flickr")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines == [
        "grand-f-flickr: 34 of 39 rows kept",
        "dropped for      rows  left",
        "no_phrase           1    38  97.4%",
        "short_caption       1    37  94.9%",
        "small_image         1    36  92.3%",
        "image_missing       1    35  89.7%",
        "image_truncated     1    34  87.2%",
        "",
        "characters of loc_caption  █ kept ░ dropped, 3 rows without",
        "                                              kept  dropped",
        "150 to 200  █████                                5        0",
        "200 to 300  ██████████████████████████████░░    29        2",
        "",
    ]
    for columns in ("45", "30"):
        told = prep(made, "stats", "grand-f-flickr", COLUMNS=columns).stdout.splitlines()
        assert [line.split()[-2:] for line in told[-4:-1]] == [["kept", "dropped"], ["5", "0"], ["29", "2"]]
        assert [line.split("█")[0].strip() for line in told[-3:-1]] == ["150 to 200", "200 to 300"]
        assert max(map(len, told)) <= int(columns)
    both = prep_json(made, "stats")
    assert [table["table"] for table in both["tables"]] == ["coyo-700m", "grand-f-flickr"]
    assert both["tables"] == reported(made, "--no-pictures")["details"]


def test_what_cannot_be_shown_is_told(tmp_path: Path, made: Path) -> None:
    assert prep(tmp_path, "init").returncode == 0
    done = prep(tmp_path, "stats")
    assert done.returncode == 1 and "has no entries yet" in done.stderr
    assert prep(tmp_path, "report").returncode == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nentries: [{table: coyo-700m}]\n")
    for words, message in ((["stats"], "no table is filtered yet"), (["stats", "coyo-700m"], "is not filtered yet")):
        done = prep(tmp_path, *words)
        assert done.returncode == 1 and message in done.stderr
    for name in ("recipe.yaml", "prep.lock", ".prep-busy", ".prep-heal/x.html", "elsewhere/_manifest.json"):
        done = prep(made, "report", "-o", made / name)
        assert (done.returncode, done.stderr) == (
            1,
            f"Error: {made / name} belongs to the workspace itself, and is no place for a report\n"
            "  Name another file with -o.\n",
        )
