"""Who is next, and which hosts are given up."""

from __future__ import annotations

import pytest

from prep.images import turns
from prep.images.addresses import parse_address
from prep.images.request import Answer, Fetched
from prep.images.turns import Host, Job, Turns

REACHED = Answer(Fetched("http_404"))
UNREACHED = Answer(Fetched("connect", error="refused"), reach="unreached")


def row(rows: Turns, *urls: str) -> None:
    """Let jobs wait."""
    for place, url in enumerate(urls):
        address = parse_address(url)
        host = rows.host(address)
        host.jobs += 1
        rows.add(Job(place, address, address, host))


def taken(rows: Turns) -> list[str]:
    """What may start now, in order."""
    found = []
    while job := rows.take():
        found.append(job.address.url)
    return found


def test_hosts_take_turns_and_each_has_its_places() -> None:
    ready: list[None] = []
    rows = Turns(2, lambda: ready.append(None))
    row(rows, *(f"http://a/{n}" for n in range(4)), "http://b/0", "http://A:80/4", "http://a:81/0")
    assert taken(rows) == ["http://a/0", "http://b/0", "http://a:81/0", "http://a/1"]
    rows.release(rows.host(parse_address("http://b")))
    assert taken(rows) == []
    rows.release(rows.host(parse_address("http://a")))
    assert taken(rows) == ["http://a/2"] and len(ready) == 5


def test_what_goes_on_is_before_what_waits() -> None:
    rows = Turns(1, lambda: None)
    row(rows, "http://a/0", "http://a/1", "http://a/2")
    job = rows.take()
    assert job is not None
    rows.release(job.host)
    rows.add(job, is_next=True)
    assert rows.take() is job


def test_a_host_is_held_until_all_reasons_have_passed() -> None:
    rows = Turns(9, lambda: None)
    row(rows, "http://a/0", "http://a/1", "http://b/0")
    host = rows.host(parse_address("http://a"))
    rows.hold(host)
    rows.hold(host)
    assert taken(rows) == ["http://b/0"]
    rows.let_go(host)
    assert taken(rows) == []
    rows.let_go(host)
    assert taken(rows) == ["http://a/0", "http://a/1"]


def test_hosts_without_work_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_HOSTS", 10)
    rows = Turns(1, lambda: None)
    busy = [rows.host(parse_address(f"http://busy-{n}")) for n in range(8)]
    for host in busy:
        host.jobs = 1
    for n in range(1000):
        rows.host(parse_address(f"http://idle-{n}"))
        assert len(rows._hosts) <= 18
    assert all(rows.host(parse_address(f"http://busy-{n}")) is host for n, host in enumerate(busy))


def learn(host: Host, *moments: tuple[float, float], answer: Answer = UNREACHED) -> bool:
    """Let attempts start and end at these moments; whether the host is dead after them."""
    return [host.learn(host.ip, answer, start, end) for start, end in moments][-1]


def test_a_host_is_dead_after_some_attempts_in_a_row_over_some_seconds() -> None:
    host = Host(ips=("192.0.2.1",))
    assert not learn(host, (0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
    assert learn(host, (5, 6)) and host.is_dead(6 + turns.DEAD_SECONDS - 1)
    assert not host.is_dead(6 + turns.DEAD_SECONDS)
    assert host.dead.status == "connect" and "refused (as in 6 attempts" in str(host.dead.error)
    # Still not there when it is tried again: one attempt is enough.
    assert learn(host, (200, 201))
    assert not learn(host, (202, 203), answer=REACHED) and not host.is_dead(203)
    assert not learn(host, (210, 220), (220, 230))


def test_attempts_side_by_side_are_one() -> None:
    host = Host(ips=("192.0.2.1",))
    assert not learn(host, *((0, 10 + n / 100) for n in range(100)))
    assert not learn(host, *((10.5, 20.5) for _ in range(100)))
    assert learn(host, (20.6, 30.6))


def test_every_answer_in_between_counts() -> None:
    host = Host(ips=("192.0.2.1",))
    for moment in range(0, 1000, 20):
        assert not learn(host, (moment, moment + 9), (moment + 9, moment + 18))
        assert not learn(host, (moment, moment + 19), answer=REACHED)


def test_a_host_with_many_addresses_is_tried_at_all_of_them() -> None:
    host = Host(ips=tuple(f"192.0.2.{n}" for n in range(6)))
    tried = []
    for moment in range(0, 60, 10):
        assert not host.is_dead(moment)
        tried.append(host.ip)
        learn(host, (moment, moment + 9))
    assert sorted(tried) == sorted(host.ips) and host.is_dead(60)
    before = host.ip
    host.learn("192.0.2.99", UNREACHED, 60, 61)
    assert host.ip == before


def test_a_network_that_is_down_kills_no_host() -> None:
    host = Host(ips=("2001:db8::1", "192.0.2.1"))
    no_way = Answer(Fetched("connect", error="Network is unreachable"), reach="no way")
    assert not learn(host, *((moment, moment) for moment in range(101)), answer=no_way)
    assert host.ip == "192.0.2.1"


def test_a_host_that_takes_connections_and_never_says_a_word_is_dead_too() -> None:
    host, silent = Host(ips=("192.0.2.1",)), Answer(Fetched("timeout", error="silent"), reach="silent")
    assert not learn(host, (0, 10), (0, 10), (10, 20), answer=silent)
    assert learn(host, (20, 30), answer=silent) and host.dead.status == "timeout"


def test_a_host_that_only_ever_asks_to_wait_is_left_alone_after_a_minute() -> None:
    host = Host(ips=("192.0.2.1",))
    busy = Answer(Fetched("http_429", error="Too Many Requests"), pause_seconds=10.0)
    assert not learn(host, *((moment, moment + 1) for moment in range(0, 60, 10)), answer=busy)
    assert not learn(host, (60, 60.5), answer=busy)
    assert learn(host, (61, 62), answer=busy) and host.dead.status == "http_429"
    assert not learn(host, (300, 301), answer=REACHED)
    assert not learn(host, *((moment, moment + 1) for moment in range(302, 350, 10)), answer=busy)
    # Two kinds of trouble are not one long one.
    assert not learn(host, (352, 353), (353, 357), (357, 357))
