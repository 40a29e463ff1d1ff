"""`prep run` and `prep demo`: the whole line, told as it goes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from prep.cli import document, show
from prep.errors import Failures
from prep.line import run_line
from prep.lock.contents import write_lock
from prep.lock.held import check_result, hold
from prep.stages.check import check_yaml
from prep.stages.check_lists import check_module
from prep.stages.emit_json import emit_json
from prep.stages.emit_yaml import emit_yaml
from prep.stages.shards import Outcome
from prep.workspace import Workspace


def run_workspace(
    workspace: Workspace,
    *,
    delete_parts: bool = False,
    is_locked: bool = False,
    dry_run: bool,
    as_json: bool,
) -> bool:
    """Do everything that is missing; whether the check found errors.

    Args:
        is_locked: make what prep.lock says, and nothing else.

    Raises:
        PrepError: some dataset or table failed, and the others are done all the same; or, with `is_locked`, something
            differs from prep.lock.
    """
    held = hold(workspace) if is_locked else None
    failures = Failures()
    outcomes = _tell(run_line(workspace, failures, delete_parts=delete_parts, dry_run=dry_run), as_json)
    if dry_run:
        failures.raise_all()
        show.run_result(outcomes, None, None, False, as_json)
        return False
    if failures.errors:
        if not as_json:
            show.kept_table(outcomes)
            partly = f"`{show.emit_command(workspace)} --partial` writes what is ready."
            show.talk(f"\nNothing is written for the trainer while something is missing; {partly}")
        failures.raise_all()
    if held is not None:
        check_result(workspace, held)
    else:
        write_lock(workspace, {})
    is_of_lists = workspace.recipe.trainer == "convllava"
    emission = emit_json(workspace, replace_own=True) if is_of_lists else emit_yaml(workspace, replace_own=True)
    is_new = emission.state == "done" or any(outcome.state == "done" for outcome in outcomes)
    report = check_module(emission.path) if is_of_lists else check_yaml(emission.path)
    show.run_result(outcomes, emission, report, is_new, as_json)
    return bool(report.errors)


def _tell(line: Iterable[Outcome], as_json: bool) -> list[Outcome]:
    """Run the line, telling what changes; what was up to date before is not worth a line, but for a slice."""
    outcomes: list[Outcome] = []
    document.put({"outcomes": outcomes})
    for outcome in line:
        outcomes.append(outcome)
        is_slice = outcome.stage == "download" and "slice" in (outcome.manifest.facts if outcome.manifest else ())
        if not as_json and (outcome.state != "up to date" or is_slice):
            show.one(outcome)
    return outcomes


def run_demo(folder: Path, *, as_json: bool) -> bool:
    """Make the demo's world and workspace and run the line in it; whether the check found errors."""
    from prep.demo import demo_workspace

    started = time.monotonic()
    if not as_json:
        show.talk(f"Publishers and a workspace are being made in {folder.absolute()} ...")
    with demo_workspace(folder) as workspace:
        has_errors = run_workspace(workspace, dry_run=False, as_json=as_json)
        if not as_json:
            show.demo_end(workspace, time.monotonic() - started)
    return has_errors
