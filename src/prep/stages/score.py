"""score: a score for every image that training makes and that has none yet, with a passport of where it comes from.

A shard of scores stands beside each shard of samples. It keeps what is in it that still holds (the same image, the
same text, a passport that can be compared) and gets what is missing, so nothing is scored twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from prep.engine import cluster, run_tasks, share
from prep.errors import UsageError
from prep.manifest import read_finished, remove_share, remove_shares
from prep.progress import bar
from prep.scorers.devices import claim_device
from prep.scorers.scorer import SCORERS, Passport, Scorer, ScorerInfo
from prep.stages.sampling import outside_of_share
from prep.stages.score_tasks import ScoreTask, count_wanted, find_readable, finish, forced_shards, score_shards
from prep.stages.scored import finished_scores, passports_in, refusal, takes_all
from prep.stages.shards import Outcome
from prep.workspace import Workspace


class Loading(Protocol):
    """How to come by a loaded scorer: plain data that a worker process can be handed."""

    def __hash__(self) -> int:
        """A scorer is loaded once for all ways that are equal."""

    @property
    def has_own_weights(self) -> bool:
        """Whether scores that are there may be of other weights, although none is missing."""

    def expected(self, *, fetch: bool) -> Passport | None:
        """The passport of its scores, as far as comparisons need it; no model is loaded.

        Args:
            fetch: fetch weights whose hashes nobody knows before; else None is given.
        """

    def devices(self) -> Sequence[str]:
        """Devices to run on, a process for each."""

    def load(self, device: str) -> Scorer:
        """Load it."""


def score_table(
    workspace: Workspace,
    name: str,
    info: ScorerInfo,
    loading: Loading | None = None,
    *,
    all_rows: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Score the images of table `name` that have no score yet.

    Args:
        loading: how to load the scorer; not needed for a dry run, and not used where nothing is missing.
        all_rows: also rows that the publisher gives a score.
        force: also rows that have been scored.

    Raises:
        UsageError: samples of its kind cannot be scored, or scores of embeddings would be lost.
        ConfigError: `filter` would refuse the scores beside the publisher's.
        WorkspaceError: nothing can be scored, because no image can be read.
    """
    expected = None if loading is None else loading.expected(fetch=False)
    tasks = _tasks(workspace, name, info, expected.scale if expected else info.scale, all_rows, force)
    if isinstance(tasks, Outcome):
        return tasks
    folder = workspace.scores(info.name, name)
    manifest = finished_scores(folder)
    all_outputs = [task.output for task in tasks]
    tasks = list(share().of(tasks))
    there = [task for task in tasks if task.output.is_file()]
    missing = _missing(tasks)
    if loading is not None and (missing or loading.has_own_weights or len(_identities(there)) > 1):
        expected = loading.expected(fetch=not dry_run)
        missing = _missing(tasks, expected)
    if missing and not any(task.force for task in tasks):
        _keep_embeddings(name, info, there, len(missing))
    if not missing and share().is_whole and (manifest is not None or not there):
        if not dry_run:
            remove_shares(folder)
        note = info.name if manifest is not None else f"{info.name}: no row needs a score"
        return Outcome("score", name, "up to date", 0, len(tasks), manifest, note)
    if dry_run or loading is None:
        note = f"{info.name}: {sum(missing.values()):,} images"
        return Outcome("score", name, "planned", len(missing), len(tasks), note=note)
    readable = find_readable(list(missing), tasks, expected)
    if missing or share().is_whole:
        remove_share(folder, share())
    made = _score(name, missing, loading, readable) if missing else []
    return finish(workspace, name, info, all_outputs, len(made))


def _missing(tasks: Sequence[ScoreTask], expected: Passport | None = None) -> dict[ScoreTask, int]:
    """The shards that something is to be done of, each with how many images are to be scored."""
    return {task: rows for task in tasks if (rows := count_wanted(task, expected)) is not None}


def _keep_embeddings(name: str, info: ScorerInfo, there: Sequence[ScoreTask], missing: int) -> None:
    """Raise UsageError where scores of images would go beside, or in the place of, scores of embeddings."""
    if any(passport.is_of_embeddings for task in there for passport in passports_in(task.output)):
        raise UsageError(
            f"table {name}: its scores of {info.name} are of embeddings, and {missing} of its shards have some to "
            "be computed of images",
            "Give the embeddings of every shard (`--embeddings`), or score every image with --force.",
        )


def _tasks(
    workspace: Workspace, name: str, info: ScorerInfo, scale: str, all_rows: bool, force: bool
) -> list[ScoreTask] | Outcome:
    """A task for every shard of samples; an outcome where earlier stages have to come first.

    Args:
        scale: of the scores to come.
    """
    if error := refusal(workspace, name, info, scale, all_rows=all_rows):
        raise error
    normalized, filtered = read_finished(workspace.normalized(name)), workspace.read_filtered(name)
    if normalized is None or filtered is None:
        return Outcome("score", name, "waiting", note="filter first")
    if not filtered.facts["has_images"]:
        return Outcome("score", name, "waiting", note="images first, then filter")
    is_published = bool(normalized.counts.get(info.column)) and not takes_all(workspace, name, info, all_rows)
    rules = filtered.facts["rules"]
    where = rules.get("where") or ""
    folder = workspace.scores(info.name, name)
    forced = forced_shards(folder)  # by a run that was interrupted: this one goes on with it
    force = force or forced is not None
    return [
        ScoreTask(
            workspace.normalized(name) / shard.name,
            shard.sha256,
            workspace.filtered(name) / shard.name,
            workspace.dropped(name) / shard.name,
            filtered.facts["kind"],
            info.name,
            workspace.image_root,
            workspace.config.s3_endpoint,
            is_published=is_published,
            is_asked=info.column.lower() in where.lower(),
            outside=outside_of_share(rules.get("sample"), rules.get("seed") or 0),
            force=force and shard.name not in (forced or ()),
            output=folder / shard.name,
        )
        for shard in normalized.shards
    ]


def _identities(tasks: Sequence[ScoreTask]) -> set[str]:
    """What passports of these shards have to have in common to be compared; one string where they can be."""
    return {str(passport.identity) for task in tasks for passport in passports_in(task.output)}


def _score(name: str, missing: Mapping[ScoreTask, int], loading: Loading, readable: str | None) -> list[ScoreTask]:
    """Score the shards: on a cluster, in this process, or where there are several devices in a process for each."""
    tasks = list(missing)
    with bar(f"score {name}", sum(missing.values()), "images") as advance:
        if cluster() is not None:
            for task in run_tasks(partial(_score_there, loading, readable), tasks, workers=1, on_gpu=True):
                advance(missing[task])
            return tasks
        devices = loading.devices()
        if len(devices) == 1:
            score_shards(tasks, _loaded(loading, devices[0]), advance, readable)
            return tasks
        with TemporaryDirectory(prefix="prep-devices-") as locks:  # of this run alone, on a file system with locks
            work = partial(_score_one, loading, tuple(devices), Path(locks), readable)
            for task in run_tasks(work, tasks, workers=min(len(devices), len(tasks))):
                advance(missing[task])
    return tasks


@cache
def _loaded(loading: Loading, device: str) -> Scorer:
    """The scorer, loaded once in a process."""
    return loading.load(device)


def _score_one(
    loading: Loading, devices: tuple[str, ...], locks: Path, readable: str | None, task: ScoreTask
) -> ScoreTask:
    """Score one shard, in a process that has a device to itself."""
    score_shards([task], _loaded(loading, claim_device(devices, locks)), lambda amount: None, readable)
    return task


def _score_there(loading: Loading, readable: str | None, task: ScoreTask) -> ScoreTask:
    """Score one shard on a machine of the cluster, on the first of the devices that are given to this process."""
    score_shards([task], _loaded(loading, loading.devices()[0]), lambda amount: None, readable)
    return task


def score_status(workspace: Workspace, name: str) -> list[Outcome]:
    """How far the scores of table `name` are, by scorer, as far as manifests tell."""
    outcomes = []
    for scorer in SCORERS:
        folder = workspace.scores(scorer, name)
        shards, manifest = len(list(folder.glob("*.parquet"))), finished_scores(folder)
        if manifest is not None:
            outcomes.append(Outcome("score", name, "up to date", 0, shards, manifest, scorer))
        elif shards:
            outcomes.append(Outcome("score", name, "planned", note=f"{scorer}: not finished"))
    return outcomes
