"""Parquet that stays on S3: the rows of a copy, only the columns that are needed, and no object but the noted one."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from prep.add import add_file
from prep.config import Catalogue, Rules, S3Source, Table
from prep.errors import ConfigError, DataError, PrepError, SourceError
from prep.own_files import S3Options
from prep.readers import in_place
from prep.readers.in_place import open_object
from prep.sources import s3 as s3_source
from prep.stages.download import download
from prep.stages.filter import filter_table
from prep.stages.normalize import _may_be_needed, normalize
from prep.workspace import Workspace
from s3_server import S3Server

ROWS = 20_000


@pytest.fixture
def parquet(tmp_path: Path) -> bytes:
    """Rows of many kinds of columns, in row groups that batches do not fit."""
    rng = np.random.default_rng(7)
    numbers = np.arange(ROWS)
    table = pa.table(
        {
            "URL": [f"https://example.org/{n}.jpg" if n % 7 else None for n in numbers],
            "TEXT": pa.array([f"caption {n} 猫" for n in numbers]).dictionary_encode(),
            "HEIGHT": pa.array(numbers % 1024, pa.uint16()),
            "WIDTH": pa.array([float(n) if n % 11 else None for n in numbers % 2000], pa.float64()),
            "score": pa.array(rng.normal(5.5, 1, ROWS).astype("float32")),
            "tags": [[str(n), None] if n % 3 else [] for n in numbers],
            "nested": [{"a": int(n), "b": [n / 2]} for n in numbers],
            "when": pa.array([datetime.datetime(2026, 1, 1, 0, 0, n % 60) for n in range(ROWS)], pa.timestamp("us")),
            "noise": [rng.bytes(60) for _ in numbers],
        }
    )
    pages: dict[str, Any] = {"use_dictionary": ["HEIGHT"], "data_page_size": 20_000, "write_batch_size": 100}
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7_001, **pages)
    return (tmp_path / "a.parquet").read_bytes()


def workspace_of(root: Path, s3: S3Server, prefix: str, *, in_place: bool) -> Workspace:
    Workspace.create(root, Catalogue().recipe_path("empty").read_text())
    (root / "prep.yaml").write_text("recipe: recipe.yaml\nworkers: 1\n")
    mapping = {"caption": "text", "intHeight": "height", "intWidth": "width", "fltLaionAesthScore": "score"}
    options = S3Options(s3.endpoint, in_place=in_place)
    add_file(Workspace(root), f"s3://{s3.bucket}/{prefix}/", name="own", mapping=mapping, s3=options)
    return Workspace(root)


def make(workspace: Workspace) -> list[int]:
    """What each stage had to make."""
    workspace = Workspace(workspace.root)
    outcomes = [download(workspace, workspace.datasets[0]), normalize(workspace, "own")]
    outcomes.append(filter_table(workspace, "own", rules=Rules(min_size=300, where="tags[1] != '400'")))
    return [outcome.made for outcome in outcomes]


def test_the_rows_are_those_of_a_copy_and_little_lies_on_the_disk(parquet: bytes, s3: S3Server, tmp_path: Path) -> None:
    for name in ("b", "a/é [1]*"):
        s3.put(f"in-place/{name}.parquet", parquet)
    here, there = (
        workspace_of(tmp_path / n, s3, "in-place", in_place=is_so) for n, is_so in (("h", False), ("t", True))
    )
    assert (make(here), make(there), make(there)) == ([2, 2, 2], [2, 2, 2], [0, 0, 0])
    for folder in ("normalized", "filtered", "dropped"):
        frames = [pd.read_parquet(workspace.root / folder / "own.parquet") for workspace in (here, there)]
        pd.testing.assert_frame_equal(frames[0], frames[1])
    assert len(pd.read_parquet(there.normalized("own"))) == 2 * ROWS
    files = [path for path in (there.root / "raw/own").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000 < len(parquet)
    note = json.loads((there.root / "raw/own/a/é [1]*.parquet").read_text())
    assert note == {
        "object": f"s3://{s3.bucket}/in-place/a/é [1]*.parquet",
        "size_bytes": len(parquet),
        "etag": note["etag"],
    }


def test_an_object_that_changed_is_told_and_download_takes_it_as_it_is(
    parquet: bytes, s3: S3Server, tmp_path: Path
) -> None:
    s3.put("changes/a.parquet", parquet)
    workspace = workspace_of(tmp_path / "w", s3, "changes", in_place=True)
    assert download(workspace, workspace.datasets[0]).made == 1
    table = pq.read_table(pa.BufferReader(parquet)).slice(0, 10)
    pq.write_table(table, tmp_path / "b.parquet")
    s3.put("changes/a.parquet", (tmp_path / "b.parquet").read_bytes())
    with pytest.raises(SourceError) as caught:
        normalize(Workspace(workspace.root), "own")
    assert str(caught.value) == (
        f"s3://{s3.bucket}/changes/a.parquet is not what `prep download` found there: it was replaced or removed\n"
        "  `prep download` takes note of what is there now; then run the same command."
    )
    assert make(workspace)[:2] == [1, 1]
    assert len(pd.read_parquet(workspace.normalized("own"))) == 10


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lengths of what is asked for."""
    asked: list[int] = []
    read_range = s3_source.read_range

    def counted(source: S3Source, part: Any, start: int, length: int) -> bytes:
        asked.append(length)
        return read_range(source, part, start, length)

    monkeypatch.setattr(s3_source, "read_range", counted)
    yield asked


def note_of(s3: S3Server, key: str, folder: Path) -> tuple[Path, S3Source]:
    """The file that stands for an object."""
    source = S3Source(kind="s3", path=f"s3://{s3.bucket}/{key}", endpoint=s3.endpoint, in_place=True)
    (part,) = s3_source.find_objects(source).parts
    path = folder / "note"
    path.write_bytes(s3_source._note(part.url, part.size_bytes, part.version))
    return path, source


def test_only_columns_that_are_needed_come_and_little_at_once(
    parquet: bytes, ranges: list[int], s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_place, "RANGE_BYTES", 50_000)
    s3.put("columns/a.parquet", parquet)
    path, source = note_of(s3, "columns/a.parquet", tmp_path)
    whole = pq.read_table(pa.BufferReader(parquet))
    for wanted in (["URL", "HEIGHT"], ["nested"], whole.column_names, []):
        ranges.clear()
        schema, batches = open_object(path, source, wanted.__contains__)
        table = pa.Table.from_batches(list(batches), schema)
        assert table.equals(whole.select(wanted or ["URL"]))
        metadata = pq.read_metadata(pa.BufferReader(parquet))
        sizes = [
            column.total_compressed_size
            for group in range(metadata.num_row_groups)
            for column in map(metadata.row_group(group).column, range(metadata.num_columns))
            if column.path_in_schema.partition(".")[0] in (wanted or ["URL"])
        ]
        assert sum(sizes) <= sum(ranges) < sum(sizes) + 100_000
        assert max(ranges[1:]) < 60_000  # the first is the footer; of a page that is larger the rest comes too
    assert sum(sizes) * 4 < len(parquet)


@pytest.mark.parametrize(
    ("note", "error", "message"),
    [
        (b"", DataError, "does not name an object on S3"),
        (b"PAR1 a real file PAR1", DataError, "does not name an object on S3"),
        (b'{"object": "s3://b/a"}', DataError, "does not name an object on S3"),
        (b"[1]", DataError, "does not name an object on S3"),
        (b"BROKEN", DataError, "cannot be read as parquet"),
        (b"TWICE", DataError, "has two columns of one name"),
        (b"GONE", SourceError, "is not what `prep download` found there"),
    ],
)
def test_what_cannot_be_read_in_place(
    note: bytes, error: type[PrepError], message: str, s3: S3Server, tmp_path: Path
) -> None:
    pq.write_table(pa.table([[1], [2]], names=["a", "A"]), tmp_path / "twice.parquet")
    bodies = {b"BROKEN": b"no parquet", b"TWICE": (tmp_path / "twice.parquet").read_bytes()}
    s3.put("bad/a.parquet", bodies.get(note, b"0123456789"))
    path, source = note_of(s3, "bad/a.parquet", tmp_path)
    if note == b"GONE":
        path.write_text(path.read_text().replace("bad/a.parquet", "bad/gone.parquet"))
    elif note not in bodies:
        path.write_bytes(note)
    with pytest.raises(error, match=message):
        open_object(path, source, lambda name: True)


def write_odd(path: Path) -> None:
    """Columns that DuckDB reads otherwise out of Arrow than out of parquet, or not at all, and one without a name."""
    columns = {
        "URL": pa.array(["https://example.org/1.jpg", "https://example.org/2.jpg"]),
        "TEXT": pa.array(["a", "b"]),
        "HEIGHT": pa.array([512, None], pa.duration("s")),
        "WIDTH": pa.array([decimal.Decimal("512.00"), None], pa.decimal256(50, 2)),
        "score": pa.array([5.5, None], pa.float16()),
        "short": pa.array([decimal.Decimal("1.25"), None], pa.decimal256(20, 2)),
        "second": pa.array([1, None], pa.timestamp("s")),
        "pair": pa.array([[1, 2], None], pa.list_(pa.duration("us"), 2)),
        "nested": pa.array([{"half": [1.5]}, None], pa.struct({"half": pa.list_(pa.float16())})),
        "": pa.array([1, 2]),
    }
    pq.write_table(pa.table(columns), path)


def test_columns_of_odd_types_are_those_of_a_copy(s3: S3Server, tmp_path: Path) -> None:
    write_odd(tmp_path / "a.parquet")
    s3.put("odd/a.parquet", (tmp_path / "a.parquet").read_bytes())
    tables = []
    for is_so in (False, True):
        workspace = workspace_of(tmp_path / str(is_so), s3, "odd", in_place=is_so)
        path = workspace.root / "datasets/own.yaml"
        dataset = yaml.safe_load(path.read_text())
        dataset["tables"]["own"]["extra"] = {name: name for name in ("HEIGHT", "short", "second", "pair", "nested")}
        path.write_text(yaml.safe_dump(dataset))
        download(workspace, workspace.datasets[0])
        normalize(Workspace(workspace.root), "own")
        tables.append(pq.read_table(workspace.normalized("own")))
    assert tables[0].equals(tables[1])
    assert tables[1].num_rows == 2
    assert tables[1].schema.field("HEIGHT").type == pa.int64()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("text", "column 'TEXT' of {0} cannot be read: Invalid UTF8 sequence"),
        ("page", "{0} cannot be read as parquet: Corrupt snappy compressed data"),
    ],
)
def test_damage_is_told_with_the_address(damage: str, message: str, s3: S3Server, tmp_path: Path) -> None:
    texts, numbers = [f"{'abcdefgh' * 20}{n}" for n in range(5_000)], [512] * 5_000
    table = pa.table({"URL": texts, "TEXT": texts, "HEIGHT": numbers, "WIDTH": numbers, "score": numbers})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, store_schema=False, compression="snappy")
    if damage == "text":
        pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False, write_statistics=False)
    data = (tmp_path / "a.parquet").read_bytes()
    place = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(1).data_page_offset + 1_000
    s3.put("damaged/a.parquet", data[:place] + b"\xff" * 20 + data[place + 20 :])
    workspace = workspace_of(tmp_path / "w", s3, "damaged", in_place=True)
    assert download(workspace, workspace.datasets[0]).made == 1
    with pytest.raises(DataError) as caught:
        normalize(Workspace(workspace.root), "own")
    assert caught.value.message.startswith(message.format(f"s3://{s3.bucket}/damaged/a.parquet"))
    assert not list((workspace.root / "normalized").rglob("shard-*.parquet"))


@pytest.mark.parametrize("is_so", [False, True])
def test_a_later_file_of_other_columns_is_named(is_so: bool, parquet: bytes, s3: S3Server, tmp_path: Path) -> None:
    prefix = f"grows-{is_so}"
    s3.put(f"{prefix}/a.parquet", parquet)
    workspace = workspace_of(tmp_path / "w", s3, prefix, in_place=is_so)
    pq.write_table(pa.table({"URL": ["u"], "caption": ["c"], "HEIGHT": [1], "WIDTH": [2]}), tmp_path / "b.parquet")
    s3.put(f"{prefix}/b.parquet", (tmp_path / "b.parquet").read_bytes())
    download(workspace, workspace.datasets[0])
    with pytest.raises(DataError) as caught:
        normalize(Workspace(workspace.root), "own")
    assert caught.value.message.startswith(f"{workspace.root}/raw/own/b.parquet has no column 'TEXT', which the ")


def test_a_note_is_believed_only_where_the_dataset_says_so(parquet: bytes, s3: S3Server, tmp_path: Path) -> None:
    """A publisher's own file that looks like one opens nothing."""
    s3.put("secret/a.parquet", parquet)
    path, _ = note_of(s3, "secret/a.parquet", tmp_path)
    s3.put("hostile/a.parquet", parquet)
    workspace = workspace_of(tmp_path / "w", s3, "hostile", in_place=False)
    s3.put("hostile/a.parquet", path.read_bytes())
    assert download(workspace, workspace.datasets[0]).made == 1
    with pytest.raises(DataError, match="not the parquet it should be"):
        normalize(workspace, "own")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mirrors": [{"kind": "local", "path": "/data"}]}, "it has mirrors"),
        ({"images": {"kind": "parquet", "parts": "*", "column": "TEXT"}}, "its images are in its parts"),
        ({"images": {"kind": "archive", "parts": "*.tar"}}, "its images are in its parts"),
        ({"format": {"format": "csv"}}, "its records are csv, and only parquet can be"),
        ({"format": {"format": "webdataset"}}, "its records are webdataset, and only parquet can be"),
        ({"tables": {}}, "its records are none, and only parquet can be"),
    ],
)
def test_what_needs_a_copy_is_refused(
    change: dict[str, Any], message: str, parquet: bytes, s3: S3Server, tmp_path: Path
) -> None:
    s3.put("copies/a.parquet", parquet)
    workspace = workspace_of(tmp_path / "w", s3, "copies", in_place=True)
    path = tmp_path / "w/datasets/own.yaml"
    dataset = yaml.safe_load(path.read_text())
    dataset["tables"]["own"]["records"] |= change.pop("format", {})
    dataset["tables"]["own"]["image"] = "'key'"
    path.write_text(yaml.safe_dump(dataset | change))
    with pytest.raises(ConfigError, match=f"own cannot be read in place: {message}"):
        workspace = Workspace(workspace.root)
        download(workspace, workspace.catalogue.dataset("own"))


@pytest.mark.parametrize(
    ("select", "column", "is_needed"),
    [
        ({"caption": '"TEXT"'}, "text", True),
        ({"caption": "lower(TexT)"}, "TEXT", True),
        ({"caption": '"a""b"'}, 'a"b', True),
        ({"caption": "TEXT"}, "SCORE", False),
        ({"caption": "TEXT"}, "URL", True),
        ({"caption": "concat_ws(' ', COLUMNS('t.*'))"}, "SCORE", True),
        ({"caption": "CAST(records AS VARCHAR)"}, "SCORE", True),
    ],
)
def test_columns_that_the_sql_may_mean(select: dict[str, str], column: str, is_needed: bool) -> None:
    records = {"format": "parquet", "parts": "*"}
    table = Table.model_validate({"kind": "text-to-image", "records": records, "select": select})
    assert _may_be_needed(table, column) is is_needed
