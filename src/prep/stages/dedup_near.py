"""Perceptual hashes within a Hamming distance of each other: all of them, by bands, in memory that does not grow.

Of two hashes that differ in at most d of 64 bits, cut into m bands, at least m - d bands are the same. So for each
choice of m - d bands all hashes are sorted by those bits, and those that share them are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from prep import sql
from prep.files import atomic_path, write_text
from prep.stages.dedup_groups import LOST, PROTECTED, Numbers, Rows, mixed, partition_of

if TYPE_CHECKING:
    import pyarrow as pa

BITS = 64
SORTED_AT_ONCE = 4_000_000  # hashes compared in memory at once
SORTING = 40  # comparisons that take as long as sorting one hash in
MOST_BANDS = 8  # more than the distance
BATCH_ROWS = 65_536
TAKEN = np.dtype([("value", "<u8"), ("winner", "<u8")])  # a hash that is taken out, and the row for which it is


def choose_masks(count: int, distance: int) -> list[int]:
    """The bits to sort by, one number for each time: of all cuts into bands that which should take the least time.

    Few bands mean few sorts but long lists of hashes alike in those bits, which all have to be compared.
    """

    def cost(bands: int) -> float:
        same_bits = BITS * (bands - distance) // bands
        return float(comb(bands, distance) * count * (SORTING + count / 2 ** (same_bits + 1)))

    bands = min(range(distance + 1, min(BITS, distance + MOST_BANDS) + 1), key=cost)
    edges = [BITS * number // bands for number in range(bands + 1)]
    each = [(1 << end) - (1 << first) for first, end in pairwise(edges)]
    return [sum(chosen) for chosen in combinations(each, bands - distance)]


def close_pairs(values: Numbers, masks: Sequence[int], number: int, distance: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of different values within the distance that agree in the bits of a mask, and of no earlier one.

    Over all masks every pair comes once.

    Args:
        values: uint64, each once.
    """
    same_bits = values & np.uint64(masks[number])
    order = np.argsort(same_bits, kind="stable")
    values, same_bits = values[order], same_bits[order]
    at = np.arange(len(values) - 1)
    for step in range(1, len(values)):
        at = at[: np.searchsorted(at, len(values) - step)]
        at = at[same_bits[at] == same_bits[at + step]]
        if not len(at):
            return
        differing = values[at] ^ values[at + step]
        near = np.bitwise_count(differing) <= distance
        for mask in masks[:number]:
            if not near.any():
                break
            near[near] = (differing[near] & np.uint64(mask)) != 0
        if near.any():
            yield values[at[near]], values[at[near] + step]


@dataclass(frozen=True)
class PairTask:
    """All pairs that agree in the bits of one mask.

    Attributes:
        nodes: parquet files with every hash once, in `value`.
        count: how many hashes that are.
        output: a parquet file of pairs `a` and `b`.
    """

    nodes: tuple[Path, ...]
    count: int
    masks: tuple[int, ...]
    number: int
    distance: int
    output: Path


def find_pairs(task: PairTask) -> None:
    """Write the pairs of one mask; hashes that do not fit into memory are sorted into files first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("a", pa.uint64()), ("b", pa.uint64())])
    with atomic_path(task.output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for values in _parted(task):
            for a, b in close_pairs(values, task.masks, task.number, task.distance):
                writer.write_table(pa.table([a, b], schema=schema))


def _parted(task: PairTask) -> Iterator[Numbers]:
    """All hashes, in parts that memory holds: those that agree in the mask's bits are in one."""
    parts = -(-task.count // SORTED_AT_ONCE)
    if parts <= 1:
        yield np.concatenate([np.empty(0, dtype=np.uint64), *_values(task.nodes)])
        return
    with TemporaryDirectory(dir=task.output.parent, prefix=".parts-") as folder:
        files = [Path(folder, str(number)) for number in range(parts)]
        for values in _values(task.nodes):
            part = partition_of(mixed(values & np.uint64(task.masks[task.number])), parts)
            for number in np.unique(part):
                append(files[number], values[part == number])
        yield from (np.fromfile(file, dtype=np.uint64) for file in files if file.exists())


def _values(nodes: Sequence[Path]) -> Iterator[Numbers]:
    import pyarrow.parquet as pq

    for path in nodes:
        yield pq.read_table(path, columns=["value"])["value"].to_numpy()


def append(path: Path, rows: Numbers) -> None:
    """Add rows to the end of a file of their bytes."""
    with path.open("ab") as file:
        file.write(rows.tobytes())


# -- which of them stay ------------------------------------------------------------------------------------------------


def write_nodes(target: Path, best: Rows) -> None:
    """Write the best row of each hash to a parquet file, by which `take_out` puts them in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"value": "low", "rank": "rank", "first": "first", "second": "second", "place": "place"}
    with atomic_path(target) as temporary:
        pq.write_table(
            pa.table({name: np.ascontiguousarray(best[field]) for name, field in columns.items()}), temporary
        )


def take_out(
    nodes: Sequence[Path], pairs: Sequence[Path], target: Path, partitions: int, memory: int, *, within: bool
) -> None:
    """Go through all hashes in order of their best rows; one that is near an earlier one that stays is taken out.

    So what is taken out is near the very row for which it is, and no two that stay are near each other.

    Args:
        target: folder for the hashes that are taken out (`TAKEN`), a file for each partition of the keys.
        within: those of the tables themselves count; without it only protected ones take others out.
    """
    target.mkdir(parents=True)
    for number in range(partitions):
        (target / f"{number}").touch()
    counts = f"later_rank != {PROTECTED}" + ("" if within else f" AND earlier_rank = {PROTECTED}")
    with sql.connect(target / "order", memory) as connection:
        connection.execute(f"CREATE TEMP TABLE pairs AS SELECT * FROM {sql.parquet_files(pairs)}")
        connection.execute(
            "CREATE TEMP TABLE ranked AS SELECT *, row_number() OVER "
            f"(ORDER BY rank, first DESC, second DESC, place) - 1 AS number FROM {sql.parquet_files(nodes)} "
            "WHERE value IN (SELECT a FROM pairs UNION SELECT b FROM pairs)"
        )
        count = connection.execute("SELECT count(*) FROM ranked").fetchall()[0][0]
        for side, before in (("a", "pairs"), ("b", "with_a")):  # one by one, as joins at work together share the memory
            connection.execute(
                f"CREATE TEMP TABLE with_{side} AS SELECT {before}.* EXCLUDE ({side}), number AS {side}_number, "
                f"rank AS {side}_rank FROM {before} JOIN ranked ON value = {side}"
            )
            connection.execute(f"DROP TABLE {before}")
        both = (
            "SELECT greatest(a_number, b_number) AS later, least(a_number, b_number) AS earlier, "
            "greatest(a_rank, b_rank) AS later_rank, least(a_rank, b_rank) AS earlier_rank FROM with_b"
        )
        edges = f"SELECT later, earlier FROM ({both}) WHERE {counts} ORDER BY later, earlier"
        with TemporaryDirectory(dir=target.parent, prefix=".taken-") as folder:
            taken = Path(folder, "taken.parquet")
            _go_through(connection.sql(edges).to_arrow_reader(BATCH_ROWS), count, taken)
            found = (
                f"SELECT l.value, e.place AS winner FROM {sql.parquet_files([taken])} t "
                "JOIN ranked l ON l.number = t.later JOIN ranked e ON e.number = t.earlier"
            )
            for batch in connection.sql(found).to_arrow_reader(BATCH_ROWS):
                rows = np.empty(batch.num_rows, dtype=TAKEN)
                rows["value"], rows["winner"] = batch["value"].to_numpy(), batch["winner"].to_numpy()
                part = partition_of(mixed(rows["value"]), partitions)
                for number in np.unique(part):
                    append(target / f"{number}", rows[part == number])
    write_text(target / "done", "")


def _go_through(edges: pa.RecordBatchReader, count: int, target: Path) -> None:
    """Write each number that has an earlier neighbour which stays, with the first of those.

    Args:
        edges: pairs (later, earlier) in order, so that of an earlier number it is known whether it stays.
        count: numbers there are.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("later", pa.int64()), ("earlier", pa.int64())])
    is_out = bytearray(count)
    with pq.ParquetWriter(target, schema) as writer:
        for batch in edges:
            taken = []
            for later, earlier in zip(batch["later"].to_pylist(), batch["earlier"].to_pylist(), strict=True):
                if not is_out[later] and not is_out[earlier]:
                    is_out[later] = 1
                    taken.append((later, earlier))
            columns = [pa.array([pair[side] for pair in taken], pa.int64()) for side in (0, 1)]
            writer.write_table(pa.table(columns, schema=schema))


def near_rows(path: Path, best: Rows) -> Rows:
    """Of the best rows of a partition those that are taken out, sorted by place, and for which row.

    Args:
        path: the partition's file of `take_out`.
    """
    taken = np.fromfile(path, dtype=TAKEN)
    taken = taken[np.argsort(taken["value"])]
    at = np.searchsorted(taken["value"], best["low"])
    at[at == len(taken)] = 0
    found = taken["value"][at] == best["low"] if len(taken) else np.zeros(len(best), dtype=bool)
    rows = np.empty(int(found.sum()), dtype=LOST)
    rows["place"], rows["winner"] = best["place"][found], taken["winner"][at[found]]
    return rows[np.argsort(rows["place"])]
