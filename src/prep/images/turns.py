"""Whose turn it is: addresses wait by host, so that a busy host holds up nobody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from prep.images.addresses import Address
from prep.images.request import Answer, Fetched

DEAD_AFTER_FAILURES = 3  # a host is dead that did not answer so many attempts, one after the other,
DEAD_AFTER_SECONDS = 5.0  # over at least so long,
BUSY_AFTER_SECONDS = 60.0  # or so long asked for pauses and got them;
DEAD_SECONDS = 180.0  # it is not asked again for so long
MAX_HOSTS = 20_000  # remembered, beside those with work
_NOT_REACHED = Fetched("connect")


@dataclass(slots=True, eq=False)
class Host:
    """A host and port, and what was learned of it.

    Attributes:
        jobs: read and not ended.
        active: being asked for right now.
        holds: reasons to leave it alone for now: its name is looked up, or it asked for a pause.
        is_looked_up: its name is being looked up.
        ips: its IP addresses; none where a proxy knows them.
        best: counts up when an IP address proves wrong.
        failures: attempts in a row that got no answer, or (`is_busy`) only the wish to be left alone; those side by
            side count once.
        failing_since, failed_at: when the first and the last of these ended.
        dead, dead_until: what all its addresses end in until then, without being asked for.
    """

    jobs: int = 0
    active: int = 0
    holds: int = 0
    is_ready: bool = False
    waiting: deque[Job] = field(default_factory=deque)
    is_looked_up: bool = False
    ips: tuple[str, ...] = ()
    best: int = 0
    failures: int = 0
    is_busy: bool = False
    failing_since: float = 0.0
    failed_at: float = 0.0
    dead: Fetched = _NOT_REACHED
    dead_until: float = 0.0

    @property
    def ip(self) -> str:
        """The IP address to ask; "" for none."""
        return self.ips[self.best % len(self.ips)] if self.ips else ""

    def is_dead(self, now: float) -> bool:
        """Whether it is not to be asked."""
        return self.dead_until > now

    def learn(self, ip: str, answer: Answer, started: float, now: float) -> bool:
        """Remember what became of an attempt at `ip`; True if the host is dead now."""
        is_busy = answer.pause_seconds is not None
        if answer.reach == "answered" and not is_busy:
            self.failures, self.dead_until = 0, 0.0
            return False
        if answer.reach != "answered" and ip == self.ip:
            self.best += 1
        if answer.reach == "no way":
            return False
        if self.failures == 0 or is_busy != self.is_busy:
            self.failures, self.failing_since, self.is_busy = 1, now, is_busy
        elif started >= self.failed_at:
            self.failures += 1
        else:
            return False
        self.failed_at = now
        is_long = now - self.failing_since >= (BUSY_AFTER_SECONDS if is_busy else DEAD_AFTER_SECONDS)
        if is_long and self.failures >= max(DEAD_AFTER_FAILURES, len(self.ips)):
            words = f"{answer.fetched.error} (as in {self.failures} attempts in a row: not asked again for a while)"
            self.dead, self.dead_until = replace(answer.fetched, error=words), now + DEAD_SECONDS
            return True
        return False


@dataclass(slots=True, eq=False)
class Job:
    """One image on its way.

    Attributes:
        place: in the list.
        first: its address in the list; `address` is where redirects led to, at `host`.
        attempt: from 0.
        hops: redirects in this attempt.
        unreached: IP addresses of `host` tried in vain in this attempt.
        spent_seconds: on this attempt so far.
    """

    place: int
    first: Address
    address: Address
    host: Host
    attempt: int = 0
    hops: int = 0
    unreached: int = 0
    spent_seconds: float = 0.0


class Turns:
    """Jobs that wait for a host to have a free place.

    Args:
        per_host: at once.
        on_ready: called when there is one more job to take.
    """

    def __init__(self, per_host: int, on_ready: Callable[[], None]) -> None:
        self._per_host, self._on_ready = per_host, on_ready
        self._hosts: dict[tuple[str, int], Host] = {}
        self._max_hosts = MAX_HOSTS
        self._ready: deque[Host] = deque()

    def host(self, address: Address) -> Host:
        """The host of an address, with what was learned of it."""
        key = (address.host, address.port)
        host = self._hosts.get(key)
        if host is None:
            if len(self._hosts) >= self._max_hosts:
                self._hosts = {key: host for key, host in self._hosts.items() if host.jobs}
                self._max_hosts = len(self._hosts) + MAX_HOSTS
            host = self._hosts[key] = Host()
        return host

    def add(self, job: Job, *, is_next: bool = False) -> None:
        """Let a job wait for its host, at the end of the row or at its front."""
        if is_next:
            job.host.waiting.appendleft(job)
        else:
            job.host.waiting.append(job)
        self._offer(job.host)

    def take(self) -> Job | None:
        """The next job that may start, each host in its turn; None where all have to wait."""
        while self._ready:
            host = self._ready.popleft()
            host.is_ready = False
            if host.waiting and not host.holds:
                host.active += 1
                job = host.waiting.popleft()
                self._offer(host)
                return job
        return None

    def release(self, host: Host) -> None:
        """Say that a job that was taken needs its host no longer."""
        host.active -= 1
        self._offer(host)

    def hold(self, host: Host) -> None:
        """Start no job at a host until `let_go`; may be called again."""
        host.holds += 1

    def let_go(self, host: Host) -> None:
        """Take back one `hold`."""
        host.holds -= 1
        self._offer(host)

    def _offer(self, host: Host) -> None:
        if host.waiting and not host.is_ready and not host.holds and host.active < self._per_host:
            host.is_ready = True
            self._ready.append(host)
            self._on_ready()
