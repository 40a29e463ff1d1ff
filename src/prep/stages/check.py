"""Check: what the training loader will do with a YAML, before a GPU is rented.

Nothing is written. The report says for every entry how many rows are left at each step, what its first sample looks
like and what part of training it is, and lists everything that stops the loader or that it does silently.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prep.config import nearest
from prep.trainers.findings import IGNORED, STOPS, Finding, Notes
from prep.trainers.lavida_o import (
    BATCH_SIZES,
    DATASETS,
    DEFAULT_BATCH_FACTOR,
    DEFAULT_NAME,
    DEFAULT_WEIGHT,
    NAME,
    TOP_LEVEL_KEYS,
    WEIGHTS,
    cut_batch,
)
from prep.trainers.lavida_o_entry import EntryReport, check_entry
from prep.trainers.lavida_o_rows import FirstSample, ImageChoice
from prep.trainers.lavida_o_sample import ask_again
from prep.yaml_file import YamlFile, read_yaml

__all__ = ["CheckReport", "EntryReport", "Finding", "FirstSample", "GroupReport", "check_yaml"]


@dataclass(frozen=True)
class GroupReport:
    """One length group of the mixture.

    Attributes:
        weight: how strongly it is drawn, against the other groups that have entries.
        batch_factor: part of a batch that is used when it is drawn.
        rows: over all its entries, after sampling.
        share: probability that a batch is drawn from it, 0 to 1.
    """

    name: str
    weight: float
    batch_factor: float
    rows: int
    share: float


@dataclass
class CheckReport:
    """What the loader will do with a training YAML.

    Attributes:
        path: the YAML.
        steps, batch: what `seen` of the entries is reckoned for; None where it is not.
        entries, groups: in the order of the YAML.
        findings: of the file first, then entry by entry.
        files: whether the data files were looked into.
    """

    path: Path
    steps: int | None = None
    batch: int | None = None
    entries: list[EntryReport] = field(default_factory=list)
    groups: list[GroupReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    files: bool = True

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop the run, or may."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings of things the loader does silently."""
        return [finding for finding in self.findings if finding.level == "warning"]

    def as_json(self) -> dict[str, Any]:
        """The report as plain values that JSON holds."""
        data = asdict(self)
        del data["files"]  # where none was looked into, no rows are known
        return {**data, "path": str(self.path)}


def check_yaml(
    path: Path,
    *,
    images: ImageChoice = "sample",
    steps: int | None = None,
    batch: int | None = None,
    files: bool = True,
) -> CheckReport:
    """Find out what LaViDa-O's loader will do with the training YAML at `path`.

    Args:
        images: open the images of the first row and 16 others of each entry, of all rows, or none.
        steps: optimiser steps of the run.
        batch: samples in a step over all GPUs, before batch factors; with `steps` it tells how often rows are seen.
        files: look into the data files; without, nothing but the YAML is opened, and what it says alone is checked.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
        UsageError: the module that opens images on S3 is there and of no use.
    """
    ask_again()
    parsed = read_yaml(path, allow_repeated=True)
    report = CheckReport(path, steps, batch, files=files)
    notes = Notes()
    for key, first, last in parsed.repeated:
        notes.warning(
            f"the key {key!r} stands on line {first} and again on line {last}",
            f"the loader keeps line {last} and says nothing",
            "Remove one of the two.",
        )
    data = parsed.data if isinstance(parsed.data, dict) else {}
    for key in data:
        if key not in TOP_LEVEL_KEYS:
            notes.warning(
                f"the top-level key {key!r} is unknown{nearest(str(key), TOP_LEVEL_KEYS)}",
                IGNORED,
                "Mend or remove it.",
            )
    entries = _entries(data, notes)
    weights = _group_numbers(data, WEIGHTS, notes)
    factors = _group_numbers(data, BATCH_SIZES, notes)
    labels = _labels(parsed, entries)
    if not files:
        _note_shared_names(entries, notes)
    checked = [check_entry(entry, labels[index], images, files=files) for index, entry in entries.items()]
    report.entries = [entry for entry, _ in checked]
    _reckon_mixture(report, weights, factors, notes)
    report.findings = notes.findings + [finding for _, findings in checked for finding in findings]
    return report


def _entries(data: Mapping[str, Any], notes: Notes) -> dict[int, Mapping[str, Any]]:
    """Items of `datasets` that are entries, by their place in the list."""
    items = data.get(DATASETS)
    if not isinstance(items, list) or not items:
        state = "missing" if DATASETS not in data else "empty" if not items else "not a list"
        notes.error(f"{DATASETS} is {state}", STOPS, "List at least one entry under it.")
        return {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            notes.error(f"item {index + 1} of {DATASETS} is {item!r}, not an entry", STOPS, "Give it keys and values.")
    return {index: item for index, item in enumerate(items) if isinstance(item, dict)}


def _labels(parsed: YamlFile, entries: Mapping[int, Mapping[str, Any]]) -> dict[int, str]:
    """A label for each entry: its name, with its line where it has none of its own (names may repeat)."""
    names = {index: str(entry.get(NAME, DEFAULT_NAME)) for index, entry in entries.items()}
    labels = {}
    for index, name in names.items():
        shared = NAME not in entries[index] or list(names.values()).count(name) > 1
        labels[index] = f"{name} (line {parsed.line_of((DATASETS, index))})" if shared else name
    return labels


def _note_shared_names(entries: Mapping[int, Mapping[str, Any]], notes: Notes) -> None:
    counts = Counter(str(entry[NAME]) for entry in entries.values() if NAME in entry)
    shared = [f"{name} ({count} times)" for name, count in counts.items() if count > 1]
    if shared:
        notes.warning(
            f"names of several entries: {', '.join(shared)}",
            "samples carry the name of their entry: theirs cannot be told apart",
            "Nothing, or give each entry a name of its own.",
        )


def _group_numbers(data: Mapping[str, Any], key: str, notes: Notes) -> dict[str, float]:
    """`weights` or `batch_sizes`: the numbers that the loader can use, by length group."""
    numbers = data.get(key, {})
    if not isinstance(numbers, dict):
        notes.error(f"{key} is {numbers!r}, not a mapping of groups to numbers", STOPS, "Mend or remove it.")
        return {}
    good: dict[str, float] = {}
    for group, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            notes.error(f"{key}.{group} is {number!r}, not a number", STOPS, "Write a number.")
        else:
            good[group] = number
    return good


# -- the mixture ---------------------------------------------------------------------------------------------


def _reckon_mixture(
    report: CheckReport, weights: Mapping[str, float], factors: Mapping[str, float], notes: Notes
) -> None:
    """Fill in groups, shares and how often rows are seen; note what the weights do silently."""
    names = list(dict.fromkeys(entry.group for entry in report.entries))
    _note_unmatched(names, WEIGHTS, weights, DEFAULT_WEIGHT, notes)
    _note_unmatched(names, BATCH_SIZES, factors, DEFAULT_BATCH_FACTOR, notes)
    used = {name: weights.get(name, DEFAULT_WEIGHT) for name in names}
    _note_odd_weights(used, notes)
    for name in names:
        if factors.get(name, DEFAULT_BATCH_FACTOR) <= 0:
            notes.warning(
                f"{BATCH_SIZES}.{name} is {factors[name]}", "its batches hold one sample", "Write a number above 0."
            )
    total = sum(used.values())
    for name, weight in used.items():
        rows = sum(entry.rows_after_sampling or 0 for entry in report.entries if entry.group == name)
        share = weight / total if total > 0 else 0.0
        factor = factors.get(name, DEFAULT_BATCH_FACTOR)
        report.groups.append(GroupReport(name, weight, factor, rows, share))
    groups = {group.name: group for group in report.groups}
    for entry in report.entries:
        _reckon_entry(entry, groups[entry.group], report.steps, report.batch)


def _reckon_entry(entry: EntryReport, group: GroupReport, steps: int | None, batch: int | None) -> None:
    """Its share, and how often each row is seen: steps x batch x factor x share / rows."""
    if not entry.rows_after_sampling or not entry.distinct_rows:
        return
    entry.share = group.share * entry.rows_after_sampling / group.rows
    if steps is not None and batch is not None:
        drawn = steps * cut_batch(batch, group.batch_factor) * entry.share
        entry.seen = drawn / entry.distinct_rows


def _note_unmatched(groups: list[str], key: str, numbers: Mapping[str, float], default: float, notes: Notes) -> None:
    for name in numbers:
        if name not in groups:
            notes.warning(
                f"{key} has {name!r}, a group without entries{nearest(str(name), map(str, groups))}",
                "it takes no part",
                "Remove it, or give an entry that length_group.",
            )
    # A single group is drawn whatever its weight, and without any factors 1 is what anyone expects.
    silent = len(groups) > 1 if key == WEIGHTS else bool(numbers)
    for name in groups:
        if silent and name not in numbers:
            notes.warning(
                f"{key} lacks the group {name!r}{nearest(name, map(str, numbers))}",
                f"the loader uses {default:g} and says nothing",
                f"Add it to {key}.",
            )


def _note_odd_weights(used: Mapping[str, float], notes: Notes) -> None:
    for name, weight in used.items():
        if weight < 0:
            notes.error(f"{WEIGHTS}.{name} is {weight}", "a probability below zero: the run stops", "Write 0 or more.")
        elif weight == 0:
            notes.warning(
                f"{WEIGHTS}.{name} is 0",
                "the group is loaded and never drawn",
                "Remove its entries, or give it a weight.",
            )
    if used and sum(used.values()) <= 0 and min(used.values()) >= 0:
        notes.error(f"all {WEIGHTS} are 0", "no group can be drawn: the run stops", "Give one a weight.")
