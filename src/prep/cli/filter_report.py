"""What `prep filter --explain` prints: of each table, the rows that are left after each rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from prep.cli import document, show
from prep.manifest import Manifest, read_manifest
from prep.stages.waterfall import Step, waterfall

if TYPE_CHECKING:
    from prep.stages.shards import Outcome
    from prep.workspace import Workspace

_OF_LAST_RUN = "as it was filtered last, which is not what the rules and files say now"


def explained(workspace: Workspace, results: Iterable[Outcome], as_json: bool) -> list[Outcome]:
    """Each result as it comes, and the waterfall of its table if it has been filtered, now or before."""
    outcomes: list[Outcome] = []
    falls: dict[str, list[dict[str, object]]] = {}
    document.put({"outcomes": outcomes, "waterfalls": falls})
    for outcome in results:
        outcomes.append(outcome)
        manifest = outcome.manifest or read_manifest(workspace.filtered(outcome.name))
        steps = waterfall(manifest) if manifest else ()
        if manifest:
            falls[outcome.name] = [asdict(step) | {"left_percent": round(step.left_percent, 4)} for step in steps]
        if not as_json:
            show.one(outcome)
            if manifest:
                Console(soft_wrap=True, markup=False, emoji=False).print(_table(manifest, steps))
                if outcome.manifest is None:
                    show.talk(f"{outcome.name}: {_OF_LAST_RUN}")
    return outcomes


def _table(manifest: Manifest, steps: Sequence[Step]) -> Table:
    """Rows in, then each reason with the rows that it took and those that are left."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2))
    table.add_column("  reason")
    for column in ("dropped", "left", "of all"):
        table.add_column(column, justify="right")
    table.add_row("  rows in", "", f"{manifest.facts['rows_in']:,}", "")
    for step in steps:
        table.add_row(f"  {step.reason}", f"{step.dropped:,}", f"{step.left:,}", _percent(step))
    return table


def _percent(step: Step) -> str:
    """Two digits after the point, or as many as it takes to tell a few rows from none."""
    percent = step.left_percent
    return f"{percent:.2f} %" if percent >= 0.01 or not step.left else f"{percent:.2g} %"
