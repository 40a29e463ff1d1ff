"""One part over http(s): its gaps filled, as often as that brings something new, and the whole checked."""

from __future__ import annotations

import random
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prep.errors import SourceError, WorkspaceError
from prep.files import hash_file
from prep.sources import Part
from prep.sources.answers import LATER, LOOK, Changed, WebPage, shown
from prep.sources.connection import Connection, Hopeless, Transient
from prep.sources.part_file import PartFile, Span, open_part
from prep.sources.sink import Sink

if TYPE_CHECKING:
    from prep.sources.transfer import Session

SEGMENT_BYTES = 64 << 20  # a part of more than two is fetched in ranges of this size, several at once
PROGRESS_BYTES = 1 << 20  # what counts as something new
RESTARTS = 2  # of a part whose bytes turn out not to belong together
RESERVE_BYTES = 1 << 30  # left free by a part of unknown size, for everything else on the disk
CONNECTIONS = 8  # of a session, over all its parts
MAX_PAUSE_SECONDS = 900.0  # a server that asks for more is left for another day


class PartTransfer:
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
        self.is_halted = self.has_answered = False  # answered: with the file, or a range of it
        self.file: PartFile
        self._target, self._headers = target, headers
        self._address, self._is_named = address or (lambda: part.url), is_named
        self._direct: str | None = None  # where redirects led to, while that works: the hub counts its own answers
        self._received = 0
        self._todo: deque[tuple[int, int | None]] = deque()
        self._taking = threading.Lock()
        self._helpers: list[threading.Thread] = []
        self._max_helpers = 0
        self._failure: BaseException | None = None

    @property
    def can_resume(self) -> bool:
        """Whether more bytes can be told to belong to those that are there."""
        return self.has_ranges is not False and (self.is_hashed or self.file.validator is not None)

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
            if _stamp(self._target) != before and (sha256 := self._is_brought()):  # by a process that was waited for
                return sha256
            with self.session.keeping(self.file):
                for _ in range(RESTARTS):
                    try:
                        return self._try()
                    except Changed:
                        self._restart()
                try:
                    return self._try()
                except Changed as problem:
                    self._restart()
                    raise SourceError(f"{self.shown}: {problem}, again and again", LATER) from problem

    def _is_brought(self) -> str | None:
        """The SHA-256 of the target if it is what the publisher says; None where not, or where only MD5 could tell."""
        part, sha256 = self.part, hash_file(self._target)
        is_size = part.size_bytes in (None, self._target.stat().st_size)
        return sha256 if is_size and (part.sha256 or sha256) == sha256 and not (part.md5 and not part.sha256) else None

    def tell(self, amount: int) -> None:
        """Count bytes that came."""
        self.session.count(amount)
        self._received += amount

    def first_end(self, start: int) -> int | None:
        """Where the first range from `start` ends, now that the size is known: the rest may come several at once."""
        is_large = self.total is not None and self.total - start > 2 * SEGMENT_BYTES
        return start + SEGMENT_BYTES if is_large else self.total

    def take_whole(self, span: Span, is_changed: bool) -> None:
        """Let `span` be the whole part, from its beginning: that is what the server gives instead of a range."""
        self.has_ranges = None if is_changed else False
        self._todo.clear()
        if self._helpers:
            raise Changed("changed at its publisher" if is_changed else "comes only as a whole")
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
                raise SourceError(f"{self.shown}: {problem}", LOOK) from problem
            except Transient as problem:
                failures = 1 if self._received - before >= PROGRESS_BYTES else failures + 1
                if failures >= problem.attempts:
                    raise SourceError(f"{self.shown}: {problem} ({failures} attempts)", problem.next_step) from problem
                if problem.pause is not None and problem.pause > MAX_PAUSE_SECONDS:
                    minutes = f"{problem.pause / 60:,.0f} minutes" if problem.pause < 86400 else "more than a day"
                    raise SourceError(
                        f"{self.shown}: {problem}, and asks to wait {minutes}",
                        "Run the same command then; what has come is kept.",
                    ) from problem
                self.session.pause(back_off(failures) if problem.pause is None else problem.pause)

    def _fill(self) -> None:
        if self.total == 0:  # of nothing, too, the server has to say that it is so
            with self.session.connection() as connection:
                self._get(connection, 0, None)
        while gaps := self.file.gaps(self.total):
            self._failure, self.is_halted = None, False
            if self.file.kept and not self.can_resume:
                self._restart()
                gaps = [(0, self.total)]
            if self.total is not None and self.total > 2 * SEGMENT_BYTES and self.has_ranges is not False:
                self._fill_in_ranges(gaps)
            else:
                with self.session.connection() as connection:
                    self._get(connection, *gaps[0])

    def _fill_in_ranges(self, gaps: list[tuple[int, int | None]]) -> None:
        """Fill the gaps in pieces, in order, with as many connections as are free."""
        self._todo, self._max_helpers = deque(gaps), CONNECTIONS
        try:
            with self.session.connection() as connection:
                while (piece := self._next()) is not None:
                    self._get(connection, *piece, on_ranges=self._enlist)
        except BaseException:
            self.is_halted = True
            raise
        finally:
            for helper in self._helpers:
                helper.join()
            self._helpers.clear()
        if self._failure is not None:
            raise self._failure

    def _next(self) -> tuple[int, int] | None:
        """A piece that nobody has taken yet; None for no more."""
        with self._taking:
            if self.is_halted or not self._todo:
                return None
            start, end = self._todo.popleft()
            assert end is not None, "only a part of known size is fetched in ranges"
            middle = min(start + SEGMENT_BYTES, end)
            if middle < end:
                self._todo.appendleft((middle, end))
            return start, middle

    def _enlist(self) -> None:
        """Let connections that nobody uses take pieces too."""
        while self._todo and len(self._helpers) < self._max_helpers and self.session.slots.acquire(blocking=False):
            helper = threading.Thread(target=self._help, daemon=True)
            self._helpers.append(helper)
            helper.start()

    def _help(self) -> None:
        try:
            with self.session.connection() as connection:
                while (piece := self._next()) is not None:
                    self._get(connection, *piece)
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
            sink = Sink(self, span, on_ranges)
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
                if sink.is_unsure:
                    self._confirm_end(url)
            except (Transient, SourceError) as error:
                self._direct = None  # a signed address runs out, and another host may do better
                if direct is None or isinstance(error, Transient | WebPage):
                    raise
                raise Transient("the address it redirects to has run out", pause=0.0) from error
            finally:
                sink.close()
        if direct is None and response.url != url:
            self._direct = response.url

    def _confirm_end(self, url: str) -> None:
        """Ask how long the part is, after an answer that ended without saying so."""
        size = self.session.ask(url, self._request_headers(0, None, url), is_named=self._is_named).size_bytes
        if size is not None and self.total is not None and size > self.total:
            came, self.total = self.total, self.part.size_bytes
            raise Transient(f"{came} bytes came, the server has {size}")

    def check_room(self, size_bytes: int, *, is_all: bool = True) -> None:
        """See whether the disk has room for bytes that no plan knew of.

        Args:
            is_all: nothing comes after them; else some room has to be left for others.

        Raises:
            WorkspaceError: it has not; what came of the part is thrown away, to leave the disk as it was.
        """
        disk = shutil.disk_usage(self._target.parent)
        reserve = 0 if is_all else min(RESERVE_BYTES, disk.total // 20)
        if size_bytes + reserve > disk.free:
            needed = f"{self.file.kept + size_bytes:,} bytes {'are' if is_all else 'and more are'} to come"
            self._restart()
            raise WorkspaceError(
                f"{self.shown} does not fit: {needed}, {disk.free / 1e9:,.1f} GB are free in {self._target.parent}",
                "Free some space, or let raw/ be a link to a larger disk.",
            )

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
            raise Changed("its unfinished file was changed by something else")
        hashes = file.hashes()
        for kind, wanted in (("sha256", part.sha256), ("md5", part.md5)):
            if wanted and kind in hashes and hashes[kind] != wanted.lower():
                if file.is_mixed:
                    raise Changed(f"{kind} is {hashes[kind]}, its publisher says {wanted}")
                self._restart()
                raise SourceError(
                    f"{self.shown}: {kind} is {hashes[kind]}, its publisher says {wanted}",
                    "The file changed or was damaged on its way. Run again; then check the publisher's page.",
                )
        file.finish()
        return hashes["sha256"]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes when another file gets this name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, never quite the same."""
    return min(0.5 * 2.0**failures, 60.0) * random.uniform(0.5, 1.0)
