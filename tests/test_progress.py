"""Bars of whoever is watching."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prep import progress


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Other tests of this process keep the bar that they chose."""
    before = progress._make
    yield
    progress.use(before)


def test_a_library_caller_gets_tqdm_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress.use(progress.tqdm_bar)
    with progress.bar("download coyo", 2_000_000, "B") as advance:
        advance(1_000_000)
        advance(-500_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert "download coyo" in err and "2.00M" in err


def test_another_bar_can_be_used_and_none(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[object] = []

    @contextmanager
    def teller(label: str, total: int | None, unit: str) -> Iterator[progress.Advance]:
        told.append((label, total, unit))
        yield told.append

    progress.use(teller)
    with progress.bar("images coyo", None, "shards") as advance:
        advance(3)
    progress.use(progress.no_bar)
    with progress.bar("silent", 3, "B") as advance:
        advance(3)
    assert told == [("images coyo", None, "shards"), 3]
    assert capsys.readouterr() == ("", "")
