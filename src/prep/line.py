"""The whole line: which stage comes when, and how far each dataset and table is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from prep.config import ArchiveImages, Dataset, ParquetImages, UrlImages
from prep.errors import Failures, each
from prep.images.chunks import NOT_FETCHED
from prep.manifest import read_manifest
from prep.stages.dedup import dedup
from prep.stages.download import ADOPTED, download, slice_note
from prep.stages.filter import filter_table
from prep.stages.images import ImageOptions, images
from prep.stages.normalize import normalize
from prep.stages.plan import remembered_slice
from prep.stages.score import score_status
from prep.stages.shards import Outcome, State
from prep.workspace import Workspace

MAX_ROUNDS = 10  # of fetching what stands in for rows whose image could not be fetched
ARCHIVES_AT_ONCE = 8  # with --delete-parts: enough to keep every transfer busy


def run_line(
    workspace: Workspace, failures: Failures, *, delete_parts: bool = False, dry_run: bool = False
) -> Iterator[Outcome]:
    """Bring every dataset and table of the recipe up to date, up to the filtered tables.

    Address datasets are filtered twice: on the publisher's metadata, so that only rows that pass are fetched, and
    then on what was really fetched. Where duplicates are asked for, every filter is followed by `dedup` and another;
    and where the image of a row that stayed could not be fetched, that of the next one of its group is.

    Args:
        delete_parts: bring archives a few at a time, and delete them when their images are stored.
    """
    datasets, tables = workspace.select_datasets(()), workspace.select_tables(())
    shown = [dataset for dataset in datasets if workspace.needs_images(dataset)]
    by_url = [dataset for dataset in shown if isinstance(dataset.images, UrlImages)]
    others = [dataset for dataset in shown if dataset not in by_url]
    url_tables = [table for table in tables if workspace.table(table)[0] in by_url]

    def on_datasets(stage: Callable[..., Outcome], chosen: Iterable[Dataset]) -> Iterator[Outcome]:
        return each((partial(stage, workspace, dataset, dry_run=dry_run) for dataset in chosen), failures)

    def on_tables(stage: Callable[..., Outcome], chosen: Iterable[str]) -> Iterator[Outcome]:
        return each((partial(stage, workspace, table, dry_run=dry_run) for table in chosen), failures)

    if delete_parts and not dry_run:
        for dataset in others:
            yield from each(_little_by_little(workspace, dataset), failures)
    yield from on_datasets(download, datasets)
    yield from on_datasets(images, others)
    yield from on_tables(normalize, workspace.select_tables((), to_normalize=True))
    yield from on_tables(filter_table, tables)
    if workspace.given_rules().dedup is None:
        yield from on_datasets(images, by_url)
        yield from on_tables(filter_table, url_tables)
        return
    for _ in range(1 if dry_run else MAX_ROUNDS):
        yield from _without_duplicates(workspace, failures, dry_run)
        if failures.errors or not any(_lacks_images(workspace, table) for table in url_tables):
            return
        yield from on_datasets(images, by_url)
        yield from on_tables(filter_table, url_tables)
    if not dry_run:
        yield from _without_duplicates(workspace, failures, dry_run)


def _without_duplicates(workspace: Workspace, failures: Failures, dry_run: bool) -> Iterator[Outcome]:
    """Look for duplicates among the rows that pass everything else, and filter by what is found."""
    for outcomes in each([lambda: list(dedup(workspace, dry_run=dry_run))], failures):
        yield from outcomes
    if not dry_run:
        yield from each((partial(filter_table, workspace, table) for table in workspace.select_tables(())), failures)


def _lacks_images(workspace: Workspace, table: str) -> bool:
    """Whether rows of a table of addresses pass everything and their images have not been asked for."""
    filtered = read_manifest(workspace.filtered(table))
    return filtered is None or not filtered.facts["has_images"] or bool(filtered.counts.get(NOT_FETCHED))


def _little_by_little(workspace: Workspace, dataset: Dataset) -> Iterator[Callable[[], Outcome]]:
    """The steps that take a dataset of archives through a disk that cannot hold them all at once."""
    if not isinstance(workspace.images(dataset), ArchiveImages | ParquetImages):
        return
    tables = [table for table in workspace.normalized_names if workspace.table(table)[0] == dataset]
    folder = workspace.raw(dataset.name)
    while True:
        before = read_manifest(folder)
        yield partial(download, workspace, dataset, at_most=ARCHIVES_AT_ONCE)
        yield partial(images, workspace, dataset)
        for table in tables:
            yield partial(normalize, workspace, table)
        yield partial(images, workspace, dataset, options=ImageOptions(delete_parts=True))
        raw = read_manifest(folder)
        if raw is None or raw == before or "missing" not in raw.facts:
            return  # all is done, or a step failed, which is told


def status(workspace: Workspace) -> list[Outcome]:
    """How far every stage is, without touching the network or any file."""
    outcomes = [_download_status(workspace, dataset) for dataset in workspace.select_datasets(())]
    shown = [dataset for dataset in workspace.datasets if workspace.needs_images(dataset)]
    outcomes += [images(workspace, dataset, dry_run=True) for dataset in shown]
    outcomes += [normalize(workspace, table, dry_run=True) for table in workspace.normalized_names]
    for table in workspace.table_names:
        outcomes += [*score_status(workspace, table), filter_table(workspace, table, dry_run=True)]
    if workspace.given_rules().dedup is not None:
        outcomes += dedup(workspace, dry_run=True)
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
    if workspace.given_rules().dedup is not None:
        for outcome in dedup(workspace, dry_run=True):
            if outcome.stage == "dedup" and outcome.state != "up to date":
                stale.setdefault(outcome.name, "dedup has work to do")
    return stale


def _download_status(workspace: Workspace, dataset: Dataset) -> Outcome:
    """Only what the disk says: asking the publisher is for `prep download --dry-run`."""
    folder = workspace.raw(dataset.name)
    manifest = read_manifest(folder)
    if workspace.adopted_parts(dataset) is not None and not dataset.tables:
        return Outcome("download", dataset.name, "up to date", note=ADOPTED)
    if manifest is None:
        choice = remembered_slice(workspace, dataset)
        note = "not finished" + (f"; a slice: {choice}" if choice else "")
        return Outcome("download", dataset.name, "planned", note=note)
    if "missing" in manifest.facts:
        return Outcome("download", dataset.name, "planned", manifest.facts["missing"], note="not finished")
    gone = sum(shard.freed_shares is None and not (folder / shard.name).is_file() for shard in manifest.shards)
    state: State = "planned" if gone else "up to date"
    note = slice_note(dataset.name, manifest)
    return Outcome("download", dataset.name, state, gone, len(manifest.shards), manifest, note)
