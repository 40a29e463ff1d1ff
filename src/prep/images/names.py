"""Hosts' names to IP addresses: asked once for all who want one, and remembered."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import aiodns
import pycares

SECONDS = 10.0  # for one lookup, all its tries together
TRIES = 2
AT_ONCE = 75  # lookups, of two questions each; name servers of home networks take 150
SIZE = 100_000  # names remembered
FRESH_SECONDS = (60.0, 3600.0)  # an answer is good for as long as it says, but within these
UNKNOWN_SECONDS = 300.0  # so long a name that does not exist is taken for that
FAILED_SECONDS = 60.0  # and a name that could not be looked up
RENEW_AFTER = 10_000  # lookups; c-ares remembers too, two kilobytes a name, and cannot be told to forget
_UNKNOWN = {
    pycares.errno.ARES_ENOTFOUND: "no such name",
    pycares.errno.ARES_ENODATA: "the name has no IP address",
    pycares.errno.ARES_EBADNAME: "no possible name of a host",
}
_FAILED = {
    pycares.errno.ARES_ESERVFAIL: "the name server cannot say (SERVFAIL)",
    pycares.errno.ARES_EREFUSED: "the name server refuses to say (REFUSED)",
    pycares.errno.ARES_ETIMEOUT: "no answer from the name server",
}


class UnknownName(Exception):
    """A host's name leads to no IP address; says why."""


class _Known(NamedTuple):
    until: float
    answer: tuple[str, ...] | UnknownName


class Names:
    """Looks names up, the way this machine's /etc/hosts and /etc/resolv.conf say; for one event loop.

    Args:
        servers: name servers, `address` or `address:port`; by default the machine's.
        resolv_conf: the file that names the machine's name servers.
        seconds: for one lookup.
    """

    def __init__(
        self, *, servers: Sequence[str] | None = None, resolv_conf: str = "/etc/resolv.conf", seconds: float = SECONDS
    ) -> None:
        self._servers, self._resolv_conf, self._seconds = servers, resolv_conf, min(seconds, SECONDS)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[_Known]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._under_way: Counter[aiodns.DNSResolver] = Counter()
        self._count = 0
        self._resolver: aiodns.DNSResolver | None = None

    def known(self, host: str) -> tuple[str, ...] | UnknownName | None:
        """What is known of a host without asking anybody: its addresses, why it has none, or None for nothing."""
        known = self._known.get(host)
        if known is None or known.until < monotonic():
            return None
        self._known.move_to_end(host)
        return known.answer

    async def addresses(self, host: str) -> tuple[str, ...]:
        """The IP addresses of a host, the best first, at least one.

        Raises:
            UnknownName: it has none.
        """
        answer = self.known(host)
        if answer is None:
            if host not in self._lookups:
                self._lookups[host] = asyncio.create_task(self._look_up(host))
            answer = (await asyncio.shield(self._lookups[host])).answer
        if isinstance(answer, UnknownName):
            raise UnknownName(*answer.args)  # a new one: each raising of an old one would add to its traceback
        return answer

    async def close(self) -> None:
        """Give up what is under way."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)
        if self._resolver is not None:
            await self._resolver.close()

    async def _look_up(self, host: str) -> _Known:
        """Ask for a host's addresses and remember the answer."""
        try:
            async with self._turns:
                known = await self._ask(host)
            self._known[host] = known
            self._known.move_to_end(host)
            if len(self._known) > SIZE:
                self._known.popitem(last=False)
            return known
        finally:
            del self._lookups[host]

    async def _ask(self, host: str) -> _Known:
        resolver = self._renewed_resolver()
        self._under_way[resolver] += 1
        try:
            async with asyncio.timeout(self._seconds):
                found = await resolver.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
            nodes = found.nodes
        except TimeoutError:
            return _unknown(_FAILED[pycares.errno.ARES_ETIMEOUT], FAILED_SECONDS)
        except ValueError as error:
            return _unknown(f"no possible name of a host: {error}", UNKNOWN_SECONDS)
        except aiodns.error.DNSError as error:
            return self._failure(*error.args)
        finally:
            self._under_way[resolver] -= 1
            if not self._under_way[resolver] and resolver is not self._resolver:
                del self._under_way[resolver]
                await resolver.close()
        if not nodes:
            return _unknown(_UNKNOWN[pycares.errno.ARES_ENODATA], UNKNOWN_SECONDS)
        shortest, longest = FRESH_SECONDS
        seconds = min(max(shortest, min(node.ttl for node in nodes)), longest)
        return _Known(monotonic() + seconds, _in_turns([node.addr[0].decode() for node in nodes]))

    def _renewed_resolver(self) -> aiodns.DNSResolver:
        if self._resolver is None or self._count >= RENEW_AFTER:
            # Names with a dot are first taken as they stand, and only then for names of the machine's own domain.
            self._resolver = aiodns.DNSResolver(
                self._servers, timeout=self._seconds / 5, tries=TRIES, ndots=1, resolvconf_path=self._resolv_conf
            )
            self._count = 0
        self._count += 1
        return self._resolver

    def _failure(self, code: int, words: str) -> _Known:
        """What an error of c-ares means."""
        if code in _UNKNOWN:
            return _unknown(_UNKNOWN[code], UNKNOWN_SECONDS)
        if code == pycares.errno.ARES_ECONNREFUSED:
            return _unknown(self._unreachable(), FAILED_SECONDS)
        return _unknown(_FAILED.get(code, words), FAILED_SECONDS)

    def _unreachable(self) -> str:
        file = Path(self._resolv_conf)
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        named = [words[1] for words in map(str.split, lines) if words[:1] == ["nameserver"] and len(words) > 1]
        servers = self._servers or named
        if not servers:
            return f"this machine has no name server ({self._resolv_conf} names none)"
        return f"no name server can be reached ({', '.join(servers)})"


def _unknown(words: str, seconds: float) -> _Known:
    return _Known(monotonic() + seconds, UnknownName(words))


def _in_turns(addresses: list[str]) -> tuple[str, ...]:
    """IPv6 and IPv4 by turns: where one of them leads nowhere, the next attempt is with the other."""
    kinds = [[ip for ip in addresses if (":" in ip) == is_6] for is_6 in (":" in addresses[0], ":" not in addresses[0])]
    return tuple(dict.fromkeys(ip for pair in zip_longest(*kinds) for ip in pair if ip))
