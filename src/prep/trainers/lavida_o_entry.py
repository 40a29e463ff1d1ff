"""What LaViDa-O's loader does with one entry of the training YAML, found out without training.

An entry is looked at from the outside in: its keys, its data file, its columns, its cutoffs and sampling, and then
(in `lavida_o_rows`) its rows and images. Where one of these cannot be got past, the later ones are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from prep.config import nearest
from prep.errors import ConfigError, DataError
from prep.schema import AESTHETIC_SCORE, HEIGHT, WIDTH
from prep.trainers.findings import Finding, Notes
from prep.trainers.lavida_o import (
    AES_CUTOFF,
    ARGUMENTS,
    COLUMNS,
    DATA_PATH,
    DEFAULT_AES_CUTOFF,
    DEFAULT_GROUP,
    DEFAULT_SAMPLING,
    ENTRY_KEYS,
    FUNCTION,
    FUNCTIONS,
    GROUP,
    IMAGE_ROOT,
    LLAVA_SAMPLE,
    MAX_IMAGES,
    MIN_SIZE,
    SAMPLING,
    SUFFIXES,
    Function,
    Read,
    Sampling,
    parse_sampling,
)
from prep.trainers.lavida_o_rows import FirstSample, ImageChoice, JsonList, look_at_list, look_at_table
from prep.trainers.lavida_o_table import (
    Cutoffs,
    ParquetTable,
    fits,
    is_list,
    is_number,
    kept_rows,
    sampled_positions,
)

STOPS = "the loader stops at start-up"
IGNORED = "the loader passes over it and says nothing"
_TABLE_KEYS = (COLUMNS, AES_CUTOFF, MIN_SIZE, MAX_IMAGES)
_KEY_TYPES: dict[str, tuple[type, ...]] = {
    DATA_PATH: (str,), COLUMNS: (list,), SAMPLING: (str,), FUNCTION: (str,), ARGUMENTS: (dict,), GROUP: (str,),
    AES_CUTOFF: (int, float), MIN_SIZE: (int, float), MAX_IMAGES: (dict,), IMAGE_ROOT: (str,),
}  # fmt: skip
_TYPE_WORDS = {str: "text", list: "a list", dict: "a mapping", int: "a number"}


@dataclass
class EntryReport:
    """What the loader makes of one entry; None where something in the way kept it from being known.

    Attributes:
        name: the entry's name, with its line where the name alone does not tell it apart.
        group: its length group.
        path: its data file as the YAML has it.
        columns: columns that are loaded (for a JSON list, the keys of its first row).
        rows_in_file, rows_after_cutoffs, rows_after_sampling: rows left at each step.
        distinct_rows: rows after sampling without the copies that `dup` makes.
        memory_bytes: the whole file's loaded columns in memory, in every training process, before any cutoff.
        memory_is_estimate: measured on a sample of row groups.
        images_opened: images that were opened here.
        first: its first sample.
        share: probability that a sample is drawn from it, 0 to 1 (before batch factors).
        seen: how often each of its rows is expected to be drawn; the copies of `dup` count as one row.
    """

    name: str
    group: str
    path: str
    columns: tuple[str, ...] = ()
    rows_in_file: int | None = None
    rows_after_cutoffs: int | None = None
    rows_after_sampling: int | None = None
    distinct_rows: int | None = None
    memory_bytes: int | None = None
    memory_is_estimate: bool = False
    images_opened: int = 0
    first: FirstSample | None = None
    share: float | None = None
    seen: float | None = None


def check_entry(entry: Mapping[str, Any], label: str, images: ImageChoice) -> tuple[EntryReport, list[Finding]]:
    """Find out what the loader does with `entry`, called `label` in what is found."""
    notes = Notes(label)
    entry = _checked_keys(entry, notes)
    report = EntryReport(label, entry.get(GROUP, DEFAULT_GROUP), str(entry.get(DATA_PATH, "")))
    path = _data_path(entry, notes)
    sampling = _sampling(entry, notes)
    function = _function(entry, notes)
    try:
        if path is not None and path.suffix == ".parquet":
            _check_table(_Table(ParquetTable(path), entry, function, sampling), images, report, notes)
        elif path is not None:
            _check_list(JsonList(path), entry, function or LLAVA_SAMPLE, sampling, images, report, notes)
    except DataError as error:
        notes.error(error.message, STOPS, "Make the file again, or take what does not belong out of its folder.")
    return report, notes.findings


# -- keys ----------------------------------------------------------------------------------------------------


def _checked_keys(entry: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """The keys of `entry` that the loader knows and that hold what they should."""
    good = {}
    for key, value in entry.items():
        wanted = _KEY_TYPES.get(key)
        if key not in ENTRY_KEYS:
            notes.warning(f"the key {key!r} is unknown{nearest(key, ENTRY_KEYS)}", IGNORED, "Mend or remove it.")
        elif wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
            has = "has no value" if value is None else f"is {value!r}"
            notes.error(f"{key} {has}; it must be {_TYPE_WORDS[wanted[0]]}", STOPS, "Mend it or remove the key.")
        else:
            good[key] = value
    return good


def _data_path(entry: Mapping[str, Any], notes: Notes) -> Path | None:
    """The data file, where there is one that can be looked into."""
    if DATA_PATH not in entry:
        notes.error(f"{DATA_PATH} is missing", STOPS, "Add the absolute path of the data file.")
        return None
    text: str = entry[DATA_PATH]
    if not text.endswith(SUFFIXES):
        also = " (the trainer's guide says csv works; it does not)" if text.endswith(".csv") else ""
        notes.error(
            f"{DATA_PATH} {text!r} ends in none of {', '.join(SUFFIXES)}{also}", STOPS, "Convert it to parquet."
        )
        return None
    path = Path(text)
    if "://" in text:
        notes.warning(
            f"{DATA_PATH} {text!r} is an address, which was not looked into",
            "it is handed to pandas, which needs a file system module for it",
            "Keep the table on a disk that every training process sees.",
        )
        return None
    if not path.is_absolute():
        notes.warning(
            f"{DATA_PATH} {text!r} is relative",
            "it is found only when training is started in the same folder as this check",
            "Write the absolute path.",
        )
    if not path.exists():
        notes.error(f"{DATA_PATH} {text!r} is not there", STOPS, "Mend the path, or make the file.")
        return None
    if path.is_dir() and path.suffix != ".parquet":
        notes.error(f"{DATA_PATH} {text!r} is a folder", STOPS, "Name the JSON file itself.")
        return None
    return path


def _sampling(entry: Mapping[str, Any], notes: Notes) -> Sampling:
    strategy = entry.get(SAMPLING, DEFAULT_SAMPLING)
    try:
        sampling = parse_sampling(strategy)
    except ConfigError as error:
        notes.error(error.message, STOPS, error.next_step)
        return Sampling("all")
    if not sampling.is_understood:
        notes.warning(
            f"{SAMPLING} {strategy!r} is not understood",
            "the loader takes all rows",
            "Write all, first:N, end:N, random:N or dup:N.",
        )
    if sampling.word in ("random", "dup") and not _is_table(entry):
        notes.error(
            f"{SAMPLING} {strategy!r} on a JSON list",
            "random and dup work on parquet only: the loader stops at start-up",
            "Convert the list to parquet, or use first:N or end:N.",
        )
        return Sampling("all")
    return sampling


def _is_table(entry: Mapping[str, Any]) -> bool:
    return str(entry.get(DATA_PATH, "")).endswith(".parquet")


def _function(entry: Mapping[str, Any], notes: Notes) -> Function | None:
    """The entry's function; None where it names none, or none that exists."""
    name, arguments = entry.get(FUNCTION), entry.get(ARGUMENTS, {})
    if name is None:
        if arguments:
            notes.warning(f"{ARGUMENTS} without {FUNCTION}", IGNORED, f"Name a {FUNCTION}, or remove them.")
        return None
    function = FUNCTIONS.get(name)
    if function is None:
        notes.error(
            f"{FUNCTION} {name!r} is unknown{nearest(name, FUNCTIONS)}",
            STOPS,
            "Copy the trainer's spelling; eight of its names begin with preproces_, with one s.",
        )
        return None
    for argument, value in arguments.items():
        _check_argument(function, argument, value, notes)
    return function


def _check_argument(function: Function, argument: str, value: Any, notes: Notes) -> None:
    if argument not in function.arguments:
        notes.warning(
            f"{function.name} is not known to take {argument!r}{nearest(argument, function.arguments)}",
            "the function passes over it, or fails on every row",
            f"It takes: {', '.join(function.arguments) or 'none'}.",
        )
    elif argument in function.choices and value not in function.choices[argument]:
        notes.error(
            f"{argument} is {value!r}{nearest(str(value), function.choices[argument])}",
            "the function knows no such value",
            f"Write one of: {', '.join(function.choices[argument])}.",
        )
    elif (argument in function.prefix_arguments or argument == "caption_key") and not isinstance(value, str):
        notes.error(f"{argument} is {value!r}; it must be text", "every row fails: the run stops", "Mend it.")


# -- tables --------------------------------------------------------------------------------------------------


@dataclass
class _Table:
    """An entry over a parquet table, with what the loader would load of it."""

    table: ParquetTable
    entry: Mapping[str, Any]
    function: Function | None
    sampling: Sampling

    def __post_init__(self) -> None:
        self.listed = [str(name) for name in self.entry.get(COLUMNS, self.table.columns)]
        self.loaded = tuple(name for name in dict.fromkeys(self.listed) if name in self.table.columns)
        self.arguments: Mapping[str, Any] = self.entry.get(ARGUMENTS, {})

    def type_of(self, column: str) -> pa.DataType:
        return self.table.columns[column]


def _check_table(this: _Table, images: ImageChoice, report: EntryReport, notes: Notes) -> None:
    report.rows_in_file, report.columns = this.table.rows, this.loaded
    _check_listed(this, notes)
    reads = _check_function_columns(this, notes)
    cutoffs = _cutoffs(this, notes)
    report.memory_bytes, report.memory_is_estimate = this.table.memory(this.loaded)
    if cutoffs is None:
        return
    kept = kept_rows(this.table, cutoffs)
    report.rows_after_cutoffs = len(kept.positions)
    _check_filter_nulls(this, kept.nulls, notes)
    if not len(kept.positions):
        notes.error(
            f"no row is left of {this.table.rows:,} after the cutoffs",
            "the first sample of every entry is read at start-up: the run stops there",
            "Lower the cutoffs, or remove the entry.",
        )
        return
    try:
        sampled = sampled_positions(this.sampling, kept.positions)
    except DataError as error:
        notes.error(error.message, STOPS, f"Ask for at most {len(kept.positions):,}, or use first:N or all.")
        return
    report.rows_after_sampling = this.sampling.rows(len(kept.positions))
    report.distinct_rows = len(sampled)
    if this.function is None and FUNCTION in this.entry:
        return
    function = this.function or LLAVA_SAMPLE
    unreadable = [read for read in function.reads_with(this.arguments) if read not in reads]
    if not unreadable:
        looked = look_at_table(this.table, function, this.arguments, this.loaded, sampled, images, notes)
        report.first, report.images_opened = looked.first, looked.images_opened


def _check_listed(this: _Table, notes: Notes) -> None:
    """`columns` and the other keys that say how the table is loaded."""
    for column in dict.fromkeys(name for name in this.listed if name not in this.table.columns):
        notes.error(
            f"columns lists {column!r}, which the table does not have{nearest(column, this.table.columns)}",
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
        if column in this.table.lacking:
            notes.warning(
                f"{this.table.lacking[column]} shards lack the column {column!r}",
                "it reads as null in all their rows",
                "Make the table again, with the same columns in every shard.",
            )
    if IMAGE_ROOT in this.entry:
        effect = "it works for JSON lists only" + (": the rows fail" if "image" in this.loaded else "")
        note = notes.error if "image" in this.loaded else notes.warning
        note(f"{IMAGE_ROOT} on a parquet table", effect, "Remove it; use absolute paths, or s3_prefix.")
    if FUNCTION not in this.entry:
        note = notes.warning if "conversations" in this.loaded else notes.error
        note(
            f"a parquet table without {FUNCTION}",
            "its rows are taken for finished LLaVA samples",
            f"Name the {FUNCTION} that suits its columns.",
        )


def _check_function_columns(this: _Table, notes: Notes) -> list[Read]:
    """The columns the function reads that are loaded and of a type it can take."""
    if this.function is None:
        reads = LLAVA_SAMPLE.reads_with({})
        return [
            read
            for read in reads
            if (read.nullable and read.column not in this.loaded)
            or (read.column in this.loaded and fits(read.holds, this.type_of(read.column)))
        ]
    good = []
    for read in this.function.reads_with(this.arguments):
        if read.column not in this.table.columns:
            notes.error(
                f"{this.function.name} reads {read.column!r}, which the table does not have"
                f"{nearest(read.column, this.table.columns)}",
                "every row fails: the run stops at start-up",
                "Choose the function that suits the table, or make the column.",
            )
        elif read.column not in this.loaded:
            notes.error(
                f"{this.function.name} reads {read.column!r}, which is not listed in columns",
                "the column is not loaded, and every row fails: the run stops at start-up",
                f"Add {read.column} to columns.",
            )
        elif not fits(read.holds, this.type_of(read.column)):
            notes.error(
                f"{read.column} holds {this.type_of(read.column)}; {this.function.name} wants {read.holds.value}",
                "every row fails: the run stops at start-up",
                "Make the column again, of the right type.",
            )
        else:
            good.append(read)
    alternatives = this.arguments.get("random_caption_keys")
    for column in alternatives if isinstance(alternatives, list) else []:
        if column not in this.loaded:
            notes.warning(
                f"random_caption_keys names {column!r}, which is not loaded",
                "rows for which it is drawn fail",
                "Add it to columns, or take it out.",
            )
    return good


def _cutoffs(this: _Table, notes: Notes) -> Cutoffs | None:
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


def _score_cutoff(this: _Table, notes: Notes) -> float | None:
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


def _check_comparable(this: _Table, column: str, notes: Notes) -> None:
    if not is_number(this.type_of(column)):
        notes.error(
            f"{column} holds {this.type_of(column)}, not numbers",
            "it cannot be compared with a cutoff: the loader stops",
            "Make the column again as numbers, or leave it out of columns.",
        )


def _max_images(this: _Table, notes: Notes) -> tuple[str, int] | None:
    wanted = this.entry.get(MAX_IMAGES)
    if wanted is None:
        return None
    column, most = wanted.get("column"), wanted.get("value")
    if not isinstance(column, str) or not isinstance(most, int) or isinstance(most, bool):
        notes.error(f"{MAX_IMAGES} is {wanted!r}", STOPS, "Write {column: NAME, value: NUMBER}.")
    elif column not in this.loaded:
        notes.error(f"{MAX_IMAGES} names {column!r}, which is not loaded", STOPS, f"Add {column} to columns.")
    elif not is_list(this.type_of(column)):
        notes.error(
            f"{MAX_IMAGES} names {column!r}, which holds {this.type_of(column)}, not lists",
            "it does not count images",
            "Name a list column.",
        )
    else:
        return column, most
    return None


def _check_filter_nulls(this: _Table, nulls: Mapping[str, int], notes: Notes) -> None:
    for column in (AESTHETIC_SCORE, HEIGHT, WIDTH):
        missing = nulls.get(column, 0)
        if missing and missing == this.table.rows:
            notes.error(
                f"{column} is null in every row", "every row is dropped", f"Fill it, or leave {column} out of columns."
            )
        elif missing:
            notes.warning(
                f"{column} is null in {missing:,} of {this.table.rows:,} rows",
                "these rows are dropped",
                "Fill it, or leave such rows out of the table.",
            )


# -- lists ---------------------------------------------------------------------------------------------------


def _check_list(
    rows: JsonList,
    entry: Mapping[str, Any],
    function: Function,
    sampling: Sampling,
    images: ImageChoice,
    report: EntryReport,
    notes: Notes,
) -> None:
    """A JSON or JSONL list of LLaVA samples; the loader filters and projects tables only."""
    for key in _TABLE_KEYS:
        if key in entry:
            notes.warning(f"{key} on a JSON list", "it is for parquet tables and does nothing", "Remove it.")
    arguments = {IMAGE_ROOT: entry[IMAGE_ROOT]} if IMAGE_ROOT in entry else {}
    arguments |= entry.get(ARGUMENTS, {})
    facts = rows.measure()
    report.rows_in_file = report.rows_after_cutoffs = facts.rows
    report.columns, report.memory_bytes, report.memory_is_estimate = facts.keys, facts.memory_bytes, facts.is_estimate
    if not facts.rows:
        notes.error(
            "the list is empty",
            "the first sample of every entry is read at start-up: the run stops there",
            "Remove the entry.",
        )
        return
    count = sampling.rows(facts.rows)
    report.rows_after_sampling = report.distinct_rows = count
    start = facts.rows - count if sampling.word == "end" else 0
    looked = look_at_list(rows, function, arguments, range(start, start + count), images, notes)
    report.first, report.images_opened = looked.first, looked.images_opened
