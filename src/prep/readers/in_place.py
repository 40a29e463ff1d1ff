"""Records of a parquet object that stays on S3: its columns come by ranges, some of a row group's at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prep.config import S3Source
from prep.errors import DataError, SourceError
from prep.sources import Part, s3

BATCH_ROWS = 8_192
RANGE_BYTES = 8 << 20  # asked for at once, of each column
TEXT_BYTES = 1 << 16  # of the file in `raw/` that stands for an object
MAX_DIGITS = 38  # of DuckDB's decimals


def open_object(
    part: Path, source: S3Source, is_needed: Callable[[str], bool]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The object that the file `part` in `raw/` stands for: the columns that are needed, and its rows, in their order.

    Args:
        source: how its bucket is reached.
        is_needed: whether a column is; without any the first one is read, which tells how many rows there are.

    Raises:
        SourceError: the object is gone, was replaced since `prep download` looked at it, or may not be read; also
            while its rows are read.
        DataError: it is no parquet, has two columns of one name, or the file does not name an object; while its rows
            are read, that they are damaged or a text is not UTF-8.
    """
    found = _read_note(part)
    with _as_data_error(found.url):
        file = pq.ParquetFile(
            pa.PythonFile(_Object(source, found), mode="r"), buffer_size=RANGE_BYTES, pre_buffer=False
        )
        names = file.schema_arrow.names
        if len({name.lower() for name in names}) < len(names):
            raise DataError(
                f"{found.url} has two columns of one name, which cannot be told apart where it lies",
                "Rename one; or remove `in_place: true` from the dataset's source.",
            )
        columns = [name for name in names if is_needed(name)] or names[:1]
        fields = [file.schema_arrow.field(name) for name in columns]
        schema = pa.schema([field.with_type(_type_of_a_copy(field.type)) for field in fields])
    return schema, _batches(file, schema, found.url)


def _batches(file: pq.ParquetFile, schema: pa.Schema, url: str) -> Iterator[pa.RecordBatch]:
    with _as_data_error(url):
        for group in range(file.num_row_groups):  # one by one: what was read of a group is kept until its end
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=schema.names, use_threads=False):
                columns = [_checked(batch.column(field.name), field, url) for field in schema]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _checked(column: pa.Array, field: pa.Field, url: str) -> pa.Array:
    """A column as a copy would give it: DuckDB looks whether text of a file is UTF-8, but believes it of Arrow's."""
    try:
        column.validate(full=True)
        return column if column.type == field.type else column.cast(field.type)
    except pa.ArrowException as error:
        raise DataError(f"column {field.name!r} of {url} cannot be read: {error}", "Write it again.") from error


def _type_of_a_copy(type_: pa.DataType) -> pa.DataType:
    """What DuckDB makes of a column in a parquet file, where of Arrow's it makes something else or nothing.

    Durations are whole numbers there, halves are floats, and what is too long for a decimal is a double.
    """
    if pa.types.is_duration(type_):
        return pa.int64()
    if pa.types.is_float16(type_):
        return pa.float32()
    if pa.types.is_decimal256(type_):
        return pa.decimal128(type_.precision, type_.scale) if type_.precision <= MAX_DIGITS else pa.float64()
    if pa.types.is_timestamp(type_) and type_.unit != "ns":
        return pa.timestamp("us", type_.tz)
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return pa.list_(type_.value_field.with_type(_type_of_a_copy(type_.value_type)))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_type_of_a_copy(field.type)) for field in type_])
    return type_


@contextmanager
def _as_data_error(url: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the machine; damaged bytes have no number
            raise
        raise DataError(f"{url} cannot be read as parquet: {error}", "Write it again.") from error


def _read_note(path: Path) -> Part:
    """The object that a file in `raw/` stands for."""
    with path.open("rb") as file:
        data = file.read(TEXT_BYTES)
    try:
        note = json.loads(data)
        return Part(path.name, str(note["object"]), int(note["size_bytes"]), version=str(note["etag"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not name an object on S3", "`prep download --verify` writes it anew.") from error


class _Object(io.RawIOBase):
    """The bytes of an object, each read a request."""

    def __init__(self, source: S3Source, part: Part) -> None:
        super().__init__()
        self._source, self._part, self._place = source, part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._part.size_bytes or 0
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, all that are left by default; an object that was replaced meanwhile is a SourceError."""
        left = max(0, (self._part.size_bytes or 0) - self._place)
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return b""
        try:
            data = s3.read_range(self._source, self._part, self._place, length)
        except (s3.Gone, s3.Replaced) as error:
            raise SourceError(
                f"{self._part.url} is not what `prep download` found there: it was replaced or removed",
                "`prep download` takes note of what is there now; then run the same command.",
            ) from error
        self._place += length
        return data
