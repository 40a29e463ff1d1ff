"""Everything that a report shows of a workspace, gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prep.config import Recipe
from prep.errors import DataError
from prep.manifest import read_finished
from prep.report.exposure import Exposure, exposures
from prep.report.flow import StageFlow, TableFlow, says_sizes, shown_datasets, stages_of, tables_of
from prep.report.histograms import Histogram, table_histograms
from prep.report.pictures import DatasetImages, dataset_images
from prep.report.provenance import Provenance, provenances
from prep.report.sheets import Sheet, contact_sheets
from prep.stages.waterfall import Step, waterfall
from prep.workspace import Workspace

DETAILED = 60  # tables that are shown with histograms and pictures; it keeps a page below 5 MB
STEPS = BATCH = 1_000  # what exposures are reckoned for where nobody says


@dataclass(frozen=True)
class TableReport:
    """One filtered table in detail.

    Attributes:
        rows: that came in.
        kept: rows that passed.
        steps: the rows that each rule took, in order.
    """

    table: str
    rows: int
    kept: int
    steps: tuple[Step, ...]
    histograms: tuple[Histogram, ...]
    sheets: tuple[Sheet, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`; without pictures."""
        steps = [{"reason": step.reason, "dropped": step.dropped, "left": step.left} for step in self.steps]
        facts = {"table": self.table, "rows": self.rows, "kept": self.kept, "steps": steps}
        return {**facts, "histograms": self.histograms}


@dataclass(frozen=True)
class Report:
    """A workspace in sight.

    Attributes:
        tables: all of the recipe, in its order.
        details: of those that are filtered; of the first of them where there are very many.
        steps, batch: what `mixture` is reckoned for.
    """

    recipe: Recipe
    stages: tuple[StageFlow, ...]
    tables: tuple[TableFlow, ...]
    details: tuple[TableReport, ...]
    mixture: tuple[Exposure, ...]
    steps: int
    batch: int
    images: tuple[DatasetImages, ...]
    provenance: tuple[Provenance, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "recipe": self.recipe.name,
            "stages": self.stages,
            "tables": self.tables,
            "details": self.details,
            "steps": self.steps,
            "batch": self.batch,
            "mixture": self.mixture,
            "images": self.images,
            "provenance": self.provenance,
        }


def build_report(workspace: Workspace, *, steps: int = STEPS, batch: int = BATCH, pictures: bool = True) -> Report:
    """Gather what is in a workspace, from its manifests and (in bounded memory) from its shards.

    Args:
        steps, batch: optimiser steps, and samples in one over all GPUs, that exposures are reckoned for.
        pictures: make contact sheets too, for which images are read.

    Raises:
        DataError: a shard cannot be read.
        WorkspaceError: S3 refuses, or does not answer.
    """
    detailed = _filtered(workspace)[:DETAILED]
    found = (
        dataset_images(workspace, dataset, sizes=not says_sizes(workspace, dataset))
        for dataset in shown_datasets(workspace)
    )
    images = tuple(one for one in found if one is not None)
    return Report(
        workspace.recipe,
        stages_of(workspace, sum(one.size_bytes for one in images)),
        tables_of(workspace),
        tuple(table_report(workspace, name, detailed if pictures else ()) for name in detailed),
        exposures(workspace, steps, batch),
        steps,
        batch,
        images,
        provenances(workspace),
    )


def filtered_tables(workspace: Workspace) -> tuple[str, ...]:
    """Tables of the recipe that are filtered.

    Raises:
        DataError: none is.
    """
    ready = _filtered(workspace)
    if not ready:
        raise DataError("no table is filtered yet", "`prep run` does all that is missing.")
    return ready


def _filtered(workspace: Workspace) -> tuple[str, ...]:
    return tuple(name for name in workspace.table_names if workspace.read_filtered(name) is not None)


def table_report(workspace: Workspace, table: str, with_pictures: Sequence[str] = ()) -> TableReport:
    """One filtered table in detail.

    Args:
        with_pictures: tables that get contact sheets.

    Raises:
        DataError: it is not filtered yet, or a shard cannot be read.
        WorkspaceError: S3 refuses, or does not answer.
    """
    histograms = table_histograms(workspace, table)
    manifest = read_finished(workspace.filtered(table))
    assert manifest is not None  # else there were no histograms
    steps = waterfall(manifest)
    rows = manifest.facts["rows_in"]
    sheets = contact_sheets(workspace, table, len(with_pictures)) if table in with_pictures else ()
    return TableReport(table, rows, steps[-1].left if steps else rows, steps, histograms, sheets)
