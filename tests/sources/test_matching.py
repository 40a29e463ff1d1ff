"""Which of a publisher's files are parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.config import HuggingFaceSource
from prep.errors import SourceError
from prep.files import atomic_path
from prep.sources import Part, is_inside, matching, module_of
from prep.sources.part_file import journal_path
from prep.sources.paths import LEFTOVER, NAME_BYTES, checked

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


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "..", "../a", "a/../../b", "a/..", "", ".", "./", "a\0b", "//a", "a\ud800b"]
)
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


def test_parts_that_a_folder_can_hold_are_sorted() -> None:
    parts = [Part(path, "u") for path in ("b/c", "a", "b/a.x", "b.x")]
    assert [part.path for part in checked(parts, SourceError, "")] == ["a", "b.x", "b/a.x", "b/c"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a", "../b"], "at ../b: '../b' is not a path inside the dataset's folder"),
        (["a//b"], "at a//b: 'a//b' is not a path inside the dataset's folder"),
        (["./a"], "at ./a: './a' is not a path inside the dataset's folder"),
        (["a/"], "at a/: 'a/' is not a path inside the dataset's folder"),
        (["a", "b", "a"], "at a and at a would both be 'a'"),
        (["a/b/c", "a"], "at a/b/c: 'a/b/c' needs a folder where at a is a file"),
        *(
            ([path], f"at {path}: {path!r} is a name that `prep` keeps for files of its own")
            for path in (
                *("_manifest.json", "_manifest.json/a", "_parts.jsonl", "_parts.jsonl/a/b"),
                *(".a.part", "b/.a.part", ".a.part/b", ".a.part.json", "..a.part.json.tmp", ".a.tmp", ".a\nb.tmp"),
            )
        ),
        ([f"a/{'n' * 240}"], f"at a/{'n' * 240}: 'a/{'n' * 240}' has a name of 240 bytes, at most 239 can be brought"),
        ([f"{'é' * 120}/a"], f"at {'é' * 120}/a: '{'é' * 120}/a' has a name of 240 bytes, at most 239 can be brought"),
    ],
)
def test_parts_that_a_folder_cannot_hold(paths: list[str], message: str) -> None:
    with pytest.raises(SourceError) as caught:
        checked([Part(path, f"at {path}") for path in paths], SourceError, "Do this.")
    assert str(caught.value) == f"{message}\n  Do this."


def test_names_like_ours_and_long_ones_are_those_of_parts() -> None:
    paths = ["b/_manifest.json", "c.part", ".part", ".hidden", "a.tmp", "a.part.json", f"{'n' * 239}/{'é' * 119}n"]
    assert [part.path for part in checked([Part(path, "u") for path in paths], SourceError, "")] == sorted(paths)


def test_the_longest_name_leaves_room_for_what_is_beside_an_unfinished_file(tmp_path: Path) -> None:
    with atomic_path(journal_path(tmp_path / ("n" * NAME_BYTES))) as longest:
        longest.touch()
    assert len(longest.name) == 255 and LEFTOVER.fullmatch(longest.name)


@given(st.lists(st.lists(st.sampled_from(["a", "b", ".", "..", ""]), max_size=4).map("/".join), max_size=4))
def test_parts_that_pass_can_all_be_written(tmp_path_factory: pytest.TempPathFactory, paths: list[str]) -> None:
    try:
        parts = checked([Part(path, path) for path in paths], SourceError, "")
    except SourceError:
        return
    folder = tmp_path_factory.mktemp("parts")
    for part in parts:
        (folder / part.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / part.path).write_text(part.path)
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == sorted(paths)


@pytest.mark.parametrize("endpoint", ["http://[", "huggingface.co", ""])
def test_an_hf_endpoint_that_is_no_address(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(SourceError) as caught:
        module_of(HuggingFaceSource(kind="huggingface", repo="a/b"))
    assert str(caught.value) == ("HF_ENDPOINT in the environment is not an http(s) address\n  Mend it, or unset it.")
