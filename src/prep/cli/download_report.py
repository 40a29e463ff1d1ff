"""What `prep download --dry-run` prints: each dataset's parts, then what all of it would take."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from prep.cli import document, show
from prep.progress import duration, size
from prep.stages.download import PlannedDownload
from prep.stages.estimate import Disk, Estimate, Quota, estimate
from prep.stages.plan import Plan, PlannedPart
from prep.stages.shards import Outcome
from prep.workspace import Workspace

SHOWN_PARTS = 20


def dry_run(workspace: Workspace, results: Iterable[Outcome], as_json: bool) -> list[Outcome]:
    """Each dataset's plan as it comes, and what all would take together."""
    outcomes: list[Outcome] = []
    document.put({"outcomes": outcomes})
    plans: list[Plan] = []
    for outcome in results:
        outcomes.append(outcome)
        plan = outcome.plan if isinstance(outcome, PlannedDownload) else None
        plans += [plan] if plan else []
        if not as_json:
            show.one(outcome)
            if plan:
                Console(soft_wrap=True, markup=False, emoji=False).print(parts_table(plan))
    there = sum(outcome.manifest.size_bytes for outcome in outcomes if outcome.manifest)
    total = estimate(plans, bytes_there=there, allow_private_hosts=workspace.config.allow_private_hosts)
    if as_json:
        document.put({"outcomes": outcomes, "totals": total})
    elif plans:
        print("\n".join(lines(total)))
    return outcomes


def parts_table(plan: Plan) -> Table:
    """The first parts of a plan, those to bring before those that are there."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    for justify in ("right", "left", "right", "left"):
        table.add_column(justify=justify, overflow="fold")
    ordered = sorted(plan.parts, key=lambda part: part.state == "there")
    for part in ordered[:SHOWN_PARTS]:
        known = "?" if part.size_bytes is None else size(part.size_bytes)
        table.add_row(str(part.position), part.part.path, known, _state(part))
    if len(ordered) > SHOWN_PARTS:
        table.add_row("", f"... and {len(ordered) - SHOWN_PARTS:,} more")
    return table


def _state(part: PlannedPart) -> str:
    return f"partial, {size(part.kept_bytes)} there" if part.state == "partial" else part.state


def lines(total: Estimate) -> list[str]:
    """What all downloads would take, a line for each thing."""
    unknown = f", {total.unknown_sizes:,} of them of unknown size" if total.unknown_sizes else ""
    parts = f"{total.parts:,} part" if total.parts == 1 else f"{total.parts:,} parts"
    found = [f"to bring: {size(total.bytes_to_bring)} in {parts}{unknown}; there already: {size(total.bytes_there)}"]
    found += [_disk(disk) for disk in total.disks]
    if total.quota:
        found.append(_quota(total.quota))
    if total.bytes_per_second and total.eta_seconds is not None:
        time, rate = duration(max(1, total.eta_seconds)), size(total.bytes_per_second)
        about = "at least" if total.unknown_sizes else "about"
        found.append(f"time: {about} {time} at {rate}/s, measured just now over one connection")
    return found


def _disk(disk: Disk) -> str:
    short = ": NOT ENOUGH" if disk.needed_bytes > disk.free_bytes else ""
    return f"disk: {size(disk.needed_bytes)} needed, {size(disk.free_bytes)} free in {disk.folder}{short}"


def _quota(quota: Quota) -> str:
    window = duration(quota.window_seconds)
    files = f"{quota.requests:,} {'request' if quota.requests == 1 else 'requests'}"
    said = f"the documented figure is {quota.allowed:,} in {window}" if quota.is_documented else ""
    wait = f", so it takes {duration(quota.wait_seconds)} at least" if quota.wait_seconds else ""
    return f"hub: {files}; {said or f'it allows {quota.allowed:,} in {window}'}{wait}"
