"""The rows that training will draw from one entry: nulls and lengths over all of them, some of them looked at closely.

Over all rows: values that are null, captions that will be cut, feedback that does not pair up. For the rows looked at:
the sample is built as the function would build it, and its images are opened.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ijson
import numpy as np
import pandas as pd

from prep.errors import DataError
from prep.files import JSON_BUFFER
from prep.schema import PREFERENCE_SCORE
from prep.trainers.findings import Notes, RowFault, Tally
from prep.trainers.lavida_o import MAX_CAPTION_LENGTH, Function, Holds, Read
from prep.trainers.lavida_o_sample import (
    FIRST_ROW_FAILS,
    ROW_FAILS,
    Sample,
    address_faults,
    build_sample,
    can_open,
    image_fault,
    null_faults,
)
from prep.trainers.lavida_o_table import ParquetTable, Positions, is_string, spread, value_bytes

ImageChoice = Literal["sample", "all", "none"]

_SPREAD_ROWS = 16  # rows looked at besides the first
_LIST_MEASURED_ROWS = 1_000
_LIST_BATCH_ROWS = 1_000
_OPENERS = 8  # threads; decoding releases the interpreter lock


@dataclass(frozen=True)
class FirstSample:
    """An entry's first sample, which the loader builds at start-up.

    Attributes:
        images: addresses as they are opened.
        text: its caption (cut as the loader cuts it), answer, or first turns.
        scores: what is added to the prompt, such as `SCORE : 5.812 HPS : 2.981`.
    """

    images: tuple[str, ...]
    text: str
    scores: str


@dataclass
class Looked:
    """What looking at rows gave."""

    first: FirstSample | None = None
    images_opened: int = 0


@dataclass
class _Looker:
    """Builds samples of rows and opens their images.

    Args:
        first_row: position of the row that the loader reads at start-up.
        images: whether to open images.
    """

    first_row: int
    images: ImageChoice
    looked: Looked = field(default_factory=Looked)
    tally: Tally = field(default_factory=lambda: Tally(FIRST_ROW_FAILS))
    rows: int = 0

    def look(self, samples: Sequence[tuple[int, Sample]]) -> None:
        """Take in samples, each with the position of its row."""
        self.rows += len(samples)
        for row, sample in samples:
            if row == self.first_row:
                self.looked.first = FirstSample(sample.images, sample.text, sample.scores)
            for fault in sample.faults:
                self._add(fault, row)
            for address in sample.images:
                for fault in address_faults(address):
                    self._add(fault, row, address)
        if self.images != "none":
            addresses = [(row, address) for row, sample in samples for address in sample.images]
            self._open([(row, address) for row, address in addresses if can_open(address)])

    def _open(self, addresses: Sequence[tuple[int, str]]) -> None:
        with ThreadPoolExecutor(_OPENERS) as pool:
            faults = list(pool.map(image_fault, [address for _, address in addresses]))
        self.looked.images_opened += faults.count(None)
        for (row, address), fault in zip(addresses, faults, strict=True):
            if fault is not None:
                self._add(fault, row, address)

    def _add(self, fault: RowFault, row: int, address: str = "") -> None:
        self.tally.add(fault, row, address, is_first=row == self.first_row)


def look_at_table(
    table: ParquetTable,
    function: Function,
    arguments: Mapping[str, Any],
    loaded: Sequence[str],
    sampled: Positions,
    images: ImageChoice,
    notes: Notes,
) -> Looked:
    """Look through the rows of a table that training draws from.

    Args:
        loaded: the table's columns that the loader has; all that the function needs are among them.
        sampled: positions of the rows, in the loader's order.

    Raises:
        DataError: the table cannot be decoded.
    """
    reads = [read for read in function.reads_with(arguments) if read.column in loaded]
    also = [column for column in function.uses_when_present if column in loaded]
    columns = list(dict.fromkeys([read.column for read in reads] + also))
    in_file_order = np.sort(sampled)
    chosen = sampled if images == "all" else sampled[spread(len(sampled), _SPREAD_ROWS + 1)]
    looker = _Looker(int(sampled[0]), images)
    scan = _Scan(reads, {column: table.columns[column] for column in columns})
    for start, frame in table.frames(columns):
        scan.take(frame.iloc[_within(in_file_order, start, len(frame))])
        rows = _within(np.sort(chosen), start, len(frame))
        looker.look([(start + int(i), build_sample(function, arguments, frame.iloc[i].to_dict())) for i in rows])
    scan.note(notes, len(sampled))
    notes.findings.extend(looker.tally.findings(notes.entry, looker.rows))
    return looker.looked


def _within(positions: Positions, start: int, length: int) -> Positions:
    """Those of the sorted `positions` that fall into a batch, counted from its start."""
    low, high = np.searchsorted(positions, [start, start + length])
    return positions[low:high] - start


class _Scan:
    """Counts over all rows that training draws from, a batch at a time."""

    def __init__(self, reads: Sequence[Read], types: Mapping[str, Any]) -> None:
        self.reads, self.types = reads, types
        self.nulls: Counter[str] = Counter()
        self.long: Counter[str] = Counter()
        self.unpaired = 0

    def take(self, rows: pd.DataFrame) -> None:
        """Count a batch of rows."""
        for column in self.types:
            self.nulls[column] += int(rows[column].isna().sum())
        for read in self.reads:
            if read.is_caption and is_string(self.types[read.column]):
                self.long[read.column] += int((rows[read.column].str.len() > MAX_CAPTION_LENGTH).sum())
        by_holding = {read.holds: read.column for read in self.reads}
        images, texts = by_holding.get(Holds.JOINED_PATHS), by_holding.get(Holds.JOINED_TEXTS)
        if images and texts and is_string(self.types[images]) and is_string(self.types[texts]):
            pairs = rows[[images, texts]].dropna()
            self.unpaired += int((pairs[images].str.count(";") != pairs[texts].str.count(";")).sum())

    def note(self, notes: Notes, rows: int) -> None:
        """Write down what was counted over `rows` rows."""
        for read in self.reads:
            self._note_nulls(read, notes, rows)
        if self.nulls[PREFERENCE_SCORE]:
            notes.warning(
                f"{PREFERENCE_SCORE} is null in {self.nulls[PREFERENCE_SCORE]:,} of {rows:,} rows",
                "the prompt says `HPS : nan`, or the row fails",
                f"Fill it, drop such rows, or leave {PREFERENCE_SCORE} out of columns.",
            )
        for column, count in self.long.items():
            if count:
                notes.warning(
                    f"{column} is longer than {MAX_CAPTION_LENGTH} characters in {count:,} of {rows:,} rows "
                    f"({count / rows:.1%})",
                    f"only the first {MAX_CAPTION_LENGTH} characters are used",
                    "Nothing, if that is meant; else shorten them.",
                )
        if self.unpaired:
            notes.error(
                f"negatives and negative_reasons differ in number in {self.unpaired:,} of {rows:,} rows",
                "reasons are paired with the wrong images, and rows with fewer reasons fail",
                "Give each negative one reason, and take every other ';' out of the texts.",
            )

    def _note_nulls(self, read: Read, notes: Notes, rows: int) -> None:
        count, kind = self.nulls[read.column], self.types[read.column]
        where = f"{read.column} is null in {count:,} of {rows:,} rows"
        if not count:
            return
        if not read.nullable:
            notes.error(where, ROW_FAILS, "Drop such rows where the table is made.")
        elif is_string(kind):
            notes.error(
                f"{where}, beside rows that have it",
                f"pandas 3 makes NaN of a null in a text column, and the path join fails: {ROW_FAILS}",
                f"Keep rows without {read.column} in a table of their own, where the column has the null type.",
            )


# -- JSON lists ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListFacts:
    """What a first pass over a JSON list gave.

    Attributes:
        rows: how many there are.
        keys: of the first row.
        memory_bytes, is_estimate: Python objects of all rows; from the first rows where there are many.
    """

    rows: int
    keys: tuple[str, ...]
    memory_bytes: int
    is_estimate: bool


class JsonList:
    """A `.json` list or `.jsonl` file of rows, streamed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in order.

        Raises:
            DataError: not JSON, not a list, or an item that is not an object.
        """
        number = 0
        try:
            with self.path.open("rb") as file:
                items = self._lines(file) if self.path.suffix == ".jsonl" else self._items(file)
                for number, row in enumerate(items, start=1):
                    if not isinstance(row, dict):
                        raise DataError(f"{self.path} holds something else than an object as item {number}")
                    yield row
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from error
        except (ijson.JSONError, ValueError, RecursionError) as error:
            raise DataError(f"{self.path} is not good JSON after item {number}: {error}") from error

    def measure(self) -> ListFacts:
        """Count the rows and measure some.

        Raises:
            DataError: see `rows`.
        """
        count = measured_bytes = 0
        keys: tuple[str, ...] = ()
        for count, row in enumerate(self.rows(), start=1):
            keys = keys if count > 1 else tuple(row)
            measured_bytes += value_bytes(row) if count <= _LIST_MEASURED_ROWS else 0
        total = measured_bytes * count // min(count, _LIST_MEASURED_ROWS) if count else 0
        return ListFacts(count, keys, total, count > _LIST_MEASURED_ROWS)

    @staticmethod
    def _lines(file: Iterable[bytes]) -> Iterator[Any]:
        # As text, like the loader: a byte order mark is then an error, which it is not in bytes.
        return (json.loads(line.decode()) for line in file if line.strip())

    def _items(self, file: Any) -> Iterator[Any]:
        first = next(iter(ijson.basic_parse(file)), ("", None))
        if first[0] != "start_array":
            raise DataError(f"{self.path} does not hold a list")
        file.seek(0)
        yield from ijson.items(file, "item", buf_size=JSON_BUFFER, use_float=True)


def look_at_list(
    rows: JsonList,
    function: Function,
    arguments: Mapping[str, Any],
    sampled: range,
    images: ImageChoice,
    notes: Notes,
) -> Looked:
    """Look through the rows of a JSON list that training draws from.

    Args:
        sampled: positions of the rows.

    Raises:
        DataError: see `JsonList.rows`.
    """
    chosen = set(sampled if images == "all" else (sampled[i] for i in spread(len(sampled), _SPREAD_ROWS + 1)))
    looker = _Looker(sampled[0], images)
    nulls = Tally(FIRST_ROW_FAILS)
    waiting: list[tuple[int, Sample]] = []
    for position, row in enumerate(rows.rows()):
        if position not in sampled:
            continue
        for fault in null_faults(function, arguments, row):
            nulls.add(fault, position, is_first=position == sampled[0])
        if position in chosen:
            waiting.append((position, build_sample(function, arguments, row)))
        if len(waiting) == _LIST_BATCH_ROWS:
            looker.look(waiting)
            waiting = []
    looker.look(waiting)
    notes.findings.extend(nulls.findings(notes.entry, len(sampled)))
    notes.findings.extend(looker.tally.findings(notes.entry, looker.rows))
    return looker.looked
