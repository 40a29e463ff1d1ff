"""How much of a workspace is where: rows and bytes of every stage, as the manifests have them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prep.config import Dataset
from prep.errors import PrepError
from prep.line import stale_tables
from prep.manifest import read_manifest
from prep.schema import HEIGHT, WIDTH
from prep.scorers.scorer import OK, SCORERS
from prep.stages.emission import rows_of
from prep.workspace import Workspace


@dataclass(frozen=True)
class StageFlow:
    """What one stage has made.

    Attributes:
        unit: what `amount` counts: parts, images, rows, entries.
        size_bytes: of what it made; None where that is not known.
        done, total: datasets or tables that it has finished, and that it has work for.
    """

    stage: str
    amount: int
    unit: str
    size_bytes: int | None
    done: int
    total: int

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class TableFlow:
    """How far one table is; None for what is not done yet.

    Attributes:
        kind: its table kind.
        samples, sample_bytes: normalized rows.
        kept, kept_bytes: rows that passed the filter.
        note: why its numbers may not be those of the configuration as it is now; empty where they are.
    """

    table: str
    dataset: str
    kind: str
    samples: int | None = None
    sample_bytes: int | None = None
    kept: int | None = None
    kept_bytes: int | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def tables_of(workspace: Workspace) -> tuple[TableFlow, ...]:
    """How far every table of the recipe is, in its order."""
    try:
        stale = stale_tables(workspace)
    except PrepError as error:
        stale = dict.fromkeys(workspace.table_names, error.message)
    found = []
    for name in workspace.table_names:
        dataset, table = workspace.table(name)
        normalized, filtered = read_manifest(workspace.normalized(name)), read_manifest(workspace.filtered(name))
        found.append(
            TableFlow(
                name,
                dataset.name,
                table.kind,
                normalized.rows if normalized else None,
                normalized.size_bytes if normalized else None,
                rows_of(filtered) if filtered else None,
                filtered.size_bytes if filtered else None,
                stale.get(name, ""),
            )
        )
    return tuple(found)


def stages_of(workspace: Workspace, image_bytes: int | None) -> tuple[StageFlow, ...]:
    """What every stage has made, in the line's order; `score` only where something was scored.

    Args:
        image_bytes: size of all stored images; None where nobody looked.
    """
    datasets = [dataset.name for dataset in workspace.datasets]
    with_index = [dataset.name for dataset in shown_datasets(workspace)]
    tables = workspace.table_names
    stages = [
        _stage("download", "parts", [workspace.raw(name) for name in datasets]),
        _stage("images", "images", [workspace.index(name) for name in with_index], image_bytes),
        _stage("normalize", "rows", [workspace.normalized(name) for name in workspace.normalized_names]),
        _stage("score", "scores", [workspace.scores(scorer, name) for scorer in SCORERS for name in tables]),
        _stage("filter", "rows kept", [workspace.filtered(name) for name in tables]),
    ]
    return tuple(stage for stage in stages if stage.stage != "score" or stage.done)


def _stage(stage: str, unit: str, folders: list[Path], size_bytes: int | None = -1) -> StageFlow:
    """What the manifests of a stage's folders say; a size of -1 is theirs too."""
    found = [manifest for folder in folders if (manifest := read_manifest(folder)) is not None]
    amounts = {
        "download": lambda manifest: len(manifest.shards),
        "images": lambda manifest: manifest.counts.get(OK, 0),
        "normalize": lambda manifest: manifest.rows,
        "score": lambda manifest: manifest.counts.get(OK, 0),
        "filter": rows_of,
    }
    total = len(found) if stage == "score" else len(folders)
    size_bytes = sum(manifest.size_bytes for manifest in found) if size_bytes == -1 else size_bytes
    return StageFlow(stage, sum(map(amounts[stage], found)), unit, size_bytes, len(found), total)


def shown_datasets(workspace: Workspace) -> tuple[Dataset, ...]:
    """Datasets whose images tables of the recipe show, and `prep images` indexes."""
    return tuple(
        dataset
        for dataset in workspace.datasets
        if workspace.needs_images(dataset) and dataset.images and dataset.images.kind != "given"
    )


def says_sizes(workspace: Workspace, dataset: Dataset) -> bool:
    """Whether samples that show a dataset's images say how large these are."""
    tables = (workspace.table(name) for name in workspace.table_names)
    shapes = [table.shape for own, table in tables if dataset.name in table.image_datasets(own.name).values()]
    return all({WIDTH, HEIGHT} <= {*shape.column_names} for shape in shapes)
