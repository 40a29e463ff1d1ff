"""images: image bytes to disk or S3, and an index of every image: where it is, what it is, or why it is missing."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from prep import sql
from prep.config import ArchiveImages, Dataset, GivenImages, UrlImages
from prep.errors import ConfigError, SourceError
from prep.images.archives import archive_stem
from prep.images.chunks import CHUNK_ROWS, NOT_FETCHED, chunk_name
from prep.manifest import Manifest, fingerprint, read_finished
from prep.schema import IMAGE_KEY, ROW, URL
from prep.stages.shards import Outcome, ShardTask, build_shards, fingerprint_in
from prep.workspace import Workspace, shard_name

if TYPE_CHECKING:
    from prep.images.index import IndexRow

VERSION = 1  # raise when the same inputs give other bytes
HOPELESS = 10  # so many addresses, none reached, are no accident


@dataclass(frozen=True)
class StoreSpec:
    """Where a dataset's images are kept, as plain data for a worker.

    Attributes:
        name: the place as prep.yaml names it, which stays the same when a workspace is moved.
    """

    name: str
    root: str
    dataset: str
    s3_endpoint: str | None

    @classmethod
    def of(cls, workspace: Workspace, dataset: Dataset) -> StoreSpec:
        """The place for a dataset's images in a workspace."""
        config = workspace.config
        return cls(config.images, workspace.image_root, dataset.name, config.s3_endpoint)


@dataclass(frozen=True)
class ArchiveTask(ShardTask):
    """The images of one archive."""

    archive: Path
    archive_sha256: str
    stem: str
    key: str
    store: StoreSpec
    output: Path

    @property
    def fingerprint(self) -> str:
        """Everything the shard and its images are made from."""
        store = (self.store.name, self.store.s3_endpoint)
        return fingerprint([VERSION, self.archive_sha256, self.stem, self.key, store])


@dataclass(frozen=True)
class UrlTask(ShardTask):
    """The images of `CHUNK_ROWS` rows of a shard of samples.

    Which of the rows are fetched depends on the filter and changes with it, so the fingerprint names the place of
    the rows alone: a chunk is made again only when a row that passes the filter is not in its index yet, and then
    only that row is fetched.
    """

    table: str
    shard: str
    chunk: int
    filtered: Path
    dropped: Path
    store: StoreSpec
    allow_private_hosts: bool
    refetch: bool
    output: Path

    @property
    def fingerprint(self) -> str:
        """Which rows, and where their images are kept."""
        store = (self.store.name, self.store.s3_endpoint)
        return fingerprint([VERSION, self.table, self.shard, self.chunk, CHUNK_ROWS, store])


def images(workspace: Workspace, dataset: Dataset, *, force: bool = False, dry_run: bool = False) -> Outcome:
    """Store the images of `dataset` and index them.

    Archive datasets need their parts downloaded; address datasets need their tables filtered, because only rows
    that passed the filter are fetched. Until then the outcome is `waiting`.

    Raises:
        SourceError: no address of a shard could be reached at all.
        DataError: an archive is broken.
    """
    if isinstance(dataset.images, UrlImages):
        return _from_urls(workspace, dataset, force, dry_run)
    if isinstance(dataset.images, ArchiveImages):
        return _from_archives(workspace, dataset, dataset.images, force, dry_run)
    note = "its samples point at their images" if isinstance(dataset.images, GivenImages) else "has no images"
    return Outcome("images", dataset.name, "up to date", note=note)


# -- archives ------------------------------------------------------------------------------------------------


def _from_archives(workspace: Workspace, dataset: Dataset, kind: ArchiveImages, force: bool, dry_run: bool) -> Outcome:
    raw = read_finished(workspace.raw(dataset.name))
    if raw is None:
        return Outcome("images", dataset.name, "waiting", note="download first")
    folder = workspace.index(dataset.name)
    archives = [part for part in raw.shards if fnmatch.fnmatchcase(part.name, kind.parts)]
    if not archives:
        raise SourceError(
            f"{dataset.name}: none of its {len(raw.shards)} parts matches images.parts {kind.parts!r}",
            "Mend the dataset's YAML.",
        )
    stems = [archive_stem(part.name) for part in archives]
    if len(set(stems)) < len(stems):
        double = next(stem for stem in stems if stems.count(stem) > 1)
        raise ConfigError(
            f"{dataset.name}: two archives are called {double!r}; their images would share a folder",
            "Narrow images.parts in the dataset's YAML to one of them.",
        )
    tasks = [
        ArchiveTask(
            workspace.raw(dataset.name) / part.name,
            part.sha256,
            archive_stem(part.name),
            kind.key,
            StoreSpec.of(workspace, dataset),
            folder / shard_name(index),
        )
        for index, part in enumerate(archives)
    ]
    return build_shards(
        "images",
        dataset.name,
        folder,
        tasks,
        make_from_archive,
        count_images,
        facts={"store": workspace.config.images, "archives": [part.name for part in archives]},
        workers=workspace.workers,
        force=force,
        dry_run=dry_run,
    )


def make_from_archive(task: ArchiveTask) -> None:
    """Store every image of one archive and write its shard of the index.

    Of members with one name the last counts, as when a tar is unpacked; of different members with one key the first.
    """
    from prep.images.archives import image_key, image_members, safe_member
    from prep.images.index import IndexRow, store_image, write_index
    from prep.images.store import open_store

    store = open_store(task.store.root, task.store.dataset, task.store.s3_endpoint, writer=task.output.stem)
    rows: dict[str, IndexRow] = {}
    files: set[str] = set()
    folders: set[str] = set()
    for member, data in image_members(task.archive):
        key = image_key(task.key, task.stem, member)
        if key in rows and rows[key].source != member:
            continue
        safe = safe_member(member)
        above = set() if safe is None else {str(folder) for folder in PurePosixPath(safe).parents}
        if safe is None or safe in folders or above & files:  # also a file that is a folder elsewhere
            rows[key] = IndexRow(key, "unsafe_name", member)
        elif data is None:
            rows[key] = IndexRow(key, "too_large", member)
        else:
            files.add(safe)
            folders |= above
            rows[key] = store_image(store, key, f"{task.stem}/{safe}", member, data)
    store.sync()
    write_index(task.output, rows.values(), task.fingerprint)


def count_images(task: ArchiveTask | UrlTask) -> dict[str, int]:
    """Images of the finished shard by status."""
    from prep.images.index import count_statuses

    return count_statuses(task.output)


# -- addresses -----------------------------------------------------------------------------------------------


def _from_urls(workspace: Workspace, dataset: Dataset, force: bool, dry_run: bool) -> Outcome:
    tables = [table for table in workspace.table_names if table in dataset.tables]
    manifests = {table: read_finished(workspace.filtered(table)) for table in tables}
    if not all(manifests.values()):
        return Outcome("images", dataset.name, "waiting", note="normalize and filter first")
    folder = workspace.index(dataset.name)
    index = read_finished(folder)
    is_covered = all(_is_covered(manifest) for manifest in manifests.values())
    if not force and index and is_covered and index.facts["store"] == workspace.config.images:
        return Outcome("images", dataset.name, "up to date", 0, len(index.shards), index)

    tasks: list[UrlTask] = []
    for table in tables:
        normalized = read_finished(workspace.normalized(table))
        for shard in normalized.shards if normalized else ():
            for chunk in range(-(-(shard.rows or 0) // CHUNK_ROWS)):
                tasks.append(
                    UrlTask(
                        table,
                        shard.name,
                        chunk,
                        workspace.filtered(table) / shard.name,
                        workspace.dropped(table) / shard.name,
                        StoreSpec.of(workspace, dataset),
                        workspace.config.allow_private_hosts,
                        force,
                        folder / chunk_name(table, shard.name, chunk),
                    )
                )
    stale = set() if force else _stale_chunks(tasks)
    return build_shards(
        "images",
        dataset.name,
        folder,
        tasks,
        make_from_urls,
        count_images,
        facts={"store": workspace.config.images},
        workers=workspace.workers,
        force=force,
        dry_run=dry_run,
        is_stale=lambda task: task.output.name in stale,
    )


def _is_covered(filtered: Manifest | None) -> bool:
    """Whether the filter saw the index and found no passing row without an image in it."""
    return filtered is not None and bool(filtered.facts["has_images"]) and not filtered.counts.get(NOT_FETCHED)


def _passing_rows(task: UrlTask) -> str:
    """SQL of the rows of a chunk's whole shard that pass the filter, or would if their image were there."""
    columns = f"{ROW}, {IMAGE_KEY}, {URL}"
    return (
        f"(SELECT {columns} FROM {sql.parquet_files([task.filtered])} UNION ALL "
        f"SELECT {columns} FROM {sql.parquet_files([task.dropped])} WHERE reason = '{NOT_FETCHED}')"
    )


def _stale_chunks(tasks: Sequence[UrlTask]) -> set[str]:
    """Index shards, of those there are, that lack an image which is wanted now; one query for a shard of samples."""
    stale: set[str] = set()
    by_shard: dict[Path, list[UrlTask]] = {}
    for task in tasks:
        if fingerprint_in(task.output) == task.fingerprint:
            by_shard.setdefault(task.filtered, []).append(task)
    for present in by_shard.values():
        known = sql.parquet_files([task.output for task in present])
        query = (
            f"SELECT DISTINCT {ROW} // {CHUNK_ROWS} FROM {_passing_rows(present[0])} "
            f"WHERE {IMAGE_KEY} NOT IN (SELECT {IMAGE_KEY} FROM {known})"
        )
        with sql.connect(present[0].output) as connection:
            lacking = {chunk for (chunk,) in connection.execute(query).fetchall()}
        stale |= {task.output.name for task in present if task.chunk in lacking}
    return stale


def _missing_images(task: UrlTask, known: Sequence[IndexRow]) -> list[tuple[str, str]]:
    """(image key, address) of the chunk's rows that pass the filter and are not known, in row order."""
    first = task.chunk * CHUNK_ROWS
    query = (
        f"SELECT {IMAGE_KEY}, any_value({URL}) FROM {_passing_rows(task)} "
        f"WHERE {ROW} BETWEEN {first} AND {first + CHUNK_ROWS - 1} GROUP BY {IMAGE_KEY} ORDER BY min({ROW})"
    )
    keys = {row.image_key for row in known}
    with sql.connect(task.output) as connection:
        return [(key, url) for key, url in connection.execute(query).fetchall() if key not in keys]


def _known_images(task: UrlTask) -> list[IndexRow]:
    """The chunk's index as it stands, unless its images are to be fetched anew or were kept elsewhere."""
    from prep.images.index import IndexRow, read_index

    if task.refetch or fingerprint_in(task.output) != task.fingerprint:
        return []
    return [IndexRow(**row) for row in read_index([task.output]).to_pylist()]


def make_from_urls(task: UrlTask) -> None:
    """Fetch and store the images that a chunk lacks, and write its shard of the index.

    Raises:
        SourceError: none of at least `HOPELESS` addresses could be reached: that is this machine, not the images.
    """
    from prep.images.fetch import Fetched, fetch_all
    from prep.images.index import IndexRow, store_image, write_index
    from prep.images.store import open_store

    known = _known_images(task)
    missing = _missing_images(task, known)
    store = open_store(task.store.root, task.store.dataset, task.store.s3_endpoint, writer=task.output.stem)
    rows: dict[int, IndexRow] = {}

    def keep(place: int, fetched: Fetched) -> None:
        key, url = missing[place]
        if fetched.status == "ok":
            rows[place] = store_image(store, key, f"{key[:2]}/{key}", url, fetched.data)
        else:
            rows[place] = IndexRow(key, fetched.status, url, error=fetched.error)

    fetch_all((url for _, url in missing), keep, allow_private_hosts=task.allow_private_hosts)
    unreached = [row for row in rows.values() if row.status in ("dns", "connect", "timeout", "tls")]
    if len(unreached) == len(rows) >= HOPELESS:
        raise SourceError(
            f"none of {len(rows)} addresses of {task.store.dataset} could be reached; the first: "
            f"{unreached[0].status} ({unreached[0].error}) for {unreached[0].source}",
            "Check the network and DNS of this machine, then run the same command.",
        )
    store.sync()
    # By key, so that the bytes do not depend on which rows were fetched first.
    in_order = sorted([*known, *rows.values()], key=lambda row: row.image_key)
    write_index(task.output, in_order, task.fingerprint)
