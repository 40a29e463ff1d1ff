"""What is in rows and files that cannot be read as a list of LLaVA's format."""

from __future__ import annotations

import codecs
import json
import mmap
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

HEAD_BYTES = 16 << 20  # of a file, that tell what it is
_FREED_BYTES = 16 << 20  # of a mapped file, after which what was read of it is given back
_PART = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],]|[^"{}\[\],]++', re.DOTALL)
_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*+")
_SPACE = re.compile(rb"[ \t\r\n]*+")
_IN_LIST = re.compile(rb"\[?[ \t\r\n,]*+")  # before a row of a list
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_WIDE = {  # first bytes, the longer ones first -> encoding
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"[\0": "UTF-16LE",
    b"{\0": "UTF-16LE",
    b"\0[": "UTF-16BE",
    b"\0{": "UTF-16BE",
}


def with_texts(path: Path, rows: Iterator[tuple[int, str | None]]) -> Iterator[tuple[int, str | None]]:
    """The rows of a file, of those that could not be read with their text where it is JSON.

    It is found by the place of the row before it. In lines, what follows one that is no JSON is unknown up to the next
    row that could be read.

    Args:
        rows: number and text of every row, in order; None where it could not be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = _behind(_START, data, 0)
        is_list = data[at : at + 1] == b"["
        gap = _IN_LIST if is_list else _SPACE
        freed, is_known = 0, True
        for row, text in rows:
            at = _behind(gap, data, at)
            if text is not None:
                raw = text.encode()
                start = at if data[at : at + len(raw)] == raw else data.find(raw, at)
                is_known = start >= 0
                at = start + len(raw) if is_known else at
            elif is_known:
                end = _end_of_row(data, at, is_list)
                text = _json_of(data[at:end])
                is_known = is_list or text is not None
                at = end if is_known else at
            yield row, text
            if at - freed > _FREED_BYTES:
                freed = at - at % mmap.PAGESIZE
                data.madvise(mmap.MADV_DONTNEED, 0, freed)


def _behind(pattern: re.Pattern[bytes], data: mmap.mmap, at: int) -> int:
    match = pattern.match(data, at)
    return match.end() if match else at


def _end_of_row(data: mmap.mmap, at: int, is_list: bool) -> int:
    """Where a row ends: in a list where the next begins, in lines with its bracket or else its line."""
    if not is_list and data[at : at + 1] != b"{":
        end = data.find(b"\n", at)
        return end if end >= 0 else len(data)
    depth = 0
    for part in _PART.finditer(data, at):
        if is_list and depth == 0 and part[0] in (b",", b"]"):
            return part.start()
        depth += _deeper(part[0])
        if not is_list and depth == 0:
            return part.end()
    return len(data)


def _deeper(part: bytes) -> int:
    return (part in (b"{", b"[")) - (part in (b"}", b"]"))


def _json_of(data: bytes) -> str | None:
    try:
        text = data.decode().strip()
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return text


# -- files -------------------------------------------------------------------------------------------------------


def unpacked_first(path: Path) -> str:
    """What to do with a file that is packed, or text of two or four bytes a letter; empty for any other."""
    with path.open("rb") as file:
        head = file.read(8)
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            return f"It is packed with {name}: unpack it first."
    for magic, encoding in _WIDE.items():
        if head.startswith(magic):
            return f"It is {encoding}. {_anew(encoding, path)}"
    return ""


def mended_first(path: Path, rows: int) -> str:
    """What to do with a file of `rows` rows of which none is of LLaVA's format; empty where it is any other."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return unpacked_first(path) or f"It is not UTF-8; Latin-1 perhaps. {_anew('LATIN1', path)}"
    key = _key_of_list(head) if rows == 1 else None
    if key is not None:
        return f"It is one object with a list under {key!r}: write that list to a file of its own."
    return unpacked_first(path)


def _anew(encoding: str, path: Path) -> str:
    return f"Write it anew: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > NEW.json"


def _key_of_list(head: bytes) -> str | None:
    """The first key of an object under which there is a list."""
    depth, key = 0, b""
    if not head.lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"{"):
        return None
    for part in _PART.finditer(head):
        if depth == 1 and part[0].startswith(b'"'):
            key = part[0]
        elif depth == 1 and part[0] == b"[":
            return key[1:-1].decode()
        depth += _deeper(part[0])
    return None


def is_blank(path: Path) -> bool:
    """Whether nothing but blanks, and a mark of the encoding, is in a file."""
    with path.open("rb") as file:
        return not any(part.strip(codecs.BOM_UTF8 + b" \t\r\n") for part in iter(lambda: file.read(1 << 20), b""))
