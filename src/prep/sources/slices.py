"""A slice of a dataset: some of its parts, chosen by position, by name and by number, in this order."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prep.errors import UsageError
from prep.sources import Part


@dataclass(frozen=True)
class Slice:
    """Which parts of a dataset are wanted; without any choice, all.

    Attributes:
        parts: positions in the sorted list of the dataset's parts, from 0: `0-3,7`.
        only: globs over the parts' paths; a part that matches one of them is taken.
        limit: at most so many of what is left.

    Raises:
        UsageError: positions that are none, or a limit that lets nothing through.
    """

    parts: str = ""
    only: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        _ = self._ranges  # a mistake is told at once
        if self.limit is not None and not (type(self.limit) is int and self.limit > 0):
            raise UsageError(f"--limit {self.limit}: must be a whole number from 1", "For example --limit 1.")

    def __bool__(self) -> bool:
        return self != Slice()

    def __str__(self) -> str:
        words = [f"--parts {self.parts}"] if self.parts else []
        words += [f"--only {glob!r}" for glob in self.only]
        return " ".join(words + ([f"--limit {self.limit}"] if self.limit is not None else []))

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        ranges = []
        for piece in self.parts.split(",") if self.parts else ():
            found = re.fullmatch(r"\s*([0-9]{1,18})(?:-([0-9]{1,18}))?\s*", piece)
            if found is None:
                message = f"--parts {_short(self.parts)}: {_short(piece)!r} is no position"
                raise UsageError(message, "For example --parts 0-3,7.")
            first, last = int(found[1]), int(found[2] or found[1])
            if last < first:
                raise UsageError(
                    f"--parts {self.parts}: {piece.strip()} goes backwards", f"For example --parts {last}-{first}."
                )
            ranges.append((first, last))
        return ranges

    def choose(self, parts: Sequence[Part]) -> list[tuple[int, Part]]:
        """The slice's parts of a dataset's sorted `parts`, each with its position."""
        chosen = [
            (position, part)
            for position, part in enumerate(parts)
            if not self.parts or any(first <= position <= last for first, last in self._ranges)
            if not self.only or any(fnmatch.fnmatchcase(part.path, glob) for glob in self.only)
        ]
        return chosen[: self.limit]

    def as_json(self) -> dict[str, Any]:
        """What was chosen, for prep.lock and manifests; empty for all."""
        data = {"parts": self.parts, "only": list(self.only), "limit": self.limit}
        return {name: value for name, value in data.items() if value not in ("", [], None)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Slice:
        """What `as_json` gave; other keys are passed over.

        Raises:
            UsageError: it gave nothing like this.
        """
        parts, only = data.get("parts", ""), data.get("only", ())
        if not (isinstance(parts, str) and isinstance(only, list | tuple) and all(isinstance(g, str) for g in only)):
            raise UsageError(f"parts {parts!r} and only {only!r} are no slice", "For example --parts 0-3,7.")
        return cls(parts, tuple(only), data.get("limit"))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
