"""The options of `prep dedup`, as the stage takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from prep.cli import show
from prep.config import Dedup
from prep.errors import UsageError
from prep.stages.dedup import dedup
from prep.stages.dedup_facts import against_files
from prep.workspace import Workspace


def dedup_request(
    workspace: Workspace,
    names: Sequence[str],
    by: str | None,
    distance: int | None,
    against: Sequence[str] | None,
    keep: str | None,
    within: bool | None,
) -> Dedup:
    """What the command line asks; what it leaves out is None.

    Raises:
        UsageError: an option says what is not possible.
    """
    values = {
        "by": None if by is None else [word.strip() for word in by.split(",")],
        "distance": distance,
        "keep": keep,
        "tables": workspace.select_tables(names) if names else None,
        "against": [_against(workspace, name) for name in against or ()] or None,
        "within": within,
    }
    try:
        return Dedup.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(
            f"--{problem['loc'][0]} {problem['input']!r}: {problem['msg']}", "`prep dedup --help` says what it takes."
        ) from error


def _against(workspace: Workspace, name: str) -> str:
    """What `--against` names, as it is kept: a table; or a path, from the workspace on where it lies in it.

    Raises:
        UsageError: it is neither a table nor a parquet file or a folder of them.
    """
    if name in workspace.table_names:
        return name
    path = Path(name).resolve()
    against_files(workspace, path, name)
    return str(path.relative_to(workspace.root)) if workspace.root in path.parents else str(path)


def _check_names(named: Sequence[str], against: Sequence[str], remembered: Sequence[str]) -> None:
    """Raise UsageError for a table named now from which nothing can be removed."""
    if both := [name for name in named if name in against]:
        before = f"; remembered is --against {' --against '.join(remembered)}" if remembered else ""
        raise UsageError(
            f"{', '.join(both)} is under --against, so nothing is removed from it{before}",
            "`prep dedup --reset --by ...` forgets what was asked before; or do not name it.",
        )


def find_duplicates(
    workspace: Workspace, request: Dedup, *, reset: bool, force: bool, dry_run: bool, as_json: bool
) -> None:
    """Find them, remember what was asked, and tell what was found.

    Raises:
        UsageError: nothing is asked, or what is asked cannot be done; it is not remembered.
    """
    remembered = workspace.given_rules().with_dedup(request, reset=reset)
    if reset and remembered.dedup is None:
        if not dry_run:
            workspace.remember_rules(remembered)
        show.outcomes([], as_json)
        if not as_json:
            show.talk("Next: prep filter, which now keeps duplicates")
        return
    if request.tables and remembered.dedup is not None:
        own = () if request.against else remembered.dedup.against or ()
        _check_names(request.tables, remembered.dedup.against or (), own)
    asking = workspace.with_given(remembered)
    if not dry_run:
        list(dedup(asking, dry_run=True))  # what is refused must not be remembered
        workspace.remember_rules(remembered)
    outcomes = show.outcomes(dedup(asking, force=force, dry_run=dry_run), as_json)
    if outcomes and all(outcome.state == "waiting" for outcome in outcomes):
        raise UsageError(f"dedup has nothing to work on yet: {outcomes[0].note}", "`prep run` does all in order.")
    show.next_step(workspace, outcomes[-1:], as_json)
