"""How a report and its histograms look in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prep.cli import document
from prep.progress import size
from prep.report.build import Report, TableReport
from prep.report.histograms import Histogram

_BAR = 32  # characters of the longest bar, where the terminal has room for it
_GAP = 2  # between two columns
_KEPT, _DROPPED = "█", "░"


def stats(tables: Sequence[TableReport], as_json: bool) -> None:
    """Waterfalls and histograms of tables."""
    if as_json:
        document.put({"tables": tables})
        return
    console = Console(markup=False, emoji=False, highlight=False)
    # Not cropped: a terminal that is too narrow for numbers breaks lines, and loses nothing.
    console.print(Group(*(part for one in tables for part in _table(one, console.width))), crop=False)


def written(report: Report, path: Path, size_bytes: int, as_json: bool) -> None:
    """A page that was written."""
    if as_json:
        document.put({"path": str(path), "size_bytes": size_bytes, **report.as_json()})
        return
    tables = "1 table" if len(report.details) == 1 else f"{len(report.details):,} tables"
    print(f"{path}: {tables}, {size(size_bytes)}")


def _table(table: TableReport, width: int) -> Iterator[RenderableType]:
    """One table, for a terminal of so many characters."""
    yield Text(f"{table.table}: {table.kept:,} of {table.rows:,} rows kept", style="bold")
    if table.steps:
        yield _waterfall(table)
    yield Text()
    for histogram in table.histograms:
        yield from _histogram(histogram, width)


def _waterfall(table: TableReport) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    grid.add_column("dropped for", overflow="fold")
    for header in ("rows", "left", ""):
        grid.add_column(header, justify="right", no_wrap=True)
    for step in table.steps:
        part = f"{step.left / table.rows:.1%}" if table.rows else "-"
        grid.add_row(Text(step.reason), f"{step.dropped:,}", f"{step.left:,}", part)
    return grid


def _histogram(histogram: Histogram, width: int) -> Iterator[RenderableType]:
    unknown = histogram.kept_unknown + histogram.dropped_unknown
    told = f", {unknown:,} rows without" if unknown else ""
    yield Text.assemble((histogram.axis.title, "bold"), (f"  {_KEPT} kept {_DROPPED} dropped{told}", "dim"))
    grid = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    numbers = histogram.bins
    names = [histogram.axis.words_of(number) for number in numbers]
    sides = [[f"{counts[number]:,}" for number in numbers] for counts in (histogram.kept, histogram.dropped)]
    least = [max(map(len, cells)) for cells in (names, ["kept", *sides[0]], ["dropped", *sides[1]])]
    grid.add_column("", justify="right", no_wrap=True, min_width=least[0])
    grid.add_column("", no_wrap=True)
    grid.add_column("kept", justify="right", no_wrap=True, min_width=least[1])
    grid.add_column("dropped", justify="right", no_wrap=True, min_width=least[2])
    longest = max(1, min(_BAR, width - sum(least) - _GAP * len(least) - 1))  # both of its parts may be rounded up
    most = max(histogram.kept[number] + histogram.dropped[number] for number in numbers)
    for name, number, *cells in zip(names, numbers, *sides, strict=True):
        grid.add_row(name, _bar(histogram.kept[number], histogram.dropped[number], most, longest), *cells)
    yield grid
    yield Text()


def _bar(kept: int, dropped: int, most: int, longest: int) -> Text:
    """Rows of a bin as characters; what is there at all is seen."""
    lengths = [max(round(count / most * longest), 1) if count else 0 for count in (kept, dropped)]
    return Text.assemble((_KEPT * lengths[0], "green"), (_DROPPED * lengths[1], "yellow"))
