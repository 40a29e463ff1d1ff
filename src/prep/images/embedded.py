"""Images out of columns of parquet parts, in the parts' order, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prep.errors import DataError
from prep.images.probe import MAX_IMAGE_BYTES

BATCH_BYTES = 16 << 20  # of images in memory at once, as far as a part's statistics tell
BATCH_ROWS = 1_000
DICTIONARY_ROWS = 4  # in a batch, where a dictionary hides how large they are
BUFFER_BYTES = 1 << 20  # read at once; without a buffer it is a whole column of a row group
MAX_PATH_CHARACTERS = 500  # of a publisher's path in a source

Image = tuple[str, str, bytes | None, str | None]  # key, source, bytes, and why there are none


def embedded_images(part: Path, column: str, key: str | None, stem: str, *, skip: int = 0) -> Iterator[Image]:
    """Every image of a column: its key, where a person finds it, its bytes, or None and the status that says why.

    The column holds bytes, `{bytes, path}` as on the Hugging Face hub, or lists of either; a name with dots leads into
    structs (`sample.image`). Without bytes the status is `empty`, over the cap `too_large`. The path is part of the
    source (`row 12: 0001.jpg`). A list's images are `row 12, image 0` and have keys ending in `/0`, `/1`.

    Args:
        key: the column of image keys; without one, and where it is null or empty, the key is `<stem>/<row>`, from 0.
        skip: leave out the first so many images.

    Raises:
        DataError: not a parquet file, broken, or without such columns.
    """
    with _readable(part), pq.ParquetFile(part, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
        held = _type_of(part, file, column, "images.column")
        if not _is_image(held) and not _is_image(_item_of(held)):
            raise _unfit(part, file, f"{column!r} is {held}, neither images nor lists of them", "images.column")
        if key is not None and not _is_key(_type_of(part, file, key, "images.key")):
            raise _unfit(part, file, f"{key!r} is neither text nor numbers", "images.key")
        group = row = 0
        if _item_of(held) is None:  # one image a row, so that whole row groups can be passed over
            while group < file.num_row_groups and row + file.metadata.row_group(group).num_rows <= skip:
                row += file.metadata.row_group(group).num_rows
                group += 1
        images = _rows(file, group, column, key)
        found = (image for at, (value, name) in enumerate(images, row) for image in _images(value, name, stem, at))
        yield from islice(found, skip - row, None)


def _rows(file: pq.ParquetFile, first: int, column: str, key: str | None) -> Iterator[tuple[Any, Any]]:
    """What stands in the column and in the one of keys, row by row, from a row group on."""
    columns = [column] if key is None else [column, key]
    for group in range(first, file.num_row_groups):
        size = _batch_rows(file.metadata.row_group(group), column)
        for batch in file.iter_batches(size, [group], columns, use_threads=False):
            images, names = _array(batch, column), None if key is None else _array(batch, key)
            nothing: Any = None if _item_of(images.type) is None else []  # a list that is missing has no images
            for place, image in enumerate(images):
                name = None if names is None else names[place].as_py()
                yield image.as_py() if image.is_valid else nothing, name


def _batch_rows(group: Any, column: str) -> int:
    """So many rows that their images take about `BATCH_BYTES`."""
    chunks = (group.column(index) for index in range(group.num_columns))
    own = [chunk for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{column}.")]
    size_bytes = max(1, sum(chunk.total_uncompressed_size for chunk in own))
    if any(chunk.has_dictionary_page for chunk in own):  # one value may stand for many rows, whose bytes count once
        size_bytes = max(size_bytes, group.num_rows * BATCH_BYTES // DICTIONARY_ROWS)
    rows: int = BATCH_BYTES * group.num_rows // size_bytes
    return min(BATCH_ROWS, max(1, rows))


def _images(value: Any, name: Any, stem: str, row: int) -> Iterator[Image]:
    """The images of one row."""
    key, source = _key(name, f"{stem}/{row}", row), f"row {row}"
    if not isinstance(value, list):
        yield _image(value, key, source)
        return
    for place, item in enumerate(value):
        yield _image(item, f"{key}/{place}", f"{source}, image {place}")


def _image(value: Any, key: str, source: str) -> Image:
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if path:
        source = f"{source}: {str(path)[:MAX_PATH_CHARACTERS]}"
    if not data:
        return key, source, None, "empty"
    return (key, source, None, "too_large") if len(data) > MAX_IMAGE_BYTES else (key, source, data, None)


def _key(name: Any, default: str, row: int) -> str:
    """A key as text, unchanged; pandas makes numbers with gaps floats, and a gap not-a-number."""
    if name is None or name == "" or name != name:
        return default
    if isinstance(name, float):
        if not name.is_integer():
            raise DataError(
                f"row {row}: the image key is {name!r}, which is no whole number", "Name another column as images.key."
            )
        return str(int(name))
    return str(name)


# -- columns -----------------------------------------------------------------------------------------------------------


def _steps(schema: pa.Schema, column: str) -> list[str]:
    """The way to a column: its name, or names with dots between them that lead into structs."""
    return [column] if column in schema.names else column.split(".")


def _type_of(part: Path, file: pq.ParquetFile, column: str, option: str) -> pa.DataType:
    held = pa.struct(list(file.schema_arrow))
    for step in _steps(file.schema_arrow, column):
        index = held.get_field_index(step) if pa.types.is_struct(held) else -1
        if index < 0:
            raise _unfit(part, file, f"no column {column!r}", option)
        held = held.field(index).type
    return held


def _array(batch: pa.RecordBatch, column: str) -> pa.Array:
    first, *rest = _steps(batch.schema, column)
    return pc.struct_field(batch.column(first), rest) if rest else batch.column(first)


def _item_of(held: pa.DataType) -> pa.DataType | None:
    """What a list holds; None for anything else."""
    types = pa.types
    is_list = types.is_list(held) or types.is_large_list(held) or types.is_fixed_size_list(held)
    return held.value_type if is_list else None


def _is_image(held: pa.DataType | None) -> bool:
    if held is None or not pa.types.is_struct(held):
        return _is_bytes(held)
    index = held.get_field_index("bytes")
    return index >= 0 and (_is_bytes(held.field(index).type) or pa.types.is_null(held.field(index).type))


def _is_bytes(held: pa.DataType | None) -> bool:
    types = pa.types
    return held is not None and (types.is_binary(held) or types.is_large_binary(held) or types.is_binary_view(held))


def _is_key(held: pa.DataType) -> bool:
    types = pa.types
    held = held.value_type if types.is_dictionary(held) else held
    is_text = types.is_string(held) or types.is_large_string(held) or types.is_string_view(held)
    is_number = types.is_integer(held) or types.is_floating(held)
    return bool(is_text or is_number or types.is_null(held))


# -- what can be wrong -------------------------------------------------------------------------------------------------


def _unfit(part: Path, file: pq.ParquetFile, problem: str, option: str) -> DataError:
    return DataError(
        f"{part}: {problem}; it has: {', '.join(f'{field.name} ({field.type})' for field in file.schema_arrow)}",
        f"Mend {option} in the dataset's YAML.",
    )


@contextmanager
def _readable(part: Path) -> Iterator[None]:
    """Turn what reading broken parquet raises into a DataError that names the part."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the system's own: no such file, no right to read it
        raise DataError(
            f"{part} cannot be read as parquet to its end: {error}",
            "Delete it and run `prep download` again; if it stays so, the publisher's file is broken.",
        ) from error
