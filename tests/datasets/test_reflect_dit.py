from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.datasets import reflect_dit
from prep.errors import DataError

HEADER = list(reflect_dit.COLUMNS)


def no_size(name: str) -> None:
    raise AssertionError(name)


def write(folder: Path, *rows: Sequence[str], header: Sequence[str] = HEADER) -> Path:
    part = folder / "part.csv"
    with part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return part


def read(part: Path) -> list[tuple[Any, ...]]:
    found = []
    for batch in reflect_dit.good_pictures(part, no_size):
        assert batch.schema == reflect_dit.SCHEMA
        found += [tuple(row.values()) for row in batch.to_pylist()]
    return found


@pytest.mark.parametrize(
    ("positive", "negative", "reason", "expected"),
    [
        ("a.png", "b.png", "No cat", [("a.png", ["b.png"], "No cat", None)]),
        (
            "a.pngXXXb.png",
            "c.pngXXXd.pngXXXe.png",
            "oneXXX twoXXXthree",
            [(path, ["c.png", "d.png", "e.png"], "one;two;three", None) for path in ("a.png", "b.png")],
        ),
        ("a.png", "", "", [("a.png", None, None, None)]),
        ("a.png", "b.pngXXXc.png", "No cat", [("a.png", None, None, None)]),
        ("a.png", "b.png", "No catXXXNo dog", [("a.png", None, None, None)]),
        ("a.png", "b.png", "", [("a.png", None, None, None)]),
        ("a.png", "b.pngXXX", "Blue; not redXXX", [("a.png", ["b.png"], "Blue, not red", None)]),
        ("a.png", "b.pngXXXc.png", "XXXNo cat", [("a.png", ["c.png"], "No cat", None)]),
        ("XXXa.pngXXX", "", "", [("a.png", None, None, None)]),
        (" ", "b.png", "No cat", [(None, ["b.png"], "No cat", "no_positive")]),
        ("XXX", "", "", [(None, None, None, "no_positive")]),
    ],
)
def test_a_row_for_each_good_picture(
    tmp_path: Path, positive: str, negative: str, reason: str, expected: list[tuple[Any, ...]]
) -> None:
    part = write(tmp_path, ("a cat", positive, negative, reason))
    assert read(part) == [("a cat", *row) for row in expected]


def test_columns_in_any_order_and_case_beside_others(tmp_path: Path) -> None:
    header = ["id", "Negative_Reason", "positive_filename", " prompt", "negative_filename"]
    part = write(tmp_path, ("7", "No cat", "a.png", "a cat", "b.png"), ("8", "", "c.png"), (), header=header)
    assert read(part) == [("a cat", "a.png", ["b.png"], "No cat", None), ("", "c.png", None, None, None)]


def test_quotes_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    prompt = 'two "lines",\nand a comma'
    part = write(tmp_path, (prompt, "a.png", "", ""))
    part.write_bytes(b"\xef\xbb\xbf" + part.read_bytes() + b"caf\xe9,b.png,,\n")
    assert read(part) == [(prompt, "a.png", None, None, None), ("caf\ufffd", "b.png", None, None, None)]


def test_batches_are_bounded(tmp_path: Path) -> None:
    part = write(tmp_path, *[("a cat", "a.pngXXXb.png", "", "")] * 600)
    assert [batch.num_rows for batch in reflect_dit.good_pictures(part, no_size)] == [1000, 200]


texts = st.lists(st.text('ab;X ,"\n', max_size=6), max_size=4)


@given(positive=texts, negative=texts, reason=texts)
def test_pictures_and_pairs_survive(
    tmp_path_factory: pytest.TempPathFactory, positive: list[str], negative: list[str], reason: list[str]
) -> None:
    cells = ["XXX".join(members) for members in (positive, negative, reason)]
    rows = read(write(tmp_path_factory.mktemp("csv"), ("a cat", *cells)))
    good = [member.strip() for member in cells[0].split("XXX") if member.strip()]
    wanted: list[str | None] = [*good] or [None]
    assert [row[1] for row in rows] == wanted
    assert all((row[4] == "no_positive") == (not good) for row in rows)
    for _, _, negatives, reasons, _ in rows:
        assert (negatives is None) == (reasons is None)
        assert negatives is None or len(negatives) == len(reasons.split(";"))


def test_what_is_not_the_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"part.csv: no column positive_filename, .*; it has: prompt") as caught:
        read(write(tmp_path, header=["prompt"]))
    assert "Check `parts`" in str(caught.value.next_step)
    endless = write(tmp_path, header=HEADER)
    endless.write_text(endless.read_text() + 'a cat,"' + "a" * 200_000)
    with pytest.raises(DataError, match=r"part.csv: not a whole csv file \(line 2: field larger"):
        read(endless)
