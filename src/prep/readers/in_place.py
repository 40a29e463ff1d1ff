"""Records of a parquet object that stays on S3: its columns come by ranges, some of a row group's at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterator
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
        DataError: it is no parquet, has two columns of one name, or the file does not name an object.
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
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    return schema, _batches(file, columns, found.url)


def _batches(file: pq.ParquetFile, columns: Collection[str], url: str) -> Iterator[pa.RecordBatch]:
    with _as_data_error(url):
        for group in range(file.num_row_groups):  # one by one: what was read of a group is kept until its end
            yield from file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[*columns], use_threads=False)


@contextmanager
def _as_data_error(url: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
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
