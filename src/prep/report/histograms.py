"""How scores, sizes, shapes and lengths of a table's samples are spread, kept and dropped ones apart.

Bins are fixed, and a query only counts rows by bin: memory is bounded, and the numbers are the same however rows lie
in shards and however many threads count them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from prep import sql
from prep.errors import DataError
from prep.progress import Bar, bar
from prep.schema import AESTHETIC_SCORE, HEIGHT, PREFERENCE_SCORE, ROW, TEXT, TURNS, WIDTH, Kind
from prep.workspace import Workspace

FILES_AT_ONCE = 500  # of a query
REPORT_NAME = "report.html"
_NOTHING = "CAST(NULL AS DOUBLE)"


@dataclass(frozen=True)
class Axis:
    """What a histogram is over.

    Attributes:
        name: in `--json`.
        title: for a person, with the unit.
        edges: where bins meet, rising; the first bin lies below all of them, and an edge belongs to the bin above it.
        words: the edges for a person.
    """

    name: str
    title: str
    edges: tuple[float, ...]
    words: tuple[str, ...]

    def words_of(self, number: int) -> str:
        """What bin `number` holds."""
        if number == 0:
            return f"below {self.words[0]}"
        if number == len(self.edges):
            return f"{self.words[-1]} or more"
        return f"{self.words[number - 1]} to {self.words[number]}"


@dataclass(frozen=True)
class Histogram:
    """Rows of a table by bin.

    Attributes:
        kept, dropped: one number a bin, one bin more than the axis has edges.
        kept_unknown, dropped_unknown: rows without a value.
        low, high: of all values; None without any.
    """

    axis: Axis
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    kept_unknown: int
    dropped_unknown: int
    low: float | None
    high: float | None

    @property
    def bins(self) -> range:
        """Numbers of the bins from the first to the last that holds a row."""
        filled = [number for number, rows in enumerate(zip(self.kept, self.dropped, strict=True)) if any(rows)]
        return range(filled[0], filled[-1] + 1) if filled else range(0)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.axis.name,
            "edges": self.axis.edges,
            "kept": self.kept,
            "dropped": self.dropped,
            "kept_unknown": self.kept_unknown,
            "dropped_unknown": self.dropped_unknown,
            "low": self.low,
            "high": self.high,
        }


def _numbers(name: str, title: str, edges: Sequence[float]) -> Axis:
    return Axis(name, title, tuple(edges), tuple(f"{edge:g}" for edge in edges))


_PIXELS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
_SHAPES = ("1:4", "1:3", "1:2", "9:16", "2:3", "3:4", "9:10", "10:9", "4:3", "3:2", "16:9", "2:1", "3:1", "4:1")
AESTHETIC = _numbers(AESTHETIC_SCORE, "aesthetic score", [number / 4 for number in range(8, 37)])
PREFERENCE = _numbers(PREFERENCE_SCORE, "preference score", [number / 100 for number in range(10, 41)])
IMAGE_WIDTH = _numbers("width", "width in pixels", _PIXELS)
IMAGE_HEIGHT = _numbers("height", "height in pixels", _PIXELS)
SHAPE = Axis(
    "aspect_ratio",
    "width : height",
    tuple(int(shape.split(":")[0]) / int(shape.split(":")[1]) for shape in _SHAPES),
    _SHAPES,
)
LENGTH = _numbers("text_length", "characters", (1, 20, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1200, 2000, 4000))


def score_column(kind: Kind) -> str | None:
    """The score that rows of a kind are put in order by, if they have one."""
    return next((name for name in (AESTHETIC_SCORE, PREFERENCE_SCORE) if kind.column(name)), None)


def text_column(kind: Kind) -> str:
    """The column whose text says most of a row."""
    texts = [column.name for column in kind.columns if column.required and not column.images]
    return kind.prompt or next(name for name in texts if name != "is_edit")


AXES = (AESTHETIC, PREFERENCE, IMAGE_WIDTH, IMAGE_HEIGHT, SHAPE, LENGTH)


def table_histograms(workspace: Workspace, table: str) -> tuple[Histogram, ...]:
    """Histograms of the samples of a filtered table, of what they have values of.

    Raises:
        DataError: it is not filtered yet, or a shard cannot be read.
    """
    if workspace.read_filtered(table) is None:
        late = f"table {table} is not filtered yet, or not since it was normalized"
        raise DataError(late, "`prep run` does all that is missing.")
    _, definition = workspace.table(table)
    folders = workspace.filtered(table), workspace.text_only(table)
    kept = [path for folder in folders for path in sorted(folder.glob("shard-*.parquet"))]
    dropped = sorted(workspace.dropped(table).glob("shard-*.parquet"))
    text = text_column(definition.shape)
    samples = workspace.normalized(table)
    with counting(workspace, f"stats {table}", len(AXES) * len([*kept, *dropped])) as counter:
        found = [
            _histogram(axis, counter.bins(axis, text, kept), counter.bins(axis, text, dropped, samples))
            for axis in AXES
        ]
    length = replace(LENGTH, title=f"characters of {text}")
    shown = (replace(one, axis=length) if one.axis is LENGTH else one for one in found)
    return tuple(histogram for histogram in shown if histogram.bins)


@contextmanager
def counting(workspace: Workspace, label: str, files: int) -> Iterator[Counter]:
    """A connection that counts rows of parquet files, told of as it goes.

    Args:
        files: that will be read.

    Raises:
        DataError: one of them cannot be read.
    """
    again = "`prep filter --force` makes a table anew; if another prep is at work, wait for it to end."
    with (
        bar(label, files, "shards") as advance,
        sql.connect(workspace.root / REPORT_NAME) as connection,
        sql.data_errors(label, again),
    ):
        connection.execute(f"SET threads = {workspace.workers}")  # they only count, which comes out the same
        yield Counter(connection, advance)


class Counter:
    """Counts rows of parquet files, some files at a time."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, advance: Bar) -> None:
        self.connection = connection
        self._advance = advance

    def batches(self, paths: Sequence[Path]) -> Iterator[str]:
        """Table expressions that read all files, so many at a time that a query stays a short text."""
        for start in range(0, len(paths), FILES_AT_ONCE):
            batch = paths[start : start + FILES_AT_ONCE]
            yield sql.parquet_files(batch)
            self._advance(len(batch))

    def _whole(self, paths: Sequence[Path], samples: Path) -> Iterator[str]:
        for path in paths:
            yield sql.completed(path, samples / path.name, ROW)
            self._advance(1)

    def bins(self, axis: Axis, text: str, paths: Sequence[Path], samples: Path | None = None) -> Bins:
        """Samples of files by bin.

        Args:
            text: the column whose characters are counted.
            samples: the folder of the samples that rows of the files name, where they lack some columns.
        """

        def value(rows: str) -> str:
            types = {row[0]: row[1] for row in self.connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()}
            return f"SELECT {_value(axis, text, types)} AS value FROM {rows}"

        return self._bins(axis, map(value, self.batches(paths) if samples is None else self._whole(paths, samples)))

    def index_histogram(self, axis: Axis, paths: Sequence[Path]) -> Histogram:
        """Good images of index shards; there is nothing that is dropped."""
        value = {IMAGE_WIDTH: "width", IMAGE_HEIGHT: "height", SHAPE: "width / nullif(height, 0)"}[axis]
        good = (
            f"SELECT CAST({value} AS DOUBLE) AS value FROM {rows} WHERE status = 'ok'" for rows in self.batches(paths)
        )
        return _histogram(axis, self._bins(axis, good), self._bins(axis, ()))

    def _bins(self, axis: Axis, queries: Iterable[str]) -> Bins:
        """Rows of queries by the bin that their `value` is in."""
        counts: dict[int | None, int] = {}
        low = high = None
        for values in queries:
            query = f"SELECT {_bin(axis)} AS bin, count(*), min(value), max(value) FROM ({values}) GROUP BY bin"
            for number, found, least, most in self.connection.execute(query).fetchall():
                counts[number] = counts.get(number, 0) + found
                if number is not None:
                    low = least if low is None else min(low, least)
                    high = most if high is None else max(high, most)
        return Bins(
            tuple(counts.get(number, 0) for number in range(len(axis.edges) + 1)), counts.get(None, 0), low, high
        )


class Bins(NamedTuple):
    """Rows by bin, those without a value, and the least and greatest value."""

    counts: tuple[int, ...]
    unknown: int
    low: float | None
    high: float | None


def _histogram(axis: Axis, kept: Bins, dropped: Bins) -> Histogram:
    ends = [end for bins in (kept, dropped) for end in (bins.low, bins.high) if end is not None]
    return Histogram(
        axis,
        kept.counts,
        dropped.counts,
        kept.unknown,
        dropped.unknown,
        min(ends, default=None),
        max(ends, default=None),
    )


def _value(axis: Axis, text: str, types: Mapping[str, str]) -> str:
    """SQL of what an axis is over, or null, for rows with columns of these types."""
    if axis is SHAPE:
        return f"{WIDTH} / nullif({HEIGHT}, 0)" if {WIDTH, HEIGHT} <= types.keys() else _NOTHING
    if axis is LENGTH:
        return _characters(sql.name(text), types[text]) if text in types else _NOTHING
    column = {IMAGE_WIDTH: WIDTH, IMAGE_HEIGHT: HEIGHT}.get(axis, axis.name)
    return f"CAST({sql.name(column)} AS DOUBLE)" if column in types else _NOTHING


def _characters(column: str, type_: str) -> str:
    """SQL of the characters of a text, or of all turns of a conversation, given natively or as JSON."""
    turns = column
    if type_ == TEXT and column == sql.name(TURNS):
        turns = f"""TRY(from_json({column}, '[{{"value": "VARCHAR"}}]'))"""
    elif not type_.startswith("STRUCT"):
        return f"length(CAST({column} AS VARCHAR))"
    lengths = f'list_transform({turns}, lambda turn: length(CAST(turn."value" AS VARCHAR)))'
    return f"CAST(list_sum({lengths}) AS BIGINT)"


def _bin(axis: Axis) -> str:
    """SQL of the number of the bin that `value` is in; null for none."""
    branches = " ".join(
        f"WHEN value < CAST('{edge!r}' AS DOUBLE) THEN {number}" for number, edge in enumerate(axis.edges)
    )
    return f"CASE WHEN value IS NULL THEN NULL {branches} ELSE {len(axis.edges)} END"
