"""Scores out of CLIP embeddings that were computed before, such as LAION publishes: of a table, or of a file alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prep.errors import UsageError
from prep.files import hash_file
from prep.manifest import Manifest, read_finished, remove_manifest
from prep.progress import Advance, bar
from prep.schema import ROW
from prep.scorers.embeddings import read_embeddings, score_embeddings
from prep.scorers.scorer import Passport, ScorerInfo
from prep.stages.score_tasks import finish, schema, shortest, write_scores
from prep.stages.scored import refusal, shard_task
from prep.stages.shards import Outcome
from prep.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from prep.scorers.heads import Head


def attach_embeddings(
    workspace: Workspace,
    name: str,
    info: ScorerInfo,
    files: Sequence[Path],
    load: Callable[[], tuple[Head, Passport]],
    *,
    dry_run: bool = False,
) -> Outcome:
    """Score the rows of table `name` by CLIP embeddings of their images, which need not be here.

    Args:
        files: a `.npy` file for each shard of samples, in order, with a row for each of its records.

    Raises:
        UsageError: samples of its kind have no such scores, or files and shards do not agree.
        DataError: a file holds no embeddings of length 1.
    """
    if error := refusal(workspace, name, info, info.scale, all_rows=True):
        raise error
    normalized = read_finished(workspace.normalized(name))
    if normalized is None:
        return Outcome("score", name, "waiting", note="normalize first")
    embeddings = [read_embeddings(path) for path in files]
    _check_rows(name, normalized, files, [len(rows) for rows in embeddings])
    if dry_run:
        return Outcome("score", name, "planned", len(files), len(files), note=f"{info.name}: of embeddings")
    head, passport = load()
    folder = workspace.scores(info.name, name)
    outputs = [folder / shard.name for shard in normalized.shards]
    with bar(f"score {name}", normalized.rows, "embeddings") as advance:
        for file, shard, output, rows in zip(files, normalized.shards, outputs, embeddings, strict=True):
            scores = embedding_scores(head, rows, file, advance)
            remove_manifest(folder)  # not before there is a shard to be written: what is refused changes nothing
            write_scores(output, scores, shard_task(passport, shard.sha256), [passport])
    return finish(workspace, name, info, outputs, len(files))


def _check_rows(name: str, normalized: Manifest, files: Sequence[Path], rows: Sequence[int]) -> None:
    """Raise UsageError unless there is a file for each shard, with a row for each record."""
    if len(files) != len(normalized.shards):
        raise UsageError(
            f"table {name} has {len(normalized.shards)} shards, and {len(files)} files of embeddings are given",
            "Give one for each, in the order of the publisher's parts.",
        )
    for file, found, shard in zip(files, rows, normalized.shards, strict=True):
        if found != shard.rows:
            raise UsageError(
                f"{file} has {found:,} rows, and {shard.name} of table {name} has {shard.rows:,} records",
                "Give the embeddings of that part, one a record, in the order of its records.",
            )


@dataclass(frozen=True)
class FileScores:
    """Scores of a file of embeddings.

    Attributes:
        output: where they are.
        counts: rows by status.
        low, mean, high: of the scores; None where there is none.
    """

    file: Path
    output: Path
    counts: dict[str, int]
    low: float | None
    mean: float | None
    high: float | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def score_file(file: Path, output: Path, load: Callable[[], tuple[Head, Passport]]) -> FileScores:
    """Write the scores of a file of embeddings to the parquet file `output`: `row`, `score` and `status`.

    Raises:
        DataError: it holds no embeddings of length 1.
    """
    import pyarrow.compute as pc

    rows = read_embeddings(file)
    head, passport = load()
    with bar(f"score {file.name}", len(rows), "embeddings") as advance:
        scores = embedding_scores(head, rows, file, advance).select([ROW, "score", "status"])
    write_scores(output, scores, shard_task(passport, hash_file(file)), [passport])
    counts = {status["values"]: status["counts"] for status in scores["status"].value_counts().to_pylist()}
    bounds, mean = pc.min_max(scores["score"]).as_py(), pc.mean(scores["score"]).as_py()
    return FileScores(file, output, counts, bounds["min"], mean, bounds["max"])


def embedding_scores(head: Head, embeddings: np.ndarray, file: Path, advance: Advance) -> pa.Table:
    """Scores of a file's embeddings, row by row, in the columns of a shard."""
    import pyarrow as pa

    blocks, row = [], 0
    for block in score_embeddings(head, embeddings, file):
        count = len(block.statuses)
        nulls = pa.nulls(count, pa.string())
        values = [None if math.isnan(value) else shortest(value) for value in block.scores]
        rows = np.arange(row, row + count)
        blocks.append(pa.table([rows, nulls, nulls, values, block.statuses, [""] * count], schema=schema()))
        advance(count)
        row += count
    return pa.concat_tables(blocks) if blocks else schema().empty_table()
