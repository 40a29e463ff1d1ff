"""Images from addresses: many at once, politely, never from where they must not come, and never without an end.

Every address ends in one `Fetched`: bytes, or the class of what went wrong.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar
from urllib.request import getproxies, proxy_bypass

from prep.config import Fetch
from prep.images.addresses import Address, follow, parse_address
from prep.images.names import Names, UnknownName
from prep.images.request import USER_AGENT, Answer, Fetched, Request
from prep.images.transfers import Transfers, within_open_files
from prep.images.turns import Host, Job, Turns
from prep.web import may_connect, proxy_addresses

__all__ = ["USER_AGENT", "Fetched", "Keep", "fetch_all"]

MAX_REDIRECTS = 5
MAX_PAUSE_SECONDS = 10.0
MAX_ERROR_BYTES = 300
RETRIED = {"connect", "timeout", "http_429", "http_5xx", "truncated"}
WINDOW = 8  # addresses read ahead, as a multiple of the connections
WATCH_SECONDS = 30.0  # beyond twice `Fetch.seconds`, an address under way is given up whatever holds it

_TOOK = re.compile(r" after \d+ (ms|milliseconds|seconds)\b")  # in curl's words: the index holds no times
_GIVEN_UP = Fetched("timeout", error="given up by the watchdog: nothing came of it, not even an error")
T = TypeVar("T")
Keep = Callable[[int, Fetched], Awaitable[None]]


def fetch_all(urls: Iterable[str], keep: Keep, fetch: Fetch, *, allow_private_hosts: bool, share: int = 1) -> None:
    """Fetch every address and hand each result, with its place in `urls`, to `keep` as it comes.

    `urls` is read as there is room: at most `fetch.connections` bodies and eight times as many addresses are in
    memory. An image whose result `keep` has not taken yet holds its connection's place.

    Args:
        keep: called once for each address; what it raises ends everything and comes out as itself.
        share: how many processes fetch at the same time; `fetch.connections` and `fetch.per_host` are for all of them.
    """
    asyncio.run(_Run(urls, keep, fetch, allow_private_hosts, share).run())


class _Stopped(Exception):
    """Ends all workers; `_Run.failure` says why."""


class _Run:
    """One call of `fetch_all`.

    Addresses become jobs, up to a window of them, which wait in `turns` for their host: until its name is looked up,
    a pause has passed, one of its places is free. Workers, one for each connection, take one after the other. What is
    to be asked again, or elsewhere, goes back to `turns`; what needs no asking goes to `settled`.
    """

    def __init__(self, urls: Iterable[str], keep: Keep, fetch: Fetch, allow_private_hosts: bool, share: int) -> None:
        self.urls = enumerate(urls)
        self.keep, self.fetch, self.allow_private_hosts = keep, fetch, allow_private_hosts
        self.connections = within_open_files(max(1, fetch.connections // share))
        self.turns = Turns(max(1, fetch.per_host // share), self.wake_one)
        self.settled: deque[tuple[int, Fetched]] = deque()
        self.unfinished = 0  # read, and not on the way to `keep` yet
        self.is_read = self.is_over = False
        self.idle: deque[asyncio.Future[None]] = deque()
        self.under_way: dict[asyncio.Task[None], float] = {}  # what asks a host or for its name, and since when
        self.given_up: set[asyncio.Task[None]] = set()
        self.failure: BaseException | None = None
        self.proxies = {scheme: url for scheme, url in getproxies().items() if scheme != "no"}
        self.proxy_ips = proxy_addresses() if self.proxies else set()

    async def run(self) -> None:
        """Do it all."""
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._on_broken)
        self.broken: asyncio.Future[None] = self.loop.create_future()
        self.names = Names(seconds=self.fetch.seconds)
        self.transfers = Transfers(2 * self.connections)
        try:
            async with asyncio.TaskGroup() as self.tasks:
                watch = self.tasks.create_task(self._watch())
                await asyncio.wait([self.tasks.create_task(self._work()) for _ in range(self.connections)])
                watch.cancel()
        except BaseExceptionGroup as errors:
            self.failure = self.failure or errors.exceptions[0]
        finally:
            self.is_over = True
            self.transfers.retire()
            await self.names.close()
            if self.broken.done():
                self.broken.exception()  # seen
        if self.failure is not None:
            raise self.failure

    # -- workers -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Take what is next, until there is nothing any more."""
        with ExitStack() as requests:
            request: Request | None = None
            while (turn := await self._next()) is not None:
                if not isinstance(turn, Job):
                    await self._give(*turn)
                    await asyncio.sleep(0)  # thousands of these in a row must not hold up what is under way
                    continue
                if request is None:
                    request = Request(
                        self.fetch, allow_private_hosts=self.allow_private_hosts, proxy_ips=self.proxy_ips
                    )
                    requests.callback(request.close)
                answer = await self._watched(self._ask(turn, request))
                if answer is None:
                    request = None
                    self.turns.release(turn.host)
                    self._settle(turn, _GIVEN_UP)
                elif fetched := self._judge(turn, answer):
                    turn.host.jobs -= 1
                    await self._give(turn.place, fetched)

    async def _next(self) -> Job | tuple[int, Fetched] | None:
        """A job to do, or a result to hand over, as soon as there is one; None when there will be none."""
        while True:
            while not self.is_read and self.unfinished < WINDOW * self.connections:
                self._read()
            if self.settled:
                return self.settled.popleft()
            if job := self.turns.take():
                return job
            if self.is_read and not self.unfinished:
                return None
            woken = self.loop.create_future()
            self.idle.append(woken)
            await woken

    async def _give(self, place: int, fetched: Fetched) -> None:
        """Hand a result over."""
        self.unfinished -= 1
        if self.is_read and not self.unfinished:
            while self.idle:
                self.wake_one()
        if fetched.error is not None:
            # A host's words need not be text that a parquet file can hold, nor one that a terminal should be shown.
            printable = "".join(letter if letter.isprintable() else "?" for letter in _TOOK.sub("", fetched.error))
            text = printable.encode(errors="replace")[:MAX_ERROR_BYTES].decode(errors="ignore")
            fetched = replace(fetched, error=text)
        try:
            await self.keep(place, fetched)
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise
            self.failure = self.failure or error
            raise _Stopped from error

    def wake_one(self) -> None:
        """Let an idle worker look for work."""
        while self.idle:
            woken = self.idle.popleft()
            if not woken.done():
                woken.set_result(None)
                return

    # -- jobs --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Make a job of the next address."""
        place, url = next(self.urls, (0, None))
        if url is None:
            self.is_read = True
            return
        self.unfinished += 1
        try:
            address = parse_address(url)
        except ValueError as error:
            self.settled.append((place, Fetched("bad_url", error=str(error))))
            return
        host = self.turns.host(address)
        host.jobs += 1
        self._enter(Job(place, address, address, host))

    def _enter(self, job: Job, is_next: bool = False) -> None:
        """Let a job wait for its turn, unless its result is known without asking."""
        if self.is_over:  # a pause was still to pass
            return
        host, address = job.host, job.address
        fetched: Fetched | None = None
        if host.is_dead(self.loop.time()):
            fetched = host.dead
        elif address.is_ip:
            # Checked again when it is connected to, but a proxy would do that for us.
            if host.ips or may_connect(address.host, allow_private_hosts=self.allow_private_hosts):
                host.ips = (address.host,)
            else:
                fetched = Fetched("blocked_address", error="not a public address")
        elif not (host.is_looked_up or self._proxy(address)):
            known = self.names.known(address.host)
            if known is None:
                self._start_lookup(host, address.host)
            elif isinstance(known, UnknownName):
                fetched = Fetched("dns", error=f"{known} (asked a short while ago)")
            else:
                host.ips = known
        if fetched is None:
            self.turns.add(job, is_next=is_next)
        else:
            self._settle(job, fetched)

    def _settle(self, job: Job, fetched: Fetched) -> None:
        """End a job that no worker has."""
        job.host.jobs -= 1
        self.settled.append((job.place, fetched))
        self.wake_one()

    def _start_lookup(self, host: Host, name: str) -> None:
        host.is_looked_up = True
        self.turns.hold(host)
        self.tasks.create_task(self._look_up(host, name))

    async def _look_up(self, host: Host, name: str) -> None:
        """Find a host's IP addresses; its jobs wait for that."""
        host.dead = _GIVEN_UP
        try:
            host.ips = await self._watched(self.names.addresses(name)) or ()
        except UnknownName as error:
            host.ips, host.dead = (), Fetched("dns", error=str(error))
        if not host.ips:
            self._settle_all(host)
        host.is_looked_up = False
        self.turns.let_go(host)

    def _settle_all(self, host: Host) -> None:
        """End all that wait for a host that cannot be reached."""
        while host.waiting:
            self._settle(host.waiting.popleft(), host.dead)

    def _proxy(self, address: Address) -> str:
        """The proxy that the environment names for an address, or ""."""
        if not self.proxies or proxy_bypass(f"{address.host}:{address.port}"):
            return ""
        return self.proxies.get(address.scheme) or self.proxies.get("all", "")

    # -- attempts ----------------------------------------------------------------------------------------------

    async def _ask(self, job: Job, request: Request) -> Answer:
        """Ask a job's host, and learn from the answer."""
        host, started = job.host, self.loop.time()
        proxy = self._proxy(job.address)
        ip = "" if proxy else host.ip
        seconds = self.fetch.seconds - job.spent_seconds
        answer = await request.get(self.transfers, job.address, ip, proxy, seconds)
        now = self.loop.time()
        job.spent_seconds += now - started
        if not proxy and host.learn(ip, answer, started, now):
            self._settle_all(host)
        self.turns.release(host)
        return answer

    def _judge(self, job: Job, answer: Answer) -> Fetched | None:
        """The job's result; None if it goes on."""
        fetched, pause = answer.fetched, answer.pause_seconds
        if answer.location is not None:
            return self._redirect(job, answer.location)
        if pause is not None:
            pause = min(pause, MAX_PAUSE_SECONDS)
            self.turns.hold(job.host)
            self.loop.call_later(pause, self.turns.let_go, job.host)
        if answer.reach in ("no way", "unreached") and job.unreached + 1 < len(job.host.ips):
            job.unreached += 1
            self._enter(job, is_next=True)  # at its next IP address
            return None
        is_last = job.attempt + 1 >= self.fetch.attempts or job.host.is_dead(self.loop.time())
        if fetched.status not in RETRIED or is_last:
            return fetched
        job.attempt += 1
        if pause is None:
            pause = min(0.25 * 4**job.attempt * random.uniform(0.5, 1.0), MAX_PAUSE_SECONDS)
        job.hops, job.unreached, job.spent_seconds = 0, 0, 0.0
        self._send(job, job.first)
        self.loop.call_later(pause, self._enter, job, True)
        return None

    def _redirect(self, job: Job, location: str) -> Fetched | None:
        """Follow a redirect ourselves, so that its host has its turn and its address is checked."""
        if job.hops == MAX_REDIRECTS:
            return Fetched("redirects", error=f"more than {MAX_REDIRECTS} redirects")
        try:
            address = follow(job.address.url, location)
        except ValueError as error:
            return Fetched("bad_url", error=str(error))
        job.hops, job.unreached = job.hops + 1, 0
        self._send(job, address)
        self._enter(job, is_next=True)
        return None

    def _send(self, job: Job, address: Address) -> None:
        """Give a job another address."""
        job.host.jobs -= 1
        job.address, job.host = address, self.turns.host(address)
        job.host.jobs += 1

    # -- the watchdog ------------------------------------------------------------------------------------------

    async def _watched(self, asking: Awaitable[T]) -> T | None:
        """Wait for what asks a host or for its name; None if the watchdog gives it up."""
        task = asyncio.current_task()
        assert task is not None
        self.under_way[task] = self.loop.time()
        try:
            return await asking
        except asyncio.CancelledError:
            if task not in self.given_up or task.uncancel():
                raise
            self.given_up.discard(task)
            return None
        finally:
            del self.under_way[task]

    async def _watch(self) -> None:
        """Give up what has been under way for longer than any time limit allows: something is wrong, and not there.

        Whatever comes after gets fresh handles and connections.
        """
        longest = 2 * self.fetch.seconds + WATCH_SECONDS
        while True:
            await asyncio.wait([self.broken], timeout=longest / 8)
            if self.broken.done():
                self.broken.result()
            late = [task for task, since in self.under_way.items() if self.loop.time() - since > longest]
            if late:
                self.transfers.retire()
                self.transfers = Transfers(2 * self.connections)
            for task in late:
                self.given_up.add(task)
                task.cancel()

    def _on_broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End everything for an error that came up where nobody waits for it, rather than wait for ever."""
        error = context.get("exception")
        if isinstance(error, Exception) and not self.broken.done():
            self.broken.set_exception(error)
        else:
            loop.default_exception_handler(context)
