"""dedup: which rows are others once more, by address, caption, bytes or look, over all tables together.

For one sort of key after the other: every shard's keys are hashed and sorted in runs, then each partition of the keys
is looked at over all runs. What was taken out for one key is not looked at by the next. Nothing is dropped here: the
facts go to `dedup/`, and `filter` judges by them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from prep import sql
from prep.config import Dedup
from prep.engine import run_tasks
from prep.errors import ConfigError, UsageError
from prep.files import atomic_path, write_text
from prep.manifest import Manifest, fingerprint, read_manifest
from prep.progress import Bar, bar
from prep.schema import AESTHETIC_SCORE, CAPTION, REASON, ROW
from prep.stages.dedup_facts import (
    OF_KEY,
    OF_TABLE,
    PHASH,
    REASONS,
    VERSION,
    against_files,
    in_full,
    pool_names,
    pool_tables,
    remember_files,
)
from prep.stages.dedup_groups import LOST, ROW_BITS, Numbers, Rows, read_keys, save, split_best, taken_out
from prep.stages.dedup_keys import (
    DONE,
    KeyTask,
    Source,
    keys_made,
    lost_of,
    make_keys,
)
from prep.stages.dedup_near import PairTask, choose_masks, find_pairs, near_rows, take_out, write_nodes
from prep.stages.dedup_phash import hash_images
from prep.stages.dedup_sources import are_given, is_url, shown_datasets, sources_of, uses_published
from prep.stages.shards import Outcome, ShardTask, build_shards
from prep.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
Compared = Mapping[str, Mapping[str, int]]  # what is under --against -> its `rows`, and how many have each key

PARTITION_ROWS = 2_000_000  # in memory at once, some 300 MB with what sorting takes
FACT_ROWS = 100_000  # of the facts of a shard, put into words at once
JOIN_MEMORY = (
    500_000_000  # bytes in which rows are joined with hashes, or pairs with rows, whatever is free: the rest is spilled
)


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
    filtered = {name: workspace.read_filtered(name) for name in tables}
    ready = {name: manifest for name, manifest in filtered.items() if manifest is not None}
    if late := [name for name in tables if name not in ready]:
        for name in asked["tables"]:
            yield Outcome("dedup", name, "waiting", note=f"filter {late[0]} first")
        return
    _check_scores(workspace, asked, ready)
    is_published = "phash" in asked["by"] and uses_published(workspace, ready)
    if "phash" in asked["by"] and not is_published:
        shown = (shown_datasets(workspace, table, manifest) for table, manifest in ready.items())
        for dataset in dict.fromkeys(chain.from_iterable(shown)):
            yield hash_images(workspace, dataset, force=force, dry_run=dry_run)
    sources = sources_of(workspace, asked, ready, is_published)
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
        return is_url(own, definition)
    if key == "phash" and PHASH in definition.extra:
        return True
    return definition.shape.image_path is not None and not are_given(workspace, table)


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


# -- the facts of all tables -------------------------------------------------------------------------------------------


def _facts(
    workspace: Workspace, asked: Mapping[str, Any], sources: Sequence[Source], force: bool, dry_run: bool
) -> Iterator[Outcome]:
    """The facts of every table, up to date or made."""
    if not dry_run:
        remember_files(workspace, [source.paths[0] for source in sources if not source.kind])
    pool = pool_names(workspace, asked)
    inputs = fingerprint([VERSION, asked, pool])
    work = workspace.dedup_work / inputs
    tasks = _fact_tasks(workspace, asked, sources, inputs, work)

    def build(compared: Compared, *, force: bool, dry_run: bool = False) -> list[Outcome]:
        """The facts of each table; a dry run only says whether they are up to date."""
        facts = {"asked": asked, "pool": pool, **({"compared": compared} if asked["against"] else {})}
        return [
            build_shards(
                "dedup",
                table,
                workspace.dedup(table),
                own,
                write_duplicates,
                count_duplicates,
                facts={"dataset": workspace.table(table)[0].name, **facts},
                workers=workspace.workers,
                force=force,
                dry_run=dry_run,
            )
            for table, own in tasks.items()
        ]

    compared = _known_compared(workspace, asked, pool)
    outcomes = build(compared, force=force, dry_run=True)
    if not dry_run and any(outcome.state != "up to date" for outcome in outcomes):
        _clear(workspace.dedup_work, work, force)
        for number, key in enumerate(asked["by"]):
            _look(workspace, asked, sources, key, work / key, [work / before for before in asked["by"][:number]])
        compared = _compared(asked, sources, work)
        outcomes = build(compared, force=True)
    if not dry_run and workspace.dedup_work.exists():
        shutil.rmtree(workspace.dedup_work)
    for outcome in outcomes:
        yield replace(outcome, note=_note(asked, outcome.name, sources, compared))


def _fact_tasks(
    workspace: Workspace, asked: Mapping[str, Any], sources: Sequence[Source], inputs: str, work: Path
) -> dict[str, list[FactTask]]:
    """The tasks of each table."""
    folders = tuple((REASONS[key], work / key) for key in asked["by"])
    names = tuple((source.name, source.part) for source in sources)
    tasks: dict[str, list[FactTask]] = {table: [] for table in asked["tables"]}
    for source in sources:
        if not source.is_protected:
            output = workspace.dedup(source.name) / source.paths[0].name
            tasks[source.name].append(FactTask(source, names, folders, asked["within"], inputs, output))
    return tasks


# -- what is said of it ------------------------------------------------------------------------------------------------


def _compared(asked: Mapping[str, Any], sources: Sequence[Source], work: Path) -> Compared:
    """How many rows of each source under `--against` there are, and how many of them have each key."""
    found: dict[str, dict[str, int]] = {name: {"rows": 0} | dict.fromkeys(asked["by"], 0) for name in asked["against"]}
    for source in sources:
        if source.is_protected:
            found[source.name]["rows"] += source.rows
            for key in source.keys:
                found[source.name][key] += keys_made(work / key, source)
    return found


def _known_compared(workspace: Workspace, asked: Mapping[str, Any], pool: Mapping[str, str]) -> Compared:
    """The same, as it was found of these very rows; empty where it was not yet."""
    for table in asked["tables"]:
        manifest = read_manifest(workspace.dedup(table))
        if manifest is not None and (manifest.facts["asked"], manifest.facts["pool"]) == (asked, pool):
            return dict(manifest.facts.get("compared", {}))
    return {}


def _note(asked: Mapping[str, Any], table: str, sources: Sequence[Source], compared: Compared) -> str:
    """What of a table, and of what is under `--against`, could not be looked at, and how much was."""
    missing = _missing_keys(asked, table, sources)
    notes = [f"no {' or '.join(missing)} here"] if missing else []
    for name in asked["against"]:
        if name in compared:
            rows = [f"{compared[name][key]:,}" if compared[name][key] else "none" for key in asked["by"]]
            first, *others = [f"{number} by {key}" for number, key in zip(rows, asked["by"], strict=True)]
            first = first.replace(" by", f" of {compared[name]['rows']:,} rows by")
            notes.append(f"against {name}: {', '.join([first, *others])}")
        elif missing := _missing_keys(asked, name, sources):
            notes.append(f"no {' or '.join(missing)} in {name}")
    return "; ".join(notes)


def _missing_keys(asked: Mapping[str, Any], name: str, sources: Sequence[Source]) -> list[str]:
    """What none of the rows of a table, or of files, can be told by, now."""
    own = [source for source in sources if source.name == name]
    return [key for key in asked["by"] if not any(key in source.keys for source in own)]


# -- the work ----------------------------------------------------------------------------------------------------------


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
    joining = min(memory, JOIN_MEMORY)
    keys = folder / "keys"
    shards = [
        KeyTask(source, key, asked["keep"], asked["within"], tuple(earlier), joining, keys / str(source.number))
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
    joining = min(memory * workers, JOIN_MEMORY)
    take_out(nodes, [task.output for task in pairs], near, len(tasks), joining, within=asked["within"])


# -- the facts of one shard --------------------------------------------------------------------------------------------


def write_duplicates(task: FactTask) -> None:
    """Write the duplicates of one shard: row, reason, and which row stays for it, in the order of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [lost_of(folder, task.source, within=task.within) for _, folder in task.folders]
    lost = np.concatenate(found)
    number_of_reason = np.repeat(np.arange(len(found), dtype=np.int8), [len(one) for one in found])
    found.clear()
    order = np.argsort(lost["place"])
    tables, parts = zip(*task.names, strict=True)
    texts = [pa.array(values, pa.string()) for values in ([reason for reason, _ in task.folders], tables, parts)]
    columns = [(ROW, pa.int64()), (REASON, pa.string()), (OF_TABLE, pa.string()), (OF_KEY, pa.string())]
    schema = pa.schema(columns, metadata={sql.TASK_KEY: task.fingerprint})
    with atomic_path(task.output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for first in range(0, len(order), FACT_ROWS):
            chosen = order[first : first + FACT_ROWS]
            writer.write_table(_in_words(lost[chosen], number_of_reason[chosen], texts, schema))


def _in_words(lost: Rows, number_of_reason: Numbers, texts: Sequence[pa.Array], schema: pa.Schema) -> pa.Table:
    """Some of the duplicates as they are written.

    Args:
        texts: the reasons; of every shard its table; and its part.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    reasons, tables, parts = texts
    in_shard = np.uint64((1 << ROW_BITS) - 1)
    shard, of_row = lost["winner"] >> np.uint64(ROW_BITS), (lost["winner"] & in_shard).astype(np.int64)
    of_key = pc.binary_join_element_wise(parts.take(pa.array(shard)), pa.array(of_row).cast(pa.string()), "#")
    row = (lost["place"] & in_shard).astype(np.int64)
    return pa.table(
        [row, reasons.take(pa.array(number_of_reason)), tables.take(pa.array(shard)), of_key], schema=schema
    )


def count_duplicates(task: FactTask) -> dict[str, int]:
    """Duplicates of the finished shard by reason."""
    import pyarrow.parquet as pq

    counts: Counter[str] = Counter()
    with pq.ParquetFile(task.output) as file:
        for batch in file.iter_batches(columns=[REASON]):
            counts.update({found["values"]: found["counts"] for found in batch.column(0).value_counts().to_pylist()})
    return {reason: counts[reason] for reason in sorted(counts)}
