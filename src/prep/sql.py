"""DuckDB as every stage uses it: bounded memory, one thread a task, whole files or none."""

from __future__ import annotations

import csv
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb

from prep.engine import default_workers
from prep.errors import DataError
from prep.files import atomic_path, temporary_path

MAX_CSV_LINE = 50_000_000  # bytes
ROW_GROUP = "4MB"  # of parquet, or 122,880 rows: what is in memory at once, several times over
ARROW_ROWS = 4_096  # of a batch; by default it is a million
MIN_MEMORY = 256_000_000  # bytes for one task, where there is a choice: rather fewer tasks at once
TASK_KEY = "prep.task"  # in a parquet file's metadata: fingerprint of what the file was made from


def free_memory(proc: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that programs can still have: what the kernel says, or what is left of a container's limit.

    Where neither is told (no Linux), half of what the machine has.
    """
    try:
        free = next(line for line in proc.read_text().splitlines() if line.startswith("MemAvailable:"))
        available = int(free.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # no container, or one of the older sort
        return available
    left = available if limit == "max" else int(limit) - int(used) + int(stat.get("inactive_file", 0))
    return max(0, min(available, left))


def share_memory(tasks_at_once: int, total: int | None = None) -> tuple[int, int]:
    """How many tasks to run at once, and bytes of memory for each.

    Args:
        tasks_at_once: as many as there could be; they become fewer where each would have less than `MIN_MEMORY`.
        total: bytes for all of them; by default half of what is free.
    """
    total = free_memory() // 2 if total is None else total
    tasks_at_once = max(1, min(tasks_at_once, total // MIN_MEMORY))
    return tasks_at_once, total // tasks_at_once


@contextmanager
def connect(output: Path | None = None, memory: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection for one shard task.

    One thread, because tasks run side by side and one thread writes the same bytes every time. Join sides stay as
    written: the samples are streamed past the facts, so their order is kept. Statistics of parquet files are not
    trusted: they leave NaN out, and DuckDB then takes isnan(x) for false.

    Args:
        output: the shard being made; what does not fit into memory is spilled to a hidden folder beside it.
        memory: bytes that it may have; by default a worker's share of half of what is free.
    """
    spill = None if output is None else temporary_path(output, "spill")
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": f"{memory or max(MIN_MEMORY, free_memory() // 2 // default_workers())}B",
        "preserve_insertion_order": True,
        "disabled_optimizers": "join_order,build_side_probe_side,statistics_propagation",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "temp_directory": "" if spill is None else str(spill),
    }
    connection = duckdb.connect(config=config)
    try:
        # DuckDB takes a worker process for a person's session and would draw a bar on stdout, amid the data.
        connection.execute("SET enable_progress_bar = false")
        yield connection
    finally:
        connection.close()
        if spill is not None:
            shutil.rmtree(spill, ignore_errors=True)


def confine(connection: duckdb.DuckDBPyConnection, paths: Iterable[Path] | None = None) -> None:
    """From here on the connection changes no setting: `enable_logging()` in a subquery would write files.

    Called before SQL of a recipe or of a dataset is run, which may come from strangers.

    Args:
        paths: files, and folders, beside which none is read or written either; by default any may be read.
    """
    if paths is not None:
        names = {str(name) for path in paths for name in (path.absolute(), path.resolve())}  # a part may be a link
        names |= {_glob(path) for path in names}
        files, folders = (", ".join(text(name + end) for name in sorted(names)) for end in ("", "/"))
        connection.execute(f"SET allowed_paths = [{files}]; SET allowed_directories = [{folders}]")
        connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def text(value: str) -> str:
    """`value` as an SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def name(value: str) -> str:
    """`value` as an SQL identifier."""
    return '"' + value.replace('"', '""') + '"'


def parquet_files(paths: Iterable[Path]) -> str:
    """A table expression that reads exactly these parquet files, in this order."""
    return f"read_parquet({_files(paths)}, hive_partitioning = false)"


def completed(path: Path, whole: Path, on: str) -> str:
    """A table expression of the rows of one parquet file, with the columns that only another one has.

    Args:
        whole: has all rows; it is streamed, and its order is kept.
        on: the column whose value names a row in both.

    Raises:
        DataError: one of them is gone, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = []
    for file in (path, whole):
        try:
            columns.append(pq.read_schema(file).names)
        except FileNotFoundError as error:
            raise DataError(f"{file} is gone", "`prep run` makes it again.") from error
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file} cannot be read: {error}", "Remove it; `prep run` makes it again.") from error
    own = {column.lower() for column in columns[0]}
    more = "".join(f", whole.{name(column)}" for column in columns[1] if column.lower() not in own)
    return (
        f"(SELECT part.*{more} FROM {parquet_files([whole])} whole JOIN {parquet_files([path])} part "
        f"ON part.{name(on)} = whole.{name(on)})"
    )


def csv_file(path: Path) -> str:
    """A table expression that reads exactly this csv file, every column as the text that stands there.

    The first line is the header, and its commonest separator the file's. Nothing is guessed from the rows: a row
    with another number of fields is an error that names its line.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline(MAX_CSV_LINE)
        separator = max((",", ";", "\t", "|"), key=first.count)
        file.seek(0)
        header = next(csv.reader(file, delimiter=separator), [])
    names: list[str] = []
    for number, column in enumerate(header):
        is_taken = not column or column.lower() in (name.lower() for name in names)
        names.append(f"{column or 'column'}_{number}" if is_taken else column)
    columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in names or ["empty"])
    return (
        f"read_csv({_files([path])}, columns = {{{columns}}}, auto_detect = false, "
        f"header = true, delim = {text(separator)}, quote = '\"', escape = '\"', max_line_size = {MAX_CSV_LINE}, "
        "hive_partitioning = false)"
    )


def json_objects(path: Path, *, is_list: bool | None = None, max_object_bytes: int = MAX_CSV_LINE) -> str:
    """A table expression of exactly this file's objects as `json`.

    Args:
        is_list: the objects are those of one list; False: they stand one after the other; None: DuckDB finds out.
    """
    layout = "auto" if is_list is None else "array" if is_list else "unstructured"
    return f"read_json_objects({_files([path])}, format = '{layout}', maximum_object_size = {max_object_bytes})"


def json_file(path: Path, types: Mapping[str, str], *, is_list: bool, max_object_bytes: int) -> str:
    """A table expression that reads these keys of a file's objects, null where one lacks it.

    Args:
        is_list: the objects are those of one list; else they stand one after the other.
    """
    columns = ", ".join(f"{text(key)}: {text(type_)}" for key, type_ in types.items())
    layout = "array" if is_list else "unstructured"
    return (
        f"read_json({_files([path])}, columns = {{{columns}}}, format = '{layout}', records = true, "
        f"compression = 'uncompressed', maximum_object_size = {max_object_bytes}, hive_partitioning = false)"
    )


def _files(paths: Iterable[Path]) -> str:
    """Paths as an SQL list: DuckDB takes each for a glob, and (unless told not to) a folder `x=1` for a column."""
    return f"[{', '.join(text(_glob(str(path))) for path in paths)}]"


def _glob(path: str) -> str:
    """The pattern that this path alone matches."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _full(error: duckdb.Error) -> int | None:
    """The number of the system's error where there is no room: DuckDB passes on its text alone."""
    return next((n for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if os.strerror(n) in str(error)), None)


def is_of_machine(error: duckdb.Error) -> bool:
    """Whether there was no memory or no room, which says nothing of the query or the data."""
    return isinstance(error, duckdb.OutOfMemoryException) or _full(error) is not None


@contextmanager
def data_errors(about: str, next_step: str = "") -> Iterator[None]:
    """Turn DuckDB's errors into a DataError about `about`; a full disk, quota or file stays an OSError."""
    try:
        yield
    except duckdb.Error as error:
        message = str(error).split("\nPossible fixes")[0].strip()
        if (full := _full(error)) is not None:
            raise OSError(full, os.strerror(full), about) from error
        if isinstance(error, duckdb.OutOfMemoryException):
            next_step = (
                "Close other programs, set fewer `workers` in prep.yaml, or give more: `prep filter --memory 8GB`."
            )
        raise DataError(f"{about}: {message}", next_step) from error


def copy_to_parquet(
    connection: duckdb.DuckDBPyConnection, query: str, target: Path, metadata: Mapping[str, str], level: int = 3
) -> int:
    """Write the rows of `query` to the parquet file `target`, whole or not at all; the number of rows.

    After an error the connection is to be closed: until then one of DuckDB's threads may still remove the half file,
    under a name that the next attempt uses again.

    Args:
        level: of zstd's compression; 1 takes two thirds of the time, and some per cent more room.
    """
    pairs = ", ".join(f"{name(key)}: {text(value)}" for key, value in metadata.items())
    with atomic_path(target) as temporary:
        result = connection.execute(
            f"COPY ({query}) TO {text(str(temporary))} (FORMAT parquet, COMPRESSION zstd, "
            f"COMPRESSION_LEVEL {level}, ROW_GROUP_SIZE_BYTES '{ROW_GROUP}', KV_METADATA {{{pairs}}})"
        ).fetchall()
    return int(result[0][0])


def write_with_nulls(
    connection: duckdb.DuckDBPyConnection, query: str, target: Path, metadata: Mapping[str, str]
) -> int:
    """The same; a column of nothing but NULL gets Arrow's null type, which DuckDB itself writes as integers."""
    import pyarrow.parquet as pq

    rows = 0
    reader = connection.sql(query).to_arrow_reader(ARROW_ROWS)
    schema = reader.schema.with_metadata(dict(metadata))
    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in reader:
            rows += batch.num_rows
            writer.write_batch(batch.replace_schema_metadata(dict(metadata)))
    return rows
