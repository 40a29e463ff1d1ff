"""One archive that its publisher cut by bytes into several files, read as if it were whole."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

MAX_READ_BYTES = 1 << 30  # Linux reads no more than 2 GiB at once


class JoinedFile:
    """The bytes of one or several files in their order; one is open at a time and nothing is joined on disk.

    It is a `tars.Source`: what any of its bytes are can be asked at any time, in any order.

    Attributes:
        size: of all files together, in bytes.

    Raises:
        OSError: a file is not there or cannot be read.
    """

    floor = 0
    fault: str | None = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._starts = [0, *accumulate(path.stat().st_size for path in self._paths)]
        self.size = self._starts[-1]
        self._descriptor = -1
        self._start = self._stop = -1  # of the open file, within the whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = self._start = self._stop = -1

    def keep(self, at: int) -> None:
        """Nothing: all bytes stay at hand."""

    def pread(self, size: int, at: int) -> bytes:
        """`size` bytes from `at` on; fewer where the files end, none before their beginning."""
        if self._start <= at and at + size <= self._stop:
            data = os.pread(self._descriptor, size, at - self._start)
            if len(data) == size:
                return data
        return self._read_across(size, at)

    def _read_across(self, size: int, at: int) -> bytes:
        pieces = []
        while size > 0 and 0 <= at < self.size:
            if not self._start <= at < self._stop:
                self._open(bisect_right(self._starts, at) - 1)
            piece = os.pread(self._descriptor, min(size, self._stop - at, MAX_READ_BYTES), at - self._start)
            if not piece:  # the file became shorter meanwhile
                break
            pieces.append(piece)
            size, at = size - len(piece), at + len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _open(self, number: int) -> None:
        self.close()
        self._descriptor = os.open(self._paths[number], os.O_RDONLY | os.O_CLOEXEC)
        self._start, self._stop = self._starts[number], self._starts[number + 1]
