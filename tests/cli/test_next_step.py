"""What a command says comes next."""

from __future__ import annotations

from pathlib import Path

import pytest

from prep.cli import show
from prep.manifest import Manifest
from prep.stages.shards import Outcome
from prep.workspace import Workspace

SCORES = "prep filter, which now judges by the scores"
MADE = Outcome("score", "a", "up to date", manifest=Manifest("score", ()))
WAITS = Outcome("score", "b", "waiting", note="filter first")
NO_NEED = Outcome("score", "c", "up to date", note="aesthetic-v2: no row needs a score")
PLANNED = Outcome("score", "d", "planned", 1, 2)


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ([MADE, WAITS, NO_NEED], SCORES),
        ([WAITS, NO_NEED], "prep run, which does all in order; b waits (filter first)"),
        ([NO_NEED], "prep emit-yaml"),
        ([WAITS, PLANNED], "prep score"),
    ],
)
def test_scores_are_judged_by_only_where_there_are_any(
    outcomes: list[Outcome], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prep.yaml").write_text("recipe: recipe.yaml\n")
    (tmp_path / "recipe.yaml").write_text("{name: r, entries: []}\n")
    show.next_step(Workspace(tmp_path), outcomes, as_json=False)
    assert capsys.readouterr().err == f"Next: {told}\n"
