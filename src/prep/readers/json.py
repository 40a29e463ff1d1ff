"""JSON records: a list of objects, or objects one after the other, each on a line, on several or many on one.

DuckDB reads a part for as long as all of it is JSON: a gigabyte a second in bounded memory. From where it stops, the
part is split into objects here and DuckDB is given each alone, so that one that is broken costs one row. What an object
holds is thus DuckDB's to say on both ways: keys match exactly, of a repeated key the first counts, NaN and Infinity
pass as they stand, half a surrogate pair or bytes that are not UTF-8 make an object unreadable.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa

from prep import sql
from prep.errors import DataError
from prep.schema import DROP_REASON

BAD_JSON = "bad_json"
OBJECT = "object"  # column of `read_objects`
MAX_OBJECT_BYTES = 16 << 20
BATCH_ROWS = 32  # of DuckDB's, which are in memory at once however large they are
BATCH_BYTES = 1 << 18  # of ours, or what one row more makes of it
ROW_BYTES = 100  # that a row takes besides its text
FREED_BYTES = 16 << 20  # of a mapped part, after which what was read of it is given back
HEAD_BYTES = 60  # of a part, that an error shows
TAIL_BYTES = 1 << 20  # of a part, that may be blank

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = rb'"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"'
_TO_STRUCTURE = re.compile(rb'[^"{}\[\]\n]*+(?:' + _STRING + rb'[^"{}\[\]\n]*+)*+')  # or to a quote that is not closed
_SCALAR = re.compile(_STRING + rb'|[^\s",\[\]{}]++')

Bytes: TypeAlias = mmap.mmap | bytes
Span: TypeAlias = tuple[int, int, bool]  # where an item starts and ends, and whether its brackets are closed


def read(part: Path, fields: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """The fields of every object of one part, in its order, and `drop_reason`: `bad_json` for one that cannot be read.

    A broken object ends where a line begins as its own did. What is no object, or is longer than `MAX_OBJECT_BYTES`,
    is a row of `bad_json` too.

    Args:
        fields: key -> `text` (a string's text, anything else as JSON) or `json`; null where an object lacks it.

    Raises:
        DataError: the part is a list that is not whole, or its objects have none of these keys.
    """
    types = {key: "JSON" if type_ == "json" else "VARCHAR" for key, type_ in fields.items()}
    columns = [(key, pa.json_(pa.string()) if type_ == "JSON" else pa.string()) for key, type_ in types.items()]
    schema = pa.schema([*columns, (DROP_REASON, pa.string())])
    values = ", ".join(f"struct_extract(found, {sql.text(key)}) AS {sql.name(key)}" for key in types)
    from_items = f"""
        SELECT {values}, CASE WHEN found IS NULL THEN '{BAD_JSON}' END AS {DROP_REASON} FROM (
            SELECT CASE WHEN json_valid(item) AND json_type(item) = 'OBJECT'
                   THEN json_transform(item, {sql.text(json.dumps(types))}) END AS found FROM items)
    """

    def from_file(is_list: bool) -> str:
        file = sql.json_file(part, types, is_list=is_list, max_object_bytes=MAX_OBJECT_BYTES)
        return f"SELECT *, CAST(NULL AS VARCHAR) AS {DROP_REASON} FROM {file}"

    is_first = True
    for batch in _joined(_batches(part, from_file, from_items)):
        if is_first and all(column.null_count == len(batch) for column in batch.columns[:-1]):
            _check_keys(part, set(fields), len(batch))
        is_first = False
        yield batch.cast(schema)


def read_objects(part: Path) -> Iterator[pa.RecordBatch]:
    """Every object of one part as it is written there, in its order: columns `object` (text) and `drop_reason`.

    What `read` cannot read is null here too, with the same reason.

    Raises:
        DataError: the part is a list that is not whole.
    """
    is_bad = f"CASE WHEN {OBJECT} IS NULL THEN '{BAD_JSON}' END AS {DROP_REASON}"
    is_object = "json_valid(item) AND json_type(item) = 'OBJECT'"
    from_items = f"SELECT *, {is_bad} FROM (SELECT CASE WHEN {is_object} THEN item END AS {OBJECT} FROM items)"

    def from_file(is_list: bool) -> str:
        file = sql.json_objects(part, is_list=is_list, max_object_bytes=MAX_OBJECT_BYTES)
        item = "CASE WHEN json_type(json) = 'OBJECT' THEN CAST(json AS VARCHAR) END"
        return f"SELECT *, {is_bad} FROM (SELECT {item} AS {OBJECT} FROM {file})"

    return _joined(_batches(part, from_file, from_items))


def _batches(part: Path, from_file: Callable[[bool], str], from_items: str) -> Iterator[pa.RecordBatch]:
    """What two queries say of a part's objects, JSON as plain text.

    Args:
        from_file: whether the part is a list -> a query over the part.
        from_items: the same over a table `items` of texts `item`, for objects that are read one by one.
    """
    with _mapped(part) as data, sql.connect() as connection:
        start, is_list = _start_of(data)
        if is_list and not data[-TAIL_BYTES:].rstrip().endswith(b"]"):
            raise _not_whole(part)  # DuckDB takes a list that ends in a comma
        connection.execute("SET streaming_buffer_size = '100KB'")
        rows = 0
        try:
            for batch in connection.sql(from_file(is_list)).to_arrow_reader(BATCH_ROWS):
                rows += len(batch)
                yield batch
        except (duckdb.InvalidInputException, OSError) as error:  # the latter from Arrow, with DuckDB's words
            if not str(error).startswith("Invalid Input Error"):
                raise
            spans = _spans(data, start, is_list, part)
            yield from _read_each(connection, data, islice(spans, rows, None), from_items)


def _joined(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of a size that queries are fast with."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes + ROW_BYTES * len(batch)
        if size > BATCH_BYTES:
            yield pa.concat_batches(held)
            held, size = [], 0
    if held:
        yield pa.concat_batches(held)


def _read_each(
    connection: duckdb.DuckDBPyConnection, data: Bytes, spans: Iterable[Span], query: str
) -> Iterator[pa.RecordBatch]:
    for texts in _in_batches(_text(data, span) for span in _freeing(data, spans)):
        connection.register("items", pa.table({"item": pa.array(texts, pa.string())}))
        yield from connection.sql(query).to_arrow_table().to_batches()


def _in_batches(texts: Iterator[str | None]) -> Iterator[list[str | None]]:
    batch: list[str | None] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text or "") + ROW_BYTES
        if size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _text(data: Bytes, span: Span) -> str | None:
    start, end, is_closed = span
    if not is_closed or end - start > MAX_OBJECT_BYTES:
        return None
    try:
        return data[start:end].decode()
    except UnicodeDecodeError:
        return None


# -- items of a part -------------------------------------------------------------------------------------------------


@contextmanager
def _mapped(part: Path) -> Iterator[Bytes]:
    """The bytes of a part, of which those that are looked at come into memory."""
    with part.open("rb") as file:
        if part.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _freeing(data: Bytes, spans: Iterable[Span]) -> Iterator[Span]:
    """The spans; pages behind them are given back."""
    freed = 0
    for span in spans:
        yield span
        if span[1] - freed > FREED_BYTES and isinstance(data, mmap.mmap):
            freed = span[1] - span[1] % mmap.PAGESIZE
            data.madvise(mmap.MADV_DONTNEED, 0, freed)


def _start_of(data: Bytes) -> tuple[int, bool]:
    """Where the first value starts, and whether it is a list."""
    at = _behind_space(data, len(_BOM) if data[: len(_BOM)] == _BOM else 0)
    return at, data[at : at + 1] == b"["


def _behind_space(data: Bytes, at: int) -> int:
    match = _SPACE.match(data, at)
    return match.end() if match else at


def _spans(data: Bytes, start: int, is_list: bool, part: Path) -> Iterator[Span]:
    return _spans_of_list(data, start + 1, part) if is_list else _spans_of_lines(data, start)


def _spans_of_list(data: Bytes, at: int, part: Path) -> Iterator[Span]:
    at = _behind_space(data, at)
    is_over = data[at : at + 1] == b"]"
    while not is_over:
        end, is_closed = _end_of(data, at)
        if not is_closed:
            raise _not_whole(part, end, len(data))
        yield at, end, True
        at = _behind_space(data, end)
        is_over = data[at : at + 1] == b"]"
        if not is_over:
            if data[at : at + 1] != b",":
                raise _not_whole(part, at, len(data))
            at = _behind_space(data, at + 1)
    end = _behind_space(data, at + 1)
    if end < len(data):
        raise _not_whole(part, end, len(data))


def _spans_of_lines(data: Bytes, at: int) -> Iterator[Span]:
    end = 0
    next_line = b"\n{"
    while at < len(data):
        gap = data[end:at]
        if b"\n" in gap:
            next_line = b"\n" + gap.rpartition(b"\n")[2] + b"{"
        if data[at : at + 1] == b"{":
            end, is_closed = _end_of(data, at, next_line)
            resumes = end if is_closed else data.find(next_line, end)
        else:
            is_closed, resumes = False, data.find(b"\n", at)
        end = resumes if resumes >= 0 else len(data)
        yield at, end, is_closed
        at = _behind_space(data, end)


def _end_of(data: Bytes, at: int, next_line: bytes = b"") -> tuple[int, bool]:
    """Where the value at `at` ends; False with the place of what cannot be part of it.

    Args:
        next_line: how the line after it begins, where it does not end.
    """
    if data[at : at + 1] not in (b"{", b"["):
        scalar = _SCALAR.match(data, at)
        return (scalar.end(), True) if scalar else (at, False)
    depth = 0
    while match := _TO_STRUCTURE.match(data, at):
        at = match.end()
        mark = data[at : at + 1]
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return at + 1, True
        elif mark != b"\n" or (next_line and data[at : at + len(next_line)] == next_line):
            break
        at += 1
    return at, False


# -- parts that are something else -----------------------------------------------------------------------------------


def _not_whole(part: Path, at: int = 0, size: int = 0) -> DataError:
    what = "its list has no end" if at >= size else f"its list is broken at byte {at:,}"
    return DataError(
        f"{part} is not whole: {what}",
        f"Delete {part} and run `prep download` again; if it stays so, the publisher's file is broken.",
    )


def _check_keys(part: Path, keys: set[str], rows: int) -> None:
    """Raise unless one of the first `rows` objects has one of the keys, be it with null."""
    with _mapped(part) as data:
        start, is_list = _start_of(data)
        for span in islice(_spans(data, start, is_list, part), rows):
            if keys & _keys_of(_text(data, span)):
                return
        head = data[:HEAD_BYTES].decode("utf-8", "replace")
    raise DataError(
        f"{part}: none of the first {rows} records is an object with any of the keys {', '.join(sorted(keys))}; "
        f"the part begins with {head!r}",
        "Write the keys of its objects into the dataset's YAML, under records.fields; or is it another file?",
    )


def _keys_of(text: str | None) -> set[str]:
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        return set()
    return set(found) if isinstance(found, dict) else set()
