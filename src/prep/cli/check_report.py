"""How a check's report looks in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prep.stages.check import CheckReport, EntryReport, Finding
from prep.stages.check_lists import ListsReport

_UNKNOWN = "-"
_TEXT_LENGTH = 150  # characters shown of a sample's text


def render(report: CheckReport) -> RenderableType:
    """The report for a terminal of 80 columns or more: entries, first samples, then findings, errors first.

    Where no file was looked into, groups stand in place of the entries.
    """
    parts: list[RenderableType] = []
    if report.entries:
        parts += [_entries(report) if report.files else _groups(report), Text()]
        parts += [*_first_samples(report.entries)]
    parts += [*findings("Errors", "bold red", report.errors)]
    parts += [*findings("Warnings", "bold yellow", report.warnings)]
    parts.append(summary(report))
    return Group(*parts)


def _entries(report: CheckReport) -> Table:
    shows_seen = any(entry.seen is not None for entry in report.entries)
    is_estimated = any(entry.memory_is_estimate for entry in report.entries)
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column("entry", overflow="fold", ratio=1)
    for header in ("rows\nin file", "after\ncutoffs", "after\nsampling", "share"):
        table.add_column(header, justify="right", no_wrap=True)
    if shows_seen:
        table.add_column("each row\nseen", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    for entry in report.entries:
        cells = [
            count(entry.rows_in_file),
            count(entry.rows_after_cutoffs),
            count(entry.rows_after_sampling),
            _UNKNOWN if entry.share is None else f"{entry.share:.1%}",
        ]
        if shows_seen:
            cells.append(_UNKNOWN if entry.seen is None else f"{entry.seen:.3g}x")
        table.add_row(Text(plain(entry.name)), *cells, _memory(entry))
    caption = "memory: of the whole table, in every training process"
    table.caption = caption + ("; ~ is estimated from a sample" if is_estimated else "")
    return table


def _groups(report: CheckReport) -> Table:
    counts = Counter(entry.group for entry in report.entries)
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column("group", overflow="fold", ratio=1)
    for header in ("entries", "weight", "share", "batch factor"):
        table.add_column(header, justify="right", no_wrap=True)
    for group in report.groups:
        numbers = (f"{group.weight:g}", f"{group.share:.1%}", f"{group.batch_factor:g}")
        table.add_row(Text(plain(str(group.name))), str(counts[group.name]), *numbers)
    table.caption = "share: of the batches"
    return table


def _first_samples(entries: Sequence[EntryReport]) -> Iterator[RenderableType]:
    """What the loader reads at start-up, entry by entry."""
    shown = [entry for entry in entries if entry.first is not None]
    if shown:
        yield Text("First samples", style="bold")
    for entry in shown:
        assert entry.first is not None
        yield from first_sample(entry.name, entry.first.images, entry.first.text, entry.first.scores)
    if shown:
        yield Text()


def first_sample(name: str, images: Sequence[str], text: str, scores: str = "") -> Iterator[RenderableType]:
    """A first sample below the name of what it is the first of."""
    yield Text(plain(name))
    text = plain(text)
    facts = [("image:", address) for address in images]
    facts.append(("text:", text[:_TEXT_LENGTH] + "..." * (len(text) > _TEXT_LENGTH)))
    facts += [("prompt:", scores)] if scores else []
    yield _indented(facts)


def findings(title: str, style: str, found: Sequence[Finding]) -> Iterator[RenderableType]:
    """Findings of one level below their title; what several entries have is told once."""
    if not found:
        return
    yield Text(f"{title} ({len(found)})", style=style)
    entries: dict[Finding, list[str]] = {}
    for finding in found:
        entries.setdefault(replace(finding, entry=""), []).append(plain(finding.entry))
    for finding, names in entries.items():
        where = f"{', '.join(names)}: " if any(names) else ""
        yield Text(f"{where}{plain(finding.problem)}", overflow="fold")
        yield _indented([("in training:", finding.effect), ("what to do:", finding.remedy)])
    yield Text()


def _indented(facts: Sequence[tuple[str, str]]) -> Padding:
    """Facts below what they are about, each behind its word."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for word, fact in facts:
        grid.add_row(word, Text(plain(fact)))
    return Padding(grid, (0, 0, 0, 2), expand=False)


def summary(report: CheckReport | ListsReport) -> Text:
    """Whether training would start."""
    errors, warnings = len(report.errors), len(report.warnings)
    if not report.files and not errors:
        found = _number(warnings, "warning") if warnings else "nothing found"
        return Text(f"No errors, {found}; the data files were not looked into.", "yellow" if warnings else "green")
    if errors:
        return Text(f"Training would stop: {_number(errors, 'error')}, {_number(warnings, 'warning')}.", "red")
    if warnings:
        return Text(f"Training would start: no errors, {_number(warnings, 'warning')}.", "yellow")
    return Text("Training would start: nothing found.", "green")


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def count(rows: int | None) -> str:
    """A number of rows; a dash where it is not known."""
    return _UNKNOWN if rows is None else f"{rows:,}"


def _memory(entry: EntryReport) -> str:
    if entry.memory_bytes is None:
        return _UNKNOWN
    size, unit = float(entry.memory_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{'~' * entry.memory_is_estimate}{size:.3g} {unit}"


def plain(text: str) -> str:
    """`text` on one line without control characters: captions and paths are publishers' words."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
