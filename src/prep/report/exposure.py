"""How much of training each entry of the recipe is, and how often each of its rows is expected to be seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prep.manifest import read_manifest
from prep.mixture import ingredients
from prep.stages.emission import rows_of
from prep.trainers.lavida_o import DEFAULT_BATCH_FACTOR, cut_batch, parse_sampling
from prep.workspace import Workspace


@dataclass(frozen=True)
class Exposure:
    """One entry of the mixture.

    Attributes:
        kept: rows of its table that the filter kept; None where it is not filtered yet.
        sampled: rows after sampling, copies counted.
        share: probability that a sample is drawn from it, 0 to 1, before batch factors; None where it takes no part.
        seen: how often each of its rows is expected to be drawn; copies count as one row.
    """

    entry: str
    table: str
    group: str
    sampling: str
    kept: int | None
    sampled: int | None
    share: float | None
    seen: float | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def exposures(workspace: Workspace, steps: int, batch: int) -> tuple[Exposure, ...]:
    """The entries of the recipe that can be made, in its order.

    LaViDa-O draws a group by its weight, then one of the group's rows; ConvLLaVA every row equally often. Only entries
    that have rows take part, as in the YAML that would be written of them now.

    Args:
        steps, batch: optimiser steps, and samples in one over all GPUs, before batch factors.
    """
    recipe = workspace.recipe
    has_groups = recipe.trainer == "lavida-o"
    found = [item for item in ingredients(recipe, workspace.catalogue) if item.dataset is not None]
    kept, sampled, rows_in = {}, {}, dict.fromkeys((item.group if has_groups else "" for item in found), 0)
    for number, item in enumerate(found):
        manifest = read_manifest(workspace.filtered(item.entry.table))
        if manifest is not None:
            kept[number] = rows_of(manifest)
            sampled[number] = parse_sampling(item.entry.sampling).rows(kept[number])
            rows_in[item.group if has_groups else ""] += sampled[number]
    weights = {item.group if has_groups else "": item.weight or 0.0 if has_groups else 1.0 for item in found}
    total = sum(weight for group, weight in weights.items() if rows_in[group])
    entries = []
    for number, item in enumerate(found):
        group = item.group if has_groups else ""
        share = seen = None
        if sampled.get(number) and total > 0:
            share = weights[group] / total * sampled[number] / rows_in[group]
            factor = recipe.batch_sizes.get(group, DEFAULT_BATCH_FACTOR) if has_groups else 1.0
            seen = steps * cut_batch(batch, factor) * share / min(kept[number], sampled[number])
        entry = item.entry
        numbers = kept.get(number), sampled.get(number)
        entries.append(Exposure(entry.label, entry.table, group, entry.sampling, *numbers, share, seen))
    return tuple(entries)
