"""What a check finds, and the notebook it is written into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["error", "warning"]

# What happens in training.
STOPS = "the loader stops at start-up"
IGNORED = "the loader passes over it and says nothing"


@dataclass(frozen=True)
class Finding:
    """One thing a user should know before training.

    Attributes:
        level: `error` where the run stops or may stop, `warning` where it does something else than it seems to.
        entry: the entry's label; empty for the file as a whole.
        problem: what is so.
        effect: what happens in training.
        remedy: what to do.
    """

    level: Level
    entry: str
    problem: str
    effect: str
    remedy: str


@dataclass(frozen=True)
class RowFault:
    """A kind of fault that single rows have; the rows are counted in a `Tally`."""

    level: Level
    problem: str
    effect: str
    remedy: str


@dataclass
class Notes:
    """Findings about one entry, in the order they were made."""

    entry: str = ""
    findings: list[Finding] = field(default_factory=list)

    def error(self, problem: str, effect: str, remedy: str) -> None:
        """Note something that stops the run, or may."""
        self.findings.append(Finding("error", self.entry, problem, effect, remedy))

    def warning(self, problem: str, effect: str, remedy: str) -> None:
        """Note something that the loader does silently."""
        self.findings.append(Finding("warning", self.entry, problem, effect, remedy))

    @property
    def error_count(self) -> int:
        """Errors noted so far."""
        return sum(finding.level == "error" for finding in self.findings)


@dataclass
class Tally:
    """Counts the rows that have each fault.

    Attributes:
        first_effect: what happens when the entry's first sample is among them.
    """

    first_effect: str
    _counts: dict[RowFault, _Count] = field(default_factory=dict)

    def add(self, fault: RowFault, row: int, example: str = "", *, is_first: bool = False) -> None:
        """Count `fault` for a row, once; rows come in their order. `example` is shown for the first one."""
        count = self._counts.setdefault(fault, _Count(row, example))
        count.rows += row != count.last
        count.last = row
        count.has_first |= is_first

    def findings(self, entry: str, looked_at: int) -> Iterator[Finding]:
        """The faults as findings; `looked_at` rows were looked at."""
        for fault, count in self._counts.items():
            where = f"{count.rows:,} of {looked_at:,} rows looked at; first in row {count.row:,}"
            example = f", {count.example}" if count.example else ""
            yield Finding(
                fault.level,
                entry,
                f"{fault.problem} ({where}{example})",
                self.first_effect if count.has_first and fault.level == "error" else fault.effect,
                fault.remedy,
            )


@dataclass
class _Count:
    row: int
    example: str
    rows: int = 0
    last: int = -1
    has_first: bool = False
