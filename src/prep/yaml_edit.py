"""Edits of YAML text that keep comments, order and every other byte.

A change is placed with the marks of the parsed file, made in the text, and believed only once the new text has been
parsed again and holds the old data and the new.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prep.errors import ConfigError
from prep.yaml_file import YamlFile, parse_yaml

_INDENT = 2


class _Dumper(yaml.SafeDumper):
    """Block style, items indented below their key, lists of plain values on one line, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.SequenceNode:
    plain = not any(isinstance(item, list | dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


def _represent_str(dumper: _Dumper, data: str) -> yaml.ScalarNode:
    # Double quotes keep every text on one line; PyYAML's other styles lose rare line breaks such as U+0085.
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_str)


class _CannotPlace(Exception):
    """The text has no safe place for the edit."""


def read_exact(path: Path) -> YamlFile:
    r"""Read and parse `path` for an edit: line ends stay as they are (`read_yaml` turns \r\n into \n).

    Raises:
        ConfigError: unreadable, not UTF-8 or not YAML.
    """
    try:
        return parse_yaml(path.read_bytes().decode("utf-8"), path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text", "Is this a YAML file?") from error


def render_items(items: Sequence[Mapping[str, Any]], indent: int = 0) -> str:
    """`items` as the lines of a block list, `indent` spaces in; keys keep their order."""
    return _render([dict(item) for item in items], indent)


def render_keys(mapping: Mapping[str, Any], indent: int = 0) -> str:
    """`mapping` as the lines of a block mapping, `indent` spaces in; keys keep their order."""
    return _render(dict(mapping), indent)


def append_items(parsed: YamlFile, key: str, items: list[dict[str, Any]]) -> str:
    """The text of `parsed` with `items` at the end of the top-level list `key`.

    A list that is missing or empty is begun. Items go directly after the last one and the comments that are indented
    below it. Of a key that stands twice the last is changed, which is the one YAML loaders keep.

    Raises:
        ConfigError: `key` is not a list, or the text has no safe place for the items (a list in brackets, an alias
            at its end); the message then holds the text to paste by hand.
    """
    old = _top_level(parsed).get(key)
    if not isinstance(old, list | None):
        raise ConfigError(f"{parsed.path}: {key!r} is not a list", "Mend the file first.")
    if not items:
        return parsed.text
    return _insert(parsed, key, [*(old or []), *items], lambda indent: render_items(items, indent))


def add_keys(parsed: YamlFile, key: str, mapping: Mapping[str, Any]) -> str:
    """The text of `parsed` with the keys of `mapping` at the end of the top-level mapping `key`.

    Keys that are there already with the same value are passed over; a mapping that is missing or empty is begun.

    Raises:
        ConfigError: `key` is not a mapping, has one of the keys with another value, or the text has no safe place for
            them; the message then holds the text to paste by hand.
    """
    old = _top_level(parsed).get(key)
    if not isinstance(old, dict | None):
        raise ConfigError(f"{parsed.path}: {key!r} is not a mapping", "Mend the file first.")
    known = old or {}
    for name, value in mapping.items():
        if name in known and known[name] != value:
            raise ConfigError(
                f"{parsed.path}: {key}.{name} is {known[name]!r}, to become {value!r}",
                f"Change it by hand, on line {parsed.line_of((key, name))}.",
            )
    added = {name: value for name, value in mapping.items() if name not in known}
    if not added:
        return parsed.text
    return _insert(parsed, key, {**known, **added}, lambda indent: render_keys(added, indent))


def _render(value: Any, indent: int) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True, width=2**31)
    return textwrap.indent(text, " " * indent)


def _top_level(parsed: YamlFile) -> dict[str, Any]:
    if parsed.data is None:
        return {}
    if not isinstance(parsed.data, dict):
        raise ConfigError(f"{parsed.path}: must be a mapping of keys to values", "Mend the file first.")
    return parsed.data


def _insert(parsed: YamlFile, key: str, value: Any, render: Callable[[int], str]) -> str:
    """Place the lines `render(indent)` under `key`, and verify that the new text holds `value` there."""
    expected = {**_top_level(parsed), key: value}
    try:
        text = _placed(parsed, key, render)
        # repr also tells 1 from 1.0 and True, sees the order of keys, and finds NaN equal to NaN.
        unharmed = repr(parse_yaml(text, parsed.path).data) == repr(expected)
    except (_CannotPlace, ConfigError):
        unharmed = False
    if unharmed:
        return text
    raise ConfigError(
        f"{parsed.path}: {key!r} is written in a way that cannot be extended without risk to the rest of the file",
        f"Put this at the end of {key!r} by hand:\n{render(_INDENT)}",
    )


def _placed(parsed: YamlFile, key: str, render: Callable[[int], str]) -> str:
    text, root = parsed.text, parsed.node
    if root is None:
        return _with_lines(text, len(text), f"{key}:\n{render(_INDENT)}")
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise _CannotPlace
    column = root.start_mark.column
    # Of a repeated key the last, as loaders keep that one.
    node = next((value for name, value in reversed(root.value) if name.value == key), None)
    if node is None:
        lines = textwrap.indent(f"{key}:\n{render(_INDENT)}", " " * column)
        return _with_lines(text, len(text), f"\n{lines}")
    if _is_empty(node):
        start, end = node.start_mark.index, node.end_mark.index
        if "\n" in text[start:end]:
            raise _CannotPlace
        head = text[:start].rstrip(" ")
        text = head + text[end:]
        return _with_lines(text, _line_end(text, len(head)), render(column + _INDENT))
    if node.flow_style:
        raise _CannotPlace
    column = node.start_mark.column
    own_comments = re.compile(rf"(?: {{{column + 1},}}#[^\n]*(?:\n|$))*")
    at = _line_end(text, _content_end(node))
    comments = own_comments.match(text, at)
    return _with_lines(text, comments.end() if comments else at, render(column))


def _is_empty(node: yaml.Node) -> bool:
    """Whether `key:` has no value, `null`, `[]` or `{}`."""
    if isinstance(node, yaml.ScalarNode):
        return bool(node.tag == "tag:yaml.org,2002:null")
    return not node.value


def _content_end(node: yaml.Node) -> int:
    """Index just after the last character of a node; the end marks of block collections lie further on.

    Raises:
        _CannotPlace: the last part of it is an alias, whose node lies elsewhere in the text.
    """
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    if isinstance(node, yaml.MappingNode):
        key, last = node.value[-1]
        before = key.end_mark.index
    else:
        last = node.value[-1]
        before = node.value[-2].end_mark.index if len(node.value) > 1 else node.start_mark.index
    if last.start_mark.index < before:
        raise _CannotPlace
    return _content_end(last)


def _line_end(text: str, index: int) -> int:
    """Index of the line after the one that holds `index`; `index` itself where a line begins there."""
    if index == 0 or text[index - 1] == "\n":
        return index
    newline = text.find("\n", index)
    return len(text) if newline < 0 else newline + 1


def _with_lines(text: str, at: int, lines: str) -> str:
    """`text` with whole `lines` put in at `at`, where a line begins or the text ends, in its own line ends."""
    newline = "\r\n" if re.match(r"[^\n]*\r\n", text) else "\n"
    head, tail = text[:at], text[at:]
    if head and not head.endswith("\n"):
        head += newline
    return head + lines.replace("\n", newline) + tail
