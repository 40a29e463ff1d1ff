"""YAML with line numbers, and every way of writing it wrong as an error that names the line."""

from __future__ import annotations

import textwrap
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import ConfigError
from prep.yaml_file import MAX_VALUES, parse_yaml, read_yaml

HERE = Path("dir/file.yaml")


def parse(text: str) -> Any:
    return parse_yaml(text, HERE).data


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, HERE)
    return str(caught.value)


TEXT = textwrap.dedent(
    """\
    name: ü              # line 1

    tables:
      one:
        select: {a: x,
                 b: y}
      two: [1, two,
        3.5, null, true]
    list:
      - first
      - key: value
        other: 2026-01-02
    """
)


def test_values_and_lines() -> None:
    parsed = parse_yaml(TEXT, HERE)
    assert parsed.data == yaml.safe_load(TEXT)
    assert parsed.repeated == []
    assert parsed.lines == {
        ("name",): 1,
        ("tables",): 3,
        ("tables", "one"): 4,
        ("tables", "one", "select"): 5,
        ("tables", "one", "select", "a"): 5,
        ("tables", "one", "select", "b"): 6,
        ("tables", "two"): 7,
        ("tables", "two", 0): 7,
        ("tables", "two", 1): 7,
        ("tables", "two", 2): 8,
        ("tables", "two", 3): 8,
        ("tables", "two", 4): 8,
        ("list",): 9,
        ("list", 0): 10,
        ("list", 1): 11,
        ("list", 1, "key"): 11,
        ("list", 1, "other"): 12,
    }


def test_the_line_of_what_is_not_there_is_that_of_what_encloses_it() -> None:
    parsed = parse_yaml(TEXT, HERE)
    assert parsed.line_of(("tables", "one", "missing")) == 4
    assert parsed.line_of(("tables", "a union's member", "two", 2)) == 8
    assert parsed.line_of(("missing",)) == parsed.line_of(()) == 1


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\ufeff"])
def test_an_empty_file_holds_nothing(text: str) -> None:
    assert parse(text) is None


def test_a_list_or_a_word_at_the_top_is_what_it_is() -> None:
    assert parse("- a\n- b: 1\n") == ["a", {"b": 1}]
    assert parse("word") == "word"


def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  - 2\r\n")
    parsed = read_yaml(path)
    assert parsed.data == {"a": 1, "b": [2]}
    assert parsed.lines == {("a",): 1, ("b",): 2, ("b", 0): 3}


# -- repeated keys -------------------------------------------------------------------------------------------


def test_a_repeated_key_names_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}:5: key 'c' stands here and on line 3\n  Keep one of the two."


def test_repeated_keys_are_reported_where_they_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\nb: 2\na: 3\n1: x\n'1': y\na: 4\n")
    parsed = read_yaml(path, allow_repeated=True)
    assert parsed.repeated == [("a", 1, 3), ("1", 4, 5), ("a", 1, 6)]
    assert parsed.data == {"a": 4, "b": 2, 1: "x", "1": "y"}
    assert parsed.lines[("a",)] == 6


# -- aliases and merge keys ----------------------------------------------------------------------------------

MERGED = textwrap.dedent(
    """\
    base: &base {x: 1, y: 2}
    more: &more
      z: 3
      y: 9
    own:
      <<: *base
      x: mine
    both:
      <<: [*base, *more]
      w: 4
    chain: &chain
      <<: *base
      y: changed
    end:
      <<: *chain
    alias: *base
    """
)


def test_merge_keys_and_aliases_mean_what_they_mean_elsewhere() -> None:
    parsed = parse_yaml(MERGED, HERE)
    assert parsed.data == yaml.safe_load(MERGED)
    assert parsed.data["own"] == {"x": "mine", "y": 2}
    assert parsed.data["both"] == {"x": 1, "y": 2, "z": 3, "w": 4}
    assert parsed.data["end"] == {"x": 1, "y": "changed"}
    assert parsed.repeated == [], "to override a merged key is what merging is for"
    assert parsed.lines[("own", "x")] == 7
    assert parsed.lines[("own", "y")] == 1


def test_a_key_that_stands_twice_beside_a_merge_is_still_repeated() -> None:
    parsed = parse_yaml("base: &b {x: 1}\nown:\n  <<: *b\n  x: 2\n  x: 3\n", HERE)
    assert parsed.repeated == [("x", 4, 5)]


def test_parsing_leaves_the_nodes_as_they_are_in_the_text() -> None:
    node = parse_yaml(MERGED, HERE).node
    assert isinstance(node, yaml.MappingNode)
    own = next(value for key, value in node.value if key.value == "own")
    assert [key.value for key, _ in own.value] == ["<<", "x"]


def bomb(line: str, levels: int) -> str:
    """YAML whose every level holds ten times the one before."""
    names = [f"level{n}" for n in range(levels)]
    lines = [f"{names[0]}: &{names[0]} {{k: v}}"]
    for before, name in pairwise(names):
        lines.append(f"{name}: &{name} " + line.format(", ".join([f"*{before}"] * 10), before=before))
    return "\n".join(lines)


BOMBS = {
    "lists": bomb("[{0}]", 30),
    "merges": bomb("{{<<: [{0}]}}", 30),
    "repeated keys": bomb("{{a: *{before}, a: *{before}, a: *{before}, a: *{before}}}", 40),
    "itself": "a: &a [*a, *a]",
    "itself in a mapping": "a: &a {b: *a}",
    "itself by merging": "a: &a\n  <<: *a",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_aliases_do_not_blow_up(text: str) -> None:
    started = time.perf_counter()
    assert error_of(text) == f"{HERE}: holds more than {MAX_VALUES:,} values\n  Mend the file; look at its aliases."
    assert time.perf_counter() - started < 1


def test_a_long_file_of_our_own_is_no_bomb() -> None:
    assert len(parse("\n".join(f"- {{table: t{n}, weight: {n}}}" for n in range(5000)))) == 5000


# -- what is not YAML ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: b: c\n", 1, "mapping values are not allowed here"),
        ("a: 1\nb: [1,\nc: 2\n", 4, "expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n\tb: 2\n", 2, "found character '\\t' that cannot start any token"),
        ("a: 'open\n", 2, "found unexpected end of stream"),
        ("a: *nowhere\n", 1, "found undefined alias 'nowhere'"),
        ("a: 1\n--- \nb: 2\n", 2, "but found another document"),
        ("a: 1\nb: !mine x\n", 2, "could not determine a constructor for the tag '!mine'"),
        ("a: !!python/name:os.system x\n", 1, "could not determine a constructor for the tag"),
        ("a:\n  - !!python/object/apply:os.system [x]\n", 2, "no place for the tag"),
        ("a: !!set {b, c}\n", 1, "no place for the tag 'tag:yaml.org,2002:set'"),
        ("%YAML 9.9\n---\na: 1\n", 1, "found incompatible YAML document"),
        ("a:\n  ? [b]\n  : 1\n", 2, "a key must be plain text"),
        ("a:\n  ? {b: 1}\n  : 1\n", 2, "a key must be plain text"),
        ("? !!set {b}\n: 1\n", 1, "a key must be plain text"),
        ("a: 1\ntitle: 2026-13-45\n", 2, "'2026-13-45' is not a value; in quotes it is text"),
        ("a: !!int twelve\n", 1, "'twelve' is not a value; in quotes it is text"),
        ("a: !!bool maybe\n", 1, "'maybe' is not a value; in quotes it is text"),
        ("a: !!timestamp noon\n", 1, "'noon' is not a value; in quotes it is text"),
        ("a: " + "9" * 5000, 1, f"'{'9' * 60}' is not a value; in quotes it is text"),
        ("a: 1\nb:\n  <<: 3\n", 3, "<< takes a mapping or a list of mappings"),
        ("a: &a [1]\n<<: *a\n", 2, "<< takes a mapping or a list of mappings"),
    ],
)
def test_broken_yaml_names_its_line(text: str, line: int, problem: str) -> None:
    message = error_of(text)
    assert message.startswith(f"{HERE}:{line}: not valid YAML: {problem}")
    assert message.endswith("\n  Mend that line.")


def test_control_characters_and_deep_nesting_are_said() -> None:
    assert error_of("a: \0").startswith(f"{HERE}: not valid YAML: unacceptable character #x0000")
    assert error_of("[" * 20_000) == f"{HERE}: nested too deeply to be configuration\n  Mend the file."
    assert "nested too deeply" in error_of("\n".join(" " * n + "a:" for n in range(2000)))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    said = {}
    for name in ("missing.yaml", "latin.yaml", ""):
        with pytest.raises(ConfigError) as caught:
            read_yaml(tmp_path / name)
        said[name] = str(caught.value)
    assert said == {
        "missing.yaml": f"{tmp_path}/missing.yaml: cannot be read: No such file or directory\n  Check the path.",
        "latin.yaml": f"{tmp_path}/latin.yaml: not UTF-8 text\n  Is this a YAML file?",
        "": f"{tmp_path}: cannot be read: Is a directory\n  Check the path.",
    }


@given(st.text(alphabet="ab:-#&*![]{}<>|'\"\\? \n\t01.,%@~=", max_size=40) | st.text(max_size=20))
def test_any_text_is_read_as_pyyaml_reads_it_or_refused(text: str) -> None:
    try:
        parsed = parse_yaml(text, HERE)
    except ConfigError as error:
        assert error.message.startswith(str(HERE))
    else:
        assert repr(parsed.data) == repr(yaml.safe_load(text))
