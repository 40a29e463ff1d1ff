"""Where everything in a workspace comes from, and on what terms: licences, revisions, hashes, scorers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prep.config import Dataset, HuggingFaceSource
from prep.files import hash_file
from prep.manifest import MANIFEST_NAME, read_manifest
from prep.scorers.scorer import SCORERS
from prep.workspace import Workspace


@dataclass(frozen=True)
class TableProvenance:
    """What a table was made with.

    Attributes:
        rules: that the filter applied; None where it has not run.
        normalized, filtered: SHA-256 of the manifests, which name every shard with its own; None without one.
        passports: of the scores that were computed for it: scorer, weights, preprocessing and the like.
    """

    table: str
    rules: Mapping[str, Any] | None
    normalized: str | None
    filtered: str | None
    passports: tuple[Mapping[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Provenance:
    """Where a dataset comes from.

    Attributes:
        source: the kind of place, and a repository or address where there is one.
        revision: what that was when it was downloaded; empty where the source has none, or nothing is here yet.
        slice: what was asked for of its parts; empty for all.
        raw: SHA-256 of the manifest of the parts; None without one.
        tables: of the recipe.
    """

    dataset: str
    title: str
    license: str
    homepage: str
    is_gated: bool
    source: str
    revision: str
    slice: str
    parts: int
    size_bytes: int
    raw: str | None
    tables: tuple[TableProvenance, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def provenances(workspace: Workspace) -> tuple[Provenance, ...]:
    """Every dataset that tables of the recipe are made from, or whose images or captions they have."""
    return tuple(_provenance(workspace, dataset) for dataset in workspace.datasets)


def _provenance(workspace: Workspace, dataset: Dataset) -> Provenance:
    manifest = read_manifest(workspace.raw(dataset.name))
    facts = manifest.facts if manifest else {}
    source = workspace.source(dataset)
    place = getattr(source, "path", "") if source.kind == "s3" else ""
    repo = facts.get("repo") or (source.repo if isinstance(source, HuggingFaceSource) else place)
    tables = [name for name in workspace.normalized_names if workspace.table(name)[0].name == dataset.name]
    return Provenance(
        dataset.name,
        dataset.title,
        dataset.license,
        dataset.homepage,
        dataset.gated,
        f"{source.kind} {repo}".strip(),
        str(facts.get("revision", "")),
        str(facts.get("slice", "")),
        len(manifest.shards) if manifest else 0,
        manifest.size_bytes if manifest else 0,
        _hash_of(workspace.raw(dataset.name)),
        tuple(_table(workspace, name) for name in tables),
    )


def _table(workspace: Workspace, name: str) -> TableProvenance:
    filtered = read_manifest(workspace.filtered(name))
    passports: list[Mapping[str, Any]] = []
    for scorer in SCORERS:
        scores = read_manifest(workspace.scores(scorer, name))
        passports += scores.facts["passports"] if scores else []
    return TableProvenance(
        name,
        filtered.facts["rules"] if filtered else None,
        _hash_of(workspace.normalized(name)),
        _hash_of(workspace.filtered(name)),
        tuple(passports),
    )


def _hash_of(folder: Path) -> str | None:
    """SHA-256 of a folder's manifest."""
    path = folder / MANIFEST_NAME
    return hash_file(path) if path.is_file() else None
