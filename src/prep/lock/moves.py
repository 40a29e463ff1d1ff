"""Which rows of a table two workspaces judge otherwise, and why.

A row is the same in both where its part is: its key is the part and its number. Where the publisher changed a part,
or the table is made otherwise, a row is told by its image and its texts instead, since numbers have moved on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from prep import sql
from prep.engine import run_tasks
from prep.lock.contents import Judged, describe_definition, hash_parts, hash_rows, judged_shards
from prep.manifest import read_finished, read_manifest
from prep.progress import bar
from prep.schema import IMAGE_KEY, KEY, NATIVE_TURNS, OTHER_TURNS, REASON, ROW, TEXT, TEXTS, TURNS_TEXT, Kind
from prep.workspace import Workspace

KEPT = "kept"
_TEXTS = (TEXT, TEXTS, TURNS_TEXT, NATIVE_TURNS, OTHER_TURNS)


@dataclass(frozen=True)
class Move:
    """Rows that went the same way.

    Attributes:
        before, after: `kept`, the reason for which they are dropped, or None where they are not there.
        rows: how many.
        keys: of the first of them, in the order of parts and rows; of rows that are gone those they had.
    """

    table: str
    before: str | None
    after: str | None
    rows: int
    keys: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "table": self.table,
            "before": self.before,
            "after": self.after,
            "rows": self.rows,
            "keys": list(self.keys),
        }


def is_described(workspace: Workspace, name: str, lock: Mapping[str, Any]) -> bool:
    """Whether a table's files in `workspace`, and the parts that they are made of, are those that a lock describes."""
    filtered = read_finished(workspace.filtered(name)) if name in workspace.table_names else None
    if filtered is None:
        return False
    facts, dataset = lock["tables"][name], workspace.table(name)[0].name
    raw, sha256 = read_manifest(workspace.raw(dataset)), lock.get("contents", {}).get(dataset, {}).get("sha256")
    is_of_parts = raw is None or sha256 is None or hash_parts(raw) == sha256
    found = describe_definition(workspace, name), hash_rows(workspace, name, filtered)
    return is_of_parts and found == (facts["definition"], facts["rows"])


def find_moves(before: Workspace, after: Workspace, name: str, *, most_keys: int = 5) -> list[Move]:
    """Rows of table `name` that two workspaces judge otherwise, the largest move first.

    Memory is bounded by a shard; of parts that differ, by what DuckDB spills to the disk.

    Args:
        most_keys: how many keys of each move.
    """
    ours, theirs = (_parts(workspace, name) for workspace in (before, after))
    is_same_table = describe_definition(before, name) == describe_definition(after, name)
    same = {part for part in ours.keys() & theirs.keys() if is_same_table and ours[part].sha256 == theirs[part].sha256}
    pairs = [_Pair(ours[part].judged, theirs[part].judged, most_keys) for part in ours if part in same]
    found: dict[tuple[str | None, str | None], Move] = {}
    with bar(f"diff {name}", len(pairs), "shards") as advance:
        by_part: dict[str, list[Move]] = {}
        for part, moves in run_tasks(_same_part, pairs, workers=before.workers):
            by_part[part] = moves
            advance(1)
    rest = [_without(parts, same) for parts in (ours, theirs)]
    moves = [move for part in sorted(by_part) for move in by_part[part]]
    for move in (*moves, *_other_parts(rest[0], rest[1], before.table(name)[1].shape, most_keys)):
        way = move.before, move.after
        known = found.get(way, replace(move, table=name, rows=0, keys=()))
        keys = (*known.keys, *move.keys)[:most_keys]
        found[way] = replace(known, rows=known.rows + move.rows, keys=keys)
    return sorted(found.values(), key=lambda move: (-move.rows, move.before or "", move.after or ""))


@dataclass(frozen=True)
class _Part:
    judged: Judged
    sha256: str


def _parts(workspace: Workspace, name: str) -> dict[str, _Part]:
    """What filter wrote of each part, with the hash of the part's bytes."""
    filtered = read_finished(workspace.filtered(name))
    raw = read_manifest(workspace.raw(workspace.table(name)[0].name))
    hashes = {shard.name: shard.sha256 for shard in raw.shards} if raw else {}
    shards = judged_shards(workspace, name, filtered) if filtered else []
    return {shard.part: _Part(shard, hashes.get(shard.part, "")) for shard in shards}


def _without(parts: Mapping[str, _Part], same: Collection[str]) -> list[Judged]:
    return [part.judged for name, part in parts.items() if name not in same]


# -- the same part in both -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    before: Judged
    after: Judged
    most_keys: int


def _same_part(pair: _Pair) -> tuple[str, list[Move]]:
    """Moves within one part that both have, by row."""
    before, after = (_states([judged], ROW) for judged in (pair.before, pair.after))
    with _database() as connection, sql.data_errors(pair.before.part):
        found = connection.execute(_moves(before, after, ROW, f"coalesce(a.{ROW}, b.{ROW})", pair.most_keys)).fetchall()
    part = pair.before.part
    return part, [Move("", old, new, rows, tuple(f"{part}#{row}" for row in first)) for old, new, rows, first in found]


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB that spills to the system's temporary folder: nothing is written into the workspaces."""
    with tempfile.TemporaryDirectory(prefix="prep-diff-") as folder, sql.connect(Path(folder, "rows")) as connection:
        yield connection


def _states(shards: Sequence[Judged], columns: str, *, of_samples: bool = False) -> str:
    """SQL of every row with what became of it (`state`).

    Args:
        of_samples: the columns are not all among those of dropped rows, which name their samples.
    """
    kept = sql.parquet_files([path for shard in shards for path in shard.kept])
    dropped = [sql.parquet_files([shard.dropped for shard in shards])]
    if of_samples:
        dropped = [sql.completed(shard.dropped, shard.samples, ROW) for shard in shards]
    states = [f"SELECT {columns}, {sql.text(KEPT)} AS state FROM {kept}"]
    return " UNION ALL ".join([*states, *(f"SELECT {columns}, {REASON} AS state FROM {rows}" for rows in dropped)])


def _moves(before: str, after: str, on: str, key: str, most_keys: int) -> str:
    """SQL of the ways that rows went: state before, state after, how many, and the first keys."""
    return (
        f"SELECT a.state, b.state, count(*), min({key}, {most_keys}) "
        f"FROM ({before}) a FULL OUTER JOIN ({after}) b USING ({on}) "
        "WHERE a.state IS DISTINCT FROM b.state GROUP BY ALL ORDER BY ALL"
    )


# -- parts that differ -----------------------------------------------------------------------------------------------


def _other_parts(before: Sequence[Judged], after: Sequence[Judged], kind: Kind, most_keys: int) -> Iterable[Move]:
    """Moves among parts that only one has, or has with other bytes: rows are told by their images and texts."""
    if not before or not after:
        yield from _all_of(before, most_keys, is_before=True)
        yield from _all_of(after, most_keys, is_before=False)
        return
    with _database() as connection:
        columns = _telling(connection, [*before, *after], kind)
        connection.execute(f"CREATE TEMP TABLE rest AS {_unmatched(before, after, columns)}")
        ours, theirs = (f"SELECT * FROM rest WHERE is_before = {is_before}" for is_before in (True, False))
        query = _moves(ours, theirs, "id, number", f"coalesce(a.{KEY}, b.{KEY})", most_keys)
        for old, new, rows, first in connection.execute(query).fetchall():
            yield Move("", old, new, rows, tuple(first))


def _all_of(shards: Sequence[Judged], most_keys: int, *, is_before: bool) -> Iterator[Move]:
    """Rows that have nothing to be compared with."""
    if not shards:
        return
    with _database() as connection:
        query = f"SELECT state, count(*), min({KEY}, {most_keys}) FROM ({_states(shards, KEY)}) GROUP BY 1"
        for state, rows, first in connection.execute(f"{query} ORDER BY 1").fetchall():
            old, new = (state, None) if is_before else (None, state)
            yield Move("", old, new, rows, tuple(first))


def _telling(connection: duckdb.DuckDBPyConnection, shards: Sequence[Judged], kind: Kind) -> list[str]:
    """The columns that tell a row: its image and its texts, as far as all files have them."""
    texts = {column.name for column in kind.columns if column.type in _TEXTS and column.images is None}
    texts -= {kind.place}
    for rows in (rows for shard in shards for rows in _whole_rows(shard)):
        texts &= {column for column, *_ in connection.execute(f"DESCRIBE FROM {rows}").fetchall()}
    return [IMAGE_KEY, *sorted(texts)]


def _whole_rows(shard: Judged) -> list[str]:
    """Table expressions of the kept and of the dropped rows, with all columns there are."""
    return [*(sql.parquet_files([path]) for path in shard.kept), sql.completed(shard.dropped, shard.samples, ROW)]


def _unmatched(before: Sequence[Judged], after: Sequence[Judged], columns: Sequence[str]) -> str:
    """SQL of the rows that only one side has, or judges otherwise, each with a name made of what tells it (`id`).

    As many rows as are alike and judged alike on both sides are left out; the rest of those that are alike are numbered
    on each side.
    """
    row = ", ".join(f"CAST({sql.name(column)} AS VARCHAR)" for column in columns)
    named = f"md5_number(CAST(row({row}) AS VARCHAR)) AS id, {KEY}"
    sides = " UNION ALL ".join(
        f"SELECT *, {is_before} AS is_before FROM ({_states(shards, named, of_samples=True)})"
        for shards, is_before in ((before, True), (after, False))
    )
    alike = "OVER (PARTITION BY id, state)"
    counted = (
        f"SELECT *, row_number() OVER (PARTITION BY id, state, is_before ORDER BY {KEY}) AS place, "
        f"least(count_if(is_before) {alike}, count_if(NOT is_before) {alike}) AS on_both FROM ({sides})"
    )
    number = f"row_number() OVER (PARTITION BY id, is_before ORDER BY state, {KEY})"
    return f"SELECT id, {KEY}, state, is_before, {number} AS number FROM ({counted}) WHERE place > on_both"
