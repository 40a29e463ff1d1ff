"""YAML with the two things configuration needs and PyYAML leaves out: line numbers, and repeated keys as errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prep.errors import ConfigError

KeyPath = tuple[str | int, ...]


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
    loader = yaml.SafeLoader(text)
    try:
        parsed.node = loader.get_single_node()
        if parsed.node is not None:
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


def _construct(loader: yaml.SafeLoader, node: yaml.Node, at: KeyPath, parsed: YamlFile) -> Any:
    if isinstance(node, yaml.MappingNode):
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            loader.flatten_mapping(node)
        first_lines: dict[str, int] = {}
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, list | dict):
                raise ConfigError(f"{parsed.path}:{line}: a key must be plain text", "Mend that line.")
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
    return loader.construct_object(node, deep=True)
