"""score: what is scored, what is kept, what filter makes of it, and which scores it refuses to mix."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from image_sets import make
from PIL import Image

from plain_scorer import PICTURES, PlainLoading
from prep import progress
from prep.config import Rules
from prep.errors import ConfigError, DataError, UsageError, WorkspaceError
from prep.line import stale_tables, status
from prep.manifest import read_finished
from prep.scorers.heads import Head
from prep.scorers.scorer import EMBEDDINGS, SCORERS, Passport, Picture
from prep.stages.download import download
from prep.stages.filter import filter_table
from prep.stages.images import images
from prep.stages.normalize import normalize
from prep.stages.score import score_table
from prep.stages.score_embeddings import attach_embeddings, score_file
from prep.stages.score_tasks import finish
from prep.stages.scored import PASSPORTS
from prep.stages.shards import Outcome
from prep.workspace import Workspace
from worlds import environment, snapshot

V2 = SCORERS["aesthetic-v2"]
PLAIN = PlainLoading()
SELECT = {"s3_path": "path", "caption": "caption", "intHeight": "side", "intWidth": "side"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    progress.use(progress.no_bar)
    PICTURES.clear()
    yield
    progress.use(progress.tqdm_bar)


def paint(folder: Path, name: str, red: int) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (red, 0, 0)).save(folder / name)
    return str(folder / name)


def table_of(
    root: Path, reds: Sequence[int | None], *, published: Sequence[float | None] | None = None, **table: Any
) -> Workspace:
    """A filtered table of images whose first pixels have these reds; None stands for a file that is no image."""
    rows: list[dict[str, Any]] = []
    for number, red in enumerate(reds):
        path = paint(root / "pictures", f"{number}.png", red or 0)
        if red is None:
            Path(path).write_text("no image")
        rows.append({"path": path, "caption": f"caption {number}", "side": 100 * number})
        if published is not None:
            rows[-1]["score"] = published[number]
    select = SELECT | ({"fltLaionAesthScore": "score"} if published is not None else {})
    records = {"format": "parquet", "parts": "*.parquet"}
    own = {"kind": "text-to-image", "records": records, "select": select, **table}
    workspace = make(root, {"images": {"kind": "given"}, "tables": {"pics": own}}, rows)
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    filter_table(workspace, "pics")
    return workspace


def scores(workspace: Workspace, scorer: str = "aesthetic-v2") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(workspace.scores(scorer, "pics")).to_pylist()
    return rows


def kept(workspace: Workspace, column: str = "fltLaionAesthScore") -> dict[int, Any]:
    return {row["row"]: row.get(column) for row in pq.read_table(workspace.filtered("pics")).to_pylist()}


def dropped(workspace: Workspace) -> dict[int, str]:
    return {row["row"]: row["reason"] for row in pq.read_table(workspace.dropped("pics")).to_pylist()}


def score(workspace: Workspace, loading: PlainLoading = PLAIN, **options: bool) -> Outcome:
    return score_table(workspace, "pics", SCORERS[loading.scorer], loading, **options)


def seen() -> list[str]:
    names = [Path(picture.address).stem for picture in PICTURES]
    PICTURES.clear()
    return names


# -- what is scored ----------------------------------------------------------------------------------------------------


def test_scores_their_passport_and_what_filter_keeps(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [40, 57, None, 80])
    planned = score(workspace, dry_run=True)
    assert (planned.state, planned.made, planned.total, planned.note) == ("planned", 1, 1, "aesthetic-v2: 4 images")
    outcome = score(workspace)
    folder = str(tmp_path / "pictures")
    assert scores(workspace) == [
        {"row": 0, "path": f"{folder}/0.png", "text": None, "score": 4.0, "status": "ok", "error": ""},
        {"row": 1, "path": f"{folder}/1.png", "text": None, "score": 5.7, "status": "ok", "error": ""},
        {
            "row": 2,
            "path": f"{folder}/2.png",
            "text": None,
            "score": None,
            "status": "undecodable",
            "error": "UnidentifiedImageError",
        },
        {"row": 3, "path": f"{folder}/3.png", "text": None, "score": 8.0, "status": "ok", "error": ""},
    ]
    passport = {
        "scorer": "aesthetic-v2",
        "scale": "aesthetic-v2",
        "weights": {"head.pth": "0" * 64},
        "preprocessing": "the first pixel",
        "dtype": "fp32",
        "libraries": {},
    }
    assert outcome.manifest is not None and outcome.manifest == read_finished(workspace.scores("aesthetic-v2", "pics"))
    assert dict(outcome.manifest.facts) == {
        "dataset": "pics",
        "scorer": "aesthetic-v2",
        "column": "fltLaionAesthScore",
        "passports": [passport],
    }
    assert outcome.manifest.counts == {"ok": 3, "undecodable": 1}
    metadata = pq.read_schema(workspace.scores("aesthetic-v2", "pics") / "shard-00000.parquet").metadata
    assert yaml.safe_load(metadata[PASSPORTS.encode()]) == [passport]
    assert stale_tables(workspace) == {"pics": "filter has work to do"}

    filtered = filter_table(workspace, "pics", rules=Rules(aes_cutoff=5.7))
    assert kept(workspace) == {3: 8.0}
    assert dropped(workspace) == {0: "aes_cutoff", 1: "aes_cutoff", 2: "no_score"}
    assert filtered.note == "scores: aesthetic-v2"
    assert filtered.manifest is not None
    assert filtered.manifest.facts["columns"] == [
        "s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth",
    ]  # fmt: skip
    assert filtered.manifest.facts["scores"] == {
        "fltLaionAesthScore": {"scorer": "aesthetic-v2", "scale": "aesthetic-v2", "published": True}
    }
    assert [(o.stage, o.state, o.note) for o in status(workspace) if o.stage == "score"] == [
        ("score", "up to date", "aesthetic-v2")
    ]


def test_a_float32_score_is_kept_as_its_shortest_decimal(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [56, 57])
    score(workspace)
    assert [row["score"] for row in scores(workspace)] == [5.6, 5.7] != [float(np.float32(5.6)), float(np.float32(5.7))]


def test_nothing_is_scored_twice(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 20, 30, 40, 50, 60])
    filter_table(workspace, "pics", rules=Rules(min_size=300))
    score(workspace)
    assert seen() == ["3", "4", "5"]
    filter_table(workspace, "pics", rules=Rules(min_size=100, aes_cutoff=4.5))  # looser in size, now with a cutoff
    assert dropped(workspace) == {0: "min_size", 1: "no_score", 2: "no_score", 3: "aes_cutoff"}
    assert score(workspace, dry_run=True).note == "aesthetic-v2: 2 images"
    score(workspace)
    assert seen() == ["1", "2"]
    assert [row["score"] for row in scores(workspace)] == [2.0, 3.0, 4.0, 5.0, 6.0]
    before = snapshot(workspace.root)
    assert score(workspace).state == "up to date"
    assert (seen(), snapshot(workspace.root)) == ([], before)
    assert score(workspace, force=True).state == "done"
    assert seen() == ["1", "2", "3", "4", "5"]


def test_only_rows_that_pass_every_other_rule_are_scored(tmp_path: Path) -> None:
    """Also by a second run, when they have no score and the others neither."""
    workspace = table_of(tmp_path, [10, 20, 30, 40, 50, 60])
    rules = {"min_size": 200, "where": "caption != 'caption 4'"}
    for cutoff in (None, 2.5):
        filter_table(workspace, "pics", rules=Rules.model_validate({**rules, "aes_cutoff": cutoff}))
        score(workspace)
        assert seen() == (["2", "3", "5"] if cutoff is None else [])
    filter_table(workspace, "pics", rules=Rules.model_validate({**rules, "aes_cutoff": 2.5}))
    assert dropped(workspace) == {0: "min_size", 1: "min_size", 4: "where"}


def test_where_may_ask_for_a_score_in_any_letters(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 20])
    filter_table(workspace, "pics", rules=Rules(min_size=100))
    score(workspace, PlainLoading("clip-similarity"))
    filter_table(workspace, "pics", rules=Rules(min_size=0, where="CLIP_SIMILARITY > -1"))
    assert dropped(workspace) == {0: "where"}
    seen()
    score(workspace, PlainLoading("clip-similarity"))
    assert seen() == ["0"]


def test_an_image_elsewhere_is_scored_anew_and_its_old_score_does_not_count(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 20])
    score(workspace)
    table = pq.read_table(tmp_path / "parts/rows.parquet").to_pylist()
    table[1]["path"] = paint(tmp_path / "others", "x.png", 99)
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "parts/rows.parquet")
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    filter_table(workspace, "pics", rules=Rules(aes_cutoff=0.5))
    assert (kept(workspace), dropped(workspace)) == ({0: 1.0}, {1: "no_score"})
    seen()
    score(workspace)
    assert seen() == ["x"]
    filter_table(workspace, "pics", rules=Rules(aes_cutoff=0.5))
    assert kept(workspace) == {0: 1.0, 1: 9.9}


def test_scores_outlive_the_moving_of_a_workspace(tmp_path: Path) -> None:
    """Of images in the store, whose paths change with it."""
    old, new = tmp_path / "old", tmp_path / "new"
    for number in range(2):
        paint(old / "parts", f"{number}.png", 10 * number)
    pq.write_table(pa.table({"name": ["0.png", "1.png"], "caption": ["a", "b"]}), old / "parts/rows.parquet")
    table = {
        "kind": "text-to-image",
        "records": {"format": "parquet", "parts": "*.parquet"},
        "image": "name",
        "select": {"caption": "caption"},
    }
    folder = {"kind": "folder", "path": str(tmp_path / "pictures"), "encode": {"format": "jpeg"}}
    shutil.copytree(old / "parts", tmp_path / "pictures")
    workspace = make(old, {"images": folder, "tables": {"pics": table}})
    for root in (old, new):
        if root == new:
            shutil.move(old, new)
        workspace = Workspace(root)
        dataset = workspace.catalogue.dataset("pics")
        download(workspace, dataset)
        images(workspace, dataset)
        normalize(workspace, "pics")
        filter_table(workspace, "pics")
        outcome = score(workspace)
    assert outcome.state == "up to date"
    filter_table(workspace, "pics", rules=Rules(aes_cutoff=-1))
    assert list(kept(workspace)) == [0, 1]


def test_waits_for_the_filter_and_says_what_cannot_be_scored(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10])
    (workspace.filtered("pics") / "_manifest.json").unlink()
    assert (score(workspace).state, score(workspace).note) == ("waiting", "filter first")
    path = tmp_path / "datasets/pics.yaml"
    data = yaml.safe_load(path.read_text())
    data["tables"]["pics"] |= {"kind": "grounded-caption", "select": {"s3_path": "path", "loc_caption": "caption"}}
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UsageError, match="grounded-caption samples have no use for scores of aesthetic-v2"):
        score(Workspace(tmp_path))


def test_a_text_that_changed_is_scored_anew(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 20])
    score(workspace, PlainLoading("hpsv2"))
    assert [picture.text for picture in PICTURES] == ["caption 0", "caption 1"]
    assert [row["score"] for row in scores(workspace, "hpsv2")] == [10.0, 11.0]
    assert filter_table(workspace, "pics").note == "scores: hpsv2"
    assert kept(workspace, "hpsv2") == {0: 10.0, 1: 11.0}
    path = tmp_path / "datasets/pics.yaml"
    data = yaml.safe_load(path.read_text())
    data["tables"]["pics"]["select"]["caption"] = "if(side = 0, 'another', caption)"
    path.write_text(yaml.safe_dump(data))
    workspace = Workspace(tmp_path)
    normalize(workspace, "pics")
    assert filter_table(workspace, "pics").note == "scores: hpsv2; 1 of 2 rows have no hpsv2"
    assert kept(workspace, "hpsv2") == {0: None, 1: 11.0}
    seen()
    score(workspace, PlainLoading("hpsv2"))
    assert seen() == ["0"]


def test_similarity_is_for_where_alone(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 20])
    score(workspace, PlainLoading("clip-similarity"))
    filtered = filter_table(workspace, "pics", rules=Rules(where="clip_similarity > 10.5"))
    assert filtered.note == "scores: clip-vit-l-14"
    assert (list(kept(workspace)), dropped(workspace)) == ([1], {0: "where"})
    assert "clip_similarity" not in pq.read_schema(workspace.filtered("pics") / "shard-00000.parquet").names


# -- unfinished and killed ---------------------------------------------------------------------------------------------


UNFINISHED = "scores of aesthetic-v2 are not finished; the same `prep score` goes on with them"


def test_unfinished_scores_count_as_far_as_they_are_there(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 2, 2)
    score(workspace)
    folder = workspace.scores("aesthetic-v2", "pics")
    for name in ("_manifest.json", "shard-00001.parquet"):
        (folder / name).unlink()
    for cutoff, note in ((0.05, ""), (None, "aes_cutoff 5, the trainer's own default; ")):
        filtered = filter_table(workspace, "pics", rules=Rules(aes_cutoff=cutoff))
        assert filtered.note == f"{note}scores: aesthetic-v2; {UNFINISHED}"
        assert filtered.manifest is not None
        reasons = {"no_score": 2} if cutoff else {"aes_cutoff": 2, "no_score": 2}
        assert (filtered.manifest.rows, filtered.manifest.counts) == (2 if cutoff else 0, reasons)
    assert [(o.state, o.note) for o in status(workspace) if o.stage == "score"] == [
        ("planned", "aesthetic-v2: not finished")
    ]
    seen()
    assert score(workspace).state == "done"
    assert len(seen()) == 2


def test_a_damaged_shard_of_unfinished_scores_is_told(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 1, 5)
    score(workspace)
    shard = workspace.scores("aesthetic-v2", "pics") / "shard-00000.parquet"
    (shard.parent / "_manifest.json").unlink()
    data = bytearray(shard.read_bytes())
    pages = len(data) - 8 - int.from_bytes(data[-8:-4], "little")  # the footer comes last, and its length
    data[4:pages] = bytes(pages - 4)
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-00000\.parquet is damaged: "):
        filter_table(workspace, "pics")


@pytest.mark.parametrize("force", [False, True])
def test_a_run_that_cannot_begin_changes_nothing(force: bool, tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 60])
    score(workspace)
    filter_table(workspace, "pics", rules=Rules(aes_cutoff=5))
    before = snapshot(workspace.root)
    with pytest.raises(DataError, match="the model cannot be loaded"):
        score(workspace, PlainLoading(has_own_weights=True, has_model=False), force=force)
    assert snapshot(workspace.root) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_forced_run_that_was_killed_goes_on(force: bool, tmp_path: Path) -> None:
    """With whichever command, and scores that it has not got to count until then."""
    workspace = several_parts(tmp_path, 4, 5)
    score(workspace)
    for path in (tmp_path / "pictures").iterdir():
        paint(path.parent, path.name, 99)
    assert run_and_die(tmp_path, 13, "force") == -signal.SIGKILL
    filtered = filter_table(workspace, "pics", rules=Rules(aes_cutoff=5))
    assert filtered.manifest is not None and (filtered.manifest.rows, filtered.note) == (
        10,
        f"scores: aesthetic-v2; {UNFINISHED}",
    )
    assert score(workspace, force=force, dry_run=True).note == "aesthetic-v2: 10 images"
    seen()
    score(workspace, force=force)
    assert len(seen()) == 10
    assert {row["score"] for row in scores(workspace)} == {9.9}
    assert [path.name for path in workspace.scores("aesthetic-v2", "pics").glob(".*")] == []
    assert score(workspace).state == "up to date"
    score(workspace, force=True)  # which is a new one
    assert len(seen()) == 20


# -- nothing can be scored ---------------------------------------------------------------------------------------------


def test_where_no_image_can_be_read_the_run_stops_and_scores_stay(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 60])
    score(workspace)
    before = snapshot(workspace.scores("aesthetic-v2", "pics"))
    (tmp_path / "pictures").rename(tmp_path / "away")
    words = r"not one of 2 images that were tried can be read, the last of them .*\.png: No such file or directory"
    for loading, force in ((PLAIN, True), (PlainLoading(weights="1" * 64, has_own_weights=True), False)):
        with pytest.raises(WorkspaceError, match=words):
            score(workspace, loading, force=force)
    assert snapshot(workspace.scores("aesthetic-v2", "pics")) == before


def test_what_could_not_be_read_before_may_fail_again(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 20])
    score(workspace, PlainLoading(refuses="1"))
    for _ in range(2):
        outcome = score(workspace, PlainLoading(refuses="1", dtype="bf16"))
        assert outcome.manifest is not None and outcome.manifest.counts == {"ok": 1, "unreadable": 1}
        [passport] = outcome.manifest.facts["passports"]  # of the one score that there is
        assert passport["dtype"] == "fp32"


def test_a_few_new_images_that_cannot_be_read_do_not_stop_a_run(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [10, 20])
    filter_table(workspace, "pics", rules=Rules(min_size=100))
    score(workspace)
    (tmp_path / "pictures/0.png").unlink()
    filter_table(workspace, "pics", rules=Rules(min_size=0))
    outcome = score(workspace)
    assert outcome.manifest is not None and outcome.manifest.counts == {"ok": 1, "missing": 1}


def test_images_that_go_away_meanwhile_stop_the_run(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 3, 4)

    def unmount(picture: Picture) -> None:
        if len(PICTURES) == 7 and (tmp_path / "pictures").exists():
            (tmp_path / "pictures").rename(tmp_path / "away")

    with pytest.raises(WorkspaceError, match=r"5\.png could be read and cannot be any more: No such file"):
        score(workspace, PlainLoading(sees=unmount))
    assert [row["score"] for row in scores(workspace)] == [0.1] * 4  # those of the first shard
    (tmp_path / "away").rename(tmp_path / "pictures")
    score(workspace)
    assert [row["score"] for row in scores(workspace)] == [0.1] * 12


def several_parts(root: Path, parts: int, rows: int) -> Workspace:
    workspace = table_of(root, [1] * parts * rows)
    whole = pq.read_table(root / "parts/rows.parquet")
    (root / "parts/rows.parquet").unlink()
    for part in range(parts):
        pq.write_table(whole.slice(part * rows, rows), root / f"parts/{part}.parquet")
    for path in (root / "raw", root / "prep.lock"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    download(workspace, workspace.catalogue.dataset("pics"), force=True)
    normalize(workspace, "pics")
    filter_table(workspace, "pics")
    return workspace


def test_a_killed_run_goes_on_behind_the_shards_it_had_written(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 4, 5)
    for dies_at, done in ((3, 0), (13, 2), (1, 2)):
        assert run_and_die(tmp_path, dies_at) == -signal.SIGKILL
        assert len(list(workspace.scores("aesthetic-v2", "pics").glob("*.parquet"))) == done
    score(workspace)
    assert len(seen()) == 10
    whole = several_parts(tmp_path / "whole", 4, 5)
    score(whole)
    found, expected = ([{**row, "path": Path(row["path"]).name} for row in scores(each)] for each in (workspace, whole))
    assert found == expected


def score_and_die(root: str, dies_at: str, force: str) -> None:
    progress.use(progress.no_bar)
    score(Workspace(Path(root)), PlainLoading(dies_at=int(dies_at)), force=bool(force))


def run_and_die(root: Path, dies_at: int, force: str = "") -> int:
    here = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, test_score; test_score.score_and_die(*sys.argv[1:])",
            root,
            str(dies_at),
            force,
        ],
        env=environment() | {"PYTHONPATH": os.pathsep.join(here)},
        timeout=60,
    ).returncode


def test_several_devices_give_what_one_gives(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 3, 4)
    score(workspace)
    one = snapshot(workspace.scores("aesthetic-v2", "pics"))
    shutil.rmtree(workspace.scores("aesthetic-v2", "pics"))
    score(workspace, PlainLoading(runs_on=("cuda:0", "cuda:1")))
    assert snapshot(workspace.scores("aesthetic-v2", "pics")) == one


# -- scales ------------------------------------------------------------------------------------------------------------


def test_what_the_publisher_left_out_is_filled_in_on_its_own_scale(tmp_path: Path) -> None:
    own = {"scores": {"fltLaionAesthScore": "aesthetic-v2"}}
    workspace = table_of(tmp_path, [10, 20, 30], published=[7.5, None, None], **own)
    filter_table(workspace, "pics", rules=Rules(aes_cutoff=2.5))
    assert score(workspace).manifest is not None
    assert seen() == ["1", "2"]
    filter_table(workspace, "pics", rules=Rules(aes_cutoff=2.5))
    assert (kept(workspace), dropped(workspace)) == ({0: 7.5, 2: 3.0}, {1: "aes_cutoff"})
    score(workspace, all_rows=True)
    assert seen() == ["0"]
    for scorer, rows in (("published", {0: 7.5}), ("aesthetic-v2", {2: 3.0}), (None, {0: 7.5, 2: 3.0})):
        filter_table(workspace, "pics", rules=Rules.model_validate({"aes_cutoff": 2.5, "scorer": scorer}))
        assert kept(workspace) == rows


@pytest.mark.parametrize(("scale", "words"), [("aesthetic-v1", "scale aesthetic-v1"), (None, "nobody has named")])
def test_scores_of_another_scale_than_the_publishers_are_refused(scale: str | None, words: str, tmp_path: Path) -> None:
    own = {"scores": {"fltLaionAesthScore": scale}} if scale else {}
    workspace = table_of(tmp_path, [10, 60], published=[7.5, None], **own)
    with pytest.raises(ConfigError, match=words):
        score(workspace)
    score(workspace, all_rows=True)
    with pytest.raises(ConfigError, match=words) as refused:
        filter_table(workspace, "pics")
    assert "5.67 means something else on each" in refused.value.message
    assert "prep filter pics --scorer published" in refused.value.next_step
    filter_table(workspace, "pics", rules=Rules(scorer="aesthetic-v2"))
    assert kept(workspace) == {1: 6.0}
    filter_table(workspace, "pics", rules=Rules(scorer="published"))
    assert kept(workspace) == {0: 7.5}


def test_scores_by_other_weights_are_refused_beside_the_publishers_before_any_work(tmp_path: Path) -> None:
    own = {"scores": {"fltLaionAesthScore": "aesthetic-v2"}}
    workspace = table_of(tmp_path, [10, 60], published=[7.5, None], **own)
    with pytest.raises(ConfigError, match="computed ones would be of aesthetic-v2 with other weights") as refused:
        score(workspace, PlainLoading(has_own_weights=True), dry_run=True)
    assert "V1" not in refused.value.message
    assert seen() == []


def test_scores_of_two_scorers_need_a_word(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [60])
    for scorer in ("aesthetic-v1", "aesthetic-v2"):
        score(workspace, PlainLoading(scorer))
    with pytest.raises(ConfigError, match="scores of aesthetic-v2 and of aesthetic-v1, and no rule says which count"):
        filter_table(workspace, "pics")
    filtered = filter_table(workspace, "pics", rules=Rules(scorer="aesthetic-v1"))
    assert filtered.note == "aes_cutoff 5, the trainer's own default; scores: aesthetic-v1"
    assert kept(workspace) == {0: 6.0}


def test_a_scorer_that_has_not_scored_leaves_no_scores(tmp_path: Path) -> None:
    workspace = table_of(tmp_path, [60], published=[7.5])
    filtered = filter_table(workspace, "pics", rules=Rules(scorer="aesthetic-v2", aes_cutoff=5))
    assert filtered.note == (
        "no aesthetic scores, so no aes_cutoff; "
        "no scores of aesthetic-v2 yet; `prep score pics --scorer aesthetic-v2` computes them"
    )
    assert kept(workspace) == {0: None}


def test_other_weights_make_all_scores_anew(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 2, 2)
    score(workspace)
    seen()
    other = PlainLoading(weights="1" * 64, has_own_weights=True)
    assert score(workspace, other).made == 2
    assert len(seen()) == 4
    before = snapshot(workspace.root)
    assert score(workspace, other, dry_run=True).state == "up to date"
    assert score(workspace, other).state == "up to date"
    third = PlainLoading(weights="2" * 64, has_own_weights=True)
    planned = score(workspace, third, dry_run=True)
    assert (planned.made, planned.note) == (2, "aesthetic-v2: 4 images")
    assert (seen(), snapshot(workspace.root)) == ([], before)
    assert filter_table(workspace, "pics").note == (
        "aes_cutoff 5, the trainer's own default; scores: aesthetic-v2 with other weights"
    )


def test_shards_of_other_weights_are_refused(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 2, 1)
    score(workspace)
    folder = workspace.scores("aesthetic-v2", "pics")
    shutil.copytree(folder, tmp_path / "kept")
    score(workspace, PlainLoading(weights="1" * 64), force=True)
    shutil.copy(tmp_path / "kept/shard-00000.parquet", folder)
    (folder / "_manifest.json").unlink()
    finish(workspace, "pics", V2, sorted(folder.glob("*.parquet")), 0)
    with pytest.raises(ConfigError, match=r"with each other \(weights: .*000.* and .*111") as refused:
        filter_table(workspace, "pics")
    assert refused.value.next_step == "`prep score pics --scorer aesthetic-v2 --force` computes all of them anew."
    assert score(workspace, PlainLoading(weights="1" * 64)).state == "done"  # and so does any run
    assert filter_table(workspace, "pics").state == "done"


def test_a_workspace_without_scores_stays_as_it_was(tmp_path: Path) -> None:
    """What an earlier version filtered has this fingerprint."""
    workspace = table_of(tmp_path, [10], published=[7.5])
    manifest = read_finished(workspace.filtered("pics"))
    assert manifest is not None and [*manifest.facts] == [
        "dataset", "kind", "columns", "rules", "has_images", "rows_in", "samples",
    ]  # fmt: skip
    assert filter_table(workspace, "pics").state == "up to date"


# -- embeddings --------------------------------------------------------------------------------------------------------


def head() -> tuple[Head, Passport]:
    """A head that gives ten times the first number."""
    weight = np.zeros((1, 768), np.float32)
    weight[0, 0] = 10
    passport = Passport("aesthetic-v2", "aesthetic-v2", {"head.pth": "0" * 64}, EMBEDDINGS, "fp32", {})
    return Head(((weight, np.zeros(1, np.float32)),)), passport


def embeddings(path: Path, firsts: Sequence[float], length: float = 1) -> Path:
    rows = np.zeros((len(firsts), 768), np.float32)
    for row, first in zip(rows, firsts, strict=True):
        row[:2] = length * first, length * np.sqrt(max(0.0, 1 - first**2))
    np.save(path, rows)
    return path


def test_embeddings_score_a_table_before_its_images_are_there(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 2, 2)
    files = [embeddings(tmp_path / "0.npy", [0.1, 0.9]), embeddings(tmp_path / "1.npy", [0.5625, float("nan")])]
    outcome = attach_embeddings(workspace, "pics", V2, files, head)
    assert outcome.manifest is not None and outcome.manifest.counts == {"ok": 3, "not_finite": 1}
    assert [(row["row"], row["path"], row["score"], row["status"]) for row in scores(workspace)] == [
        (0, None, 1.0, "ok"),
        (1, None, 9.0, "ok"),
        (0, None, 5.625, "ok"),
        (1, None, None, "not_finite"),
    ]
    filter_table(workspace, "pics", rules=Rules(aes_cutoff=5))
    assert pq.read_table(workspace.filtered("pics"))["fltLaionAesthScore"].to_pylist() == [9.0, 5.625]
    assert score(workspace).state == "up to date"


def test_embeddings_of_other_samples_do_not_count(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 1, 2)
    attach_embeddings(workspace, "pics", V2, [embeddings(tmp_path / "0.npy", [0.1, 0.9])], head)
    pq.write_table(pq.read_table(tmp_path / "parts/0.parquet").slice(0, 1), tmp_path / "parts/0.parquet")
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    filter_table(workspace, "pics", rules=Rules(aes_cutoff=5))
    assert (kept(workspace), dropped(workspace)) == ({}, {0: "no_score"})


def turned(root: Path, workspace: Workspace) -> None:
    """The same samples in another order."""
    rows = pq.read_table(root / "parts/0.parquet")
    pq.write_table(rows.take([1, 0]), root / "parts/0.parquet")
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")


def test_a_shard_says_itself_that_it_is_of_embeddings(tmp_path: Path) -> None:
    """Whatever happened to the manifest: in another order the samples would get each other's scores."""
    workspace = several_parts(tmp_path, 1, 2)
    attach_embeddings(workspace, "pics", V2, [embeddings(tmp_path / "0.npy", [0.1, 0.9])], head)
    before = snapshot(workspace.root)
    with pytest.raises(DataError, match=r"raw\.npy: not normalised"):
        attach_embeddings(workspace, "pics", V2, [embeddings(tmp_path / "raw.npy", [0.1, 0.9], 10)], head)
    (tmp_path / "raw.npy").unlink()
    assert snapshot(workspace.root) == before
    folder = workspace.scores("aesthetic-v2", "pics")
    (folder / "_manifest.json").unlink()
    assert score(workspace).state == "done"
    turned(tmp_path, workspace)
    for is_finished in (True, False):
        if not is_finished:
            (folder / "_manifest.json").unlink()
        filter_table(workspace, "pics", rules=Rules(aes_cutoff=5))
        assert (kept(workspace), dropped(workspace)) == ({}, {0: "no_score", 1: "no_score"})
        with pytest.raises(UsageError, match="of embeddings, and 1 of its shards have some to be computed of images"):
            score(workspace)
    score(workspace, force=True)
    assert [row["score"] for row in scores(workspace)] == [0.1, 0.1]


@pytest.mark.parametrize("dry_run", [False, True])
def test_own_weights_do_not_take_the_place_of_embeddings_scores(dry_run: bool, tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 1, 2)
    attach_embeddings(workspace, "pics", V2, [embeddings(tmp_path / "0.npy", [0.1, 0.9])], head)
    before = snapshot(workspace.root)
    with pytest.raises(UsageError, match="its scores of aesthetic-v2 are of embeddings"):
        score(workspace, PlainLoading(has_own_weights=True), dry_run=dry_run)
    assert snapshot(workspace.root) == before
    assert score(workspace, PlainLoading(has_own_weights=True), force=True, dry_run=True).note.endswith("2 images")


def test_embeddings_have_to_agree_with_the_table(tmp_path: Path) -> None:
    workspace = several_parts(tmp_path, 2, 2)
    file = embeddings(tmp_path / "0.npy", [0.1, 0.9])
    long = embeddings(tmp_path / "1.npy", [0.1, 0.9, 0.5])
    with pytest.raises(UsageError, match="has 2 shards, and 1 files of embeddings are given"):
        attach_embeddings(workspace, "pics", V2, [file], head)
    with pytest.raises(UsageError, match=r"1.npy has 3 rows, and shard-00001.parquet of table pics has 2 records"):
        attach_embeddings(workspace, "pics", V2, [file, long], head)


def test_a_file_of_embeddings_alone(tmp_path: Path) -> None:
    file = embeddings(tmp_path / "clip.npy", [0.1, 0.9, float("inf")])
    found = score_file(file, tmp_path / "scores.parquet", head)
    assert found.as_json() == {
        "file": file,
        "output": tmp_path / "scores.parquet",
        "counts": {"ok": 2, "not_finite": 1},
        "low": 1.0,
        "mean": 5.0,
        "high": 9.0,
    }
    assert pq.read_table(tmp_path / "scores.parquet").to_pylist() == [
        {"row": 0, "score": 1.0, "status": "ok"},
        {"row": 1, "score": 9.0, "status": "ok"},
        {"row": 2, "score": None, "status": "not_finite"},
    ]
    with pytest.raises(DataError, match="not normalised"):
        score_file(embeddings(tmp_path / "long.npy", [0.5], length=12), tmp_path / "no.parquet", head)
    assert not (tmp_path / "no.parquet").exists()
