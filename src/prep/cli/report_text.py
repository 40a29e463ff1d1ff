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

_BAR = 32  # characters of the longest bar
_KEPT, _DROPPED = "█", "░"


def stats(tables: Sequence[TableReport], as_json: bool) -> None:
    """Waterfalls and histograms of tables."""
    if as_json:
        document.put({"tables": tables})
        return
    Console(markup=False, emoji=False, highlight=False).print(Group(*(part for one in tables for part in _table(one))))


def written(report: Report, path: Path, size_bytes: int, as_json: bool) -> None:
    """A page that was written."""
    if as_json:
        document.put({"path": str(path), "size_bytes": size_bytes, **report.as_json()})
        return
    tables = "1 table" if len(report.details) == 1 else f"{len(report.details):,} tables"
    print(f"{path}: {tables}, {size(size_bytes)}")


def _table(table: TableReport) -> Iterator[RenderableType]:
    yield Text(f"{table.table}: {table.kept:,} of {table.rows:,} rows kept", style="bold")
    if table.steps:
        yield _waterfall(table)
    yield Text()
    for histogram in table.histograms:
        yield from _histogram(histogram)


def _waterfall(table: TableReport) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    grid.add_column("dropped for")
    for header in ("rows", "left", ""):
        grid.add_column(header, justify="right", no_wrap=True)
    for step in table.steps:
        part = f"{step.left / table.rows:.1%}" if table.rows else "-"
        grid.add_row(Text(step.reason), f"{step.dropped:,}", f"{step.left:,}", part)
    return grid


def _histogram(histogram: Histogram) -> Iterator[RenderableType]:
    unknown = histogram.kept_unknown + histogram.dropped_unknown
    told = f", {unknown:,} rows without" if unknown else ""
    yield Text.assemble((histogram.axis.title, "bold"), (f"  {_KEPT} kept {_DROPPED} dropped{told}", "dim"))
    grid = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    grid.add_column("", justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    grid.add_column("kept", justify="right", no_wrap=True)
    grid.add_column("dropped", justify="right", no_wrap=True)
    most = max(histogram.kept[number] + histogram.dropped[number] for number in histogram.bins)
    for number in histogram.bins:
        kept, dropped = histogram.kept[number], histogram.dropped[number]
        grid.add_row(histogram.axis.words_of(number), _bar(kept, dropped, most), f"{kept:,}", f"{dropped:,}")
    yield grid
    yield Text()


def _bar(kept: int, dropped: int, most: int) -> Text:
    """Rows of a bin as characters; what is there at all is seen."""
    lengths = [max(round(count / most * _BAR), 1) if count else 0 for count in (kept, dropped)]
    return Text.assemble((_KEPT * lengths[0], "green"), (_DROPPED * lengths[1], "yellow"))
