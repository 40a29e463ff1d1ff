"""How answers go wrong on their way, over plain TCP and TLS, and the log of what went out."""

from __future__ import annotations

import gzip
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection, IncompleteRead
from pathlib import Path

import pytest
import trustme

from prep.publishers import Fault, PublisherServer, Sent

PATH = "/files/big.bin"
BIG = bytes(range(256)) * 4000  # several pieces


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def server(tmp_path: Path, request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[PublisherServer]:
    (tmp_path / "big.bin").write_bytes(BIG)
    tls = None
    if request.param == "https":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
    with PublisherServer(tmp_path, tmp_path, tls=tls) as server:
        yield server


@pytest.fixture
def connection(server: PublisherServer, authority: trustme.CA) -> Iterator[HTTPConnection]:
    connection = connect(server, authority)
    yield connection
    connection.close()


def connect(server: PublisherServer, authority: trustme.CA) -> HTTPConnection:
    scheme, _, host = server.url.partition("://")
    if scheme == "http":
        return HTTPConnection(host, timeout=5)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return HTTPSConnection(host, timeout=5, context=context)


def get(connection: HTTPConnection, path: str = PATH, **headers: str) -> HTTPResponse:
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def log_of(server: PublisherServer, count: int) -> list[Sent]:
    """The log when it has `count` entries: the server notices late that a client went away."""
    end = time.monotonic() + 5
    while len(server.sent) < count and time.monotonic() < end:
        time.sleep(0.005)
    return server.sent


def test_a_fault_can_start_late_and_end(server: PublisherServer, connection: HTTPConnection) -> None:
    server.faults[PATH] = Fault(status=503, after=2, times=1)
    assert [len(get(connection).read()) for _ in range(4)] == [len(BIG), len(BIG), 0, len(BIG)]
    server.faults[PATH] = Fault(status=503, after=1)
    assert [len(get(connection).read()) for _ in range(3)] == [len(BIG), 0, 0]


def test_a_body_without_a_length_ends_with_its_connection(server: PublisherServer, connection: HTTPConnection) -> None:
    server.faults[PATH] = Fault(length="none")
    answer = get(connection)
    assert (answer.headers["Content-Length"], answer.headers["Connection"]) == (None, "close")
    assert answer.read() == BIG
    server.faults[PATH] = Fault(length="none", cut_at=300_000)
    assert get(connection).read() == BIG[:300_000]  # nothing shows that it is not all


def test_a_body_in_chunks_shows_where_it_ends(server: PublisherServer, connection: HTTPConnection) -> None:
    server.faults[PATH] = Fault(length="chunked")
    answer = get(connection)
    assert (answer.headers["Content-Length"], answer.headers["Transfer-Encoding"]) == (None, "chunked")
    assert answer.read() == BIG
    part = get(connection, Range="bytes=5-9")
    assert (part.status, part.read(), part.headers["Content-Range"]) == (206, BIG[5:10], f"bytes 5-9/{len(BIG)}")
    server.faults[PATH] = Fault(length="chunked", cut_at=300_000)
    with pytest.raises(IncompleteRead) as broken:
        get(connection).read()
    assert broken.value.partial == BIG[:300_000]


def test_an_encoded_body_keeps_its_validator_and_has_no_ranges(
    server: PublisherServer, connection: HTTPConnection
) -> None:
    connection.request("HEAD", PATH)
    plain = connection.getresponse()
    plain.read()
    server.faults[PATH] = Fault(gzip=True)
    answer = get(connection, Range="bytes=5-9")
    body = answer.read()
    assert (answer.status, answer.headers["Content-Encoding"], answer.headers["ETag"]) == (
        *(200, "gzip"),
        plain.headers["ETag"],
    )
    assert (gzip.decompress(body), answer.headers["Accept-Ranges"]) == (BIG, None)
    assert int(answer.headers["Content-Length"]) == len(body) < len(BIG)


def test_a_changed_file_is_not_continued(server: PublisherServer, connection: HTTPConnection) -> None:
    first = get(connection, Range="bytes=0-99")
    assert first.read() == BIG[:100]
    old, new = first.headers["ETag"], BIG[::-1]
    server.faults[PATH] = Fault(etag='"new"', body=new)
    for condition, status, body in ((old, 200, new), ('"new"', 206, new[100:]), ('W/"new"', 200, new)):
        answer = get(connection, Range="bytes=100-", If_Range=condition)
        assert (answer.status, answer.read(), answer.headers["ETag"]) == (status, body, '"new"')
    server.faults[PATH] = Fault(etag='W/"weak"')
    assert get(connection, Range="bytes=100-", If_Range='W/"weak"').read() == BIG  # only a strong one will do


def test_a_content_range_can_lie(server: PublisherServer, connection: HTTPConnection) -> None:
    server.faults[PATH] = Fault(headers={"Content-Range": "bytes 0-4/7"})
    answer = get(connection, Range="bytes=5-9")
    assert (answer.status, answer.headers.get_all("Content-Range"), answer.read()) == (
        *(206, ["bytes 0-4/7"]),
        BIG[5:10],
    )


@pytest.mark.parametrize("size", [1000, 300_000])
def test_a_connection_can_be_closed_or_reset_in_the_middle(
    server: PublisherServer, connection: HTTPConnection, size: int
) -> None:
    server.faults[PATH] = Fault(cut_at=size)
    with pytest.raises(IncompleteRead) as closed:
        get(connection).read()
    assert closed.value.partial == BIG[:size]
    connection.close()
    server.faults[PATH] = Fault(cut_at=size, reset=True)
    # Python's TLS takes a reset for an end.
    with pytest.raises(IncompleteRead if server.url.startswith("https") else ConnectionResetError):
        get(connection).read()
    assert [entry.size_bytes for entry in log_of(server, 2)] == [size, size]


def test_tls_ends_with_a_goodbye_unless_it_is_cut(server: PublisherServer, authority: trustme.CA) -> None:
    if server.url.startswith("http:"):
        pytest.skip("there is no TLS")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    host, port = server.url.removeprefix("https://").split(":")

    def read_all() -> int:
        with (
            socket.create_connection((host, int(port)), 5) as plain,
            context.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False) as tls,
        ):
            tls.sendall(f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            size = 0
            while block := tls.recv(1 << 16):
                size += len(block)
            return size

    server.faults[PATH] = Fault(length="none")
    assert read_all() > len(BIG)
    server.faults[PATH] = Fault(length="none", cut_at=1000)
    with pytest.raises(ssl.SSLEOFError):
        read_all()


def test_a_client_that_says_nothing_keeps_no_other_waiting(server: PublisherServer, connection: HTTPConnection) -> None:
    host, port = server.url.rpartition("/")[2].split(":")
    with socket.create_connection((host, int(port))):
        assert get(connection).read() == BIG


def test_the_log_says_what_went_out(server: PublisherServer, connection: HTTPConnection) -> None:
    get(connection).read()
    get(connection, Range="bytes=100-199").read()
    get(connection, Range=f"bytes={len(BIG)}-").read()
    get(connection, "/files/none.bin").read()
    connection.request("HEAD", PATH)
    connection.getresponse().read()
    server.faults[PATH] = Fault(cut_at=10)
    with pytest.raises(IncompleteRead):
        get(connection).read()
    assert server.sent == [
        Sent(PATH, "", 200, len(BIG)),
        Sent(PATH, "bytes=100-199", 206, 100),
        Sent(PATH, f"bytes={len(BIG)}-", 416, 0),
        Sent("/files/none.bin", "", 404, 22),
        Sent(PATH, "", 200, 0),
        Sent(PATH, "", 200, 10),
    ]


def test_the_log_has_what_a_client_left_behind(server: PublisherServer, connection: HTTPConnection) -> None:
    server.faults[PATH] = Fault(drip_seconds=2)
    assert len(get(connection).read(1000)) == 1000
    connection.close()
    (entry,) = log_of(server, 1)
    assert (entry.path, entry.status) == (PATH, 200)
    assert 1000 <= entry.size_bytes < len(BIG)


def test_a_large_file_goes_to_many_connections_at_once(
    server: PublisherServer, authority: trustme.CA, tmp_path: Path
) -> None:
    size, count = 160 << 20, 16
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(size)
    step = size // count

    def fetch(number: int) -> int:
        connection = connect(server, authority)
        got, buffer = 0, bytearray(1 << 18)
        answer = get(connection, "/files/huge.bin", Range=f"bytes={number * step}-{(number + 1) * step - 1}")
        while read := answer.readinto(buffer):
            got += read
        connection.close()
        return got

    tracemalloc.start()
    try:
        with ThreadPoolExecutor(count) as pool:
            assert list(pool.map(fetch, range(count))) == [step] * count
        assert tracemalloc.get_traced_memory()[1] < 40 << 20  # both sides of it
    finally:
        tracemalloc.stop()
    assert sorted(entry.size_bytes for entry in server.sent) == [step] * count
