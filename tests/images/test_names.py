"""Names to IP addresses, asked of a name server of our own."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiodns
import pytest

from prep.images import names
from prep.images.names import Names, UnknownName

A, AAAA, CNAME = 1, 28, 5
ERRORS = {"servfail": 2, "nxdomain": 3, "refused": 5}


class NameServer(asyncio.DatagramProtocol):
    """Answers from a dict: name -> (type, TTL, data) of each record, `silence`, or the name of an error.

    Attributes:
        asked: (name, type) -> how often.
        delay_seconds: before an answer.
    """

    def __init__(self) -> None:
        self.known: dict[str, list[tuple[int, int, str]] | str] = {}
        self.asked: Counter[tuple[str, int]] = Counter()
        self.delay_seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, sender: tuple[str | Any, int]) -> None:
        end, labels = 12, []
        while size := data[end]:
            labels.append(data[end + 1 : end + 1 + size].decode())
            end += 1 + size
        kind = struct.unpack("!H", data[end + 1 : end + 3])[0]
        name = ".".join(labels)
        self.asked[name, kind] += 1
        known = self.known.get(name, "nxdomain")
        if known == "silence":
            return
        code = ERRORS[known] if isinstance(known, str) else 0
        records = [r for r in known if r[0] in (kind, CNAME)] if not isinstance(known, str) else []
        answer = data[:2] + struct.pack("!5H", 0x8180 | code, 1, len(records), 0, 0) + data[12 : end + 5]
        for record, ttl, value in records:
            packed = (
                b"".join(bytes([len(part)]) + part.encode() for part in value.split(".")) + b"\0"
                if record == CNAME
                else socket.inet_pton(socket.AF_INET if record == A else socket.AF_INET6, value)
            )
            owner = b"\xc0\x0c"
            answer += owner + struct.pack("!HHIH", record, 1, ttl, len(packed)) + packed
        asyncio.get_running_loop().call_later(self.delay_seconds, self._transport.sendto, answer, sender)


@asynccontextmanager
async def lookups(**options: Any) -> AsyncIterator[tuple[NameServer, Names]]:
    """A running name server, and names that come from it."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    found = Names(servers=[f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"], **options)
    try:
        yield server, found
    finally:
        await found.close()
        transport.close()


async def reason(found: Names, host: str) -> str:
    with pytest.raises(UnknownName) as caught:
        await found.addresses(host)
    return str(caught.value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `names` takes for the time; tests move it."""
    now = [1000.0]
    monkeypatch.setattr(names, "monotonic", lambda: now[0])
    return now


def test_names_lead_to_addresses_of_both_kinds_by_turns() -> None:
    async def test() -> None:
        async with lookups() as (server, found):
            server.known["four.example"] = [(A, 300, "192.0.2.1"), (A, 300, "192.0.2.2")]
            server.known["six.example"] = [(AAAA, 300, "2001:db8::1")]
            server.known["both.example"] = [(A, 9, f"192.0.2.{n}") for n in (1, 2)] + [(AAAA, 9, "2001:db8::1")]
            assert set(await found.addresses("four.example")) == {"192.0.2.1", "192.0.2.2"}
            assert await found.addresses("six.example") == ("2001:db8::1",)
            both = await found.addresses("both.example")
            assert sorted(both) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"] and ":" in "".join(both[:2])

    asyncio.run(test())


def test_by_turns() -> None:
    assert names._in_turns(["1", "2", "::1", "3", "::2", "1"]) == ("1", "::1", "2", "::2", "3")
    assert names._in_turns(["::1", "::2", "1"]) == ("::1", "1", "::2")


@pytest.mark.parametrize(("ttl", "fresh_seconds"), [(0, 60), (59, 60), (61, 61), (3599, 3599), (86_400, 3600)])
def test_an_answer_is_good_for_as_long_as_it_says_within_bounds(
    clock: list[float], ttl: int, fresh_seconds: float
) -> None:
    async def test() -> None:
        async with lookups() as (server, found):
            server.known["a.example"] = [(A, ttl, "192.0.2.1"), (A, 100_000, "192.0.2.2")]
            assert found.known("a.example") is None
            first = await found.addresses("a.example")
            clock[0] += fresh_seconds - 0.1
            assert found.known("a.example") == first and await found.addresses("a.example") == first
            assert server.asked["a.example", A] == 1
            clock[0] += 0.2
            assert found.known("a.example") is None and set(await found.addresses("a.example")) == set(first)

    asyncio.run(test())


def test_what_is_not_there_is_said_in_words_and_remembered(clock: list[float]) -> None:
    words = {
        "gone.example": ("nxdomain", "no such name", names.UNKNOWN_SECONDS),
        "empty.example": ([], "the name has no IP address", names.UNKNOWN_SECONDS),
        "mail.example": ([(CNAME, 60, "other.example")], "the name has no IP address", names.UNKNOWN_SECONDS),
        "broken.example": ("servfail", "the name server cannot say (SERVFAIL)", names.FAILED_SECONDS),
        "closed.example": ("refused", "the name server refuses to say (REFUSED)", names.FAILED_SECONDS),
        "mute.example": ("silence", "no answer from the name server", names.FAILED_SECONDS),
    }

    async def test() -> None:
        async with lookups(seconds=0.4) as (server, found):
            server.known |= {name: what for name, (what, _, _) in words.items()}  # type: ignore[misc]
            said = dict(zip(words, await asyncio.gather(*(reason(found, name) for name in words)), strict=True))
            assert said == {name: text for name, (_, text, _) in words.items()}
            asked = server.asked.copy()
            for name, (_, text, _) in words.items():
                known = found.known(name)
                assert isinstance(known, UnknownName) and str(known) == text == await reason(found, name)
            assert server.asked == asked and asked["mute.example", A] == names.TRIES
            clock[0] += names.FAILED_SECONDS + 1
            assert {name for name in words if found.known(name) is None} == {
                name for name, (_, _, seconds) in words.items() if seconds == names.FAILED_SECONDS
            }
            clock[0] += names.UNKNOWN_SECONDS
            assert {name for name in words if found.known(name) is None} == set(words)

    asyncio.run(test())


def test_names_that_cannot_be_are_not_asked_for() -> None:
    async def test() -> None:
        async with lookups() as (server, found):
            for name in ("a..b", f"{'a' * 64}.example", "a." * 200 + "example", "xn--\udce9"):
                assert await reason(found, name)
            assert server.asked == {}

    asyncio.run(test())


def test_what_is_no_name_needs_no_name_server() -> None:
    async def test() -> None:
        async with lookups() as (server, found):
            assert await found.addresses("127.0.0.9") == ("127.0.0.9",)
            assert await found.addresses("2001:db8::1") == ("2001:db8::1",)
            assert set(await found.addresses("localhost")) <= {"127.0.0.1", "::1"}
            assert server.asked == {}

    asyncio.run(test())


def test_the_hosts_file_is_honoured() -> None:
    lines = [line.split("#")[0].split() for line in Path("/etc/hosts").read_text().splitlines()]
    own = [words for words in lines if len(words) > 1 and "localhost" not in words[1] and ":" not in words[0]]
    if not own:
        pytest.skip("/etc/hosts has nothing but localhost")

    async def test() -> None:
        async with lookups() as (server, found):
            assert own[0][0] in await found.addresses(own[0][1])
            assert server.asked == {}

    asyncio.run(test())


def test_many_who_ask_for_one_name_ask_the_server_once_and_some_may_leave() -> None:
    async def test() -> None:
        async with lookups() as (server, found):
            server.known["a.example"] = [(A, 300, "192.0.2.1")]
            server.delay_seconds = 0.1
            asking = [asyncio.create_task(found.addresses("a.example")) for _ in range(50)]
            await asyncio.sleep(0.02)
            asking[0].cancel()
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert isinstance(answers[0], asyncio.CancelledError) and set(answers[1:]) == {("192.0.2.1",)}
            assert server.asked == {("a.example", A): 1, ("a.example", AAAA): 1}

    asyncio.run(test())


def test_only_so_many_lookups_at_once_and_those_who_wait_lose_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "AT_ONCE", 5)
    under_way = most = 0
    ask = Names._ask

    async def counted(self: Names, host: str) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await ask(self, host)
        finally:
            under_way -= 1

    monkeypatch.setattr(Names, "_ask", counted)

    async def test() -> None:
        async with lookups(seconds=0.5) as (server, found):
            server.delay_seconds = 0.1
            hosts = [f"a{n}.example" for n in range(40)]
            server.known |= {host: [(A, 300, "192.0.2.1")] for host in hosts}
            assert set(await asyncio.gather(*map(found.addresses, hosts))) == {("192.0.2.1",)}
            assert most == 5

    asyncio.run(test())


def test_what_is_remembered_is_bounded_and_the_longest_unused_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SIZE", 10)

    async def test() -> None:
        async with lookups() as (server, found):
            hosts = [f"a{n}.example" for n in range(15)]
            server.known |= {host: [(A, 300, "192.0.2.1")] for host in hosts}
            for host in hosts:
                await found.addresses(host)
                await found.addresses(hosts[0])
            assert [host for host in hosts if found.known(host)] == [hosts[0], *hosts[6:]]

    asyncio.run(test())


def test_resolvers_are_renewed_without_losing_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "RENEW_AFTER", 7)
    made: list[aiodns.DNSResolver] = []
    closed: list[aiodns.DNSResolver] = []

    class Resolver(aiodns.DNSResolver):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

        async def close(self) -> None:
            closed.append(self)
            await super().close()

    monkeypatch.setattr(aiodns, "DNSResolver", Resolver)

    async def test() -> None:
        async with lookups() as (server, found):
            server.delay_seconds = 0.05
            hosts = [f"a{n}.example" for n in range(60)]
            server.known |= {host: [(A, 300, "192.0.2.1")] for host in hosts}
            assert set(await asyncio.gather(*map(found.addresses, hosts))) == {("192.0.2.1",)}

    asyncio.run(test())
    assert len(made) == 9 and sorted(map(id, closed)) == sorted(map(id, made))


def test_a_machine_without_a_name_server_is_told_from_one_whose_name_server_is_down(tmp_path: Path) -> None:
    none, down = tmp_path / "none", tmp_path / "down"
    none.write_text("# nobody here\noptions timeout:1\n")
    down.write_text("nameserver 127.0.0.77\n")

    async def test() -> None:
        for file, words in [
            (none, f"this machine has no name server ({none} names none)"),
            (tmp_path / "missing", f"this machine has no name server ({tmp_path / 'missing'} names none)"),
            (down, "no name server can be reached (127.0.0.77)"),
        ]:
            found = Names(resolv_conf=str(file), seconds=2)
            assert await reason(found, "a.example") == words
            assert set(await found.addresses("localhost")) <= {"127.0.0.1", "::1"}
            await found.close()

    asyncio.run(test())


def test_closing_gives_up_what_is_under_way() -> None:
    async def test() -> None:
        async with lookups() as (server, found):
            server.known["mute.example"] = "silence"
            asking = asyncio.create_task(found.addresses("mute.example"))
            await asyncio.sleep(0.05)
        with pytest.raises(asyncio.CancelledError):
            await asking

    started = time.monotonic()
    asyncio.run(test())
    assert time.monotonic() - started < 2
