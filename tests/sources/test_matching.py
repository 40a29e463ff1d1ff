"""Which of a publisher's files are parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.sources import is_inside, matching

LISTED = [
    *("b.parquet", "a.parquet", "data/part-1.parquet", "data/deep/part-2.parquet", "README.md"),
    *(".gitattributes", "data/.part-1.parquet.crc", ".cache/huggingface/download/a.parquet", "[x]/y.parquet"),
]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (
            ["*"],
            [],
            [
                *("README.md", "[x]/y.parquet", "a.parquet", "b.parquet"),
                "data/deep/part-2.parquet",
                "data/part-1.parquet",
            ],
        ),
        (["data/part-*.parquet"], [], ["data/part-1.parquet"]),
        (["data/*"], [], ["data/deep/part-2.parquet", "data/part-1.parquet"]),
        (["?.parquet", "b*"], ["a.*"], ["b.parquet"]),
        (["A.parquet"], [], []),
        (["[[]x]/*"], [], ["[x]/y.parquet"]),
        ([], [], []),
    ],
)
def test_globs_choose_parts_and_hidden_files_are_never_parts(
    include: list[str], exclude: list[str], expected: list[str]
) -> None:
    assert matching(LISTED, include, exclude) == expected


@pytest.mark.parametrize("path", ["/etc/passwd", "..", "../a", "a/../../b", "a/..", "", ".", "./", "a\0b", "//a"])
def test_paths_that_leave_their_folder_are_not_inside(path: str) -> None:
    assert not is_inside(path)


@given(st.lists(st.sampled_from(["a", "b.txt", "..", ".", "...", "", "é", " "]), max_size=6).map("/".join))
def test_what_is_inside_resolves_below_its_folder(path: str) -> None:
    depth, lowest = 0, 0
    for step in path.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(step, 1)
        lowest = min(lowest, depth)
    if is_inside(path):
        assert lowest == 0 and depth > 0 and not path.startswith("/")
