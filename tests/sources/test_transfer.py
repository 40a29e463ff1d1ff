"""One file over http: the right bytes under the final name, or a message that says why and what to do."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from prep import progress
from prep.errors import SourceError, WorkspaceError
from prep.publishers import Fault, World
from prep.publishers.server import PublisherServer
from prep.sources import Part, connection, part_file, part_transfer, sink
from prep.sources.connection import ATTEMPTS, ATTEMPTS_TO_CONNECT
from prep.sources.part_file import journal_path, part_path, partial_bytes
from prep.sources.transfer import Refused, Session, WebPage
from prep.web import retry_after

PATH = "/files/parts/part-0.bin"
BYTES = b"".join(number.to_bytes(4, "big") for number in range(576_000))
SEGMENT = 300_000
GOOD = Part(
    "part-0.bin",
    "",
    len(BYTES),
    hashlib.sha256(BYTES).hexdigest(),
    hashlib.md5(BYTES, usedforsecurity=False).hexdigest(),
)
UNSURE = Part("part-0.bin", "")  # the publisher says nothing of it


@dataclass
class Download:
    """One part of the world, its target, and what the transfer said and slept meanwhile."""

    world: World
    part: Part
    target: Path
    told: list[int] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def run(self, **options: float) -> str:
        with Session(self.told.append, **options) as session:  # type: ignore[arg-type]
            return session.bring(self.part, self.target)

    def fails(self) -> SourceError:
        """The error of a transfer that gives nothing its name."""
        with pytest.raises(SourceError) as caught:
            self.run()
        assert not self.target.exists()
        assert caught.value.message.startswith(f"{self.part.url}: ")
        return caught.value

    def fails_with(self, reason: str) -> None:
        assert self.fails().message == f"{self.part.url}: {reason}"

    def succeeds(self, data: bytes = BYTES, kept: int = 0) -> None:
        assert self.run() == hashlib.sha256(data).hexdigest()
        assert {path.name: path.read_bytes() for path in self.target.parent.iterdir()} == {"part-0.bin": data}
        assert sum(self.told) == len(data) - kept

    @property
    def asked(self) -> list[str]:
        """The Range of every request so far, in order."""
        return [headers.get("Range", "") for headers in self.world.server.request_headers]


@pytest.fixture
def download(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    file = world.folder / PATH.removeprefix("/")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(BYTES)
    target = tmp_path / "raw" / "part-0.bin"
    target.parent.mkdir()
    found = Download(world, replace(GOOD, url=world.url + PATH), target)
    monkeypatch.setattr(Session, "pause", lambda session, seconds: found.pauses.append(seconds))
    for module in (sink, part_file):
        monkeypatch.setattr(module, "JOURNAL_FROM_BYTES", 1)
    monkeypatch.setattr(sink, "BATCH_BYTES", 20_000)
    return found


@pytest.fixture
def in_ranges(download: Download, monkeypatch: pytest.MonkeyPatch) -> Download:
    """The same, the part being large enough for ranges."""
    monkeypatch.setattr(part_transfer, "SEGMENT_BYTES", SEGMENT)
    return download


# -- nothing goes wrong --------------------------------------------------------------------------------------


def test_the_bytes_come_once_and_are_counted(download: Download) -> None:
    download.succeeds()
    assert download.world.requests == [("GET", PATH)]
    assert download.asked == [""]
    assert download.pauses == []


def test_an_older_file_is_replaced(download: Download) -> None:
    download.target.write_text("of yesterday")
    download.succeeds()


def test_of_an_empty_part_too_the_server_is_asked(download: Download) -> None:
    download.part = replace(UNSURE, url=download.part.url, size_bytes=0)
    download.fails_with(f"the server offers {len(BYTES)} bytes, 0 were announced ({ATTEMPTS} attempts)")
    (download.world.folder / PATH.removeprefix("/")).write_bytes(b"")
    download.succeeds(b"")


def test_a_publisher_that_says_nothing_is_believed(download: Download) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    download.succeeds()


def test_a_large_part_comes_in_ranges(in_ranges: Download) -> None:
    in_ranges.succeeds()
    ends = [min(start + SEGMENT, len(BYTES)) for start in range(0, len(BYTES), SEGMENT)]
    assert sorted(in_ranges.asked) == sorted(f"bytes={end - (end % SEGMENT or SEGMENT)}-{end - 1}" for end in ends)


def test_a_large_part_of_unknown_size_comes_in_ranges_too(in_ranges: Download) -> None:
    in_ranges.part = replace(UNSURE, url=in_ranges.part.url)
    in_ranges.succeeds()
    assert in_ranges.asked[0] == "" and len(in_ranges.asked) == -(-len(BYTES) // SEGMENT)


def test_ranges_of_one_part_come_at_the_same_time(in_ranges: Download) -> None:
    in_ranges.world.faults[PATH] = Fault(drip_seconds=0.2)
    started = time.monotonic()
    in_ranges.succeeds()
    assert time.monotonic() - started < 0.2 * len(in_ranges.asked) / 2


def test_parts_share_the_connections(in_ranges: Download) -> None:
    before = threading.active_count()
    seen: list[int] = []
    with Session(lambda amount: seen.append(threading.active_count())) as session:
        targets = [in_ranges.target.with_name(f"{number}.bin") for number in range(12)]
        threads = [
            threading.Thread(target=session.bring, args=(replace(in_ranges.part, path=target.name), target))
            for target in targets
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [target.read_bytes() == BYTES for target in targets] == [True] * 12
    hashers_and_keeper = 12 + 1
    assert max(seen) - before <= 12 + part_transfer.CONNECTIONS + hashers_and_keeper


def test_ask_says_size_and_beginning(download: Download) -> None:
    with Session() as session:
        answer = session.ask(download.part.url)
        assert (answer.status, answer.size_bytes, answer.body) == (206, len(BYTES), b"")
        answer = session.ask(download.part.url, limit=10)
        assert (answer.status, answer.size_bytes, answer.body) == (200, len(BYTES), BYTES[:10])
        assert session.ask(download.world.url + "/files/none").status == 404
        with pytest.raises(SourceError, match='Protocol "ftp" is disabled'):
            session.ask("ftp://127.0.0.1/x")


# -- what passes by itself -----------------------------------------------------------------------------------

PASSING = {
    "cut": Fault(cut_at=1000),
    "cut before the first byte": Fault(cut_at=0),
    "reset": Fault(cut_at=100_000, reset=True),
    "shorter than said": Fault(content_length=len(BYTES) + 7),
    "longer than said": Fault(content_length=len(BYTES) - 7),
    "empty": Fault(body=b""),
    "too long": Fault(body=BYTES + b"more"),
    "cut without a length": Fault(cut_at=1000, length="none"),
    "cut chunks": Fault(cut_at=1000, length="chunked"),
    **{f"status {status}": Fault(status=status) for status in (408, 425, 429, 500, 502, 503, 504)},
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_failure_that_passes_is_tried_again(download: Download, fault: Fault) -> None:
    download.world.faults[PATH] = replace(fault, times=2)
    download.succeeds()
    assert len(download.world.requests) == 3
    assert len(download.pauses) == 2
    assert 0.5 <= download.pauses[0] <= 1 <= download.pauses[1] <= 2


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_failure_that_passes_is_tried_again_in_ranges(in_ranges: Download, fault: Fault) -> None:
    in_ranges.world.faults[PATH] = replace(fault, after=1, times=3)
    in_ranges.succeeds()


@pytest.mark.parametrize("length", ["none", "chunked"])
def test_a_body_without_a_length_is_read_to_its_end(download: Download, length: str) -> None:
    download.world.faults[PATH] = Fault(length=length)  # type: ignore[arg-type]
    download.succeeds()
    download.part = replace(UNSURE, url=download.part.url)
    download.told.clear()
    download.succeeds()


def test_a_cut_body_goes_on_where_it_was_cut(download: Download) -> None:
    download.world.faults[PATH] = Fault(cut_at=1_000_000, times=1)
    download.succeeds()
    assert download.asked == ["", f"bytes=1000000-{len(BYTES) - 1}"]


def test_a_server_that_cuts_every_answer_is_outlasted(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_transfer, "PROGRESS_BYTES", 50_000)
    download.world.faults[PATH] = Fault(cut_at=60_000)
    download.succeeds()
    assert len(download.asked) == -(-len(BYTES) // 60_000) > ATTEMPTS


def test_a_stalled_answer_is_left_and_taken_up_again(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 1)
    monkeypatch.setattr(connection, "STALL_BYTES", 10_000_000)
    download.world.faults[PATH] = Fault(drip_seconds=20, times=1)
    started = time.monotonic()
    download.succeeds()
    assert time.monotonic() - started < 10


def test_a_drip_that_never_ends_has_an_end(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 1)
    monkeypatch.setattr(connection, "STALL_BYTES", 10_000_000)
    monkeypatch.setattr(connection.Transient.__init__, "__defaults__", (None, 2, ""))
    download.world.faults[PATH] = Fault(drip_seconds=20)
    download.fails_with("stalled: under 10000000 bytes a second for 1 s (2 attempts)")


# -- what does not pass --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=500), "the server answers 500"),
        (Fault(status=503), "the server answers 503"),
        (Fault(body=b"short"), f"the server offers 5 bytes, {len(BYTES)} were announced"),
        (Fault(body=b"short", length="chunked"), f"5 bytes came, {len(BYTES)} were announced"),
        (Fault(cut_at=0), f"end of response with {len(BYTES)} bytes missing"),
    ],
    ids=["500", "503", "short", "short without length", "cut"],
)
def test_a_failure_that_stays_ends_after_a_few_attempts(download: Download, fault: Fault, reason: str) -> None:
    download.world.faults[PATH] = fault
    error = download.fails()
    assert error.message == f"{download.part.url}: {reason} ({ATTEMPTS} attempts)"
    assert "un the same command" in error.next_step or "--force" in error.next_step
    assert len(download.world.requests) == ATTEMPTS


@pytest.mark.parametrize(
    ("status", "reason", "next_step"),
    [
        (404, "the server answers 404", "moved the file"),
        (410, "the server answers 410", "moved the file"),
        (204, "the server answers 204", "moved the file"),
        (401, "the server answers 401, access refused", "account or terms"),
        (403, "the server answers 403, access refused", "account or terms"),
    ],
)
def test_a_refusal_is_final(download: Download, status: int, reason: str, next_step: str) -> None:
    download.world.faults[PATH] = Fault(status=status)
    error = download.fails()
    assert error.message == f"{download.part.url}: {reason}"
    assert next_step in error.next_step
    assert isinstance(error, Refused) == (status in (401, 403))
    assert len(download.world.requests) == 1
    assert list(download.target.parent.iterdir()) == []


def test_other_bytes_of_the_right_size_are_an_error_and_not_tried_again(download: Download) -> None:
    other = b"x" * len(BYTES)
    download.world.faults[PATH] = Fault(body=other)
    download.fails_with(f"sha256 is {hashlib.sha256(other).hexdigest()}, its publisher says {GOOD.sha256}")
    assert len(download.world.requests) == 1
    assert list(download.target.parent.iterdir()) == [], "nothing to go on from"

    download.part = replace(download.part, sha256=None)
    md5 = hashlib.md5(other, usedforsecurity=False).hexdigest()
    download.fails_with(f"md5 is {md5}, its publisher says {GOOD.md5}")


def test_more_bytes_than_announced_are_an_error_unless_the_hash_says_otherwise(download: Download) -> None:
    download.world.faults[PATH] = Fault(body=BYTES + b"!", length="chunked")
    download.succeeds()
    download.target.unlink()
    download.part = replace(download.part, sha256=None, md5=None)
    download.fails_with(f"is longer than the announced {len(BYTES)} bytes, again and again")


def test_a_hash_in_capitals_is_the_same_hash(download: Download) -> None:
    assert download.part.sha256 and download.part.md5
    download.part = replace(download.part, sha256=download.part.sha256.upper())
    download.succeeds()


def test_a_failed_attempt_leaves_an_older_file_as_it_is(download: Download) -> None:
    download.target.write_text("of yesterday")
    download.world.faults[PATH] = Fault(cut_at=1000)
    with pytest.raises(SourceError):
        download.run()
    assert download.target.read_text() == "of yesterday"


@pytest.mark.parametrize("doctype", ["<!DOCTYPE html>", "\ufeff \n<html lang=en>", "<!doctype HTML PUBLIC '-//W3C'>"])
def test_a_web_page_in_place_of_an_archive_is_not_taken(download: Download, doctype: str) -> None:
    page = f"{doctype}<head><title>Sign in \n to\tcontinue</title></head>" + "x" * 100_000
    download.part = replace(download.part, path="photos.zip", size_bytes=None, sha256=None, md5=None)
    download.world.faults[PATH] = Fault(body=page.encode())
    error = download.fails()
    assert error.message == f"{download.part.url}: a web page ('Sign in to continue') came in place of the file"
    assert isinstance(error, WebPage) and error.html.startswith(doctype) and len(error.html) < len(page)
    assert list(download.target.parent.iterdir()) == []


def test_a_web_page_in_place_of_a_part_of_known_size_is_told_at_once(download: Download) -> None:
    page = b"<html><title>Quota exceeded</title>"
    download.world.faults[PATH] = Fault(body=page, headers={"Content-Type": "text/html; charset=utf-8"})
    download.fails_with("a web page ('Quota exceeded') came in place of the file")
    assert len(download.asked) == 1


def test_a_web_page_that_was_asked_for_is_taken(download: Download) -> None:
    page = b"<!doctype html><title>Terms</title>"
    download.world.faults[PATH] = Fault(body=page)
    for part in (
        Part("terms.html", download.part.url),
        Part("terms", download.part.url, len(page), hashlib.sha256(page).hexdigest()),
    ):
        download.part = part
        download.told.clear()
        download.succeeds(page)


# -- how long to wait ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "least", "most"), [("7", 7, 7), ("soon", 0.5, 1), ("²", 0.5, 1)])
def test_the_server_says_how_long_to_wait(download: Download, header: str, least: float, most: float) -> None:
    download.world.faults[PATH] = Fault(status=429, headers={"Retry-After": header}, times=1)
    download.succeeds()
    assert least <= download.pauses[0] <= most


def test_the_server_says_until_when_to_wait(download: Download) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    download.world.faults[PATH] = Fault(status=503, headers={"Retry-After": until}, times=1)
    download.succeeds()
    assert 50 < download.pauses[0] <= 60


def test_the_hub_says_how_long_to_wait(download: Download) -> None:
    limits = {"RateLimit": '"resolvers";r=0;t=55', "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300'}
    download.world.faults[PATH] = Fault(status=429, headers=limits, times=1)
    download.succeeds()
    assert download.pauses[0] == 56


def test_a_server_that_asks_for_hours_is_left_for_another_day(download: Download) -> None:
    download.world.faults[PATH] = Fault(status=429, headers={"Retry-After": "7200"})
    error = download.fails()
    assert error.message == f"{download.part.url}: the server answers 429, and asks to wait 120 minutes"
    assert error.next_step == "Run the same command then; what has come is kept."


def test_all_transfers_keep_away_from_a_host_that_asks_for_it(
    download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    download.world.faults["/files/other"] = Fault(status=429, headers={"Retry-After": "1"}, times=1, body=b"")
    with Session() as session:
        other = Part("other", download.world.url + "/files/other")
        thread = threading.Thread(target=session.bring, args=(other, download.target.with_name("other")))
        threading.excepthook = lambda arguments: None  # it ends with 404, which is not the point
        thread.start()
        while not download.world.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        started = time.monotonic()
        session.bring(download.part, download.target)
        assert time.monotonic() - started > 0.5
        thread.join()
    threading.excepthook = threading.__excepthook__


ODD = ["\xb2", "-1", "9" * 5000, "1e3", "", "NaN", "0x10", "\xff"]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("name", ["RateLimit", "Retry-After", "ETag", "Last-Modified", "X-Odd"])
def test_odd_headers_do_no_harm(in_ranges: Download, name: str, value: str) -> None:
    written = f'"resolvers";r={value};t={value}' if name == "RateLimit" else value
    in_ranges.world.faults[PATH] = Fault(status=503, headers={name: written}, times=1)
    in_ranges.part = replace(UNSURE, url=in_ranges.part.url)
    if value.startswith("9") and name == "Retry-After":
        assert "asks to wait" in in_ranges.fails().message
    else:
        in_ranges.succeeds()


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_odd_sizes_in_headers_do_no_harm(download: Download, value: str) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    download.world.faults[PATH] = Fault(headers={"Content-Range": f"bytes 0-{value}/{value}"}, times=1)
    download.succeeds()
    with Session() as session:
        assert session.ask(download.part.url).status in (200, 206)


@pytest.mark.parametrize(("asked", "told"), [("2", 0), ("60", 1)])
def test_a_long_wait_is_told_once(in_ranges: Download, asked: str, told: int) -> None:
    heard: list[Mapping[str, object]] = []
    before = progress._make, progress._on_event
    progress.use(progress.no_bar, heard.append)
    try:
        in_ranges.world.faults[PATH] = Fault(status=429, headers={"Retry-After": asked}, after=1, times=4)
        in_ranges.succeeds()
    finally:
        progress.use(*before)
    host = in_ranges.world.url.removeprefix("http://")
    assert heard == [{"event": "wait", "host": host, "seconds": int(asked)}] * told


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


def test_a_deadline_ends_it_and_keeps_what_came(download: Download) -> None:
    download.world.faults[PATH] = Fault(drip_seconds=30)
    with pytest.raises(SourceError) as caught:
        download.run(deadline=time.monotonic() + 1)
    assert str(caught.value) == "the time given with --deadline is over\n  Run the same command to go on from here."
    kept = partial_bytes(download.target)
    assert 0 < kept < len(BYTES)
    download.world.faults.clear()
    download.told.clear()
    download.succeeds(kept=kept)


# -- resuming ------------------------------------------------------------------------------------------------


def leave_half(download: Download, at: int = 1_000_000) -> int:
    """Break off after `at` bytes, as a kill would; the bytes that the journal holds."""
    download.world.faults[PATH] = Fault(cut_at=at, times=1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Session, "pause", _give_up)
        download.run()
    download.world.faults.clear()
    download.world.server.request_headers.clear()
    download.told.clear()
    assert partial_bytes(download.target) == at
    return at


def _give_up(session: Session, seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("part", [GOOD, replace(GOOD, sha256=None), replace(GOOD, sha256=None, md5=None), UNSURE])
def test_another_run_goes_on(download: Download, part: Part) -> None:
    download.part = replace(part, url=download.part.url)
    kept = leave_half(download)
    download.succeeds(kept=kept)
    last = "" if part.size_bytes is None else len(BYTES) - 1
    assert download.asked == [f"bytes={kept}-{last}"]
    conditions = [headers.get("If-Range") for headers in download.world.server.request_headers]
    assert [condition is None for condition in conditions] == [bool(part.sha256 or part.md5)]


def test_another_run_fetches_only_the_gaps(in_ranges: Download) -> None:
    in_ranges.world.faults[PATH] = Fault(cut_at=100_000)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Session, "pause", _give_up)
        in_ranges.run()
    kept = partial_bytes(in_ranges.target)
    assert 0 < kept < len(BYTES)
    in_ranges.world.faults.clear()
    in_ranges.world.server.request_headers.clear()
    in_ranges.told.clear()
    in_ranges.succeeds(kept=kept)
    first_and_last = [re.findall(r"\d+", asked) for asked in in_ranges.asked]
    assert sum(int(last) - int(first) + 1 for first, last in first_and_last) == len(BYTES) - kept


NEW = BYTES[::-1]


@pytest.mark.parametrize("with_hash", [True, False])
def test_a_file_that_changed_meanwhile_begins_anew(download: Download, with_hash: bool) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    leave_half(download)
    (download.world.folder / PATH.removeprefix("/")).write_bytes(NEW)
    if with_hash:
        download.part = replace(download.part, sha256=hashlib.sha256(NEW).hexdigest())
    download.succeeds(NEW)


def test_a_file_that_changes_between_two_ranges_begins_anew(in_ranges: Download) -> None:
    in_ranges.part = replace(UNSURE, url=in_ranges.part.url)
    in_ranges.world.faults[PATH] = Fault(body=NEW, etag='"another"', after=2)
    in_ranges.succeeds(NEW)


def test_a_file_that_changes_all_the_time_has_an_end(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    monkeypatch.setattr(part_transfer, "SEGMENT_BYTES", SEGMENT)
    real = sink.Sink._compare_validator
    monkeypatch.setattr(
        sink.Sink, "_compare_validator", lambda self, response: real(self, response) or self._span.start > 0
    )
    download.fails_with("changed at its publisher, again and again")


def test_a_server_that_ignores_ranges_gives_the_whole_again(in_ranges: Download) -> None:
    in_ranges.world.faults[PATH] = Fault(ignore_range=True, cut_at=1_000_000, times=1)
    in_ranges.succeeds()
    in_ranges.world.faults[PATH] = Fault(ignore_range=True)
    in_ranges.told.clear()
    in_ranges.world.server.request_headers.clear()
    in_ranges.succeeds()
    assert len(in_ranges.asked) == 1, "one answer that holds everything is enough"


def test_a_server_that_ignores_ranges_half_way_begins_anew(download: Download) -> None:
    leave_half(download)
    download.world.faults[PATH] = Fault(ignore_range=True)
    download.succeeds()
    assert len(download.asked) == 1, "the answer to the range held everything"


@pytest.mark.parametrize("content_range", [f"bytes 0-9/{len(BYTES)}", "bytes */5", "lines 1-2/3", ""])
def test_other_ranges_than_asked_for_are_not_put_in_place(download: Download, content_range: str) -> None:
    leave_half(download)
    download.world.faults[PATH] = Fault(headers={"Content-Range": content_range}, times=1)
    download.succeeds()


def test_a_shorter_file_than_was_kept_begins_anew(download: Download) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    leave_half(download)
    short = BYTES[:500_000]
    file = download.world.folder / PATH.removeprefix("/")
    file.write_bytes(short)
    download.world.faults[PATH] = Fault(status=416, times=1)
    download.succeeds(short)


def test_bytes_that_do_not_belong_together_begin_anew(download: Download) -> None:
    """As after a publisher changed the file under the same validator, or a disk changed what it was given."""
    kept = leave_half(download)
    with part_path(download.target).open("r+b") as file:
        file.write(b"spoiled")
    download.succeeds(kept=0)
    assert download.asked == [f"bytes={kept}-{len(BYTES) - 1}", ""]


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "[]",
        "{}",
        '{"key": 1, "validator": null, "done": 7}',
        '{"key": "x", "validator": null, "done": [[5, 2]]}',
        '{"key": "x", "validator": null, "done": [[0, 2]]}',
        '{"key": "KEY", "validator": null, "done": [[0, 99999999]]}',
        '{"key": "KEY", "validator": null, "done": []}',
        '{"key": "KEY", "validator": null, "done": [[4, 8], [0, 2]]}',
    ],
)
def test_a_journal_that_cannot_be_believed_begins_anew(download: Download, journal: str) -> None:
    leave_half(download)
    journal_path(download.target).write_text(journal.replace("KEY", str(GOOD.sha256)))
    download.succeeds()


def test_a_journal_without_its_bytes_begins_anew(download: Download) -> None:
    leave_half(download)
    part_path(download.target).unlink()
    download.succeeds()


def test_what_was_kept_of_another_version_is_not_used(download: Download) -> None:
    leave_half(download)
    (download.world.folder / PATH.removeprefix("/")).write_bytes(NEW)
    download.part = replace(download.part, sha256=hashlib.sha256(NEW).hexdigest(), md5=None)
    download.succeeds(NEW)


def test_the_journal_says_only_what_is_safe(download: Download) -> None:
    leave_half(download)
    journal = json.loads(journal_path(download.target).read_text())
    assert journal["done"] == [[0, 1_000_000]] and journal["key"] == GOOD.sha256
    assert journal["validator"][0] == download.world.url.removeprefix("http://")
    assert part_path(download.target).read_bytes() == BYTES[:1_000_000]


# -- redirects and signed addresses --------------------------------------------------------------------------


def test_a_redirect_is_followed_without_the_token_on_another_host(download: Download) -> None:
    world = download.world
    elsewhere = world.url.replace("127.0.0.1", "localhost")
    world.faults["/moved"] = Fault(status=302, headers={"Location": PATH})
    world.faults["/away"] = Fault(status=307, headers={"Location": f"{elsewhere}{PATH}"})
    for path, sent in (("/moved", "Bearer secret"), ("/away", None)):
        world.server.request_headers.clear()
        part = replace(download.part, url=world.url + path)
        with Session() as session:
            session.bring(part, download.target, {"Authorization": "Bearer secret"})
        first, second = world.server.request_headers
        assert (first["Authorization"], second.get("Authorization")) == ("Bearer secret", sent)
        assert download.target.read_bytes() == BYTES


def test_where_a_redirect_led_is_asked_directly_and_a_signature_that_ran_out_is_renewed(in_ranges: Download) -> None:
    world, ranges = in_ranges.world, -(-len(BYTES) // SEGMENT)
    world.faults["/signed"] = Fault(status=302, headers={"Location": PATH})
    in_ranges.part = replace(in_ranges.part, url=f"{world.url}/signed")
    world.faults[PATH] = Fault(status=403, after=3, times=1)
    in_ranges.succeeds()
    asked = [path for _, path in world.requests]
    assert asked.count("/signed") < 1 + 1 + ranges
    assert asked.count(PATH) >= ranges + 1


def test_every_request_gets_a_fresh_address(download: Download) -> None:
    addresses = [f"{download.world.url}{PATH}?signature={number}" for number in range(3)]
    download.world.faults[PATH] = Fault(cut_at=1000, times=2)
    with Session() as session:
        session.bring(download.part, download.target, address=lambda: addresses.pop(0))
    assert addresses == [] and download.target.read_bytes() == BYTES


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/loop", "redirects more than 10 times"),
        ("file:///etc/passwd", 'Protocol "file" is disabled (in redirect)'),
        ("http://127.0.0.2:9/x", "leads to 127.0.0.2 (127.0.0.2), which is not a public address"),
        ("http://169.254.169.254/latest", "leads to 169.254.169.254 (169.254.169.254), which is not a public address"),
        ("http://[::ffff:10.0.0.1]/x", "leads to ::ffff:10.0.0.1 (::ffff:10.0.0.1), which is not a public address"),
    ],
)
def test_redirects_that_lead_nowhere(download: Download, location: str, reason: str) -> None:
    download.world.faults["/loop"] = Fault(status=302, headers={"Location": location})
    download.part = replace(download.part, url=f"{download.world.url}/loop")
    assert reason in download.fails().message
    assert download.pauses == []


def test_an_address_that_no_configuration_names_has_to_be_public(download: Download) -> None:
    with Session() as session, pytest.raises(SourceError, match=r"leads to 127\.0\.0\.1 .*not a public address"):
        session.bring(download.part, download.target, is_named=False)
    with Session(allow_private_hosts=True) as session:
        session.bring(download.part, download.target, is_named=False)
    assert download.target.read_bytes() == BYTES


def test_secrets_of_an_address_are_not_shown(download: Download) -> None:
    download.world.faults[PATH] = Fault(status=404)
    url = download.part.url.replace("http://", "http://user:secret@") + "?signature=secret"
    with Session() as session, pytest.raises(SourceError) as caught:
        session.bring(replace(download.part, url=url), download.target)
    assert "secret" not in str(caught.value) and PATH in str(caught.value)


# -- encodings, TLS, proxies, hosts --------------------------------------------------------------------------


def test_a_gz_that_its_host_calls_an_encoding_stays_a_gz(download: Download) -> None:
    packed = gzip.compress(BYTES)
    download.world.faults[PATH] = Fault(body=packed, headers={"Content-Encoding": "gzip"})
    for part in (Part("part-0.gz", download.part.url), Part("part-0.bin", download.part.url, len(packed))):
        download.part = part
        download.told.clear()
        download.succeeds(packed)


def test_what_a_server_packs_for_the_journey_is_unpacked(download: Download) -> None:
    download.world.faults[PATH] = Fault(gzip=True)
    download.succeeds()
    download.world.faults[PATH] = Fault(gzip=True, cut_at=1000, times=1)
    download.told.clear()
    download.succeeds()


def test_another_packing_is_an_error(download: Download) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    download.world.faults[PATH] = Fault(headers={"Content-Encoding": "br"})
    download.fails_with("the server sends it packed as br, though asked not to")


@pytest.fixture
def secure(download: Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Download]:
    """The same file over TLS."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "authority.pem"))
    connection._options.cache_clear()
    folder = download.world.folder
    with PublisherServer(folder / "hub", folder / "files", tls=context) as server:
        download.world = World(folder)
        download.world.server, download.world.url = server, server.url
        download.part = replace(download.part, url=server.url + PATH)
        yield download
    connection._options.cache_clear()


@pytest.mark.parametrize("fault", [Fault(), Fault(cut_at=1000, times=2), Fault(cut_at=1000, reset=True, times=1)])
def test_tls_that_is_closed_early_is_taken_up_again(secure: Download, fault: Fault) -> None:
    secure.world.faults[PATH] = fault
    secure.succeeds()


def test_a_body_without_length_over_tls_closed_early_is_not_taken_for_whole(secure: Download) -> None:
    secure.part = replace(UNSURE, url=secure.part.url)
    secure.world.faults[PATH] = Fault(cut_at=1000, length="none", times=1)
    secure.succeeds()


def test_a_certificate_that_nobody_vouches_for_is_final(secure: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CURL_CA_BUNDLE")
    connection._options.cache_clear()
    assert "certificate" in secure.fails().message
    assert secure.pauses == []


def test_a_proxy_is_used_where_the_environment_names_one(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", download.world.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    asked = "http://publisher.invalid" + PATH
    download.world.faults[asked] = Fault(body=BYTES)
    download.part = replace(download.part, url=asked)
    with Session() as session:
        session.bring(download.part, download.target, is_named=False)
    assert download.target.read_bytes() == BYTES


def test_a_proxy_that_is_not_asked_opens_no_door(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.3:9")  # libcurl obeys it in small letters only
    with Session() as session, pytest.raises(SourceError, match="not a public address"):
        session.bring(download.part, download.target, is_named=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_host_that_is_not_there(download: Download, host: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        download.part = replace(download.part, url=f"http://{host}:{closed.getsockname()[1]}/a")
        error = download.fails()
    assert "Check the network" in error.next_step
    assert len(download.pauses) == ATTEMPTS_TO_CONNECT - 1
    assert list(download.target.parent.iterdir()) == []


# -- two at once ---------------------------------------------------------------------------------------------


def test_two_processes_on_one_file_wait_for_each_other(download: Download) -> None:
    """Two sessions hold separate file locks, as two processes would."""
    download.world.faults[PATH] = Fault(drip_seconds=0.5)
    results: list[str] = []

    def bring() -> None:
        with Session() as session:
            results.append(session.bring(download.part, download.target))

    threads = [threading.Thread(target=bring) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [GOOD.sha256] * 3
    assert [path.name for path in download.target.parent.iterdir()] == ["part-0.bin"]
    assert download.target.read_bytes() == BYTES
    assert len(download.world.requests) == 1


def test_what_another_process_brought_is_taken_only_if_it_is_the_same(download: Download) -> None:
    download.world.faults[PATH] = Fault(drip_seconds=0.5, times=1)
    (download.world.folder / "files/other.bin").write_bytes(NEW)
    other = Part("part-0.bin", download.world.url + "/files/other.bin", len(NEW), hashlib.sha256(NEW).hexdigest())
    results: dict[str, str] = {}

    def bring(name: str, part: Part) -> None:
        with Session() as session:
            results[name] = session.bring(part, download.target)

    first = threading.Thread(target=bring, args=("first", download.part))
    first.start()
    while not download.world.requests:
        time.sleep(0.01)
    bring("second", other)
    first.join()
    assert results == {"first": GOOD.sha256, "second": other.sha256}
    assert download.target.read_bytes() == NEW


# -- what only a hostile or broken server does ---------------------------------------------------------------


def test_ranges_of_a_file_without_validator_or_hash_are_not_put_together(download: Download) -> None:
    """A mirror's file, of another size and without an ETag, after half of the first host's."""
    unsure = replace(UNSURE, url=download.part.url)
    download.part = unsure
    leave_half(download)
    (download.world.folder / PATH.removeprefix("/")).write_bytes(NEW + NEW)
    download.world.faults[PATH] = Fault(headers={"ETag": "", "Last-Modified": ""})
    download.succeeds(NEW + NEW)


def test_a_part_that_cannot_be_resumed_comes_whole_or_not_at_all(in_ranges: Download) -> None:
    in_ranges.part = replace(UNSURE, url=in_ranges.part.url)
    in_ranges.world.faults[PATH] = Fault(headers={"ETag": "", "Last-Modified": ""})
    in_ranges.succeeds()
    assert in_ranges.asked == [""]


def test_all_members_of_a_packed_file_are_unpacked(download: Download) -> None:
    packed = b"".join(gzip.compress(BYTES[start : start + 900_000]) for start in range(0, len(BYTES), 900_000))
    download.world.faults[PATH] = Fault(body=packed, headers={"Content-Encoding": "gzip"})
    download.succeeds()


def test_what_cannot_be_unpacked_is_an_error(download: Download) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    download.world.faults[PATH] = Fault(body=b"not gzip at all", headers={"Content-Encoding": "gzip"})
    assert "cannot be unpacked" in download.fails().message


def test_a_packed_range_is_not_added_to_what_was_unpacked(download: Download) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    leave_half(download)
    download.world.faults[PATH] = Fault(headers={"Content-Encoding": "gzip"}, times=1)
    download.succeeds()


def test_a_range_that_does_not_say_how_long_the_file_is_does_not_end_it(download: Download) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    leave_half(download)
    download.world.faults[PATH] = Fault(headers={"Content-Range": "bytes 1000000-1999999/*"}, cut_at=1_000_000, times=1)
    download.succeeds()


def test_an_answer_that_ends_without_a_length_is_compared_with_what_the_server_has(download: Download) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    download.world.faults[PATH] = Fault(length="none", cut_at=1_000_000, times=1)
    download.succeeds()


@pytest.mark.parametrize("coding", ["", "identity", "UTF-8", "binary"])
def test_what_is_no_packing_is_passed_over(download: Download, coding: str) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    download.world.faults[PATH] = Fault(headers={"Content-Encoding": coding})
    download.succeeds()


def _disk(free: int) -> Callable[[Path], SimpleNamespace]:
    return lambda path: SimpleNamespace(total=1 << 40, used=0, free=free)


def test_a_body_without_end_leaves_room_on_the_disk(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    monkeypatch.setattr("shutil.disk_usage", _disk(1 << 30))
    download.world.faults[PATH] = Fault(length="chunked")
    with pytest.raises(WorkspaceError, match=r"does not fit: .* bytes and more are to come, 1\.1 GB are free in"):
        download.run()
    assert list(download.target.parent.iterdir()) == []


def test_a_size_that_is_learned_late_has_to_fit_too(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    download.part = replace(UNSURE, url=download.part.url)
    monkeypatch.setattr("shutil.disk_usage", _disk(2_000_000))
    with pytest.raises(WorkspaceError, match=f"does not fit: {len(BYTES):,} bytes are to come, 0.0 GB are free"):
        download.run()
    download.world.faults[PATH] = Fault(content_length=10**17, times=1)
    with pytest.raises(WorkspaceError, match=f"{10**17:,} bytes"):
        download.run()


def test_an_address_that_is_none_in_a_redirect_is_said(download: Download) -> None:
    download.world.faults["/odd"] = Fault(status=302, headers={"Location": "http://[::1"})
    download.part = replace(download.part, url=f"{download.world.url}/odd")
    download.fails_with("redirects to what is no address")


def test_a_link_local_address_is_not_said_to_be_allowed_anywhere(download: Download) -> None:
    download.world.faults["/odd"] = Fault(status=302, headers={"Location": "http://169.254.169.254/"})
    download.part = replace(download.part, url=f"{download.world.url}/odd")
    assert "allow_private_hosts" not in download.fails().message


def test_a_416_to_a_whole_request_is_just_an_answer(download: Download) -> None:
    download.world.faults[PATH] = Fault(status=416)
    download.fails_with("the server answers 416")


def test_a_cookie_that_a_redirect_sets_is_sent_back(download: Download) -> None:
    download.world.faults["/gate"] = Fault(status=302, headers={"Location": PATH, "Set-Cookie": "pass=1; Path=/"})
    download.part = replace(download.part, url=f"{download.world.url}/gate")
    download.succeeds()
    assert download.world.server.request_headers[-1]["Cookie"] == "pass=1"


@pytest.mark.parametrize("validator", ["5", "[1, 2]", '["a"]', '{"a": 1}'])
def test_a_journal_with_an_odd_validator_begins_anew(download: Download, validator: str) -> None:
    leave_half(download)
    text = json.dumps({"key": GOOD.sha256, "validator": None, "done": [[0, 10]]}).replace("null", validator)
    journal_path(download.target).write_text(text)
    download.succeeds()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"key": "x", "validator": null, "done": [[0, 1e999]]}'])
def test_a_hostile_journal_begins_anew(download: Download, text: str) -> None:
    leave_half(download)
    journal_path(download.target).write_text(text)
    download.succeeds()
