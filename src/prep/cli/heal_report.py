"""What `prep heal` prints: what it found and did, or took back."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prep.cli import document
from prep.cli.show import talk
from prep.heal.journal import Undone
from prep.heal.report import Collection, Example, HealReport, ListReport

_DONE = {
    "link": ("get a second name (hard link)", "got a second name (hard link)"),
    "move": ("are moved", "were moved"),
    "encode": ("are encoded as JPEG", "were encoded as JPEG"),
}


def healing(report: HealReport, as_json: bool) -> None:
    """What heal found and did, and what to type next."""
    if as_json:
        document.put(report.as_json())
        return
    Console(markup=False, emoji=False).print(render(report))
    if report.journals:
        folders = " ".join(f"--images {shlex.quote(folder)}" for folder in report.healed_folders)
        talk(f"To take it back: prep heal {folders} --undo")
    elif report.applied:
        talk("Nothing was to do; nothing was changed.")
    elif report.repairs or report.lost:
        talk("Nothing was changed. The same command with --apply does it.")


def undone(results: Sequence[Undone], as_json: bool) -> None:
    """What heal took back."""
    if as_json:
        document.put([result.as_json() for result in results])
        return
    for result in results:
        print(f"{result.images}: {result.undone:,} changes taken back")
        for path, reason in result.left:
            print(f"  stays: {path}: {reason}")


def render(report: HealReport) -> RenderableType:
    """The report: a table for each list, examples of each cause, what is done."""
    parts: list[RenderableType] = []
    for each in report.lists:
        parts += [Text(_plain(f"{each.json} with {each.images}"), style="bold"), _collections(each, report.applied)]
        parts += [*_notes(each), Text()]
    parts += [*_examples(report.examples)]
    for warning in report.warnings:
        parts.append(Text(_plain(warning), style="yellow"))
    parts.append(_summary(report))
    return Group(*parts)


def _collections(each: ListReport, applied: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("collection", overflow="fold")
    for header in ("rows", "found", "repaired" if applied else "repairable", "lost"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    rows = each.collections if len(each.collections) == 1 else [*each.collections, each.total()]
    for row in rows:
        counts = (f"{count:,}" for count in (row.rows, row.found, row.repaired, row.lost))
        table.add_row(Text(_plain(row.name)), *counts, _causes(row))
    return table


def _causes(row: Collection) -> str:
    ordered = sorted(row.causes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {cause}" for cause, count in ordered)


def _notes(each: ListReport) -> Iterator[Text]:
    if each.duplicates:
        yield Text(f"{each.duplicates:,} rows stand there once more, word for word; they stay.")
    if each.healed:
        yield Text(_plain(f"kept rows: {each.healed}"), overflow="fold")
        yield Text(_plain(f"lost rows: {each.missing}"), overflow="fold")


def _examples(examples: list[Example]) -> Iterator[RenderableType]:
    cause = ""
    for example in examples:
        if example.cause != cause:
            cause = example.cause
            yield Text(f"{cause}: {_plain(Example(cause, '', None, None, '').reason)}")
        arrow = f" <- {example.source} ({example.action})" if example.action else ""
        detail = f" ({example.detail})" if example.detail else ""
        yield Padding(Text(_plain(f"{example.path}{arrow}{detail}"), overflow="fold"), (0, 0, 0, 2))
    if examples:
        yield Text()


def _summary(report: HealReport) -> Text:
    words = [f"{count:,} images {_DONE[action][report.applied]}" for action, count in report.repairs.items()]
    if report.same_bytes:
        words.append(f"{report.same_bytes:,} names have the bytes of another")
    words.append(f"{report.lost:,} rows are lost" if report.lost else "every row has its image")
    text = "; ".join(words) + "."
    return Text(text[0].upper() + text[1:], style="yellow" if report.lost else "green")


def _plain(text: str) -> str:
    """Text on one line, without anything that a terminal would act on."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )
