"""What differs between two lock files, or between one and a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SECTIONS = {"version": "lock", "made_with": "made_with", "recipe": "recipe", "datasets": "dataset"}
SECTIONS |= {"contents": "dataset", "tables": "table"}

# What tells how something was come by, and not what it is. `asked` holds paths of one machine; numbers of another
# precision, and those of another version of a library, differ a little only, and where they matter rows differ.
_NO_DIFFERENCE = {"asked", "from", "dtype", "libraries"}
_SHOWN = 100  # letters of a value; a hash is shown whole


@dataclass(frozen=True)
class Difference:
    """One thing that two lock files say otherwise.

    Attributes:
        what: `recipe`, `dataset`, `table`, `made_with` or `lock`.
        name: the dataset's or table's; empty for the others.
        key: which of its facts, with dots: `rules.aes_cutoff`.
        before, after: what the first and the second say; None where one says nothing.
    """

    what: str
    name: str
    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        subject = " ".join(word for word in (self.what, self.name, self.key) if word)
        return f"{subject}: {shown(self.before)} -> {shown(self.after)}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "what": self.what,
            "name": self.name,
            "key": self.key,
            "before": self.before,
            "after": self.after,
        }


def shown(value: Any) -> str:
    """A value in a line: JSON, shortened; `-` for nothing."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Everything that two locks say otherwise: recipe, datasets, then tables, each by name.

    A dataset or table that only one of them has is one difference.
    """
    found: list[Difference] = []
    for section in SECTIONS:
        found += _in_section(section, before.get(section), after.get(section))
    return sorted(found, key=lambda one: ([*SECTIONS.values()].index(one.what), one.name))


def _in_section(section: str, before: Any, after: Any) -> Iterator[Difference]:
    what = SECTIONS[section]
    if section not in ("datasets", "contents", "tables"):
        yield from _of_one(what, "", before, after)
        return
    for name in sorted({*(before or {}), *(after or {})}):
        one, other = (before or {}).get(name), (after or {}).get(name)
        if one is not None and other is not None:
            yield from _of_one(what, name, one, other)
        elif section != "contents":  # what is in a dataset that only one has needs no words
            yield Difference(what, name, "", _presence(one), _presence(other))


def _presence(facts: Any) -> str | None:
    return None if facts is None else "there"


def _of_one(what: str, name: str, before: Any, after: Any) -> Iterator[Difference]:
    one, other = dict(_flat(before)), dict(_flat(after))
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            yield Difference(what, name, ".".join(key), one.get(key), other.get(key))


def _flat(facts: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Facts of facts as one level, without those that make no difference."""
    if isinstance(facts, Mapping):
        for key, value in facts.items():
            if key not in _NO_DIFFERENCE:
                yield from _flat(value, (*path, key))
    elif isinstance(facts, list) and facts and all(isinstance(fact, Mapping) for fact in facts):
        for number, fact in enumerate(facts, 1):
            yield from _flat(fact, (*path, *([str(number)] if len(facts) > 1 else [])))
    elif facts is not None:
        yield path, facts


def told(found: Iterable[Difference], most: int = 20) -> str:
    """Differences as lines of a message, the first `most` of them."""
    lines = [str(one) for one in found]
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    return "\n".join(f"    {line}" for line in (*lines[:most], *more))
