"""score: a score for every image that training makes and that has none yet, with a passport of where it comes from.

A shard of scores stands beside each shard of samples. It keeps what is in it that still holds (the same image, the
same text, a passport that can be compared) and gets what is missing, so nothing is scored twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Protocol

from prep.engine import run_tasks
from prep.errors import UsageError
from prep.manifest import read_finished, remove_manifest
from prep.progress import bar
from prep.scorers.devices import claim_device
from prep.scorers.scorer import SCORERS, Scorer, ScorerInfo
from prep.stages.score_tasks import ScoreTask, count_wanted, finish, score_shards
from prep.stages.scored import EMBEDDINGS, IMAGES, passports_in, refusal, takes_all
from prep.stages.shards import Outcome
from prep.workspace import Workspace


class Loading(Protocol):
    """How to come by a loaded scorer: plain data that a worker process can be handed."""

    def __hash__(self) -> int:
        """A scorer is loaded once for all ways that are equal."""

    @property
    def has_own_weights(self) -> bool:
        """Whether scores that are there may be of other weights; then the model is loaded to find out."""

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
        UsageError: samples of its kind cannot be scored.
        ConfigError: `filter` would refuse the scores beside the publisher's.
    """
    tasks = _tasks(workspace, name, info, all_rows, force)
    if isinstance(tasks, Outcome):
        return tasks
    folder = workspace.scores(info.name, name)
    manifest = read_finished(folder)
    there = [task for task in tasks if task.output.is_file()]
    missing = {task: rows for task in tasks if (rows := count_wanted(task))}
    if missing and not force and manifest is not None and manifest.facts["source"] == EMBEDDINGS:
        raise UsageError(
            f"table {name}: its scores of {info.name} are of embeddings, and {len(missing)} shards lack some",
            "Give the embeddings of every shard (`--embeddings`), or score every image with --force.",
        )
    if not missing and loading is not None and (loading.has_own_weights or len(_identities(there)) > 1):
        missing = dict.fromkeys(there[:1], 0)  # to compare passports with that of the scorer
    if not missing and (manifest is not None or not there):
        note = info.name if manifest is not None else f"{info.name}: no row needs a score"
        return Outcome("score", name, "up to date", 0, len(tasks), manifest, note)
    if dry_run or loading is None:
        note = f"{info.name}: {sum(missing.values()):,} images"
        return Outcome("score", name, "planned", len(missing), len(tasks), note=note)
    remove_manifest(folder)
    made = _score(name, missing, loading) if missing else []
    if made and (others := [task for task in there if _identities([task]) != _identities(made[:1])]):
        made += _score(name, {task: count_wanted(task) for task in others}, loading)
    return finish(workspace, name, info, [task.output for task in tasks], IMAGES, len(made))


def _tasks(workspace: Workspace, name: str, info: ScorerInfo, all_rows: bool, force: bool) -> list[ScoreTask] | Outcome:
    """A task for every shard of samples; an outcome where earlier stages have to come first."""
    if error := refusal(workspace, name, info, all_rows=all_rows):
        raise error
    normalized, filtered = read_finished(workspace.normalized(name)), read_finished(workspace.filtered(name))
    if normalized is None or filtered is None or len(normalized.shards) != len(filtered.shards):
        return Outcome("score", name, "waiting", note="filter first")
    if not filtered.facts["has_images"]:
        return Outcome("score", name, "waiting", note="images first, then filter")
    is_published = bool(normalized.counts.get(info.column)) and not takes_all(workspace, name, info, all_rows)
    where = filtered.facts["rules"].get("where") or ""
    return [
        ScoreTask(
            workspace.normalized(name) / shard.name,
            workspace.filtered(name) / shard.name,
            workspace.dropped(name) / shard.name,
            filtered.facts["kind"],
            info.name,
            workspace.image_root,
            is_published=is_published,
            is_asked=info.column in where,
            force=force,
            output=workspace.scores(info.name, name) / shard.name,
        )
        for shard in normalized.shards
    ]


def _identities(tasks: Sequence[ScoreTask]) -> set[str]:
    """What passports of these shards have to have in common to be compared; one string where they can be."""
    return {str(passport.identity) for task in tasks for passport in passports_in(task.output)}


def _score(name: str, missing: Mapping[ScoreTask, int], loading: Loading) -> list[ScoreTask]:
    """Score the shards: in this process, or where there are several devices in a process for each."""
    devices = loading.devices()
    tasks = list(missing)
    with bar(f"score {name}", sum(missing.values()), "images") as advance:
        if len(devices) == 1:
            score_shards(tasks, _loaded(loading, devices[0]), advance)
            return tasks
        work = partial(_score_one, loading, tuple(devices), tasks[0].output.parents[1] / ".devices")
        for task in run_tasks(work, tasks, workers=min(len(devices), len(tasks))):
            advance(missing[task])
    return tasks


@cache
def _loaded(loading: Loading, device: str) -> Scorer:
    """The scorer, loaded once in a process."""
    return loading.load(device)


def _score_one(loading: Loading, devices: tuple[str, ...], locks: Path, task: ScoreTask) -> ScoreTask:
    """Score one shard, in a process that has a device to itself."""
    score_shards([task], _loaded(loading, claim_device(devices, locks)), lambda amount: None)
    return task


def score_status(workspace: Workspace, name: str) -> list[Outcome]:
    """How far the scores of table `name` are, by scorer, as far as manifests tell."""
    outcomes = []
    for scorer in SCORERS:
        folder = workspace.scores(scorer, name)
        shards, manifest = len(list(folder.glob("*.parquet"))), read_finished(folder)
        if manifest is not None:
            outcomes.append(Outcome("score", name, "up to date", 0, shards, manifest, scorer))
        elif shards:
            outcomes.append(Outcome("score", name, "planned", note=f"{scorer}: not finished"))
    return outcomes
