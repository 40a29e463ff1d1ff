"""Images from addresses: every misbehaviour of a host has its status, and nothing private is ever asked."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from prep.errors import WorkspaceError
from prep.images import fetch
from prep.images.fetch import CONCURRENCY, PER_HOST, Fetched, fetch_all
from prep.publishers import Fault, World
from prep.publishers.image_host import ODD_IMAGES


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_PAUSE_SECONDS", 0.0)


def fetched(*urls: str, private: bool = True) -> list[Fetched]:
    """What came of each address, in the order of the addresses."""
    results: dict[int, Fetched] = {}
    fetch_all(urls, results.__setitem__, allow_private_hosts=private)
    return [results[place] for place in range(len(urls))]


def statuses(*urls: str, private: bool = True) -> list[str]:
    return [result.status for result in fetched(*urls, private=private)]


def asked(world: World) -> list[str]:
    return sorted(path for _, path in world.requests)


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


def test_the_user_agent_says_who_asks(world: World) -> None:
    assert statuses(f"{world.url}/img/plain.jpg") == ["ok"]
    assert world.server.request_headers[0]["User-Agent"] == fetch.USER_AGENT
    assert "prep/" in fetch.USER_AGENT


PRIVATE = [
    *("127.0.0.1", "127.0.0.53", "[::1]", "localhost", "LOCALHOST", "0.0.0.0", "[::]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[2002:7f00:1::1]", "[64:ff9b::7f00:1]"),
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "[fd00:ec2::254]", "[fe80::1]"),
    *("169.254.169.254", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "224.0.0.1", "[ff02::1]"),
    *("240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1"),
]
ODD_SPELLINGS = ["127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "2852039166"]
LINK_LOCAL = ["169.254.169.254", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[fe80::1]"]


def test_private_addresses_are_not_asked_however_they_are_written(world: World) -> None:
    port = world.url.rpartition(":")[2]
    urls = [f"http://{host}:{port}/img/plain.jpg" for host in PRIVATE]
    assert statuses(*urls, private=False) == ["blocked_address"] * len(urls)

    # A resolver may take these for 127.0.0.1, for names that nobody has, or for no names at all.
    urls = [f"http://{host}:{port}/img/plain.jpg" for host in ODD_SPELLINGS]
    assert set(statuses(*urls, private=False)) <= {"blocked_address", "dns", "bad_url"}
    assert world.requests == []


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
    *(
        "ftp://127.0.0.1/a.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "s3://b/a.jpg",
    ),
    *(
        "",
        "/img/plain.jpg",
        "//127.0.0.1/a.jpg",
        "plain.jpg",
        "http://",
        "http:///a.jpg",
        "http://[::1/a.jpg",
        "http://a:b/c",
    ),
    *("http://127.0.0.1:99999/a.jpg", "not an address at all", "http://[not-ipv6]/"),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_what_is_not_an_http_address_is_not_asked(url: str) -> None:
    (result,) = fetched(url)
    assert result.status == "bad_url"
    assert result.error


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


def test_too_many_bytes_are_not_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_IMAGE_BYTES", 100_000)
    packed = gzip.compress(bytes(20_000_000))
    world.faults["/img/just"] = Fault(body=b"x" * 100_000)
    world.faults["/img/over"] = Fault(body=b"x" * 100_001)
    world.faults["/img/bomb"] = Fault(body=packed, headers={"Content-Encoding": "gzip"})
    just, over, bomb = fetched(*(f"{world.url}/img/{name}" for name in ("just", "over", "bomb")))
    assert (just.status, len(just.data)) == ("ok", 100_000)
    assert (over, bomb) == (Fetched("too_large", error="more than 100000 bytes"),) * 2


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


def test_a_body_that_drips_too_long_is_a_timeout(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    world.faults["/img/plain.jpg"] = Fault(drip_seconds=3)
    assert statuses(f"{world.url}/img/plain.jpg", f"{world.url}/img/gif.jpg") == ["timeout", "ok"]


def test_hosts_that_are_not_there(world: World) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        urls = f"http://127.0.0.1:{port}/a", "http://no-such-host.invalid/a", world.url.replace("http:", "https:")
        refused, unknown, not_tls = fetched(*urls)
    assert [refused.status, unknown.status, not_tls.status] == ["connect", "dns", "tls"]
    assert refused.error and unknown.error and not_tls.error


def test_a_hosts_words_are_text_that_can_be_written_down(world: World) -> None:
    world.faults["/img/plain.jpg"] = Fault(headers={"X-Robots-Tag": "noai, \xe9\xff"})
    world.faults["/img/away"] = Fault(status=302, headers={"Location": "ftp://\xe9/" + "a" * 9000})
    robots, away = fetched(f"{world.url}/img/plain.jpg", f"{world.url}/img/away")
    assert (robots.status, robots.error) == ("opted_out", "X-Robots-Tag: noai, ??")
    assert away.error is not None and len(away.error.encode()) <= 300


def test_an_error_of_the_one_who_keeps_the_images_comes_out_as_itself(world: World) -> None:
    def full(place: int, result: Fetched) -> None:
        raise WorkspaceError("no room", "Buy a disk.")

    with pytest.raises(WorkspaceError) as caught:
        fetch_all([f"{world.url}/img/plain.jpg"] * 3, full, allow_private_hosts=True)
    assert str(caught.value) == "no room\n  Buy a disk."


class SlowHost:
    """A host on every loopback address that answers after a while and remembers how many it served at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0
        self.most = 0
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.now += 1
                self.most = max(self.most, self.now)
                await asyncio.sleep(self.seconds)
                self.now -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()
        await writer.wait_closed()

    @contextmanager
    def running(self) -> Iterator[SlowHost]:
        """Serve in a thread of its own."""
        loop, ready = asyncio.new_event_loop(), threading.Event()
        stop = asyncio.Event()

        async def serve() -> None:
            async with await asyncio.start_server(self.answer, "0.0.0.0", 0) as server:
                self.port = server.sockets[0].getsockname()[1]
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()


def test_one_host_gets_a_few_requests_at_once_and_waiting_for_a_turn_is_no_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.3)
    with SlowHost(0.1).running() as host:
        urls = [f"http://127.0.0.1:{host.port}/{n}" for n in range(6 * PER_HOST)]
        assert statuses(*urls) == ["ok"] * len(urls)
        assert host.most == PER_HOST


def test_all_hosts_together_get_a_bounded_number_of_requests_at_once() -> None:
    with SlowHost(0.1).running() as host:
        urls = [f"http://127.0.0.{n % 20 + 1}:{host.port}/{n}" for n in range(3 * CONCURRENCY)]
        assert statuses(*urls) == ["ok"] * len(urls)
        assert host.most == CONCURRENCY
