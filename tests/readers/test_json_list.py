"""A JSON list is read as `json.load` reads it, a piece at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import DataError
from prep.readers import json_list
from prep.readers.json_list import list_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(items=st.lists(VALUES, max_size=6), chunk=st.integers(1, 9), indent=st.none() | st.integers(0, 2))
def test_items_are_those_of_json_load(
    tmp_path_factory: pytest.TempPathFactory, items: list[Any], chunk: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "list.json"
    path.write_text(json.dumps(items, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "_CHUNK_CHARACTERS", chunk)
        assert list(list_items(path)) == items


@pytest.mark.parametrize(
    ("text", "items", "problem"),
    [
        ('{"a": 1}', 0, "does not hold a list"),
        ('{"a": 1}\n{"a": 2}\n', 0, "does not hold a list"),
        ("", 0, "does not hold a list"),
        ("\ufeff[1]", 0, "does not hold a list"),
        ("[1, 2", 2, "its list has no end"),
        ("[1 2]", 1, "'2' stands where a comma should"),
        ("[1, ]", 1, "Expecting value"),
        ("[,1]", 0, "Expecting value"),
        ('[1, {"a": ]', 1, "Expecting value"),
        ("[1] [2]", 1, "something stands behind the list"),
        ('["' + "x" * 5000 + '"]', 0, "Unterminated"),
        ("[1, " + "[" * 100_000, 1, "recursion"),
    ],
)
def test_what_is_no_list_is_told_behind_its_good_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, items: int, problem: str
) -> None:
    monkeypatch.setattr(json_list, "_CHUNK_CHARACTERS", 10)
    monkeypatch.setattr(json_list, "MAX_ITEM_CHARACTERS", 1000)
    path = tmp_path / "list.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        got = 0
        for _ in list_items(path):
            got += 1
    assert got == items
    assert problem in raised.value.message


def test_other_bytes_and_absent_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="is not UTF-8 after item 0"):
        list(list_items(path))
    with pytest.raises(DataError, match="cannot be read"):
        list(list_items(tmp_path))
