"""An unfinished part on disk: its bytes so far, a journal of which of them are safe, and their hash.

Beside the target `NAME` lie `.NAME.part`, written in places as ranges come, and `.NAME.part.json`, the journal. What
the journal calls done was flushed to the disk before the journal was written, so it holds after any kill and on
another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.files import sync, try_lock

HASH_BYTES = 1 << 20
JOURNAL_FROM_BYTES = 4 << 20  # a smaller part is as quickly fetched again
LOCK_POLL_SECONDS = 0.2


@dataclass(eq=False)
class Span:
    """A range of a part that one connection fills: bytes from `start` to `position` are there, up to `end` to come.

    `end` is None as long as nobody knows where the part ends.
    """

    start: int
    end: int | None
    position: int


def part_path(target: Path) -> Path:
    """Where the unfinished part of `target` lies."""
    return target.with_name(f".{target.name}.part")


def journal_path(target: Path) -> Path:
    """Where its journal lies."""
    return target.with_name(f".{target.name}.part.json")


def partial_bytes(target: Path) -> int:
    """Bytes of an unfinished part that the next run does not fetch again."""
    if not part_path(target).is_file():
        return 0
    return sum(end - start for start, end in _read_journal(journal_path(target)).get("done", ()))


@contextmanager
def open_part(target: Path, key: str, check: Callable[[], None], hashes: tuple[str, ...]) -> Iterator[PartFile]:
    """Open the unfinished part of `target` for this process alone; another that has it is waited for.

    Args:
        key: names the bytes that belong there; what was kept under another key is thrown away.
        check: called while waiting; raises when waiting has to end.
        hashes: algorithms to run over the bytes as they come; the first is `sha256`.
    """
    file = PartFile(target, key, _lock(part_path(target), check), hashes)
    try:
        yield file
    finally:
        file.close()


def _lock(path: Path, check: Callable[[], None]) -> int:
    """A descriptor of `path`, made if need be and locked, that is still the file of that name."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while not try_lock(descriptor):
                check()
                time.sleep(LOCK_POLL_SECONDS)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has finished: the name is free, or is another file's


class PartFile:
    """One unfinished part, locked.

    Attributes:
        validator: what the server gave to tell this version of the file by, and its host; None if nothing was kept.
        is_mixed: whether its bytes came from more than one answer.
    """

    def __init__(self, target: Path, key: str, descriptor: int, hashes: tuple[str, ...]) -> None:
        self.target, self._path, self._journal = target, part_path(target), journal_path(target)
        self.validator: list[str] | None = None
        self.is_mixed = False
        self._key, self._descriptor, self._hashes = key, descriptor, hashes
        self._lock = threading.Lock()  # over spans
        self._flushing = threading.Lock()
        self._flushed = 0
        self._is_finished = False
        self._spans: list[Span] = []
        self._digest: _Digest | None = None
        self._load()

    def _load(self) -> None:
        """Take up what an earlier run left, if it is of the same bytes."""
        size = self.size_bytes
        if not size:
            self._journal.unlink(missing_ok=True)  # of a file that is gone
            return
        journal = _read_journal(self._journal)
        if journal.get("key") == self._key and journal["done"] and journal["done"][-1][1] <= size:
            self._spans = [Span(start, end, end) for start, end in journal["done"]]
            self.validator, self.is_mixed = journal["validator"], True
            self._flushed = self.kept
        else:
            self.reset()

    @property
    def kept(self) -> int:
        """Bytes that are there."""
        return sum(span.position - span.start for span in list(self._spans))

    def gaps(self, total: int | None) -> list[tuple[int, int | None]]:
        """The ranges still to come, in order; with an unknown total the last one is open."""
        found: list[tuple[int, int | None]] = []
        position = 0
        with self._lock:
            for span in self._sorted():
                if span.start > position:
                    found.append((position, span.start))
                position = max(position, span.position)
        if total is None or position < total:
            found.append((position, total))
        return found

    @contextmanager
    def claim(self, start: int, end: int | None) -> Iterator[Span]:
        """A range to be filled by the caller alone; what came of it stays."""
        span = Span(start, end, start)
        with self._lock:
            self._spans.append(span)
        try:
            yield span
        finally:
            span.end = span.position
            with self._lock:
                self._join()

    def take(self, span: Span) -> None:
        """Let `span`, after a `reset`, begin at the part's beginning."""
        span.start = span.position = 0
        with self._lock:
            self._spans = [span]

    def write(self, span: Span, batch: Sequence[bytes]) -> None:
        """Put a batch of bytes where the span stands."""
        start, size = span.position, sum(map(len, batch))
        written = os.pwritev(self._descriptor, batch, start)
        rest = b"".join(batch)[written:] if written < size else b""
        while rest:
            written += (more := os.pwrite(self._descriptor, rest, start + written))
            rest = rest[more:]
        span.position = start + size
        if self._digest is not None and span.position // HASH_BYTES > start // HASH_BYTES:
            self._digest.wake()

    def hash_along(self) -> None:
        """Hash the bytes as they come, in order, in a thread of its own."""
        if self._digest is None:
            self._digest = _Digest(self, self._hashes)
            self._digest.start()

    def frontier(self) -> int:
        """How far the bytes go without a gap."""
        position = 0
        with self._lock:
            for span in self._sorted():
                if span.start > position:
                    break
                position = max(position, span.position)
        return position

    def flush(self) -> None:
        """Make what has come so far safe, and say so in the journal."""
        with self._flushing:
            with self._lock:
                done = _joined((span.start, span.position) for span in self._sorted())
            size = sum(end - start for start, end in done)
            if self._is_finished or size == self._flushed or size < JOURNAL_FROM_BYTES:
                return
            os.fdatasync(self._descriptor)
            journal = {"key": self._key, "validator": self.validator, "done": done}
            temporary = self._journal.with_name(self._journal.name + ".tmp")
            temporary.write_text(json.dumps(journal), encoding="utf-8")
            temporary.replace(self._journal)
            self._flushed = size

    @property
    def size_bytes(self) -> int:
        """Size of the file as it lies on the disk."""
        return os.fstat(self._descriptor).st_size

    def reset(self) -> None:
        """Throw everything away and begin anew."""
        if self._digest is not None:
            self._digest.stop()
            self._digest = None
        with self._flushing, self._lock:
            self._journal.unlink(missing_ok=True)
            os.ftruncate(self._descriptor, 0)
            self._spans, self._flushed = [], 0
            self.validator, self.is_mixed = None, False

    def hashes(self) -> dict[str, str]:
        """The hashes, in hex, of all bytes; by algorithm."""
        digest, self._digest = self._digest or _Digest(self, self._hashes), None
        return digest.finish()

    def read(self, buffer: bytearray, position: int, limit: int) -> int:
        """Read up to `limit` bytes from `position` into `buffer`; how many."""
        return os.preadv(self._descriptor, [memoryview(buffer)[:limit]], position)

    def finish(self) -> None:
        """Make the part durable and give it its name."""
        with self._flushing:
            self._is_finished = True
            os.fsync(self._descriptor)
            self._path.replace(self.target)
            sync(self.target.parent)
            if self._flushed:
                self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what is safe, remove what is not, and let others have it."""
        if self._digest is not None:
            self._digest.stop()
        try:
            if not self._is_finished:
                with suppress(OSError):  # of a full disk: then the last journal holds
                    self.flush()
                if not self._flushed:
                    self._path.unlink(missing_ok=True)
        finally:
            with self._flushing:
                self._is_finished = True
                os.close(self._descriptor)

    def _sorted(self) -> list[Span]:
        return sorted(self._spans, key=lambda span: span.start)

    def _join(self) -> None:
        """Join neighbours that nobody fills any more, so that their number stays small."""
        joined: list[Span] = []
        for span in self._sorted():
            last = joined[-1] if joined else None
            if last and last.position == last.end == span.start and span.position == span.end:
                joined[-1] = Span(last.start, span.end, span.position)
            else:
                joined.append(span)
        self._spans = [span for span in joined if not span.start == span.position == span.end]


def _joined(ranges: Iterator[tuple[int, int]] | Any) -> list[list[int]]:
    """Ranges in order, neighbours joined, empty ones left out."""
    done: list[list[int]] = []
    for start, end in ranges:
        if done and start <= done[-1][1]:
            done[-1][1] = max(done[-1][1], end)
        elif end > start:
            done.append([start, end])
    return done


def _read_journal(path: Path) -> dict[str, Any]:
    """The journal; empty where there is none, or one that cannot be ours."""
    try:
        journal = json.loads(path.read_text(encoding="utf-8"))
        done = [(int(start), int(end)) for start, end in journal["done"]]
        if done != sorted(done) or any(start < 0 or end <= start for start, end in done):
            return {}
        key, validator = journal["key"], journal["validator"]
        is_validator = isinstance(validator, list) and [type(value) for value in validator] == [str, str]
        return {"key": key, "validator": validator, "done": done} if validator is None or is_validator else {}
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return {}


class _Digest:
    """Hashes a part's bytes in order while they come, close behind the writers, from the page cache."""

    def __init__(self, file: PartFile, algorithms: tuple[str, ...]) -> None:
        self._file = file
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
        self._woken = threading.Event()
        self._is_last = self._is_stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Hash from now on."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Some bytes have come."""
        self._woken.set()

    def finish(self) -> dict[str, str]:
        """Hash the rest; the hashes in hex."""
        self._is_last = True
        self._end()
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}

    def stop(self) -> None:
        """End without a result."""
        self._is_stopped = True
        self._end()

    def _end(self) -> None:
        self._woken.set()
        if self._thread is None:
            self._run()
        else:
            self._thread.join()

    def _run(self) -> None:
        buffer, position = bytearray(HASH_BYTES), 0
        while not self._is_stopped:
            is_last = self._is_last
            self._woken.clear()
            frontier = self._file.frontier()
            while position < frontier and not self._is_stopped:
                size = self._file.read(buffer, position, min(HASH_BYTES, frontier - position))
                if not size:  # somebody cut the file: its size will say so
                    return
                for digest in self._hashes.values():
                    digest.update(memoryview(buffer)[:size])
                position += size
            if is_last:
                return
            self._woken.wait()
