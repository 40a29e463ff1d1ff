"""Reflect-DiT's table of good and bad pictures for each prompt, as one row for each good picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from prep.datasets import SizeOf
from prep.errors import DataError

SEPARATOR = "XXX"  # the publisher's own, between the members of a list in one cell
COLUMNS = ("prompt", "positive_filename", "negative_filename", "negative_reason")
SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("picture", pa.string()),
        ("negatives", pa.list_(pa.string())),
        ("negative_reasons", pa.string()),
        ("drop_reason", pa.string()),
    ]
)
BATCH_ROWS = 1000


def good_pictures(part: Path, size_of: SizeOf) -> Iterator[pa.RecordBatch]:
    """Rows of `object_self_correct_cleaned.csv`, in batches of at most 1000.

    Each has the `prompt`, the path of one good `picture`, and the prompt's `negatives` (paths) with their
    `negative_reasons`: one text, joined by `;` as the trainer splits it, so that a `;` inside a reason has become a
    comma. Both are null where there are none, or where their numbers differ and nobody can say which reason is whose.
    A prompt without a good picture is one row, dropped as `no_positive`; no picture is asked for its size.

    Raises:
        DataError: the part is not csv, or lacks a column.
    """
    rows = _rows(part)
    while chunk := list(islice(rows, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(chunk, schema=SCHEMA)


def _rows(part: Path) -> Iterator[dict[str, object]]:
    for prompt, positive, negative, why in _cells(part):
        pictures = [path for path in _members(positive) if path]
        pairs = _pairs(_members(negative), _members(why))
        row: dict[str, object] = {
            "prompt": prompt,
            "negatives": [path for path, _ in pairs] or None,
            "negative_reasons": ";".join(reason for _, reason in pairs) or None,
        }
        reason = None if pictures else "no_positive"
        for picture in pictures or [""]:  # one row in any case
            yield row | {"picture": picture or None, "drop_reason": reason}


def _members(cell: str) -> list[str]:
    return [member.strip() for member in cell.split(SEPARATOR)] if cell.strip() else []


def _pairs(paths: list[str], reasons: list[str]) -> list[tuple[str, str]]:
    """Bad pictures with why they are bad."""
    if len(paths) != len(reasons):
        return []
    pairs = zip(paths, (reason.replace(";", ",") for reason in reasons), strict=True)
    return [(path, reason) for path, reason in pairs if path and reason]


def _cells(part: Path) -> Iterator[list[str]]:
    """The cells of COLUMNS of every row; what a short row lacks is empty."""
    with part.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise DataError(
                    f"{part}: no column {', '.join(missing)}; it has: {', '.join(header)}",
                    "Is it another of the publisher's files? Check `parts` in the dataset's YAML.",
                )
            places = [header.index(name) for name in COLUMNS]
            for cells in reader:
                if cells:
                    yield [cells[place] if place < len(cells) else "" for place in places]
        except csv.Error as error:
            raise DataError(
                f"{part}: not a whole csv file (line {reader.line_num}: {error})",
                "Delete it and run `prep download` again.",
            ) from error
