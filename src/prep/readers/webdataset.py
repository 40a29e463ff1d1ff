"""WebDataset shards: members of a tar that share a name up to their first dot make one record."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from prep.images.archives import open_tar, readable, split_member

BATCH_ROWS = 1_000
MAX_TEXT_BYTES = 1 << 20

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # the members' name without its extensions
        ("txt", pa.string()),
        ("json", pa.string()),
        ("extensions", pa.list_(pa.string())),  # of every member of the record
    ]
)


def read(part: Path) -> Iterator[pa.RecordBatch]:
    """Records of one tar in its order; image bytes are passed over.

    Raises:
        DataError: the file is not a tar, or breaks off.
    """
    records = _records(part)
    while rows := list(islice(records, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _records(part: Path) -> Iterator[dict[str, object]]:
    record: dict[str, object] = {}
    extensions: list[str] = []
    with readable(part), open_tar(part, "r:*") as archive:
        for member in archive:
            if not member.isfile():
                continue
            key, extension = split_member(member.name)
            if record and record["key"] != key:
                yield {**record, "extensions": extensions}
                extensions = []
            record = record if record and record["key"] == key else {"key": key}
            extensions.append(extension)
            if extension in ("txt", "json") and member.size <= MAX_TEXT_BYTES:
                file = archive.extractfile(member)
                record[extension] = (file.read() if file else b"").decode("utf-8", "replace")
            archive.members = []  # type: ignore[attr-defined]  # else the tar's whole listing stays in memory
    if record:
        yield {**record, "extensions": extensions}
