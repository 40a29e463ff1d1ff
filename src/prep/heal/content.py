"""What an image file is, from its first and last bytes; the whole of it is read only where those leave a doubt."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from prep.images.encode import decode_problem
from prep.images.probe import MAX_IMAGE_BYTES, probe

OK, EMPTY, UNREADABLE, UNDECODABLE = "ok", "empty", "unreadable", "undecodable"
HEAD_BYTES = 32
TAIL_BYTES = 64
SCHEMA = pa.schema(
    [
        ("base", pa.int32()),
        ("path", pa.string()),
        ("status", pa.string()),
        ("format", pa.string()),
        ("identity", pa.string()),
        ("digest", pa.binary()),
        ("detail", pa.string()),
    ]
)
_PADDING = b"\0\r\n "
_ENDS = {  # first bytes -> format, and the last bytes it must have but for padding
    b"\xff\xd8\xff": ("JPEG", b"\xff\xd9"),
    b"\x89PNG\r\n\x1a\n": ("PNG", b"IEND\xaeB`\x82"),
    b"GIF87a": ("GIF", b";"),
    b"GIF89a": ("GIF", b";"),
}
_one_at_a_time = threading.Lock()  # probe silences warnings for the whole process


@dataclass(frozen=True)
class Look:
    """Files to look at.

    Attributes:
        names: number of the folder and path from there, of each.
        roots: the folders.
        decode: decode each wholly, and hash it.
    """

    names: Sequence[tuple[int, str]]
    roots: Sequence[str]
    decode: bool


def look_at_all(look: Look) -> pa.RecordBatch:
    """What each file is, as a batch of `SCHEMA`."""
    rows = [(base, path, *_look(f"{look.roots[base]}/{path}", look.decode)) for base, path in look.names]
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _look(path: str, decode: bool) -> tuple[str, str | None, str | None, bytes | None, str]:
    """Status, format, identity, hash and words about one file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return UNREADABLE, None, None, None, error.strerror or ""
    try:
        status = os.fstat(descriptor)
        identity = f"{status.st_dev}:{status.st_ino}"
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            return UNREADABLE, None, identity, None, "no plain file"
        if size == 0:
            return EMPTY, None, identity, None, ""
        if not decode:
            head = os.pread(descriptor, HEAD_BYTES, 0)
            format_ = whole_format(head, os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES)), size)
            if format_ is not None:
                return OK, format_, identity, None, ""
    except OSError as error:
        return UNREADABLE, None, None, None, error.strerror or ""
    finally:
        os.close(descriptor)
    return _study(Path(path), size, identity, decode)


def whole_format(head: bytes, tail: bytes, size_bytes: int) -> str | None:
    """The format of a file that begins and ends as it must; None where that takes a closer look."""
    for magic, (format_, end) in _ENDS.items():
        if head.startswith(magic):
            return format_ if tail.rstrip(_PADDING).endswith(end) else None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP" if size_bytes >= 8 + int.from_bytes(head[4:8], "little") else None
    return None


def _study(path: Path, size: int, identity: str, decode: bool) -> tuple[str, str | None, str | None, bytes | None, str]:
    """The same for a file that is read whole."""
    if size > MAX_IMAGE_BYTES:
        return "too_large", None, identity, None, ""
    try:
        data = path.read_bytes()
    except OSError as error:
        return UNREADABLE, None, identity, None, error.strerror or ""
    with _one_at_a_time:
        seen = probe(data)
        problem = decode_problem(data) if decode and seen.status == OK else None
    digest = hashlib.sha256(data).digest() if decode else None
    if problem is not None:
        return UNDECODABLE, seen.format, identity, digest, problem
    return seen.status, seen.format, identity, digest, ""
