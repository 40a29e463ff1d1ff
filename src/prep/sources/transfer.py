"""Parts over http(s): resumed, in several ranges at once, verified, and with a clear end when nothing helps.

A `Session` is shared by all transfers of one download. `Session.bring` fills a part's file in ranges until there is no
gap left; whatever breaks on the way only leaves a smaller gap for the next attempt, in this process or another.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from prep.errors import SourceError
from prep.progress import Advance, event
from prep.sources import Part
from prep.sources.answers import LOOK, Refused, WebPage, asked_pause, shown, size_of
from prep.sources.connection import Connection, Hopeless, Response, Stop, Transient
from prep.sources.part_file import PartFile, partial_bytes
from prep.sources.part_transfer import CONNECTIONS, MAX_PAUSE_SECONDS, PartTransfer, back_off

__all__ = ["Answer", "Refused", "Session", "WebPage", "partial_bytes"]

ASK_ATTEMPTS = 3
TOLD_SECONDS = 5.0  # a shorter wait is not worth a word
FLUSH_SECONDS = 0.5  # how often what came is made safe


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
            return PartTransfer(self, part, target, headers or {}, address, is_named).run()

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
                return Answer(answer.status, size_of(answer), answer.headers, bytes(body[:limit]), answer.url)
            except Transient as problem:
                if attempt == ASK_ATTEMPTS:
                    raise SourceError(f"{shown(url)}: {problem}", problem.next_step) from problem
                self.pause(back_off(attempt))
            except Hopeless as problem:
                raise SourceError(f"{shown(url)}: {problem}", LOOK) from problem
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
        if not seconds or seconds > MAX_PAUSE_SECONDS:
            return
        until, before = time.monotonic() + seconds, self._not_before.get(response.host, 0.0)
        self._not_before[response.host] = max(until, before)
        if seconds >= TOLD_SECONDS and until > before + TOLD_SECONDS:  # once, whichever transfers hear of it
            event("wait", host=response.host, seconds=round(seconds))

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
                with suppress(
                    OSError
                ):  # what is not safe yet is fetched again at worst; a full disk is told by writers
                    file.flush()
