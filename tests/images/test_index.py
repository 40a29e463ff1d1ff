"""The image index: one row per image, and which of its files belong to which shard of samples."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prep.images.chunks import chunk_name, index_shards
from prep.images.index import SCHEMA, IndexRow, count_statuses, read_index, store_image, write_index
from prep.images.store import DiskStore
from prep.manifest import Manifest, Shard
from prep.publishers.pictures import Picture, truncate

GOOD = Picture(1, 640, 320).encode()


def test_a_good_image_is_stored_under_the_extension_of_its_content(tmp_path: Path) -> None:
    data = Picture(1, 64, 32).encode("WEBP")
    row = store_image(DiskStore(tmp_path), "key", "ab/cd.x", "http://h/a.jpg", data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert row == IndexRow("key", "ok", "http://h/a.jpg", "ab/cd.x.webp", 64, 32, "WEBP", len(data), sha256)
    assert (tmp_path / "ab/cd.x.webp").read_bytes() == data


@pytest.mark.parametrize(
    ("data", "status", "seen"),
    [
        (b"", "empty", (None, None, None)),
        (b"<html>", "not_an_image", (None, None, None)),
        (truncate(GOOD), "truncated", (640, 320, "JPEG")),
    ],
    ids=["empty", "html", "truncated"],
)
def test_any_other_is_described_and_not_stored(
    data: bytes, status: str, seen: tuple[int | None, int | None, str | None], tmp_path: Path
) -> None:
    row = store_image(DiskStore(tmp_path), "key", "a", "member", data)
    assert row == IndexRow("key", status, "member", None, *seen, len(data))
    assert list(tmp_path.iterdir()) == []


def test_an_index_reads_back_as_it_was_written(tmp_path: Path) -> None:
    first = [
        IndexRow("a", "ok", "http://h/ü 图", "a.jpg", 640, 480, "JPEG", 10, "ff"),
        IndexRow("b", "http_404", "http://h/b", error="Not Found"),
    ]
    second = [IndexRow("c", "ok", "m.png", "m.png", 1, 2, "PNG", 3, "ee")]
    write_index(tmp_path / "one.parquet", iter(first), "task-1")
    write_index(tmp_path / "two.parquet", second, "task-2")
    write_index(tmp_path / "none.parquet", [], "task-3")

    table = read_index([tmp_path / "two.parquet", tmp_path / "none.parquet", tmp_path / "one.parquet"])
    assert table.schema == SCHEMA
    assert [IndexRow(**row) for row in table.to_pylist()] == [*second, *first]
    assert read_index([]).schema == SCHEMA and read_index([]).num_rows == 0
    assert pq.read_metadata(tmp_path / "one.parquet").metadata[b"prep.task"] == b"task-1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.parquet", "one.parquet", "two.parquet"]


def test_statuses_are_counted(tmp_path: Path) -> None:
    statuses = ["ok", "http_404", "ok", "dns", "ok"]
    write_index(tmp_path / "a.parquet", (IndexRow(str(n), status, "") for n, status in enumerate(statuses)), "task")
    write_index(tmp_path / "b.parquet", [], "task")
    assert list(count_statuses(tmp_path / "a.parquet").items()) == [("dns", 1), ("http_404", 1), ("ok", 3)]
    assert count_statuses(tmp_path / "b.parquet") == {}


def test_an_index_that_failed_half_way_is_not_there(tmp_path: Path) -> None:
    def rows() -> list[IndexRow]:
        return [IndexRow("a", "ok", "m", width="wide")]  # type: ignore[arg-type]

    with pytest.raises(Exception, match="wide"):
        write_index(tmp_path / "a.parquet", rows(), "task")
    assert list(tmp_path.iterdir()) == []


def test_the_chunks_of_a_shard_are_found_by_name() -> None:
    shards = [(table, shard) for table in ("a", "a-b") for shard in ("s-0.parquet", "s-01.parquet")]
    names = [chunk_name(table, shard, chunk) for table, shard in shards for chunk in (0, 1)]
    index = Manifest("images", tuple(Shard(name, "", 0, 0, "") for name in names))
    assert names[0] == "a-s-0-00000.parquet"
    assert [shard.name for shard in index_shards(index, "a", "s-0.parquet")] == names[:2]
    assert [shard.name for shard in index_shards(index, "a-b", "s-01.parquet")] == names[6:]
    assert index_shards(index, "b", "s-0.parquet") == ()
