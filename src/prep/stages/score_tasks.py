"""One piece of work of the score stage: which images of a shard need a score, and the shard that they end in."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prep import sql
from prep.engine import share
from prep.errors import WorkspaceError
from prep.files import atomic_path, open_own
from prep.manifest import (
    Manifest,
    Shard,
    fingerprint,
    read_finished,
    read_shares,
    remove_manifest,
    write_manifest,
    write_share,
)
from prep.progress import Advance
from prep.schema import KINDS, REASON, ROW
from prep.scorers.reading import why_unreadable
from prep.scorers.scorer import MISSING, SCORERS, UNREADABLE, Passport, Picture, Score, Scorer, ScorerInfo
from prep.stages.scored import (
    FORCED,
    PASSPORTS,
    below_store,
    describe_shard,
    is_of,
    passports_in,
    passports_of,
    shard_task,
    text_name,
)
from prep.stages.shards import Outcome, fingerprint_in, others_missing
from prep.trainers.lavida_o import S3_SCHEME, stored_path
from prep.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

TRIED = 256  # pictures of which none can be read, before that is told rather than noted of each


@dataclass(frozen=True)
class ScoreTask:
    """The scores of one shard of samples.

    Attributes:
        samples, kept, dropped: the shard as `normalize` and as `filter` left it.
        samples_sha256: of the bytes of `samples`.
        is_published: the samples have a column of the publisher's scores, and rows with a value need no other.
        is_asked: `where` asks for the score, so that rows dropped by it may only lack one.
        outside: SQL of whether a row is in no percentage that is sampled; None where there is no such rule.
        force: score also what has been scored, and note beside the shard that it has been done.
        output: the shard of scores.
    """

    samples: Path
    samples_sha256: str
    kept: Path
    dropped: Path
    kind: str
    scorer: str
    image_root: str
    s3_endpoint: str | None
    is_published: bool
    is_asked: bool
    outside: str | None
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

    `row`; `path` and `text`, which tell whether a score still holds; `address` and `caption`, for the scorer; `again`,
    whether it could not be read before.

    Args:
        is_fresh: nothing that has been scored counts.
    """
    kind, info = KINDS[task.kind], task.info
    path = sql.name(kind.image_path or "")
    caption = sql.name(kind.prompt) if kind.prompt and info.needs_text else "NULL"
    reasons = ["no_score", "aes_cutoff", *(["where"] if task.is_asked else [])]
    columns = f"{ROW}, CAST({path} AS VARCHAR) AS stored, CAST({caption} AS VARCHAR) AS caption"
    dropped = sql.completed(task.dropped, task.samples, ROW)
    dropped += f" WHERE {REASON} IN ({', '.join(map(sql.text, reasons))})"
    if task.outside is not None:
        dropped += f" AND NOT ({task.outside})"
    has_scheme = stored_path(kind.image_path or "", task.kind, S3_SCHEME) == S3_SCHEME
    whole = "stored" if has_scheme else f"if(starts_with(stored, '/'), stored, {sql.text(S3_SCHEME)} || stored)"
    rows = (
        f"SELECT {ROW}, {below_store('stored', task.image_root)} AS path, {text_name('caption')} AS text, "
        f"{whole} AS address, caption, false AS again FROM (SELECT {columns} FROM {sql.parquet_files([task.kept])} "
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
    again = f"coalesce(e.status = {sql.text(UNREADABLE)}, false)"
    return (
        f"SELECT w.* REPLACE ({again} AS again) FROM ({rows}) w "
        f"LEFT JOIN {sql.parquet_files([task.output])} e ON e.{ROW} = w.{ROW} "
        f"WHERE {again} OR NOT coalesce(e.text IS NOT DISTINCT FROM w.text AND coalesce(e.path, w.path) = w.path "
        f"AND e.{ROW} IS NOT NULL, false)"
    )


def _is_fresh(task: ScoreTask, passport: Passport | None = None) -> bool:
    """Whether nothing that has been scored counts; without a passport, scores of any passport do."""
    if task.force:
        return True
    earlier = passports_in(task.output)
    if not is_of(fingerprint_in(task.output), earlier, task.samples_sha256):
        return True
    return passport is not None and any(old.identity != passport.identity for old in earlier)


def count_wanted(task: ScoreTask, passport: Passport | None = None) -> int | None:
    """How many images of a shard are to be scored, so that its passports can be compared; None: nothing is to be done.

    Args:
        passport: of the scores to come; without one, any that is there is as good.
    """
    is_fresh = _is_fresh(task, passport)
    with sql.connect() as connection, _errors(task):
        query = f"SELECT count(*) FROM ({_wanted(task, is_fresh=is_fresh)})"
        rows = int(connection.execute(query).fetchall()[0][0])
    return rows if rows or (is_fresh and task.output.is_file()) else None


def find_readable(tasks: Sequence[ScoreTask], whole: Sequence[ScoreTask], passport: Passport | None) -> str | None:
    """The address of a picture that is to be scored and can be read; None where some others' scores are all there is.

    Pictures that could not be read before are left out.

    Args:
        tasks: what is to be done.
        whole: the table.

    Raises:
        WorkspaceError: none of many can be read; or none at all, and no score that is there would count any more.
    """
    tried, problem = 0, ""
    for task in tasks[:TRIED]:
        with sql.connect() as connection, _errors(task):
            rows = _wanted(task, is_fresh=_is_fresh(task, passport))
            most = max(1, TRIED // len(tasks))
            query = f"SELECT address FROM ({rows}) WHERE NOT again ORDER BY hash({ROW}) LIMIT {most}"
            addresses = [address for (address,) in connection.execute(query).fetchall()]
        for address in addresses[: TRIED - tried]:
            reason = why_unreadable(address, task.s3_endpoint)
            if reason is None:
                return str(address)
            tried, problem = tried + 1, f"{address}: {reason}"
    if tried >= TRIED or (tried and all(_is_fresh(task, passport) for task in whole)):
        raise WorkspaceError(
            f"not one of {tried} images that were tried can be read, the last of them {problem}",
            "Check that the place of the images is there, and the keys for it; scores that are there stay.",
        )
    return None


def _read_wanted(task: ScoreTask, passport: Passport) -> pa.Table:
    with sql.connect() as connection, _errors(task):
        query = f"{_wanted(task, is_fresh=_is_fresh(task, passport))} ORDER BY {ROW}"
        return connection.sql(query).to_arrow_table()


def _errors(task: ScoreTask) -> AbstractContextManager[None]:
    return sql.data_errors(
        f"{task.kept}, or its scores", "`prep filter --force` writes it anew, `prep score --force` the scores."
    )


# -- their scores ----------------------------------------------------------------------------------------------------


class _Watch:
    """Tells of pictures that cannot be read any more from those that never could.

    Args:
        readable: the address of one that could be read before.
    """

    def __init__(self, readable: str | None) -> None:
        self._readable = readable
        self._failed = 0  # pictures in a row

    def see(self, task: ScoreTask, address: str, status: str, *, is_last: bool) -> None:
        """Take note of what became of a picture.

        Raises:
            WorkspaceError: one that could be read before cannot be any more; asked after so many that could not, and
                where the last of a shard could not.
        """
        if status not in (MISSING, UNREADABLE):
            self._readable, self._failed = address, 0
            return
        self._failed += 1
        if self._readable is None or not (is_last or self._failed % TRIED == 0):
            return
        if reason := why_unreadable(self._readable, task.s3_endpoint):
            raise WorkspaceError(
                f"{self._readable} could be read and cannot be any more: {reason}",
                "Check the place of the images, and whether the keys for it have expired; then run the same command: "
                "what is done stays done.",
            )


def score_shards(tasks: Sequence[ScoreTask], scorer: Scorer, advance: Advance, readable: str | None = None) -> None:
    """Score several shards in one stream of pictures; each is written when its own are through.

    Args:
        readable: the address of a picture that could be read.

    Raises:
        WorkspaceError: that cannot be read any more; nor can others.
    """
    for folder in {task.output.parent for task in tasks if task.force}:
        note_forced(folder)
    watch = _Watch(readable)
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
            task, wanted = under_way[0]
            address = wanted["address"][len(scores)].as_py()
            scores.append(score)
            advance(1)
            is_last = len(scores) == len(wanted)
            watch.see(task, address, score.status, is_last=is_last)
            if is_last:
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
        others = [old for old in passports_in(task.output) if old != passport]
        passports = [*others, *(passports if any(value is not None for value in values) else [])]
    remove_manifest(task.output.parent)  # not before there is a shard to be written: a run that fails changes nothing
    write_scores(task.output, rows.sort_by(ROW), shard_task(passport, task.samples_sha256), passports)
    if task.force:
        note_forced(task.output.parent, task.output.name)


def note_forced(folder: Path, shard: str = "") -> None:
    """Note that all shards in a folder are to be made anew, and that one has been."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_own(folder / FORCED, "a") as file:
        file.write(f"{shard}\n")


def forced_shards(folder: Path) -> set[str] | None:
    """The shards that a forced run has made anew; None where none is unfinished."""
    path = folder / FORCED
    return set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else None


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


def finish(workspace: Workspace, name: str, info: ScorerInfo, outputs: Sequence[Path], made: int) -> Outcome:
    """Write the manifest over the shards that are there, and remove those of samples that are gone.

    Of several ranks each tells of its own shards, and the last writes the manifest.
    """
    folder = workspace.scores(info.name, name)
    own = [path for path in share().of(outputs) if path.is_file()]
    facts = {
        "dataset": workspace.table(name)[0].name,
        "scorer": info.name,
        "column": info.column,
    }
    shards, passports = tuple(describe_shard(path) for path in own), passports_of(own)
    if not share().is_whole:
        of = fingerprint([shard.sha256 for shard in _filtered_shards(workspace, name)])
        write_share(folder, share(), Manifest("score", shards, {**facts, "of": of, "passports": passports}))
        handed_in = read_shares(folder, share().world_size)
        shares = [other for other in handed_in if other.facts["of"] == of]
        if len(shares) < share().world_size:
            note = f"{info.name}; {others_missing(len(handed_in), len(shares))}"
            return Outcome("score", name, "partly", made, len(own), note=note)
        place = {path.name: number for number, path in enumerate(outputs)}
        shards = tuple(sorted((shard for other in shares for shard in other.shards), key=lambda s: place[s.name]))
        passports = passports_of(folder / shard.name for shard in shards)
    for path in set(folder.glob("*.parquet")) - {folder / shard.name for shard in shards}:
        path.unlink(missing_ok=True)
    (folder / FORCED).unlink(missing_ok=True)
    manifest = Manifest("score", shards, {**facts, "passports": passports})
    write_manifest(folder, manifest)
    return Outcome("score", name, "done", made, len(own), manifest, info.name)


def _filtered_shards(workspace: Workspace, name: str) -> tuple[Shard, ...]:
    filtered = read_finished(workspace.filtered(name))
    return filtered.shards if filtered else ()
