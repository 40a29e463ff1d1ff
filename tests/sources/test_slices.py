"""Slices: positions, then names, then a number; what cannot be honoured is told with an example."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import UsageError
from prep.sources import Part
from prep.sources.slices import Slice

NINES = "9" * 28 + "..." + "9" * 28
PARTS = [Part(f"data/{name}", "") for name in ("a.csv", "b.csv", "b.tar", "c.csv", "d.csv")]


def chosen(choice: Slice) -> list[int]:
    found = choice.choose(PARTS)
    assert all(PARTS[position] is part for position, part in found)
    return [position for position, _ in found]


@pytest.mark.parametrize(
    ("choice", "positions"),
    [
        (Slice(), [0, 1, 2, 3, 4]),
        (Slice("0-3"), [0, 1, 2, 3]),
        (Slice("3,0-1"), [0, 1, 3]),
        (Slice(" 2-2 "), [2]),
        (Slice("4-99999999999999"), [4]),
        (Slice("7"), []),
        (Slice(only=("*.csv",)), [0, 1, 3, 4]),
        (Slice(only=("data/b*", "*d.csv")), [1, 2, 4]),
        (Slice(only=("*.CSV",)), []),
        (Slice(limit=2), [0, 1]),
        (Slice(limit=9), [0, 1, 2, 3, 4]),
        (Slice("1-4", ("*.csv",), 2), [1, 3]),
    ],
    ids=str,
)
def test_positions_then_names_then_a_number(choice: Slice, positions: list[int]) -> None:
    assert chosen(choice) == positions
    assert bool(choice) == (choice != Slice())


@pytest.mark.parametrize(
    ("parts", "message", "next_step"),
    [
        ("3-1", "--parts 3-1: 3-1 goes backwards", "For example --parts 1-3."),
        ("x", "--parts x: 'x' is no position", "For example --parts 0-3,7."),
        ("1,", "--parts 1,: '' is no position", "For example --parts 0-3,7."),
        ("-1", "--parts -1: '-1' is no position", "For example --parts 0-3,7."),
        ("1-2-3", "--parts 1-2-3: '1-2-3' is no position", "For example --parts 0-3,7."),
        ("²", "--parts ²: '²' is no position", "For example --parts 0-3,7."),
        ("9" * 5000, f"--parts {NINES}: '{NINES}' is no position", "For example --parts 0-3,7."),
        ("0:3", "--parts 0:3: '0:3' is no position", "For example --parts 0-3,7."),
    ],
)
def test_positions_that_are_none(parts: str, message: str, next_step: str) -> None:
    with pytest.raises(UsageError) as caught:
        Slice(parts)
    assert (caught.value.message, caught.value.next_step) == (message, next_step)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_lets_nothing_through(limit: int) -> None:
    with pytest.raises(UsageError, match=f"--limit {limit}: must be a whole number from 1"):
        Slice(limit=limit)


RANGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), max_size=3)
SLICES = st.builds(
    lambda ranges, only, limit: Slice(",".join(f"{first}-{last}" for first, last in ranges), tuple(only), limit),
    RANGES,
    st.lists(st.sampled_from(["*", "*.csv", "data/?.tar", "[!a]*"]), max_size=2),
    st.none() | st.integers(1, 9),
)


@given(SLICES)
def test_a_slice_is_part_of_the_whole_in_order_and_survives_json(choice: Slice) -> None:
    positions = chosen(choice)
    assert positions == sorted(set(positions)) and set(positions) <= set(range(5))
    assert choice.limit is None or len(positions) <= choice.limit
    assert Slice.from_json({**choice.as_json(), "of": 5}) == choice
    assert (choice.as_json() == {}) == (not choice)


@pytest.mark.parametrize(
    "data", [{"only": [5]}, {"only": "ab"}, {"only": 3}, {"parts": 3}, {"limit": True}, {"limit": "1"}]
)
def test_json_that_is_no_slice_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Slice.from_json(data)
