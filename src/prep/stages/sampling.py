"""A sample of a table by a hash of each row's key: the same rows on every machine, and however they lie in shards.

A row is in the sample if its hash is below a bound. For a percentage the bound is that share of all hashes. For a
number it is found from the hashes of the rows that pass everything else: each shard's smallest are written down, like
any other facts, and the bound lies above the number-th of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from prep import sql
from prep.manifest import fingerprint
from prep.schema import KEY
from prep.stages.shards import ShardTask

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VERSION = 1  # raise when the same keys give other hashes
SAMPLED_OUT = "sample"  # filter's reason for a row that passes every rule and is not in the sample
HASH = "hash"
ALL = 1 << 64  # the bound below which every hash lies
_PREFIX_BITS = 16

TaskT = TypeVar("TaskT", bound=ShardTask)


def hash_of(seed: int) -> str:
    """SQL of a row's hash: the first 64 bits of SHA-256 of the seed, a colon and the row's key.

    Of two billion rows two have one hash once in ten tables; that it are the two beside the bound, and a sample has
    one row too many, once in some ten billion.
    """
    return f"CAST('0x' || substr(sha256({sql.text(f'{seed}:')} || {KEY}), 1, 16) AS UBIGINT)"


def is_outside(seed: int, below: int) -> str:
    """SQL of whether a row is not in the sample."""
    return f"{hash_of(seed)} >= CAST({sql.text(str(below))} AS UBIGINT)"


def outside_of_share(sample: str | None, seed: int) -> str | None:
    """SQL of whether a row can be in no sample that `sample` asks for: only a percentage can tell that of one row."""
    return (
        is_outside(seed, bound) if sample and sample.endswith("%") and (bound := bound_of_share(sample)) < ALL else None
    )


def rows_wanted(sample: str) -> int | None:
    """The number of rows that the rule `sample` asks for; None where it is a percentage."""
    return None if sample.endswith("%") else int(sample)


def bound_of_share(sample: str) -> int:
    """The bound of a percentage."""
    return ceil(Fraction(sample.removesuffix("%")) / 100 * ALL)


@dataclass(frozen=True)
class HashTask(ShardTask, Generic[TaskT]):
    """The smallest hashes of one shard's rows that pass everything else.

    Attributes:
        judge: what tells whether a row passes.
        most: how many hashes, at most.
    """

    judge: TaskT
    seed: int
    most: int
    output: Path

    @property
    def fingerprint(self) -> str:
        """Everything the file is made from."""
        return fingerprint([VERSION, self.judge.fingerprint, self.seed, self.most])


def bound_of_number(shards: Sequence[Path], number: int) -> int:
    """The bound below which lie the `number` smallest of all hashes in files, or all if they are fewer.

    Reads the files twice, a batch in memory at a time: how many hashes begin alike, then those that begin as the
    wanted one does.
    """
    import numpy as np

    alike = np.zeros(1 << _PREFIX_BITS, dtype=np.int64)
    for hashes in _batches(shards):
        alike += np.bincount(_prefixes(hashes), minlength=len(alike))
    if alike.sum() < number:  # if they are as many, files that hold that many at most may have left out more
        return ALL
    first = int(np.searchsorted(alike.cumsum(), number))
    near = np.concatenate([hashes[_prefixes(hashes) == first] for hashes in _batches(shards)])
    place = number - int(alike[:first].sum()) - 1
    return int(np.partition(near, place)[place]) + 1


def _batches(shards: Sequence[Path]) -> Iterator[npt.NDArray[np.uint64]]:
    import pyarrow.parquet as pq

    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(columns=[HASH]):
                yield batch.column(0).to_numpy()


def _prefixes(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    import numpy as np

    return (hashes >> np.uint64(64 - _PREFIX_BITS)).astype(np.int64)
