"""Small workspaces of local files, run and locked, for the tests of prep.lock."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prep.cli.running import run_workspace
from prep.errors import PrepError, WorkspaceError
from prep.workspace import LOCK_NAME, Workspace

Rows = list[tuple[str, float | None]]  # caption and score

DATASET = """
name: pets
source: {{kind: local, path: {collection}}}
images: {{kind: given}}
tables:
  pets:
    kind: text-to-image
    records: {{format: parquet, parts: "*.parquet"}}
    select: {{s3_path: "'{picture}'", caption: text, fltLaionAesthScore: score}}
"""
FIRST: Rows = [("a cat", 6.0), ("a dog", 5.2), ("a newt", None), ("an owl", 7.0)]
SECOND: Rows = [("a carp", 4.0), ("a hare", 6.5)]


def write_part(folder: Path, name: str, rows: Rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"text": pa.array([r[0] for r in rows], pa.string()), "score": pa.array([r[1] for r in rows])}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def make(folder: Path, parts: dict[str, Rows] | None = None, recipe: str = "") -> Workspace:
    """A workspace with a table of local files, not yet run."""
    for name, rows in (parts or {"a": FIRST, "b": SECOND}).items():
        write_part(folder / "pets", name, rows)
    if not (picture := folder.parent / "one.png").exists():
        Image.new("RGB", (600, 600)).save(picture)
    root = folder / "workspace"
    (root / "datasets").mkdir(parents=True)
    text = DATASET.format(collection=folder / "pets", picture=picture)
    (root / "datasets/pets.yaml").write_text(text)
    (root / "prep.yaml").write_text("workers: 1\n")
    (root / "recipe.yaml").write_text(recipe or "name: zoo\nentries: [{table: pets, aes_cutoff: 5}]\nweights: {a: 2}\n")
    return Workspace(root)


def run(workspace: Workspace, *, is_locked: bool = False) -> Workspace:
    """Run the line anew, as a new process would."""
    workspace = Workspace(workspace.root)
    run_workspace(workspace, is_locked=is_locked, dry_run=False, as_json=True)
    return workspace


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def lock_of(workspace: Workspace) -> dict[str, Any]:
    data = json.loads((workspace.root / LOCK_NAME).read_text())
    assert isinstance(data, dict)
    return data


def refusal(workspace: Workspace) -> PrepError:
    """Why `prep run --locked` ends; prep.lock is as it was, and nothing is written for the trainer."""
    shutil.rmtree(workspace.root / "training", ignore_errors=True)
    before = (workspace.root / LOCK_NAME).read_bytes()
    with pytest.raises(WorkspaceError) as caught:
        run(workspace, is_locked=True)
    assert (workspace.root / LOCK_NAME).read_bytes() == before
    assert not (workspace.root / "training").exists()
    return caught.value


def pair(tmp_path: Path, before: dict[str, Rows], after: dict[str, Rows], cutoffs: tuple[str, str]) -> list[Workspace]:
    """Two workspaces that have run, on these parts and with these cutoffs."""
    return [
        run(make(tmp_path / name, parts, f"name: zoo\nentries: [{{table: pets, aes_cutoff: {cutoff}}}]\n"))
        for name, parts, cutoff in zip(("one", "two"), (before, after), cutoffs, strict=True)
    ]
