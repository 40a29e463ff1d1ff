"""Compressed tars: what a gzip, bzip2 or xz stream unpacks to, from its beginning to its end."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from contextlib import suppress

from prep.images.joined import JoinedFile

MAGIC = {"gzip": b"\x1f\x8b\x08", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0"}
READ_BYTES = 64 << 10
PIECE_BYTES = 1 << 20


class Unpacked:
    """What a compressed stream unpacks to. It is a `tars.Source` that can only be read forward.

    Several streams one after the other are one, as for the programs that write them.

    Attributes:
        floor: the first byte still at hand.
        size: bytes unpacked so far; of all once a read has come out short.
        fault: why no more can be unpacked, where it did not end as it should.
    """

    def __init__(self, file: JoinedFile, kind: str) -> None:
        self.floor = self.size = 0
        self.fault: str | None = None
        self._file = file
        self._kind = kind
        self._kept = 0
        self._buffer = bytearray()
        self._read_at = 0
        self._pieces = self._unpack()

    def keep(self, at: int) -> None:
        """Let go of everything before `at`."""
        self._kept = at
        self._drop()

    def pread(self, size: int, at: int) -> bytes:
        """`size` bytes from `at` on, which must not be before `floor`; fewer where the stream ends."""
        while self.size < at + size and (piece := next(self._pieces, None)):
            self._buffer += piece
            self.size += len(piece)
            self._drop()
        start = at - self.floor
        with memoryview(self._buffer) as view:
            return bytes(view[start : start + size])

    def _drop(self) -> None:
        surplus = min(self._kept, self.size) - self.floor
        if surplus > 0:
            del self._buffer[:surplus]
            self.floor += surplus

    def _read(self) -> bytes:
        data = self._file.pread(READ_BYTES, self._read_at)
        self._read_at += len(data)
        return data

    def _unpack(self) -> Iterator[bytes]:
        """Pieces of what is unpacked, none empty; sets `fault`."""
        data = self._read()
        while data:
            decoder = _decoder(self._kind)
            while not decoder.eof:
                yield from decoder.unpack(data)
                if decoder.error:
                    self.fault = f"the {self._kind} stream is damaged after {self.size:,} bytes: {decoder.error}"
                    return
                data = b"" if decoder.eof else self._read()
                if not data and not decoder.eof:
                    self.fault = f"the {self._kind} stream ends after {self.size:,} bytes, too early"
                    return
            data = decoder.rest.lstrip(b"\0")
            while not data and (more := self._read()):
                data = more.lstrip(b"\0")
            data += self._read() if data else b""
            if data and not data.startswith(MAGIC[self._kind]):
                self.fault = f"after {self.size:,} bytes something else follows the {self._kind} stream"
                return


class _Decoder:
    """bzip2 and xz; what came out before an error is kept, but for the last piece.

    Attributes:
        error: what is wrong with the stream.
    """

    def __init__(self, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._decoder = decoder
        self.error: str | None = None

    @property
    def eof(self) -> bool:
        """Whether the stream's end was met."""
        return self._decoder.eof

    @property
    def rest(self) -> bytes:
        """What follows the stream's end."""
        return self._decoder.unused_data

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What `data` unpacks to, in pieces of bounded size."""
        try:
            while piece := self._decoder.decompress(data, PIECE_BYTES):
                yield piece
                data = b""
                if self._decoder.eof or self._decoder.needs_input:
                    return
        except (OSError, lzma.LZMAError, EOFError, ValueError) as error:  # bzip2's is an OSError without a number
            self.error = str(error)


class _Gzip:
    """gzip; every byte that came out before an error is kept.

    Attributes:
        error: what is wrong with the stream.
    """

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.error: str | None = None

    @property
    def eof(self) -> bool:
        """Whether the stream's end was met."""
        return self._decoder.eof

    @property
    def rest(self) -> bytes:
        """What follows the stream's end."""
        return self._decoder.unused_data

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """What `data` unpacks to, in pieces of bounded size."""
        is_more = True
        while is_more and not self._decoder.eof:
            before = self._decoder.copy()  # takes 0.5 us
            try:
                piece = self._decoder.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                self.error = str(error)
                piece = _salvage(before, data)
            if piece:
                yield piece
            data = self._decoder.unconsumed_tail
            is_more = self.error is None and (bool(data) or len(piece) == PIECE_BYTES)


def _salvage(decoder: zlib._Decompress, data: bytes) -> bytes:
    """What comes out before the error that is known to be met."""
    pieces = bytearray()
    with suppress(zlib.error):
        for byte in data:
            pieces += decoder.decompress(bytes((byte,)))
    return bytes(pieces)


def _decoder(kind: str) -> _Decoder | _Gzip:
    if kind == "gzip":
        return _Gzip()
    return _Decoder(bz2.BZ2Decompressor() if kind == "bzip2" else lzma.LZMADecompressor(lzma.FORMAT_XZ))
