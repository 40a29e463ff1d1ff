"""WebDataset shards: members of a tar that share a name up to their first dot make one record."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from prep.images import tars
from prep.images.archives import archive_errors, is_litter, split_member, tar_source
from prep.images.entries import Entry
from prep.images.joined import JoinedFile

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


def read(part: Path, *more: Path) -> Iterator[pa.RecordBatch]:
    """Records of one tar in its order; image bytes are passed over.

    A broken tar gives the records that can be saved: the index of its images says where it is broken.

    Args:
        more: the parts that follow, of a tar that is cut into several.

    Raises:
        DataError: the file is not a tar.
    """
    records = _records((part, *more))
    while rows := list(islice(records, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _records(parts: tuple[Path, ...]) -> Iterator[dict[str, object]]:
    record: dict[str, object] = {}
    extensions: list[str] = []
    with JoinedFile(parts) as file, archive_errors(parts[0]):
        source = tar_source(file)
        for entry in tars.walk(source):
            if not entry.is_file or is_litter(entry.name):
                continue
            key, extension = split_member(entry.name)
            if record and record["key"] != key:
                yield {**record, "extensions": extensions}
                extensions = []
            record = record if record and record["key"] == key else {"key": key}
            extensions.append(extension)
            if extension in ("txt", "json") and _is_whole_text(entry):
                record[extension] = tars.read(source, entry).decode("utf-8", "replace")
    if record:
        yield {**record, "extensions": extensions}


def _is_whole_text(entry: Entry) -> bool:
    return entry.error is None and entry.size <= MAX_TEXT_BYTES
