"""One file over http: the right bytes under the final name, or nothing there and a message that says why."""

from __future__ import annotations

import gzip
import hashlib
import socket
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import SourceError
from prep.publishers import Fault, World
from prep.sources import Part, transfer
from prep.sources.transfer import ATTEMPTS, retry_after

PATH = "/files/parts/part-0.bin"
BYTES = bytes(range(256)) * 9000
GOOD = Part(
    "part-0.bin",
    "",
    len(BYTES),
    hashlib.sha256(BYTES).hexdigest(),
    hashlib.md5(BYTES, usedforsecurity=False).hexdigest(),
)


@dataclass
class Download:
    """One part of the world, its target, and what the transfer said and slept meanwhile."""

    world: World
    part: Part
    target: Path
    told: list[int]
    pauses: list[float]

    def run(self) -> None:
        transfer.transfer(self.part, self.target, {}, self.told.append)

    def fails(self) -> SourceError:
        """The error of a transfer that leaves nothing behind."""
        with pytest.raises(SourceError) as caught:
            self.run()
        assert list(self.target.parent.iterdir()) == []
        assert caught.value.message.startswith(f"{self.part.url}: ")
        return caught.value

    def fails_with(self, reason: str) -> None:
        assert self.fails().message == f"{self.part.url}: {reason}"

    def succeeds(self, data: bytes = BYTES) -> None:
        self.run()
        assert {path.name: path.read_bytes() for path in self.target.parent.iterdir()} == {"part-0.bin": data}
        assert sum(self.told) == len(data)


@pytest.fixture
def download(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    file = world.folder / PATH.removeprefix("/")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(BYTES)
    target = tmp_path / "raw" / "part-0.bin"
    target.parent.mkdir()
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return Download(world, replace(GOOD, url=world.url + PATH), target, [], pauses)


def test_the_bytes_come_once_and_are_counted(download: Download) -> None:
    download.succeeds()
    assert download.world.requests == [("GET", PATH)]
    assert download.pauses == []


def test_a_body_longer_than_its_header_says_is_tried_again(download: Download) -> None:
    # What follows the announced length may spoil the connection for the next attempt too: no count of those here.
    download.world.faults[PATH] = Fault(content_length=len(BYTES) - 7, times=1)
    download.succeeds()


def test_an_older_file_is_replaced(download: Download) -> None:
    download.target.write_text("of yesterday")
    download.succeeds()


PASSING = {
    "cut": Fault(cut_at=1000),
    "cut before the first byte": Fault(cut_at=0),
    "shorter than said": Fault(content_length=len(BYTES) + 7),
    "empty": Fault(body=b""),
    "too long": Fault(body=BYTES + b"more"),
    **{f"status {status}": Fault(status=status) for status in (408, 425, 429, 500, 502, 503, 504)},
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_failure_that_passes_is_tried_again(download: Download, fault: Fault) -> None:
    download.world.faults[PATH] = replace(fault, times=2)
    download.succeeds()
    assert len(download.world.requests) == 3
    assert len(download.pauses) == 2
    assert 0.5 <= download.pauses[0] <= 1 <= download.pauses[1] <= 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=500), "the server answers 500"),
        (Fault(status=503), "the server answers 503"),
        (
            Fault(cut_at=1000),
            "ProtocolError: Connection broken: IncompleteRead(1000 bytes read, 2303000 more expected)",
        ),
        (Fault(body=b"short"), f"5 bytes came, {len(BYTES)} were announced"),
    ],
    ids=["500", "503", "cut", "short"],
)
def test_a_failure_that_stays_ends_after_a_few_attempts(download: Download, fault: Fault, reason: str) -> None:
    download.world.faults[PATH] = fault
    error = download.fails()
    assert error.message == f"{download.part.url}: {reason} ({ATTEMPTS} attempts)"
    assert "run the same command" in error.next_step
    assert len(download.world.requests) == ATTEMPTS
    assert sum(download.told) == 0


@pytest.mark.parametrize(
    ("status", "reason", "next_step"),
    [
        (404, "the server answers 404", "moved the file"),
        (410, "the server answers 410", "moved the file"),
        (204, "the server answers 204", "moved the file"),
        (401, "the server answers 401, access refused", "HF_TOKEN"),
        (403, "the server answers 403, access refused", "HF_TOKEN"),
    ],
)
def test_a_refusal_is_final(download: Download, status: int, reason: str, next_step: str) -> None:
    download.world.faults[PATH] = Fault(status=status)
    error = download.fails()
    assert error.message == f"{download.part.url}: {reason}"
    assert next_step in error.next_step
    assert len(download.world.requests) == 1


def test_other_bytes_of_the_right_size_are_an_error_and_not_tried_again(download: Download) -> None:
    other = b"x" * len(BYTES)
    download.world.faults[PATH] = Fault(body=other)
    download.fails_with(f"sha256 is {hashlib.sha256(other).hexdigest()}, its publisher says {GOOD.sha256}")
    assert len(download.world.requests) == 1

    download.part = replace(download.part, sha256=None)
    md5 = hashlib.md5(other, usedforsecurity=False).hexdigest()
    download.fails_with(f"md5 is {md5}, its publisher says {GOOD.md5}")


def test_a_failed_attempt_leaves_an_older_file_as_it_is(download: Download) -> None:
    download.target.write_text("of yesterday")
    download.world.faults[PATH] = Fault(cut_at=1000)
    with pytest.raises(SourceError):
        download.run()
    assert [path.read_text() for path in download.target.parent.iterdir()] == ["of yesterday"]


@pytest.mark.parametrize(("header", "least", "most"), [("7", 7, 7), ("999999", 120, 120), ("soon", 0, 1), ("²", 0, 1)])
def test_the_server_says_how_long_to_wait(download: Download, header: str, least: float, most: float) -> None:
    download.world.faults[PATH] = Fault(status=429, headers={"Retry-After": header}, times=1)
    download.succeeds()
    (pause,) = download.pauses
    assert least <= pause <= most


def test_the_server_says_until_when_to_wait(download: Download) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    download.world.faults[PATH] = Fault(status=503, headers={"Retry-After": until}, times=1)
    download.succeeds()
    assert 50 < download.pauses[0] <= 60


@given(st.one_of(st.text(max_size=40), st.datetimes().map(str), st.from_regex(r"\w{3}, \d+ \w{3} \d+ [\d:]+ [+-]?\w+")))
def test_no_retry_after_header_is_too_odd(header: str) -> None:
    seconds = retry_after(header)
    assert seconds is None or seconds >= 0


def test_retry_after_dates() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 -0000") == 0
    assert retry_after("0") == 0
    assert retry_after("") is None
    assert retry_after("-5") is None


def test_a_gz_that_its_host_calls_an_encoding_stays_a_gz(download: Download) -> None:
    packed = gzip.compress(BYTES)
    download.part = replace(download.part, size_bytes=len(packed), sha256=None, md5=None)
    download.world.faults[PATH] = Fault(body=packed, headers={"Content-Encoding": "gzip"})
    download.succeeds(packed)


def test_a_redirect_is_followed_without_the_token_on_another_host(download: Download) -> None:
    world = download.world
    elsewhere = world.url.replace("127.0.0.1", "localhost")
    world.faults["/moved"] = Fault(status=302, headers={"Location": PATH})
    world.faults["/away"] = Fault(status=307, headers={"Location": f"{elsewhere}{PATH}"})
    for path, sent in (("/moved", "Bearer secret"), ("/away", None)):
        world.server.request_headers.clear()
        part = replace(download.part, url=world.url + path)
        transfer.transfer(part, download.target, {"Authorization": "Bearer secret"}, download.told.append)
        first, second = world.server.request_headers
        assert (first["Authorization"], second.get("Authorization")) == ("Bearer secret", sent)
        assert download.target.read_bytes() == BYTES


@pytest.mark.parametrize(
    ("location", "reason"),
    [("/loop", "too many redirects"), ("file:///etc/passwd", "No host specified")],
)
def test_redirects_that_lead_nowhere(download: Download, location: str, reason: str) -> None:
    download.world.faults["/loop"] = Fault(status=302, headers={"Location": location})
    download.part = replace(download.part, url=f"{download.world.url}/loop")
    assert reason in download.fails().message


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_host_that_is_not_there(download: Download, host: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        download.part = replace(download.part, url=f"http://{host}:{closed.getsockname()[1]}/a")
        error = download.fails()
    assert "0x" not in error.message, "an object's address tells nobody anything"
    assert "Check the network" in error.next_step
    assert len(download.pauses) == ATTEMPTS - 1
