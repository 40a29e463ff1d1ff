"""Rows of an index shard under way: on the disk before the shard is, so that a killed run stores nothing twice.

Every few seconds the rows that came since are written as a small parquet file of their own, after the images they
describe are safe. The finished shard is one query over these pieces, so memory does not grow with the rows.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prep import sql
from prep.files import atomic_path
from prep.images.index import SCHEMA, IndexRow, index_rows
from prep.images.store import Store

FLUSH_SECONDS = 5.0
FLUSH_ROWS = 20_000
BEFORE = "before"  # a shard of the same name that was made otherwise

_PLACED = pa.schema([("place", pa.int64()), *SCHEMA])


def spool_folder(shard: Path) -> Path:
    """Where the rows of a shard under way are."""
    return shard.with_name(f".{shard.name}.rows")


def remove_spools(folder: Path) -> None:
    """Remove what finished shards in `folder` left over: a kill may come before they do it themselves."""
    for path in folder.glob(".*.rows"):
        shutil.rmtree(path, ignore_errors=True)


def spooled_rows(folder: Path) -> int:
    """Rows on the disk of all shards under way in `folder`; told by the names of their files alone."""
    return sum(int(path.stem.rpartition("-")[2]) for path in folder.glob(".*.rows/*.parquet"))


def _task_of(shard: Path) -> bytes | None:
    """The fingerprint that a shard or a piece of one carries."""
    return (pq.read_metadata(shard).metadata or {}).get(sql.TASK_KEY.encode())


def shard_stamps(folder: Path) -> set[tuple[str, int]]:
    """Every whole shard in `folder`: its name, and when it was written in nanoseconds."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        whole = (entry for entry in entries if entry.name.endswith(".parquet") and not entry.name.startswith("."))
        return {(entry.name, entry.stat().st_mtime_ns) for entry in whole}
    return set()


def rows_of(shard: Path) -> int:
    """Rows of a whole shard."""
    return int(pq.read_metadata(shard).num_rows)


class Spool:
    """The rows of one shard, in the order they are added.

    Args:
        shard: the finished index shard.
        task: fingerprint of what it is made from; rows of a run that made it from something else are removed.
        store: where the images go.

    Attributes:
        count: rows so far, those of earlier runs included.
    """

    def __init__(self, shard: Path, task: str, store: Store) -> None:
        self._shard, self._task, self._store = shard, task, store
        self._folder = spool_folder(shard)
        self._rows: list[IndexRow] = []
        self._flushed = time.monotonic()
        self.count = 0
        pieces = self._pieces()
        if any(_task_of(piece) != task.encode() for piece in pieces):
            for piece in pieces:
                piece.unlink()
            pieces = []
        if shard.is_file() and _task_of(shard) != task.encode():
            # Its images are about to be replaced: it must not be taken for true if this run breaks off.
            self._folder.mkdir(parents=True, exist_ok=True)
            shard.replace(self._folder / BEFORE)
        self._number = 1 + max((int(piece.stem.partition("-")[0]) for piece in pieces), default=-1)
        self.count = sum(pq.read_metadata(piece).num_rows for piece in pieces)

    def _pieces(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def rows(self) -> Iterator[IndexRow]:
        """The rows that earlier runs left."""
        for piece in self._pieces():
            yield from index_rows(piece)

    def replace(self, rows: Iterable[IndexRow] = ()) -> None:
        """Hold these rows in place of all that were; a kill leaves the ones or the others, or both."""
        before = self._pieces()
        self._rows, self.count = list(rows), 0
        self.count = len(self._rows)
        self.flush()
        for piece in before:
            piece.unlink()

    def add(self, row: IndexRow) -> None:
        """Add a row whose image was handed to the store."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what came since the last time, after its images."""
        if self._rows:
            self._store.sync()
            first = self.count - len(self._rows)
            data = [{"place": first + place, **vars(row)} for place, row in enumerate(self._rows)]
            table = pa.Table.from_pylist(data, schema=_PLACED).replace_schema_metadata({sql.TASK_KEY: self._task})
            with atomic_path(self._folder / f"{self._number:06d}-{len(data)}.parquet") as temporary:
                pq.write_table(table, temporary)
            self._rows, self._number = [], self._number + 1
        self._flushed = time.monotonic()

    def finish(self, query: str) -> list[str]:
        """Write the shard, whole or not at all, and let go of the pieces.

        Args:
            query: SQL over `rows`, the rows with their `place`; gives them in the order they are to have.

        Returns:
            paths of stored images that the shard named before, and that are stored under another path now.
        """
        self.flush()
        pieces = self._pieces()
        if not pieces:
            empty = SCHEMA.empty_table().replace_schema_metadata({sql.TASK_KEY: self._task})
            with atomic_path(self._shard) as temporary:
                pq.write_table(empty, temporary, compression="zstd")
            return []
        columns = ", ".join(SCHEMA.names)
        with sql.connect(self._shard) as connection, sql.data_errors(str(self._folder)):
            rows = f"WITH rows AS (SELECT * FROM {sql.parquet_files(pieces)})"
            left = []
            before = next((path for path in (self._folder / BEFORE, self._shard) if path.is_file()), None)
            if before is not None:
                moved = (
                    f"{rows} SELECT DISTINCT old.path FROM {sql.parquet_files([before])} old JOIN rows "
                    "USING (image_key) WHERE rows.path != old.path AND NOT starts_with(old.path, '/') "
                    "AND old.path NOT IN (SELECT path FROM rows WHERE path IS NOT NULL)"
                )
                left = [path for (path,) in connection.execute(moved).fetchall()]
            chosen = f"{rows} SELECT {columns} FROM ({query})"
            sql.copy_to_parquet(connection, chosen, self._shard, {sql.TASK_KEY: self._task})
        shutil.rmtree(self._folder, ignore_errors=True)
        return left
