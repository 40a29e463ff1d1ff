"""The filter's sample, its waterfall, what `where` may ask of images, and its memory."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import TABLE, make, make_addresses, picture, run
from test_image_urls import asked, serve
from test_score import table_of

from plain_scorer import PlainLoading
from prep import sql
from prep.cli.memory_option import memory_option
from prep.config import Dedup, Recipe, Rules
from prep.engine import Cluster, working
from prep.errors import ConfigError, DataError, UsageError, WorkspaceError
from prep.images.chunks import NOT_FETCHED
from prep.images.matching import AMBIGUOUS
from prep.images.statuses import OF_ADDRESSES, OF_ANY, OF_FILES
from prep.line import status
from prep.lock.contents import judged_shards
from prep.manifest import Manifest, read_finished
from prep.preview import table_shards
from prep.publishers import World
from prep.report.histograms import table_histograms
from prep.schema import FILTER_REASONS, NO_STATUSES
from prep.scorers.scorer import SCORERS
from prep.stages import sampling
from prep.stages.download import download
from prep.stages.filter import TEXT_ONLY, filter_table
from prep.stages.normalize import normalize
from prep.stages.sampling import ALL, HASH, bound_of_number, bound_of_share, hash_of, rows_wanted
from prep.stages.score import score_table
from prep.stages.shards import Outcome, share_memory
from prep.stages.waterfall import _RULES, Step, waterfall
from prep.workspace import Workspace
from worlds import prep, prep_json, snapshot

PARTS, ROWS = 3, 200
GIVEN: dict[str, Any] = {
    **TABLE,
    "select": {"caption": "caption", "s3_path": "path", "intHeight": "side", "intWidth": "side"},
}


def hash_in_python(key: str, seed: int = 0) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8])


def key(part: int, row: int) -> str:
    return f"part-{part}.parquet#{row}"


ALL_KEYS = [key(part, row) for part in range(PARTS) for row in range(ROWS)]
LARGE = {key(part, row) for part in range(PARTS) for row in range(ROWS) if row % 4}  # a side of 512, the others' is 100


@pytest.fixture
def table(tmp_path: Path) -> Workspace:
    """Three parts of 200 rows with given images, normalized; every fourth is small."""
    workspace = make(tmp_path, {"images": {"kind": "given"}, "tables": {"pics": GIVEN}})
    for part in range(PARTS):
        rows = [
            {"caption": f"caption {row}", "path": f"/{part}/{row}.jpg", "side": 512 if row % 4 else 100}
            for row in range(ROWS)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parts" / f"part-{part}.parquet")
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    return workspace


def filtered(workspace: Workspace, **rules: Any) -> Manifest:
    outcome = filter_table(workspace, "pics", rules=Rules.model_validate(rules))
    assert outcome.manifest is not None, outcome.note
    return outcome.manifest


def kept(workspace: Workspace, **rules: Any) -> list[str]:
    filtered(workspace, **rules)
    keys: list[str] = pq.read_table(workspace.filtered("pics"))["key"].to_pylist()
    return keys


def smallest(keys: set[str], number: int, seed: int = 0) -> list[str]:
    chosen = {*sorted(keys, key=lambda name: hash_in_python(name, seed))[:number]}
    return [name for name in ALL_KEYS if name in chosen]


# -- the hashes --------------------------------------------------------------------------------------------------------


@given(st.text(min_size=1), st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_the_hash_is_sha256_of_seed_and_key(name: str, seed: int) -> None:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT {hash_of(seed)} FROM (SELECT ? AS key)", [name]).fetchall()
    assert found == [(hash_in_python(name, seed),)]


hashes = st.one_of(st.integers(0, ALL - 1), st.integers(0, 50), st.integers((1 << 48) - 3, (1 << 48) + 3))


@given(st.sets(hashes, max_size=60), st.integers(1, 60), st.lists(st.integers(0, 60), max_size=4))
@settings(max_examples=100, deadline=None)
def test_the_bound_lies_above_exactly_so_many_hashes_however_they_lie_in_files(
    tmp_path_factory: pytest.TempPathFactory, found: set[int], number: int, cuts: list[int]
) -> None:
    folder, values = tmp_path_factory.mktemp("hashes"), list(found)
    starts = sorted({0, *(cut for cut in cuts if cut < len(values))})
    files = []
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        files.append(folder / f"{start}.parquet")
        pq.write_table(pa.table({HASH: pa.array(sorted(values[start:end])[:number], pa.uint64())}), files[-1])
    below = bound_of_number(files, number)
    assert sorted(value for value in found if value < below) == sorted(found)[:number]
    assert (below == ALL) == (len(found) < number)


shares = st.decimals("0.0001", "100", places=4, allow_nan=False).map(lambda percent: f"{percent}%")


@given(shares, shares)
def test_a_larger_share_holds_a_smaller_one(one: str, other: str) -> None:
    small, large = sorted((one, other), key=lambda share: Fraction(share[:-1]))
    assert 0 < bound_of_share(small) <= bound_of_share(large) <= ALL
    assert abs(Fraction(bound_of_share(one), ALL) - Fraction(one[:-1]) / 100) < Fraction(1, ALL)


@pytest.mark.parametrize(
    "sample", ["0", "0%", "0.0%", "100.1%", "-1", "1 %", "10 rows", "1e3", "", "%", ".5%", "9" * 19]
)
def test_what_is_no_share_is_refused(sample: str) -> None:
    with pytest.raises(ValueError, match="sample"):
        Rules(sample=sample)


def test_an_entry_says_how_much_too() -> None:
    text = {"name": "r", "entries": [{"table": "t", "sample": 200, "seed": 3}, {"table": "u", "sample": "0.1%"}]}
    one, other = Recipe.model_validate(text).entries
    assert (one.rules, other.rules) == (Rules(sample="200", seed=3), Rules(sample="0.1%"))
    assert (rows_wanted("200"), rows_wanted("0.1%")) == (200, None)


# -- samples -----------------------------------------------------------------------------------------------------------


def test_a_share_is_the_same_rows_whatever_else_is_asked(table: Workspace) -> None:
    inside = {name for name in ALL_KEYS if hash_in_python(name) < bound_of_share("10%")}
    assert kept(table, sample="10%") == [name for name in ALL_KEYS if name in inside]
    assert filtered(table, sample="10%").counts == {"sample": len(ALL_KEYS) - len(inside)}
    assert kept(table, sample="10%", min_size=512) == [name for name in ALL_KEYS if name in inside & LARGE]
    counts = filtered(table, sample="10%", min_size=512).counts
    assert counts == {"min_size": len(ALL_KEYS) - len(LARGE), "sample": len(LARGE - inside)}
    other = {name for name in ALL_KEYS if hash_in_python(name, 7) < bound_of_share("10%")}
    assert kept(table, sample="10%", seed=7) == [name for name in ALL_KEYS if name in other] != sorted(inside)
    assert kept(table, sample="100%") == ALL_KEYS


def test_a_number_is_exact_and_of_what_passes_everything_else(table: Workspace) -> None:
    before: set[str] = set()
    for number in (1, 37, 200, 449, 450):
        found = kept(table, sample=number, min_size=512)
        assert found == smallest(LARGE, number) and len(found) == number
        assert before <= set(found)
        before = set(found)
    assert kept(table, sample=451, min_size=512) == smallest(LARGE, 450)  # there are no more
    assert kept(table, sample=100, seed=1) == smallest(set(ALL_KEYS), 100, seed=1)
    counts = filtered(table, sample=40, where="caption = 'caption 5'").counts
    assert counts == {"where": len(ALL_KEYS) - PARTS}


def test_a_number_is_found_once_and_goes_with_its_inputs(table: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Rules(sample="50")
    filter_table(table, "pics", rules=rules)
    before = snapshot(table.root)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "_batches", lambda shards: pytest.fail("looked for the bound again"))
        assert filter_table(table, "pics", rules=rules).state == "up to date"
        assert filter_table(table, "pics", rules=rules, dry_run=True).state == "up to date"
    assert snapshot(table.root) == before
    # Another number is another bound; a dry run does not look for it.
    planned = filter_table(table, "pics", rules=Rules(sample="60"), dry_run=True)
    note = "the rows that may be in a sample of 60 come first"
    assert planned == Outcome("filter", "pics", "planned", PARTS, PARTS, note=note)
    assert snapshot(table.root) == before
    # A part that changes changes what the others give, too.
    rows = [{"caption": "one", "path": "/one.jpg", "side": 100}]
    pq.write_table(pa.Table.from_pylist(rows), table.root / "parts" / "part-1.parquet")
    download(table, table.catalogue.dataset("pics"))
    normalize(table, "pics")
    left = {name for name in ALL_KEYS if not name.startswith("part-1.")} | {key(1, 0)}
    assert kept(table, sample="50") == smallest(left, 50)
    # Without the rule the same bytes as if there had never been one.
    plain = filtered(table)
    assert "sample" not in plain.facts and plain.facts["rules"] == {}
    assert kept(table) == [name for name in ALL_KEYS if name in left]


def test_what_is_fetched_is_what_is_in_the_sample(world: World, tmp_path: Path) -> None:
    """The first pass chooses what is fetched; in the place of images that are gone the next in line are."""
    names = [f"pic{number}" for number in range(12)]
    order = sorted(range(12), key=lambda row: hash_in_python(f"rows.parquet#{row}"))
    gone = {names[order[1]], names[order[3]]}
    urls = serve(world, **{name: 404 if name in gone else picture(number) for number, name in enumerate(names)})
    workspace = make_addresses(tmp_path, urls)
    rules: dict[str, Any] = {"sample": 4}

    def in_sample(count: int) -> list[str]:
        return [urls[row] for row in sorted(order[:count])]

    def captions() -> list[str]:
        found: list[str] = pq.read_table(workspace.filtered("pics"))["caption"].to_pylist()
        return found

    filtered(workspace, **rules)
    assert captions() == in_sample(4)
    run(workspace)
    assert asked(world) == sorted(names[row] for row in order[:4])
    counts = filtered(workspace, **rules).counts
    assert counts == {"image_http_404": 2, "image_not_fetched": 2, "sample": 6}
    run(workspace)
    assert asked(world) == sorted(names[row] for row in order[4:6])
    assert filtered(workspace, **rules).counts == {"image_http_404": 2, "sample": 6}
    assert captions() == [url for url in in_sample(6) if url.rpartition("/")[2] not in gone]


def test_no_score_is_computed_for_rows_outside_of_a_share(tmp_path: Path) -> None:
    """Rows outside that a cutoff drops for want of a score would else be the next to be scored."""
    workspace = table_of(tmp_path, [10 * number for number in range(20)])
    inside = {row for row in range(20) if hash_in_python(f"rows.parquet#{row}") < bound_of_share("40%")}
    rules = {"sample": "40%"}
    filtered(workspace, **rules)
    first = score_table(workspace, "pics", SCORERS["aesthetic-v2"], PlainLoading())
    assert first.manifest is not None and first.manifest.rows == len(inside) == 9
    counts = filtered(workspace, aes_cutoff=-1000, **rules).counts
    assert counts == {"no_score": 20 - len(inside)}
    assert score_table(workspace, "pics", SCORERS["aesthetic-v2"], PlainLoading()).state == "up to date"
    filtered(workspace, aes_cutoff=-1000)
    assert score_table(workspace, "pics", SCORERS["aesthetic-v2"], PlainLoading()).manifest is not None
    assert filtered(workspace, aes_cutoff=-1000).counts == {}


# -- what `where` may ask of images ------------------------------------------------------------------------------------


def test_where_asks_for_facts_of_images_once_they_are_known(world: World, tmp_path: Path) -> None:
    pictures = {"png": picture(1, format_="PNG"), "jpeg": picture(2), "large": picture(3, (640, 480))}
    workspace = make_addresses(tmp_path, serve(world, **pictures))
    rules = {"where": "image_format = 'JPEG' AND image_size_bytes < 3000 AND caption NOT LIKE '%/large'"}
    # What nobody knows yet passes, unless it fails by what is known.
    assert filtered(workspace, **rules).counts == {"where": 1}
    assert kept(workspace, **rules) == ["rows.parquet#0", "rows.parquet#1"]
    run(workspace)
    assert kept(workspace, **rules) == ["rows.parquet#1"]
    assert kept(workspace, where="image_displayed_width > image_displayed_height * 1.2") == [
        *("rows.parquet#0", "rows.parquet#1")
    ]
    digest = hashlib.sha256(pictures["jpeg"]).hexdigest()
    assert kept(workspace, where=f"image_sha256 = '{digest}' AND image_status = 'ok'") == ["rows.parquet#1"]
    written = pq.read_schema(workspace.filtered("pics") / "shard-00000.parquet").names
    assert [name for name in written if name.startswith("image_")] == ["image_key"]


def test_of_a_dropped_row_only_what_the_samples_lack_is_written(world: World, tmp_path: Path) -> None:
    workspace = make_addresses(tmp_path, serve(world, good=picture(1), gone=404))
    shard = "shard-00000.parquet"

    def dropped() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(workspace.dropped("pics") / shard).to_pylist()
        return rows

    filtered(workspace, where="caption LIKE '%/good'")
    row = {"key": "rows.parquet#1", "row": 1, "s3_path": None}
    assert dropped() == [row | {"reason": "where"}]
    run(workspace)
    filtered(workspace)
    row |= {"intHeight": None, "intWidth": None}
    assert dropped() == [row | {"reason": "image_not_fetched"}]
    run(workspace)
    filtered(workspace)
    assert dropped() == [row | {"reason": "image_http_404"}]


def test_a_tables_own_column_goes_before_a_fact_of_its_name(tmp_path: Path) -> None:
    own = {**GIVEN, "extra": {"image_format": "shape"}}
    rows = [{"caption": word, "path": f"/{word}.jpg", "side": 9, "shape": word} for word in ("round", "flat")]
    workspace = make(tmp_path, {"images": {"kind": "given"}, "tables": {"pics": own}}, rows)
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    assert kept(workspace, where="image_format = 'flat'") == ["rows.parquet#1"]
    assert kept(workspace, where="image_size_bytes IS NULL AND image_format = 'flat'") == ["rows.parquet#1"]


FACTS = [
    "IMAGE_STATUS = 'ok'",
    '"Image_Status" IS NOT NULL',
    "Image_Format = 'JPEG'",
    "coalesce(image_size_bytes, 0) > 100",
    "CASE WHEN image_format = 'JPEG' THEN true ELSE false END",
    "image_format IN ('JPEG', 'PNG') AND NOT image_format IS NULL -- of all",
    "s3_path IS NOT NULL",
    "s3_path LIKE '%.jpg' OR caption = 'nothing'",
    "COLUMNS('image_(format|sha256)') IS NOT NULL",
    "EXISTS (SELECT 1 WHERE image_displayed_width > 0)",
]


@pytest.mark.parametrize("where", FACTS)
def test_what_asks_of_an_image_waits_for_it(where: str, world: World, tmp_path: Path) -> None:
    workspace = make_addresses(tmp_path, serve(world, one=picture(1), other=picture(2)))
    assert filtered(workspace, where=where).counts == {}
    assert filtered(workspace, where=f"caption LIKE '%/one' AND ({where}\n)").counts == {"where": 1}
    assert filtered(workspace, where=f"({where}\n) OR caption = 'x'").counts == {}
    run(workspace)
    assert kept(workspace, where=f"caption LIKE '%/one' AND ({where}\n)") == ["rows.parquet#0"]


def test_what_only_looks_as_if_it_asked_of_an_image_does_not_wait(world: World, tmp_path: Path) -> None:
    workspace = make_addresses(tmp_path, serve(world, one=picture(1)))
    assert filtered(workspace, where="caption != 'image_format' AND caption = 'x'").counts == {"where": 1}
    assert filtered(workspace, where="nullif(caption, caption) = 'image_status'").counts == {"where": 1}
    own = {**TABLE, "extra": {"image_format": "nullif(caption, caption)", "Image_Sha256": "caption"}}
    workspace = make(
        tmp_path / "own",
        {"images": {"kind": "url"}, "tables": {"pics": own}},
        [{"url": "https://example.com/1.jpg", "caption": "x"}],
    )
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    assert filtered(workspace, where="image_format = 'JPEG'").counts == {"where": 1}
    assert filtered(workspace, where="image_sha256 = 'y'").counts == {"where": 1}
    assert filtered(workspace, where="image_sha256 = 'x' AND image_size_bytes > 0").counts == {}


# -- SQL of strangers --------------------------------------------------------------------------------------------------

SETTING = "EXISTS (FROM enable_logging('QueryLog', storage = 'file', storage_config = {{'path': '{0}'}}))"


def test_a_recipe_that_says_more_than_a_predicate_does_nothing(table: Workspace) -> None:
    target = table.root / "stolen.csv"
    where = f"true); COPY (SELECT 1) TO '{target}'; SELECT (1"
    entry = {"table": "pics", "where": where}
    (table.root / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "entries": [entry]}))
    for words in (["status"], ["filter", "--dry-run"], ["filter"]):
        done = prep(table.root, *words)
        assert done.returncode == 1 and "recipe.yaml:3: entries.0.where: " in done.stderr, done.stderr
    assert not target.exists()
    (table.root / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "entries": [{"table": "pics"}]}))
    done = prep(table.root, "filter", "--where", where)
    assert done.returncode == 1 and '--where: "true); COPY' in done.stderr, done.stderr
    assert not target.exists()


def test_where_reads_other_files_and_changes_no_setting(table: Workspace) -> None:
    (table.root / "keys.csv").write_text("key\npart-0.parquet#1\npart-2.parquet#3\n")
    where = f"key IN (SELECT key FROM read_csv('{table.root}/keys.csv'))"
    assert kept(table, where=where) == [key(0, 1), key(2, 3)]
    with pytest.raises(ConfigError, match="the configuration has been locked"):
        filtered(table, where=SETTING.format(table.root / "log"))
    assert not (table.root / "log").exists()


@pytest.mark.parametrize("place", ["extra", "drop"])
def test_a_dataset_reads_its_parts_alone_and_changes_no_setting(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    rows = [{"caption": "x", "path": "/x.jpg", "side": 9}]
    wrong = {
        f"(SELECT count(*) FROM read_text('{tmp_path}/secret.txt')) = 1": "file system operations are disabled",
        SETTING.format(tmp_path / "log"): "the configuration has been locked",
    }
    for number, (expression, told) in enumerate(wrong.items()):
        own = {**GIVEN, place: {"own": expression}}
        workspace = make(tmp_path / str(number), {"images": {"kind": "given"}, "tables": {"pics": own}}, rows)
        download(workspace, workspace.catalogue.dataset("pics"))
        with pytest.raises(DataError, match=told):
            normalize(workspace, "pics")
    assert not (tmp_path / "log").exists()
    pq.write_table(pa.table({"word": ["x"]}), tmp_path / "more.parquet")
    own = {**GIVEN, place: {"own": f"path = (SELECT '/' || word || '.jpg' FROM '{tmp_path}/more.parquet')"}}
    workspace = make(tmp_path / "joined", {"images": {"kind": "given"}, "tables": {"pics": own}}, rows)
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    [sample] = pq.read_table(workspace.normalized("pics")).to_pylist()
    assert (sample.get("own"), sample["drop_reason"]) == ((True, None) if place == "extra" else (None, "own"))


# -- which rules are kept ----------------------------------------------------------------------------------------------


def test_rules_are_kept_where_a_file_is_damaged(table: Workspace) -> None:
    shard = table.normalized("pics") / "shard-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[100:-800] = bytes(len(data) - 900)
    shard.write_bytes(data)
    for rule in (["--min-size", "512"], ["--where", "caption != 'x' AND intHeight > 9"]):
        done = prep(table.root, "filter", *rule)
        assert done.returncode == 1 and "shard-00001.parquet" in done.stderr, done.stderr
        assert "rules given here are kept" in done.stderr and "--reset" not in done.stderr, done.stderr
    assert Workspace(table.root).rules("pics") == Rules(min_size=512, where="caption != 'x' AND intHeight > 9")


def test_a_rule_that_fails_on_a_row_is_not_kept(table: Workspace) -> None:
    assert prep(table.root, "filter", "--min-size", "512").returncode == 0
    done = prep(table.root, "filter", "--where", "CAST(caption AS INTEGER) > 3")
    assert done.returncode == 1 and "Could not convert string 'caption 0'" in done.stderr, done.stderr
    assert "The rules are as before" in done.stderr and "--reset` forgets it" in done.stderr
    assert Workspace(table.root).rules("pics") == Rules(min_size=512)


# -- samples made anew -------------------------------------------------------------------------------------------------


def test_dropped_rows_are_not_shown_with_samples_that_were_made_since(world: World, tmp_path: Path) -> None:
    workspace = make_addresses(tmp_path, serve(world, one=picture(1), other=picture(2)))
    filtered(workspace, where="caption LIKE '%/one'")
    assert workspace.read_filtered("pics") is not None
    path = workspace.root / "datasets/pics.yaml"
    path.write_text(path.read_text().replace("caption: caption", "caption: upper(caption)"))
    workspace = Workspace(workspace.root)
    assert normalize(workspace, "pics").state == "done"
    assert workspace.read_filtered("pics") is None
    late = "is not filtered yet, or not since it was normalized"
    with pytest.raises(DataError, match=late):
        table_shards(workspace, "pics", dropped=True)
    with pytest.raises(DataError, match=late):
        table_histograms(workspace, "pics")
    assert len(table_shards(workspace, "pics")) == 1  # kept rows are whole by themselves
    assert run(workspace).state == "waiting"
    workspace.remember_rules(workspace.given_rules().with_dedup(Dedup(by=("url",))))
    told = {(line.stage, line.name): (line.state, line.note) for line in status(workspace)}
    assert told["images", "pics"] == ("waiting", "normalize and filter first")
    assert told["dedup", "pics"] == ("waiting", "filter pics first")
    manifest = read_finished(workspace.filtered("pics"))
    assert manifest is not None
    with pytest.raises(WorkspaceError, match="normalized anew since it was filtered"):
        judged_shards(workspace, "pics", manifest)
    filter_table(workspace, "pics")
    assert len(table_shards(workspace, "pics", dropped=True)) == 1


def test_of_rows_that_normalize_dropped_no_image_is_fetched(world: World, tmp_path: Path) -> None:
    """Also where their reason begins like those that say of an image what is wrong with it."""
    own = {**TABLE, "drop": {"image_outside": "caption = 'no'"}}
    rows = [
        {"url": url, "caption": word}
        for url, word in zip(serve(world, a=picture(1), b=picture(2)), ("no", "yes"), strict=True)
    ]
    workspace = make(tmp_path, {"images": {"kind": "url"}, "tables": {"pics": own}}, rows)
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    assert filtered(workspace).counts == {"image_outside": 1}
    run(workspace)
    assert asked(world) == ["b"]


# -- the waterfall -----------------------------------------------------------------------------------------------------


def manifest(rows_in: int, counts: dict[str, int], **rules: Any) -> Manifest:
    from prep.manifest import Shard

    left = rows_in - sum(count for reason, count in counts.items() if reason != "text_only")
    facts = {"rows_in": rows_in, "rules": rules}
    return Manifest("filter", (Shard("shard-00000.parquet", "", left, 1, "", counts),), facts)


def test_reasons_stand_in_the_order_in_which_rows_are_judged() -> None:
    counts = {
        "image_not_fetched": 1,
        "sample": 2,
        "near_duplicate": 3,
        "duplicate_url": 4,
        "no_score": 5,
        "where": 6,
        "min_size": 7,
        "aes_cutoff": 8,
        "image_http_404": 9,
        "no_caption": 10,
        "text_only": 99,
    }
    found = waterfall(manifest(100, counts, aes_cutoff=5.0, min_size=3, where="x", sample="1%"))
    order = ["no_caption", "image_http_404", "aes_cutoff", "min_size", "where", "no_score"]
    assert [step.reason for step in found] == [*order, "duplicate_url", "near_duplicate", "sample", "image_not_fetched"]
    assert [step.dropped for step in found] == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert [step.left for step in found] == [90, 81, 73, 66, 60, 55, 51, 48, 46, 45]
    assert [step.left_percent for step in found] == [step.left for step in found]


def test_no_dataset_can_give_a_reason_of_the_filters_own() -> None:
    reasons = {reason for own in _RULES.values() for reason in own} | {TEXT_ONLY}
    assert {reason for reason in reasons if not reason.startswith("image_")} == FILTER_REASONS
    statuses = OF_ANY | OF_ADDRESSES | OF_FILES | {AMBIGUOUS, "missing", NOT_FETCHED.removeprefix("image_")}
    assert not {f"image_{status}" for status in statuses} & NO_STATUSES


def test_a_rule_that_took_nothing_is_shown_and_without_the_rule_a_size_was_missed_by_normalize() -> None:
    assert waterfall(manifest(0, {}, where="x")) == (Step("where", 0, 0, 0),)
    assert waterfall(manifest(0, {}, where="x"))[0].left_percent == 100
    found = waterfall(manifest(10, {"no_size": 1, "image_missing": 2}))
    assert [step.reason for step in found] == ["no_size", "image_missing"]
    found = waterfall(manifest(10, {"no_size": 1, "image_missing": 2}, min_size=9))
    assert [step.reason for step in found] == ["image_missing", "no_size", "min_size"]


EXPLAINED = """\
filter    pics              60 kept, 540 dropped: 390 sample, 150 min_size
  reason      dropped    left     of all
  rows in                 600
  min_size        150     450    75.00 %
  sample          390      60    10.00 %
"""


def test_explain_shows_the_waterfall_and_adds_up(table: Workspace) -> None:
    done = prep(table.root, "filter", "--min-size", "512", "--sample", "60", "--explain")
    assert (done.returncode, [line.rstrip() for line in done.stdout.splitlines()]) == (0, EXPLAINED.splitlines())
    told = prep_json(table.root, "filter", "--explain")
    steps = [
        {"reason": "min_size", "dropped": 150, "left": 450, "rows_in": 600, "left_percent": 75.0},
        {"reason": "sample", "dropped": 390, "left": 60, "rows_in": 600, "left_percent": 10.0},
    ]
    assert told["waterfalls"] == {"pics": steps}
    assert told["outcomes"][0]["state"] == "up to date" and told["outcomes"][0]["rows"] == steps[-1]["left"]
    # A dry run of other rules shows the last run's.
    before = snapshot(table.root)
    done = prep(table.root, "filter", "--min-size", "100", "--explain", "--dry-run")
    assert [line.rstrip() for line in done.stdout.splitlines()][1:] == EXPLAINED.splitlines()[1:]
    assert "pics: as it was filtered last, which is not what the rules and files say now" in done.stderr
    assert snapshot(table.root) == before
    assert prep_json(table.root, "filter", "--sample", "100%", "--explain", "--dry-run")["waterfalls"] == {
        "pics": steps
    }


def test_explain_has_nothing_to_show_before_the_first_filter(table: Workspace) -> None:
    assert prep_json(table.root, "filter", "--explain", "--dry-run")["waterfalls"] == {}


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [("8GB", 8 * 10**9), ("512MiB", 512 << 20), ("1.5 g", 1_500_000_000), ("200000000", 200_000_000), (None, None)],
)
def test_an_amount_of_memory(text: str | None, amount: int | None) -> None:
    assert memory_option(text) == amount


@pytest.mark.parametrize("text", ["8 apples", "GB", "-1GB", "1i", "99MB", "", "1001TB", "9" * 400])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        memory_option(text)


def test_memory_that_prep_yaml_gives(table: Workspace) -> None:
    (table.root / "prep.yaml").write_text("workers: 2\nmemory: 1GB\n")
    workspace = Workspace(table.root)
    assert share_memory(workspace, 5) == (2, 500_000_000)
    assert share_memory(workspace, 5, 8 * 10**9) == (2, 4 * 10**9)
    (table.root / "prep.yaml").write_text("workers: 1\nmemory: 500000000\n")
    assert share_memory(Workspace(table.root), 5) == (1, 500_000_000)
    (table.root / "prep.yaml").write_text("memory: lots\n")
    with pytest.raises(ConfigError, match=r"'lots' is no amount of memory"):
        Workspace(table.root)


def test_on_a_cluster_a_task_has_its_share_of_the_machine_it_runs_on(table: Workspace) -> None:
    machines = cast(Cluster, object())
    with working(on=machines):
        assert share_memory(table, 1) == (1, None)
        assert share_memory(table, 1, 10**9) == (1, 10**9)


def test_memory_is_shared_out_and_fewer_work_at_once_where_it_is_short() -> None:
    assert sql.share_memory(4, 8 * 10**9) == (4, 2 * 10**9)
    assert sql.share_memory(64, 10**9) == (3, 10**9 // 3)
    assert sql.share_memory(8, 100_000_000) == (1, 100_000_000)
    workers, each = sql.share_memory(2)
    assert 1 <= workers <= 2 and 0 < workers * each <= sql.free_memory()


def test_free_memory_is_what_is_left_of_a_containers_limit(tmp_path: Path) -> None:
    proc, group = tmp_path / "meminfo", tmp_path / "group"
    proc.write_text("MemTotal: 64 kB\nMemAvailable: 4000 kB\n")
    assert sql.free_memory(proc, group) == 4000 * 1024
    group.mkdir()
    for name, text in (("max", "2000000\n"), ("current", "1500000\n"), ("stat", "anon 7\ninactive_file 300000\n")):
        (group / f"memory.{name}").write_text(text)
    assert sql.free_memory(proc, group) == 800_000
    (group / "memory.max").write_text("max\n")
    assert sql.free_memory(proc, group) == 4000 * 1024


def test_memory_is_bounded_and_changes_no_byte(table: Workspace) -> None:
    filtered(table, sample=50)
    before = snapshot(table.root)
    rules = Rules(sample="50")
    assert filter_table(table, "pics", rules=rules, memory=300_000_000).state == "up to date"
    assert filter_table(table, "pics", rules=rules, memory=300_000_000, force=True).state == "done"
    assert snapshot(table.root) == before
    with sql.connect(memory=123_000_000) as connection:
        limit = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    assert limit == [("117.3 MiB",)]


def test_too_little_memory_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError) as caught,
        sql.connect(memory=3_000_000) as connection,
        sql.data_errors("the samples"),
    ):
        connection.execute("SELECT range AS i FROM range(10_000_000) ORDER BY hash(range)").fetchall()
    assert "--memory 8GB" in str(caught.value.next_step)
