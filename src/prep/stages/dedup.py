"""dedup: which rows are others once more, by address, caption, bytes or look, over all tables together.

For one sort of key after the other: every shard's keys are hashed and sorted in runs, then each partition of the keys
is looked at over all runs. What was taken out for one key is not looked at by the next. Nothing is dropped here: the
facts go to `dedup/`, and `filter` judges by them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from prep import sql
from prep.config import Dataset, Dedup, GivenImages, Table, UrlImages
from prep.engine import run_tasks
from prep.errors import ConfigError, UsageError
from prep.files import atomic_path, write_text
from prep.images.chunks import index_shards
from prep.manifest import Manifest, fingerprint, read_finished
from prep.progress import Bar, bar
from prep.schema import AESTHETIC_SCORE, CAPTION, REASON, ROW
from prep.stages.dedup_facts import (
    OF_KEY,
    OF_TABLE,
    REASONS,
    VERSION,
    against_files,
    in_full,
    pool_names,
    pool_tables,
)
from prep.stages.dedup_groups import LOST, ROW_BITS, Rows, read_keys, save, split_best, taken_out
from prep.stages.dedup_keys import DONE, PHASH, Images, KeyTask, Source, keys_of_file, lost_of, make_keys
from prep.stages.dedup_near import PairTask, choose_masks, find_pairs, near_rows, take_out, write_nodes
from prep.stages.dedup_phash import hash_images
from prep.stages.shards import Outcome, ShardTask, build_shards
from prep.workspace import Workspace

T = TypeVar("T")

PARTITION_ROWS = 2_000_000  # in memory at once, some 300 MB with what sorting takes


@dataclass(frozen=True)
class FactTask(ShardTask):
    """The duplicates of one shard of samples.

    Attributes:
        names: table and part of every shard, by its number.
        folders: reason -> folder of what was taken out for it.
        inputs: a name for all that was looked at together.
    """

    source: Source
    names: tuple[tuple[str, str], ...]
    folders: tuple[tuple[str, Path], ...]
    within: bool
    inputs: str
    output: Path

    @property
    def fingerprint(self) -> str:
        """Everything the shard is made from."""
        return fingerprint([VERSION, self.inputs, self.source.number])


def dedup(workspace: Workspace, *, force: bool = False, dry_run: bool = False) -> Iterator[Outcome]:
    """Find the duplicates that the workspace is asked for, and write them down for every table.

    Raises:
        UsageError, ConfigError: nothing is asked, or it cannot be done with these tables.
    """
    asked = check_asked(workspace, workspace.given_rules().dedup or Dedup())
    tables = [name for name in (*asked["tables"], *asked["against"]) if name in workspace.table_names]
    filtered = {name: read_finished(workspace.filtered(name)) for name in tables}
    ready = {name: manifest for name, manifest in filtered.items() if manifest is not None}
    if late := [name for name in tables if name not in ready]:
        for name in asked["tables"]:
            yield Outcome("dedup", name, "waiting", note=f"filter {late[0]} first")
        return
    _check_scores(workspace, asked, ready)
    is_published = "phash" in asked["by"] and _uses_published(workspace, ready)
    if "phash" in asked["by"] and not is_published:
        for dataset in dict.fromkeys(name for table in ready for name in _shown(workspace, table, ready[table])):
            outcome = hash_images(workspace, dataset, force=force, dry_run=dry_run)
            yield outcome
    sources = _sources(workspace, asked, ready, is_published)
    if not any(source.keys for source in sources if not source.is_protected):
        for name in asked["tables"]:
            yield Outcome("dedup", name, "waiting", note="images first, then filter")
        return
    yield from _facts(workspace, asked, sources, force, dry_run)


# -- what is asked -----------------------------------------------------------------------------------------------------


def check_asked(workspace: Workspace, request: Dedup) -> dict[str, Any]:
    """What is asked, with every default filled in.

    Raises:
        UsageError: nothing to tell duplicates by, no table, or one that is not there.
    """
    if not request.by:
        raise UsageError(
            "nothing says what makes two rows duplicates",
            f"For example --by url,sha256; there are: {', '.join(REASONS)}.",
        )
    workspace.select_tables(request.tables or ())
    tables = pool_tables(workspace, request)
    if not tables:
        raise UsageError(
            "no table is left to remove duplicates from",
            "Name tables that are not under --against; without names, only text-to-image tables are taken.",
        )
    if not any(_can_have(workspace, table, key) for table in tables for key in request.by):
        raise UsageError(
            f"none of {', '.join(tables)} has {' or '.join(request.by)}",
            "Addresses stand in lists of addresses; sha256 and phash are known of images that prep stores.",
        )
    for name in request.against or ():
        if name not in workspace.table_names:
            against_files(workspace, name)
    return in_full(workspace, request)


def _can_have(workspace: Workspace, table: str, key: str) -> bool:
    """Whether rows of a table can be told by a key, now or when its images are there."""
    own, definition = workspace.table(table)
    if key == "caption":
        return definition.shape.column(CAPTION) is not None
    if key == "url":
        return _is_url(own, definition)
    if key == "phash" and PHASH in definition.extra:
        return True
    return definition.shape.image_path is not None and not _are_given(workspace, table)


def _is_url(own: Dataset, definition: Table) -> bool:
    return isinstance(own.images, UrlImages) and definition.images_from is None


def _are_given(workspace: Workspace, table: str) -> bool:
    own, definition = workspace.table(table)
    shown = definition.image_datasets(own.name).values()
    return any(isinstance(workspace.catalogue.dataset(name).images, GivenImages) for name in shown)


def _check_scores(workspace: Workspace, asked: Mapping[str, Any], filtered: Mapping[str, Manifest]) -> None:
    """Raise ConfigError where the highest score is to stay and the tables' scores are of several scales."""
    scales: dict[str | None, str] = {}
    for name in asked["tables"] if asked["keep"] == "score" else ():
        facts = filtered[name].facts
        if AESTHETIC_SCORE in facts["columns"]:
            computed = facts.get("scores", {}).get(AESTHETIC_SCORE, {})
            scales.setdefault(computed.get("scale", workspace.table(name)[1].scores.get(AESTHETIC_SCORE)), name)
    if len(scales) > 1:
        (one, first), (other, second) = list(scales.items())[:2]
        raise ConfigError(
            f"scores of {first} ({one or 'of a scale that nobody has named'}) and of {second} "
            f"({other or 'of a scale that nobody has named'}) cannot be compared, so no row has the highest",
            "`prep dedup --keep largest`, or `--keep first`, lets another row stay.",
        )


def _uses_published(workspace: Workspace, filtered: Mapping[str, Manifest]) -> bool:
    """Whether perceptual hashes are the publishers' own; hashes of two sorts cannot be compared.

    Computed ones are taken where a table has images and no published hash.
    """
    published = {name: _has_phash(workspace, name) for name in filtered}
    return any(published.values()) and not any(
        _shown(workspace, name, filtered[name]) for name in filtered if not published[name]
    )


def _has_phash(workspace: Workspace, table: str) -> bool:
    samples = read_finished(workspace.normalized(table))
    return samples is not None and bool(samples.counts.get(PHASH))


def _shown(workspace: Workspace, table: str, filtered: Manifest) -> tuple[str, ...]:
    """Datasets whose index has the table's images; none where they are given, or not fetched yet."""
    own, definition = workspace.table(table)
    names = tuple(dict.fromkeys(definition.image_datasets(own.name).values()))
    is_indexed = filtered.facts["has_images"] and not _are_given(workspace, table)
    return names if is_indexed and definition.shape.image_path else ()


# -- where the rows are ------------------------------------------------------------------------------------------------


def _sources(
    workspace: Workspace, asked: Mapping[str, Any], filtered: Mapping[str, Manifest], is_published: bool
) -> list[Source]:
    """Every shard whose rows are looked at, numbered in the order of the tables.

    Raises:
        UsageError: a file has none of the columns that are asked for.
    """
    sources: list[Source] = []
    for name in (*asked["tables"], *asked["against"]):
        if name in filtered:
            sources += _of_table(workspace, name, asked, filtered[name], is_published, len(sources))
        else:
            sources += _of_files(workspace, name, asked, len(sources))
    return sources


def _of_table(
    workspace: Workspace,
    name: str,
    asked: Mapping[str, Any],
    filtered: Manifest,
    is_published: bool,
    first: int,
) -> Iterator[Source]:
    own, definition = workspace.table(name)
    samples = read_finished(workspace.normalized(name))
    if samples is None or len(samples.shards) != len(filtered.shards):
        raise UsageError(f"table {name} was normalized anew since it was filtered", "Run `prep filter`.")
    has_phash = is_published and _has_phash(workspace, name)
    shown = _shown(workspace, name, filtered)
    is_url = _is_url(own, definition)
    folders = (workspace.normalized(name), workspace.filtered(name), workspace.dropped(name))
    has = {"url": is_url, "caption": definition.shape.column(CAPTION) is not None, "sha256": bool(shown)}
    has["phash"] = has_phash if is_published else bool(shown)
    indexes = {dataset: read_finished(workspace.index(dataset)) for dataset in shown}
    for number, (shard, part) in enumerate(zip(samples.shards, samples.facts["parts"], strict=True)):
        images = []
        for dataset, index in indexes.items():
            known = () if index is None else index_shards(index, name, shard.name) if is_url else index.shards
            of_images = (workspace.index(dataset), workspace.phash(dataset))
            paths = [tuple(folder / fact.name for fact in known) for folder in of_images]
            images.append(Images(dataset, paths[0], () if is_published else paths[1]))
        yield Source(
            name,
            part,
            first + number,
            tuple(key for key in asked["by"] if has[key] and (key in ("url", "caption") or has_phash or _any(images))),
            name in asked["against"],
            definition.kind,
            tuple(filtered.facts["columns"]),
            is_url,
            tuple(folder / shard.name for folder in folders),
            tuple(images),
            workspace.image_root,
            has_phash,
        )


def _any(images: Sequence[Images]) -> bool:
    return any(one.index for one in images)


def _of_files(workspace: Workspace, name: str, asked: Mapping[str, Any], first: int) -> Iterator[Source]:
    import pyarrow.parquet as pq

    for number, path in enumerate(against_files(workspace, name)):
        columns = tuple(pq.read_schema(path).names)
        keys = tuple(key for key in keys_of_file(columns) if key in asked["by"])
        if not keys:
            raise UsageError(
                f"{path} has none of the columns {', '.join(asked['by'])}", f"It has: {', '.join(columns)}."
            )
        yield Source(name, path.name, first + number, keys, True, "", columns, False, (path,), (), "", False)


# -- the work ----------------------------------------------------------------------------------------------------------


def _facts(
    workspace: Workspace, asked: Mapping[str, Any], sources: Sequence[Source], force: bool, dry_run: bool
) -> Iterator[Outcome]:
    """The facts of every table, up to date or made."""
    pool = pool_names(workspace, asked)
    inputs = fingerprint([VERSION, asked, pool])
    work = workspace.dedup_work / inputs
    folders = tuple((REASONS[key], work / key) for key in asked["by"])
    names = tuple((source.name, source.part) for source in sources)
    builds: dict[str, Callable[..., Outcome]] = {}
    for table in asked["tables"]:
        own = [source for source in sources if source.name == table]
        tasks = [
            FactTask(source, names, folders, asked["within"], inputs, workspace.dedup(table) / source.paths[0].name)
            for source in own
        ]
        facts = {"dataset": workspace.table(table)[0].name, "asked": asked, "pool": pool}
        builds[table] = partial(
            build_shards,
            "dedup",
            table,
            workspace.dedup(table),
            tasks,
            write_duplicates,
            count_duplicates,
            facts=facts,
            workers=workspace.workers,
        )
    plans = [build(force=force, dry_run=True) for build in builds.values()]
    is_finished = all(plan.state == "up to date" for plan in plans)
    if not is_finished and not dry_run:
        _clear(workspace.dedup_work, work, force)
        for number, key in enumerate(asked["by"]):
            _look(workspace, asked, sources, key, work / key, [work / before for before in asked["by"][:number]])
        plans = [build(force=True) for build in builds.values()]
        shutil.rmtree(workspace.dedup_work)
    for plan in plans:
        missing = _missing_keys(asked, [source for source in sources if source.name == plan.name])
        yield replace(plan, note=f"no {' or '.join(missing)} here" if missing else "")


def _missing_keys(asked: Mapping[str, Any], sources: Sequence[Source]) -> list[str]:
    """What none of a table's rows can be told by, now."""
    return [key for key in asked["by"] if not any(key in source.keys for source in sources)]


def _clear(folder: Path, work: Path, force: bool) -> None:
    """Remove what earlier, different questions have left half done."""
    for other in folder.glob("*"):
        if other != work or force:
            shutil.rmtree(other)
    work.mkdir(parents=True, exist_ok=True)


def _look(
    workspace: Workspace,
    asked: Mapping[str, Any],
    sources: Sequence[Source],
    key: str,
    folder: Path,
    earlier: Sequence[Path],
) -> None:
    """Find what is to be taken out for one sort of key; goes on with what a killed run has left."""
    if (folder / DONE).exists():
        return
    workers, memory = sql.share_memory(workspace.workers, workspace.memory)
    keys = folder / "keys"
    shards = [
        KeyTask(source, key, asked["keep"], asked["within"], tuple(earlier), memory, keys / str(source.number))
        for source in sources
        if key in source.keys
    ]
    with bar(f"dedup by {key}", len(shards), "shards") as advance:
        _run(make_keys, shards, lambda task: task.output / DONE, workers, advance)
    runs = tuple(sorted(folder.glob("keys/*/run-*.npy")))
    rows = sum(len(np.load(run, mmap_mode="r")) for run in runs)
    partitions = max(1, -(-rows // PARTITION_ROWS))
    tasks = [PartitionTask(runs, number, partitions, asked["within"], folder) for number in range(partitions)]
    if key == "phash" and asked["distance"]:
        _look_near(tasks, asked, folder, workers, memory)
    with bar(f"dedup by {key}", partitions, "partitions") as advance:
        _run(find_lost, tasks, lambda task: task.output, workers, advance)
    write_text(folder / DONE, "")
    for path in runs:
        path.unlink()
    for sorted_folder in ("nodes", "pairs", "near"):
        shutil.rmtree(folder / sorted_folder, ignore_errors=True)


def _run(
    function: Callable[[T], None], tasks: Sequence[T], done: Callable[[T], Path], workers: int, advance: Bar
) -> None:
    """Run the tasks that an earlier run has not finished."""
    missing = [task for task in tasks if not done(task).exists()]
    advance(len(tasks) - len(missing))
    for _ in run_tasks(function, missing, workers=workers):
        advance(1)


@dataclass(frozen=True)
class PartitionTask:
    """The rows of one partition that are taken out.

    Attributes:
        folder: of one sort of key.
    """

    runs: tuple[Path, ...]
    number: int
    partitions: int
    within: bool
    folder: Path

    @property
    def output(self) -> Path:
        """Rows that are taken out."""
        return self.folder / "lost" / f"{self.number:05d}.npy"

    @property
    def nodes(self) -> Path:
        """Of perceptual hashes, the best row of each."""
        return self.folder / "nodes" / f"{self.number:05d}.parquet"

    @property
    def near(self) -> Path:
        """Hashes that are taken out for another one near them; there is no file where only equal ones count."""
        return self.folder / "near" / str(self.number)


def find_lost(task: PartitionTask) -> None:
    """Write which rows of a partition are taken out, and which row stays for each."""
    rows = read_keys(task.runs, task.number, task.partitions)
    near: Rows = np.empty(0, dtype=LOST)
    if task.near.exists():
        near = near_rows(task.near, split_best(rows)[0])
    save(task.output, taken_out(rows, near, within=task.within))


def find_nodes(task: PartitionTask) -> None:
    """Write the best row of each perceptual hash of a partition."""
    write_nodes(task.nodes, split_best(read_keys(task.runs, task.number, task.partitions))[0])


def _look_near(
    tasks: Sequence[PartitionTask], asked: Mapping[str, Any], folder: Path, workers: int, memory: int
) -> None:
    """Find the hashes that are taken out for others near them."""
    import pyarrow.parquet as pq

    near = folder / "near"
    if (near / DONE).exists():
        return
    shutil.rmtree(near, ignore_errors=True)
    with bar("dedup by phash", len(tasks), "partitions") as advance:
        _run(find_nodes, tasks, lambda task: task.nodes, workers, advance)
    nodes = tuple(task.nodes for task in tasks)
    count = sum(pq.read_metadata(path).num_rows for path in nodes)
    masks = tuple(choose_masks(count, asked["distance"]))
    pairs = [
        PairTask(nodes, count, masks, number, asked["distance"], folder / "pairs" / f"{number:05d}.parquet")
        for number in range(len(masks))
    ]
    with bar("dedup by phash", len(pairs), "sorts") as advance:
        _run(find_pairs, pairs, lambda task: task.output, workers, advance)
    take_out(nodes, [task.output for task in pairs], near, len(tasks), memory * workers, within=asked["within"])


# -- the facts ---------------------------------------------------------------------------------------------------------


def write_duplicates(task: FactTask) -> None:
    """Write the duplicates of one shard: row, reason, and which row stays for it, in the order of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [(reason, lost_of(folder, task.source, within=task.within)) for reason, folder in task.folders]
    place = np.concatenate([lost["place"] for _, lost in found])
    winner = np.concatenate([lost["winner"] for _, lost in found])
    reasons = [reason for reason, lost in found for _ in range(len(lost))]
    order = np.argsort(place)
    row = (place & np.uint64((1 << ROW_BITS) - 1)).astype(np.int64)
    shard, of_row = (winner >> np.uint64(ROW_BITS)).tolist(), (winner & np.uint64((1 << ROW_BITS) - 1)).tolist()
    table = pa.table(
        {
            ROW: pa.array(row, pa.int64()),
            REASON: pa.array(reasons, pa.string()),
            OF_TABLE: pa.array([task.names[number][0] for number in shard], pa.string()),
            OF_KEY: pa.array(
                [f"{task.names[number][1]}#{of}" for number, of in zip(shard, of_row, strict=True)], pa.string()
            ),
        }
    )
    metadata = {sql.TASK_KEY: task.fingerprint}
    with atomic_path(task.output) as temporary:
        pq.write_table(table.take(order).replace_schema_metadata(metadata), temporary, compression="zstd")


def count_duplicates(task: FactTask) -> dict[str, int]:
    """Duplicates of the finished shard by reason."""
    import pyarrow.parquet as pq

    counts = pq.read_table(task.output, columns=[REASON])[REASON].value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: str(count["values"]))}
