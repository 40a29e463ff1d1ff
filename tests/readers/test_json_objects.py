"""Objects of a JSON part as they are written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from prep.errors import DataError
from prep.readers.json import read_objects

BAD = (None, "bad_json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"b": 1.50, "a":\n "\\u00e9 é"} ,{"a":NaN}]', ['{"b": 1.50, "a":\n "\\u00e9 é"}', '{"a":NaN}']),
        ('\ufeff[{"a":1}]', ['{"a":1}']),
        ('{"a":1}\n{"b":\n2}\n', ['{"a":1}', '{"b":\n2}']),
        ('[{"a":1},{"b":},{"c":1}]', ['{"a":1}', None, '{"c":1}']),
        ('[[1],5,"x",null,{"a":"\\ud800"},{"a":1}]', [None] * 5 + ['{"a":1}']),
        ("[]", []),
        ("", []),
    ],
)
def test_objects_as_written(text: str, expected: list[str | None], tmp_path: Path) -> None:
    part = tmp_path / "a.json"
    part.write_text(text, encoding="utf-8")
    rows = [tuple(row.values()) for batch in read_objects(part) for row in batch.to_pylist()]
    assert rows == [BAD if item is None else (item, None) for item in expected]


def test_a_list_that_is_not_whole(tmp_path: Path) -> None:
    part = tmp_path / "a.json"
    part.write_text('[{"a":1}')
    with pytest.raises(DataError, match="not whole"):
        list(read_objects(part))
