"""How far a stage is, told to whoever is watching.

A stage says `with bar("download coyo-700m", total, "B", items=128) as advance:` and calls `advance(n)` for units that
came, `advance(0, items=1)` for a file that is whole. A library or notebook caller gets tqdm; the command line swaps in
its own with `use`: a drawn bar on a terminal, a line now and then off one, JSON lines beside `--json`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

FIRST_SECONDS = 10.0  # a stage that takes less says nothing off a terminal
EVERY_SECONDS = 30.0
EVENT_SECONDS = 1.0  # between two progress events of --json
WINDOW_SECONDS = 30.0  # what the rate is measured over

Advance = Callable[[int], None]


class Bar(Protocol):
    """What `bar` gives: called with units that came and items that are whole, from any thread."""

    def __call__(self, amount: int, items: int = 0) -> None:
        """Go on by `amount` units (a negative number takes them back) and `items` items."""


BarMaker = Callable[[str, int | None, str, int | None], AbstractContextManager[Bar]]


# -- numbers the way a person reads them -------------------------------------------------------------------------


def size(size_bytes: float) -> str:
    """Bytes the way a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} TB"


def duration(seconds: float) -> str:
    """Seconds the way a person reads them."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{round(hours / 24)} days"


# -- counting ----------------------------------------------------------------------------------------------------


class Meter:
    """How far one stage is, and how fast; told by several threads at once.

    Args:
        label: stage and name, `download coyo-700m`.
        total: units in all; None when not known.
        unit: what is counted; `B` means bytes.
        items: files in all, where bytes are counted.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        items: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.unit, self.items = label, total, unit, items
        self.done = self.items_done = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._samples = deque([(clock(), 0)])

    def __call__(self, amount: int, items: int = 0) -> None:
        """Count."""
        with self._lock:
            self.done += amount
            self.items_done += items

    def rate(self) -> float:
        """Units a second, over the last half minute at most."""
        with self._lock:
            now = self._clock()
            self._samples.append((now, self.done))
            while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
                self._samples.popleft()
            before, done = self._samples[0]
            return max(0.0, (self.done - done) / (now - before)) if now > before else 0.0

    def seconds_left(self, rate: float) -> float | None:
        """Time to the end at `rate`; None where nobody can say."""
        return max(0, self.total - self.done) / rate if self.total and rate else None

    def line(self) -> str:
        """One line for a log: `download coyo-700m: 3 of 128 files, 1.2 GB of 63.0 GB, 85.0 MB/s, 12 min left`."""
        rate = self.rate()
        left = self.seconds_left(rate)
        words = [f"{self.items_done:,} of {self.items:,} files"] if self.items is not None else []
        if self.unit == "B":
            words.append(size(self.done) + (f" of {size(self.total)}" if self.total else ""))
            words.append(f"{size(rate)}/s")
        else:
            words.append(f"{self.done:,}" + (f" of {self.total:,}" if self.total else "") + f" {self.unit}")
        if left is not None:
            words.append(f"{duration(left)} left")
        return f"{self.label}: {', '.join(words)}"

    def facts(self, event: str) -> dict[str, Any]:
        """The same for a machine, as one event."""
        stage, _, name = self.label.partition(" ")
        rate = self.rate()
        left = self.seconds_left(rate)
        end = "_bytes" if self.unit == "B" else ""
        facts: dict[str, Any] = {"event": event, "stage": stage, "name": name}
        facts |= {f"done{end}": self.done, f"total{end}": self.total}
        if not end:
            facts["unit"] = self.unit
        if self.items is not None:
            facts |= {"files": self.items_done, "files_total": self.items}
        if event == "progress":
            facts |= {"bytes_per_second": round(rate)} if end else {}
            facts["eta_seconds"] = None if left is None else round(left)
        return facts


# -- bars --------------------------------------------------------------------------------------------------------


@contextmanager
def tqdm_bar(label: str, total: int | None, unit: str, items: int | None = None) -> Iterator[Bar]:
    """A tqdm bar on stderr, gone when done."""
    from tqdm.auto import tqdm

    meter = Meter(label, total, unit, items)
    with tqdm(total=total, desc=label, unit=unit, unit_scale=unit == "B", leave=False) as progress:

        def advance(amount: int, items: int = 0) -> None:
            meter(amount, items)
            if items:
                progress.set_postfix_str(f"{meter.items_done}/{meter.items} files", refresh=False)
            progress.update(amount)

        yield advance


@contextmanager
def no_bar(label: str, total: int | None, unit: str, items: int | None = None) -> Iterator[Bar]:
    """No bar at all."""

    def advance(amount: int, items: int = 0) -> None:
        return None

    yield advance


@contextmanager
def heartbeat(label: str, total: int | None, unit: str, items: int | None = None) -> Iterator[Bar]:
    """A line on stderr after a while, and then now and then: for logs, where a bar would be noise."""
    meter = Meter(label, total, unit, items)
    with _beating(FIRST_SECONDS, EVERY_SECONDS, lambda: say(meter.line())):
        yield meter


@contextmanager
def json_lines(label: str, total: int | None, unit: str, items: int | None = None) -> Iterator[Bar]:
    """JSON lines on stderr: one at the start, at most one a second, one at the end."""
    meter = Meter(label, total, unit, items)
    write_event(meter.facts("start"))
    try:
        with _beating(EVENT_SECONDS, EVENT_SECONDS, lambda: write_event(meter.facts("progress"))):
            yield meter
    finally:
        write_event(meter.facts("end"))


@contextmanager
def _beating(first: float, every: float, beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` after `first` seconds and then every `every` seconds, in a thread of its own."""
    over = threading.Event()

    def run() -> None:
        seconds = first
        while not over.wait(seconds):
            beat()
            seconds = every

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def write_event(facts: Mapping[str, Any]) -> None:
    """One event as one line of JSON on stderr."""
    say(json.dumps(facts, ensure_ascii=False))


def say(line: str) -> None:
    """One line, or several, on stderr."""
    with suppress(OSError, ValueError):  # whoever read stderr is gone: that ends no work
        sys.stderr.write(line + "\n")  # in one piece, other threads write too
        sys.stderr.flush()


# -- who is watching ---------------------------------------------------------------------------------------------


def _ignore(facts: Mapping[str, Any]) -> None:
    return None


_make: BarMaker = tqdm_bar
_on_event: Callable[[Mapping[str, Any]], None] = _ignore


def use(maker: BarMaker, on_event: Callable[[Mapping[str, Any]], None] = _ignore) -> None:
    """Draw all further bars with `maker`, and tell `on_event` of single events."""
    global _make, _on_event
    _make, _on_event = maker, on_event


def bar(label: str, total: int | None, unit: str, items: int | None = None) -> AbstractContextManager[Bar]:
    """A bar of `total` units (None when not known beforehand); unit `B` means bytes, `items` is the number of files."""
    return _make(label, total, unit, items)


def event(kind: str, **facts: Any) -> None:
    """Tell of one thing that happened, such as a part that is whole; heard where `--json` was given."""
    _on_event({"event": kind, **facts})
