"""The image index: one row per image of a dataset, and how its shards are written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from prep.files import atomic_path
from prep.images.probe import EXTENSIONS, probe
from prep.images.store import Store
from prep.sql import TASK_KEY

OK = "ok"
_FORMAT_OF = {extension: format_ for format_, extension in EXTENSIONS.items()} | {".jpeg": "JPEG", ".tiff": "TIFF"}

SCHEMA = pa.schema(
    [
        ("image_key", pa.string()),
        ("status", pa.string()),  # ok, or why there is no image
        ("path", pa.string()),  # below the image store's root; null without an image
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
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
    format: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    error: str | None = None


def store_image(store: Store, image_key: str, name: str, source: str, data: bytes) -> IndexRow:
    """Probe `data`, store it as `name`, and describe it; only images that can be read to their end are stored.

    A name whose extension is not what the content deserves gets the right one on top (`a.png` that is a JPEG:
    `a.png.jpg`), so that two names never become one.
    """
    seen = probe(data)
    row = IndexRow(image_key, seen.status, source, None, seen.width, seen.height, seen.format, len(data))
    if seen.status != OK:
        return row
    is_right = EXTENSIONS.get(_FORMAT_OF.get(PurePosixPath(name).suffix.lower(), "")) == seen.extension
    path = name if is_right else name + seen.extension
    store.put(path, data)
    return replace(row, path=path, sha256=hashlib.sha256(data).hexdigest())


def write_index(target: Path, rows: Iterable[IndexRow], task: str) -> None:
    """Write one shard of the index, whole or not at all."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    with atomic_path(target) as temporary:
        pq.write_table(table.replace_schema_metadata({TASK_KEY: task}), temporary, compression="zstd")


def read_index(paths: Sequence[Path]) -> pa.Table:
    """The rows of some shards as one Arrow table with `SCHEMA`'s columns."""
    return pa.concat_tables([pq.read_table(path, schema=SCHEMA) for path in paths] or [SCHEMA.empty_table()])


def count_statuses(path: Path) -> dict[str, int]:
    """How many images of a shard have each status."""
    counts = pq.read_table(path, columns=["status"])["status"].value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: str(count["values"]))}
