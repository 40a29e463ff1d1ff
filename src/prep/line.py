"""The whole line: which stage comes when, and how far each dataset and table is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from prep.config import Dataset, UrlImages
from prep.errors import Failures, each
from prep.manifest import read_manifest
from prep.stages.download import download, slice_note
from prep.stages.filter import filter_table
from prep.stages.images import images
from prep.stages.normalize import normalize
from prep.stages.plan import remembered_slice
from prep.stages.shards import Outcome, State
from prep.workspace import Workspace


def run_line(workspace: Workspace, failures: Failures, *, dry_run: bool = False) -> Iterator[Outcome]:
    """Bring every dataset and table of the recipe up to date, up to the filtered tables.

    Address datasets are filtered twice: on the publisher's metadata, so that only rows that pass are fetched, and
    then on what was really fetched.
    """
    datasets, tables = workspace.select_datasets(()), workspace.select_tables(())
    by_url = [dataset for dataset in datasets if isinstance(dataset.images, UrlImages)]
    others = [dataset for dataset in datasets if dataset not in by_url]
    url_tables = [table for table in tables if workspace.table(table)[0] in by_url]

    def on_datasets(stage: Callable[..., Outcome], chosen: Iterable[Dataset]) -> Iterator[Outcome]:
        return each((partial(stage, workspace, dataset, dry_run=dry_run) for dataset in chosen), failures)

    def on_tables(stage: Callable[..., Outcome], chosen: Iterable[str]) -> Iterator[Outcome]:
        return each((partial(stage, workspace, table, dry_run=dry_run) for table in chosen), failures)

    yield from on_datasets(download, datasets)
    yield from on_datasets(images, others)
    yield from on_tables(normalize, tables)
    yield from on_tables(filter_table, tables)
    yield from on_datasets(images, by_url)
    yield from on_tables(filter_table, url_tables)


def status(workspace: Workspace) -> list[Outcome]:
    """How far every stage is, without touching the network or any file."""
    outcomes = [_download_status(workspace, dataset) for dataset in workspace.select_datasets(())]
    outcomes += [images(workspace, dataset, dry_run=True) for dataset in workspace.datasets]
    for stage in (normalize, filter_table):
        outcomes += [stage(workspace, table, dry_run=True) for table in workspace.table_names]
    return outcomes


def stale_tables(workspace: Workspace) -> dict[str, str]:
    """Tables whose files are not what their source and configuration say now, each with what has to be done.

    Nothing is asked of the network: what was downloaded counts as the publisher's word.
    """
    stale: dict[str, str] = {}
    for table in workspace.table_names:
        dataset, _ = workspace.table(table)
        stages = [partial(normalize, workspace, table), partial(filter_table, workspace, table)]
        if workspace.source(dataset).kind == "local":
            stages.insert(0, partial(download, workspace, dataset))
        for stage in stages:
            outcome = stage(dry_run=True)
            if outcome.state != "up to date":
                stale[table] = outcome.note if outcome.state == "waiting" else f"{outcome.stage} has work to do"
                break
    return stale


def _download_status(workspace: Workspace, dataset: Dataset) -> Outcome:
    """Only what the disk says: asking the publisher is for `prep download --dry-run`."""
    folder = workspace.raw(dataset.name)
    manifest = read_manifest(folder)
    if manifest is None:
        choice = remembered_slice(workspace, dataset)
        note = "not finished" + (f"; a slice: {choice}" if choice else "")
        return Outcome("download", dataset.name, "planned", note=note)
    gone = sum(not (folder / shard.name).is_file() for shard in manifest.shards)
    state: State = "planned" if gone else "up to date"
    note = slice_note(dataset.name, manifest)
    return Outcome("download", dataset.name, state, gone, len(manifest.shards), manifest, note)
