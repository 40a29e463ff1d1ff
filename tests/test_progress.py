"""Bars of whoever is watching: drawn, as a line now and then, as JSON lines, or none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep import progress
from prep.cli import show
from prep.progress import Meter


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Other tests of this process keep the bar that they chose."""
    before = progress._make, progress._on_event
    yield
    progress.use(*before)


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def beat_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_SECONDS", "EVERY_SECONDS", "EVENT_SECONDS"):
        monkeypatch.setattr(progress, name, 0.01)


def wait_for_lines(capsys: pytest.CaptureFixture[str], count: int) -> list[str]:
    """Lines on stderr as soon as there are so many."""
    told = ""
    for _ in range(500):
        told += capsys.readouterr().err
        if told.count("\n") >= count:
            return told.splitlines()
        threading.Event().wait(0.01)
    raise AssertionError(told)


# -- bars --------------------------------------------------------------------------------------------------------


def test_a_library_caller_gets_tqdm_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress.use(progress.tqdm_bar)
    with progress.bar("download coyo", 2_000_000, "B", items=2) as advance:
        advance(1_000_000, items=1)
        advance(-500_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert "download coyo" in err and "2.00M" in err


def test_another_bar_can_be_used_and_none(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[object] = []

    @contextmanager
    def teller(label: str, total: int | None, unit: str, items: int | None = None) -> Iterator[progress.Bar]:
        told.append((label, total, unit, items))
        yield lambda amount, items=0: told.append((amount, items))

    progress.use(teller, told.append)
    with progress.bar("images coyo", None, "shards") as advance:
        advance(3)
    with progress.bar("download coyo", 9, "B", items=2) as advance:
        advance(0, items=1)
    progress.event("part", path="a")
    progress.use(progress.no_bar)
    with progress.bar("silent", 3, "B") as advance:
        advance(3)
    progress.event("part", path="b")
    assert told == [
        ("images coyo", None, "shards", None),
        (3, 0),
        ("download coyo", 9, "B", 2),
        (0, 1),
        {"event": "part", "path": "a"},
    ]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_bytes_and_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("TERM", raising=False)
    with show.bars(as_json=False), progress.bar("download coyo", 4000, "B", items=3) as advance:
        advance(2000, items=2)
    with show.bars(as_json=False), progress.bar("filter coyo", 4, "shards") as advance:
        advance(3)
    told = capsys.readouterr().err
    assert "download coyo" in told and "2/3 files" in told and "2.0/4.0 kB" in told
    assert "filter coyo" in told and "3/4" in told


# -- lines -------------------------------------------------------------------------------------------------------


def test_a_line_says_files_bytes_rate_and_time_left(clock: Clock) -> None:
    meter = Meter("download coyo-700m", 63_000_000_000, "B", 128, clock)
    assert meter.line() == "download coyo-700m: 0 of 128 files, 0 B of 63.0 GB, 0 B/s"
    clock.now += 10
    meter(850_000_000, items=3)
    assert meter.line() == "download coyo-700m: 3 of 128 files, 850.0 MB of 63.0 GB, 85.0 MB/s, 12 min left"
    clock.now += 3600  # nothing came for an hour
    assert meter.line() == "download coyo-700m: 3 of 128 files, 850.0 MB of 63.0 GB, 0 B/s"


def test_a_line_of_shards_and_of_what_nobody_knows_the_end_of(clock: Clock) -> None:
    shards, endless = Meter("filter coyo", 12, "shards", None, clock), Meter("download x", None, "B", 2, clock)
    clock.now += 20
    shards(4)
    endless(4000)
    assert shards.line() == "filter coyo: 4 of 12 shards, 40 s left"
    assert endless.line() == "download x: 0 of 2 files, 4.0 kB, 200 B/s"


def test_the_rate_is_that_of_the_last_half_minute(clock: Clock) -> None:
    meter = Meter("download x", 10**6, "B", None, clock)
    for _ in range(10):
        clock.now += 10
        meter(1000)
        meter.rate()
    clock.now += 10
    meter(31_000)
    assert meter.rate() == (31_000 + 2000) / 30


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(-(10**9), 10**12)), max_size=30), st.integers(0, 10**13))
def test_no_course_of_events_breaks_a_meter(steps: list[tuple[float, int]], total: int) -> None:
    clock = Clock()
    meter = Meter("download x", total, "B", 3, clock)
    for seconds, amount in steps:
        clock.now += seconds
        meter(amount)
        assert meter.rate() >= 0
        json.dumps(meter.facts("progress"), allow_nan=False)
        assert meter.line().startswith("download x: 0 of 3 files, ")
    assert meter.done == sum(amount for _, amount in steps)


def test_off_a_terminal_a_line_comes_after_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (progress.FIRST_SECONDS, progress.EVERY_SECONDS) == (10, 30)
    with show.bars(as_json=False), progress.bar("filter coyo", 4, "shards") as advance:
        advance(4)
    assert capsys.readouterr() == ("", "")  # a quick run says nothing

    beat_at_once(monkeypatch)
    with show.bars(as_json=False), progress.bar("filter coyo", None, "shards"):
        lines = wait_for_lines(capsys, 3)
    assert set(lines) == {"filter coyo: 0 shards"}


def test_a_meter_counts_what_many_threads_tell(clock: Clock) -> None:
    meter = Meter("download x", None, "B", 0, clock)

    def count() -> None:
        for _ in range(2000):
            meter(1, items=1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (meter.done, meter.items_done) == (16_000, 16_000)


# -- events ------------------------------------------------------------------------------------------------------


def test_beside_json_events_are_lines_of_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert progress.EVENT_SECONDS == 1
    beat_at_once(monkeypatch)
    with show.bars(as_json=True), progress.bar("download coyo-700m", 4000, "B", items=2) as advance:
        advance(1000, items=1)
        progress.event("part", name="coyo-700m", path="größe.csv", size_bytes=1000)
        lines = wait_for_lines(capsys, 3)
    events = [json.loads(line) for line in [*lines, *capsys.readouterr().err.splitlines()]]
    same = {"stage": "download", "name": "coyo-700m", "total_bytes": 4000, "files_total": 2}
    assert events[0] == {"event": "start", "done_bytes": 0, "files": 0, **same}
    part = {"event": "part", "name": "coyo-700m", "path": "größe.csv", "size_bytes": 1000}
    assert part in events
    told = next(event for event in events if event["event"] == "progress" and event["done_bytes"])
    assert told.pop("bytes_per_second") > 0 and told.pop("eta_seconds") >= 0
    assert told == {"event": "progress", "done_bytes": 1000, "files": 1, **same}
    assert events[-1] == {"event": "end", "done_bytes": 1000, "files": 1, **same}


def test_events_of_shards_and_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), show.bars(as_json=True), progress.bar("filter x", None, "shards") as advance:
        advance(2)
        raise ZeroDivisionError
    same: dict[str, Any] = {"stage": "filter", "name": "x", "total": None, "unit": "shards"}
    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == [
        {"event": "start", "done": 0, **same},
        {"event": "end", "done": 2, **same},
    ]


def test_a_reader_of_stderr_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Gone())
    with progress.json_lines("download x", None, "B") as advance:
        advance(1)


# -- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (5400, "1 h 30 min"),
        (86_400, "24 h 0 min"),
        (48 * 3600, "2 days"),
        (1e6, "12 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (63e9, "63.0 GB"), (4.2e12, "4.2 TB"), (5e15, "5,000.0 TB")],
)
def test_sizes(size_bytes: float, words: str) -> None:
    assert progress.size(size_bytes) == words
