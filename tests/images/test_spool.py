"""Rows of a shard under way survive a kill, and the shard is one query over them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prep.images import spool as spool_module
from prep.images.index import SCHEMA, IndexRow, index_rows
from prep.images.spool import Spool, remove_spools, spooled_rows
from prep.images.store import DiskStore

EVERY_ROW = "SELECT * FROM rows ORDER BY place"


def row(key: str, status: str = "ok") -> IndexRow:
    return IndexRow(key, status, f"member of {key}", path=f"a/{key}" if status == "ok" else None, width=3, decoded=True)


class SlowStore(DiskStore):
    """A store that says what was on the disk when it was asked to make its images safe."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.pieces_at_sync: list[int] = []
        self.folder = root

    def sync(self) -> None:
        self.pieces_at_sync.append(len(list(self.folder.glob(".*.rows/*.parquet"))))


def test_a_killed_run_goes_on_where_its_rows_end(tmp_path: Path) -> None:
    shard = tmp_path / "shard-00000.parquet"
    first = Spool(shard, "task", DiskStore(tmp_path))
    first.add(row("a"))
    first.add(row("b", "damaged"))
    first.flush()
    first.add(row("lost with the kill"))

    second = Spool(shard, "task", DiskStore(tmp_path))
    assert second.count == 2 and [r.image_key for r in second.rows()] == ["a", "b"]
    assert spooled_rows(tmp_path) == 2
    second.add(row("c"))
    second.finish(EVERY_ROW)
    assert list(index_rows(shard)) == [row("a"), row("b", "damaged"), row("c")]
    assert pq.read_schema(shard).remove_metadata().equals(SCHEMA)
    assert (pq.read_metadata(shard).metadata or {})[b"prep.task"] == b"task"
    assert [path.name for path in tmp_path.iterdir()] == [shard.name]


def test_rows_of_another_task_are_not_taken(tmp_path: Path) -> None:
    before = Spool(tmp_path / "s.parquet", "other", DiskStore(tmp_path))
    before.add(row("a"))
    before.flush()
    after = Spool(tmp_path / "s.parquet", "task", DiskStore(tmp_path))
    assert after.count == 0 and spooled_rows(tmp_path) == 0


def test_images_are_safe_before_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "FLUSH_ROWS", 2)
    store = SlowStore(tmp_path)
    spool = Spool(tmp_path / "s.parquet", "task", store)
    for key in "abcde":
        spool.add(row(key))
    spool.finish(EVERY_ROW)
    assert store.pieces_at_sync == [0, 1, 2]
    assert [r.image_key for r in index_rows(tmp_path / "s.parquet")] == list("abcde")


def test_rows_are_replaced_and_none_is_lost_on_the_way(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.parquet", "task", DiskStore(tmp_path))
    for key in "abc":
        spool.add(row(key))
        spool.flush()
    spool.replace([row("b"), row("d")])
    assert [r.image_key for r in spool.rows()] == ["b", "d"] and spool.count == 2
    spool.replace()
    assert list(spool.rows()) == [] and spool.count == 0


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    Spool(tmp_path / "s.parquet", "task", DiskStore(tmp_path)).finish(EVERY_ROW)
    assert pq.read_table(tmp_path / "s.parquet").num_rows == 0
    assert pq.read_schema(tmp_path / "s.parquet").remove_metadata().equals(SCHEMA)


def test_names_of_any_letters_survive(tmp_path: Path) -> None:
    keys = ["a'b", 'c"d', "e\\f", "ü 图", "line\nbreak", "nul\0", ""]
    spool = Spool(tmp_path / "it's [a] *shard*.parquet", "it's", DiskStore(tmp_path))
    for key in keys:
        spool.add(row(key))
    spool.finish(EVERY_ROW)
    assert [r.image_key for r in index_rows(tmp_path / "it's [a] *shard*.parquet")] == keys


def test_what_is_left_over_goes(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.parquet", "task", DiskStore(tmp_path))
    spool.add(row("a"))
    spool.flush()
    remove_spools(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_stored_under_another_path_now_is_told(tmp_path: Path) -> None:
    def made(**paths: str | None) -> list[str]:
        spool = Spool(tmp_path / "s.parquet", "task", DiskStore(tmp_path))
        for key, path in paths.items():
            spool.add(IndexRow(key, "ok" if path else "http_404", "m", path=path))
        return spool.finish(EVERY_ROW)

    assert made(same="1.jpg", moved="2.jpg", gone="3.jpg", adopted="/data/4.jpg", swapped="5.jpg", other="6.jpg") == []
    now = {"same": "1.jpg", "moved": "2.webp", "gone": None, "adopted": "4.jpg", "swapped": "6.jpg", "other": "7.jpg"}
    assert sorted(made(**now)) == ["2.jpg", "5.jpg"]
