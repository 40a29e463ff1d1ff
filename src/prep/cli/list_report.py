"""How the check of JSON lists looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prep.cli.check_report import count, findings, first_sample, plain, summary
from prep.stages.check_lists import ListsReport


def render(report: ListsReport) -> RenderableType:
    """The report for a terminal of 80 columns or more: lists, first rows, then findings, errors first."""
    parts: list[RenderableType] = []
    if report.lists:
        parts += [_lists(report), Text(), *_first_rows(report)]
    parts += [*findings("Errors", "bold red", report.errors)]
    parts += [*findings("Warnings", "bold yellow", report.warnings)]
    parts.append(summary(report))
    return Group(*parts)


def _lists(report: ListsReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column("dataset", overflow="fold", ratio=1)
    for header in ("rows", "with a\npicture", "not\nthere", "opened"):
        table.add_column(header, justify="right", no_wrap=True)
    for each in report.lists:
        numbers = (each.rows, each.rows_with_image, each.images_missing, each.images_opened)
        table.add_row(Text(plain(each.name)), *map(count, numbers))
    table.caption = f"what becomes of each row with --version {report.version}"
    return table


def _first_rows(report: ListsReport) -> Iterator[RenderableType]:
    """The first row of each list."""
    shown = [each for each in report.lists if each.first_text]
    if shown:
        yield Text("First rows", style="bold")
    for each in shown:
        yield from first_sample(each.name, [each.first_image] if each.first_image else [], each.first_text)
    if shown:
        yield Text()
