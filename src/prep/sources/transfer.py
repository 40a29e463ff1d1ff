"""Parts over http(s): resumed, in several ranges at once, verified, and with a clear end when nothing helps.

A `Session` is shared by all transfers of one download. `Session.bring` fills a part's file in ranges until there is no
gap left; whatever breaks on the way only leaves a smaller gap for the next attempt, in this process or another.
"""

from __future__ import annotations

import random
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from prep.errors import SourceError
from prep.files import hash_file
from prep.progress import Advance
from prep.sources import Part
from prep.sources.connection import Connection, Hopeless, Response, Stop, Transient
from prep.sources.part_file import JOURNAL_FROM_BYTES, PartFile, Span, open_part, partial_bytes
from prep.web import retry_after

__all__ = ["Answer", "Refused", "Session", "WebPage", "partial_bytes"]

CONNECTIONS = 8  # of a session, over all its parts
ASK_ATTEMPTS = 3
SEGMENT_BYTES = 64 << 20  # a part of more than two is fetched in ranges of this size, several at once
PROGRESS_BYTES = 1 << 20  # what counts as something new
RESTARTS = 2  # of a part whose bytes turn out not to belong together
FLUSH_SECONDS = 0.5  # how often what came is made safe
BATCH_BYTES = 512 << 10  # libcurl hands over 16 kB at a time; written together they cost half
MAX_PAUSE_SECONDS = 900.0  # a server that asks for more is left for another day
PAGE_BYTES = 64 << 10
_LOOK = "Check the address on the publisher's page, or give another source in prep.yaml."
_LATER = "Run the same command later; finished parts are kept."
RETRIED = {408, 425, 429, 500, 502, 503, 504}
RATE_LIMIT = re.compile(r"r\s*=\s*(\d+)\s*;\s*t\s*=\s*(\d+)")  # of the hub, IETF draft-ietf-httpapi-ratelimit-headers


class Refused(SourceError):
    """The server answers 401 or 403: terms to accept, a token to give, or an address that has run out."""


class WebPage(SourceError):
    """A web page came where a file should be.

    Attributes:
        html: its beginning.
    """

    html = ""


class _Changed(Exception):
    """What comes does not belong to what is there."""


@dataclass(frozen=True)
class Answer:
    """What a server says of an address.

    Attributes:
        size_bytes: of the whole file; None where it does not say.
        headers: names in lower case.
        body: its beginning, as much as was asked for.
        url: where it came from, after redirects.
    """

    status: int
    size_bytes: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    url: str = ""


class Session:
    """Connections, limits and manners shared by all transfers of one download; a context manager.

    Args:
        advance: told of bytes as they come, and of their negative when they are thrown away.
        allow_private_hosts: let redirects, and addresses that no configuration names, lead to private hosts.
        deadline: moment of `time.monotonic()` after which nothing goes on.
    """

    def __init__(
        self,
        advance: Advance = lambda amount: None,
        *,
        allow_private_hosts: bool = False,
        deadline: float | None = None,
    ) -> None:
        self.advance = advance
        self.slots = threading.Semaphore(CONNECTIONS)
        self._deadline = deadline
        self._connect = partial(Connection, allow_private_hosts=allow_private_hosts, named=set())
        self._idle: deque[Connection] = deque()
        self._not_before: dict[str, float] = {}
        self._files: set[PartFile] = set()
        self._is_closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._lock, self._counting = threading.Lock(), threading.Lock()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing.set()
        if self._keeper is not None:
            self._keeper.join()
        while self._idle:
            self._idle.pop().close()

    def bring(
        self,
        part: Part,
        target: Path,
        headers: Mapping[str, str] | None = None,
        *,
        address: Callable[[], str] | None = None,
        is_named: bool = True,
    ) -> str:
        """Bring `part` to `target`, check size and hash against what its publisher says, and give its SHA-256.

        Args:
            headers: sent to the part's own host, not to where it redirects.
            address: gives the address to ask, anew each time (signed ones run out); by default the part's url.
            is_named: whether the configuration names the host, which then may be private.

        Raises:
            Refused, WebPage, SourceError: it cannot be had, or its bytes are not the publisher's. What came of it
                stays, where the next run can go on from it.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.slots:
            return _Transfer(self, part, target, headers or {}, address, is_named).run()

    def ask(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        limit: int = 0,
        seconds: float | None = None,
        is_named: bool = True,
    ) -> Answer:
        """What the server says of `url` after redirects, with at most `limit` bytes of the body.

        Args:
            seconds: stop reading the body after this time.

        Raises:
            SourceError: it cannot be asked (an answer of 4xx or 5xx is an answer).
        """
        body = bytearray()
        until = time.monotonic() + seconds if seconds is not None else float("inf")

        def on_body(data: bytes) -> None:
            body.extend(data)
            if len(body) >= limit or time.monotonic() > until:
                raise Stop

        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if not limit:
            sent["Range"] = "bytes=0-0"
        for attempt in range(1, ASK_ATTEMPTS + 1):
            body.clear()
            try:
                with self.connection() as connection:
                    self.wait_for(url)
                    answer = connection.get(url, sent, self.note, on_body, is_named=is_named, on_redirect=self.note)
                return Answer(answer.status, _size(answer), answer.headers, bytes(body[:limit]), answer.url)
            except Transient as problem:
                if attempt == ASK_ATTEMPTS:
                    raise lost(shown(url), str(problem)) from problem
                self.pause(_back_off(attempt))
            except Hopeless as problem:
                raise SourceError(f"{shown(url)}: {problem}", _LOOK) from problem
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for one thread."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._idle.append(connection)

    def count(self, amount: int) -> None:
        """Tell of bytes that came, from any thread."""
        if amount:
            with self._counting:
                self.advance(amount)

    def check_time(self) -> None:
        """Do nothing while there is time.

        Raises:
            SourceError: the deadline has passed.
        """
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise SourceError("the time given with --deadline is over", "Run the same command to go on from here.")

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the deadline."""
        until = time.monotonic() + seconds
        if self._deadline is not None:
            until = min(until, self._deadline)
        time.sleep(max(0.0, until - time.monotonic()))
        self.check_time()

    def wait_for(self, url: str) -> None:
        """Wait until the host of `url` may be asked again."""
        seconds = self._not_before.get(urlsplit(url).netloc, 0.0) - time.monotonic()
        if seconds > 0:
            self.pause(seconds)

    def note(self, response: Response) -> None:
        """Keep away from a host for as long as it asks, all transfers together."""
        seconds = asked_pause(response)
        if seconds and seconds <= MAX_PAUSE_SECONDS:
            self._not_before[response.host] = time.monotonic() + seconds

    @contextmanager
    def keeping(self, file: PartFile) -> Iterator[None]:
        """Make what comes of `file` safe from time to time."""
        with self._lock:
            self._files.add(file)
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, daemon=True)
                self._keeper.start()
        try:
            yield
        finally:
            with self._lock:
                self._files.remove(file)

    def _keep(self) -> None:
        while not self._is_closing.wait(FLUSH_SECONDS):
            with self._lock:
                files = list(self._files)
            for file in files:
                file.flush()


class _Transfer:
    """One part on its way."""

    def __init__(
        self,
        session: Session,
        part: Part,
        target: Path,
        headers: Mapping[str, str],
        address: Callable[[], str] | None,
        is_named: bool,
    ) -> None:
        self.session, self.part = session, part
        self.shown = shown(part.url)
        self.total = part.size_bytes
        self.has_ranges: bool | None = None  # None: not known yet
        self.is_halted = False
        self.file: PartFile
        self._target, self._headers = target, headers
        self._address, self._is_named = address or (lambda: part.url), is_named
        self._direct: str | None = None  # where redirects led to, while that works: the hub counts its own answers
        self._received = 0
        self._todo: deque[tuple[int, int]] = deque()
        self._helpers: list[threading.Thread] = []
        self._max_helpers = 0
        self._failure: BaseException | None = None

    @property
    def is_hashed(self) -> bool:
        """Whether the publisher gives a hash, so that bytes from anywhere can be trusted in the end."""
        return bool(self.part.sha256 or self.part.md5)

    def run(self) -> str:
        """Bring it; its SHA-256."""
        part = self.part
        key = part.sha256 or part.md5 or part.identity
        hashes = ("sha256", "md5") if part.md5 and not part.sha256 else ("sha256",)
        before = _stamp(self._target)
        with open_part(self._target, key, self.session.check_time, hashes) as self.file:
            if _stamp(self._target) != before:  # another process has brought it while this one waited
                return hash_file(self._target)
            if self.file.kept and not self.is_hashed and not self.file.validator:
                self.file.reset()
            with self.session.keeping(self.file):
                for _ in range(RESTARTS):
                    try:
                        return self._try()
                    except _Changed:
                        self._restart()
                try:
                    return self._try()
                except _Changed as problem:
                    self._restart()
                    raise SourceError(f"{self.shown}: {problem}, again and again", _LATER) from problem

    @property
    def has_come(self) -> bool:
        """Whether the server has given any bytes of it."""
        return self._received > 0

    def tell(self, amount: int) -> None:
        """Count bytes that came."""
        self.session.count(amount)
        self._received += amount

    def take_whole(self, span: Span, is_changed: bool) -> None:
        """Let `span` be the whole part, from its beginning: that is what the server gives instead of a range."""
        self.has_ranges = None if is_changed else False
        self._todo.clear()
        if self._helpers:
            raise _Changed("changed at its publisher" if is_changed else "comes only as a whole")
        if span.start:
            self._restart()
            self.file.take(span)
        span.end = self.total

    def _restart(self) -> None:
        self.tell(-self._received)
        self.file.reset()
        self.total = self.part.size_bytes

    def _try(self) -> str:
        """Fill every gap, as often as that brings something new, and check the whole."""
        failures = 0
        while True:
            before = self._received
            try:
                self._fill()
                return self._settle()
            except Hopeless as problem:
                raise SourceError(f"{self.shown}: {problem}", _LOOK) from problem
            except Transient as problem:
                failures = 1 if self._received - before >= PROGRESS_BYTES else failures + 1
                if failures >= problem.attempts:
                    raise lost(self.shown, f"{problem} ({failures} attempts)") from problem
                if problem.pause is not None and problem.pause > MAX_PAUSE_SECONDS:
                    raise SourceError(
                        f"{self.shown}: {problem}, and asks to wait {problem.pause / 60:,.0f} minutes",
                        "Run the same command then; what has come is kept.",
                    ) from problem
                self.session.pause(_back_off(failures) if problem.pause is None else problem.pause)

    def _fill(self) -> None:
        while gaps := self.file.gaps(self.total):
            self._failure, self.is_halted = None, False
            if self.total is not None and self.total > 2 * SEGMENT_BYTES and self.has_ranges is not False:
                self._fill_in_ranges(gaps)
            else:
                with self.session.connection() as connection:
                    self._get(connection, *gaps[0])

    def _fill_in_ranges(self, gaps: list[tuple[int, int | None]]) -> None:
        """Fill the gaps in pieces, in order, with as many connections as are free."""
        self._todo, self._max_helpers = deque(piece for gap in gaps for piece in _pieces(gap)), CONNECTIONS
        try:
            with self.session.connection() as connection:
                while self._todo and not self.is_halted:
                    self._get(connection, *self._todo.popleft(), on_ranges=self._enlist)
        except BaseException:
            self.is_halted = True
            raise
        finally:
            for helper in self._helpers:
                helper.join()
            self._helpers.clear()
        if self._failure is not None:
            raise self._failure

    def _enlist(self) -> None:
        """Let connections that nobody uses take pieces too."""
        while (
            len(self._todo) > len(self._helpers)
            and len(self._helpers) < self._max_helpers
            and self.session.slots.acquire(blocking=False)
        ):
            helper = threading.Thread(target=self._help, daemon=True)
            self._helpers.append(helper)
            helper.start()

    def _help(self) -> None:
        try:
            with self.session.connection() as connection:
                while not self.is_halted:
                    self._get(connection, *self._todo.popleft())
        except IndexError:  # nothing left to do
            return
        except Transient as problem:  # what it has not brought stays a gap
            if problem.pause != 0:  # the host may not like so many connections
                self._max_helpers -= 1
        except BaseException as error:
            self._failure = self._failure or error
            self.is_halted = True
        finally:
            self.session.slots.release()

    def _get(
        self, connection: Connection, start: int, end: int | None, on_ranges: Callable[[], None] = lambda: None
    ) -> None:
        """Fill one gap, or as much of it as comes."""
        self.session.check_time()
        direct = self._direct
        url = direct or self._address()
        self.session.wait_for(url)
        with self.file.claim(start, end) as span:
            sink = _Sink(self, span, on_ranges)
            try:
                response = connection.get(
                    url,
                    self._request_headers(start, end, url),
                    sink.on_response,
                    sink.on_body,
                    is_named=self._is_named and direct is None,
                    on_redirect=self.session.note,
                )
                sink.end()
            except (Transient, SourceError) as error:
                self._direct = None  # a signed address runs out, and another host may do better
                if direct is None or isinstance(error, Transient | WebPage):
                    raise
                raise Transient("the address it redirects to has run out", pause=0.0) from error
            finally:
                sink.close()
        if direct is None and response.url != url:
            self._direct = response.url

    def _request_headers(self, start: int, end: int | None, url: str) -> dict[str, str]:
        same_host = urlsplit(url).netloc == urlsplit(self.part.url).netloc
        headers = {"Accept-Encoding": "identity", **(self._headers if same_host else {})}
        if start or (end is not None and end != self.total):
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            if self.file.validator and not self.is_hashed:
                headers["If-Range"] = self.file.validator[1]
        return headers

    def _settle(self) -> str:
        """Compare the whole with what the publisher says, and give it its name."""
        part, file = self.part, self.file
        if file.size_bytes != self.total:
            raise _Changed("its unfinished file was changed by something else")
        hashes = file.hashes()
        for kind, wanted in (("sha256", part.sha256), ("md5", part.md5)):
            if wanted and kind in hashes and hashes[kind] != wanted.lower():
                if file.is_mixed:
                    raise _Changed(f"{kind} is {hashes[kind]}, its publisher says {wanted}")
                self._restart()
                raise SourceError(
                    f"{self.shown}: {kind} is {hashes[kind]}, its publisher says {wanted}",
                    "The file changed or was damaged on its way. Run again; then check the publisher's page.",
                )
        file.finish()
        return hashes["sha256"]


class _Sink:
    """What one answer brings, on its way into its span."""

    def __init__(self, transfer: _Transfer, span: Span, on_ranges: Callable[[], None]) -> None:
        self._transfer, self._span, self._on_ranges = transfer, span, on_ranges
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._write_at = time.monotonic() + FLUSH_SECONDS
        self._page: bytearray | None = None
        self._decoder: zlib._Decompress | None = None
        self._may_be_page = False

    def on_response(self, response: Response) -> None:
        """Look at the headers: is this what was asked for?"""
        transfer, span = self._transfer, self._span
        transfer.session.note(response)
        self._check_status(response)
        is_changed = self._compare_validator(response)
        if response.status == 206:
            total = self._check_range(response)
        else:
            if span.start or is_changed or span.end != transfer.total:
                transfer.take_whole(span, is_changed)
            total = self._length(response)
        self._take_total(total, response)
        transfer.file.is_mixed = transfer.file.is_mixed or span.start > 0
        if transfer.total is None or transfer.total > JOURNAL_FROM_BYTES:
            transfer.file.hash_along()
        if transfer.has_ranges:
            self._on_ranges()

    def _check_status(self, response: Response) -> None:
        status, shown = response.status, self._transfer.shown
        if status in RETRIED:
            raise Transient(f"the server answers {status}", asked_pause(response))
        if status in (401, 403) and self._transfer.has_come:  # signed addresses run out, servers lose their nerve
            raise Transient(f"the server answers {status}")
        if status in (401, 403):
            raise Refused(
                f"{shown}: the server answers {status}, access refused",
                "Accept the dataset's terms on its page, then set HF_TOKEN or run `hf auth login`.",
            )
        if status == 416:
            raise _Changed("is shorter than what came of it before")
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
            return False
        if file.validator is None:
            file.validator = [response.host, value]
        # Hosts that share the work may each have their own; then the publisher's hash has to tell.
        return file.validator[1] != value and (file.validator[0] == response.host or not self._transfer.is_hashed)

    def _check_range(self, response: Response) -> int | None:
        """The whole size that a Content-Range tells."""
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("content-range", ""))
        if match is None or int(match[1]) != self._span.start:
            self._transfer.has_ranges = False
            raise _Changed(f"comes in other ranges than asked for ({response.headers.get('content-range')})")
        if self._transfer.file.validator is not None and self._compare_validator(response):
            raise _Changed("changed at its publisher")
        self._transfer.has_ranges = True
        return None if match[3] == "*" else int(match[3])

    def _length(self, response: Response) -> int | None:
        """The size that a whole answer announces; None where it does not, or is packed for the journey."""
        length = response.headers.get("content-length", "")
        size = int(length) if length.isdigit() else None
        encoding = response.headers.get("content-encoding", "identity").lower()
        part = self._transfer.part
        # Hosts send a `.gz` as Content-Encoding: gzip, and a part stays as published.
        if encoding == "identity" or size == part.size_bytes is not None or part.path.endswith((".gz", ".tgz")):
            return size
        if encoding not in ("gzip", "x-gzip"):
            raise Hopeless(f"the server sends it packed as {encoding}, though asked not to")
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
            raise Transient(f"the server offers {total} bytes, {size} were announced")
        if total is not None and transfer.total is not None and total != transfer.total:
            raise _Changed("changed its size at its publisher")
        if transfer.total is None and total is not None:
            transfer.total = span.end = total
            ranges = response.status == 206 or response.headers.get("accept-ranges") == "bytes"
            if ranges and total - span.start > 2 * SEGMENT_BYTES:  # the rest in ranges, several at once
                span.end = span.start + SEGMENT_BYTES
        is_sure = size is not None and size == total
        self._may_be_page = not (span.start or is_sure or transfer.part.path.lower().endswith((".html", ".htm")))

    def on_body(self, data: bytes) -> None:
        """Put what comes into its place."""
        if self._decoder is not None:
            data = self._decoder.decompress(data)
        if self._page is not None or (self._may_be_page and _is_html(data)):
            self._page = (self._page or bytearray()) + data
            if len(self._page) >= PAGE_BYTES:
                raise Stop
            return
        self._may_be_page = False
        self._batch.append(data)
        self._batch_bytes += len(data)
        if self._batch_bytes >= BATCH_BYTES or time.monotonic() >= self._write_at:
            self.write()

    def write(self) -> None:
        """Write what came since the last time."""
        transfer, span, batch, size = self._transfer, self._span, self._batch, self._batch_bytes
        if transfer.is_halted:
            raise Stop
        transfer.session.check_time()
        self._batch, self._batch_bytes, self._write_at = [], 0, time.monotonic() + FLUSH_SECONDS
        room = size if span.end is None else span.end - span.position
        if room < size:
            batch = [b"".join(batch)[:room]]
        transfer.file.write(span, batch)
        transfer.tell(min(room, size))
        if room < size:
            if span.end == transfer.total and not transfer.is_hashed:  # a hash can tell whether the rest matters
                raise _Changed(f"is longer than the announced {transfer.total} bytes")
            raise Stop

    def close(self) -> None:
        """Save what came before the answer broke off."""
        if self._batch and not self._transfer.is_halted:
            with suppress(Stop, _Changed, SourceError):  # the failure on its way tells more
                self.write()

    def end(self) -> None:
        """See whether the answer ended where it should."""
        transfer, span = self._transfer, self._span
        if self._page is not None:
            raise _web_page(transfer.shown, bytes(self._page))
        if transfer.is_halted:
            return
        with suppress(Stop):
            self.write()
        if self._decoder is not None and not self._decoder.eof:
            raise Transient("the connection was closed in the middle of the packed file")
        if span.end is None:
            transfer.total = span.position
        elif span.position < span.end:
            raise Transient(f"{span.position} bytes came, {span.end} were announced")


def asked_pause(response: Response) -> float | None:
    """Seconds for which the server wants to be left alone, from Retry-After or the hub's RateLimit."""
    seconds = retry_after(response.headers.get("retry-after", "")) if response.status in RETRIED else None
    limit = RATE_LIMIT.search(response.headers.get("ratelimit", ""))
    if seconds is None and limit and int(limit[1]) == 0:
        seconds = int(limit[2]) + 1.0  # it counts in whole seconds
    return seconds


def shown(url: str) -> str:
    """An address as it may be shown: without a user's name, a signature or a key."""
    address = urlsplit(url)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"


def lost(where: str, reason: str) -> SourceError:
    """The error for a failure that might have passed and did not."""
    return SourceError(f"{where}: {reason}", "Check the network, then run the same command; what has come is kept.")


def _web_page(where: str, html: bytes) -> WebPage:
    text = html.decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>\s*(.*?)\s*</title", text, re.IGNORECASE | re.DOTALL)
    called = f" ({' '.join(title[1].split())[:100]!r})" if title else ""
    error = WebPage(f"{where}: a web page{called} came in place of the file", _LOOK)
    error.html = text
    return error


def _is_html(data: bytes) -> bool:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _pieces(gap: tuple[int, int | None]) -> Iterator[tuple[int, int]]:
    start, end = gap
    assert end is not None, "only a part of known size is fetched in ranges"
    for position in range(start, end, SEGMENT_BYTES):
        yield position, min(position + SEGMENT_BYTES, end)


def _size(response: Response) -> int | None:
    """The whole file's size by an answer's headers."""
    value = response.headers.get("content-range", "").rpartition("/")[2] if response.status == 206 else None
    value = response.headers.get("content-length", "") if value is None else value
    return int(value) if value.isdigit() and "content-encoding" not in response.headers else None


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes when another file gets this name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _back_off(failures: int) -> float:
    return min(0.5 * 2.0**failures, 60.0) * random.uniform(0.5, 1.0)
