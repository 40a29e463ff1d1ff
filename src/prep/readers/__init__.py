"""Records out of parts, whatever the publisher's format, as a DuckDB relation called `records`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import duckdb
import pyarrow as pa

from prep import sql
from prep.config import Records, S3Source
from prep.datasets import SizeOf
from prep.errors import DataError, PrepError

_LACKING = r'olumn "(.+)" (?:not found in FROM|referenced that exists in the SELECT)'


@contextmanager
def open_records(
    connection: duckdb.DuckDBPyConnection,
    records: Records,
    part: Path,
    size_of: SizeOf,
    in_place: tuple[S3Source, Callable[[str], bool]] | None = None,
) -> Iterator[None]:
    """Make the records of one part the view `records`, its columns under their canonical names.

    Args:
        size_of: width and height of an image, for datasets whose annotations need them.
        in_place: where the part stands for an object that stays on S3: how that is reached, and which of its columns
            are needed.

    Raises:
        DataError: the part is not the format it is said to be, or lacks a column (the message lists those it has),
            also one that the SQL of the caller's names.
    """
    raised: list[PrepError] = []  # inside DuckDB's scan an exception would lose its type
    damaged = f"Delete {part} and run `prep download` again; if it stays so, the publisher changed its format."
    wrong_format = f"{part}: not the {records.format} it should be"
    if in_place is not None:
        damaged = "Remove `in_place: true` from the dataset's source; its parts are then downloaded."
        wrong_format = f"{part}: what it stands for cannot be read in place"
    with sql.data_errors(wrong_format, damaged):
        if in_place is not None:
            from prep.readers.in_place import open_object

            connection.register("published", _told(*open_object(part, *in_place), raised))
        elif records.format == "parquet":
            connection.execute(f"CREATE VIEW published AS SELECT * FROM {sql.parquet_files([part])}")
        elif records.format == "csv":
            connection.execute(f"CREATE VIEW published AS SELECT * FROM {sql.csv_file(part)}")
        else:
            connection.register("published", _arrow_reader(records, part, size_of, raised))
        columns = [row[0] for row in connection.execute("DESCRIBE published").fetchall()]
    names = ", ".join(_canonical(records, columns, part))
    connection.execute(f"CREATE VIEW records AS SELECT {names} FROM published")
    try:
        yield
    except (duckdb.Error, DataError) as error:
        if raised:
            raise raised[0] from error
        if records.format == "csv" and isinstance(error, duckdb.InvalidInputException):  # met while it is read
            with sql.data_errors(wrong_format, damaged):
                raise
        _check_column(error, columns, part)
        raise


def _check_column(error: Exception, columns: Iterable[str], part: Path) -> None:
    """Tell of a column that the part lacks, where that is what DuckDB says, which speaks of its own query."""
    named = isinstance(error, duckdb.BinderException) and re.search(_LACKING, str(error))
    if named and named[1].replace('""', '"').lower() not in {column.lower() for column in columns}:
        found = ", ".join(columns)
        raise DataError(
            f"{part} has no column {named[1]!r}, which the dataset's YAML names; those read of it: {found}",
            "Mend the dataset's YAML; or make a dataset of its own of files that have other columns.",
        ) from error


def _canonical(records: Records, columns: list[str], part: Path) -> list[str]:
    """SQL of every column, renamed where the dataset's YAML knows it under other names."""
    published = {column.lower(): column for column in columns}
    chosen: dict[str, str] = {}
    for canonical, aliases in records.columns.items():
        found = next((published[alias.lower()] for alias in aliases if alias.lower() in published), None)
        if found is not None:
            chosen[canonical] = sql.name(found)
        elif canonical in records.optional:
            chosen[canonical] = "NULL"
        else:
            raise DataError(
                f"{part}: no column for {canonical!r} (any of {', '.join(aliases)}); it has: {', '.join(columns)}",
                "Write the column's name here into the dataset's YAML, under records.columns.",
            )
    taken = {expression.strip('"').lower() for expression in chosen.values()} | {name.lower() for name in chosen}
    own = [sql.name(column) for column in columns if column and column.lower() not in taken]  # SQL cannot say ""
    return [f"{expression} AS {sql.name(name)}" for name, expression in chosen.items()] + own


def _arrow_reader(records: Records, part: Path, size_of: SizeOf, raised: list[PrepError]) -> pa.RecordBatchReader:
    """The batches of a reader in `prep.readers` or a function in `prep.datasets`, with the first one's schema."""
    if records.function is not None:
        module, _, name = records.function.partition(".")
        batches = getattr(import_module(f"prep.datasets.{module}"), name)(part, size_of, **records.arguments)
    else:
        fields = (records.fields,) if records.format == "json" else ()
        batches = import_module(f"prep.readers.{records.format}").read(part, *fields)
    first = next(batches, None)
    if first is None:
        raise DataError(f"{part} has no records", "Is the download whole? `prep download --force` brings it anew.")

    def all_() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    return _told(first.schema, all_(), raised)


def _told(schema: pa.Schema, batches: Iterator[pa.RecordBatch], raised: list[PrepError]) -> pa.RecordBatchReader:
    """A reader of the batches; the error that ends them is kept in `raised`."""

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except PrepError as error:
            raised.append(error)
            raise

    return pa.RecordBatchReader.from_batches(schema, watched())
