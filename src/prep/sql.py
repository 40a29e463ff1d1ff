"""DuckDB as every stage uses it: bounded memory, one thread a task, whole files or none."""

from __future__ import annotations

import csv
import errno
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb

from prep.engine import default_workers
from prep.errors import DataError
from prep.files import atomic_path

MAX_CSV_LINE = 50_000_000  # bytes
ROW_GROUP = "4MB"  # of parquet, or 122,880 rows: what is in memory at once, several times over
ARROW_ROWS = 4_096  # of a batch; by default it is a million
TASK_KEY = "prep.task"  # in a parquet file's metadata: fingerprint of what the file was made from


@contextmanager
def connect(output: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection for one shard task.

    One thread, because tasks run side by side and one thread writes the same bytes every time; this task's share
    of half the memory. Join sides stay as written: the samples are streamed past the facts, so their order is kept.
    Statistics of parquet files are not trusted: they leave NaN out, and DuckDB then takes isnan(x) for false.

    Args:
        output: the shard being made; what does not fit into memory is spilled to a hidden folder beside it.
    """
    spill = None if output is None else output.with_name(f".{output.name}.spill")
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": f"{max(5, 50 // default_workers())}%",
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


def text(value: str) -> str:
    """`value` as an SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def name(value: str) -> str:
    """`value` as an SQL identifier."""
    return '"' + value.replace('"', '""') + '"'


def parquet_files(paths: Iterable[Path]) -> str:
    """A table expression that reads exactly these parquet files, in this order."""
    return f"read_parquet({_files(paths)}, hive_partitioning = false)"


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
    globs = (re.sub(r"([*?[])", r"[\1]", str(path)) for path in paths)
    return f"[{', '.join(text(glob) for glob in globs)}]"


@contextmanager
def data_errors(about: str, next_step: str = "") -> Iterator[None]:
    """Turn DuckDB's errors into a DataError about `about`; a full disk stays an OSError."""
    try:
        yield
    except duckdb.Error as error:
        message = str(error).split("\nPossible fixes")[0].strip()
        if "No space left" in message:
            raise OSError(errno.ENOSPC, "No space left on device", about) from error
        raise DataError(f"{about}: {message}", next_step) from error


def copy_to_parquet(
    connection: duckdb.DuckDBPyConnection, query: str, target: Path, metadata: Mapping[str, str], level: int = 3
) -> int:
    """Write the rows of `query` to the parquet file `target`, whole or not at all; the number of rows.

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
