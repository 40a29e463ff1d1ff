"""dedup: which rows go, which stay, over tables and before and after the fetch; and that nothing is missed."""

from __future__ import annotations

import itertools
import random
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_server import ImageServer, reply
from prep import progress
from prep.config import Dedup, Rules
from prep.errors import ConfigError, Failures, UsageError
from prep.images.phash import phash
from prep.line import run_line, stale_tables, status
from prep.manifest import read_finished
from prep.stages import dedup as stage
from prep.stages import dedup_keys, dedup_near
from prep.stages.dedup import dedup
from prep.stages.dedup_groups import KEYS, PROTECTED, THERE, taken_out
from prep.stages.dedup_near import choose_masks, close_pairs
from prep.stages.filter import filter_table
from twins import addresses, ask, dropped, encoded, facts, find, kept, pictures, row, scene
from worlds import environment, prep, prep_json, snapshot

progress.use(progress.no_bar)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    progress.use(progress.no_bar)
    yield
    progress.use(progress.tqdm_bar)


# -- what is a duplicate, and which stays ------------------------------------------------------------------------------

TWO = {
    "one": [
        [row("u/1", "a cat"), row("u/2", "a  dog\n", 6.5), row(" u/1 ", "a bird", 7.0)],
        [row("u/3", "Cafe\u0301"), row("u/2", "a fish", 6.1)],
    ],
    "two": [[row("u/1", "a horse", 6.9), row("u/4", "a dog", 6.4), row("u/5", "Caf\u00e9", 6.2), row("u/6", "A dog")]],
}


def test_by_address_and_caption_over_tables(tmp_path: Path) -> None:
    workspace = addresses(tmp_path, TWO)
    outcomes = find(workspace, by=["caption", "url"])
    assert facts(workspace, "one") == [
        ("0.parquet#0", "duplicate_url", "one", "0.parquet#2"),
        ("1.parquet#0", "duplicate_caption", "two", "0.parquet#2"),
        ("1.parquet#1", "duplicate_url", "one", "0.parquet#1"),
    ]
    assert facts(workspace, "two") == [
        ("0.parquet#0", "duplicate_url", "one", "0.parquet#2"),
        ("0.parquet#1", "duplicate_caption", "one", "0.parquet#1"),
    ]
    assert [(o.stage, o.name, o.state, o.manifest and o.manifest.counts) for o in outcomes] == [
        ("dedup", "one", "done", {"duplicate_url": 2, "duplicate_caption": 1}),
        ("dedup", "two", "done", {"duplicate_url": 1, "duplicate_caption": 1}),
    ]
    asked = {"by": ["url", "caption"], "keep": "score", "tables": ["one", "two"], "against": [], "within": True}
    assert outcomes[0].manifest is not None
    assert outcomes[0].manifest.facts["asked"] == asked
    assert kept(workspace, "one") == ["0.parquet#1", "0.parquet#2"]
    assert dropped(workspace, "one") == {key: reason for key, reason, *_ in facts(workspace, "one")}
    assert kept(workspace, "two") == ["0.parquet#2", "0.parquet#3"]
    filtered = read_finished(workspace.filtered("one"))
    assert filtered is not None
    assert filtered.facts["dedup"] == asked
    assert not workspace.dedup_work.exists()


@pytest.mark.parametrize(
    ("keep", "stays"), [("score", "0.parquet#3"), ("largest", "0.parquet#2"), ("first", "0.parquet#0")]
)
def test_which_of_a_group_stays(keep: str, stays: str, tmp_path: Path) -> None:
    rows = [row("u", "a", 6.0, 600), row("u", "b", 6.5, 500), row("u", "c", 6.0, 700), row("u", "d", 6.5, 512)]
    workspace = addresses(tmp_path, {"t": [rows, [row("u", "e", 6.5, 512), row("u", "f", 6.0, 700)]]})
    find(workspace, by=["url"], keep=keep)
    assert kept(workspace, "t") == [stays]


def test_without_scores_and_sizes_the_first_stays(tmp_path: Path) -> None:
    parts = [[row("u", "a", 6.0), row("u", "b", 7.0)]]
    workspace = addresses(tmp_path, {"t": parts}, select={"caption": "caption", "hpsv2": "score"})
    find(workspace, by=["url"])
    assert kept(workspace, "t") == ["0.parquet#0"]


def test_captions_differ_behind_a_nul_too(tmp_path: Path) -> None:
    captions = ["\u00e9\0one", "\u00e9\0two", "\u00e9", "e\u0301\0 one ", "e\u0301\0one", "a\0b", "a b"]
    workspace = addresses(tmp_path, {"t": [[row(f"u/{at}", caption) for at, caption in enumerate(captions)]]})
    find(workspace, by=["caption"])
    assert facts(workspace, "t") == [("0.parquet#4", "duplicate_caption", "t", "0.parquet#0")]


def test_only_rows_that_pass_everything_else_count(tmp_path: Path) -> None:
    rows = [row("u", "a", 9.0, 100), row("u", "b", 6.0, 600), row("u", "c", 5.9, 700)]
    workspace = addresses(tmp_path, {"t": [rows]})
    workspace.remember_rules(workspace.given_rules().with_rules(Rules(min_size=500), ()))
    filter_table(workspace, "t")
    find(workspace, by=["url"])
    assert dropped(workspace, "t") == {"0.parquet#0": "min_size", "0.parquet#2": "duplicate_url"}
    before = snapshot(tmp_path)
    assert [outcome.state for outcome in dedup(workspace)] == ["up to date"]  # also after filter has judged by it
    assert filter_table(workspace, "t").state == "up to date"
    assert snapshot(tmp_path) == before


def test_facts_about_other_rows_are_told_and_not_used(tmp_path: Path) -> None:
    workspace = addresses(tmp_path, TWO)
    find(workspace, by=["url"])
    workspace.remember_rules(workspace.given_rules().with_rules(Rules(aes_cutoff=6.95), ("one",)))
    note = "dedup is out of date and not used; `prep dedup`, then `prep filter` once more"
    assert filter_table(workspace, "one").note == note
    assert dropped(workspace, "one") == dict.fromkeys(
        ["0.parquet#0", "0.parquet#1", "1.parquet#0", "1.parquet#1"], "aes_cutoff"
    )
    assert stale_tables(workspace) == {"one": "dedup has work to do", "two": "filter has work to do"}
    assert filter_table(workspace, "two").note == note  # its rows are the same, but not those of the other table
    assert kept(workspace, "two") == [f"0.parquet#{number}" for number in range(4)]
    assert [outcome.state for outcome in dedup(workspace, dry_run=True)] == ["planned", "planned"]
    assert [outcome.state for outcome in dedup(workspace)] == ["done", "done"]
    for name in ("one", "two"):
        assert filter_table(workspace, name).note == ""
    assert dropped(workspace, "two") == {"0.parquet#0": "duplicate_url"}
    assert stale_tables(workspace) == {}
    assert [(o.stage, o.state) for o in status(workspace) if o.stage == "dedup"] == [("dedup", "up to date")] * 2


def test_a_question_that_was_reset_is_not_judged_by(tmp_path: Path) -> None:
    workspace = addresses(tmp_path, TWO)
    before = snapshot(tmp_path)
    find(workspace, by=["url"])
    workspace.remember_rules(workspace.given_rules().with_dedup(Dedup(), reset=True))
    for name in ("one", "two"):
        filter_table(workspace, name)
    after = snapshot(tmp_path)
    assert {path: name for path, name in after.items() if not path.startswith("dedup/")} == before


def test_a_sample_is_drawn_from_what_is_left(tmp_path: Path) -> None:
    rows = [row(f"u/{number // 2}", f"{number}", 6 + number % 2) for number in range(40)]
    workspace = addresses(tmp_path, {"t": [rows[:25], rows[25:]]})
    find(workspace, by=["url"])
    workspace.remember_rules(workspace.given_rules().with_rules(Rules(sample="12"), ()))
    assert filter_table(workspace, "t").note == ""
    assert [outcome.state for outcome in dedup(workspace)] == ["up to date"]
    reasons = list(dropped(workspace, "t").values())
    assert (len(kept(workspace, "t")), reasons.count("duplicate_url"), reasons.count("sample")) == (12, 20, 8)


# -- against -----------------------------------------------------------------------------------------------------------


def test_against_a_table_takes_out_what_it_has_and_nothing_of_its_own(tmp_path: Path) -> None:
    tables = {
        "train": [[row("u/1", "a", 9.0), row("u/2", "b"), row("u/2", "c"), row("u/3", "d")]],
        "test": [[row("u/1", "e", 5.1), row("u/1", "f", 5.2), row("u/9", "g")]],
    }
    workspace = addresses(tmp_path, tables)
    outcomes = find(workspace, by=["url"], against=["test"])
    assert facts(workspace, "train") == [("0.parquet#0", "duplicate_url", "test", "0.parquet#1")]
    assert [outcome.name for outcome in outcomes] == ["train"]
    assert not workspace.dedup("test").exists()
    assert (len(kept(workspace, "train")), len(kept(workspace, "test"))) == (3, 3)
    find(workspace, by=["url"], against=["test"], within=True)
    assert facts(workspace, "train") == [
        ("0.parquet#0", "duplicate_url", "test", "0.parquet#1"),
        ("0.parquet#2", "duplicate_url", "train", "0.parquet#1"),
    ]
    assert len(kept(workspace, "test")) == 3


def test_against_a_file_that_is_no_table(tmp_path: Path) -> None:
    workspace = addresses(tmp_path / "w", TWO)
    pq.write_table(pa.table({"Caption": ["nothing", " a\u00a0dog"], "id": [1, 2]}), tmp_path / "evaluation.parquet")
    find(workspace, by=["caption"], against=[str(tmp_path / "evaluation.parquet")])
    path = str(tmp_path / "evaluation.parquet")
    assert facts(workspace, "one") == [("0.parquet#1", "duplicate_caption", path, "evaluation.parquet#1")]
    pq.write_table(pa.table({"caption": ["a cat"]}), tmp_path / "evaluation.parquet")
    assert "out of date" in filter_table(workspace, "one").note
    with pytest.raises(UsageError, match="neither a table of this workspace nor a parquet file"):
        ask(workspace, by=["caption"], against=["elsewhere"])
    (tmp_path / "evaluation.parquet").unlink()
    assert "out of date" in filter_table(workspace, "one").note
    pq.write_table(pa.table({"text": ["a cat"]}), tmp_path / "evaluation.parquet")
    with pytest.raises(UsageError, match="none of the columns caption"):
        find(workspace, by=["caption"], against=[str(tmp_path / "evaluation.parquet")])


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    workspace = addresses(tmp_path, TWO, scores={"one": "aesthetic-v1"})
    with pytest.raises(UsageError, match="nothing says what makes two rows duplicates"):
        ask(workspace)
    with pytest.raises(UsageError, match="no table is left"):
        ask(workspace, by=["url"], tables=["one"], against=["one"])
    with pytest.raises(UsageError, match="neither a dataset nor a table"):
        ask(workspace, by=["url"], tables=["three"])
    with pytest.raises(ConfigError, match=r"one \(aesthetic-v1\) and of two \(aesthetic-v2\) cannot be compared"):
        find(workspace, by=["url"])
    find(workspace, by=["url"], keep="largest")
    assert [len(facts(workspace, name)) for name in ("one", "two")] == [2, 1]
    ask(workspace, by=["sha256"], keep="first")
    assert [(outcome.state, outcome.note) for outcome in dedup(workspace)] == [
        ("waiting", "images first, then filter")
    ] * 2


# -- images ------------------------------------------------------------------------------------------------------------


def test_by_bytes_and_by_look(tmp_path: Path) -> None:
    first, second = scene(1), scene(2)
    files = {
        "a.jpg": encoded(first, quality=95),
        "b.jpg": encoded(first, quality=95),
        "c.png": encoded(first, "PNG"),
        "d.jpg": encoded(first.resize((200, 150)), quality=60),
        "e.jpg": encoded(second),
        "f.png": encoded(Image.new("RGB", (64, 64), "white"), "PNG"),
        "g.png": encoded(Image.new("RGB", (60, 60), "black"), "PNG"),
    }
    workspace = pictures(tmp_path / "w", files)
    outcomes = find(workspace, by=["sha256", "phash"])
    assert facts(workspace, "pics") == [
        ("rows.parquet#1", "duplicate_image", "pics", "rows.parquet#0"),
        ("rows.parquet#2", "near_duplicate", "pics", "rows.parquet#0"),
        ("rows.parquet#3", "near_duplicate", "pics", "rows.parquet#0"),
    ]
    assert [(o.stage, o.state, o.manifest and o.manifest.counts) for o in outcomes] == [
        ("phash", "done", {"hashed": 5, "unhashed": 2}),
        ("dedup", "done", {"duplicate_image": 1, "near_duplicate": 2}),
    ]
    hashes = pq.read_table(workspace.phash("pics")).to_pylist()
    paths = [str(tmp_path / "pictures" / name) for name in ("a.jpg", "f.png")]
    assert hashes[0] == {"path": paths[0], "phash": f"{phash(files['a.jpg']):016x}", "status": "hashed"}
    assert hashes[5] == {"path": paths[1], "phash": None, "status": "unhashed"}
    assert [outcome.state for outcome in dedup(workspace)] == ["up to date", "up to date"]


def test_images_of_a_folder_below_the_image_store(tmp_path: Path) -> None:
    """Their index has whole paths, those of the store paths from the dataset's folder on."""
    same = encoded(scene(1))
    files = {"a.jpg": same, "b.jpg": same, "c.png": encoded(scene(1), "PNG")}
    workspace = pictures(tmp_path / "w", files, "images/mine")
    find(workspace, by=["sha256", "phash"])
    assert facts(workspace, "pics") == [
        ("rows.parquet#1", "duplicate_image", "pics", "rows.parquet#0"),
        ("rows.parquet#2", "near_duplicate", "pics", "rows.parquet#0"),
    ]


def test_published_hashes_need_no_images(tmp_path: Path) -> None:
    hashes = ["00000000000000ff", "00000000000000fc", "00000000000000FF", "ffffffffffffffff", "no hash", None]
    rows = [row(f"u/{number}", f"{number}", 6.0, image_phash=value) for number, value in enumerate(hashes)]
    workspace = addresses(tmp_path, {"t": [rows[:2], rows[2:]]}, extra={"image_phash": "image_phash"})
    find(workspace, by=["phash"], distance=2)
    assert facts(workspace, "t") == [
        ("0.parquet#1", "near_duplicate", "t", "0.parquet#0"),
        ("1.parquet#0", "near_duplicate", "t", "0.parquet#0"),
    ]
    find(workspace, by=["phash"], distance=1)
    assert facts(workspace, "t") == [("1.parquet#0", "near_duplicate", "t", "0.parquet#0")]
    find(workspace, by=["phash"], distance=0)
    assert facts(workspace, "t") == [("1.parquet#0", "near_duplicate", "t", "0.parquet#0")]


def test_a_duplicate_steps_in_for_one_that_cannot_be_fetched(tmp_path: Path) -> None:
    """prep run: only one of a group is fetched; where its address is dead, the next one is."""
    replies = {name: reply(body=encoded(scene(number))) for number, name in enumerate(["good.jpg", "other.jpg"])}
    with ImageServer(replies) as server:
        rows = [
            row(server.url("gone.jpg"), "a tree", 9.0),
            row(server.url("good.jpg"), "a tree", 8.0),
            row(server.url("other.jpg"), "a tree", 7.0),
        ]
        workspace = addresses(tmp_path / "w", {"t": [rows]})
        ask(workspace, by=["caption"])
        failures = Failures()
        list(run_line(workspace, failures))
        failures.raise_all()
        assert dropped(workspace, "t") == {"0.parquet#0": "image_http_404", "0.parquet#2": "duplicate_caption"}
        assert kept(workspace, "t") == ["0.parquet#1"]
        assert dict(server.hits) == {"/gone.jpg": 1, "/good.jpg": 1}
        before = snapshot(workspace.root)
        assert {outcome.state for outcome in run_line(workspace, failures)} == {"up to date"}
        assert (snapshot(workspace.root), stale_tables(workspace)) == (before, {})


def test_fetched_images_by_bytes_and_by_look(tmp_path: Path) -> None:
    same = encoded(scene(5))
    replies = {"a.jpg": reply(body=same), "b.jpg": reply(body=same), "c.png": reply(body=encoded(scene(5), "PNG"))}
    with ImageServer(replies | {"d.jpg": reply(body=encoded(scene(6)))}) as server:
        names = [*replies, "d.jpg"]
        rows = [row(server.url(name), name, 6.0 + at / 10, 320) for at, name in enumerate(names)]
        workspace = addresses(tmp_path / "w", {"t": [rows[:2], rows[2:]]})
        ask(workspace, by=["sha256", "phash"])
        failures = Failures()
        list(run_line(workspace, failures))
        failures.raise_all()
    assert facts(workspace, "t") == [
        ("0.parquet#0", "duplicate_image", "t", "0.parquet#1"),
        ("0.parquet#1", "near_duplicate", "t", "1.parquet#0"),
    ]
    assert kept(workspace, "t") == ["1.parquet#0", "1.parquet#1"]
    query = re.search(r'query = """(.*?)"""', (ROOT / "docs/dedup.md").read_text(), re.DOTALL)
    assert query
    text = query[1].replace("coyo-700m", "t").replace("'normalized/", f"'{workspace.root}/normalized/")
    text = text.replace("'dedup/", f"'{workspace.root}/dedup/")
    assert sorted(duckdb.execute(text).fetchall()) == [
        ("a.jpg", "duplicate_image", "t", "0.parquet#1"),
        ("b.jpg", "near_duplicate", "t", "1.parquet#0"),
    ]


# -- nothing is missed -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12, unique=True),
    st.lists(st.tuples(st.integers(0, 11), st.sets(st.integers(0, 63), max_size=7)), max_size=30),
    st.integers(1, 6),
    st.integers(1, 10**9),
)
@settings(max_examples=60, deadline=None)
def test_bands_find_every_pair_once(
    seeds: list[int], near: list[tuple[int, set[int]]], distance: int, size: int
) -> None:
    made = {seeds[which % len(seeds)] ^ sum(1 << bit for bit in bits) for which, bits in near}
    values = np.array(sorted({*seeds, *made}), dtype=np.uint64)
    masks = choose_masks(size, distance)  # other cuts for other sizes
    found = [
        tuple(sorted(pair))
        for number in range(len(masks))
        for a, b in close_pairs(values, masks, number, distance)
        for pair in zip(a.tolist(), b.tolist(), strict=True)
    ]
    pairs = itertools.combinations(values.tolist(), 2)
    assert sorted(found) == [(a, b) for a, b in pairs if (a ^ b).bit_count() <= distance]


def greedy(hashes: Sequence[tuple[int, int]], distance: int) -> set[int]:
    """Rows taken out: in order of score, then place, one that is near an earlier one that stays."""
    stays: list[int] = []
    order = sorted(range(len(hashes)), key=lambda number: (-hashes[number][1], number))
    for number in order:
        if all((hashes[number][0] ^ hashes[other][0]).bit_count() > distance for other in stays):
            stays.append(number)
    return set(range(len(hashes))) - set(stays)


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_of_the_plain_rule(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many partitions, runs and parts of sorts, as with a billion."""
    monkeypatch.setattr(stage, "PARTITION_ROWS", 40)
    monkeypatch.setattr(dedup_keys, "RUN_ROWS", 50)
    monkeypatch.setattr(dedup_keys, "BATCH_ROWS", 20)
    monkeypatch.setattr(dedup_near, "SORTED_AT_ONCE", 30)
    numbers = random.Random(seed)
    centres = [numbers.getrandbits(64) for _ in range(25)]
    hashes = [
        (numbers.choice(centres) ^ sum(1 << numbers.randrange(64) for _ in range(numbers.randrange(4))) % 2**64,
         numbers.randrange(6, 9))
        for _ in range(300)
    ]  # fmt: skip
    rows = [
        row(f"u/{number}", f"{number}", float(score), image_phash=f"{value:016x}")
        for number, (value, score) in enumerate(hashes)
    ]
    workspace = addresses(tmp_path, {"t": [rows]}, extra={"image_phash": "image_phash"})
    find(workspace, by=["phash"], distance=3)
    found = facts(workspace, "t")
    assert {int(key.partition("#")[2]) for key, *_ in found} == greedy(hashes, 3)
    for key, _, _, winner in found:
        one, other = (hashes[int(name.partition("#")[2])] for name in (key, winner))
        assert (one[0] ^ other[0]).bit_count() <= 3 and winner not in {lost for lost, *_ in found}


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 2)), max_size=40), st.booleans())
@settings(max_examples=100, deadline=None)
def test_groups_are_those_of_the_plain_rule(made: list[tuple[int, bool, int]], within: bool) -> None:
    rows = np.array(
        [(key, 0, PROTECTED if safe else THERE, score, 0, at) for at, (key, safe, score) in enumerate(made)], dtype=KEYS
    )
    wanted = []
    for key in {one[0] for one in made}:
        group = [(not safe, -score, at) for at, (other, safe, score) in enumerate(made) if other == key]
        best = min(group)
        if within or not best[0]:
            wanted += [(at, best[2]) for is_open, _, at in group if is_open and at != best[2]]
    lost = taken_out(rows, np.empty(0, dtype=[("place", "<u8"), ("winner", "<u8")]), within=within)
    assert lost.tolist() == sorted(wanted)


# -- a run that is killed ----------------------------------------------------------------------------------------------

KILLED = """
    import os, signal, sys
    from pathlib import Path
    from prep import progress
    from prep.stages import dedup, dedup_keys, dedup_near
    from prep.workspace import Workspace

    progress.use(progress.no_bar)
    dedup.PARTITION_ROWS, dedup_keys.RUN_ROWS = 20, 20
    moment, touches = int(sys.argv[2]), 0

    def count(event, arguments):
        global touches
        if event in ("os.rename", "os.mkdir", "os.remove"):
            touches += 1
            if touches == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    workspace = Workspace(Path(sys.argv[1]))
    sys.addaudithook(count)
    list(dedup.dedup(workspace))
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    rows = [
        row(f"u/{number % 30}", f"{number}", 6.0, image_phash=f"{(number % 50) << number % 9:016x}")
        for number in range(90)
    ]
    workspace = addresses(tmp_path, {"t": [rows[:40], rows[40:]]}, extra={"image_phash": "image_phash"})
    ask(workspace, by=["url", "phash"])
    script = textwrap.dedent(KILLED)

    def run(moment: int) -> int:
        command = [sys.executable, "-c", script, str(tmp_path), str(moment)]
        return subprocess.run(command, env=environment(), timeout=60).returncode

    assert run(0) == 0
    whole = snapshot(tmp_path)
    assert sum(len(facts(workspace, name)) for name in ("t",)) > 40
    for path in workspace.dedup("t").iterdir():
        path.unlink()
    for moment in (3, 8, 14, 20, 30, 45, 30, 10):
        assert run(moment) == -signal.SIGKILL
    assert run(0) == 0
    assert snapshot(tmp_path) == whole


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_remembers_and_forgets(tmp_path: Path) -> None:
    addresses(tmp_path, TWO)
    assert "nothing says what makes two rows duplicates" in prep(tmp_path, "dedup").stderr
    assert "--by" in prep(tmp_path, "dedup", "--by", "url,colour").stderr
    assert "--distance" in prep(tmp_path, "dedup", "--by", "phash", "--distance", "40").stderr
    assert "has sha256 or" not in prep(tmp_path, "dedup", "--by", "sha256").stderr
    (tmp_path / "rules.yaml").unlink()
    assert not (tmp_path / "rules.yaml").exists()
    done = prep(tmp_path, "dedup", "--by", "url", "--keep", "first")
    assert done.stdout.splitlines() == [
        "dedup     one               2 duplicates: 2 duplicate_url",
        "dedup     two               1 duplicates: 1 duplicate_url",
    ]
    assert "Next: prep filter, which now drops the duplicates" in done.stderr
    assert yaml.safe_load((tmp_path / "rules.yaml").read_text()) == {"dedup": {"by": ["url"], "keep": "first"}}
    kept_and_dropped = prep(tmp_path, "filter").stdout.splitlines()
    assert kept_and_dropped[0] == "filter    one               3 kept, 2 dropped: 2 duplicate_url"
    outcomes = prep_json(tmp_path, "dedup")["outcomes"]
    assert [(one["name"], one["state"], one["counts"]) for one in outcomes] == [
        ("one", "up to date", {"duplicate_url": 2}),
        ("two", "up to date", {"duplicate_url": 1}),
    ]
    planned = prep_json(tmp_path, "dedup", "two", "--keep", "largest", "--dry-run")["outcomes"]
    assert [(one["name"], one["state"]) for one in planned] == [("two", "planned")]
    assert prep(tmp_path, "dedup", "--reset").returncode == 0
    assert not (tmp_path / "rules.yaml").exists()
    assert prep(tmp_path, "filter").stdout.splitlines()[0] == "filter    one               5 kept, 0 dropped"


def test_two_workers_find_the_same(tmp_path: Path) -> None:
    numbers = random.Random(7)
    parts = [[row(f"u/{numbers.randrange(60)}", f"{at}", numbers.random() + 6) for at in range(50)] for _ in range(4)]
    made = []
    for workers in (1, 2):
        workspace = addresses(tmp_path / str(workers), {"t": parts}, workers=workers)
        find(workspace, by=["url"])
        made.append({path: name for path, name in snapshot(workspace.root).items() if "parquet" in path})
    assert [path for path in made[0] if made[0][path] != made[1][path]] == []
    assert [path.name for path in (tmp_path / "1/dedup").iterdir()] == ["t.parquet"]
