"""`prep run --locked`: a workspace that is made as prep.lock says, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prep.config import Dataset
from prep.errors import WorkspaceError
from prep.lock.contents import describe, describe_definition, describe_recipe, finished_raw, hash_parts, remember_rows
from prep.lock.differences import Difference, differences, told
from prep.lock.sources import in_changing_parts, in_source
from prep.lock.verify import in_images
from prep.manifest import read_manifest
from prep.stages import filter as filter_stage
from prep.stages import normalize as normalize_stage
from prep.stages.dedup_facts import in_full, pool_tables
from prep.stages.filter import effective_rules
from prep.workspace import LOCK_NAME, Workspace

_OF_DATASETS = ("datasets", "contents")


def hold(workspace: Workspace) -> dict[str, Any]:
    """Hold the workspace to prep.lock, which nothing writes from now on; what it says.

    Publishers are asked at the revisions in it.

    Raises:
        WorkspaceError: there is none, it does not say enough, or the recipe, a rule, a dataset's YAML or what is in
            `raw/` differs from it; every difference is named.
    """
    path = workspace.root / LOCK_NAME
    lock = workspace.lock_data()
    if not path.exists():
        raise WorkspaceError(f"there is no {path}", "`prep run` without --locked writes one.")
    if "tables" not in lock:
        raise WorkspaceError(
            f"{path} says which files were brought, and nothing of tables",
            "`prep run` without --locked, or `prep lock`, writes the rest.",
        )
    found = [*_in_configuration(workspace, lock), *_in_datasets(workspace, lock)]
    if found:
        raise WorkspaceError(
            f"--locked: what is configured, or in raw/, differs from {path} (there -> here):\n{told(found)}",
            "Nothing was done. Take the change back (of raw/: remove the dataset's folder); or `prep run` without "
            "--locked writes a new prep.lock.",
        )
    workspace.is_held = True
    return lock


def check_result(workspace: Workspace, lock: Mapping[str, Any]) -> None:
    """Compare what a run has made with what prep.lock says, and see that stored images on this machine are there.

    Raises:
        WorkspaceError: something differs; every difference is named.
    """
    here = describe(workspace, {}).data
    remember_rows(workspace, here)
    found, images = differences(_of_recipe(workspace, lock), here), [*in_images(workspace, verify=False)]
    if found or images:
        mend = "`prep diff prep.lock` tells more; `prep lock` takes it as it is now."
        if images:
            mend = "`prep images --verify decode` notes images that are gone, and `prep images` brings them again."
        raise WorkspaceError(
            f"--locked: the result differs from {workspace.root / LOCK_NAME} (there -> here):\n"
            f"{told([*found, *images])}",
            f"Nothing was written for the trainer. {mend}",
        )


def differences_here(workspace: Workspace, lock: Mapping[str, Any], described: Mapping[str, Any]) -> list[Difference]:
    """How a workspace differs from what a lock says of the datasets and tables of its recipe.

    S3 is not asked about objects that are read in place.

    Args:
        described: the workspace in the words of prep.lock, without tables whose files are not what the configuration
            says now.
    """
    found = differences(_of_recipe(workspace, lock), described)
    for dataset, locked, contents in _downloaded(workspace, lock):
        found += in_source(workspace, dataset, locked)
        found += in_changing_parts(workspace, dataset, locked, contents, on_s3=False)
    return found + [one for dataset in workspace.datasets for one in _in_store(workspace, dataset)]


def _of_recipe(workspace: Workspace, lock: Mapping[str, Any]) -> dict[str, Any]:
    """A lock without datasets that the recipe has no use for."""
    names = [dataset.name for dataset in workspace.datasets]
    kept = {key: {name: lock[key][name] for name in lock[key] if name in names} for key in _OF_DATASETS if key in lock}
    return {**lock, **kept}


def _downloaded(
    workspace: Workspace, lock: Mapping[str, Any]
) -> Iterator[tuple[Dataset, dict[str, Any], dict[str, Any]]]:
    """Datasets whose files are downloaded, with what a lock says of their sources and of their bytes."""
    for dataset in workspace.datasets:
        if dataset.name in lock["datasets"] and (workspace.adopted_parts(dataset) is None or dataset.tables):
            yield dataset, lock["datasets"][dataset.name], lock.get("contents", {}).get(dataset.name, {})


def _in_configuration(workspace: Workspace, lock: Mapping[str, Any]) -> Iterator[Difference]:
    here = {
        "made_with": {"normalize": normalize_stage.VERSION, "filter": filter_stage.VERSION},
        "recipe": describe_recipe(workspace),
        "tables": {name: _configured(workspace, name, lock["tables"].get(name)) for name in workspace.table_names},
    }
    there = {
        "made_with": lock.get("made_with"),
        "recipe": lock.get("recipe"),
        "tables": {
            name: {key: facts.get(key) for key in ("definition", "rules", "dedup")}
            for name, facts in lock["tables"].items()
        },
    }
    yield from differences(there, here)


def _configured(workspace: Workspace, name: str, locked: Mapping[str, Any] | None) -> dict[str, Any]:
    """What will be applied to a table, if it turns out to have the columns it had."""
    columns = tuple((locked or {}).get("columns", ()))
    rules, _ = effective_rules(workspace.rules(name), columns)
    dedup = workspace.given_rules().dedup
    return {
        "definition": describe_definition(workspace, name),
        "rules": rules.model_dump(mode="json", exclude_none=True),
        "dedup": in_full(workspace, dedup) if dedup and name in pool_tables(workspace, dedup) else None,
    }


def _in_datasets(workspace: Workspace, lock: Mapping[str, Any]) -> Iterator[Difference]:
    downloaded = {dataset.name: facts for dataset, *facts in _downloaded(workspace, lock)}
    for dataset in workspace.datasets:
        if workspace.adopted_parts(dataset) is not None and not dataset.tables:
            continue  # none of its files is downloaded
        if dataset.name not in downloaded:
            yield Difference("dataset", dataset.name, "", None, "there")
            continue
        locked, contents = downloaded[dataset.name]
        yield from in_source(workspace, dataset, locked)
        encode = workspace.encode(dataset).model_dump(mode="json", exclude_none=True)
        there, here = {"encode": contents.get("encode")}, {"encode": encode if workspace.needs_images(dataset) else {}}
        yield from differences({"contents": {dataset.name: there}}, {"contents": {dataset.name: here}})
        yield from _in_store(workspace, dataset)
        if "sha256" not in contents:
            yield Difference("dataset", dataset.name, "sha256", None, "needed")
        yield from _in_raw(workspace, dataset, locked, contents)
        yield from in_changing_parts(workspace, dataset, locked, contents)


def _in_store(workspace: Workspace, dataset: Dataset) -> Iterator[Difference]:
    """Images that are indexed in another store than prep.yaml names; they would all be stored anew."""
    index = read_manifest(workspace.index(dataset.name)) if workspace.needs_images(dataset) else None
    store = workspace.config.images if index is None else index.facts.get("store", workspace.config.images)
    if store != workspace.config.images:
        yield Difference("dataset", dataset.name, "images", store, workspace.config.images)


def _in_raw(
    workspace: Workspace, dataset: Dataset, locked: Mapping[str, Any], contents: Mapping[str, Any]
) -> Iterator[Difference]:
    """Parts that are there whole, and are others."""
    raw = finished_raw(workspace, dataset)
    if raw is None:
        return
    pins = ("repo", "revision", "folder")
    there = {key: locked[key] for key in pins if key in locked}
    here = {key: raw.facts[key] for key in pins if key in raw.facts}
    if raw.facts.get("slice") == locked.get("slice") and "sha256" in contents:  # of another slice the rest is to come
        there, here = {**there, "sha256": contents["sha256"]}, {**here, "sha256": hash_parts(raw)}
    yield from differences({"datasets": {dataset.name: there}}, {"datasets": {dataset.name: here}})
