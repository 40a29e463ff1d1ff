"""Members of a tar, one header after the other, and past what is broken.

Read by hand: the standard library's reader needs 25 us a header, and stops at the first one that is broken.
Formats: v7, ustar, GNU (long names, sizes of base 256) and pax, as POSIX.1-2017 and GNU tar's manual describe them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from prep.images.entries import Damaged, Entry, NoArchive, lost
from prep.images.probe import MAX_IMAGE_BYTES

BLOCK = 512
SEARCH_BYTES = 1 << 20
MAX_PADDING = 1 << 20  # after the last member; GNU tar fills up to 10 KiB, or to what --blocking-factor says
MAX_EXTENDED_BYTES = 256 << 10  # of long names and pax records before one member
MAX_EXTENDED = 8
MAX_SIZE = 1 << 60

_ZEROS = bytes(BLOCK)
_REGULAR = b"0\x007"  # also v7's, and contiguous files
_WITHOUT_DATA = b"123456"  # links, devices, folders: whatever size they name, nothing follows
_LONG_NAME, _LONG_LINK, _SPARSE, _GLOBAL, _EXTENDED = b"LKSgx"
_SOLARIS_EXTENDED = ord("X")
_BEFORE_A_MEMBER = (_LONG_NAME, _LONG_LINK, _GLOBAL, _EXTENDED, _SOLARIS_EXTENDED)
_CHECKSUM = re.compile(rb"[ 0]*[0-7]+[\0 ]")
_RECORD = re.compile(rb"(\d{1,9}) ([^=\n]+)=")
_ADLER_MODULUS = 65521


class Source(Protocol):
    """The bytes of a tar.

    Attributes:
        floor: the first byte that can still be read.
        size: of all bytes; of those read so far, until a read came out short.
        fault: why the bytes end too early, where they do.
    """

    floor: int
    size: int
    fault: str | None

    def pread(self, size: int, at: int) -> bytes:
        """`size` bytes from `at` on; fewer where they end."""

    def keep(self, at: int) -> None:
        """Bytes before `at` are not asked for any more."""


class Header(NamedTuple):
    """What one header says; `kind` is its type flag."""

    kind: int
    size: int
    name: bytes
    block: bytes


def walk(source: Source) -> Iterator[Entry]:
    """Every member of a tar in order, and what of it cannot be read.

    A member comes when the header behind it was looked at, and its bytes can be read until the next is asked for. A
    folder or other member without bytes of its own is no file.

    Raises:
        NoArchive: there is not one header.
    """
    shared: dict[bytes, bytes] = {}
    held: Entry | None = None
    at, is_started = 0, False
    while True:
        entry = _entry_at(source, at, shared)
        if held and entry is None:
            entry, held = _look_inside(source, held, at, shared)
        if held:
            yield held
        if entry is None:
            entry, gap = _look_behind(source, held, at, shared)
            if entry is None and not is_started and (gap or source.size < BLOCK):
                raise NoArchive(gap.error if gap else "it is too short")
            if gap:
                yield gap
        if entry is None:
            return
        source.keep(entry.data_at if entry.size <= MAX_IMAGE_BYTES else entry.end)
        held, at, is_started = entry, entry.end, True


def read(source: Source, entry: Entry) -> bytes:
    """A member's bytes.

    Raises:
        Damaged: they are not there any more.
    """
    data = source.pread(entry.size, entry.data_at)
    if len(data) < entry.size:
        raise Damaged(f"only {len(data):,} of its {entry.size:,} bytes can be read")
    return data


def begins(block: bytes) -> bool:
    """Whether a tar's header stands at the beginning of `block`."""
    return _header(block) is not None


def has_member(source: Source, stop: int) -> bool:
    """Whether a member's header begins before `stop`, whatever stands before it."""
    return _find_member(source, 0, stop, {}) is not None


def _header(block: bytes) -> Header | None:
    """The header that `block` is, None for one that is none: its sum, its size or its length is wrong."""
    if len(block) < BLOCK:
        return None
    try:
        stored = int(block[148:156].partition(b"\0")[0], 8)
    except ValueError:
        return None
    # Adler-32 keeps the sum of all bytes, plus one, in its lower half; Python takes ten times as long to add them up.
    summed = zlib.adler32(block[156:BLOCK], zlib.adler32(b" " * 8, zlib.adler32(block[:148]))) & 0xFFFF
    if (stored + 1) % _ADLER_MODULUS != summed and stored != _signed_sum(block):
        return None
    size = _number(block[124:136])
    if size is None:
        return None
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return Header(block[156], size, name, block)


def _signed_sum(block: bytes) -> int:
    """The sum as some old programs made it, of signed bytes."""
    whole = block[:148] + b" " * 8 + block[156:BLOCK]
    return sum(whole) - 256 * sum(byte > 127 for byte in whole)


def _number(field: bytes) -> int | None:
    """A number in octal digits, or of base 256; None for neither."""
    if field[0] & 0x80:
        number = int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    else:
        try:
            number = int(field.partition(b"\0")[0].strip() or b"0", 8)
        except ValueError:
            return None
    return number if 0 <= number <= MAX_SIZE else None


def _entry_at(source: Source, at: int, shared: dict[bytes, bytes]) -> Entry | None:
    """The member whose headers begin at `at`; None if one of them is broken.

    Args:
        shared: pax records that hold for all members from here on; what the headers add is added.
    """
    start, room = at, MAX_EXTENDED_BYTES
    own: dict[bytes, bytes] = {}
    for _ in range(MAX_EXTENDED):
        header = _header(source.pread(BLOCK, at))
        if header is None:
            return None
        if header.kind not in _BEFORE_A_MEMBER:
            return _entry(source, start, at, header, shared | own if shared else own)
        room -= header.size
        data = source.pread(header.size, at + BLOCK) if room >= 0 else b""
        records = _records(header.kind, data)
        if len(data) < header.size or records is None:
            return None
        if header.kind == _GLOBAL:
            shared |= records
        else:
            own |= records
        at += BLOCK + _padded(header.size)
    return None


def _entry(source: Source, start: int, at: int, header: Header, records: dict[bytes, bytes]) -> Entry | None:
    """A member from its own header and what the ones before it say."""
    kind, size, raw, block = header
    at += BLOCK
    if kind == _SPARSE:
        is_continued = block[482]
        while is_continued:
            block = source.pread(BLOCK, at)
            if len(block) < BLOCK:
                return None
            is_continued, at = block[504], at + BLOCK
    is_sparse = kind == _SPARSE
    if records:
        raw = records.get(b"path", raw)
        if b"size" in records:
            announced = records[b"size"]
            if not announced.isdigit() or len(announced) > 18:
                return None
            size = int(announced)
        is_sparse |= any(key.startswith(b"GNU.sparse.") for key in records)
    if kind in _WITHOUT_DATA:
        size = 0
    is_file = kind in _REGULAR and not is_sparse and not raw.endswith(b"/")
    return Entry(start, at + _padded(size), _text(raw), is_file, at, size)


def _records(kind: int, data: bytes) -> dict[bytes, bytes] | None:
    """What a header before a member's own says; None if it is broken. pax: `length key=value` and a line's end each."""
    if kind == _LONG_NAME:
        return {b"path": data.partition(b"\0")[0]}
    if kind == _LONG_LINK:
        return {}
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end <= match.end() or data[end - 1 : end] != b"\n":
            return None if data[at:].strip(b"\0") else records
        records[match[2]] = data[match.end() : end - 1]
        at = end
    return records


def _text(name: bytes) -> str:
    """A name as text: UTF-8, else Latin-1, which at least keeps different names apart."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _padded(size: int) -> int:
    return -size % BLOCK + size


def _look_inside(source: Source, held: Entry, at: int, shared: dict[bytes, bytes]) -> tuple[Entry | None, Entry]:
    """Where no header is at `at`: the next member if it begins before that, and the last one, judged by where it does.

    A tar inside the tar has headers of its own, so that is not looked into.
    """
    entry = None
    missing = held.data_at + held.size - source.size
    is_at_hand = source.floor <= held.data_at and not held.name.lower().endswith(".tar")
    if is_at_hand and (missing > 0 or source.pread(BLOCK, at).strip(b"\0")):
        entry = _find_member(source, held.data_at, min(at, source.size), shared)
    error = f"the archive ends {missing:,} bytes before it does" if missing > 0 else None
    if entry and entry.at < held.data_at + held.size:
        error = f"the next member begins after {entry.at - held.data_at:,} of its {held.size:,} bytes"
    return entry, held._replace(error=error)


def _look_behind(
    source: Source, held: Entry | None, at: int, shared: dict[bytes, bytes]
) -> tuple[Entry | None, Entry | None]:
    """After no header was found up to and at `at`: the next member if there is one, and the stretch that is lost."""
    stop = _skip_zeros(source, at)
    entry = _entry_at(source, stop, shared) if stop > at else None
    if entry and stop - at <= MAX_PADDING:
        return entry, None  # a tar behind a tar
    entry = entry or _find_member(source, stop, None, shared)
    if entry:
        return entry, lost(at, entry.at, "no member's header where one should be")
    end = source.size
    if source.fault:
        return None, lost(min(at, end), None, source.fault)
    if held and held.data_at + held.size > end:
        return None, lost(end, None, f"the archive ends within {held.name}")
    if at >= end or (stop == end and end - at <= MAX_PADDING):
        return None, None
    if end - at < BLOCK:
        return None, lost(at, None, "the archive ends within a header")
    return None, lost(at, end, "nothing but zeros" if stop >= end else "no member's header in it")


def _skip_zeros(source: Source, start: int) -> int:
    """The first block from `start` on that is not all zeros; where the bytes end for none."""
    at = start
    while window := source.pread(BLOCK if at == start else SEARCH_BYTES, at):
        zeros = len(window) - len(window.lstrip(b"\0"))
        at += zeros
        if zeros < len(window):
            return at - (at - start) % BLOCK
        source.keep(at)
    return at


def _find_member(source: Source, start: int, stop: int | None, shared: dict[bytes, bytes]) -> Entry | None:
    """The first member from `start` on whose header begins before `stop`.

    A header with ustar's magic is found wherever it stands, one of v7 at a multiple of 512 bytes from `start`.
    Without `stop` bytes that were passed are let go.
    """
    at = start
    while stop is None or at < stop:
        if stop is None:
            source.keep(at)
        window = source.pread(SEARCH_BYTES + BLOCK - 1, at)
        for place in _places(window):
            if stop is not None and at + place >= stop:
                return None
            if entry := _entry_at(source, at + place, shared):
                return entry
        if len(window) < SEARCH_BYTES + BLOCK - 1:
            return None
        at += SEARCH_BYTES
    return None


def _places(window: bytes) -> list[int]:
    """Where in the first `SEARCH_BYTES` of a window a header may begin."""
    magic = (match.start() - 257 for match in re.finditer(b"ustar", window))
    sums = (at for at in range(0, len(window) - BLOCK + 1, BLOCK) if _CHECKSUM.match(window, at + 148, at + 156))
    return sorted(place for place in {*magic, *sums} if 0 <= place < SEARCH_BYTES)
