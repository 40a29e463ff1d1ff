"""What a recipe asks for, entry by entry: where its data is, how much of training it is, whether it can be had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prep.config import Catalogue, Dataset, Entry, HuggingFaceSource, Recipe
from prep.manifest import read_manifest
from prep.trainers.lavida_o import DEFAULT_GROUP, DEFAULT_WEIGHT
from prep.workspace import Workspace

Status = Literal["ready to build", "differs", "not public"]


@dataclass(frozen=True)
class Ingredient:
    """One entry of a recipe, and what is known of it.

    Attributes:
        entry: as the recipe has it.
        dataset: what its table is made from; None where nobody has such a table.
        weight: of its group, against the other groups that can be made; None where it is not public.
        share: probability that a batch is drawn from its group, 0 to 1; None where it is not public.
        progress: how far its table is in the workspace; empty without one.
    """

    entry: Entry
    dataset: Dataset | None
    weight: float | None
    share: float | None
    progress: str = ""

    @property
    def group(self) -> str:
        """Its length group."""
        return self.entry.group or DEFAULT_GROUP

    @property
    def status(self) -> Status:
        """Whether it can be made, and made as published."""
        if self.dataset is None:
            return "not public"
        return "differs" if self.entry.note else "ready to build"

    @property
    def source(self) -> str:
        """The public source: a repository of the hub, or a page."""
        if self.dataset is None:
            return ""
        source, homepage = self.dataset.source, self.dataset.homepage.removeprefix("https://")
        return source.repo if isinstance(source, HuggingFaceSource) else homepage or source.kind

    @property
    def images_from(self) -> tuple[str, ...]:
        """The dataset that has its images, where that is another one."""
        if self.dataset is None:
            return ()
        table = self.dataset.tables[self.entry.table]
        return tuple(name for name in table.image_datasets(self.dataset.name).values() if name != self.dataset.name)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {
            "entry": self.entry.label,
            "table": self.entry.table,
            "dataset": self.dataset and self.dataset.name,
            "source": self.source or None,
            "homepage": self.dataset and self.dataset.homepage,
            "license": self.dataset and self.dataset.license,
            "images_from": self.images_from,
            "sampling": self.entry.sampling,
            "group": self.group,
            "weight": self.weight,
            "share": self.share,
            "status": self.status,
            "note": self.entry.not_public if self.dataset is None else self.entry.note,
            "progress": self.progress,
        }


def ingredients(recipe: Recipe, catalogue: Catalogue, workspace: Workspace | None = None) -> list[Ingredient]:
    """The entries of `recipe`, in its order.

    Args:
        catalogue: where tables are looked up.
        workspace: tells how far each table is.

    Raises:
        ConfigError: an entry whose data should be public names a table that no dataset has.
    """
    public = [entry for entry in recipe.entries if not entry.not_public or catalogue.has_table(entry.table)]
    groups = dict.fromkeys(entry.group or DEFAULT_GROUP for entry in public)
    weights = {group: float(recipe.weights.get(group, DEFAULT_WEIGHT)) for group in groups}
    total = sum(weights.values()) or 1.0
    found = []
    for entry in recipe.entries:
        if entry not in public:
            found.append(Ingredient(entry, None, None, None))
            continue
        dataset, weight = catalogue.dataset_of_table(entry.table), weights[entry.group or DEFAULT_GROUP]
        progress = _progress(workspace, dataset, entry.table) if workspace else ""
        found.append(Ingredient(entry, dataset, weight, weight / total, progress))
    return found


def _progress(workspace: Workspace, dataset: Dataset, table: str) -> str:
    """How far a table is, by the manifests alone; whether they are still true is not asked."""
    for word, folder in (("kept", workspace.filtered(table)), ("normalized", workspace.normalized(table))):
        if manifest := read_manifest(folder):
            return f"{manifest.rows:,} {'row' if manifest.rows == 1 else 'rows'} {word}"
    raw = read_manifest(workspace.raw(dataset.name))
    if raw is None:
        return "not begun"
    return "partly downloaded" if "missing" in raw.facts else "downloaded"
