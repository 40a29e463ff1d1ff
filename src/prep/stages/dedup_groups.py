"""Groups of rows with one key, and which row of each stays: sorted arrays on disk, one partition in memory at a time.

Rows are written in runs, each sorted by key. A run has the best row of a key alone, and beside it which others it took
the place of; so a caption that a hundred million rows share is in each run once. A partition is a range of keys of all
runs, which hashing makes alike in size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prep.files import atomic_path

Rows = np.ndarray[Any, np.dtype[np.void]]  # of KEYS, or of LOST
Numbers = np.ndarray[Any, np.dtype[Any]]

# A row with a key: 128 bits of it; what decides which of several rows stays (a smaller rank, a larger first, a larger
# second, a smaller place); and its place: the number of its shard, and 40 bits for its row there.
KEYS = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("rank", "u1"), ("first", "<f8"), ("second", "<f8"), ("place", "<u8")]
)
LOST = np.dtype([("place", "<u8"), ("winner", "<u8")])  # a row, and the one that stays in its place
ROW_BITS = 40
# Ranks: never taken out; its image is there, or is not behind an address; its address is not fetched yet.
PROTECTED, THERE, ABSENT = 0, 1, 2


def place_of(shard: int, rows: Numbers) -> Numbers:
    """Places of rows of one shard."""
    return rows.astype(np.uint64) | np.uint64(shard << ROW_BITS)


def mixed(values: Numbers) -> Numbers:
    """64 bits as 64 others, one to one, evenly spread (the finalizer of SplitMix64): images' hashes are not."""
    values = values.astype(np.uint64)  # products are cut to 64 bits
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def split_best(rows: Rows) -> tuple[Rows, Rows]:
    """The best row of each key, sorted by key; and of the others, sorted by place, which one stays for them."""
    rows = rows[np.argsort(rows["high"], kind="stable")]
    same = rows["high"][1:] == rows["high"][:-1]
    doubtful = np.zeros(len(rows), dtype=bool)  # others have a key of their own, and need no closer look
    doubtful[1:] |= same
    doubtful[:-1] |= same
    group = rows[doubtful]
    order = np.lexsort((group["place"], -group["second"], -group["first"], group["rank"], group["low"], group["high"]))
    group = group[order]
    is_best = np.ones(len(group), dtype=bool)
    is_best[1:] = (group["high"][1:] != group["high"][:-1]) | (group["low"][1:] != group["low"][:-1])
    best = group[is_best]
    lost = lost_rows(group["place"][~is_best], best["place"][np.cumsum(is_best) - 1][~is_best])
    if not len(group):
        return rows, lost
    both = np.concatenate([rows[~doubtful], best])
    return both[np.lexsort((both["low"], both["high"]))], lost


def lost_rows(places: Numbers, winners: Numbers) -> Rows:
    """Rows that are taken out, sorted by place, with those that stay in theirs."""
    lost = np.empty(len(places), dtype=LOST)
    order = np.argsort(places)
    lost["place"], lost["winner"] = places[order], winners[order]
    return lost


def read_keys(runs: Sequence[Path], partition: int, partitions: int) -> Rows:
    """All rows of the runs whose keys are in one partition."""
    found = [np.empty(0, dtype=KEYS)]
    for run in runs:
        rows = np.load(run, mmap_mode="r")
        first, end = (_first_of(rows["high"], number, partitions) for number in (partition, partition + 1))
        if end > first:
            found.append(np.array(rows[first:end]))
    return np.concatenate(found)


def _first_of(highs: Numbers, partition: int, partitions: int) -> int:
    """Where the keys of a partition begin in a run."""
    bound = (partition << 64) // partitions
    return len(highs) if bound >= 1 << 64 else int(np.searchsorted(highs, np.uint64(bound)))


def partition_of(highs: Numbers, partitions: int) -> Numbers:
    """Which partition each key is in."""
    bounds = np.array([(number << 64) // partitions for number in range(1, partitions)], dtype=np.uint64)
    return np.searchsorted(bounds, highs, side="right")


def lost_in_shard(files: Sequence[Path], shard: int) -> Rows:
    """Of all lost rows in files, each sorted by place, those of one shard, sorted by place."""
    found = [np.empty(0, dtype=LOST)]
    bounds = np.array([shard << ROW_BITS, (shard + 1) << ROW_BITS], dtype=np.uint64)
    for file in files:
        rows = np.load(file, mmap_mode="r")
        first, end = np.searchsorted(rows["place"], bounds)
        if end > first:
            found.append(np.array(rows[first:end]))
    lost = np.concatenate(found)
    return lost[np.argsort(lost["place"])]


def winners_of(lost: Rows, places: Numbers) -> tuple[Numbers, Numbers]:
    """Which of the places are lost (bool), and who stays for those (their winners, as long as there are such)."""
    at = np.searchsorted(lost["place"], places)
    is_lost = np.zeros(len(places), dtype=bool)
    inside = at < len(lost)
    is_lost[inside] = lost["place"][at[inside]] == places[inside]
    return is_lost, lost["winner"][at[is_lost]]


def taken_out(rows: Rows, near: Rows, *, within: bool) -> Rows:
    """Rows of whole groups that are taken out: all but the best, or (not `within`) those that have a protected best.

    Args:
        near: best rows of groups that are taken out with all the others, sorted by place, and for which row.
    """
    best, lost = split_best(rows)
    protected = np.sort(rows["place"][rows["rank"] == PROTECTED])
    lost = lost[~is_in(lost["place"], protected)]
    moved, survivors = winners_of(near, lost["winner"])
    lost["winner"][moved] = survivors
    if not within:
        lost = lost[moved | is_in(lost["winner"], protected)]
    own = near[is_in(near["place"], np.sort(best["place"]))]
    places, winners = (np.concatenate([own[name], lost[name]]) for name in ("place", "winner"))
    return lost_rows(places, winners)


def is_in(values: Numbers, known: Numbers) -> Numbers:
    """Whether each value is one of the sorted known ones."""
    at = np.searchsorted(known, values)
    found = np.zeros(len(values), dtype=bool)
    inside = at < len(known)
    found[inside] = known[at[inside]] == values[inside]
    return found


def save(target: Path, rows: Numbers) -> None:
    """Write an array, whole or not at all."""
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.save(file, rows)


def runs_of(batches: Iterator[Rows], most: int) -> Iterator[Rows]:
    """The batches put together into runs of `most` rows or a batch more."""
    waiting: list[Rows] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= most:
            run, waiting = np.concatenate(waiting), []  # not held while the run is sorted
            yield run
    if waiting:
        yield np.concatenate(waiting)
