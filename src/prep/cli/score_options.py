"""The options of `prep score`, as the stage takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from prep.cli import document, show
from prep.config import nearest
from prep.errors import UsageError
from prep.scorers.devices import CPU
from prep.scorers.embeddings import read_embeddings
from prep.scorers.scorer import SCORERS, Scorer, ScorerInfo
from prep.stages.score import score_table
from prep.stages.score_embeddings import FileScores, attach_embeddings, score_file
from prep.stages.scored import refusal
from prep.stages.shards import Outcome
from prep.workspace import Workspace

if TYPE_CHECKING:
    from prep.scorers.heads import Head
    from prep.scorers.scorer import Passport


@dataclass(frozen=True)
class TorchLoading:
    """A scorer that torch runs, as the command line asks for it.

    Attributes:
        workers: processes that read and decode images, for all devices together; beside a model on the CPU, which takes
            a hundred times as long, at most one.
    """

    scorer: str
    weights: Path | None
    device: str | None
    dtype: str | None
    batch_size: int | None
    workers: int
    s3_endpoint: str | None

    @property
    def has_own_weights(self) -> bool:
        """Whether a folder of weights is given."""
        return self.weights is not None

    def expected(self, *, fetch: bool) -> Passport | None:
        """The passport of its scores, as far as it is known without a model."""
        return _expected(self.scorer, self.weights, fetch=fetch)

    def devices(self) -> Sequence[str]:
        """Devices to run on."""
        from prep.scorers.devices import devices
        from prep.scorers.loading import check_installed

        check_installed("torch", "transformers")
        return devices(self.device)

    def load(self, device: str) -> Scorer:
        """Load it."""
        from prep.scorers.loading import load_scorer

        return load_scorer(
            self.scorer,
            weights=self.weights,
            device=device,
            dtype=self.dtype,
            batch_size=self.batch_size,
            workers=min(self.workers, 1) if device == CPU else -(-self.workers // len(self.devices())),
            s3_endpoint=self.s3_endpoint,
        )


@cache  # gigabytes are hashed
def _expected(scorer: str, weights: Path | None, *, fetch: bool) -> Passport | None:
    from prep.scorers.loading import expected_passport

    return expected_passport(scorer, weights, fetch=fetch)


def scorer_called(name: str) -> ScorerInfo:
    """The scorer of that name.

    Raises:
        UsageError: there is none.
    """
    info = SCORERS.get(name)
    if info is None:
        raise UsageError(f"--scorer {name} is unknown{nearest(name, SCORERS)}", f"There are: {', '.join(SCORERS)}.")
    return info


def score_stage(info: ScorerInfo, loading: TorchLoading, *, is_named: bool, all_rows: bool) -> Callable[..., Outcome]:
    """The stage for one table; one that cannot be scored is passed over where nobody named it."""

    def stage(workspace: Workspace, table: str, *, force: bool, dry_run: bool) -> Outcome:
        expected = loading.expected(fetch=False)
        scale = expected.scale if expected else info.scale
        if not is_named and (error := refusal(workspace, table, info, scale, all_rows=all_rows)):
            return Outcome("score", table, "up to date", note=f"passed over: {error.message}")
        return score_table(workspace, table, info, loading, all_rows=all_rows, force=force, dry_run=dry_run)

    return stage


def embeddings_stage(
    info: ScorerInfo, weights: Path | None, files: Sequence[Path], tables: Sequence[str]
) -> Callable[..., Outcome]:
    """The stage that takes scores from embeddings.

    Raises:
        UsageError: they are for one table, and another number is named.
    """
    if len(tables) != 1:
        raise UsageError(
            f"--embeddings are for one table, and this means {len(tables)}", f"Name one: {', '.join(tables)}."
        )

    def stage(workspace: Workspace, table: str, *, force: bool, dry_run: bool) -> Outcome:
        return attach_embeddings(workspace, table, info, files, head_loader(info, weights), dry_run=dry_run)

    return stage


def head_loader(info: ScorerInfo, weights: Path | None) -> Callable[[], tuple[Head, Passport]]:
    """How to load a scorer's head, once."""

    def load() -> tuple[Head, Passport]:
        from prep.scorers.loading import load_head

        return load_head(info.name, weights=weights)

    return cache(load)


def score_files(
    info: ScorerInfo,
    weights: Path | None,
    files: Sequence[Path],
    output: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Score files of embeddings that belong to no table, and tell what came out.

    Raises:
        UsageError: several files cannot go to one.
    """
    if output is not None and len(files) > 1:
        raise UsageError(f"--output is for one file, and {len(files)} are given", "Leave it out, or give one.")
    load = head_loader(info, weights)
    results: list[FileScores] = []
    document.put({"files": results})
    with show.bars(as_json):
        for file in files:
            target = output or file.with_name(f"{file.name}.scores.parquet")
            if dry_run:
                show.talk(f"{target} would get {len(read_embeddings(file)):,} scores of {info.name}")
                continue
            results.append(score_file(file, target, load))
            if not as_json:
                show.file_scores(results[-1])
