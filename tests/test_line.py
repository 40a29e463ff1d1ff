"""The whole line over the four datasets, judged by the loader's rules and by the publishers' own files."""

from __future__ import annotations

import http.client
import io
import json
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import contract_loader
from prep.config import packaged_configs
from prep.publishers import World
from worlds import make_workspace, prep, prep_json, snapshot


@dataclass
class Line:
    """A finished line: its workspace, its world, and what `prep run --json` printed."""

    root: Path
    world: World
    result: dict[str, Any]

    def entries(self) -> list[dict[str, Any]]:
        """Entries of the emitted YAML, as the trainer reads them."""
        return contract_loader.load_yaml(self.root / "training/lavida-o-start.yaml")

    def entry(self, table: str) -> dict[str, Any]:
        """The entry of one table."""
        return next(entry for entry in self.entries() if Path(entry["json_path"]).stem == table)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    recipe = yaml.safe_load((packaged_configs() / "recipes/lavida-o-start.yaml").read_text())
    with World(folder / "publishers") as world:
        root = make_workspace(folder / "workspace", recipe, world, workers=2)
        yield Line(root, world, prep_json(root, "run", world=world))


def filters(line: Line) -> dict[str, dict[str, Any]]:
    """What the last filter of each table said."""
    return {outcome["name"]: outcome for outcome in line.result["outcomes"] if outcome["stage"] == "filter"}


def test_the_loader_draws_exactly_the_rows_that_filter_kept(line: Line) -> None:
    said = filters(line)
    copies = {"dup:3": 3, "all": 1}
    for entry in line.entries():
        table = Path(entry["json_path"]).stem
        whole = pd.read_parquet(entry["json_path"])
        drawn = contract_loader.load_entry(entry)
        assert len(whole) == said[table]["rows"], table
        assert len(drawn) == len(whole) * copies[entry["sampling_strategy"]], table
        dropped = pd.read_parquet(line.root / "dropped" / f"{table}.parquet")
        assert dropped["reason"].value_counts().to_dict() == said[table]["counts"], table
        assert len(whole) + len(dropped) == said[table]["facts"]["rows_in"], table
        assert set(whole["key"]).isdisjoint(dropped["key"]), table


def test_every_row_of_every_entry_can_be_read(line: Line) -> None:
    for entry in line.entries():
        for row in range(len(contract_loader.load_entry(entry))):
            sample = contract_loader.build_sample(entry, row)
            assert sample["images"] and sample["text"][0], entry["name"]


def fetched_size(line: Line, url: str) -> tuple[int, int] | None:
    """Width and height of the whole image behind an address, or None; written without the product's code."""
    if not url.startswith(line.world.url):
        return None
    for _ in range(3):
        try:
            with urllib.request.build_opener(NoForeignRedirect()).open(url, timeout=10) as response:
                if "noai" in response.headers.get("X-Robots-Tag", ""):
                    return None
                with Image.open(io.BytesIO(response.read())) as image:
                    image.load()
                    return image.size
        except urllib.error.HTTPError as error:
            if error.code != 429:
                return None
        except (OSError, ValueError, http.client.HTTPException):
            return None
    return None


class NoForeignRedirect(urllib.request.HTTPRedirectHandler):
    max_repeats = 2

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("http://127.0.0.1:"):
            raise OSError("leaves the world")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def parts(line: Line, dataset: str) -> list[pd.DataFrame]:
    return [pd.read_parquet(path) for path in sorted((line.root / "raw" / dataset).rglob("*.parquet"))]


def test_coyo_rows_are_those_its_own_numbers_allow(line: Line) -> None:
    expected = []
    for part in parts(line, "coyo-700m"):
        score = part["aesthetic_score_laion_v2"]
        # pandas compares a float32 column with 5.67 in float32, and so does the trainer on a float32 file.
        passes = (score > score.dtype.type(5.67)) & (part["watermark_score"] < part["watermark_score"].dtype.type(0.8))
        for row in part[passes & part["text"].str.strip().astype(bool)].itertuples():
            size = fetched_size(line, str(row.url))
            if size and min(size) >= 512:
                expected.append((row.text, size[1], size[0]))
    kept = contract_loader.load_entry(line.entry("coyo-700m"))
    assert list(zip(kept["caption"], kept["intHeight"], kept["intWidth"], strict=True)) == expected
    assert {part["aesthetic_score_laion_v2"].dtype for part in parts(line, "coyo-700m")} == {
        np.dtype("float32"),
        np.dtype("float64"),
    }


def test_laion_rows_are_those_its_own_numbers_allow(line: Line) -> None:
    expected = {"laion-2b": [], "laion-aesthetic": []}  # type: dict[str, list[str]]
    for table, wanted in expected.items():
        for part in parts(line, table):
            part = part.rename(columns=str.lower).rename(columns={"text": "caption"})
            if "aesthetic" in part:
                part = part[part["aesthetic"] > part["aesthetic"].dtype.type(5.67)]
            for row in part[part["caption"].fillna("").str.strip().astype(bool)].itertuples():
                size = fetched_size(line, str(row.url))
                if size and min(size) >= 512:
                    wanted.append(str(row.caption))
        assert list(contract_loader.load_entry(line.entry(table))["caption"]) == wanted


def test_rows_at_the_edges(line: Line) -> None:
    """Rows whose caption says what is special about them: by name, in both tables that have scores."""
    for table in ("coyo-700m", "laion-aesthetic"):
        kept = contract_loader.load_entry(line.entry(table))
        dropped = pd.read_parquet(line.root / "dropped" / f"{table}.parquet")
        samples = pd.read_parquet(line.root / "normalized" / f"{table}.parquet").set_index("key")
        why = dict(zip(samples["caption"][dropped["key"]], dropped["reason"], strict=True))
        at_cutoff = [caption for caption in why if isinstance(caption, str) and "exactly 5.67" in caption]
        assert {why[caption] for caption in at_cutoff} == {"aes_cutoff"} and len(at_cutoff) == 2, table
        assert any("5.68" in caption for caption in kept["caption"]), table
        assert (kept["fltLaionAesthScore"] > 5.67).all() and kept["fltLaionAesthScore"].dtype == np.float64
        assert "A picture of 512 by 512 pixels" in set(kept["caption"]), table
        for size in ("511 by 512", "512 by 511", "511 by 511"):
            assert why[f"A picture of {size} pixels"] == "min_size", table
        assert list(dropped["reason"]).count("no_score") == 4, table


def test_blip3o_rows_are_the_tars_whole_pictures(line: Line) -> None:
    expected = []
    for path in sorted((line.root / "raw/blip3o-60k").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member) for member in tar}
            data = {name: file.read() for name, file in members.items() if file}
        for name in data:
            stem, _, suffix = name.partition(".")
            caption = data.get(f"{stem}.txt", b"").decode().strip()
            if suffix == "txt" or not caption:
                continue
            try:
                with Image.open(io.BytesIO(data[name])) as image:
                    image.load()
                    if min(image.size) >= 512:
                        expected.append((f"{path.stem}/{stem}", caption))
            except OSError:
                continue
    entry = line.entry("blip3o-60k")
    kept = pd.read_parquet(entry["json_path"])
    assert sorted(zip(kept["image_key"], kept["caption"], strict=True)) == sorted(expected)
    assert "fltLaionAesthScore" not in entry["columns"] and "aes_cutoff" not in entry


def test_grounded_captions_hold_boxes_on_pictures_that_exist(line: Line) -> None:
    for table in ("grand-f-flickr", "grand-f-openpsg", "grand-f-refcocog"):
        kept = contract_loader.load_entry(line.entry(table))
        assert len(kept) > 60
        assert kept["loc_caption"].str.contains(r"<box_p> .+ </box_p><LOC_BEGIN>(?:<LOC_\d+>){4}<LOC_END>").all()
    flickr = contract_loader.load_entry(line.entry("grand-f-flickr"))
    worked_example = "<LOC_BEGIN><LOC_0><LOC_508><LOC_257><LOC_765><LOC_END>"
    assert flickr["loc_caption"].str.contains(worked_example).any()


def test_the_check_agrees(line: Line) -> None:
    assert line.result["check"]["findings"] != []
    assert [finding["level"] for finding in line.result["check"]["findings"]] == ["warning"] * 4
    done = prep(line.root, "check", "--images", "all", "--steps", "1000", "--batch", "64")
    assert done.returncode == 0, done.stdout


def test_a_second_run_does_nothing_and_says_so_at_once(line: Line) -> None:
    before = snapshot(line.root)
    requests = len(line.world.requests)
    started = time.monotonic()
    done = prep(line.root, "run")  # without the world: a run with nothing to do needs no network
    assert time.monotonic() - started < 10  # the true figure is in benchmarks/results/startup.md
    assert done.returncode == 0 and "Nothing to do: everything is up to date." in done.stdout
    assert snapshot(line.root) == before
    assert len(line.world.requests) == requests


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("download", "raw/blip3o-60k/object_1.tar"),
        ("images", "index/blip3o-60k.parquet/shard-00003.parquet"),
        ("normalize", "normalized/coyo-700m.parquet/shard-00001.parquet"),
        ("filter", "filtered/laion-aesthetic.parquet/shard-00000.parquet"),
        ("filter", "dropped/laion-aesthetic.parquet/shard-00001.parquet"),
    ],
)
def test_only_what_was_deleted_is_made_again(stage: str, path: str, line: Line) -> None:
    before = snapshot(line.root)
    times = {name: (line.root / name).stat().st_mtime_ns for name in before}
    (line.root / path).unlink()
    result = prep_json(line.root, "run", world=line.world)
    made = [(outcome["stage"], outcome["made"]) for outcome in result["outcomes"] if outcome["made"]]
    assert made == [(stage, 1)]
    assert snapshot(line.root) == before
    kept = [name for name in before if name.endswith((".parquet", ".tar")) and name != path]
    changed = [name for name in kept if (line.root / name).stat().st_mtime_ns != times[name]]
    companion = path.replace("dropped/", "filtered/") if "dropped/" in path else path.replace("filtered/", "dropped/")
    assert set(changed) <= {companion}


def test_an_index_of_addresses_that_was_lost_is_fetched_again_to_the_same_bytes(line: Line) -> None:
    before = snapshot(line.root)
    next((line.root / "index/coyo-700m.parquet").glob("coyo-700m-*.parquet")).unlink()
    prep_json(line.root, "run", world=line.world)
    assert snapshot(line.root) == before


def test_another_image_store_is_filled_anew(line: Line, tmp_path: Path) -> None:
    """The images that are there are not taken for those of the new place, nor fetched again unasked."""
    config = line.root / "prep.yaml"
    text = config.read_text()
    config.write_text(f"{text}images: {tmp_path}/elsewhere\n")
    try:
        done = prep(line.root, "run", world=line.world)
        assert done.returncode == 1 and "coyo-700m: 2 shards of its index are of images kept elsewhere" in done.stderr
        prep_json(line.root, "images", "coyo-700m", "laion-2b", "laion-aesthetic", "--force", world=line.world)
        prep_json(line.root, "run", world=line.world)
        paths = contract_loader.load_entry(line.entry("coyo-700m"))["s3_path"]
        assert paths.str.startswith(f"{tmp_path}/elsewhere/coyo-700m/").all()
        assert all(Path(path).is_file() for path in paths)
    finally:
        config.write_text(text)
        prep_json(line.root, "images", "coyo-700m", "laion-2b", "laion-aesthetic", "--force", world=line.world)
        prep_json(line.root, "run", world=line.world)


def test_looser_rules_fetch_only_the_images_that_are_new(line: Line) -> None:
    """And stricter ones fetch nothing; the rules stay until they are reset."""
    before = contract_loader.load_entry(line.entry("coyo-700m"))
    prep_json(line.root, "filter", "coyo-700m", "--aes-cutoff", "5", world=line.world)
    outcome = prep_json(line.root, "filter", "coyo-700m")["outcomes"][0]
    assert outcome["facts"]["rules"] == {"aes_cutoff": 5.0, "min_size": 512, "where": "watermark_score < 0.8"}
    lacking = outcome["counts"]["image_not_fetched"]
    assert lacking > 0
    line.world.requests.clear()
    prep_json(line.root, "images", "coyo-700m", world=line.world)
    fetched = {path for _, path in line.world.requests if path.startswith("/img/")}
    assert 0 < len(fetched) <= lacking
    loose = prep_json(line.root, "filter", "coyo-700m")["outcomes"][0]
    assert "image_not_fetched" not in loose["counts"] and loose["rows"] > filters(line)["coyo-700m"]["rows"]

    line.world.requests.clear()
    prep_json(line.root, "filter", "coyo-700m", "--reset")
    prep_json(line.root, "run", world=line.world)
    assert not line.world.requests
    pd.testing.assert_frame_equal(contract_loader.load_entry(line.entry("coyo-700m")), before)


def test_the_lock_pins_the_revision(line: Line) -> None:
    lock = json.loads((line.root / "prep.lock").read_text())["datasets"]
    assert len(lock["coyo-700m"]["revision"]) == 40
    assert set(lock) == {outcome["name"] for outcome in line.result["outcomes"] if outcome["stage"] == "download"}
