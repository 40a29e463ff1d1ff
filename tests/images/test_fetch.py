"""Images from addresses: every misbehaviour of a host has its status, nothing private is ever asked, all of it ends."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import random
import resource
import signal
import socket
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from image_server import ImageServer, Reply, raw, reply
from prep.config import Fetch
from prep.errors import WorkspaceError
from prep.images import fetch, names, request, transfers, turns
from prep.images.fetch import Fetched, fetch_all
from prep.publishers import Fault, World
from prep.publishers.image_host import ODD_IMAGES


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_PAUSE_SECONDS", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def fetched(*urls: str, private: bool = True, **options: Any) -> list[Fetched]:
    """What came of each address, in the order of the addresses; each has to come exactly once."""
    results: dict[int, Fetched] = {}

    async def keep(place: int, result: Fetched) -> None:
        assert place not in results
        results[place] = result

    fetch_all(urls, keep, Fetch(**options), allow_private_hosts=private)
    return [results[place] for place in range(len(urls))]


def statuses(*urls: str, private: bool = True, **options: Any) -> list[str]:
    return [result.status for result in fetched(*urls, private=private, **options)]


def asked(world: World) -> list[str]:
    return sorted(path for _, path in world.requests)


# -- the image host of the small world ---------------------------------------------------------------------------


IMAGE_HOST = {
    "missing.jpg": "http_404",
    "broken-host.jpg": "http_5xx",
    "forbidden.jpg": "http_403",
    "gone.jpg": "http_410",
    "html.jpg": "ok",
    "gif.jpg": "ok",
    "webp.jpg": "ok",
    "png.jpg": "ok",
    "bmp.jpg": "ok",
    "truncated.jpg": "ok",
    "empty.jpg": "ok",
    "cut.jpg": "truncated",
    "moved.jpg": "ok",
    "plain.jpg": "ok",
    "loop.jpg": "redirects",
    "private.jpg": "blocked_address",
    "slow.jpg": "ok",
    "busy.jpg": "ok",
    "busy-until.jpg": "ok",
    "noai.jpg": "opted_out",
}


def test_every_behaviour_of_the_image_host_has_its_status(world: World) -> None:
    assert [odd.name for odd in ODD_IMAGES] == list(IMAGE_HOST), "a new behaviour needs its expected status here"
    results = dict(zip(IMAGE_HOST, fetched(*(f"{world.url}/img/{name}" for name in IMAGE_HOST)), strict=True))

    assert {name: result.status for name, result in results.items()} == IMAGE_HOST
    for name, result in results.items():
        file = world.folder / "img" / name.replace("moved", "plain")
        if name == "html.jpg":
            assert result.data.startswith(b"<!doctype html>")
        else:
            assert result.data == (file.read_bytes() if result.status == "ok" else b""), name
    attempts = {name: asked(world).count(f"/img/{name}") for name in IMAGE_HOST}
    assert {name for name, count in attempts.items() if count > 1} == {
        *("broken-host.jpg", "cut.jpg", "busy.jpg", "busy-until.jpg"),  # tried again
        *("plain.jpg", "loop.jpg"),  # redirected to
    }
    assert attempts["loop.jpg"] == fetch.MAX_REDIRECTS + 1


def test_no_addresses_are_no_work() -> None:
    assert fetched() == []


# -- every way to answer -----------------------------------------------------------------------------------------

OK, CHUNKED = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PACKED = ["Content-Encoding: gzip"]


def head(text: str, end: Any = "close") -> Reply:
    """Bytes for the wire, spelt as text."""
    return raw(text.encode("latin-1"), end)


# name -> what the host does, the status, how often it is asked
ANSWERS: dict[str, tuple[Reply, str, int]] = {
    "fine": (reply(body=b"abc"), "ok", 1),
    "dripping": (Reply((OK + "Content-Length: 3\r\n\r\nabc").encode(), drip_seconds=0.2), "ok", 1),
    "empty-body": (reply(), "ok", 1),
    # How long is it?
    "chunked": (head(CHUNKED + "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "keep"), "ok", 1),
    "chunked-and-trailers": (head(CHUNKED + "3\r\nabc\r\n0\r\nX-Robots-Tag: noai\r\n\r\n", "keep"), "ok", 1),
    "chunked-cut": (head(CHUNKED + "3\r\nabc\r\n9\r\nab"), "truncated", 2),
    "chunked-without-end": (head(CHUNKED + "3\r\nabc\r\n"), "truncated", 2),
    "chunked-badly": (head(CHUNKED + "zz\r\nabc\r\n"), "truncated", 2),
    "no-length": (head(OK + "\r\nabc"), "ok", 1),
    "no-length-reset": (head(OK + "\r\nabc", "reset"), "truncated", 2),
    "too-short": (head(OK + "Content-Length: 9\r\n\r\nabc"), "truncated", 2),
    "too-short-reset": (head(OK + "Content-Length: 9\r\n\r\nabc", "reset"), "truncated", 2),
    "too-short-silent": (head(OK + "Content-Length: 9\r\n\r\nabc", "hang"), "timeout", 2),
    "too-long": (head(OK + "Content-Length: 3\r\n\r\nabcdef", "keep"), "ok", 1),
    "negative": (head(OK + "Content-Length: -3\r\n\r\nabc"), "truncated", 2),
    "two-lengths": (head(OK + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"), "truncated", 2),
    "no-number": (head(OK + "Content-Length: abc\r\n\r\nabc"), "truncated", 2),
    "says-it-is-huge": (head(OK + "Content-Length: 999999999999\r\n\r\nabc"), "too_large", 1),
    "says-it-is-infinite": (head(OK + f"Content-Length: {'9' * 30}\r\n\r\nabc"), "too_large", 1),
    "is-large": (head(OK + "\r\n" + "x" * 100_001), "too_large", 1),
    "is-just-small-enough": (head(OK + "\r\n" + "x" * 100_000), "ok", 1),
    # How is it packed?
    "gzip": (reply(body=gzip.compress(b"abc"), headers=PACKED), "ok", 1),
    "deflate": (reply(body=zlib.compress(b"abc"), headers=["Content-Encoding: deflate"]), "ok", 1),
    "identity": (reply(body=b"abc", headers=["Content-Encoding: identity"]), "ok", 1),
    "gzip-of-nothing": (reply(headers=PACKED), "ok", 1),
    "bomb": (reply(body=gzip.compress(bytes(20_000_000)), headers=PACKED), "too_large", 1),
    "gzip-garbage": (reply(body=b"abcdefghijklmnopqrstuvwxyz", headers=PACKED), "truncated", 2),
    "gzip-and-more": (reply(body=gzip.compress(b"abc") + b"zzzz", headers=PACKED), "truncated", 2),
    "packed-unknown": (reply(body=b"abc", headers=["Content-Encoding: xyz"]), "truncated", 2),
    "packed-often": (reply(body=b"abc", headers=["Content-Encoding: " + "gzip, " * 50]), "truncated", 2),
    # Is it HTTP?
    "no-reason": (head("HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", "keep"), "ok", 1),
    "http-1.0": (head("HTTP/1.0 200 OK\r\n\r\nabc"), "ok", 1),
    "http-0.9": (head("<html>old</html>"), "connect", 2),
    "icy": (head("ICY 200 OK\r\n\r\nabc"), "connect", 2),
    "line-feeds": (head("HTTP/1.1 200 OK\nContent-Length: 3\n\nabc"), "ok", 1),
    "nonsense": (raw(bytes(range(256))), "connect", 2),
    "nothing": (raw(b""), "connect", 2),
    "reset": (raw(b"", "reset"), "connect", 2),
    "silent": (raw(b"", "hang"), "timeout", 2),
    "silent-in-the-head": (head(OK, "hang"), "timeout", 2),
    "cut-in-the-head": (head(OK), "truncated", 2),
    "cut-in-a-header": (head(OK + "Content-Le"), "truncated", 2),
    "hints": (head("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + OK + "Content-Length: 3\r\n\r\nabc"), "ok", 1),
    "only-hints": (head("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"), "connect", 2),
    "goes-on": (head("HTTP/1.1 100 Continue\r\n\r\n" * 5000), "connect", 2),
    "switches": (head("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nabc"), "connect", 2),
    "long-header": (head(OK + f"X: {'y' * 90_000}\r\nContent-Length: 3\r\n\r\nabc", "keep"), "ok", 1),
    "long-headers": (head(OK + f"X: {'y' * 9_000}\r\n" * 60 + "\r\nabc"), "truncated", 2),
    "many-headers": (head(OK + "X: y\r\n" * 100_000 + "\r\nabc"), "truncated", 2),
    "nul": (head(OK + "X: a\0b\r\nContent-Length: 3\r\n\r\nabc"), "truncated", 2),
    "no-colon": (head(OK + "abc\r\nContent-Length: 3\r\n\r\nabc"), "truncated", 2),
    "folded": (head(OK + "X: a\r\n b\r\nContent-Length: 3\r\n\r\nabc"), "ok", 1),
    "injected": (head(OK + "X: a\rLocation: b\r\nContent-Length: 3\r\n\r\nabc"), "truncated", 2),
    "cookie": (reply(body=b"abc", headers=["Set-Cookie: a=b; Path=/"]), "ok", 1),
    # Which number?
    "status-20": (head("HTTP/1.1 20 OK\r\nContent-Length: 3\r\n\r\nabc"), "connect", 2),
    "status-099": (head("HTTP/1.1 099 x\r\nContent-Length: 3\r\n\r\nabc"), "connect", 2),
    "status-204": (head("HTTP/1.1 204 No Content\r\n\r\n", "keep"), "http_204", 1),
    "status-206": (reply("206 Partial Content", b"abc", ["Content-Range: bytes 0-2/9"]), "http_206", 1),
    "status-300": (reply("300 Multiple Choices", b"abc", ["Location: /fine"]), "http_300", 1),
    "status-304": (head("HTTP/1.1 304 Not Modified\r\n\r\n", "keep"), "http_304", 1),
    "status-401": (reply("401 Unauthorized", headers=["WWW-Authenticate: Basic realm=x"]), "http_401", 1),
    "status-404": (reply("404", b"abc"), "http_404", 1),
    "status-404-large": (reply("404 Not Found", b"x" * 1_000_000), "http_404", 1),
    "status-404-lies": (head("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nabc"), "http_404", 1),
    "status-404-silent": (head("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nabc", "hang"), "http_404", 1),
    "status-429": (reply("429 Too Many Requests"), "http_429", 2),
    "status-500": (reply("500 Internal Server Error"), "http_5xx", 2),
    "status-599": (reply("599 x"), "http_5xx", 2),
    "status-999": (reply("999 Denied"), "http_999", 1),
    # Where to?
    "moved": (reply("302 Found", b"see there", ["Location: fine"]), "ok", 1),
    "moved-broken-off": (head("HTTP/1.1 302 Found\r\nLocation: fine\r\nContent-Length: 9\r\n\r\na"), "ok", 1),
    "moved-nowhere": (reply("302 Found"), "redirects", 1),
    "moved-far": (reply("302 Found", headers=["Location: /" + "a" * 90_000]), "http_404", 1),
    "moved-to-bytes": (reply("302 Found", headers=["Location: /fine?\xe9\xff b"]), "ok", 1),
    # Who does not want it?
    "opted-out": (reply(body=b"abc", headers=["X-Robots-Tag: noai"]), "opted_out", 1),
    "opted-out-empty": (reply(headers=["X-Robots-Tag: noai"]), "opted_out", 1),
    "opted-out-later": (
        head(OK + "x-robots-tag: nofollow\r\nX-ROBOTS-TAG: bot: NoIndex\r\n\r\nabc"),
        "opted_out",
        1,
    ),
}


def test_every_way_to_answer_has_its_status() -> None:
    with ImageServer({name: answer for name, (answer, _, _) in ANSWERS.items()}) as server:
        urls = [server.url(name) for name in ANSWERS]
        results = fetched(*urls, seconds=0.8, attempts=2, max_bytes=100_000)
        hits = {name: server.hits[f"/{name}"] for name in ANSWERS}
    assert {name: result.status for name, result in zip(ANSWERS, results, strict=True)} == {
        name: status for name, (_, status, _) in ANSWERS.items()
    }
    # libcurl asks once more by itself where a kept connection was closed before the first byte; many lead to /fine.
    hits.pop("fine")
    assert {name: hits[name] for name in hits if hits[name] not in (ANSWERS[name][2], ANSWERS[name][2] + 1)} == {}
    for (name, (_, status, _)), result in zip(ANSWERS.items(), results, strict=True):
        assert result.error or status == "ok" or status.startswith("http_"), name
        sizes = {"empty-body": 0, "gzip-of-nothing": 0, "is-just-small-enough": 100_000}
        assert len(result.data) == (sizes.get(name, 3) if status == "ok" else 0), name


def test_a_sound_answer_after_an_odd_one_is_not_confused() -> None:
    answers = {name: answer for name, (answer, _, _) in ANSWERS.items()}
    odd = [name for name, (_, status, _) in ANSWERS.items() if status not in ("timeout", "http_404")]
    with ImageServer(answers) as server:
        urls = [server.url(name if n % 2 == 0 else f"fine/{name}") for name in odd for n in range(2)]
        results = fetched(*urls, seconds=5, attempts=1, per_host=1, connections=1, max_bytes=100_000)
    assert {result.status for result in results[1::2]} == {"ok"}
    assert {result.data for result in results[1::2]} == {b"abc"}


def test_a_connection_that_breaks_inside_tls_is_no_end(authority: trustme.CA) -> None:
    """Without close_notify nobody knows whether a body without a length is whole."""
    answers = {"whole": reply(body=b"abc"), "cut": head(OK + "\r\nabc", "reset")}
    with ImageServer(answers, server_context(authority)) as server:
        urls = [server.url(name, "localhost") for name in answers]
        assert statuses(*urls, attempts=1) == ["ok", "truncated"]


# -- what is asked for -------------------------------------------------------------------------------------------


def test_the_request_says_who_asks_and_for_what() -> None:
    with ImageServer(
        {"moved": reply("302 Found", headers=["Set-Cookie: a=b", "Location: /a"]), "a": reply()}
    ) as server:
        assert statuses(server.url("moved")) == ["ok"]
        lines = server.heads["/a"].split("\r\n")
        assert lines == [
            "GET /a HTTP/1.1",
            f"Host: 127.0.0.1:{server.port}",
            f"User-Agent: {fetch.USER_AGENT}",
            *(line for line in lines if line.startswith("Accept-Encoding: ") and "gzip" in line),
            "Accept: image/*,*/*;q=0.5",
            "",
            "",
        ]
    assert "prep/" in fetch.USER_AGENT


PRIVATE = [
    *("127.0.0.1", "127.0.0.53", "[::1]", "localhost", "LOCALHOST", "localhost.", "0.0.0.0", "[::]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[2002:7f00:1::1]", "[64:ff9b::7f00:1]"),
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "[fd00:ec2::254]", "[fe80::1]"),
    *("169.254.169.254", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "224.0.0.1", "[ff02::1]"),
    *("240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1"),
    *("127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "2852039166", "１２７.0.0.1"),
]
LINK_LOCAL = ["169.254.169.254", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[fe80::1]"]


def test_private_addresses_are_not_asked_however_they_are_written(world: World) -> None:
    port = world.url.rpartition(":")[2]
    urls = [f"http://{host}:{port}/img/plain.jpg" for host in PRIVATE]
    assert statuses(*urls, private=False) == ["blocked_address"] * len(urls)
    assert world.requests == []


def test_a_name_that_leads_to_a_private_address_is_not_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"inside.example": ("127.0.0.1",)})
    url = f"http://inside.example:{world.url.rpartition(':')[2]}/img/plain.jpg"
    (result,) = fetched(url, private=False)
    assert result == Fetched("blocked_address", error="not a public address")
    assert world.requests == [] and statuses(url) == ["ok"]


def test_link_local_addresses_are_not_asked_even_where_private_ones_are_allowed() -> None:
    urls = [f"http://{host}/latest/meta-data/" for host in LINK_LOCAL]
    assert statuses(*urls) == ["blocked_address"] * len(urls)


def test_a_redirect_to_a_private_address_is_checked_like_any_other(world: World) -> None:
    for host in LINK_LOCAL:
        world.faults[f"/img/{host}"] = Fault(status=302, headers={"Location": f"http://{host}:80/"})
    results = fetched(*(f"{world.url}/img/{host}" for host in LINK_LOCAL))
    assert [result.status for result in results] == ["blocked_address"] * len(LINK_LOCAL)
    assert {result.error for result in results} == {"not a public address"}


BAD_URLS = [
    *("ftp://127.0.0.1/a.jpg", "file:///etc/passwd", "data:image/png;base64,AAAA", "javascript:alert(1)"),
    *("s3://b/a.jpg", "", "/img/plain.jpg", "//127.0.0.1/a.jpg", "plain.jpg", "http://", "http:///a.jpg"),
    *("http://[::1/a.jpg", "http://a:b/c", "http://127.0.0.1:99999/a.jpg", "http://127.0.0.1:0/a.jpg"),
    *("not an address at all", "http://[not-ipv6]/", "http://1.2.3.4.5/", "http://a..b/", f"http://{'a' * 64}.com/"),
]


def test_what_is_not_an_http_address_is_not_asked() -> None:
    results = fetched(*BAD_URLS)
    assert [result.status for result in results] == ["bad_url"] * len(BAD_URLS)
    assert all(result.error for result in results)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://h/a", "data:,x", "http://[", "gopher://127.0.0.1/"])
def test_a_redirect_leads_only_to_http(world: World, location: str) -> None:
    world.faults["/img/away"] = Fault(status=302, headers={"Location": location})
    assert statuses(f"{world.url}/img/away") == ["bad_url"]


def test_redirects_are_followed_a_few_times_and_relative_to_where_they_came_from(world: World) -> None:
    for hop in range(6):
        target = "../img/plain.jpg" if hop == 5 else f"/hops/{hop + 1}"
        world.faults[f"/hops/{hop}"] = Fault(status=(301, 302, 303, 307, 308, 302)[hop], headers={"Location": target})
    world.faults["/nowhere"] = Fault(status=301)
    urls = [f"{world.url}/{path}" for path in ("hops/1", "hops/0", "nowhere")]
    assert statuses(*urls) == ["ok", "redirects", "redirects"]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("noai", "opted_out"),
        ("NoImageAI", "opted_out"),
        ("nofollow, noindex", "opted_out"),
        ("googlebot: noindex, nofollow", "opted_out"),
        ("unavailable_after: 25 Jun 2030, noimageindex", "opted_out"),
        ("nofollow", "ok"),
        ("max-image-preview:large", "ok"),
        ("", "ok"),
    ],
)
def test_opt_outs_are_honoured(world: World, header: str, status: str) -> None:
    world.faults["/img/plain.jpg"] = Fault(headers={"X-Robots-Tag": header})
    (result,) = fetched(f"{world.url}/img/plain.jpg")
    assert result.status == status
    assert bool(result.data) == (status == "ok")
    assert statuses(f"{world.url}/img/plain.jpg", opt_out=False) == ["ok"]


def test_a_hosts_words_are_text_that_can_be_written_down(world: World) -> None:
    world.faults["/img/plain.jpg"] = Fault(headers={"X-Robots-Tag": "noai, \xe9\xff"})
    world.faults["/img/away"] = Fault(status=302, headers={"Location": "ftp://\xe9/" + "a" * 9000})
    robots, away = fetched(f"{world.url}/img/plain.jpg", f"{world.url}/img/away")
    assert (robots.status, robots.error) == ("opted_out", "X-Robots-Tag: noai, ??")
    assert away.error is not None and len(away.error.encode()) <= 300


# -- again, and how long -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "attempts"),
    [
        (Fault(status=404), "http_404", 1),
        (Fault(status=204), "http_204", 1),
        (Fault(status=429), "http_429", 3),
        (Fault(status=503), "http_5xx", 3),
        (Fault(status=502, times=2), "ok", 3),
        (Fault(cut_at=10), "truncated", 3),
        (Fault(cut_at=10, times=1), "ok", 2),
        (Fault(status=429, headers={"Retry-After": "²"}, times=1), "ok", 2),
        (Fault(headers={"Content-Encoding": "gzip"}), "truncated", 3),
    ],
    ids=str,
)
def test_only_what_may_pass_is_tried_again(world: World, fault: Fault, status: str, attempts: int) -> None:
    world.faults["/img/plain.jpg"] = fault
    assert statuses(f"{world.url}/img/plain.jpg") == [status]
    assert asked(world) == ["/img/plain.jpg"] * attempts


def test_another_attempt_starts_where_the_first_did() -> None:
    moved, busy = reply("302 Found", headers=["Location: /busy"]), [reply("503 x"), reply(body=b"abc")]
    with ImageServer({"moved": moved, "busy": busy}) as server:
        assert fetched(server.url("moved")) == [Fetched("ok", b"abc")]
        assert server.hits == {"/moved": 2, "/busy": 2}


def test_a_body_that_drips_too_long_is_a_timeout(world: World) -> None:
    world.faults["/img/plain.jpg"] = Fault(drip_seconds=3)
    urls = f"{world.url}/img/plain.jpg", f"{world.url}/img/gif.jpg"
    assert statuses(*urls, seconds=0.3, attempts=1) == ["timeout", "ok"]


def test_a_body_that_drips_too_slowly_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "SLOW_SECONDS", 1)
    drip = Reply(reply(body=b"x" * 4_000).data, drip_seconds=2.5)
    with ImageServer({"drip": drip}) as server:
        (slow,) = fetched(server.url("drip/slow"), bytes_per_second=20_000, attempts=1)
        (fast,) = fetched(server.url("drip/fast"), bytes_per_second=100, attempts=1)
    assert (slow.status, fast.status) == ("timeout", "ok")
    assert "too slow" in str(slow.error)


def test_redirects_share_the_time_of_one_attempt() -> None:
    hops = {
        f"hop{n}": Reply(reply("302 x", headers=[f"Location: /hop{n + 1}"]).data, delay_seconds=0.2) for n in range(4)
    }
    with ImageServer(hops | {"hop4": reply()}) as server:
        assert statuses(server.url("hop0"), seconds=0.5, attempts=1) == ["timeout"]
        assert statuses(server.url("hop2"), seconds=0.5, attempts=1) == ["ok"]


def test_one_host_gets_a_few_requests_at_once_and_waiting_for_a_turn_is_no_timeout() -> None:
    slow = Reply(reply(body=b"hi").data, delay_seconds=0.1)
    with ImageServer({"slow": slow}) as server:
        urls = [server.url(f"slow/{n}") for n in range(40)]
        assert statuses(*urls, per_host=4, seconds=0.5, attempts=1) == ["ok"] * len(urls)
        assert server.most["127.0.0.1"] == 4


def test_all_hosts_together_get_a_bounded_number_of_requests_at_once() -> None:
    slow = Reply(reply(body=b"hi").data, delay_seconds=0.1)
    with ImageServer({"slow": slow}) as server:
        urls = [server.url(f"slow/{n}", f"127.0.0.{n % 20 + 1}") for n in range(90)]
        assert statuses(*urls, connections=30) == ["ok"] * len(urls)
        assert server.most["all"] == 30


def test_processes_share_the_connections() -> None:
    slow = Reply(reply(body=b"hi").data, delay_seconds=0.05)
    with ImageServer({"slow": slow}) as server:
        urls = [server.url(f"slow/{n}", f"127.0.0.{n % 3 + 1 if n < 20 else 9}") for n in range(40)]

        async def keep(place: int, result: Fetched) -> None:
            assert result.status == "ok"

        fetch_all(urls, keep, Fetch(connections=12, per_host=6), allow_private_hosts=True, share=3)
        assert (server.most["all"], server.most["127.0.0.9"]) == (4, 2)
        fetch_all(urls[:4], keep, Fetch(connections=12, per_host=6), allow_private_hosts=True, share=100)


def test_a_busy_host_holds_up_nobody_else() -> None:
    slow = Reply(reply(body=b"hi").data, delay_seconds=0.1)
    ends: list[int] = []

    async def keep(place: int, result: Fetched) -> None:
        assert result.status == "ok"
        ends.append(place)

    with ImageServer({"slow": slow, "fast": reply()}) as server:
        urls = [server.url(f"slow/{n}") for n in range(8)]
        urls += [server.url(f"fast/{n}", f"127.0.1.{n % 9 + 1}") for n in range(40)]
        fetch_all(urls, keep, Fetch(connections=8, per_host=1), allow_private_hosts=True)
    assert set(ends[:40]) == set(range(8, 48))


def test_addresses_are_read_as_there_is_room_and_bodies_wait_for_who_keeps_them() -> None:
    read = kept = most_bodies = most_ahead = bodies = 0

    def urls() -> Iterator[str]:
        nonlocal read
        for n in range(400):
            read += 1
            yield server.url(f"a/{n}", f"127.0.0.{n % 9 + 1}")

    async def keep(place: int, result: Fetched) -> None:
        nonlocal kept, most_bodies, most_ahead, bodies
        bodies += 1
        most_bodies, most_ahead = max(most_bodies, bodies), max(most_ahead, read - kept)
        await asyncio.sleep(0.001)
        bodies -= 1
        kept += 1

    with ImageServer({"a": reply(body=b"x" * 1000)}) as server:
        fetch_all(urls(), keep, Fetch(connections=5, per_host=5), allow_private_hosts=True)
    assert (read, kept, most_bodies) == (400, 400, 5)
    assert most_ahead <= fetch.WINDOW * 5 + 5


def test_a_host_that_asks_to_wait_is_left_alone_and_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_PAUSE_SECONDS", 0.4)
    busy = reply("429 Too Many Requests", headers=["Retry-After: 5"])
    ends: list[tuple[str, float]] = []
    with ImageServer({"busy": [busy, reply()], "fine": reply()}) as server:
        urls = [server.url("busy"), *(server.url(f"fine/{n}") for n in range(4))]
        urls += [server.url(f"fine/{n}", "127.0.0.2") for n in range(20)]

        async def keep(place: int, result: Fetched) -> None:
            ends.append((f"{'first' if place < 5 else 'second'} {result.status}", time.monotonic() - started))

        started = time.monotonic()
        fetch_all(urls, keep, Fetch(connections=2, per_host=1), allow_private_hosts=True)
    assert [end for end, _ in ends] == ["second ok"] * 20 + ["first ok"] * 5
    assert ends[19][1] < 0.4 <= ends[20][1] < 2


# -- hosts that are not there ------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port: int = closed.getsockname()[1]
        return port


@contextmanager
def full_host() -> Iterator[int]:
    """A port that takes no connection and refuses none, as hosts behind a firewall do."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


def resolve(monkeypatch: pytest.MonkeyPatch, known: dict[str, tuple[str, ...]]) -> None:
    """Let these be the only names there are."""

    async def addresses(self: names.Names, host: str) -> tuple[str, ...]:
        if host not in known:
            raise names.UnknownName("no such name")
        return known[host]

    monkeypatch.setattr(names.Names, "addresses", addresses)


def test_hosts_that_are_not_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {})
    urls = f"http://127.0.0.1:{closed_port()}/a", "http://no-such-host.invalid/a", world.url.replace("http:", "https:")
    refused, unknown, not_tls = fetched(*urls)
    assert [refused.status, unknown.status, not_tls.status] == ["connect", "dns", "tls"]
    assert "Connection refused" in str(refused.error) and unknown.error == "no such name" and not_tls.error
    assert " ms" not in str(refused.error)  # how long it took would differ from run to run


def test_the_next_attempt_is_with_another_address_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with ImageServer({"a": reply(body=b"abc")}) as server:
        resolve(monkeypatch, {"two.example": ("::1", "127.0.0.1"), "one.example": ("::1",)})
        urls = [server.url(f"a/{n}", "two.example") for n in range(20)]
        assert statuses(*urls, attempts=2) == ["ok"] * 20
        assert server.heads["/a/0"].split("\r\n")[1] == f"Host: two.example:{server.port}"
        assert statuses(server.url("a/x", "one.example"), attempts=2) == ["connect"]


def test_a_host_that_refuses_again_and_again_is_not_asked_a_thousand_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "DEAD_AFTER_SECONDS", 0.2)
    monkeypatch.setattr(fetch, "MAX_PAUSE_SECONDS", 0.1)
    port, started = closed_port(), time.monotonic()
    with ImageServer({"a": reply()}) as server:
        urls = [f"http://127.0.0.1:{port}/{n}" for n in range(5000)]
        urls[2500:2500] = [server.url(f"a/{n}") for n in range(50)]
        results = fetched(*urls, connections=16)
    assert Counter(result.status for result in results) == {"connect": 5000, "ok": 50}
    assert sum("not asked again" in str(result.error) for result in results) > 4000
    assert time.monotonic() - started < 15


def test_a_host_that_never_takes_a_connection_is_not_waited_for_a_thousand_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "DEAD_AFTER_SECONDS", 0.2)
    monkeypatch.setattr(request, "CONNECT_SECONDS", 0.1)
    started = time.monotonic()
    with full_host() as port:
        results = fetched(*(f"http://127.0.0.1:{port}/{n}" for n in range(2000)))
    assert {result.status for result in results} == {"timeout"}
    assert sum("not asked again" in str(result.error) for result in results) > 1900
    assert time.monotonic() - started < 10


def test_a_host_that_takes_connections_and_never_says_a_word_is_not_listened_to_a_thousand_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "DEAD_AFTER_SECONDS", 0.2)
    with ImageServer({"silent": raw(b"", "hang"), "a": reply()}) as server:
        urls = [server.url(f"silent/{n}") for n in range(2000)]
        results = fetched(*urls, *(server.url(f"a/{n}", "127.0.0.2") for n in range(9)), seconds=0.1, attempts=2)
        assert [result.status for result in results] == ["timeout"] * 2000 + ["ok"] * 9
        assert server.hits.total() < 200


def test_a_host_that_answers_now_and_then_is_asked_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "DEAD_AFTER_SECONDS", 0.0)
    with ImageServer({"hang": raw(b"", "hang"), "busy": reply("503 x"), "a": reply(), "cut": raw(b"")}) as server:
        kinds = ["hang", "busy", "cut", "hang", "busy", "cut", "hang", "busy", "cut", "a"]
        urls = [server.url(f"{kind}/{n}") for n, kind in enumerate(kinds * 3)]
        expected = {"hang": "timeout", "busy": "http_5xx", "cut": "connect", "a": "ok"}
        found = statuses(*urls, attempts=1, seconds=0.1, per_host=2)
        assert found == [expected[kind] for kind in kinds * 3]
        assert all(server.hits[f"/{kind}/{n}"] for n, kind in enumerate(kinds * 3))


def test_a_dead_host_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "DEAD_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(turns, "DEAD_SECONDS", 0.2)
    port = closed_port()
    servers: list[socket.socket] = []

    async def keep(place: int, result: Fetched) -> None:
        results.append(result)
        if place == 30:
            servers.append(socket.create_server(("127.0.0.1", port)))
            threading.Thread(target=answer, args=servers, daemon=True).start()
            await asyncio.sleep(0.3)

    def answer(listener: socket.socket) -> None:
        with listener.accept()[0] as one:
            while one.recv(1000):
                one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    results: list[Fetched] = []
    urls = [f"http://127.0.0.1:{port}/{n}" for n in range(40)]
    fetch_all(urls, keep, Fetch(connections=1, attempts=1), allow_private_hosts=True)
    servers[0].close()
    found = [result.status for result in results]
    assert found[:31] == ["connect"] * 31 and "ok" in found[31:]


def test_ten_thousand_addresses_of_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: Counter[str] = Counter()

    async def ask(self: names.Names, host: str) -> Any:
        lookups[host] += 1
        await asyncio.sleep(0.05)
        return names._unknown("no such name", 60)

    monkeypatch.setattr(names.Names, "_ask", ask)
    results = fetched(*(f"http://gone-{n % 3}.example/{n}" for n in range(10_000)), connections=16)
    assert {result.status for result in results} == {"dns"}
    assert {result.error for result in results} == {"no such name", "no such name (asked a short while ago)"}
    assert lookups == {f"gone-{n}.example": 1 for n in range(3)}


# -- TLS and proxies ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def trust(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "authority.pem"))


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "bücher.example".encode("idna").decode()).configure_cert(context)
    return context


def test_certificates_are_checked_for_the_name_that_was_asked_for(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, dict.fromkeys(("localhost", "other.example", "xn--bcher-kva.example"), ("127.0.0.1",)))
    with ImageServer({"a": reply(body=b"abc")}, server_context(authority)) as server:
        hosts = ["localhost", "other.example", "Bücher.example", "127.0.0.1"]
        results = fetched(*(server.url("a", host) for host in hosts))
        assert [result.status for result in results] == ["ok", "tls", "ok", "tls"]
        assert server.hits == {"/a": 2}
    with ImageServer({"a": reply()}, server_context(trustme.CA())) as server:
        (result,) = fetched(server.url("a", "localhost"))
        assert result.status == "tls" and "certificate" in str(result.error)


HANDSHAKES = {
    "closes": (b"", "connect"),  # which may pass
    "alert": (b"\x15\x03\x01\x00\x02\x02\x28", "tls"),
    "no TLS": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls"),
}


@pytest.mark.parametrize("kind", HANDSHAKES)
def test_a_handshake_that_fails_is_told_from_one_that_is_broken_off(kind: str) -> None:
    answer, status = HANDSHAKES[kind]

    def shake(listener: socket.socket) -> None:
        with listener.accept()[0] as one:
            one.recv(9999)
            one.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=shake, args=[listener])
        thread.start()
        (result,) = fetched(f"https://127.0.0.1:{listener.getsockname()[1]}/", attempts=1)
        thread.join()
    assert result.status == status and result.error


@pytest.mark.parametrize("is_tls", [False, True])
def test_connections_are_kept(authority: trustme.CA, is_tls: bool) -> None:
    with ImageServer({"a": reply(body=b"abc")}, server_context(authority) if is_tls else None) as server:
        urls = [server.url(f"a/{n}", "localhost") for n in range(200)]
        assert statuses(*urls, per_host=4) == ["ok"] * 200
        assert server.connections <= 4


def test_a_proxy_of_the_environment_is_asked_for_names_it_alone_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with ImageServer({"": reply(body=b"by proxy"), "a": reply(body=b"direct")}) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("no_proxy", "127.0.0.2")
        urls = ["http://inside.invalid/x", "http://169.254.169.254/", server.url("a", "127.0.0.2")]
        assert fetched(*urls) == [
            Fetched("ok", b"by proxy"),
            Fetched("blocked_address", error="not a public address"),
            Fetched("ok", b"direct"),
        ]
        assert fetched(urls[0], private=False) == [Fetched("ok", b"by proxy")]
        assert server.hits == {"http://inside.invalid/x": 2, "/a": 1}


# -- it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["transfer", "lookup"])
def test_the_watchdog_gives_up_what_hangs_in_our_own_code(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(fetch, "WATCH_SECONDS", 0.1)
    transfer, lookup = transfers.Transfers.run, names.Names.addresses

    async def hang_in_run(self: transfers.Transfers, curl: Any) -> Any:
        if next(counter) % 4 == 0:
            await asyncio.Event().wait()
        return await transfer(self, curl)

    async def hang_in_lookup(self: names.Names, host: str) -> Any:
        if host.startswith("hang"):
            await asyncio.Event().wait()
        return await lookup(self, host)

    counter = iter(range(1_000))
    if where == "transfer":
        monkeypatch.setattr(transfers.Transfers, "run", hang_in_run)
    monkeypatch.setattr(names.Names, "addresses", hang_in_lookup)
    with ImageServer({"a": reply(body=b"abc")}) as server:
        urls = [server.url(f"a/{n}", f"127.0.0.{n % 5 + 1}") for n in range(40)]
        if where == "lookup":
            urls[::4] = [f"http://hang-{n % 3}.localhost:{server.port}/a/{n}" for n in range(10)]
        started = time.monotonic()
        results = fetched(*urls, seconds=0.1, connections=3)
    assert time.monotonic() - started < 15
    given_up = [result for result in results if result.status == "timeout"]
    assert len(given_up) == 10 and {result.error for result in given_up} == {fetch._GIVEN_UP.error}
    assert Counter(result.status for result in results) == {"ok": 30, "timeout": 10}


def test_an_error_where_nobody_waits_for_it_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: transfers.Transfers) -> None:
        self._selector.select(0)
        raise RuntimeError("broken")

    monkeypatch.setattr(transfers.Transfers, "_on_events", broken)
    with ImageServer({"a": reply()}) as server, pytest.raises(RuntimeError, match="broken"):
        fetched(server.url("a"))


def test_an_error_of_a_callback_of_libcurl_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(address: str, *, allow_private_hosts: bool) -> bool:
        raise RuntimeError("broken")

    monkeypatch.setattr(request, "may_connect", broken)
    with ImageServer({"a": reply()}) as server, pytest.raises(RuntimeError, match="broken"):
        fetched(server.url("a"))


def test_an_error_of_watching_a_socket_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_FOR_ITS_SOCKET", dict.fromkeys((1, 2, 3), 99))
    with ImageServer({"a": reply()}) as server, pytest.raises(ValueError, match="99"):
        fetched(server.url("a"))


def test_without_room_for_sockets_it_ends_and_without_a_kind_of_network_only_an_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_socket(*of: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(request, "CurlSocket", no_socket)
    with ImageServer({"a": reply()}) as server:
        number = errno.EAFNOSUPPORT
        assert statuses(server.url("a"), attempts=2) == ["connect"]
        number = errno.EMFILE
        with pytest.raises(OSError, match=os.strerror(number)):
            fetched(server.url("a"))


def cancelled() -> BaseException:
    return asyncio.CancelledError("one's own")


@pytest.mark.parametrize("error", [WorkspaceError("no room", "Buy a disk."), KeyError(1), cancelled(), SystemExit(3)])
def test_what_the_one_who_keeps_the_images_raises_comes_out_as_itself(world: World, error: BaseException) -> None:
    async def full(place: int, result: Fetched) -> None:
        await asyncio.sleep(0)
        raise error from OSError("disk")

    with pytest.raises(type(error)) as caught:
        fetch_all([f"{world.url}/img/plain.jpg"] * 30, full, Fetch(), allow_private_hosts=True)
    assert caught.value is error and isinstance(error.__cause__, OSError)


def test_what_the_list_of_addresses_raises_comes_out_as_itself(world: World) -> None:
    def urls() -> Iterator[str]:
        yield f"{world.url}/img/plain.jpg"
        raise WorkspaceError("no list", "Make one.")

    async def keep(place: int, result: Fetched) -> None:
        await asyncio.sleep(10)

    with pytest.raises(WorkspaceError, match="no list"):
        fetch_all(urls(), keep, Fetch(), allow_private_hosts=True)


def test_control_c_ends_it_at_once() -> None:
    with ImageServer({"hang": raw(b"", "hang")}) as server:
        urls = [server.url(f"hang/{n}", f"127.0.0.{n % 9 + 1}") for n in range(300)]
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fetched(*urls)
        assert time.monotonic() - started < 5


def test_no_more_connections_than_this_process_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    assert [transfers.within_open_files(n) for n in (1, 256, 1000, 10_000)] == [1, 256, 1000, 1280]
    assert limits == [(1024, 4096), (3256, 4096), (4096, 4096)]


KINDS: dict[str, tuple[list[Reply], str]] = {
    "fine": ([reply(body=b"abc" * 100)], "ok"),
    "gone": ([reply("404 Not Found", b"no")], "http_404"),
    "late": ([Reply(reply(body=b"abc").data, delay_seconds=0.01)], "ok"),
    "again": ([reply("500 x"), raw(b"", "reset"), reply(body=b"abc")], "ok"),
    "down": ([reply("503 x", headers=["Retry-After: 1"])], "http_5xx"),
    "cut": ([head(OK + "Content-Length: 9\r\n\r\nabc")], "truncated"),
    "reset": ([raw(b"", "reset")], "connect"),
    "large": ([reply(body=b"x" * 3000)], "too_large"),
    "noai": ([reply(body=b"abc", headers=["X-Robots-Tag: noai"])], "opted_out"),
    "moved": ([reply("302 x", headers=["Location: /fine"])], "ok"),
    "loop": ([reply("302 x", headers=["Location: ?a"])], "redirects"),
    "inside": ([reply("302 x", headers=["Location: http://169.254.1.1/"])], "blocked_address"),
    "silent": ([raw(b"", "hang")], "timeout"),
}
ELSEWHERE = {
    "bad": ("nonsense/{n}", "bad_url"),
    "nobody": ("http://no-{n}.invalid/{n}", "dns"),
    "refused": ("http://127.0.1.{n}:1/", "connect"),
}
EXPECTED = {kind: status for kind, (_, status) in (KINDS | ELSEWHERE).items()}


def address(server: ImageServer, kind: str, number: int, hosts: int) -> str:
    if kind in ELSEWHERE:
        return ELSEWHERE[kind][0].format(n=number % 200)
    return server.url(f"{kind}/{number}", f"127.0.0.{number % hosts + 1}")


@pytest.fixture(scope="module")
def everything() -> Iterator[ImageServer]:
    with ImageServer({kind: replies for kind, (replies, _) in KINDS.items()}) as running:
        yield running


@settings(max_examples=15)
@given(
    kinds=st.lists(st.sampled_from(sorted(EXPECTED.keys() - {"silent"})), max_size=60),
    silent=st.integers(0, 2),
    hosts=st.integers(1, 20),
    connections=st.integers(1, 20),
    per_host=st.integers(1, 8),
    keep_seconds=st.sampled_from([None, 0.0, 0.003]),
)
def test_every_address_is_kept_exactly_once_whatever_happens(
    everything: ImageServer,
    kinds: list[str],
    silent: int,
    hosts: int,
    connections: int,
    per_host: int,
    keep_seconds: float | None,
) -> None:
    everything.hits.clear()
    kinds[len(kinds) // 2 : 0] = ["silent"] * silent
    results: dict[int, str] = {}

    async def keep(place: int, result: Fetched) -> None:
        assert place not in results
        results[place] = result.status
        if keep_seconds is not None:
            await asyncio.sleep(keep_seconds)

    with pytest.MonkeyPatch.context() as monkeypatch:
        resolve(monkeypatch, {})
        monkeypatch.setattr(turns, "DEAD_AFTER_SECONDS", 1e9)
        options = Fetch(connections=connections, per_host=per_host, seconds=0.4, max_bytes=2000)
        urls = (address(everything, kind, number, hosts) for number, kind in enumerate(kinds))
        fetch_all(urls, keep, options, allow_private_hosts=True)
    assert results == {number: EXPECTED[kind] for number, kind in enumerate(kinds)}
    most = {key: count for key, count in everything.most.items() if key != "all"}
    everything.most.clear()
    assert all(count <= per_host for count in most.values())


def test_many(everything: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 addresses, three in ten of them at fault."""
    resolve(monkeypatch, {})
    monkeypatch.setattr(turns, "DEAD_AFTER_SECONDS", 1e9)
    everything.hits.clear()
    chance, count = random.Random(7), 20_000
    faults = [kind for kind in EXPECTED if kind != "fine"]
    # Few of those that hold a connection until their time is over: they cost the clock, not the machine.
    faults = [kind for kind in faults for _ in range(1 if kind == "silent" else 20)]
    kinds = ["fine" if chance.random() < 0.7 else chance.choice(faults) for _ in range(count)]
    results: Counter[int] = Counter()
    found: Counter[str] = Counter()

    async def keep(place: int, result: Fetched) -> None:
        results[place] += 1
        found[f"{kinds[place]}: {result.status}"] += 1

    urls = (address(everything, kind, number, 40) for number, kind in enumerate(kinds))
    started, memory = time.monotonic(), resident_bytes()
    fetch_all(urls, keep, Fetch(seconds=2, attempts=3, max_bytes=2000), allow_private_hosts=True)
    seconds = time.monotonic() - started
    print(f"{count / seconds:,.0f} addresses a second")
    assert results == dict.fromkeys(range(count), 1)
    assert found == Counter(f"{kind}: {EXPECTED[kind]}" for kind in kinds)
    assert seconds < 60 and resident_bytes() - memory < 150e6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
