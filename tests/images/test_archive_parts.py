"""Names of archives and of their parts."""

from __future__ import annotations

import random
import string
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import DataError
from prep.images.archives import archive_stem, group_parts


def test_parts_of_one_archive_are_put_together_in_order() -> None:
    names = [
        *(
            "gpt-edit/hqedit.tar.gz.part002",
            "a.tar",
            "gpt-edit/hqedit.tar.gz.part001",
            "gpt-edit/hqedit.tar.gz.part003",
        ),
        *("b.tar.part_ab", "b.tar.part_aa", "c.zip.partab", "c.zip.partaa", "d.zip.002", "d.zip.001", "d.zip.003"),
        *("e.tar.part9", "e.tar.part10", "e.tar.part8", *(f"e.tar.part{n}" for n in range(1, 8))),
        *("f.tgz.01", "f.tgz.00", "g.tar.gz.ab", "g.tar.gz.aa", "h.tar.gz", "h.tar.xz", "i.part001", "j.tar-part-01"),
        *("a.tar.part1", "k.zip.part001"),
    ]
    assert group_parts(names) == [
        tuple(f"gpt-edit/hqedit.tar.gz.part00{n}" for n in (1, 2, 3)),
        ("a.tar",),
        ("b.tar.part_aa", "b.tar.part_ab"),
        ("c.zip.partaa", "c.zip.partab"),
        ("d.zip.001", "d.zip.002", "d.zip.003"),
        tuple(f"e.tar.part{n}" for n in range(1, 11)),
        ("f.tgz.00", "f.tgz.01"),
        ("g.tar.gz.aa", "g.tar.gz.ab"),
        ("h.tar.gz",),
        ("h.tar.xz",),
        ("i.part001",),
        ("j.tar-part-01",),
        ("a.tar.part1",),
        ("k.zip.part001",),
    ]
    assert group_parts([]) == []


@pytest.mark.parametrize(
    ("names", "missing", "beside"),
    [
        (["a.tar.gz.part001", "a.tar.gz.part002", "a.tar.gz.part004"], "a.tar.gz.part003", "a.tar.gz.part002"),
        (["a.tar.gz.part002"], "a.tar.gz.part001", "a.tar.gz.part002"),
        (["b.zip.9", "a.zip.part9", "a.zip.part11"], "a.zip.part1", "a.zip.part9"),
        (["a.zip.part_aa", "a.zip.part_ac"], "a.zip.part_ab", "a.zip.part_aa"),
        (["a.zip.part_az", "a.zip.part_aa"], "a.zip.part_ab", "a.zip.part_aa"),
        (["a.zip.ab"], "a.zip.aa", "a.zip.ab"),
        (["a.zip.1000", "a.zip.0001"], "a.zip.0002", "a.zip.0001"),
    ],
)
def test_a_part_that_is_missing_is_named(names: list[str], missing: str, beside: str) -> None:
    with pytest.raises(DataError) as caught:
        group_parts(names)
    assert caught.value.message == f"{missing} is missing: it and {beside} are parts of one archive"


def written_by_split(digits: str) -> list[str]:
    """Endings as GNU `split` gives them: two digits, and before they are used up four, then six."""
    first, last = digits[:-1], digits[-1]
    two = ["".join(place) for place in product(first, digits)]
    four = [last + "".join(place) for place in product(first, digits, digits)]
    six = [last * 2 + "".join(place) for place in product(first, digits, digits, digits)]
    return [*two, *four, *six[:50]]


@pytest.mark.parametrize("digits", [string.digits, string.ascii_lowercase], ids=["-d", "letters"])
def test_any_number_of_parts_as_split_names_them(digits: str) -> None:
    names = [f"a.tar.part{place}" for place in written_by_split(digits)]
    shuffled = random.Random(1).sample(names, len(names))
    assert group_parts(shuffled) == [tuple(names)]
    del shuffled[shuffled.index(names[40])]
    with pytest.raises(DataError, match=f"^{names[40]} is missing"):
        group_parts(shuffled)


@given(st.integers(1, 300), st.integers(0, 4), st.randoms())
def test_any_number_of_numbered_parts_in_any_order(count: int, width: int, order: random.Random) -> None:
    names = [f"a.zip.part{str(n).zfill(width)}" for n in range(1, count + 1)]
    shuffled = order.sample(names, count)
    assert group_parts(shuffled) == [tuple(names)]
    if count > 2:
        shuffled.remove(names[count // 2])
        with pytest.raises(DataError, match=f"^{names[count // 2]} is missing"):
            group_parts(shuffled)


def test_archive_stem() -> None:
    stems = {
        "a/b.tar": "a/b",
        "b.tar.gz": "b",
        "b.tgz": "b",
        "b.tar.bz2": "b",
        "b.tar.xz": "b",
        "b.zip": "b",
        "train.v2.zip": "train.v2",
        "b": "b",
        "b.parquet": "b.parquet",
        "gpt-edit/hqedit.tar.gz.part001": "gpt-edit/hqedit",
        "b.zip.001": "b",
        "b.tar.part_aa": "b",
        "b.part001": "b.part001",
    }
    assert {part: archive_stem(part) for part in stems} == stems
