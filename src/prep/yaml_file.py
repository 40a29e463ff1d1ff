"""YAML with the two things configuration needs and PyYAML leaves out: line numbers, and repeated keys as errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prep.errors import ConfigError

KeyPath = tuple[str | int, ...]
Pair = tuple[yaml.Node, yaml.Node]

MAX_VALUES = 100_000  # in one file, aliases counted as often as they are used; no configuration comes near
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass
class YamlFile:
    """A parsed YAML file.

    Attributes:
        path: where it was read from.
        text: the file as it stands.
        data: plain Python values; of a repeated key the last value, as PyYAML has it.
        lines: 1-based line of every key and list item, by its path of keys.
        repeated: (key, line of the first, line of the last) of every repeated key.
        node: the root node, with the marks that text edits need; None for an empty file.
    """

    path: Path
    text: str
    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    repeated: list[tuple[str, int, int]] = field(default_factory=list)
    node: yaml.Node | None = None

    def line_of(self, location: KeyPath) -> int:
        """Line of `location`, or of the nearest enclosing key that the file has.

        Steps that the file does not have (pydantic puts the chosen member of a union into its locations)
        are passed over.
        """
        found: KeyPath = ()
        for step in location:
            if (*found, step) in self.lines:
                found = (*found, step)
        return self.lines.get(found, 1)


def parse_yaml(text: str, path: Path) -> YamlFile:
    """Parse `text`, which came from `path`.

    Raises:
        ConfigError: the text is not YAML.
    """
    parsed = YamlFile(path, text)
    try:
        loader = yaml.SafeLoader(text)
        parsed.node = loader.get_single_node()
        if parsed.node is not None:
            if _count_values(parsed.node, {}) > MAX_VALUES:
                raise ConfigError(
                    f"{path}: holds more than {MAX_VALUES:,} values", "Mend the file; look at its aliases."
                )
            parsed.data = _construct(loader, parsed.node, (), parsed)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}", "Mend that line.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}", "Mend the file.") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply to be configuration", "Mend the file.") from error
    return parsed


def read_yaml(path: Path, *, allow_repeated: bool = False) -> YamlFile:
    """Read and parse `path`.

    Raises:
        ConfigError: unreadable, not YAML, or (unless `allow_repeated`) a key stands twice in one mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text", "Is this a YAML file?") from error
    parsed = parse_yaml(text, path)
    if parsed.repeated and not allow_repeated:
        key, first, last = parsed.repeated[0]
        raise ConfigError(f"{path}:{last}: key {key!r} stands here and on line {first}", "Keep one of the two.")
    return parsed


def _count_values(node: yaml.Node, counted: dict[int, float]) -> float:
    """Values below `node` with every alias written out, without doing so; infinite for one that holds itself."""
    if id(node) not in counted:
        counted[id(node)] = math.inf
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        counted[id(node)] = 1 + sum(_count_values(child, counted) for child in children)
    return counted[id(node)]


def _construct(loader: yaml.SafeLoader, node: yaml.Node, at: KeyPath, parsed: YamlFile) -> Any:
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
        raise yaml.MarkedYAMLError(problem=f"no place for the tag {node.tag!r}", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        first_lines: dict[str, int] = {}
        mapping: dict[Any, Any] = {}
        merged = _merged_pairs(node)
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        for number, (key_node, value_node) in enumerate([*merged, *own]):
            line = key_node.start_mark.line + 1
            key = _scalar(loader, key_node)
            if number >= len(merged):
                if str(key) in first_lines:
                    parsed.repeated.append((str(key), first_lines[str(key)], line))
                first_lines.setdefault(str(key), line)
            parsed.lines[(*at, key)] = line
            mapping[key] = _construct(loader, value_node, (*at, key), parsed)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            parsed.lines[(*at, index)] = item.start_mark.line + 1
            items.append(_construct(loader, item, (*at, index), parsed))
        return items
    return _scalar(loader, node)


def _merged_pairs(node: yaml.MappingNode) -> list[Pair]:
    """The pairs that `<<` brings into a mapping, those that win last; the nodes stay as they are, for text edits."""
    pairs: list[Pair] = []
    for key_node, value_node in node.value:
        if key_node.tag != _MERGE:
            continue
        sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                problem = "<< takes a mapping or a list of mappings"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            pairs += [*_merged_pairs(source), *(pair for pair in source.value if pair[0].tag != _MERGE)]
    return pairs


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """The value of a scalar.

    Raises:
        MarkedYAMLError: it is a collection (as a key), or has the form of a date or number but no such value.
    """
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=node.start_mark)
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, LookupError, AttributeError) as error:
        problem = f"{node.value[:60]!r} is not a value; in quotes it is text"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error
