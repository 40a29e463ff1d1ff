"""dedup --against: files and tables of every sort, what is refused, and what is said of what was compared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from prep import progress
from prep.errors import DataError, PrepError, UsageError
from prep.images.phash import phash
from prep.manifest import read_finished
from prep.stages.dedup import dedup
from prep.stages.filter import filter_table
from twins import addresses, ask, encoded, facts, find, pictures, row, scene
from worlds import prep, prep_json

TABLES = {"one": [[row("u/1", "a cat"), row("u/\u00e9", "caf\u00e9"), row("u/3", "a dog")]], "two": [[row("u/1", "b")]]}
PHASHES = {"one": [[row(f"u/{at}", f"{at}", image_phash=f"{at:016x}") for at in range(20)]]}
PUBLISHED = {"image_phash": "image_phash"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    progress.use(progress.no_bar)
    yield
    progress.use(progress.tqdm_bar)


def file(root: Path, name: str = "evaluation.parquet", **columns: Any) -> str:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


# -- what is compared --------------------------------------------------------------------------------------------------


def test_what_was_compared_is_said(tmp_path: Path) -> None:
    workspace = addresses(tmp_path / "w", TABLES)
    path = file(tmp_path, url=["u/1", None, " "], id=[1, 2, 3])
    outcomes = find(workspace, by=["url", "caption", "sha256"], tables=["one"], against=["two", path])
    compared = {
        "two": {"rows": 1, "url": 1, "caption": 1, "sha256": 0},
        path: {"rows": 3, "url": 1, "caption": 0, "sha256": 0},
    }
    assert outcomes[0].manifest and outcomes[0].manifest.facts["compared"] == compared
    note = (
        "no sha256 here; against two: 1 of 1 rows by url, 1 by caption, none by sha256; "
        f"against {path}: 1 of 3 rows by url, none by caption, none by sha256"
    )
    assert outcomes[0].note == note
    assert [(outcome.state, outcome.note) for outcome in dedup(workspace)] == [("up to date", note)]
    assert [(outcome.state, outcome.note) for outcome in dedup(workspace, dry_run=True)] == [("up to date", note)]


def test_files_of_a_folder_count_together(tmp_path: Path) -> None:
    workspace = addresses(tmp_path / "w", TABLES)
    file(tmp_path, "files/a.parquet", url=["u/1"])
    file(tmp_path, "files/b.parquet", caption=["a dog"])
    outcomes = find(workspace, by=["url", "caption"], tables=["one"], against=[str(tmp_path / "files")])
    assert outcomes[0].note == f"against {tmp_path / 'files'}: 1 of 2 rows by url, 1 by caption"
    assert [key for key, *_ in facts(workspace, "one")] == ["0.parquet#0", "0.parquet#2"]


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_are_read_from_every_column_that_holds_them(type_: pa.DataType, tmp_path: Path) -> None:
    """Spark and others write texts as bytes without saying what they are."""
    workspace = addresses(tmp_path / "w", TABLES)
    urls, captions = pa.array(["u/\u00e9", None]).cast(type_), pa.array([None, "a dog"]).cast(type_)
    find(workspace, by=["url", "caption"], tables=["one"], against=[file(tmp_path, url=urls, caption=captions)])
    assert [key for key, *_ in facts(workspace, "one")] == ["0.parquet#1", "0.parquet#2"]


@pytest.mark.parametrize("form", ["hex", "HEX", "bytes", "fixed", "hex as bytes"])
def test_sha256_of_a_file_in_every_form(form: str, tmp_path: Path) -> None:
    workspace = pictures(tmp_path / "w", {f"{name}.jpg": encoded(scene(at)) for at, name in enumerate("ab")})
    own = pq.read_table(workspace.index("pics"))["sha256"].to_pylist()[1]
    forms = {
        "hex": pa.array([own]),
        "HEX": pa.array([own.upper()]),
        "bytes": pa.array([bytes.fromhex(own)]),
        "fixed": pa.array([bytes.fromhex(own)], pa.binary(32)),
        "hex as bytes": pa.array([own.encode()]),
    }
    find(workspace, by=["sha256"], against=[file(tmp_path, sha256=forms[form])])
    assert [key for key, *_ in facts(workspace, "pics")] == ["rows.parquet#1"]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("url", pa.array([["u/1"]]), r"evaluation\.parquet: its column url is VARCHAR\[\], and a text is needed"),
        ("url", pa.array([7]), "its column url is BIGINT, and a text is needed"),
        ("url", pa.array([b"\xff\xfe"]), r"evaluation\.parquet.*invalid UTF8"),
        ("phash", pa.array([7], pa.uint64()), "its column phash is UBIGINT, and a text is needed"),
        ("phash", pa.array(["0x00000000000000ff"]), "phash is 16 hexadecimal digits in none of its 1 rows with one"),
        ("phash", pa.array([f"{10**15 + at}" for at in range(9)]), "phash looks like decimal numbers"),
    ],
)
def test_columns_that_cannot_be_compared(key: str, values: pa.Array, message: str, tmp_path: Path) -> None:
    workspace = addresses(tmp_path / "w", PHASHES, extra=PUBLISHED)
    with pytest.raises(PrepError, match=message):
        find(workspace, by=[key], against=[file(tmp_path, **{key: values})])


def test_files_that_are_none(tmp_path: Path) -> None:
    workspace = addresses(tmp_path / "w", TABLES)
    path = Path(file(tmp_path, url=["u/1"] * 100))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        DataError,
        match=r"evaluation\.parquet: Invalid Input Error: No magic bytes [^\n]*\n  --against takes parquet files\.$",
    ):
        find(workspace, by=["url"], against=[str(path)])
    path.write_text("root:x:0:0\n")
    with pytest.raises(DataError, match=r"evaluation\.parquet: .*"):
        find(workspace, by=["url"], against=[str(path)])


def test_a_table_that_stays_as_it_is_cannot_be_named(tmp_path: Path) -> None:
    addresses(tmp_path, TABLES)
    assert prep(tmp_path, "dedup", "--by", "url", "--against", "two").returncode == 0
    before = (tmp_path / "rules.yaml").read_text()
    refused = prep(tmp_path, "dedup", "one", "two", "--by", "caption")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-2:] == [
        "Error: two is under --against, so nothing is removed from it; remembered is --against two",
        "  `prep dedup --reset --by ...` forgets what was asked before; or do not name it.",
    ]
    assert (tmp_path / "rules.yaml").read_text() == before
    assert prep(tmp_path, "dedup", "two", "--reset", "--by", "url").returncode == 0


# -- where files are, and whether they are still the same --------------------------------------------------------------


def test_a_path_is_taken_from_where_one_stands(tmp_path: Path) -> None:
    addresses(tmp_path / "w", TABLES)
    file(tmp_path, "here/evaluation.parquet", url=["u/1"])
    file(tmp_path / "w", "inside/evaluation.parquet", url=["u/3"])
    command = ("-C", tmp_path / "w", "dedup", "one", "--by", "url", "--against")
    assert prep(tmp_path / "here", *command, "evaluation.parquet").returncode == 0
    rules = tmp_path / "w/rules.yaml"
    asked = yaml.safe_load(rules.read_text())["dedup"]
    assert asked == {"by": ["url"], "tables": ["one"], "against": [str(tmp_path / "here/evaluation.parquet")]}
    assert prep(tmp_path / "w/inside", "dedup", "--against", "evaluation.parquet").returncode == 0
    assert yaml.safe_load(rules.read_text())["dedup"]["against"] == ["inside/evaluation.parquet"]
    refused = prep(tmp_path, *command, "evaluation.parquet").stderr
    assert "--against evaluation.parquet: neither a table of this workspace nor a parquet file" in refused


def test_a_file_that_was_changed_anywhere_is_noticed(tmp_path: Path) -> None:
    """Also one whose end, with the footer, stays as it was, and its size and time."""
    workspace = addresses(tmp_path / "w", TABLES)
    urls = ["u/1", *(f"elsewhere/{at:06d}" for at in range(50_000))]
    path = tmp_path / "evaluation.parquet"
    pq.write_table(pa.table({"url": urls}), path, compression="none", use_dictionary=False, write_statistics=False)
    find(workspace, by=["url"], tables=["one"], against=[str(path)])
    times = path.stat()
    data = path.read_bytes()
    at = data.index(b"u/1")
    assert len(data) - at > 1 << 17
    path.write_bytes(data[:at] + b"u/3" + data[at + 3 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "out of date" in filter_table(workspace, "one").note
    assert [outcome.state for outcome in dedup(workspace)] == ["done"]
    assert [key for key, *_ in facts(workspace, "one")] == ["0.parquet#2"]


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = addresses(tmp_path / "w", TABLES)
    find(workspace, by=["url"], tables=["one"], against=[file(tmp_path, url=["u/1"])])
    monkeypatch.setattr("prep.stages.dedup_facts.hash_file", None)
    assert [outcome.state for outcome in dedup(workspace)] == ["up to date"]
    assert filter_table(workspace, "one").state == "up to date"
    assert workspace.dedup_files.exists()
    list(dedup(ask(workspace, by=["url"])))
    assert not workspace.dedup_files.exists()


def test_json_says_what_was_compared(tmp_path: Path) -> None:
    addresses(tmp_path, TABLES)
    outcomes = prep_json(tmp_path, "dedup", "one", "--by", "url", "--against", "two")["outcomes"]
    assert [one["facts"]["compared"] for one in outcomes] == [{"two": {"rows": 1, "url": 1}}]


def test_against_a_table_whose_images_are_not_there(tmp_path: Path) -> None:
    workspace = pictures(tmp_path / "w", {"a.jpg": encoded(scene(1))})
    value = f"{phash(encoded(scene(1))):016x}"
    find(workspace, by=["sha256", "phash"], against=[file(tmp_path, phash=[value])])
    manifest = read_finished(workspace.dedup("pics"))
    assert manifest and [*manifest.facts["compared"].values()] == [{"rows": 1, "sha256": 0, "phash": 1}]
    with pytest.raises(UsageError, match="none of the columns sha256"):
        ask(workspace, by=["sha256"], against=[str(tmp_path / "evaluation.parquet")])
        list(dedup(workspace))
