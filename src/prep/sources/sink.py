"""One answer on its way into a part's file: looked at, unpacked, written in its place."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from prep.errors import PrepError, SourceError
from prep.sources.answers import ANEW, LATER, RETRIED, Changed, Refused, asked_pause, is_html, number, web_page
from prep.sources.connection import Hopeless, Response, Stop, Transient
from prep.sources.part_file import JOURNAL_FROM_BYTES, Span

if TYPE_CHECKING:
    from prep.sources.part_transfer import PartTransfer

BATCH_BYTES = 512 << 10  # libcurl hands over 16 kB at a time; written together they cost half
WRITE_SECONDS = 0.5  # but what comes slowly is not held back
PAGE_BYTES = 64 << 10
CODINGS = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}


class Sink:
    """What one answer brings, on its way into its span."""

    def __init__(self, transfer: PartTransfer, span: Span, on_ranges: Callable[[], None]) -> None:
        self._transfer, self._span, self._on_ranges = transfer, span, on_ranges
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._write_at = time.monotonic() + WRITE_SECONDS
        self._page: bytearray | None = None
        self._decoder: zlib._Decompress | None = None
        self._may_be_page = False
        self._is_open_ended = False

    def on_response(self, response: Response) -> None:
        """Look at the headers: is this what was asked for?"""
        transfer, span = self._transfer, self._span
        transfer.session.note(response)
        self._check_status(response)
        transfer.has_answered = True
        is_changed = self._compare_validator(response)
        if response.status == 206:
            total = self._check_range(response, is_changed)
        else:
            if span.start or is_changed or span.end != transfer.total:
                transfer.take_whole(span, is_changed)
            total = self._length(response)
        self._take_total(total, response)
        transfer.file.is_mixed = transfer.file.is_mixed or span.start > 0
        self._is_open_ended = total is None and self._decoder is None
        self._is_open_ended &= response.headers.get("transfer-encoding", "").lower() != "chunked"
        if transfer.total is None or transfer.total > JOURNAL_FROM_BYTES:
            transfer.file.hash_along()
        if transfer.has_ranges:
            self._on_ranges()

    def _check_status(self, response: Response) -> None:
        status, shown = response.status, self._transfer.shown
        if status in RETRIED:
            raise Transient(f"the server answers {status}", asked_pause(response), next_step=LATER)
        if status in (401, 403) and self._transfer.has_answered:  # signed addresses run out, servers lose their nerve
            raise Transient(f"the server answers {status}")
        if status in (401, 403):
            raise Refused(
                f"{shown}: the server answers {status}, access refused",
                "Does the publisher ask for an account or terms? See its page, or give another source in prep.yaml.",
            )
        if status == 416 and (self._span.start or self._span.end != self._transfer.total):
            raise Changed("is shorter than what came of it before")
        if status not in (200, 206):
            raise SourceError(
                f"{shown}: the server answers {status}",
                "Has the publisher moved the file? Check its page, or give another source in prep.yaml.",
            )

    def _compare_validator(self, response: Response) -> bool:
        """Whether this is another version of the file than the one that bytes are there of."""
        file, etag = self._transfer.file, response.headers.get("etag", "")
        value = etag if etag and not etag.startswith("W/") else response.headers.get("last-modified")
        if not value:
            return file.validator is not None and not self._transfer.is_hashed
        if file.validator is None:
            file.validator = [response.host, value]
        # Hosts that share the work may each have their own; then the publisher's hash has to tell.
        return file.validator[1] != value and (file.validator[0] == response.host or not self._transfer.is_hashed)

    def _check_range(self, response: Response, is_changed: bool) -> int | None:
        """The whole size that a Content-Range tells."""
        transfer = self._transfer
        given = response.headers.get("content-range", "")
        match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", given)
        if match is None or int(match[1]) != self._span.start:
            transfer.has_ranges = False
            raise Changed(f"comes in other ranges than asked for ({given})")
        if is_changed:
            raise Changed("changed at its publisher")
        total = number(match[3])
        if not transfer.can_resume or self._is_packed(response, total) or (total or transfer.total) is None:
            transfer.has_ranges = False
            raise Changed("comes in ranges that nobody can tell to belong together")
        transfer.has_ranges = True
        return total

    def _is_packed(self, response: Response, size: int | None) -> bool:
        """Whether an answer is packed for the journey; a `.gz` that its host calls so stays as published."""
        coding, part = response.headers.get("content-encoding", "").lower(), self._transfer.part
        is_published_so = size == part.size_bytes is not None or part.path.endswith((".gz", ".tgz"))
        return coding in CODINGS and not is_published_so

    def _length(self, response: Response) -> int | None:
        """The size that a whole answer announces; None where it does not, or is packed for the journey."""
        size = number(response.headers.get("content-length", ""))
        if not self._is_packed(response, size):
            return size
        coding = response.headers["content-encoding"].lower()
        if coding not in ("gzip", "x-gzip"):
            raise Hopeless(f"the server sends it packed as {coding}, though asked not to")
        self._decoder = zlib.decompressobj(31)
        self._transfer.has_ranges = False
        return None

    def _take_total(self, total: int | None, response: Response) -> None:
        transfer, span = self._transfer, self._span
        size = transfer.part.size_bytes
        if total is not None and size is not None and total != size:
            if response.headers.get("content-type", "").startswith("text/html"):
                self._page = bytearray()
                return
            raise Transient(f"the server offers {total} bytes, {size} were announced", next_step=ANEW)
        if total is not None and transfer.total is not None and total != transfer.total:
            raise Changed("changed its size at its publisher")
        if transfer.total is None and total is not None:
            transfer.total = span.end = total
            transfer.check_room(total - transfer.file.kept)
            if transfer.can_resume and (response.status == 206 or response.headers.get("accept-ranges") == "bytes"):
                span.end = transfer.first_end(span.start)
        is_sure = size is not None and size == total
        self._may_be_page = not (span.start or is_sure or transfer.part.path.lower().endswith((".html", ".htm")))

    def on_body(self, data: bytes) -> None:
        """Put what comes into its place."""
        if self._decoder is not None:
            data = self._unpack(data)
        if self._page is not None or (self._may_be_page and is_html(data)):
            self._page = (self._page or bytearray()) + data
            if len(self._page) >= PAGE_BYTES:
                raise Stop
            return
        self._may_be_page = False
        self._batch.append(data)
        self._batch_bytes += len(data)
        if self._batch_bytes >= BATCH_BYTES or time.monotonic() >= self._write_at:
            self.write()

    def _unpack(self, data: bytes) -> bytes:
        """The bytes that were packed; a packed file may have several members, one after the other."""
        assert self._decoder is not None
        unpacked = b""
        try:
            while data:
                if self._decoder.eof:
                    self._decoder = zlib.decompressobj(31)
                unpacked += self._decoder.decompress(data)
                data = self._decoder.unused_data
        except zlib.error as error:
            raise Transient(f"what the server packed cannot be unpacked: {error}") from error
        return unpacked

    def write(self) -> None:
        """Write what came since the last time."""
        transfer, span, batch, size = self._transfer, self._span, self._batch, self._batch_bytes
        if transfer.is_halted:
            raise Stop
        transfer.session.check_time()
        self._batch, self._batch_bytes, self._write_at = [], 0, time.monotonic() + WRITE_SECONDS
        if span.end is None:
            transfer.check_room(size, is_all=False)
        room = size if span.end is None else span.end - span.position
        if room < size:
            batch = [b"".join(batch)[:room]]
        transfer.file.write(span, batch)
        transfer.tell(min(room, size))
        if room < size:
            if span.end == transfer.total and not transfer.is_hashed:  # a hash can tell whether the rest matters
                raise Changed(f"is longer than the announced {transfer.total} bytes")
            raise Stop

    def close(self) -> None:
        """Save what came before the answer broke off."""
        if self._batch and not self._transfer.is_halted:
            with suppress(Stop, Changed, PrepError):  # the failure on its way tells more
                self.write()

    @property
    def is_unsure(self) -> bool:
        """Whether an answer that told no length might have been longer."""
        return self._is_open_ended and not self._transfer.is_hashed

    def end(self) -> None:
        """See whether the answer ended where it should."""
        transfer, span = self._transfer, self._span
        if self._page is not None:
            raise web_page(transfer.shown, bytes(self._page))
        if transfer.is_halted:
            return
        with suppress(Stop):
            self.write()
        if self._decoder is not None and not self._decoder.eof:
            raise Transient("the connection was closed in the middle of the packed file")
        if span.end is None:
            transfer.total = span.position
        elif span.position < span.end:
            raise Transient(f"{span.position} bytes came, {span.end} were announced", next_step=ANEW)
