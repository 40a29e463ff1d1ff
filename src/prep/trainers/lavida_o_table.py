"""A parquet table as LaViDa-O's loader reads it, but a batch at a time.

The loader calls `pandas.read_parquet` on the whole file. Here the same dataset is streamed and every comparison is
made by pandas on the same column types, so the counts are the loader's while memory stays bounded: beside one batch,
only the position of each kept row (8 bytes) is held.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prep.errors import DataError
from prep.schema import AESTHETIC_SCORE, HEIGHT, WIDTH
from prep.trainers.lavida_o import Holds, Sampling

Positions = NDArray[np.int64]

_BATCH_ROWS = 16_384
_MEASURED_ROWS = 20_000  # tables up to this size are measured whole
_MEASURED_GROUPS = 8
_RANDOM_SEED = 42  # the loader's


class ParquetTable:
    """A parquet file, or a folder of shards, as `pandas.read_parquet` sees it.

    Args:
        path: the file or folder. In a folder, names that start with `_` or `.` are passed over.

    Attributes:
        columns: name -> Arrow type; those of the first shard, as the reader has it.
        rows: rows over all shards.
        lacking: column -> how many shards do not have it; it reads as null there.

    Raises:
        DataError: a file in it is not parquet, or there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = list(_data_files(path)) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path} holds no parquet file")
        self.rows = 0
        names: Counter[str] = Counter()
        for file in files:
            metadata = _footer(file, path)
            self.rows += metadata.num_rows
            names.update(metadata.schema.to_arrow_schema().names)
        try:
            self._dataset = ds.dataset(str(path), format="parquet", partitioning="hive")
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read: {_first_line(error)}") from error
        schema = self._dataset.schema
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        self.columns = {field.name: field.type for field in schema if field.name not in index}
        self.lacking = {name: len(files) - names[name] for name in self.columns if 0 < names[name] < len(files)}

    def frames(self, columns: Sequence[str]) -> Iterator[tuple[int, pd.DataFrame]]:
        """Batches of `columns` in file order, each with the position of its first row.

        Raises:
            DataError: a shard cannot be decoded, or does not fit the first one's types.
        """
        start = 0
        try:
            for batch in self._dataset.to_batches(
                columns=list(columns), batch_size=_BATCH_ROWS, batch_readahead=2, fragment_readahead=1
            ):
                yield start, batch.to_pandas(ignore_metadata=True)
                start += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read: {_first_line(error)}") from error

    def memory(self, columns: Sequence[str]) -> tuple[int, bool]:
        """Bytes that `columns` take as a DataFrame, and whether that is an estimate from some row groups.

        Raises:
            DataError: a shard cannot be decoded.
        """
        if self.rows <= _MEASURED_ROWS:
            return sum(frame_bytes(frame) for _, frame in self.frames(columns)), False
        groups = [
            fragment.subset(row_group_ids=[group.id])
            for fragment in self._dataset.get_fragments()
            for group in fragment.row_groups
            if group.num_rows
        ]
        measured_bytes = measured_rows = 0
        try:
            for index in spread(len(groups), _MEASURED_GROUPS):
                scanner = ds.Scanner.from_fragment(groups[index], schema=self._dataset.schema, columns=list(columns))
                head = scanner.head(_MEASURED_ROWS // _MEASURED_GROUPS)
                measured_bytes += frame_bytes(head.to_pandas(ignore_metadata=True))
                measured_rows += head.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read: {_first_line(error)}") from error
        return round(measured_bytes / measured_rows * self.rows), True


@dataclass(frozen=True)
class Cutoffs:
    """The filters that the loader runs on an entry, in its order; None where one does not run.

    Attributes:
        score: keep rows whose aesthetic score is strictly greater.
        min_size: keep rows whose height and width are both at least this.
        max_images: a list column, and the most items it may have.
    """

    score: float | None = None
    min_size: float | None = None
    max_images: tuple[str, int] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the filters look at."""
        names = [AESTHETIC_SCORE] if self.score is not None else []
        names += [HEIGHT, WIDTH] if self.min_size is not None else []
        names += [self.max_images[0]] if self.max_images else []
        return tuple(dict.fromkeys(names))

    def keep(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of `frame` that pass.

        Raises:
            DataError: a null in the list column, which has no length.
        """
        if self.score is not None:
            frame = frame[frame[AESTHETIC_SCORE] > self.score]
        if self.min_size is not None:
            frame = frame[(frame[HEIGHT] >= self.min_size) & (frame[WIDTH] >= self.min_size)]
        if self.max_images is not None:
            column, most = self.max_images
            if frame[column].isna().any():
                raise DataError(f"{column} has nulls, and max_enc_images asks for their length")
            frame = frame[frame[column].map(len) <= most]
        return frame


@dataclass(frozen=True)
class Kept:
    """What the cutoffs left.

    Attributes:
        positions: rows of the file, 0-based, in order.
        nulls: rows without a value, by filter column.
    """

    positions: Positions
    nulls: dict[str, int]


def kept_rows(table: ParquetTable, cutoffs: Cutoffs) -> Kept:
    """Run an entry's cutoffs over its whole table.

    Raises:
        DataError: the table cannot be decoded, or a null where the loader cannot have one.
    """
    if not cutoffs.columns:
        return Kept(np.arange(table.rows, dtype=np.int64), {})
    found: list[Positions] = []
    nulls: Counter[str] = Counter()
    for start, frame in table.frames(cutoffs.columns):
        for column in cutoffs.columns:
            nulls[column] += int(frame[column].isna().sum())
        found.append(cutoffs.keep(frame).index.to_numpy(dtype=np.int64) + start)
    return Kept(np.concatenate(found) if found else np.empty(0, np.int64), dict(nulls))


def sampled_positions(sampling: Sampling, kept: Positions) -> Positions:
    """The kept rows that the strategy leaves, in the order the loader holds them; copies of `dup` are left out.

    Raises:
        DataError: `random` asks for more rows than there are.
    """
    rows = sampling.rows(len(kept))
    if sampling.word == "random" and rows > len(kept):
        raise DataError(f"random sampling asks for {rows:,} of {len(kept):,} rows")
    if sampling.word == "first":
        return kept[:rows]
    if sampling.word == "end":
        return kept[len(kept) - rows :]
    if sampling.word == "random":
        # The loader samples its DataFrame; which rows that takes depends only on how many there are.
        return pd.Series(kept).sample(n=rows, random_state=_RANDOM_SEED).to_numpy(dtype=np.int64)
    return kept


def fits(holds: Holds, kind: pa.DataType) -> bool:
    """Whether a column of Arrow type `kind` can hold what a function expects; the null type always can."""
    if pa.types.is_null(kind) or holds is Holds.ANYTHING:
        return True
    if holds.is_string:
        return is_string(kind)
    if holds is Holds.TURNS:
        return (
            is_list(kind)
            and pa.types.is_struct(kind.value_type)
            and {"from", "value"} <= {field.name for field in kind.value_type}
        )
    is_paths = is_list(kind) and is_string(kind.value_type)
    return is_paths or (holds is Holds.PATH_OR_PATHS and is_string(kind))


def is_string(kind: pa.DataType) -> bool:
    """Whether values of Arrow type `kind` come out of pandas as strings."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values of Arrow type `kind` are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether pandas can compare values of Arrow type `kind` with a cutoff."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices spread evenly over `range(length)`, the first always among them."""
    return sorted({int(index) for index in np.linspace(0, length - 1, min(count, length))})


def frame_bytes(frame: pd.DataFrame) -> int:
    """Bytes of a DataFrame's columns.

    pandas' own deep measure, except that lists and structs are followed to the end, which pandas does not do.
    """
    sizes = frame.memory_usage(deep=True, index=False)
    total = 0
    for column in frame.columns:
        nested = frame[column].dtype == object
        total += sum(8 + value_bytes(value) for value in frame[column]) if nested else int(sizes[column])
    return total


def value_bytes(value: Any) -> int:
    """Bytes of a Python value and everything in it."""
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        parts = value
    return sys.getsizeof(value) + sum(value_bytes(part) for part in parts)


def _data_files(folder: Path) -> Iterator[Path]:
    """Files below `folder` that the reader takes for shards, in its order."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _footer(file: Path, table: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        if file == table:
            raise DataError(f"{table} is not a parquet file that can be read") from error
        kind = "cannot be read as parquet" if file.suffix == ".parquet" else "is not parquet"
        raise DataError(f"{table} holds {file.relative_to(table)}, which {kind}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
