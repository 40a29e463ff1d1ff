"""One piece of work of the score stage: which images of a shard need a score, and the shard that they end in."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prep import sql
from prep.files import atomic_path, hash_file
from prep.manifest import Manifest, Shard, write_manifest
from prep.progress import Advance
from prep.schema import KINDS, REASON, ROW
from prep.scorers.scorer import SCORERS, UNREADABLE, Passport, Picture, Score, Scorer, ScorerInfo
from prep.stages.scored import PASSPORTS, below_store, passports_in, shard_task, text_name
from prep.stages.shards import Outcome, fingerprint_in
from prep.trainers.lavida_o import S3_SCHEME, stored_path
from prep.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ScoreTask:
    """The scores of one shard of samples.

    Attributes:
        samples, kept, dropped: the shard as `normalize` and as `filter` left it.
        is_published: the samples have a column of the publisher's scores, and rows with a value need no other.
        is_asked: `where` asks for the score, so that rows dropped by it may only lack one.
        force: score also what has been scored.
        output: the shard of scores.
    """

    samples: Path
    kept: Path
    dropped: Path
    kind: str
    scorer: str
    image_root: str
    is_published: bool
    is_asked: bool
    force: bool
    output: Path

    def __str__(self) -> str:
        return str(self.output)

    @property
    def info(self) -> ScorerInfo:
        """Its scorer."""
        return SCORERS[self.scorer]


# -- which images ----------------------------------------------------------------------------------------------------


def _wanted(task: ScoreTask, *, is_fresh: bool) -> str:
    """SQL of the rows to be scored.

    `row`; `path` and `text`, which tell whether a score still holds; `address` and `caption`, for the scorer.

    Args:
        is_fresh: nothing that has been scored counts.
    """
    kind, info = KINDS[task.kind], task.info
    path = sql.name(kind.image_path or "")
    caption = sql.name(kind.prompt) if kind.prompt and info.needs_text else "NULL"
    reasons = ["no_score", "aes_cutoff", *(["where"] if task.is_asked else [])]
    columns = f"{ROW}, CAST({path} AS VARCHAR) AS stored, CAST({caption} AS VARCHAR) AS caption"
    dropped = f"{sql.parquet_files([task.dropped])} WHERE {REASON} IN ({', '.join(map(sql.text, reasons))})"
    has_scheme = stored_path(kind.image_path or "", task.kind, S3_SCHEME) == S3_SCHEME
    whole = "stored" if has_scheme else f"if(starts_with(stored, '/'), stored, {sql.text(S3_SCHEME)} || stored)"
    rows = (
        f"SELECT {ROW}, {below_store('stored', task.image_root)} AS path, {text_name('caption')} AS text, "
        f"{whole} AS address, caption FROM (SELECT {columns} FROM {sql.parquet_files([task.kept])} "
        f"UNION ALL SELECT {columns} FROM {dropped}) WHERE stored IS NOT NULL"
    )
    if info.needs_text:
        rows += " AND caption IS NOT NULL"
    if task.is_published:
        published = f"SELECT {ROW} FROM {sql.parquet_files([task.samples])} WHERE {sql.name(info.column)} IS NOT NULL"
        rows += f" AND {ROW} NOT IN ({published})"
    if is_fresh:
        return rows
    # What a store refused once it may give now; scores of embeddings have no path.
    return (
        f"SELECT w.* FROM ({rows}) w LEFT JOIN {sql.parquet_files([task.output])} e ON e.{ROW} = w.{ROW} "
        f"WHERE NOT coalesce(e.status != {sql.text(UNREADABLE)} AND e.text IS NOT DISTINCT FROM w.text "
        "AND coalesce(e.path, w.path) = w.path, false)"
    )


def _is_fresh(task: ScoreTask, passport: Passport | None = None) -> bool:
    """Whether nothing that has been scored counts; without a passport, scores of any passport do."""
    if task.force:
        return True
    earlier = passports_in(task.output)
    return not earlier or (passport is not None and any(old.identity != passport.identity for old in earlier))


def count_wanted(task: ScoreTask) -> int:
    """How many images of a shard are to be scored."""
    with sql.connect() as connection, _errors(task):
        query = f"SELECT count(*) FROM ({_wanted(task, is_fresh=_is_fresh(task))})"
        return int(connection.execute(query).fetchall()[0][0])


def _read_wanted(task: ScoreTask, passport: Passport) -> pa.Table:
    with sql.connect() as connection, _errors(task):
        query = f"{_wanted(task, is_fresh=_is_fresh(task, passport))} ORDER BY {ROW}"
        return connection.sql(query).to_arrow_table()


def _errors(task: ScoreTask) -> AbstractContextManager[None]:
    return sql.data_errors(f"{task.kept}, or its scores", "`prep filter --force` writes it anew.")


# -- their scores ----------------------------------------------------------------------------------------------------


def score_shards(tasks: Iterable[ScoreTask], scorer: Scorer, advance: Advance) -> None:
    """Score several shards in one stream of pictures; each is written when its own are through."""
    under_way: deque[tuple[ScoreTask, pa.Table]] = deque()

    def pictures() -> Iterator[Picture]:
        for task in tasks:
            wanted = _read_wanted(task, scorer.passport)
            if not len(wanted):
                _write(task, wanted, [], scorer.passport)
                continue
            under_way.append((task, wanted))
            for batch in wanted.select(["address", "caption"]).to_batches(sql.ARROW_ROWS):
                yield from (Picture(row["address"], row["caption"] or "") for row in batch.to_pylist())

    scores: list[Score] = []
    stream = scorer.score(pictures())
    try:
        for score in stream:
            scores.append(score)
            advance(1)
            if len(scores) == len(under_way[0][1]):
                _write(*under_way.popleft(), scores, scorer.passport)
                scores = []
    finally:
        if isinstance(stream, Generator):
            stream.close()  # which ends its processes


def _write(task: ScoreTask, wanted: pa.Table, scores: Sequence[Score], passport: Passport) -> None:
    """Write a shard: what it holds that still counts, and the new scores."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    values, statuses, errors = zip(*scores, strict=True) if scores else ((), (), ())
    columns = [*(wanted[name] for name in (ROW, "path", "text")), [*map(shortest, values)], statuses, errors]
    rows, passports = pa.table(columns, schema=schema()), [passport]
    if not _is_fresh(task, passport):
        earlier = pq.read_table(task.output).cast(schema())
        rows = pa.concat_tables([earlier.filter(pc.invert(pc.is_in(earlier[ROW], wanted[ROW].combine_chunks()))), rows])
        passports = [old for old in passports_in(task.output) if old != passport] + passports
    write_scores(task.output, rows.sort_by(ROW), shard_task(passport), passports)


def schema() -> pa.Schema:
    """Columns of a shard of scores: of which image and text, the score, and what became of it."""
    import pyarrow as pa

    texts = [pa.field(name, pa.string()) for name in ("path", "text", "status", "error")]
    return pa.schema([pa.field(ROW, pa.int64()), *texts[:2], pa.field("score", pa.float64()), *texts[2:]])


def write_scores(target: Path, rows: pa.Table, task: str, passports: Sequence[Passport]) -> None:
    """Write scores to a parquet file with their passports, whole or not at all."""
    import pyarrow.parquet as pq

    metadata = {sql.TASK_KEY: task, PASSPORTS: json.dumps([asdict(passport) for passport in passports])}
    with atomic_path(target) as temporary:
        pq.write_table(rows.replace_schema_metadata(metadata), temporary, compression="zstd")


def shortest(value: float | None) -> float | None:
    """A score as its float32's shortest decimal, as the publishers' are kept: 5.67 and not 5.670000076."""
    return None if value is None else float(str(np.float32(value)))


# -- the table -------------------------------------------------------------------------------------------------------


def finish(
    workspace: Workspace, name: str, info: ScorerInfo, outputs: Sequence[Path], source: str, made: int
) -> Outcome:
    """Write the manifest over the shards that are there, and remove those of samples that are gone."""
    folder = workspace.scores(info.name, name)
    outputs = [path for path in outputs if path.is_file()]
    for path in set(folder.glob("*.parquet")) - set(outputs):
        path.unlink()
    passports = {passport.as_json(): passport for path in outputs for passport in passports_in(path)}
    facts = {
        "dataset": workspace.table(name)[0].name,
        "scorer": info.name,
        "column": info.column,
        "source": source,
        "passports": [asdict(passports[text]) for text in sorted(passports)],
    }
    manifest = Manifest("score", tuple(_describe(path) for path in outputs), facts)
    write_manifest(folder, manifest)
    return Outcome("score", name, "done", made, len(outputs), manifest, info.name)


def _describe(path: Path) -> Shard:
    """A shard of scores, with its rows by status."""
    import pyarrow.parquet as pq

    statuses = pq.read_table(path, columns=["status"])["status"].value_counts().to_pylist()
    counts = {status["values"]: status["counts"] for status in statuses}
    task = fingerprint_in(path) or ""
    return Shard(path.name, task, sum(counts.values()), path.stat().st_size, hash_file(path), counts)
