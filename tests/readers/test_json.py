"""JSON parts in every layout, whole, broken and hostile."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prep import sql
from prep.config import Records
from prep.errors import DataError
from prep.readers import json as reader
from prep.readers import open_records

FIELDS = {"id": "text", "image": "json", "conversations": "json"}
BAD = (None, "bad_json")


def rows_of(part: Path, fields: dict[str, str] | None = None) -> list[tuple[Any, ...]]:
    """Rows of a part: the declared fields (by default `id`) and the reason."""
    return [tuple(row.values()) for batch in reader.read(part, fields or {"id": "text"}) for row in batch.to_pylist()]


def records_of(fields: dict[str, str], **more: Any) -> Records:
    return Records.model_validate({"parts": "*", "format": "json", "fields": fields, **more})


def rows_in(folder: Path, data: str | bytes, fields: dict[str, str] | None = None) -> list[tuple[Any, ...]]:
    part = folder / "a.json"
    part.write_bytes(data if isinstance(data, bytes) else data.encode())
    return rows_of(part, fields)


def error_of(folder: Path, data: str | bytes, fields: dict[str, str] | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        rows_in(folder, data, fields)
    return caught.value


# -- layouts ---------------------------------------------------------------------------------------------------------

A, B, C = '{"id": "a"}', '{"id": "b", "more": [{"id": "x"}]}', '{"id": "c"}'
PRETTY = json.dumps({"id": "b", "more": [{"id": "x"}, {"id": "y"}]}, indent=2)
LAYOUTS = {
    "list": f"[{A}, {B}, {C}]",
    "list on lines": f"[\n{A},\n{B},\n{C}\n]\n",
    "pretty list": json.dumps([json.loads(A), json.loads(PRETTY), json.loads(C)], indent=4),
    "flat pretty list": json.dumps([json.loads(A), json.loads(PRETTY), json.loads(C)], indent=0),
    "list with blanks": f" \r\n\t[ {A} ,{B}\r\n, {C}\t]\r\n \n",
    "lines": f"{A}\n{B}\n{C}\n",
    "lines, the last one open": f"{A}\n{B}\n{C}",
    "lines of Windows": f"{A}\r\n{B}\r\n{C}\r\n",
    "blank lines": f"\n{A}\n\n  \n{B}\n\t\n{C}\n\n",
    "indented lines": f"  {A}\n  {B}\n  {C}\n",
    "glued": f"{A}{B}{C}",
    "glued on lines": f"{A}{B}\n{C}\n",
    "pretty": f"{A}\n{PRETTY}\n{C}\n",
    "pretty and glued": f"{A}{PRETTY}{C}",
    "one after the other": f"{A} {B}  {C}",
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("is_split", [False, True], ids=["by DuckDB", "split"])
def test_every_layout_gives_the_same_rows(
    layout: str, mark: bytes, is_split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_split:
        refuse(monkeypatch)
    assert rows_in(tmp_path, mark + LAYOUTS[layout].encode()) == [("a", None), ("b", None), ("c", None)]


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DuckDB refuse every part, so that all of it is split."""
    monkeypatch.setattr(sql, "json_file", lambda *_, **__: "(SELECT CAST(error('refused') AS VARCHAR) AS id)")


# -- values ----------------------------------------------------------------------------------------------------------


def test_fields_are_text_or_json_and_absent_ones_null(tmp_path: Path) -> None:
    data = r"""[
        {"id": "t", "image": "a.png", "conversations": [{"from": "human", "value": "line\nécole \"q\""}]},
        {"image": ["a.png", "b.png"], "id": 123, "source": {}},
        {"id": null, "image": null},
        {"id": 1.50, "image": {"a": 1}, "conversations": "[]"},
        {"id": [1, {"a": "b"}], "image": true},
        {"id": true, "image": ""},
        {"id": "", "image": 0},
        {"id": "tab\tnul\u0000é\ud83d\ude00", "image": "\u00e9"}
    ]"""
    assert rows_in(tmp_path, data, FIELDS) == [
        ("t", '"a.png"', r'[{"from":"human","value":"line\nécole \"q\""}]', None),
        ("123", '["a.png","b.png"]', None, None),
        (None, None, None, None),
        ("1.5", '{"a":1}', '"[]"', None),
        ('[1,{"a":"b"}]', "true", None, None),
        ("true", '""', None, None),
        ("", "0", None, None),
        ("tab\tnul\0é😀", '"é"', None, None),
    ]


def test_types_are_known_to_the_view(tmp_path: Path) -> None:
    part = tmp_path / "a.json"
    part.write_text('{"image": ["a"], "id": "x"}\noops\n')
    records = records_of(FIELDS, columns={"key": ["id"]})
    with sql.connect() as connection, open_records(connection, records, part, lambda key: None):
        described = [row[:2] for row in connection.execute("DESCRIBE records").fetchall()]
        rows = connection.execute("SELECT image->>0, * FROM records").fetchall()
    assert described == [
        *(("key", "VARCHAR"), ("image", "JSON"), ("conversations", "JSON"), ("drop_reason", "VARCHAR"))
    ]
    assert rows == [("a", "x", '["a"]', None, None), (None, None, None, None, "bad_json")]


ODD = ['a"b', "it's", "a.b", "$", "*", "/", "a b", "Ünï", "漢", "[0]", "select", "a\\b", "a\nb"]


@pytest.mark.parametrize("layout", ["[%s]", "%s", "oops\n%s"])
def test_keys_may_be_odd_and_match_exactly(layout: str, tmp_path: Path) -> None:
    item = {"": "empty", "IMAGE": "no", "Image": "neither", "image": "yes", "iMAGE": "nor", **{key: key for key in ODD}}
    rows = rows_in(tmp_path, layout % json.dumps(item), dict.fromkeys(["image", *ODD], "text"))
    assert rows[-1] == ("yes", *ODD, None)


@pytest.mark.parametrize("layout", ["[%s]", "%s", "oops\n%s"])
def test_of_a_repeated_key_the_first_counts(layout: str, tmp_path: Path) -> None:
    rows = rows_in(tmp_path, layout % '{"x": 1, "id": "a", "image": 1, "x": 2, "id": "b", "image": 2}', FIELDS)
    assert rows[-1] == ("a", "1", None, None)


@pytest.mark.parametrize("layout", ["[%s]", "%s", "oops\n%s"])
@pytest.mark.parametrize(
    "value", ["NaN", "-Infinity", "9" * 10_000, "-0.0", "1e999", "0.1", "[" * 100_000 + "]" * 100_000, '"a/\\u00e9"']
)
def test_odd_values_pass_as_they_stand(layout: str, value: str, tmp_path: Path) -> None:
    rows = rows_in(tmp_path, layout % f'{{"id": "a", "image": {value}}}', FIELDS)
    assert rows[-1] == ("a", value.replace("\\u00e9", "é"), None, None)


# -- what is broken --------------------------------------------------------------------------------------------------

BROKEN: dict[str, str | bytes] = {
    "no end": '{"id": ',
    "no bracket": '{"id": {"a": 1}',
    "a list in it without end": '{"id": [1, 2}',
    "quote not closed": '{"id": "b}',
    "quote too many": '{"id": "b""}',
    "single quotes": "{'id': 'b'}",
    "no object": "null",
    "a list": '["b"]',
    "text": '"b"',
    "not JSON": "oops } ] {",
    "a comma": ",",
    "half a pair": r'{"id": "\ud800"}',
    "the other half": r'{"id": "b", "image": "\udc00x"}',
    "control character": '{"id": "b\x01"}',
    "bare word": '{"id": b}',
    "bad escape": r'{"id": "\x"}',
    "not UTF-8": b'{"id": "\xff"}',
    "nul": b'{"id": "b"\0}',
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n  "])
def test_a_broken_line_costs_one_row(line: str | bytes, end: bytes, tmp_path: Path) -> None:
    broken = line if isinstance(line, bytes) else line.encode()
    indent = end.rpartition(b"\n")[2]
    data = indent + end.join([A.encode(), broken, C.encode(), broken, broken, A.encode()])
    assert rows_in(tmp_path, data) == [("a", None), BAD, ("c", None), BAD, BAD, ("a", None)]


@pytest.mark.parametrize("name", ["half a pair", "the other half", "bare word", "bad escape", "not UTF-8", "a list"])
def test_an_item_that_cannot_be_read_costs_one_row_of_a_list(name: str, tmp_path: Path) -> None:
    broken = BROKEN[name]
    data = b"[%s,\n%s, %s]" % (A.encode(), broken if isinstance(broken, bytes) else broken.encode(), C.encode())
    assert rows_in(tmp_path, data) == [("a", None), BAD, ("c", None)]


def test_items_of_a_list_that_are_no_objects_are_bad(tmp_path: Path) -> None:
    data = f'[[1, [2]], "a]", {A}, 1.5, null, true, [], {{}}, {C}]'
    assert rows_in(tmp_path, data) == [BAD, BAD, ("a", None), BAD, BAD, BAD, BAD, (None, None), ("c", None)]


def test_a_broken_object_on_several_lines_costs_one_row(tmp_path: Path) -> None:
    broken = PRETTY.replace('"y"', "oops")
    assert rows_in(tmp_path, f"{A}\n{broken}\n{PRETTY}\n{C}\n") == [("a", None), BAD, ("b", None), ("c", None)]
    unclosed = PRETTY[:-2]
    assert rows_in(tmp_path, f"{A}\n{unclosed}\n{PRETTY}\n{C}\n") == [("a", None), BAD, ("b", None), ("c", None)]
    assert rows_in(tmp_path, f"{A}{unclosed}\n{C}\n") == [("a", None), BAD, ("c", None)]


def test_what_follows_an_object_on_its_line_is_a_row_of_its_own(tmp_path: Path) -> None:
    assert rows_in(tmp_path, f"{A} oops {C}\n{C}\n") == [("a", None), BAD, ("c", None)]
    assert rows_in(tmp_path, f"{A}\n{C}{B[:-1]}") == [("a", None), ("c", None), BAD]


def test_rows_before_what_is_broken_are_not_read_twice(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(number)}) for number in range(10_000)]
    expected: list[tuple[Any, ...]] = [(str(number), None) for number in range(10_000)]
    for broken in (0, 31, 32, 2047, 2048, 5000, 9999):
        data = "\n".join([*lines[:broken], "{", *lines[broken:]])
        assert rows_in(tmp_path, data) == [*expected[:broken], BAD, *expected[broken:]]


WHOLE = f'[{A}, {B}, {{"id": ["]", [1]], "more": "x"}}]'


@pytest.mark.parametrize("is_split", [False, True], ids=["by DuckDB", "split"])
@pytest.mark.parametrize("end", ["", " \n\n"])
def test_a_list_that_breaks_off_is_an_error_wherever_it_does(
    end: str, is_split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows_in(tmp_path, WHOLE + end) == [("a", None), ("b", None), ('["]",[1]]', None)]
    if is_split:
        refuse(monkeypatch)
    for length in range(1, len(WHOLE)):
        error = error_of(tmp_path, WHOLE[:length] + end)
        assert error.message.startswith(f"{tmp_path / 'a.json'} is not whole: its list ")
        assert error.next_step == (
            f"Delete {tmp_path / 'a.json'} and run `prep download` again; "
            "if it stays so, the publisher's file is broken."
        )


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (f"[{A}", "its list has no end"),
        (f"[{A}]]", "its list is broken at byte 13"),
        (f"[{A}][{A}]", "its list is broken at byte 13"),
        (f"[{A}]\n{A}\n[]", "its list is broken at byte 14"),
        (f"[{A} {A}]", "its list is broken at byte 13"),
        (f"[{A},]", "its list is broken at byte 13"),
        (f"[{A},,{A}]", "its list is broken at byte 13"),
        (f'[{A}, {{"id": "b\n"}}]', "its list is broken at byte 21"),
        (f'[{A}, {{"id": {{}}]', "its list has no end"),
        ("[1]\n[2]\n", "its list is broken at byte 4"),
    ],
)
def test_a_list_with_something_else_in_or_behind_it_is_an_error(data: str, what: str, tmp_path: Path) -> None:
    assert error_of(tmp_path, data).message == f"{tmp_path / 'a.json'} is not whole: {what}"


# -- what is something else ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "rows", "head"),
    [
        ('{"data": [{"id": "a"}]}', 1, """'{"data": [{"id": "a"}]}'"""),
        ('{"data": [' + json.dumps({"id": "x" * 9_000}) * 4_000 + "]}", 1, """'{"data": [{"id": "xxx"""),
        ('[{"Id": "a"}, {"ID": "b"}]', 2, """'[{"Id": "a"}, {"ID": "b"}]'"""),
        ("[[1], [2], 3]", 3, "'[[1], [2], 3]'"),
        ("<html>\n<p>Not found</p>\n", 2, r"'<html>\n<p>Not found</p>\n'"),
        (b"\x1f\x8b\x08\x00abc", 1, r"'\x1f�\x08\x00abc'"),
        ('[{"id": 1}]'.encode("utf-16"), 1, "'��["),
    ],
)
def test_a_part_of_something_else_is_said_with_its_beginning(
    data: str | bytes, rows: int, head: str, tmp_path: Path
) -> None:
    error = error_of(tmp_path, data, {"image": "json", "id": "text"})
    assert error.message.startswith(
        f"{tmp_path / 'a.json'}: none of the first {rows} records is an object with any of the keys id, image; "
        f"the part begins with {head}"
    )
    assert error.next_step == (
        "Write the keys of its objects into the dataset's YAML, under records.fields; or is it another file?"
    )


def test_keys_whose_values_are_all_null_are_there(tmp_path: Path) -> None:
    assert rows_in(tmp_path, '[{}, {"other": 1}, {"id": null}]') == [(None, None)] * 3
    assert rows_in(tmp_path, '{}\n"id"\n{"id": null}\n') == [(None, None), BAD, (None, None)]


@pytest.mark.parametrize("data", ["", "\n \n", "\ufeff", "[]", " [ ] \n", "\ufeff[]"])
def test_a_part_without_objects_has_no_records(data: str, tmp_path: Path) -> None:
    part = tmp_path / "a.json"
    part.write_text(data, encoding="utf-8")
    assert rows_of(part) == []
    records = records_of({"id": "text"})
    with (
        pytest.raises(DataError, match="has no records"),
        sql.connect() as connection,
        open_records(connection, records, part, lambda key: None),
    ):
        pass


def test_errors_met_while_rows_are_read_stay_what_they_are(tmp_path: Path) -> None:
    part = tmp_path / "a.json"
    part.write_text("[" + f"{A}," * 100_000 + '{"id": 1} 2]')
    records = records_of({"id": "text"})
    with (
        pytest.raises(DataError, match=r"is not whole: its list is broken at byte 1,200,011\n"),
        sql.connect() as connection,
        open_records(connection, records, part, lambda key: None),
    ):
        connection.execute("SELECT count(*) FROM records").fetchall()


def test_a_name_means_itself_whatever_duckdb_reads_into_it(tmp_path: Path) -> None:
    for name in ("a[1].json", "a1.json", "b*.json", "bb.json", "c.json.gz"):
        (tmp_path / name).write_text(json.dumps({"id": name}))
    for part in tmp_path.iterdir():
        assert rows_of(part) == [(part.name, None)]


# -- hostile ---------------------------------------------------------------------------------------------------------


def test_an_object_that_is_too_long_costs_its_row(tmp_path: Path) -> None:
    long = json.dumps({"id": ["x" * 1_000_000] * 40})
    for data in (f"{A}\n{long}\n{C}", f"[{A}, {long}, {C}]"):
        assert rows_in(tmp_path, data) == [("a", None), BAD, ("c", None)]


HOSTILE: dict[str, Callable[[], str]] = {
    "nested, never closed": lambda: A + "\n" + '{"id":' + "[" * 3_000_000 + "\n" + C,
    "a list nested, never closed": lambda: f"[{A}," + "[" * 3_000_000 + "]",
    "every line broken": lambda: A + "\n" + '{"id": {"abc":\n' * 200_000,
    "every quote open": lambda: A + "\n" + '{"id": "abc\n' * 200_000,
    "quotes": lambda: A + '"' * 3_000_001,
    "backslashes": lambda: A + '{"id": "' + "\\" * 3_000_001,
    "blanks": lambda: A + " " * 3_000_000 + "x",
}


def limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_parts_take_neither_long_nor_much(make: Callable[[], str], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(make())
    program = f"""
from pathlib import Path
from prep.errors import DataError
from prep.readers.json import read
try:
    for batch in read(Path({str(tmp_path / "a.json")!r}), {{"id": "text"}}):
        batch.to_pylist()
except DataError:
    pass
"""
    subprocess.run([sys.executable, "-c", program], check=True, preexec_fn=limit_resources, timeout=100)


# -- any objects -----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(TEXT | st.sampled_from(["id", "image", "Image"]), VALUES, max_size=4), max_size=6)
WRITERS: dict[str, Callable[[list[str]], str]] = {
    "list": lambda items: f"[{','.join(items)}]",
    "list on lines": lambda items: "[\n" + ",\n".join(items) + "\n]\n",
    "lines": lambda items: "".join(f"{item}\n" for item in items),
    "glued": "".join,
    "broken lines": lambda items: "".join(f"{item}\n{{\n" for item in items),
}


def same(value: Any) -> Any:
    """A value as equality takes it: -0.0 is not 0, and 1.0 is not 1."""
    return json.dumps(value, sort_keys=True)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(OBJECTS, st.sampled_from([None, 1, 2]), st.booleans())
@example([{"id": "\u2028\x7f", "image": {"": [{}]}, "Image": 1}], None, True)
def test_any_objects_come_back_from_every_layout(
    tmp_path: Path, objects: list[dict[str, Any]], indent: int | None, is_ascii: bool
) -> None:
    objects = [{"id": "first", "image": None}, *objects]
    items = [json.dumps(item, indent=indent, ensure_ascii=is_ascii) for item in objects]
    expected = [
        (value if isinstance(value := item.get("id"), str | None) else same(value), same(item.get("image")), None)
        for item in objects
    ]
    for layout, write in WRITERS.items():
        rows = rows_in(tmp_path, write(items), {"id": "text", "image": "json"})
        if layout == "broken lines":
            assert rows[1::2] == [(None, None, "bad_json")] * len(objects)
            rows = rows[::2]
        texts = [isinstance(item.get("id"), str | None) for item in objects]
        found = [
            (id_ if is_text else same(json.loads(id_)), same(None if image is None else json.loads(image)), reason)
            for (id_, image, reason), is_text in zip(rows, texts, strict=True)
        ]
        assert found == expected
