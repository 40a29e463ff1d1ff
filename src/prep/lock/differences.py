"""What differs between two lock files, or between one and a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prep.lock_file import printable

SECTIONS = {"version": "lock", "made_with": "made_with", "recipe": "recipe", "datasets": "dataset"}
SECTIONS |= {"contents": "dataset", "tables": "table"}

# What tells how something was come by, and not what it is. `asked` holds paths of one machine, and a mirror is another
# source; numbers of another precision, and those of another version of a library, differ a little only, and where they
# matter rows differ.
_OF_DATASETS = (("asked",), ("from",), ("source",))
_OF_PASSPORTS = (("dtype",), ("libraries",))
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
    single = {*before.get("datasets", {})} ^ {*after.get("datasets", {})}  # what is in these needs no words
    for section in SECTIONS:
        one, other = before.get(section, {}), after.get(section, {})
        if section == "recipe":
            found += _of_one(section, "", *_in_order(one, other))
        elif section in ("datasets", "contents", "tables"):
            found += _by_name(section, one, other, besides=single if section == "contents" else set())
        else:
            found += _of_one(section, "", one, other)
    return sorted(found, key=lambda one: ([*SECTIONS.values()].index(one.what), one.name))


def _in_order(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two recipes, of whose order is left where they differ; of entries that only one has that is said already.

    A lock of before the order was in it says nothing of it.
    """
    one, other = ([*recipe.get("order", [])] for recipe in (before, after))
    one, other = [label for label in one if label in other], [label for label in other if label in one]
    while one and one[:1] == other[:1]:
        del one[0], other[0]
    while one and one[-1:] == other[-1:]:
        del one[-1], other[-1]
    return {**before, "order": one or None}, {**after, "order": other or None}


def _by_name(
    section: str, before: Mapping[str, Any], after: Mapping[str, Any], *, besides: set[str]
) -> Iterator[Difference]:
    for name in sorted({*before, *after} - besides):
        one, other = before.get(name), after.get(name)
        if section == "contents" or (one is not None and other is not None):
            yield from _of_one(section, name, one, other)
        else:
            yield Difference(SECTIONS[section], name, "", _presence(one), _presence(other))


def _presence(facts: Any) -> str | None:
    return None if facts is None else "there"


def _of_one(section: str, name: str, before: Any, after: Any) -> Iterator[Difference]:
    one, other = dict(_flat(section, before)), dict(_flat(section, after))
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            yield Difference(SECTIONS[section], name, ".".join(key), one.get(key), other.get(key))


def _flat(section: str, facts: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Facts of facts as one level, without those that make no difference."""
    if _makes_no_difference(section, path):
        return
    if isinstance(facts, Mapping):
        for key, value in facts.items():
            yield from _flat(section, value, (*path, key))
    elif isinstance(facts, list) and facts and all(isinstance(fact, Mapping) for fact in facts):
        for number, fact in enumerate(facts, 1):
            yield from _flat(section, fact, (*path, *([str(number)] if len(facts) > 1 else [])))
    elif facts is not None:
        yield path, facts


def _makes_no_difference(section: str, path: tuple[str, ...]) -> bool:
    """By the whole path: a user's group, a column or a key of a rule may have any name."""
    if section == "datasets":
        return path in _OF_DATASETS
    if section != "tables" or path[:1] != ("scores",) or path[2:3] != ("passports",):
        return False
    of_passport = path[4:] if path[3:4] and path[3].isdecimal() else path[3:]
    return of_passport in _OF_PASSPORTS


def told(found: Iterable[Difference], most: int = 20) -> str:
    """Differences as lines of a message, the first `most` of them."""
    lines = [printable(str(one)) for one in found]
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    return "\n".join(f"    {line}" for line in (*lines[:most], *more))
