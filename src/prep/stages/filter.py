"""filter: one query a shard that joins samples with the facts about their images and keeps what passes every rule.

Rows in = kept + dropped; a dropped row keeps its columns and the first reason that held. The numbers applied are in
the manifest, and are what emit-yaml writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from prep import sql
from prep.config import ArchiveImages, Dataset, GivenImages, Rules, Table, UrlImages
from prep.errors import ConfigError, DataError
from prep.images.chunks import NOT_FETCHED, index_shards
from prep.manifest import Manifest, Shard, fingerprint, read_finished
from prep.schema import (
    AESTHETIC_SCORE,
    DROP_REASON,
    HEIGHT,
    IMAGE_KEY,
    IMAGE_STATUS,
    KEY,
    KINDS,
    REASON,
    ROW,
    URL,
    WIDTH,
    Kind,
)
from prep.stages.shards import Outcome, ShardTask, build_shards
from prep.trainers.lavida_o import DEFAULT_AES_CUTOFF
from prep.workspace import Workspace

VERSION = 1  # raise when the same inputs give other bytes


@dataclass(frozen=True)
class FilterTask(ShardTask):
    """The kept and the dropped rows of one shard of samples.

    Attributes:
        columns: the trainer's columns that hold anything, in order.
        images: `url`, `given` or `archive`.
        index: shards of the image index that may hold its images; None where no image is fetched yet.
        image_root: what the index's paths are below.
    """

    samples: Path
    samples_sha256: str
    kind: str
    columns: tuple[str, ...]
    rules: Rules
    images: str
    index: tuple[Path, ...] | None
    index_sha256: tuple[str, ...]
    image_root: str
    dropped: Path
    output: Path

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The dropped rows, then the kept ones."""
        return (self.dropped, self.output)

    @property
    def fingerprint(self) -> str:
        """Everything the two files are made from."""
        facts = None if self.index is None else [self.index_sha256, self.image_root]
        rules = self.rules.model_dump(mode="json")
        return fingerprint([VERSION, self.samples_sha256, self.kind, self.columns, rules, self.images, facts])


def filter_table(
    workspace: Workspace, name: str, *, rules: Rules | None = None, force: bool = False, dry_run: bool = False
) -> Outcome:
    """Split the samples of table `name` into kept and dropped.

    Args:
        rules: what to apply; by default what the workspace says for the table.

    Raises:
        ConfigError: `where` is not SQL over the table's columns.
    """
    dataset, table = workspace.table(name)
    normalized = read_finished(workspace.normalized(name))
    if normalized is None:
        return Outcome("filter", name, "waiting", note="normalize first")
    images_of = workspace.catalogue.dataset(table.images_from or dataset.name)
    kind_of_images = _kind_of_images(images_of)
    index = read_finished(workspace.index(images_of.name)) if kind_of_images != "given" else None
    if index is not None and index.facts["store"] != workspace.config.images:
        index = None  # its images are where prep.yaml no longer says
    if index is None and kind_of_images == "archive":
        return Outcome("filter", name, "waiting", note=f"images of {images_of.name} first")

    columns = _columns_with_values(table.shape, normalized, has_index=index is not None)
    applied, notes = effective_rules(rules or workspace.rules(name), columns)
    tasks = _tasks(workspace, name, images_of, normalized, index, columns, applied)
    if applied.where is not None and tasks:
        _check_where(tasks[0])
    outcome = build_shards(
        "filter",
        name,
        workspace.filtered(name),
        tasks,
        split_samples,
        count_reasons,
        facts={
            "dataset": dataset.name,
            "kind": table.kind,
            "columns": list(columns),
            "rules": applied.model_dump(mode="json", exclude_none=True),
            "has_images": kind_of_images == "given" or index is not None,
            "rows_in": normalized.rows,
        },
        workers=workspace.workers,
        force=force,
        dry_run=dry_run,
    )
    return replace(outcome, note="; ".join(notes))


def _tasks(
    workspace: Workspace,
    name: str,
    images_of: Dataset,
    normalized: Manifest,
    index: Manifest | None,
    columns: tuple[str, ...],
    rules: Rules,
) -> list[FilterTask]:
    """One task for every shard of samples, with the facts it needs."""
    _, table = workspace.table(name)
    index_folder = workspace.index(images_of.name)
    tasks = []
    for number, shard in enumerate(normalized.shards):
        facts = () if index is None else _facts_for(name, table, images_of, normalized, number, index)
        tasks.append(
            FilterTask(
                workspace.normalized(name) / shard.name,
                shard.sha256,
                table.kind,
                columns,
                rules,
                _kind_of_images(images_of),
                None if index is None else tuple(index_folder / fact.name for fact in facts),
                tuple(fact.sha256 for fact in facts),
                f"{workspace.image_root}/{images_of.name}",
                workspace.dropped(name) / shard.name,
                workspace.filtered(name) / shard.name,
            )
        )
    return tasks


def _kind_of_images(images_of: Dataset) -> str:
    """`url`, `given`, or `archive`: how a sample finds its image in the index."""
    return images_of.images.kind if isinstance(images_of.images, UrlImages | GivenImages) else "archive"


def _facts_for(
    name: str, table: Table, images_of: Dataset, normalized: Manifest, number: int, index: Manifest
) -> tuple[Shard, ...]:
    """The index shards that can hold images of one shard of samples: as few as can be told."""
    images = images_of.images
    if isinstance(images, UrlImages):
        return index_shards(index, name, normalized.shards[number].name)
    is_by_part = isinstance(images, ArchiveImages) and images.key == "part-member" and table.images_from is None
    if is_by_part and "archives" in index.facts:
        pairs = zip(index.facts["archives"], index.shards, strict=True)
        return tuple(facts for archive, facts in pairs if archive == normalized.facts["parts"][number])
    return index.shards


def effective_rules(rules: Rules, columns: tuple[str, ...]) -> tuple[Rules, list[str]]:
    """What is really applied to a table with these columns, and what a person should know about it.

    Where scores are loaded the trainer always cuts, at 5 if nothing is said; so that rows in the file are rows in
    training, the same cut is made here. Where there are none, no cutoff can be applied.
    """
    notes = []
    if AESTHETIC_SCORE in columns:
        if rules.aes_cutoff is None:
            rules = rules.model_copy(update={"aes_cutoff": DEFAULT_AES_CUTOFF})
            notes.append(f"aes_cutoff {DEFAULT_AES_CUTOFF:g}, the trainer's own default")
    elif rules.aes_cutoff is not None:
        rules = rules.model_copy(update={"aes_cutoff": None})
        notes.append("no aesthetic scores, so no aes_cutoff")
    if rules.min_size is not None and not {HEIGHT, WIDTH} <= set(columns):
        rules = rules.model_copy(update={"min_size": None})
        notes.append("no image sizes, so no min_size")
    return rules, notes


def _columns_with_values(kind: Kind, normalized: Manifest, *, has_index: bool) -> tuple[str, ...]:
    """The kind's columns that are worth loading: required, or holding at least one value."""
    measured = {HEIGHT, WIDTH} if has_index else set()
    counts = normalized.counts
    return tuple(
        column.name for column in kind.columns if column.required or counts.get(column.name) or column.name in measured
    )


def split_samples(task: FilterTask) -> None:
    """Write the dropped, then the kept rows of one shard.

    Raises:
        DataError: `where` cannot be asked of a row, or an input is damaged.
    """
    judged = judged_query(task)
    metadata = {sql.TASK_KEY: task.fingerprint}
    kept = [*task.columns, KEY, ROW, IMAGE_KEY, *([URL] if task.images == "url" else [])]
    kept_columns = ", ".join(sql.name(column) for column in kept)
    mend = "If it is the --where, `prep filter --reset` forgets it; if a file is damaged, remove its folder and run."
    with sql.connect(task.output) as connection, sql.data_errors(f"{task.samples}, or its image index", mend):
        rows = connection.execute(f"SELECT count(*) FROM {sql.parquet_files([task.samples])}").fetchall()[0][0]
        if task.rules.where is not None:  # asked once: it need not give the same answer twice
            answers = f"SELECT {ROW} FROM ({_with_image_facts(task)}) WHERE ({task.rules.where}\n)"
            connection.execute(f"CREATE TEMP TABLE passing AS {answers}")
        dropped = f"SELECT * FROM ({judged}) WHERE {REASON} IS NOT NULL"
        passing = f"SELECT {kept_columns} FROM ({judged}) WHERE {REASON} IS NULL"
        written = sql.copy_to_parquet(connection, dropped, task.dropped, metadata)
        written += sql.copy_to_parquet(connection, passing, task.output, metadata)
    if written != rows:
        raise DataError(f"{task.samples} has {rows} rows, {written} were kept or dropped", "Please report this.")


def judged_query(task: FilterTask) -> str:
    """SQL of every sample with its image's facts, and `reason`: why it is dropped, or null."""
    facts = _with_image_facts(task)
    return f"SELECT * EXCLUDE ({DROP_REASON}, {IMAGE_STATUS}), {_reason(task)} AS {REASON} FROM ({facts})"


def _with_image_facts(task: FilterTask) -> str:
    """SQL of the samples with the image's path and, where it was measured, its true size."""
    path = KINDS[task.kind].image_path
    samples = sql.parquet_files([task.samples])
    if task.images == "given":
        return f"SELECT *, 'ok' AS image_status FROM {samples}"
    if not task.index:  # no image is fetched yet, or none of this shard
        return f"SELECT *, CAST(NULL AS VARCHAR) AS {path}, CAST(NULL AS VARCHAR) AS image_status FROM {samples}"
    measured = {HEIGHT: "height", WIDTH: "width"}
    sizes = [
        f"coalesce(i.{fact}, s.{sql.name(name)}) AS {sql.name(name)}"
        for name, fact in measured.items()
        if KINDS[task.kind].column(name)
    ]
    return f"""
        SELECT s.*{f" REPLACE ({', '.join(sizes)})" if sizes else ""},
               if(starts_with(i.path, '/'), i.path, {sql.text(task.image_root + "/")} || i.path) AS {path},
               i.status AS image_status
        FROM {samples} s LEFT JOIN (
            SELECT DISTINCT ON ({IMAGE_KEY}) * FROM {sql.parquet_files(task.index)}
        ) i USING ({IMAGE_KEY})
    """


def _reason(task: FilterTask) -> str:
    """SQL of the first reason to drop a row, or null.

    An image known to be missing comes before the rules, one not fetched yet after them: only rows that pass every
    rule are worth fetching. A size that nobody knows before the fetch is left to the second pass.
    """
    rules = task.rules
    branches = [f"WHEN {DROP_REASON} IS NOT NULL THEN {DROP_REASON}"]
    branches.append("WHEN image_status != 'ok' THEN 'image_' || image_status")
    if task.images == "archive":
        branches.append("WHEN image_status IS NULL THEN 'image_missing'")
    if rules.aes_cutoff is not None:
        branches.append(f"WHEN {AESTHETIC_SCORE} IS NULL THEN 'no_score'")
        branches.append(f"WHEN NOT {AESTHETIC_SCORE} > CAST('{rules.aes_cutoff!r}' AS DOUBLE) THEN 'aes_cutoff'")
    if rules.min_size is not None:
        if task.images == "given":
            branches.append(f"WHEN {HEIGHT} IS NULL OR {WIDTH} IS NULL THEN 'no_size'")
        branches.append(f"WHEN least({HEIGHT}, {WIDTH}) < {rules.min_size} THEN 'min_size'")
    if rules.where is not None:
        branches.append(f"WHEN {ROW} NOT IN (SELECT {ROW} FROM passing) THEN 'where'")
    if task.images == "url" and task.index is not None:
        branches.append(f"WHEN image_status IS NULL THEN '{NOT_FETCHED}'")
    return f"CASE {' '.join(branches)} END"


def _check_where(task: FilterTask) -> None:
    """Raise ConfigError unless the `where` rule can be asked of the task's samples."""
    with sql.connect() as connection:
        columns = connection.execute(f"DESCRIBE {_with_image_facts(task)}").fetchall()
        try:
            connection.execute(f"DESCRIBE SELECT 1 FROM ({_with_image_facts(task)}) WHERE ({task.rules.where}\n)")
        except duckdb.Error as error:
            names = ", ".join(sorted(row[0] for row in columns if row[0] not in (DROP_REASON, "image_status")))
            raise ConfigError(
                f"--where {task.rules.where!r}: {str(error).splitlines()[0]}",
                f"Write a DuckDB predicate over the columns of {task.samples.parent.stem}: {names}.",
            ) from error


def count_reasons(task: FilterTask) -> dict[str, int]:
    """Dropped rows of the finished shard by reason."""
    import pyarrow.parquet as pq

    reasons = pq.read_table(task.dropped, columns=["reason"])["reason"].value_counts().to_pylist()
    return {reason["values"]: reason["counts"] for reason in sorted(reasons, key=lambda reason: str(reason["values"]))}
