"""images: image bytes to disk or S3, and an index of every image: where it is, what it is, or why it is missing."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from prep import sql
from prep.config import ArchiveImages, Dataset, FolderImages, GivenImages, ParquetImages, UrlImages
from prep.engine import cluster, share
from prep.errors import ConfigError, SourceError, UsageError, WorkspaceError
from prep.images.chunks import CHUNK_ROWS, NOT_FETCHED, chunk_name
from prep.manifest import Manifest, Shard, known_shards, read_finished, read_manifest, remove_shares
from prep.progress import Bar
from prep.schema import DROP_REASON, IMAGE_KEY, REASON, ROW, URL
from prep.stages.dedup_facts import comes_first
from prep.stages.freeing import Freeing, check_not_needed
from prep.stages.image_tasks import (
    GONE,
    ArchiveTask,
    FolderTask,
    ImageTask,
    ParquetTask,
    PartsTask,
    StoreSpec,
    make_local,
)
from prep.stages.image_urls import BATCH_CHUNKS, UrlTask, is_retried, make_from_urls
from prep.stages.shards import Outcome, build_shards, fingerprint_in
from prep.workspace import Workspace, shard_name

TaskT = TypeVar("TaskT", bound=ImageTask)

FOLDER_FILES = 20_000  # of an adopted folder in one shard
MIN_SUCCESS = 0.1  # of the first addresses of a dataset; where lists are alive it is 0.6 to 0.95


@dataclass(frozen=True)
class ImageOptions:
    """What one run of the stage is asked beside making what is missing.

    Attributes:
        all_rows: fetch every row's image, not only those of rows that pass the filter.
        retry: statuses of addresses that are to be fetched again.
        verify: read every stored image back and decode it.
        delete_parts: delete each archive once its images are stored.
        min_success: share of a dataset's first addresses that has to give an image; 0 for any.
    """

    all_rows: bool = False
    retry: tuple[str, ...] = ()
    verify: bool = False
    delete_parts: bool = False
    min_success: float = MIN_SUCCESS


def images(
    workspace: Workspace,
    dataset: Dataset,
    *,
    options: ImageOptions = ImageOptions(),
    force: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Store the images of `dataset` and index them.

    Archive datasets need their parts downloaded; address datasets need their tables filtered, because only rows
    that passed the filter are fetched. Until then the outcome is `waiting`.

    Raises:
        SourceError: hardly an address of a shard gave an image.
        DataError: an archive is none.
        UsageError: an option that this dataset's kind of images does not have.
    """
    kind = workspace.images(dataset)
    if options.retry and not isinstance(kind, UrlImages):
        raise UsageError(
            f"{dataset.name}: its images come from no addresses, so --retry has none to go back to",
            f"`prep images {dataset.name} --verify decode` looks at what is stored.",
        )
    if options.retry and force:
        raise UsageError("--force fetches every image anew, --retry only some", "Give one of them.")
    if isinstance(kind, UrlImages):
        outcome = _from_urls(workspace, dataset, options, force, dry_run)
        nothing = "its images come from addresses, so there are no archives to delete"
        is_fetched = outcome.state not in ("waiting", "up to date")
        notes = [outcome.note, nothing if options.delete_parts else ""]
        notes += fetched_duplicates(workspace, dataset) if is_fetched else []
        return replace(outcome, note="; ".join(filter(None, notes)))
    if isinstance(kind, FolderImages):
        outcome = _from_folder(workspace, dataset, kind, options, force, dry_run)
        return replace(outcome, note="nothing to delete: its images are yours") if options.delete_parts else outcome
    if isinstance(kind, ArchiveImages | ParquetImages):
        return _from_parts(workspace, dataset, kind, options, force, dry_run)
    note = "its samples point at their images" if isinstance(kind, GivenImages) else "has no images"
    return Outcome("images", dataset.name, "up to date", note=note)


def fetched_duplicates(workspace: Workspace, dataset: Dataset) -> Iterator[str]:
    """Why duplicates are among the rows that are fetched, of each table; nothing where they are not asked for."""
    if isinstance(workspace.images(dataset), UrlImages):
        for name in workspace.table_names:
            if workspace.table(name)[0] == dataset and (why := comes_first(workspace, name)):
                yield f"{name}: {why}, so its duplicates are fetched too"


def count_images(task: ImageTask) -> dict[str, int]:
    """Images of the finished shard by status."""
    from prep.images.index import count_statuses

    return count_statuses(task.output)


def _store(workspace: Workspace, dataset: Dataset) -> StoreSpec:
    config = workspace.config
    return StoreSpec(config.images, workspace.image_root, dataset.name, config.s3_endpoint, workspace.encode(dataset))


def _facts(workspace: Workspace, dataset: Dataset) -> dict[str, object]:
    """What the manifest says of all shards: where the images are kept, and as what."""
    return {"store": workspace.config.images, "encode": workspace.encode(dataset).model_dump(exclude_none=True)}


def _build(
    workspace: Workspace,
    dataset: Dataset,
    tasks: Sequence[TaskT],
    make: Callable[[TaskT], None] | None,
    facts: dict[str, object],
    options: ImageOptions,
    force: bool,
    dry_run: bool,
    *,
    make_batch: Callable[[Sequence[TaskT]], None] | None = None,
    total: int | None = None,
    stale: Collection[str] | None = None,
    on_made: Callable[[TaskT], None] = lambda task: None,
) -> Outcome:
    """Bring the dataset's index to hold exactly the shards of `tasks`, and clean up after them."""
    from prep.images.spool import remove_spools

    folder = workspace.index(dataset.name)
    may_be_stale = options.verify or stale is not None
    with _counting(folder) as watch:
        outcome = build_shards(
            "images",
            dataset.name,
            folder,
            tasks,
            make,
            count_images,
            make_batch=make_batch,
            batch=BATCH_CHUNKS,
            facts=_facts(workspace, dataset) | facts,
            workers=workspace.workers,
            force=force,
            dry_run=dry_run,
            is_stale=(lambda task: options.verify or task.output.name in (stale or ())) if may_be_stale else None,
            unit=("images", total),
            on_bar=watch,
            on_made=on_made,
            on_whole=partial(remove_spools, folder),
        )
    return replace(outcome, note="; ".join(_notes(outcome, options)))


def _notes(outcome: Outcome, options: ImageOptions) -> Iterator[str]:
    """What a person should know of the index beside its counts."""
    if outcome.note:
        yield outcome.note
    counts = outcome.manifest.counts if outcome.manifest else {}
    if gaps := counts.get("lost"):
        yield f"archives cannot be read in {gaps:,} places; the index says where (status `lost`)"
    if damaged := counts.get("damaged"):
        yield f"{damaged:,} damaged in their archives"
    if options.verify and outcome.state == "done":
        yield f"{counts.get('ok', 0):,} decoded"


@contextmanager
def _counting(folder: Path) -> Iterator[Callable[[Bar], None]]:
    """Tell a bar of the images that workers have written down, in shards that are whole and in those under way.

    Yields a function that is called with the bar when there is one.
    """
    from prep.images.spool import shard_stamps

    over = threading.Event()
    threads: list[threading.Thread] = []

    def start(advance: Bar) -> None:
        before = shard_stamps(folder)
        threads.append(threading.Thread(target=_count, args=(folder, before, advance, over), daemon=True))
        threads[0].start()

    try:
        yield start
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _count(folder: Path, before: set[tuple[str, int]], advance: Bar, over: threading.Event) -> None:
    """Count until it is over, and once more then."""
    from prep.images.spool import rows_of, shard_stamps, spooled_rows

    rows: dict[tuple[str, int], int] = {}
    told, pause = 0, 1.0
    while True:
        is_over = over.wait(pause)
        started = time.monotonic()
        for stamp in shard_stamps(folder) - before - rows.keys():
            rows[stamp] = rows_of(folder / stamp[0])
        now = sum(rows.values()) + spooled_rows(folder)
        advance(now - told)
        if is_over:
            return
        told, pause = now, max(1.0, 20 * (time.monotonic() - started))


# -- on this machine -------------------------------------------------------------------------------------------------


def _from_parts(
    workspace: Workspace,
    dataset: Dataset,
    kind: ArchiveImages | ParquetImages,
    options: ImageOptions,
    force: bool,
    dry_run: bool,
) -> Outcome:
    raw = read_finished(workspace.raw(dataset.name))
    if raw is None:
        return Outcome("images", dataset.name, "waiting", note="download first")
    parts = [part for part in raw.shards if fnmatch.fnmatchcase(part.name, kind.parts)]
    if not parts:
        raise SourceError(
            f"{dataset.name}: none of its {len(raw.shards)} parts matches images.parts {kind.parts!r}",
            "Mend the dataset's YAML.",
        )
    tasks: Sequence[PartsTask]
    if isinstance(kind, ArchiveImages):
        tasks = _archive_tasks(workspace, dataset, kind, parts, options)
    else:
        tasks = _parquet_tasks(workspace, dataset, kind, parts, options)
    folder = workspace.raw(dataset.name)
    archives = [task.parts[0].relative_to(folder).as_posix() for task in tasks]
    named = zip(archives, tasks, strict=True)
    if not dry_run:
        check_not_needed(dataset, [(name, task) for name, task in named if task.is_freed], force)
    freeing = Freeing(workspace, dataset, raw, tasks) if options.delete_parts and not dry_run else None
    outcome = _build(
        workspace,
        dataset,
        tasks,
        make_local,
        {"archives": archives},
        options,
        force,
        dry_run,
        stale=_with_gone(workspace.index(dataset.name), tasks) or None,
        on_made=freeing.made if freeing else lambda task: None,
    )
    if outcome.state == "done" and len(tasks) > 1 and (doubles := _double_keys(tasks)):
        warning = f"{doubles:,} image keys stand for several different images; samples get one of them (see images.key)"
        outcome = replace(outcome, note="; ".join(filter(None, [outcome.note, warning])))
    return freeing.end(outcome) if freeing else outcome


def _double_keys(tasks: Sequence[PartsTask]) -> int:
    """Image keys under which several shards have different images."""
    shards = sql.parquet_files([task.output for task in tasks])
    query = (
        f"SELECT count(*) FROM (SELECT {IMAGE_KEY} FROM {shards} WHERE path IS NOT NULL "
        f"GROUP BY {IMAGE_KEY} HAVING count(DISTINCT sha256) > 1)"
    )
    with sql.connect(tasks[0].output) as connection:
        return int(connection.execute(query).fetchall()[0][0])


def _with_gone(folder: Path, tasks: Sequence[PartsTask]) -> set[str]:
    """Index shards with images that are gone from the store, and that can be had again out of their parts."""
    lacking = {shard.name for shard in known_shards(folder).values() if shard.counts.get(GONE)}
    return {task.output.name for task in tasks if not task.is_freed} & lacking


def _archive_tasks(
    workspace: Workspace, dataset: Dataset, kind: ArchiveImages, parts: Sequence[Shard], options: ImageOptions
) -> list[ArchiveTask]:
    """A task for every share of every archive."""
    from prep.images.archives import archive_stem, count_shares, group_parts

    folder, by_name = workspace.raw(dataset.name), {part.name: part for part in parts}
    tasks: list[ArchiveTask] = []
    for number, names in enumerate(group_parts([part.name for part in parts])):
        group = [by_name[name] for name in names]
        paths = tuple(folder / name for name in names)
        freed = group[0].freed_shares
        shares = freed or count_shares(paths)
        position = number if group[0].position is None else group[0].position
        tasks += [
            ArchiveTask(
                workspace.index(dataset.name) / shard_name(position, share if shares > 1 else None),
                _store(workspace, dataset),
                paths,
                tuple(part.sha256 for part in group),
                freed is not None,
                archive_stem(names[0]),
                kind.key,
                share,
                shares,
                verify=options.verify,
            )
            for share in range(shares)
        ]
    _check_stems(dataset, tasks)
    return tasks


def _parquet_tasks(
    workspace: Workspace, dataset: Dataset, kind: ParquetImages, parts: Sequence[Shard], options: ImageOptions
) -> list[ParquetTask]:
    return [
        ParquetTask(
            workspace.index(dataset.name) / shard_name(number if part.position is None else part.position),
            _store(workspace, dataset),
            (workspace.raw(dataset.name) / part.name,),
            (part.sha256,),
            part.freed_shares is not None,
            part.name.removesuffix(".parquet"),
            kind.column,
            kind.key,
            verify=options.verify,
        )
        for number, part in enumerate(parts)
    ]


def _check_stems(dataset: Dataset, tasks: Sequence[ArchiveTask]) -> None:
    """Raise ConfigError where two archives would share a folder."""
    by_stem: dict[str, Path] = {}
    for task in tasks:
        is_double = by_stem.setdefault(task.stem, task.parts[0]) != task.parts[0]
        if is_double or any(str(above) in by_stem for above in PurePosixPath(task.stem).parents):
            raise ConfigError(
                f"{dataset.name}: another archive is called as {task.stem!r}, or as a folder above it; their images "
                "would share a folder",
                "Narrow images.parts in the dataset's YAML to one of them.",
            )


def _from_folder(
    workspace: Workspace, dataset: Dataset, kind: FolderImages, options: ImageOptions, force: bool, dry_run: bool
) -> Outcome:
    from prep.images.folder import list_images

    folder = workspace.path(kind.path, dataset.name)
    if not folder.is_dir():
        raise WorkspaceError(
            f"{dataset.name}: its images are to be in {folder}, which is no folder",
            f"Mend `image_folders` in {workspace.root / 'prep.yaml'}, or images.path in the dataset's YAML.",
        )
    workspace.check_adopted(dataset, folder)
    files = list(list_images(folder))
    if not files:
        raise WorkspaceError(f"{dataset.name}: there are no images below {folder}", "Name the folder that has them.")
    tasks = [
        FolderTask(
            workspace.index(dataset.name) / shard_name(number),
            _store(workspace, dataset),
            folder,
            tuple(files[first : first + FOLDER_FILES]),
            kind.key,
            verify=options.verify,
        )
        for number, first in enumerate(range(0, len(files), FOLDER_FILES))
    ]
    facts: dict[str, object] = {"folder": str(folder)}
    return _build(workspace, dataset, tasks, make_local, facts, options, force, dry_run, total=len(files))


# -- addresses -------------------------------------------------------------------------------------------------------


def _from_urls(workspace: Workspace, dataset: Dataset, options: ImageOptions, force: bool, dry_run: bool) -> Outcome:
    tables = [table for table in workspace.table_names if table in dataset.tables]
    normalized = {table: read_finished(workspace.normalized(table)) for table in tables}
    filtered = {table: workspace.read_filtered(table) for table in tables}
    if not all(normalized.values()) or not (options.all_rows or all(filtered.values())):
        return Outcome("images", dataset.name, "waiting", note="normalize and filter first")
    index = read_finished(workspace.index(dataset.name))
    is_covered = not options.all_rows and all(_is_covered(manifest) for manifest in filtered.values())
    is_plain = not (force or options.retry or options.verify)
    if is_plain and is_covered and index and index.facts == _facts(workspace, dataset):
        if share().is_whole and not dry_run:
            remove_shares(workspace.index(dataset.name))
        return Outcome("images", dataset.name, "up to date", 0, len(index.shards), index)
    tasks = _url_tasks(workspace, dataset, normalized, options, force)
    own = share().of(tasks)
    _check_place(dataset, own, force)
    stale = set() if force else _stale_chunks(own) | _with_statuses(own, options.retry)
    outcome = _build(
        workspace, dataset, tasks, None, {}, options, force, dry_run, make_batch=make_from_urls, stale=stale
    )
    if options.retry and outcome.state == "up to date":
        return replace(outcome, note=f"no address has the status {' or '.join(options.retry)}")
    return outcome


def _url_tasks(
    workspace: Workspace,
    dataset: Dataset,
    normalized: dict[str, Manifest | None],
    options: ImageOptions,
    force: bool,
) -> list[UrlTask]:
    """A task for every `CHUNK_ROWS` rows of every shard of samples."""
    folder = workspace.index(dataset.name)
    chunks = [
        (table, shard.name, chunk)
        for table, manifest in normalized.items()
        for shard in (manifest.shards if manifest else ())
        for chunk in range(-(-(shard.rows or 0) // CHUNK_ROWS))
    ]
    is_first = read_manifest(folder) is None and not any(folder.glob("*.parquet"))
    return [
        UrlTask(
            folder / chunk_name(table, shard, chunk),
            _store(workspace, dataset),
            table,
            shard,
            chunk,
            _wanted_rows(workspace, table, shard, options.all_rows),
            workspace.config.fetch,
            workspace.config.allow_private_hosts,
            min(_processes(workspace), len(chunks)),
            options.retry,
            options.min_success if is_first else None,
            force,
            verify=options.verify,
        )
        for table, shard, chunk in chunks
    ]


def _processes(workspace: Workspace) -> int:
    """How many processes fetch at once, on all machines."""
    machines = cluster()
    return workspace.workers * share().world_size if machines is None else machines.workers


def _wanted_rows(workspace: Workspace, table: str, shard: str, all_rows: bool) -> str:
    """SQL of the rows of a shard whose images are wanted: all, or those that pass the filter.

    A row that would pass if its image were there is one of those, also where the image could not be had.
    """
    columns = f"{ROW}, {IMAGE_KEY}, {URL}"
    if all_rows:
        rows = sql.parquet_files([workspace.normalized(table) / shard])
        return f"(SELECT {columns} FROM {rows} WHERE {IMAGE_KEY} IS NOT NULL AND {URL} IS NOT NULL)"
    dropped = sql.completed(workspace.dropped(table) / shard, workspace.normalized(table) / shard, ROW)
    return (
        f"(SELECT {columns} FROM {sql.parquet_files([workspace.filtered(table) / shard])} UNION ALL "
        f"SELECT {columns} FROM {dropped} WHERE starts_with({REASON}, 'image_') AND {DROP_REASON} IS NULL)"
    )


def _check_place(dataset: Dataset, tasks: Sequence[UrlTask], force: bool) -> None:
    """Raise UsageError where images are there already, kept elsewhere or as something else: weeks may be in them."""
    if force:
        return
    others = sum(task.output.is_file() and fingerprint_in(task.output) != task.fingerprint for task in tasks)
    if others:
        raise UsageError(
            f"{dataset.name}: {others:,} shards of its index are of images kept elsewhere, or encoded otherwise",
            f"Set `images` in prep.yaml and --max-side, --format and --quality as they were; or "
            f"`prep images {dataset.name} --force` fetches all of them again.",
        )


def _is_covered(filtered: Manifest | None) -> bool:
    """Whether the filter saw the index and found no passing row without an image in it."""
    return filtered is not None and bool(filtered.facts["has_images"]) and not filtered.counts.get(NOT_FETCHED)


def _stale_chunks(tasks: Sequence[UrlTask]) -> set[str]:
    """Index shards, of those there are, that lack an image which is wanted now; one query for a shard of samples."""
    stale: set[str] = set()
    by_shard: dict[str, list[UrlTask]] = {}
    for task in tasks:
        if task.output.is_file():
            by_shard.setdefault(task.wanted, []).append(task)
    for wanted, present in by_shard.items():
        known = sql.parquet_files([task.output for task in present])
        query = (
            f"SELECT DISTINCT {ROW} // {CHUNK_ROWS} FROM {wanted} "
            f"WHERE {IMAGE_KEY} NOT IN (SELECT {IMAGE_KEY} FROM {known})"
        )
        with sql.connect(present[0].output) as connection:
            lacking = {chunk for (chunk,) in connection.execute(query).fetchall()}
        stale |= {task.output.name for task in present if task.chunk in lacking}
    return stale


def _with_statuses(tasks: Sequence[UrlTask], statuses: Collection[str]) -> set[str]:
    """Index shards, of those there are, that hold an image with one of the statuses."""
    from prep.images.index import count_statuses

    if not statuses:
        return set()
    there = [task.output for task in tasks if task.output.is_file()]
    return {path.name for path in there if any(is_retried(status, statuses) for status in count_statuses(path))}
