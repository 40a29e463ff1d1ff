"""What LaViDa-O's loader does with one entry of the training YAML, found out without training.

An entry is looked at from the outside in: its keys, its data file, its columns (in `lavida_o_columns`), its cutoffs and
sampling, and then (in `lavida_o_rows`) its rows and images. Where one of these cannot be got past, the later ones are
left out. It can also be looked at without its file, for what the keys alone tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.config import nearest
from prep.errors import ConfigError, DataError
from prep.schema import AESTHETIC_SCORE, HEIGHT, WIDTH
from prep.trainers.findings import IGNORED, STOPS, Finding, Notes
from prep.trainers.lavida_o import (
    AES_CUTOFF,
    ARGUMENTS,
    COLUMNS,
    DATA_PATH,
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
    PRIVATE_READER,
    PRIVATE_SCHEME,
    S3_SCHEME,
    SAMPLING,
    SUFFIXES,
    Function,
    Holds,
    Sampling,
    parse_sampling,
)
from prep.trainers.lavida_o_columns import (
    Columns,
    check_function_columns,
    check_listed,
    check_table_keys,
    find_cutoffs,
)
from prep.trainers.lavida_o_rows import FirstSample, ImageChoice, JsonList, look_at_list, look_at_table
from prep.trainers.lavida_o_table import ParquetTable, kept_rows, sampled_positions

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


def check_entry(
    entry: Mapping[str, Any], label: str, images: ImageChoice, *, files: bool = True
) -> tuple[EntryReport, list[Finding]]:
    """Find out what the loader does with `entry`, called `label` in what is found; its file is opened if `files`."""
    notes = Notes(label)
    entry = _checked_keys(entry, notes)
    report = EntryReport(label, entry.get(GROUP, DEFAULT_GROUP), str(entry.get(DATA_PATH, "")))
    is_local = _check_data_path(entry, notes, files=files)
    path = _data_file(entry, notes) if is_local and files else None
    sampling = _sampling(entry, notes)
    function = _function(entry, notes)
    if not files:
        _check_unopened(entry, function, report, notes)
    try:
        if path is not None and path.suffix == ".parquet":
            _check_table(ParquetTable(path), entry, function, sampling, images, report, notes)
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


def _check_data_path(entry: Mapping[str, Any], notes: Notes, *, files: bool) -> bool:
    """Whether its data path is one that a file can be at here."""
    if DATA_PATH not in entry:
        notes.error(f"{DATA_PATH} is missing", STOPS, "Add the absolute path of the data file.")
        return False
    text: str = entry[DATA_PATH]
    if not text.endswith(SUFFIXES):
        also = " (the trainer's guide says csv works; it does not)" if text.endswith(".csv") else ""
        notes.error(
            f"{DATA_PATH} {text!r} ends in none of {', '.join(SUFFIXES)}{also}", STOPS, "Convert it to parquet."
        )
        return False
    scheme, is_address, _ = text.partition("://")
    if is_address:
        notes.warning(
            f"{DATA_PATH} {text!r} is an address, which was not looked into"
            if files
            else f"{DATA_PATH} is an address ({scheme}://)",
            "it is handed to pandas, which needs a file system module for it",
            "Keep the table on a disk that every training process sees.",
        )
        return False
    if not Path(text).is_absolute():
        notes.warning(
            f"{DATA_PATH} {text!r} is relative",
            "it is found only when training is started in the same folder as this check",
            "Write the absolute path.",
        )
    return True


def _data_file(entry: Mapping[str, Any], notes: Notes) -> Path | None:
    """The data file, where there is one that can be looked into."""
    text: str = entry[DATA_PATH]
    path = Path(text)
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


# -- without the file ----------------------------------------------------------------------------------------


def _check_unopened(entry: Mapping[str, Any], function: Function | None, report: EntryReport, notes: Notes) -> None:
    """What its keys tell of its columns and images; a file that is no JSON list is taken for a table."""
    arguments = entry.get(ARGUMENTS, {})
    if str(entry.get(DATA_PATH, "")).endswith((".json", ".jsonl")):
        _check_list_keys(entry, notes)
        arguments = _list_arguments(entry)
        function = function or LLAVA_SAMPLE
    elif COLUMNS in entry:
        types = {str(name): None for name in entry[COLUMNS]}
        this = Columns(entry, function, types, is_opened=False)
        report.columns = this.loaded
        check_listed(this, notes)
        check_table_keys(entry, this.loaded, notes)
        check_function_columns(this, notes)
        find_cutoffs(this, notes)
    else:
        check_table_keys(entry, None, notes)
    if function is not None:
        _check_where_images_are(function, arguments, notes)


def _check_where_images_are(function: Function, arguments: Mapping[str, Any], notes: Notes) -> None:
    """The prefixes of its image paths, and whether it looks for images where only the authors have them."""
    reads = function.reads_with(arguments)
    if any(read.holds is Holds.PRIVATE_HASH for read in reads):
        notes.warning(
            f"{function.name} opens images in the authors' private store",
            f"it needs their module {PRIVATE_READER}: where training cannot import it, the run stops",
            "Use preproces_text_to_image_generation_s3 on a table with s3_path; caption_key names its caption column.",
        )
    for argument in dict.fromkeys(read.prefix for read in reads if read.prefix):
        prefix = arguments.get(argument)
        if not isinstance(prefix, str) or not prefix:
            continue
        if prefix.startswith((S3_SCHEME, PRIVATE_SCHEME)):
            notes.warning(
                f"{argument} is an address ({prefix.partition('://')[0]}://)",
                f"images are opened with a module named {PRIVATE_READER}: where training cannot import it, the run"
                " stops",
                "Name the folder that has the images, with its whole path.",
            )
        elif not Path(prefix).is_absolute():
            notes.warning(
                f"{argument} is {prefix!r}, a relative path",
                "images are opened relative to the folder that training is started in",
                "Write the absolute path.",
            )


# -- tables --------------------------------------------------------------------------------------------------


def _check_table(
    table: ParquetTable,
    entry: Mapping[str, Any],
    function: Function | None,
    sampling: Sampling,
    images: ImageChoice,
    report: EntryReport,
    notes: Notes,
) -> None:
    this = Columns(entry, function, table.columns, table.lacking)
    report.rows_in_file, report.columns = table.rows, this.loaded
    check_listed(this, notes)
    check_table_keys(entry, this.loaded, notes)
    reads = check_function_columns(this, notes)
    cutoffs = find_cutoffs(this, notes)
    report.memory_bytes, report.memory_is_estimate = table.memory(this.loaded)
    if cutoffs is None:
        return
    kept = kept_rows(table, cutoffs)
    report.rows_after_cutoffs = len(kept.positions)
    _check_filter_nulls(table.rows, kept.nulls, notes)
    if not len(kept.positions):
        notes.error(
            f"no row is left of {table.rows:,} after the cutoffs",
            "the first sample of every entry is read at start-up: the run stops there",
            "Lower the cutoffs, or remove the entry.",
        )
        return
    try:
        sampled = sampled_positions(sampling, kept.positions)
    except DataError as error:
        notes.error(error.message, STOPS, f"Ask for at most {len(kept.positions):,}, or use first:N or all.")
        return
    report.rows_after_sampling = sampling.rows(len(kept.positions))
    report.distinct_rows = len(sampled)
    if function is None and FUNCTION in entry:
        return
    function = function or LLAVA_SAMPLE
    unreadable = [read for read in function.reads_with(this.arguments) if read not in reads]
    if not unreadable:
        looked = look_at_table(table, function, this.arguments, this.loaded, sampled, images, notes)
        report.first, report.images_opened = looked.first, looked.images_opened


def _check_filter_nulls(rows: int, nulls: Mapping[str, int], notes: Notes) -> None:
    for column in (AESTHETIC_SCORE, HEIGHT, WIDTH):
        missing = nulls.get(column, 0)
        if missing and missing == rows:
            notes.error(
                f"{column} is null in every row", "every row is dropped", f"Fill it, or leave {column} out of columns."
            )
        elif missing:
            notes.warning(
                f"{column} is null in {missing:,} of {rows:,} rows",
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
    """A JSON or JSONL list of LLaVA samples."""
    _check_list_keys(entry, notes)
    arguments = _list_arguments(entry)
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


def _check_list_keys(entry: Mapping[str, Any], notes: Notes) -> None:
    """The loader filters and projects tables only."""
    for key in _TABLE_KEYS:
        if key in entry:
            notes.warning(f"{key} on a JSON list", "it is for parquet tables and does nothing", "Remove it.")


def _list_arguments(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The function's arguments, with the folder that is put before a list's images."""
    own = {IMAGE_ROOT: entry[IMAGE_ROOT]} if IMAGE_ROOT in entry else {}
    return {**own, **entry.get(ARGUMENTS, {})}
