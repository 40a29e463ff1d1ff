"""Members of a zip, by its directory; by their own headers where the directory is missing or broken.

Read by hand: the standard library's reader holds a whole directory in memory, a kilobyte a member, refuses all of it
for one odd name, and reads members in small pieces. Layouts are those of PKWARE's APPNOTE.
"""

from __future__ import annotations

import bz2
import lzma
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from prep.images.entries import Damaged, Entry, NoArchive, Packed, lost
from prep.images.joined import JoinedFile

_LOCAL, _CENTRAL, _END, _END_64, _LOCATOR = b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3L5H2L")
_END_RECORD = struct.Struct("<4s4H2LH")
_END_RECORD_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_BYTES = 20
_MAX_RECORD_BYTES = _CENTRAL_HEADER.size + 3 * 0xFFFF
_UNKNOWN = 0xFFFFFFFF  # the number is in the zip64 field

_ENCRYPTED, _HAS_DESCRIPTOR, _UTF_8 = 1, 8, 0x800
_STORED, _DEFLATED, _BZIP2, _LZMA = 0, 8, 12, 14
_METHODS = range(100)  # those that are assigned
_MAX_VERSION = 100  # of the format, times ten; 6.3 is current
_ZIP64_FIELD, _NAME_FIELD = 0x0001, 0x7075
_UNIX = 3

READ_BYTES = 1 << 20
_SIGNATURES = re.compile(rb"PK(?:\x07\x08|\x03\x04|\x01\x02)")
# Info-ZIP writes what a name's character set lacks as four digits, or as six (some as eight) beyond the first plane.
_ESCAPE = re.compile(r"#U([0-9a-fA-F]{4})|#L(00(?:0[1-9a-fA-F]|10)[0-9a-fA-F]{4}|(?:0[1-9a-fA-F]|10)[0-9a-fA-F]{4})")


class Directory(NamedTuple):
    """Where a zip's directory lies, and by how many bytes members stand behind the places that it names."""

    start: int
    end: int
    shift: int


class BrokenDirectory(Exception):
    """The directory cannot be read to its end."""


def find_directory(file: JoinedFile) -> Directory | None:
    """The directory that the record at the zip's end leads to, None if there is no such record or no directory."""
    tail_at = max(0, file.size - _END_RECORD.size - 0xFFFF - _LOCATOR_BYTES)
    tail = file.pread(file.size - tail_at, tail_at)
    at = len(tail)
    while (at := tail.rfind(_END, 0, at)) >= 0:
        if at + _END_RECORD.size > len(tail):
            continue
        *_, size, offset, _ = _END_RECORD.unpack_from(tail, at)
        end = tail_at + at
        if tail[max(0, at - _LOCATOR_BYTES) : at].startswith(_LOCATOR):
            record_at = end - _LOCATOR_BYTES - _END_RECORD_64.size
            record = file.pread(_END_RECORD_64.size, record_at)
            if record.startswith(_END_64):
                *_, size, offset = _END_RECORD_64.unpack(record)
                end = record_at
        start = end - size
        if start >= 0 and (file.pread(4, start) == _CENTRAL if size else file.pread(4, 0) != _LOCAL):
            return Directory(start, end, start - offset)
    return None


def walk_directory(file: JoinedFile, directory: Directory) -> Iterator[Entry]:
    """Every member in the directory's order.

    Raises:
        BrokenDirectory: it breaks off; what came before stands in it.
    """
    at, window, base = directory.start, b"", directory.start
    while at < directory.end:
        if at + _MAX_RECORD_BYTES > base + len(window) < directory.end:
            window, base = file.pread(min(READ_BYTES, directory.end - at), at), at
        place = at - base
        if len(window) - place < _CENTRAL_HEADER.size:
            raise BrokenDirectory
        signature, made_by, _, flags, method, _, _, crc, packed, size, *lengths, _, _, attributes, offset = (
            _CENTRAL_HEADER.unpack_from(window, place)
        )
        name_bytes, extra_bytes, comment_bytes = lengths
        name_at = place + _CENTRAL_HEADER.size
        extra_at = name_at + name_bytes
        raw, extra = window[name_at:extra_at], window[extra_at : extra_at + extra_bytes]
        at += _CENTRAL_HEADER.size + name_bytes + extra_bytes + comment_bytes
        if signature != _CENTRAL or at > directory.end:
            raise BrokenDirectory
        if _UNKNOWN in (size, packed, offset):
            size, packed, offset = _zip64(extra, size, packed, offset)
        kind = stat.S_IFMT(attributes >> 16) if made_by >> 8 == _UNIX else 0
        is_file = kind in (0, stat.S_IFREG) and not raw.endswith(b"/")
        member = Packed(method, flags, crc, packed, directory.shift)
        yield Entry(offset, 0, _name(raw, flags, extra), is_file, 0, size, packed=member)


def walk_headers(file: JoinedFile) -> Iterator[Entry]:
    """Every member by its own header, as far as the zip goes, and what of it cannot be read.

    Raises:
        NoArchive: there is not one member.
    """
    at, is_started = 0, False
    while at < file.size:
        entry = _local_entry(file, at)
        if entry is None:
            if is_started and file.pread(4, at) in (_CENTRAL, _END, _END_64):
                return
            following = _find_local(file, at + 1)
            if following is None and not is_started:
                raise NoArchive("no member's header in it")
            end = file.size if following is None else following
            yield lost(at, end, "no member's header where one should be")
            at = end
            continue
        yield entry
        at, is_started = entry.end, True
    if not is_started:
        raise NoArchive("it is empty")
    yield lost(file.size, None, "the zip ends before its directory")


def read(file: JoinedFile, entry: Entry) -> bytes:
    """A member's bytes, checked against their sum; at most one more than the zip announces is ever unpacked.

    Raises:
        Damaged: they are cut, encrypted, packed in a way that is not known, or their sum is wrong.
    """
    packed = entry.packed
    assert packed is not None
    if packed.flags & _ENCRYPTED:
        raise Damaged("it is encrypted")
    if packed.size > entry.size + entry.size // 8 + 1024:
        raise Damaged(f"{packed.size:,} bytes that unpack to {entry.size:,}")
    # Where bytes were lost or doubled, members before that place stand where the directory says.
    data_at = entry.data_at or _data_at(file, entry.at + packed.shift) or _data_at(file, entry.at)
    if not data_at:
        raise Damaged(f"no header of its own at byte {entry.at:,}")
    raw = file.pread(packed.size, data_at)
    if len(raw) < packed.size:
        raise Damaged(f"the zip ends {packed.size - len(raw):,} bytes before it does")
    try:
        data = _unpack(packed.method, raw, entry.size + 1)
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError, IndexError) as error:
        raise Damaged(str(error)) from error
    if zlib.crc32(data) != packed.crc:
        raise Damaged("its checksum is wrong (CRC-32)")
    return data


def _unpack(method: int, raw: bytes, limit: int) -> bytes:
    if method == _STORED:
        return raw
    if method == _DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, limit)
    if method == _BZIP2:
        return bz2.BZ2Decompressor().decompress(raw, limit)
    if method == _LZMA:
        return _unpack_lzma(raw, limit)
    raise Damaged(f"it is packed with method {method}, which is not known here")


def _unpack_lzma(raw: bytes, limit: int) -> bytes:
    """A member packed with LZMA: version, length of the properties (5), properties, data."""
    first = raw[4]
    properties = {
        "id": lzma.FILTER_LZMA1,
        "lc": first % 9,
        "lp": first // 9 % 5,
        "pb": first // 45,
        "dict_size": max(4096, min(limit, int.from_bytes(raw[5:9], "little"))),  # else it is what the zip says
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[properties]).decompress(raw[9:], limit)


def _data_at(file: JoinedFile, at: int) -> int:
    """Where the bytes of the member begin whose header is at `at`; 0 if there is none."""
    header = file.pread(_LOCAL_HEADER.size, at)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL):
        return 0
    return at + _LOCAL_HEADER.size + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _local_entry(file: JoinedFile, at: int) -> Entry | None:
    """The member whose header is at `at`; None for what is none, or is cut."""
    header = file.pread(_LOCAL_HEADER.size, at)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL):
        return None
    _, version, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    rest = file.pread(name_bytes + extra_bytes, at + _LOCAL_HEADER.size)
    if not name_bytes or len(rest) < name_bytes + extra_bytes:
        return None
    if version & 0xFF > _MAX_VERSION or method not in _METHODS:
        return None
    raw, extra = rest[:name_bytes], rest[name_bytes:]
    data_at = at + _LOCAL_HEADER.size + len(rest)
    if _UNKNOWN in (size, packed):
        size, packed, _ = _zip64(extra, size, packed, 0)
    end, error = data_at + packed, None
    # A member without bytes is followed by a header at once; else its sizes, whatever its flags say, stand behind them.
    if not packed and (flags & _HAS_DESCRIPTOR or file.pread(2, data_at) != b"PK"):
        end, error, crc, packed, size = _described(file, data_at)
    elif end > file.size:
        error = f"the zip ends {end - file.size:,} bytes before it does"
    is_file = not raw.endswith(b"/")
    member = Packed(method, flags, crc, packed)
    return Entry(at, end, _name(raw, flags, extra), is_file, data_at, size, error, packed=member)


def _described(file: JoinedFile, data_at: int) -> tuple[int, str | None, int, int, int]:
    """A member whose sizes stand behind its bytes: its end, what is wrong, its sum, its sizes packed and unpacked.

    The record behind is known by naming just as many bytes as stand before it; its signature may be left out.
    """
    for place in _find(file, _SIGNATURES, data_at):
        head, back = file.pread(28, place), file.pread(12, place - 12)
        packed = place - data_at
        if head.startswith(b"PK\7\x08"):
            crc, short, size = (int.from_bytes(head[n : n + 4], "little") for n in (4, 8, 12))
            if int.from_bytes(head[8:16], "little") == packed and head[24:26] == b"PK":
                return place + 24, None, crc, packed, int.from_bytes(head[16:24], "little")
            if short == packed & _UNKNOWN:
                return place + 16, None, crc, packed, size
        elif packed >= 12 and int.from_bytes(back[4:8], "little") == packed - 12:
            return place, None, int.from_bytes(back[:4], "little"), packed - 12, int.from_bytes(back[8:], "little")
        elif _is_local(head):
            return place, "how long it is stands nowhere", 0, packed, packed
    return file.size, "the zip ends before it does", 0, file.size - data_at, file.size - data_at


def _is_local(header: bytes) -> bool:
    """Whether the beginning of a member's header can be believed."""
    version, method = header[4:5], int.from_bytes(header[8:10], "little")
    return (
        header.startswith(_LOCAL)
        and version <= bytes((_MAX_VERSION,))
        and method in _METHODS
        and header[26:28] > b"\0\0"
    )


def _find_local(file: JoinedFile, start: int) -> int | None:
    """Where the first member from `start` on has its header."""
    places = _find(file, re.compile(re.escape(_LOCAL)), start)
    return next((place for place in places if _local_entry(file, place)), None)


def _find(file: JoinedFile, pattern: re.Pattern[bytes], start: int) -> Iterator[int]:
    """Where a signature of four bytes stands, from `start` on."""
    at = start
    while len(window := file.pread(READ_BYTES + 3, at)) >= 4:
        yield from (at + match.start() for match in pattern.finditer(window) if match.start() < READ_BYTES)
        at += READ_BYTES


def _field(extra: bytes, wanted: int) -> bytes:
    """The field of a number among a member's extra ones; nothing if it has none."""
    at = 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        if number == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _zip64(extra: bytes, *numbers: int) -> tuple[int, int, int]:
    """The numbers, those that do not fit into 32 bits from the zip64 field, which has them in the same order."""
    field = _field(extra, _ZIP64_FIELD)
    whole = []
    for number in numbers:
        if number == _UNKNOWN and len(field) >= 8:
            number, field = int.from_bytes(field[:8], "little"), field[8:]
        whole.append(number)
    size, packed, offset = whole
    return size, packed, offset


def _name(raw: bytes, flags: int, extra: bytes) -> str:
    """A member's name: UTF-8 where it can be that, and with the characters that were escaped."""
    if raw.isascii() and b"#" not in raw and not extra:
        return raw.decode("ascii")
    field = _field(extra, _NAME_FIELD)
    if field[:1] == b"\1" and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
        raw = field[5:]
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = raw.decode("utf-8", "replace") if flags & _UTF_8 else raw.decode("cp437")
    unescaped = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), name)
    if unescaped == name:
        return name
    # Windows' programs escape the two halves of a character beyond the first plane.
    return unescaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
