"""filter: one query a shard that joins samples with the facts about their images and keeps what passes every rule.

Rows in = kept + dropped; of a dropped row the first reason that held is written, and what samples do not have: of
LAION nearly every row is dropped, and its samples need not lie on the disk twice. The numbers applied are in the
manifest, and are what emit-yaml writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from prep import sql
from prep.config import ArchiveImages, Captions, Dataset, GivenImages, Rules, Table, UrlImages
from prep.errors import ConfigError, DataError
from prep.images.chunks import NOT_FETCHED, index_shards
from prep.images.matching import Indexed, image_facts, type_of
from prep.manifest import Manifest, Shard, fingerprint, known_shards, read_finished, read_manifest
from prep.schema import (
    AESTHETIC_SCORE,
    CAPTION,
    DROP_REASON,
    HEIGHT,
    IMAGE_FACTS,
    IMAGE_KEY,
    IMAGE_STATUS,
    KEY,
    KINDS,
    PREFERENCE_SCORE,
    REASON,
    ROW,
    URL,
    WIDTH,
    Column,
    Kind,
)
from prep.stages.dedup_facts import ASK_AGAIN, Duplicates, find_duplicates, judged_rows, row_names
from prep.stages.predicate import EVERY, names_in, parsed_query, query_text, without
from prep.stages.sampling import (
    ALL,
    HASH,
    SAMPLED_OUT,
    HashTask,
    bound_of_number,
    bound_of_share,
    hash_of,
    is_outside,
    rows_wanted,
)
from prep.stages.scored import ScoreColumn, ShardScores, find_scores, shard_scores, with_scores
from prep.stages.shards import Outcome, ShardTask, build_shards, metadata_in, share_memory
from prep.trainers.lavida_o import DEFAULT_AES_CUTOFF, S3_SCHEME, place_of_images, stored_path
from prep.workspace import Workspace, name_of_samples

VERSION = 5  # raise when the same inputs give other bytes
TEXT_ONLY = "text_only"  # among a manifest's counts
PASSED = "prep.passed"  # in a kept shard's metadata: a name for the rows that `where` let pass
_PASSED = f"SELECT concat(count(*), ' ', coalesce(sum(hash({ROW})), 0)) FROM passing"
NO_SCORES = "no aesthetic scores, so no aes_cutoff"


@dataclass(frozen=True)
class FilterTask(ShardTask):
    """The kept and the dropped rows of one shard of samples.

    Attributes:
        columns: the trainer's columns that hold anything, in order.
        images: `url`, `given` or `archive`.
        index: where its images may be; None where no image is fetched yet.
        index_sha256: what is in the shards of that.
        image_root: what all images are below.
        match: how samples find their images in it.
        captions: shards of the table whose captions go in the place of its own.
        captions_sha256: what is in them.
        captions_by: the column that is the same in both.
        scores: columns of scores that do not come from the publisher alone.
        text_only: where kept rows without an image go, of a kind that may have some: in a file of their own, since
            pandas 3 reads a null among strings as NaN, which the trainer takes for an image's path.
        duplicates: rows that `dedup` found to be others once more; None where it was not asked.
        below: hashes below this are in the sample; None where all rows are.
        memory: bytes it may have; None for a worker's share of what is free.
    """

    samples: Path
    samples_sha256: str
    kind: str
    columns: tuple[str, ...]
    rules: Rules
    images: str
    index: tuple[Indexed, ...] | None
    index_sha256: tuple[str, ...]
    image_root: str
    match: str
    captions: tuple[Path, ...]
    captions_sha256: tuple[str, ...]
    captions_by: str
    scores: tuple[ShardScores, ...]
    dropped: Path
    text_only: Path | None
    output: Path
    duplicates: Duplicates | None = None
    below: int | None = None
    memory: int | None = None

    @property
    def seed(self) -> int:
        """Which sample of those of one size."""
        return self.rules.seed or 0

    @property
    def shape(self) -> Kind:
        """The table's kind, with its columns."""
        return KINDS[self.kind]

    @property
    def found(self) -> frozenset[str]:
        """Columns whose values come from elsewhere than the samples."""
        names = {column.name for column in self.shape.image_columns} | {score.column for score in self.scores}
        names |= {self.shape.place or ""}
        if self.index is not None:
            names |= {HEIGHT, WIDTH}
        if self.captions:
            names |= {CAPTION}
        return frozenset(names)

    @property
    def is_scored(self) -> bool:
        """Whether aesthetic scores were computed here."""
        return any(score.column == AESTHETIC_SCORE for score in self.scores)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The dropped rows, then the kept ones."""
        return tuple(path for path in (self.dropped, self.text_only, self.output) if path is not None)

    @property
    def fingerprint(self) -> str:
        """Everything the files are made from."""
        facts = None if self.index is None else [self.index_sha256, [indexed[::2] for indexed in self.index]]
        # Scorer and sample say which scores and which rows, and both are named.
        rules = self.rules.model_dump(mode="json", exclude={"scorer", "sample", "seed"})
        how = [self.kind, self.columns, self.images, self.match, self.captions_sha256, self.captions_by]
        scores = [[score.how for score in self.scores]] if self.scores else []
        duplicates = [] if self.duplicates is None else [["dedup", self.duplicates.sha256]]
        sample = [] if self.below is None else [["sample", self.seed, self.below]]
        return fingerprint([VERSION, self.samples_sha256, how, rules, facts, *scores, *duplicates, *sample])

    def passed(self) -> str:
        """Name of the rows of the finished shard that `where` let pass; empty without one."""
        return (metadata_in(self.output, PASSED) or "") if self.rules.where is not None else ""

    @property
    def judged(self) -> str:
        """The fingerprint without duplicates and samples: what tells which rows pass everything else."""
        return replace(self, duplicates=None, below=None).fingerprint


def filter_table(
    workspace: Workspace,
    name: str,
    *,
    rules: Rules | None = None,
    memory: int | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Split the samples of table `name` into kept and dropped.

    Args:
        rules: what to apply; by default what the workspace says for the table.
        memory: bytes that all workers may have together; by default half of what is free.

    Raises:
        ConfigError: `where` is not SQL over the table's columns, or scores of several scales would be mixed.
    """
    dataset, table = workspace.table(name)
    normalized = read_finished(workspace.normalized(name))
    images_of = {prefix: workspace.catalogue.dataset(own) for prefix, own in table.image_datasets(dataset.name).items()}
    indexes = [_index_of(workspace, one) for one in images_of.values()]
    first = _comes_first(workspace, name, normalized, list(images_of.values()), indexes)
    if normalized is None or first:
        return Outcome("filter", name, "waiting", note=first)
    rules = rules or workspace.rules(name)
    scores, score_notes = find_scores(workspace, name, normalized, rules)
    columns = _columns_with_values(table.shape, normalized, scores, has_index=indexes[0] is not None)
    applied, notes = effective_rules(rules, columns)
    tasks = _tasks(workspace, name, images_of, normalized, indexes, columns, scores, applied)
    if applied.where is not None and tasks:
        _check_where(tasks[0])
    workers, share = share_memory(workspace, len(tasks), memory)
    tasks = [replace(task, memory=share) for task in tasks]
    judged = [task.judged for task in tasks]
    known = known_shards(workspace.filtered(name))
    passed = [known[task.output.name].passed if task.output.name in known else task.passed() for task in tasks]
    duplicates, dedup, dedup_note = find_duplicates(workspace, name, row_names(judged, passed))
    tasks = [replace(task, duplicates=duplicates.get(task.output.name)) for task in tasks]
    sample = _bound(workspace, name, tasks, applied, workers, force=force, dry_run=dry_run)
    if isinstance(sample, Outcome):
        return sample
    below = int(sample.get("below", ALL))
    tasks = [replace(task, below=None if below >= ALL else below) for task in tasks]
    has_images = _kind_of_images(next(iter(images_of.values()))) == "given" or indexes[0] is not None
    outcome = build_shards(
        "filter",
        name,
        workspace.filtered(name),
        tasks,
        split_samples,
        count_reasons,
        facts={
            "dataset": dataset.name,
            **_facts(table, normalized, columns, applied, scores, has_images),
            **dedup,
            **({"sample": sample} if sample else {}),
            **({"judged": judged} if dedup or sample else {}),
        },
        workers=workers,
        force=force,
        dry_run=dry_run,
    )
    if NO_SCORES in notes and not score_notes and table.shape.column(AESTHETIC_SCORE):
        score_notes = [f"`prep score {name}` computes scores"]
    if dedup and outcome.manifest and judged_rows(outcome.manifest) != row_names(judged, passed):
        dedup_note = ASK_AGAIN  # `where` let other rows pass than those that were looked at
    score_notes += _unscored(workspace.filtered(name), outcome.manifest, scores)
    return replace(outcome, note="; ".join(filter(None, [outcome.note, *notes, *score_notes, dedup_note])))


def _facts(
    table: Table,
    normalized: Manifest,
    columns: Sequence[str],
    rules: Rules,
    scores: Sequence[ScoreColumn],
    has_images: bool,
) -> dict[str, Any]:
    """What the manifest says of how the table was filtered, but for duplicates and sample."""
    return {
        "kind": table.kind,
        "columns": list(columns),
        "rules": rules.model_dump(mode="json", exclude_none=True),
        "has_images": has_images,
        "rows_in": normalized.rows,
        "samples": name_of_samples(normalized),
        **({"scores": {column.name: column.facts for column in scores}} if scores else {}),
    }


def _comes_first(
    workspace: Workspace,
    name: str,
    normalized: Manifest | None,
    images_of: Sequence[Dataset],
    indexes: Sequence[Manifest | None],
) -> str:
    """What has to be done before the table can be filtered; empty for nothing."""
    if normalized is None:
        return "normalize first"
    if _kind_of_images(images_of[0]) == "archive" and None in indexes:
        return f"images of {images_of[indexes.index(None)].name} first"
    _, table = workspace.table(name)
    if table.captions is not None and not _captions_are_ready(workspace, name, table.captions, normalized):
        return f"normalize {table.captions.table} first"
    return ""


def _unscored(folder: Path, filtered: Manifest | None, scores: Sequence[ScoreColumn]) -> list[str]:
    """How many kept rows lack a computed score that no rule asks for."""
    if not (filtered and filtered.shards) or PREFERENCE_SCORE not in {
        column.name for column in scores if column.computed
    }:
        return []
    files = sql.parquet_files([folder / shard.name for shard in filtered.shards])
    with sql.connect() as connection, sql.data_errors(str(folder), "`prep filter --force` writes it anew."):
        [(lacking,)] = connection.execute(f"SELECT count(*) - count({PREFERENCE_SCORE}) FROM {files}").fetchall()
    return [f"{lacking:,} of {filtered.rows:,} rows have no {PREFERENCE_SCORE}"] if lacking else []


def _bound(
    workspace: Workspace,
    name: str,
    tasks: Sequence[FilterTask],
    rules: Rules,
    workers: int,
    *,
    force: bool,
    dry_run: bool,
) -> dict[str, str] | Outcome:
    """The bound of a sample's hashes, and for a number of rows the name of what it was found in; empty without one.

    For a number the hashes of every shard are gathered first; the outcome of that where it is not finished.
    """
    if rules.sample is None:
        return {}
    wanted = rows_wanted(rules.sample)
    if wanted is None:
        return {"below": str(bound_of_share(rules.sample))}
    folder = workspace.sampled(name)
    gather = [HashTask(task, rules.seed or 0, wanted, folder / task.output.name) for task in tasks]
    facts = {"sample": wanted, "seed": rules.seed or 0}
    outcome = build_shards(
        "sample", name, folder, gather, gather_hashes, facts=facts, workers=workers, force=force, dry_run=dry_run
    )
    if outcome.manifest is None:
        note = outcome.note or f"the rows that may be in a sample of {wanted:,} come first"
        return replace(outcome, stage="filter", made=len(tasks), note=note)
    pool = fingerprint([task.fingerprint for task in gather])
    earlier = read_manifest(workspace.filtered(name))
    known = earlier.facts.get("sample", {}) if earlier is not None else {}
    if known.get("of") == pool:
        return dict(known)
    return {"below": str(bound_of_number([task.output for task in gather], wanted)), "of": pool}


def gather_hashes(task: HashTask[FilterTask]) -> None:
    """Write the smallest hashes of the rows that pass everything but the sample, smallest first.

    A row whose image is not fetched yet is among them: the rows that are in the sample are those to be fetched.
    """
    judge = task.judge
    with sql.connect(task.output, judge.memory) as connection, _data_errors(judge):
        rows = f"SELECT * FROM ({_judged(connection, judge)}) WHERE coalesce({REASON} = '{NOT_FETCHED}', true)"
        smallest = f"SELECT {hash_of(task.seed)} AS {HASH} FROM ({rows}) ORDER BY {HASH} LIMIT {task.most}"
        sql.copy_to_parquet(connection, smallest, task.output, {sql.TASK_KEY: task.fingerprint})


def _index_of(workspace: Workspace, images_of: Dataset) -> Manifest | None:
    """The finished index of a dataset whose images are where prep.yaml says."""
    index = read_finished(workspace.index(images_of.name)) if _kind_of_images(images_of) != "given" else None
    return index if index is not None and index.facts["store"] == workspace.config.images else None


def _captions_are_ready(workspace: Workspace, name: str, captions: Captions, normalized: Manifest) -> bool:
    """Whether the table whose captions it takes is there.

    Raises:
        ConfigError: one of the two lacks the column that they are joined by.
    """
    others = read_finished(workspace.normalized(captions.table))
    if others is None:
        return False
    for whose, manifest in ((name, normalized), (captions.table, others)):
        if captions.by not in manifest.counts and manifest.rows:
            raise ConfigError(
                f"table {name}: captions.by is {captions.by!r}, which {whose} does not have",
                f"It has: {', '.join(sorted(manifest.counts))}. Mend the dataset's YAML.",
            )
    return True


def _tasks(
    workspace: Workspace,
    name: str,
    images_of: dict[str, Dataset],
    normalized: Manifest,
    indexes: Sequence[Manifest | None],
    columns: tuple[str, ...],
    scores: Sequence[ScoreColumn],
    rules: Rules,
) -> list[FilterTask]:
    """One task for every shard of samples, with the facts it needs."""
    _, table = workspace.table(name)
    captions = _caption_shards(workspace, table)
    scores_of = dict(shard_scores(scores, table, normalized))
    tasks = []
    for number, shard in enumerate(normalized.shards):
        index, hashes = [], []
        for (prefix, dataset), manifest in zip(images_of.items(), indexes, strict=True):
            facts = () if manifest is None else _facts_for(name, table, dataset, normalized, number, manifest)
            folder = workspace.index(dataset.name)
            root = f"{workspace.image_root}/{dataset.name}"
            index.append(Indexed(prefix, tuple(folder / fact.name for fact in facts), root))
            hashes += [fact.sha256 for fact in facts]
        tasks.append(
            FilterTask(
                workspace.normalized(name) / shard.name,
                shard.sha256,
                table.kind,
                columns,
                rules,
                _kind_of_images(next(iter(images_of.values()))),
                None if indexes[0] is None else tuple(index),
                tuple(hashes),
                workspace.image_root,
                table.match,
                tuple(captions),
                tuple(captions.values()),
                table.captions.by if table.captions else "",
                scores_of[shard.name],
                workspace.dropped(name) / shard.name,
                workspace.text_only(name) / shard.name if table.shape.may_lack_images else None,
                workspace.filtered(name) / shard.name,
            )
        )
    return tasks


def _caption_shards(workspace: Workspace, table: Table) -> dict[Path, str]:
    """Shards of the table whose captions it takes, each with what is in it."""
    if table.captions is None:
        return {}
    folder = workspace.normalized(table.captions.table)
    manifest = read_finished(folder)
    return {folder / shard.name: shard.sha256 for shard in manifest.shards} if manifest else {}


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
    archives, part = index.facts.get("archives", ()), normalized.facts["parts"][number]
    if is_by_part and part in archives:  # else the part only speaks of images in archives
        return tuple(facts for archive, facts in zip(archives, index.shards, strict=True) if archive == part)
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
        notes.append(NO_SCORES)
    if rules.min_size is not None and not {HEIGHT, WIDTH} <= set(columns):
        rules = rules.model_copy(update={"min_size": None})
        notes.append("no image sizes, so no min_size")
    if rules.sample is None and rules.seed is not None:
        rules = rules.model_copy(update={"seed": None})
        notes.append("no sample, so no seed")
    return rules, notes


def _columns_with_values(
    kind: Kind, normalized: Manifest, scores: Sequence[ScoreColumn], *, has_index: bool
) -> tuple[str, ...]:
    """The kind's columns that are worth loading: required, or holding at least one value."""
    anyway = {HEIGHT, WIDTH} if has_index else set()
    anyway |= {kind.image_path or "", kind.place or ""}
    anyway |= {column.name for column in kind.image_columns if kind.may_lack_images}
    counts = normalized.counts
    for column in scores:
        counts[column.name] = column.computed is not None or (column.keeps_published and counts.get(column.name, 0))
    return tuple(
        column.name for column in kind.columns if column.required or counts.get(column.name) or column.name in anyway
    )


def split_samples(task: FilterTask) -> None:
    """Write the dropped, then the kept rows of one shard.

    Raises:
        ConfigError: `where` cannot be asked of a row.
        DataError: an input is damaged.
    """
    metadata = {sql.TASK_KEY: task.fingerprint}
    kept = [*task.columns, KEY, ROW, IMAGE_KEY, *([URL] if task.images == "url" else [])]
    kept_columns = ", ".join(sql.name(column) for column in kept)
    with sql.connect(task.output, task.memory) as connection, _data_errors(task):
        rows = connection.execute(f"SELECT count(*) FROM {sql.parquet_files([task.samples])}").fetchall()[0][0]
        judged = _judged(connection, task)
        passing = f"SELECT {kept_columns} FROM ({judged}) WHERE {REASON} IS NULL"
        columns = [name for name, *_ in connection.execute(f"DESCRIBE {judged}").fetchall()]
        told = ", ".join(sql.name(name) for name in columns if name in {KEY, ROW, REASON, *task.found})
        failing = f"SELECT {told} FROM ({judged}) WHERE {REASON} IS NOT NULL"
        # Read again by few: time counts for more than room.
        written = sql.copy_to_parquet(connection, failing, task.dropped, metadata, level=1)
        if task.text_only is not None:
            shown = [sql.name(column.name) for column in task.shape.image_columns]
            # The key and not the path of its one image, which is not known before the image is fetched.
            keys = [
                IMAGE_KEY if column.name == task.shape.image_path else sql.name(column.name)
                for column in task.shape.image_columns
            ]
            has_image = " OR ".join(f"{name} IS NOT NULL" for name in keys)
            text = f"SELECT * REPLACE ({', '.join(f'NULL AS {name}' for name in shown)}) FROM ({passing})"
            written += sql.write_with_nulls(connection, f"{text} WHERE NOT ({has_image})", task.text_only, metadata)
            passing = f"SELECT * FROM ({passing}) WHERE {has_image}"
        if task.rules.where is not None:
            metadata[PASSED] = connection.execute(_PASSED).fetchall()[0][0]
        written += sql.copy_to_parquet(connection, passing, task.output, metadata)
    if written != rows:
        for output in task.outputs:
            output.unlink(missing_ok=True)  # they carry the task's name, and would pass for finished
        raise DataError(f"{task.samples} has {rows} rows, {written} were kept or dropped", "Please report this.")


def _data_errors(task: FilterTask) -> AbstractContextManager[None]:
    mend = "Is a file damaged? Remove its folder, and `prep run` makes it again."
    return sql.data_errors(f"{task.samples}, or its image index", mend)


def _judged(connection: duckdb.DuckDBPyConnection, task: FilterTask) -> str:
    """SQL of the samples, each with the first reason to drop it; makes the temporary tables that it names."""
    if task.captions:
        _find_captions(connection, task)
    if task.rules.where is not None:  # asked once: it need not give the same answer twice
        _ask_where(connection, task)
    if task.duplicates is not None and task.duplicates.reasons:
        shard = sql.parquet_files([task.duplicates.shard])
        connection.execute(f"CREATE TEMP TABLE duplicates AS SELECT {ROW}, {REASON} FROM {shard}")
    return f"SELECT * EXCLUDE ({DROP_REASON}, {IMAGE_STATUS}), {_reason(task)} AS {REASON} FROM ({_with_facts(task)})"


def _ask_where(connection: duckdb.DuckDBPyConnection, task: FilterTask) -> None:
    """Make the table `passing`, of the rows for which `where` is true.

    Raises:
        ConfigError: it cannot be asked of a row. Files that cannot be read are DuckDB's error, as anywhere.
    """
    try:
        connection.execute(f"CREATE TEMP TABLE passing AS {_asked(connection, task)}")
    except duckdb.Error as error:
        if sql.is_of_machine(error):
            raise
        connection.execute(f"SELECT bit_xor(hash(facts)) FROM ({_with_facts(task)}) facts").fetchall()
        raise ConfigError(
            f"--where {task.rules.where!r}, of {task.samples}: {str(error).splitlines()[0]}",
            "TRY_CAST gives null where CAST is an error. `prep filter --reset` forgets it, if it was given there.",
        ) from error


def _asked(connection: duckdb.DuckDBPyConnection, task: FilterTask) -> str:
    """SQL of the rows for which `where` is true.

    What it asks of an image is left out for rows whose image is still to be fetched; then it is asked.
    """
    sql.confine(connection)
    answer = f"({task.rules.where}\n)"
    own = {name.lower() for name, *_ in connection.execute(f"DESCRIBE {_with_facts(task)}").fetchall()}
    facts = {name: fact for name, fact in IMAGE_FACTS.items() if name not in own}
    query = parsed_query(connection, f"SELECT {answer}")
    named = names_in(query)
    if task.images == "url" and named & (unknown := {*facts, IMAGE_STATUS, task.shape.image_path, EVERY}):
        early = query_text(connection, without(query, unknown)).removeprefix("SELECT ")
        answer = f"CASE WHEN {IMAGE_STATUS} IS NULL THEN {early} ELSE {answer} END"
    return f"SELECT {ROW} FROM ({_with_facts(task, facts if named & {*facts, EVERY} else {})}) WHERE {answer}"


def _find_captions(connection: duckdb.DuckDBPyConnection, task: FilterTask) -> None:
    """Make the table `captions` (`joined`, `caption`) of those for rows that may pass; the first of several counts."""
    on = sql.name(task.captions_by)
    cutoff = None if task.is_scored else task.rules.aes_cutoff
    cheap = f"AND {_above_cutoff(cutoff)}" if cutoff is not None else ""
    connection.execute(
        f"CREATE TEMP TABLE wanted AS SELECT DISTINCT CAST({on} AS VARCHAR) AS joined "
        f"FROM {sql.parquet_files([task.samples])} WHERE {DROP_REASON} IS NULL {cheap}"
    )
    shards = sql.parquet_files(task.captions)
    others = f"SELECT CAST({on} AS VARCHAR) AS joined, {CAPTION} FROM {shards} WHERE {DROP_REASON} IS NULL"
    connection.execute(
        f"CREATE TEMP TABLE captions AS SELECT joined, first({CAPTION}) AS {CAPTION} "
        f"FROM ({others}) WHERE joined IN (SELECT joined FROM wanted) GROUP BY joined"
    )


def _with_facts(task: FilterTask, more: Mapping[str, str] | None = None) -> str:
    """SQL of the samples with what is known of their images, the captions of another table, and their scores.

    Args:
        more: those facts of images that `where` alone may ask for, each with what the index calls it.
    """
    facts = _with_image_facts(task, more or {})
    if task.captions:
        on = f"CAST(f.{sql.name(task.captions_by)} AS VARCHAR)"
        facts = (
            f"SELECT f.* REPLACE (captions.{CAPTION} AS {CAPTION}) FROM ({facts}) f "
            f"LEFT JOIN captions ON captions.joined = {on}"
        )
    if not task.scores:
        return facts
    return with_scores(facts, sql.name(task.shape.image_path or ""), task.image_root, task.scores)


def _above_cutoff(cutoff: float) -> str:
    return f"{AESTHETIC_SCORE} > CAST('{cutoff!r}' AS DOUBLE)"


def _with_image_facts(task: FilterTask, more: Mapping[str, str]) -> str:
    """SQL of the samples with their images' paths, the true size of the one that has one, and `image_status`.

    The status is that of the first image that is not there, or `ok`; null where nothing is known yet.

    Args:
        more: further columns -> what the index calls that fact of the sample's one image.
    """
    samples = sql.parquet_files([task.samples])
    path = task.shape.image_path
    nothing = "".join(f", CAST(NULL AS {type_of(fact)}) AS {name}" for name, fact in more.items())
    if task.images == "given":
        return f"SELECT * {_replaced(_given_paths(task))}, 'ok' AS {IMAGE_STATUS}{nothing} FROM {samples}"
    is_empty = task.index is None or not any(indexed.shards for indexed in task.index)
    if task.index is None or (is_empty and task.images == "url"):  # none is fetched yet, or none of this shard
        unknown = f", CAST(NULL AS VARCHAR) AS {path}" if path else ""
        return f"SELECT *{unknown}, CAST(NULL AS VARCHAR) AS {IMAGE_STATUS}{nothing} FROM {samples}"
    lists = [column for column in task.shape.image_columns if column.name != path]
    found = image_facts(samples, [column.name for column in lists], task.index, task.match, tuple(more.values()))
    measured = {HEIGHT: "height", WIDTH: "width"}
    new = {
        name: f"coalesce(i.{fact}, s.{sql.name(name)})" for name, fact in measured.items() if task.shape.column(name)
    }
    new |= {column.name: _listed(column, f"{found.alias(column.name)}.paths", task) for column in lists}
    new |= _place(task)
    missing = "'missing'" if task.images == "archive" else "NULL"
    statuses = [f"nullif({found.alias(column.name)}.status, 'ok')" for column in lists]
    statuses.append(f"if(s.{IMAGE_KEY} IS NULL, 'ok', coalesce(i.status, {missing}))")
    main = f", {_stored('i.path', path, task)} AS {path}" if path else ""
    told = "".join(f", i.{fact} AS {name}" for name, fact in more.items())
    joins = " ".join(
        f"LEFT JOIN {found.alias(column.name)} ON {found.alias(column.name)}.{ROW} = s.{ROW}" for column in lists
    )
    return f"""
        WITH {found.tables}
        SELECT s.* {_replaced(new)}{main}, coalesce({", ".join(statuses)}) AS {IMAGE_STATUS}{told}
        FROM {samples} s LEFT JOIN images i ON i.{IMAGE_KEY} = s.{IMAGE_KEY} {joins}
    """


def _replaced(values: dict[str, str]) -> str:
    return f"REPLACE ({', '.join(f'{value} AS {sql.name(name)}' for name, value in values.items())})" if values else ""


def _stored(path: str, column: str, task: FilterTask) -> str:
    """SQL of an image's whole path as the trainer wants to have it in a column."""
    is_bare = stored_path(column, task.kind, S3_SCHEME) != S3_SCHEME
    return f"if(starts_with({path}, {sql.text(S3_SCHEME)}), substr({path}, 6), {path})" if is_bare else path


def _listed(column: Column, paths: str, task: FilterTask) -> str:
    """SQL of a column of several images, from their paths in the index."""
    stored = f"list_transform({paths}, lambda path: {_stored('path', column.name, task)})"
    return f"array_to_string({stored}, ';')" if column.images == "joined" else stored


def _given_paths(task: FilterTask) -> dict[str, str]:
    """Columns of images whose samples name them themselves, as the trainer opens them."""
    new = {}
    for column in task.shape.image_columns:
        name = sql.name(column.name)
        new[column.name] = _stored(name, column.name, task) if column.images == "one" else _listed(column, name, task)
    return new | _place(task)


def _place(task: FilterTask) -> dict[str, str]:
    """The column that names the folder of the images: they are whole without it."""
    if task.shape.place is None:
        return {}
    # Paths that samples give themselves may be of both sorts; those on disk are whole and win over what is before.
    root = S3_SCHEME if task.images == "given" else task.image_root
    return {task.shape.place: sql.text(place_of_images(task.kind, root))}


def _reason(task: FilterTask) -> str:
    """SQL of the first reason to drop a row, or null.

    An image known to be missing comes before the rules, one not fetched yet after them: only rows that pass every
    rule are worth fetching. A size or score that nobody knows before the fetch is left to the second pass.
    """
    rules = task.rules
    branches = [f"WHEN {DROP_REASON} IS NOT NULL THEN {DROP_REASON}"]
    branches.append(f"WHEN {IMAGE_STATUS} != 'ok' THEN 'image_' || {IMAGE_STATUS}")
    if rules.aes_cutoff is not None:
        branches.append(f"WHEN NOT {_above_cutoff(rules.aes_cutoff)} THEN 'aes_cutoff'")
    if task.captions:
        branches.append(f"WHEN {CAPTION} IS NULL THEN 'no_recaption'")
    if rules.min_size is not None:
        if task.images == "given":
            branches.append(f"WHEN {HEIGHT} IS NULL OR {WIDTH} IS NULL THEN 'no_size'")
        branches.append(f"WHEN least({HEIGHT}, {WIDTH}) < {rules.min_size} THEN 'min_size'")
    if rules.where is not None:
        branches.append(f"WHEN {ROW} NOT IN (SELECT {ROW} FROM passing) THEN 'where'")
    if rules.aes_cutoff is not None:  # the last of them, as only rows that pass the others are worth scoring
        # An image that can be scored once it is fetched is worth fetching.
        is_there = f" AND {IMAGE_STATUS} IS NOT NULL" if task.is_scored else ""
        branches.append(f"WHEN {AESTHETIC_SCORE} IS NULL{is_there} THEN 'no_score'")
    for reason in task.duplicates.reasons if task.duplicates else ():
        rows = f"SELECT {ROW} FROM duplicates WHERE {REASON} = {sql.text(reason)}"
        branches.append(f"WHEN {ROW} IN ({rows}) THEN {sql.text(reason)}")
    if task.below is not None:
        branches.append(f"WHEN {is_outside(task.seed, task.below)} THEN '{SAMPLED_OUT}'")
    if task.images == "url" and task.index is not None:
        branches.append(f"WHEN {IMAGE_STATUS} IS NULL THEN '{NOT_FETCHED}'")
    return f"CASE {' '.join(branches)} END"


def _check_where(task: FilterTask) -> None:
    """Raise ConfigError unless the `where` rule can be asked of the task's samples."""
    with sql.connect() as connection, _data_errors(task):
        connection.execute(f"CREATE TEMP TABLE captions (joined VARCHAR, {CAPTION} VARCHAR)")
        columns = connection.execute(f"DESCRIBE {_with_facts(task)}").fetchall()
        try:
            connection.execute(f"DESCRIBE {_asked(connection, task)}")
        except duckdb.Error as error:
            names = ", ".join(sorted({*(row[0] for row in columns), *IMAGE_FACTS} - {DROP_REASON}))
            raise ConfigError(
                f"--where {task.rules.where!r}: {str(error).splitlines()[0]}",
                f"Write a DuckDB predicate over the columns of {task.samples.parent.stem}: {names}.",
            ) from error


def count_reasons(task: FilterTask) -> dict[str, int]:
    """Dropped rows of the finished shard by reason; and under `text_only`, kept rows without an image."""
    import pyarrow.parquet as pq

    counts: Counter[str] = Counter()
    with pq.ParquetFile(task.dropped) as file:
        for batch in file.iter_batches(columns=[REASON]):
            counts.update({found["values"]: found["counts"] for found in batch.column(0).value_counts().to_pylist()})
    if task.text_only is not None and (rows := pq.read_metadata(task.text_only).num_rows):
        counts[TEXT_ONLY] = rows
    return {reason: counts[reason] for reason in sorted(counts)}
