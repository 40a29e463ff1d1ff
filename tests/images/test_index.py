"""The image index: one row per image, and which of its files belong to which shard of samples."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from prep.config import Encode
from prep.images.chunks import chunk_name, index_shards
from prep.images.index import SCHEMA, IndexRow, count_statuses, describe, index_rows, read_index
from prep.images.spool import Spool
from prep.images.store import DiskStore
from prep.manifest import Manifest, Shard
from prep.publishers.pictures import Picture, truncate

GOOD = Picture(1, 640, 320).encode()
AS_IS = Encode()


def write(shard: Path, *rows: IndexRow) -> Path:
    spool = Spool(shard, "task", DiskStore(shard.parent))
    for row in rows:
        spool.add(row)
    spool.finish("SELECT * FROM rows ORDER BY place")
    return shard


def rotated(width: int, height: int, orientation: int) -> bytes:
    image, data = Image.new("RGB", (width, height), (20, 90, 30)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(data, "JPEG", exif=exif)
    return data.getvalue()


def test_a_good_image_gets_the_extension_of_its_content() -> None:
    data = Picture(1, 64, 32).encode("WEBP")
    row, stored = describe("key", "ab/cd.x", "http://h/a.jpg", data, AS_IS)
    sha256 = hashlib.sha256(data).hexdigest()
    assert row == IndexRow(
        "key", "ok", "http://h/a.jpg", "ab/cd.x.webp", 64, 32, 64, 32, "WEBP", len(data), sha256, decoded=False
    )
    assert stored is data


def test_the_size_is_told_as_stored_and_as_displayed() -> None:
    row, _ = describe("key", "a.jpg", "m", rotated(64, 32, 6), AS_IS)
    assert (row.width, row.height, row.displayed_width, row.displayed_height) == (64, 32, 32, 64)


def test_what_is_encoded_anew_is_described_as_it_is_stored() -> None:
    row, stored = describe("key", "x/a.png", "m", rotated(64, 32, 6), Encode(max_side=32, format="webp"))
    assert (row.path, row.format, row.decoded) == ("x/a.png.webp", "WEBP", True)
    assert (row.width, row.height, row.displayed_width, row.displayed_height) == (16, 32, 16, 32)
    assert (row.size_bytes, row.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())


@pytest.mark.parametrize(
    ("data", "status", "seen"),
    [
        (b"", "empty", (None, None, None)),
        (b"<html>", "not_an_image", (None, None, None)),
        (truncate(GOOD), "truncated", (640, 320, "JPEG")),
    ],
    ids=["empty", "html", "truncated"],
)
def test_any_other_has_no_path(data: bytes, status: str, seen: tuple[int | None, int | None, str | None]) -> None:
    row, _ = describe("key", "a", "member", data, AS_IS)
    width, height, format_ = seen
    assert row == IndexRow("key", status, "member", None, width, height, width, height, format_, len(data))


def test_small_ones_are_told_and_not_stored() -> None:
    data = Picture(1, 64, 15).encode()
    assert describe("key", "a.jpg", "m", data, AS_IS, min_side=16)[0].status == "too_small"
    assert describe("key", "a.jpg", "m", data, AS_IS, min_side=15)[0].status == "ok"


def test_pixels_that_do_not_decode_are_found_where_they_are_asked_for() -> None:
    data = bytearray(Picture(1, 640, 320).encode("PNG"))
    middle = data.index(b"IDAT") + 400
    data[middle : middle + 50] = bytes(50)
    broken = bytes(data)
    assert describe("key", "a.png", "m", broken, AS_IS)[0].status == "ok"
    for how, verify in ((AS_IS, True), (Encode(format="jpeg"), False)):
        row, _ = describe("key", "a.png", "m", broken, how, verify=verify)
        assert (row.status, row.path, row.width, row.decoded) == ("undecodable", None, 640, False)
        assert row.error
    assert describe("key", "a.jpg", "m", GOOD, AS_IS, verify=True)[0].decoded


def test_an_index_reads_back_as_it_was_written(tmp_path: Path) -> None:
    first = [
        IndexRow("a", "ok", "http://h/ü 图", "a.jpg", 640, 480, 480, 640, "JPEG", 10, "ff"),
        IndexRow("b", "http_404", "http://h/b", error="Not Found"),
    ]
    second = IndexRow("c", "ok", "m.png", "m.png", 1, 2, 1, 2, "PNG", 3, "ee", decoded=True)
    one, two = write(tmp_path / "one.parquet", *first), write(tmp_path / "two.parquet", second)
    none = write(tmp_path / "none.parquet")

    table = read_index([two, none, one])
    assert table.schema == SCHEMA
    assert [IndexRow(**row) for row in table.to_pylist()] == [second, *first]
    assert list(index_rows(one)) == first and list(index_rows(none)) == []
    assert read_index([]).schema == SCHEMA and read_index([]).num_rows == 0


def test_statuses_are_counted(tmp_path: Path) -> None:
    statuses = ["ok", "http_404", "ok", "dns", "ok"]
    shard = write(tmp_path / "a.parquet", *(IndexRow(str(n), status, "") for n, status in enumerate(statuses)))
    assert list(count_statuses(shard).items()) == [("dns", 1), ("http_404", 1), ("ok", 3)]
    assert count_statuses(write(tmp_path / "b.parquet")) == {}


def test_the_chunks_of_a_shard_are_found_by_name() -> None:
    shards = [(table, shard) for table in ("a", "a-b") for shard in ("s-0.parquet", "s-01.parquet")]
    names = [chunk_name(table, shard, chunk) for table, shard in shards for chunk in (0, 1)]
    index = Manifest("images", tuple(Shard(name, "", 0, 0, "") for name in names))
    assert names[0] == "a-s-0-00000.parquet"
    assert [shard.name for shard in index_shards(index, "a", "s-0.parquet")] == names[:2]
    assert [shard.name for shard in index_shards(index, "a-b", "s-01.parquet")] == names[6:]
    assert index_shards(index, "b", "s-0.parquet") == ()
