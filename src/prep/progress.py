"""One progress bar for every stage, drawn by whoever is watching.

A stage says `with bar("download coyo-700m", total, "B") as advance:` and calls `advance(n)`. A library or notebook
caller gets tqdm; the command line swaps in its own with `use`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
BarMaker = Callable[[str, int | None, str], AbstractContextManager[Advance]]


@contextmanager
def tqdm_bar(label: str, total: int | None, unit: str) -> Iterator[Advance]:
    """A tqdm bar on stderr, gone when done."""
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=label, unit=unit, unit_scale=unit == "B", leave=False) as progress:

        def advance(amount: int) -> None:
            progress.update(amount)

        yield advance


@contextmanager
def no_bar(label: str, total: int | None, unit: str) -> Iterator[Advance]:
    """No bar at all."""
    yield lambda amount: None


_make: BarMaker = tqdm_bar


def use(maker: BarMaker) -> None:
    """Draw all further bars with `maker`."""
    global _make
    _make = maker


def bar(label: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
    """A bar of `total` units (None when not known beforehand); unit `B` means bytes."""
    return _make(label, total, unit)
