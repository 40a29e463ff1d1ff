"""The image index: one row per image of a dataset, and how its shards are written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prep.config import Encode
from prep.images.encode import Undecodable, decode_problem, encode
from prep.images.probe import EXTENSIONS, Probe, probe

OK = "ok"
UNDECODABLE = "undecodable"  # the header is right, the pixels are not
_FORMAT_OF = {extension: format_ for format_, extension in EXTENSIONS.items()} | {".jpeg": "JPEG", ".tiff": "TIFF"}

SCHEMA = pa.schema(
    [
        ("image_key", pa.string()),
        ("status", pa.string()),  # ok, or why there is no image
        ("path", pa.string()),  # below the image store's root; null without an image
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("displayed_width", pa.int32()),  # with EXIF's rotation, which the trainer does not apply
        ("displayed_height", pa.int32()),
        ("format", pa.string()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("decoded", pa.bool_()),  # whether every pixel was looked at, or the header and the end alone
        ("source", pa.string()),  # the address, or the archive member
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class IndexRow:
    """One image of the index; field by field the columns of `SCHEMA`."""

    image_key: str
    status: str
    source: str
    path: str | None = None
    width: int | None = None
    height: int | None = None
    displayed_width: int | None = None
    displayed_height: int | None = None
    format: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    decoded: bool = False
    error: str | None = None


def describe(
    image_key: str, name: str, source: str, data: bytes, how: Encode, *, verify: bool = False, min_side: int = 1
) -> tuple[IndexRow, bytes]:
    """Look at an image and decide what is stored of it: its row of the index, and the bytes to store at `row.path`.

    Only images that can be read to their end get a path. A name whose extension is not what the content deserves gets
    the right one on top (`a.png` that is a JPEG: `a.png.jpg`), so that two names never become one.

    Args:
        how: what the stored image has to be; one that is so already keeps its bytes.
        verify: decode every pixel.
        min_side: pixels; an image with a shorter side is `too_small`.
    """
    seen = probe(data, min_side=min_side)
    decoded = False
    if seen.status == OK:
        try:
            encoded = encode(data, seen, how)
        except Undecodable as error:
            return _row(image_key, source, seen, data, status=UNDECODABLE, error=str(error)), data
        if encoded is not None:
            data, decoded = encoded, True
            seen = probe(data)
        elif verify:
            if problem := decode_problem(data):
                return _row(image_key, source, seen, data, status=UNDECODABLE, error=problem), data
            decoded = True
    row = _row(image_key, source, seen, data, status=seen.status)
    if seen.status != OK:
        return row, data
    is_right = EXTENSIONS.get(_FORMAT_OF.get(f".{name.rpartition('.')[2].lower()}", "")) == seen.extension
    path = name if is_right else name + seen.extension
    return replace(row, path=path, sha256=hashlib.sha256(data).hexdigest(), decoded=decoded), data


def _row(image_key: str, source: str, seen: Probe, data: bytes, *, status: str, error: str | None = None) -> IndexRow:
    return IndexRow(
        image_key,
        status,
        source,
        width=seen.width,
        height=seen.height,
        displayed_width=seen.displayed_width,
        displayed_height=seen.displayed_height,
        format=seen.format,
        size_bytes=len(data),
        error=error,
    )


def read_index(paths: Sequence[Path]) -> pa.Table:
    """The rows of some shards as one Arrow table with `SCHEMA`'s columns."""
    return pa.concat_tables([pq.read_table(path, schema=SCHEMA) for path in paths] or [SCHEMA.empty_table()])


def index_rows(shard: Path) -> Iterator[IndexRow]:
    """The rows of one shard, a batch in memory at a time."""
    for batch in pq.ParquetFile(shard).iter_batches(columns=SCHEMA.names):
        yield from (IndexRow(**row) for row in batch.to_pylist())


def count_statuses(path: Path) -> dict[str, int]:
    """How many images of a shard have each status."""
    counts = pq.read_table(path, columns=["status"])["status"].value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: str(count["values"]))}
