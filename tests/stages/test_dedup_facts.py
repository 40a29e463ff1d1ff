"""When what dedup has found out still holds: for the very rows, images and files that were looked at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from prep import progress
from prep.config import Rules
from prep.line import stale_tables
from prep.manifest import read_finished, write_manifest
from prep.stages.dedup import dedup
from prep.stages.filter import filter_table
from prep.workspace import Workspace
from twins import addresses, ask, dropped, encoded, facts, find, kept, pictures, row, scene
from worlds import environment, prep, prep_json, snapshot

OUT_OF_DATE = "dedup is out of date and not used; `prep dedup`, then `prep filter` once more"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    progress.use(progress.no_bar)
    yield
    progress.use(progress.tqdm_bar)


def with_where(workspace: Workspace, where: str) -> None:
    workspace.remember_rules(workspace.given_rules().with_rules(Rules(where=where), ()))
    for name in workspace.table_names:
        filter_table(workspace, name)


# -- rows that a question gives another answer for ---------------------------------------------------------------------


def test_a_where_whose_file_has_changed(tmp_path: Path) -> None:
    """The row that stayed for another one is dropped now, and must not keep that one out."""
    good = tmp_path / "good.csv"
    good.write_text("address\nu/1\nu/2\n")
    parts = [[row("u/1", "a cat", 9.0)], [row("u/2", "a cat", 6.0)]]
    workspace = addresses(tmp_path / "w", {"t": parts, "other": [[row("u/2", "a cat", 5.5)]]})
    with_where(workspace, f"url IN (SELECT address FROM read_csv('{good}'))")
    find(workspace, by=["caption"])
    assert (kept(workspace, "t"), kept(workspace, "other")) == (["0.parquet#0"], [])
    before = snapshot(workspace.root)
    assert [filter_table(workspace, name, force=True).note for name in ("t", "other")] == ["", ""]
    assert (snapshot(workspace.root), stale_tables(workspace)) == (before, {})  # the same rows are no news
    good.write_text("address\nu/2\n")
    forced = filter_table(workspace, "t", force=True)
    assert OUT_OF_DATE in forced.note
    assert set(stale_tables(workspace)) == {"t", "other"}
    assert "out of date" in filter_table(workspace, "other").note
    for _ in range(2):
        list(dedup(workspace))
        for name in workspace.table_names:
            filter_table(workspace, name)
    assert dropped(workspace, "t") == {"0.parquet#0": "where"}
    assert (kept(workspace, "t"), kept(workspace, "other"), stale_tables(workspace)) == (["1.parquet#0"], [], {})


def test_a_where_that_never_answers_the_same_is_told(tmp_path: Path) -> None:
    rows = [row(f"u/{at}", f"{at // 2}") for at in range(200)]
    workspace = addresses(tmp_path, {"t": [rows]})
    with_where(workspace, "random() < 0.5")
    find(workspace, by=["caption"])
    assert "t" in stale_tables(workspace)


def test_a_filter_that_was_killed_goes_on_with_the_duplicates(tmp_path: Path) -> None:
    workspace = addresses(tmp_path, {"t": [[row("u/1", "a"), row("u/1", "b")], [row("u/2", "c")]]})
    with_where(workspace, "caption != 'c'")
    find(workspace, by=["url"])
    before = snapshot(tmp_path)
    (workspace.filtered("t") / "_manifest.json").unlink()
    assert filter_table(workspace, "t").note == ""
    assert snapshot(tmp_path) == before


def test_the_name_of_what_where_let_pass(tmp_path: Path) -> None:
    """In the manifest, of a question alone; another sample leaves it as it is."""
    workspace = addresses(tmp_path, {"t": [[row("u/1", "a"), row("u/2", "b")], [row("u/2", "c")]]})
    manifest = read_finished(workspace.filtered("t"))
    assert manifest and [shard.passed for shard in manifest.shards] == ["", ""]
    with_where(workspace, "caption < 'c'")
    manifest = read_finished(workspace.filtered("t"))
    assert manifest is not None
    [two, none] = [shard.passed for shard in manifest.shards]
    assert (two.split()[0], none) == ("2", "0 0")
    [(rows,)] = duckdb.execute("SELECT sum(hash(i::BIGINT)) FROM range(2) t(i)").fetchall()
    assert two == f"2 {rows}"
    workspace.remember_rules(workspace.given_rules().with_rules(Rules(sample="1"), ()))
    sampled = filter_table(workspace, "t").manifest
    assert sampled and [shard.passed for shard in sampled.shards] == [two, none]


# -- images ------------------------------------------------------------------------------------------------------------


def test_images_that_could_not_be_read_are_read_again(tmp_path: Path) -> None:
    files = {"a.jpg": encoded(scene(1)), "b.png": encoded(scene(1), "PNG"), "c.jpg": encoded(scene(2))}
    workspace = pictures(tmp_path / "w", files)
    hidden = tmp_path / "pictures/b.png"
    hidden.rename(tmp_path / "elsewhere.png")
    first = find(workspace, by=["phash"])
    assert [outcome.manifest and outcome.manifest.counts for outcome in first] == [{"hashed": 2, "unreadable": 1}, {}]
    statuses = {Path(one["path"]).name: one["status"] for one in pq.read_table(workspace.phash("pics")).to_pylist()}
    assert statuses == {"a.jpg": "hashed", "b.png": "unreadable", "c.jpg": "hashed"}
    assert [outcome.state for outcome in dedup(workspace, dry_run=True)] == ["planned", "up to date"]
    shown = prep(workspace.root, "dedup").stdout.splitlines()[0]
    assert shown == "phash     pics              2 hashed; not: 1 unreadable"
    (tmp_path / "elsewhere.png").rename(hidden)
    assert [outcome.state for outcome in dedup(workspace)] == ["done", "done"]
    assert [key for key, *_ in facts(workspace, "pics")] == ["rows.parquet#1"]
    assert [outcome.state for outcome in dedup(workspace)] == ["up to date", "up to date"]


def test_other_hashes_are_other_facts(tmp_path: Path) -> None:
    workspace = pictures(tmp_path / "w", {"a.jpg": encoded(scene(1)), "b.jpg": encoded(scene(2))})
    find(workspace, by=["phash"])
    manifest = read_finished(workspace.phash("pics"))
    assert manifest is not None
    others = tuple(replace(shard, sha256="0" * 64) for shard in manifest.shards)
    write_manifest(workspace.phash("pics"), replace(manifest, shards=others))
    assert "out of date" in filter_table(workspace, "pics").note


# -- what is left behind, and what comes next --------------------------------------------------------------------------


def test_work_that_a_killed_run_left_when_all_was_done(tmp_path: Path) -> None:
    workspace = addresses(tmp_path, {"t": [[row("u/1", "a"), row("u/1", "b")]]})
    find(workspace, by=["url"])
    left = workspace.dedup_work / "some" / "url"
    left.mkdir(parents=True)
    (left / "run-00000.npy").write_bytes(b"many")
    assert [outcome.state for outcome in dedup(workspace, dry_run=True)] == ["up to date"]
    assert left.exists()
    assert [outcome.state for outcome in dedup(workspace)] == ["up to date"]
    assert not workspace.dedup_work.exists()


def test_duplicates_are_looked_for_before_images_are_fetched(tmp_path: Path) -> None:
    workspace = addresses(tmp_path, {"t": [[row("u/1", "a"), row("u/1", "b", 7.0)]]})
    ask(workspace, by=["url"])
    next_step = "Next: prep dedup, then prep filter"
    assert prep(tmp_path, "filter", "--force").stderr.splitlines()[-1] == next_step
    list(dedup(workspace))
    assert prep(tmp_path, "filter", "--min-size", "5").stderr.splitlines()[-1] == next_step
    fetched = prep(tmp_path, "images")
    assert "t: dedup is out of date and not used, so its duplicates are fetched too" in fetched.stderr
    events = [line for line in prep(tmp_path, "images", "--json").stderr.splitlines() if not line.startswith("{")]
    assert events == []


def test_json_of_a_reset_has_no_plain_lines(tmp_path: Path) -> None:
    workspace = addresses(tmp_path, {"t": [[row("u/1", "a")]]})
    ask(workspace, by=["url"])
    done = prep(tmp_path, "dedup", "--reset", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert prep_json(tmp_path, "status")["outcomes"]


def test_a_key_without_a_name(tmp_path: Path) -> None:
    addresses(tmp_path, {"t": [[row("u/1", "a")]]})
    said = prep(tmp_path, "dedup", "--by", "url,,").stderr
    assert "--by '': Input should be 'url', 'caption', 'sha256' or 'phash'" in said


# -- memory ------------------------------------------------------------------------------------------------------------

LOST = 1_000_000
MEASURED = """
    import re, sys
    from pathlib import Path
    import numpy as np
    from prep.stages.dedup import FactTask, write_duplicates
    from prep.stages.dedup_groups import LOST
    from prep.stages.dedup_keys import Source

    folder, rows = Path(sys.argv[1]), int(sys.argv[2])
    (folder / "lost").mkdir(parents=True)
    lost = np.zeros(rows, dtype=LOST)
    lost["place"] = np.arange(rows)
    np.save(folder / "lost" / "00000.npy", lost)
    source = Source("t", "p", 0, ("url",), False, "text-to-image", {}, True, (), (), "", False, rows)
    write_duplicates(FactTask(source, (("t", "p"),), (("duplicate_url", folder),), True, "", folder / "out.parquet"))
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_facts_of_large_shards_are_written_in_pieces(tmp_path: Path) -> None:
    """A shard of LAION has 18 million rows, all of which may be duplicates: some 80 bytes a row."""
    import textwrap

    def peak(rows: int) -> int:
        command = [sys.executable, "-c", textwrap.dedent(MEASURED), str(tmp_path / str(rows)), str(rows)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
        return int(done.stdout)

    assert (peak(2 * LOST) - peak(LOST)) * 1024 / LOST < 120
    assert pq.read_table(tmp_path / f"{LOST}/out.parquet", columns=["row"])["row"].to_numpy()[-1] == LOST - 1
