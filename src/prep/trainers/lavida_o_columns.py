"""What LaViDa-O's loader does with the columns of a parquet table: which it loads, needs and compares.

Where the table itself is not opened, the columns that the entry lists are taken for there, of unknown types.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from prep.config import nearest
from prep.schema import AESTHETIC_SCORE, HEIGHT, PREFERENCE_SCORE, WIDTH
from prep.trainers.findings import STOPS, Notes
from prep.trainers.lavida_o import (
    AES_CUTOFF,
    ARGUMENTS,
    COLUMNS,
    DEFAULT_AES_CUTOFF,
    FUNCTION,
    IMAGE_ROOT,
    LLAVA_SAMPLE,
    MAX_IMAGES,
    MIN_SIZE,
    Function,
    Read,
)
from prep.trainers.lavida_o_table import Cutoffs, fits, is_list, is_number


@dataclass
class Columns:
    """The columns of an entry's table.

    Attributes:
        entry: its keys that are good.
        function: None where it names none, or none that exists.
        types: column -> Arrow type of the table; None for every one that is listed, where the table is not opened.
        lacking: column -> how many shards do not have it.
        is_opened: the types are those of the table.
        listed: what the entry asks for, in its order.
        loaded: what of that is there.
    """

    entry: Mapping[str, Any]
    function: Function | None
    types: Mapping[str, pa.DataType | None]
    lacking: Mapping[str, int] = field(default_factory=dict)
    is_opened: bool = True

    def __post_init__(self) -> None:
        self.listed = [str(name) for name in self.entry.get(COLUMNS, self.types)]
        self.loaded = tuple(name for name in dict.fromkeys(self.listed) if name in self.types)
        self.arguments: Mapping[str, Any] = self.entry.get(ARGUMENTS, {})

    def fits(self, read: Read) -> bool:
        """Whether the column that is read can hold what the function expects."""
        kind = self.types[read.column]
        return kind is None or fits(read.holds, kind)


def check_table_keys(entry: Mapping[str, Any], loaded: Collection[str] | None, notes: Notes) -> None:
    """Keys that say how a table is read; `loaded` is None where nobody knows its columns."""
    if IMAGE_ROOT in entry:
        has_image = loaded is not None and "image" in loaded
        effect = "it works for JSON lists only" + (": the rows fail" if has_image else "")
        note = notes.error if has_image else notes.warning
        note(f"{IMAGE_ROOT} on a parquet table", effect, "Remove it; use absolute paths, or s3_prefix.")
    if FUNCTION not in entry:
        note = notes.warning if loaded is None or "conversations" in loaded else notes.error
        note(
            f"a parquet table without {FUNCTION}",
            "its rows are taken for finished LLaVA samples",
            f"Name the {FUNCTION} that suits its columns.",
        )


def check_listed(this: Columns, notes: Notes) -> None:
    """What `columns` lists."""
    for column in dict.fromkeys(name for name in this.listed if name not in this.types):
        notes.error(
            f"columns lists {column!r}, which the table does not have{nearest(column, this.types)}",
            STOPS,
            "Mend or remove it.",
        )
    for column in dict.fromkeys(name for name in this.listed if this.listed.count(name) > 1):
        notes.warning(
            f"columns lists {column!r} twice",
            "the column is loaded twice and its rows are ambiguous",
            "List it once.",
        )
    for column in this.loaded:
        if column in this.lacking:
            notes.warning(
                f"{this.lacking[column]} shards lack the column {column!r}",
                "it reads as null in all their rows",
                "Make the table again, with the same columns in every shard.",
            )


def check_function_columns(this: Columns, notes: Notes) -> list[Read]:
    """The columns the function reads that are loaded and of a type it can take."""
    if this.function is None:
        reads = LLAVA_SAMPLE.reads_with({})
        return [
            read
            for read in reads
            if (read.nullable and read.column not in this.loaded) or (read.column in this.loaded and this.fits(read))
        ]
    good = []
    for read in this.function.reads_with(this.arguments):
        if this.is_opened and read.column not in this.types:
            notes.error(
                f"{this.function.name} reads {read.column!r}, which the table does not have"
                f"{nearest(read.column, this.types)}",
                "every row fails: the run stops at start-up",
                "Choose the function that suits the table, or make the column.",
            )
        elif read.column not in this.loaded:
            notes.error(
                f"{this.function.name} reads {read.column!r}, which is not listed in columns",
                "the column is not loaded, and every row fails: the run stops at start-up",
                f"Add {read.column} to columns.",
            )
        elif not this.fits(read):
            notes.error(
                f"{read.column} holds {this.types[read.column]}; {this.function.name} wants {read.holds.value}",
                "every row fails: the run stops at start-up",
                "Make the column again, of the right type.",
            )
        else:
            good.append(read)
    _check_what_else_is_used(this, this.function, notes)
    return good


def _check_what_else_is_used(this: Columns, function: Function, notes: Notes) -> None:
    alternatives = this.arguments.get("random_caption_keys")
    for column in alternatives if isinstance(alternatives, list) else []:
        if column not in this.loaded:
            notes.warning(
                f"random_caption_keys names {column!r}, which is not loaded",
                "rows for which it is drawn fail",
                "Add it to columns, or take it out.",
            )
    is_listed = COLUMNS in this.entry and PREFERENCE_SCORE in this.loaded
    if is_listed and PREFERENCE_SCORE not in function.uses_when_present:
        notes.warning(
            f"columns lists {PREFERENCE_SCORE}, which {function.name} does not use",
            "it takes memory in every training process and changes nothing",
            "Take it out of columns.",
        )


def find_cutoffs(this: Columns, notes: Notes) -> Cutoffs | None:
    """The filters the loader will run; None where it will stop on one of them."""
    errors_before = notes.error_count
    score = _score_cutoff(this, notes)
    if MIN_SIZE in this.entry:
        for column in (HEIGHT, WIDTH):
            if column not in this.loaded:
                notes.error(
                    f"{MIN_SIZE} is given, but {column} is not loaded",
                    "the loader filters by a column that is not there and stops",
                    f"Add {column} to columns, or remove {MIN_SIZE}.",
                )
            else:
                _check_comparable(this, column, notes)
    most = _max_images(this, notes)
    if notes.error_count > errors_before:
        return None
    return Cutoffs(score, this.entry.get(MIN_SIZE), most)


def _score_cutoff(this: Columns, notes: Notes) -> float | None:
    if AESTHETIC_SCORE not in this.loaded:
        if AES_CUTOFF in this.entry:
            notes.warning(
                f"{AES_CUTOFF} is given, but {AESTHETIC_SCORE} is not loaded",
                "no row is filtered by score",
                f"Add {AESTHETIC_SCORE} to columns, or remove {AES_CUTOFF}.",
            )
        return None
    _check_comparable(this, AESTHETIC_SCORE, notes)
    if AES_CUTOFF not in this.entry:
        notes.warning(
            f"{AESTHETIC_SCORE} is loaded without {AES_CUTOFF}",
            f"the loader drops every row that does not score above {DEFAULT_AES_CUTOFF:g}, its default",
            f"Write the {AES_CUTOFF} you mean (-100 keeps every row that has a score).",
        )
    return float(this.entry.get(AES_CUTOFF, DEFAULT_AES_CUTOFF))


def _check_comparable(this: Columns, column: str, notes: Notes) -> None:
    if this.types[column] is not None and not is_number(this.types[column]):
        notes.error(
            f"{column} holds {this.types[column]}, not numbers",
            "it cannot be compared with a cutoff: the loader stops",
            "Make the column again as numbers, or leave it out of columns.",
        )


def _max_images(this: Columns, notes: Notes) -> tuple[str, int] | None:
    wanted = this.entry.get(MAX_IMAGES)
    if wanted is None:
        return None
    column, most = wanted.get("column"), wanted.get("value")
    if not isinstance(column, str) or not isinstance(most, int) or isinstance(most, bool):
        notes.error(f"{MAX_IMAGES} is {wanted!r}", STOPS, "Write {column: NAME, value: NUMBER}.")
    elif column not in this.loaded:
        notes.error(f"{MAX_IMAGES} names {column!r}, which is not loaded", STOPS, f"Add {column} to columns.")
    elif this.types[column] is not None and not is_list(this.types[column]):
        notes.error(
            f"{MAX_IMAGES} names {column!r}, which holds {this.types[column]}, not lists",
            "it does not count images",
            "Name a list column.",
        )
    else:
        return column, most
    return None
