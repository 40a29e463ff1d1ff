"""What the stages that write parquet shards share: decide, make what is missing, describe, manifest last.

A shard carries in its parquet metadata the fingerprint of everything it was made from, so a killed run is picked up
from the shards alone, and a shard made from other inputs is never mistaken for a finished one.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from prep import sql
from prep.engine import RANKS_FILES, cluster, run_tasks, share
from prep.files import hash_file
from prep.manifest import (
    SHARES,
    Manifest,
    Shard,
    known_shards,
    read_manifest,
    read_shares,
    remove_manifest,
    remove_share,
    remove_shares,
    write_manifest,
    write_share,
)
from prep.progress import Bar, bar
from prep.workspace import Workspace

SPILLS = ".*.spill"  # folders of what did not fit into memory
State = Literal["done", "up to date", "waiting", "planned", "partly"]


class ShardTask(ABC):
    """One shard to be made: plain data that a worker process can be handed.

    Attributes:
        output: the shard.
    """

    output: Path

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Files it writes; the last is the shard itself, written last."""
        return (self.output,)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Name of everything the shard is made from."""

    def passed(self) -> str:
        """Name of the rows that a question let pass, of a finished shard; empty without one."""
        return ""


def share_memory(workspace: Workspace, tasks: int, memory: int | None = None) -> tuple[int, int | None]:
    """How many of so many shards to make at once, and bytes of memory for each; None: a worker's share of its machine.

    Args:
        memory: bytes for all of them; by default what prep.yaml says, and if it is silent half of what is free.
    """
    total, at_once = memory or workspace.memory, min(workspace.workers, max(1, tasks))
    if cluster() is not None and total is None:  # what is free here says nothing of other machines
        return at_once, None
    return sql.share_memory(at_once, total)


TaskT = TypeVar("TaskT", bound=ShardTask)
Make = Callable[[TaskT], None]
Count = Callable[[TaskT], dict[str, int]]


@dataclass(frozen=True)
class Outcome:
    """What a stage did for one dataset or table.

    Attributes:
        state: `done` (something was made), `up to date`, `waiting` (an earlier stage has to come first; `note`
            says which), `planned` (a dry run) or `partly` (this rank's share is made; `note` says what is not).
        made: shards or parts made, or that would be made.
        total: shards or parts in all.
        manifest: what is there now; None when unfinished.
    """

    stage: str
    name: str
    state: State
    made: int = 0
    total: int = 0
    manifest: Manifest | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        data: dict[str, Any] = {
            "stage": self.stage,
            "name": self.name,
            "state": self.state,
            "made": self.made,
            "total": self.total,
        }
        if self.manifest is not None:
            data["rows"] = self.manifest.rows
            data["size_bytes"] = self.manifest.size_bytes
            data["counts"] = self.manifest.counts
            data["facts"] = dict(self.manifest.facts)
        if self.note:
            data["note"] = self.note
        return data


def build_shards(
    stage: str,
    name: str,
    folder: Path,
    tasks: Sequence[TaskT],
    make: Make[TaskT] | None,
    count: Count[TaskT] | None = None,
    *,
    make_batch: Callable[[Sequence[TaskT]], None] | None = None,
    batch: int = 1,
    facts: Mapping[str, Any],
    workers: int,
    force: bool = False,
    dry_run: bool = False,
    is_stale: Callable[[TaskT], bool] | None = None,
    unit: tuple[str, int | None] | None = None,
    on_bar: Callable[[Bar], None] = lambda advance: None,
    on_made: Callable[[TaskT], None] = lambda task: None,
    on_whole: Callable[[], None] = lambda: None,
) -> Outcome:
    """Bring `folder` to hold exactly the shards of `tasks`; of several ranks each makes its own, the last ends it.

    Args:
        make: writes a task's outputs, each whole or not at all.
        make_batch: in its place, writes those of several tasks; each worker is given an equal share of all tasks, of
            at most `batch`.
        count: counts what a finished task's outputs hold, for the manifest.
        facts: what the manifest says of all shards.
        force: make every shard again.
        is_stale: says of a finished shard that it must be made again all the same.
        unit: what the bar counts in place of shards, and how many of them there are (None when nobody knows).
        on_bar: is given the bar when work begins; with `unit` it has to do the counting.
        on_made: called in this process with a task whose shard is there, made now or before.
        on_whole: called when every shard is there, before the manifest says so.

    Raises:
        PrepError: a task failed; finished shards stay, and the next run goes on from them.
    """
    manifest, own = read_manifest(folder), share().of(tasks)
    fresh = {} if force else _fresh_shards(own, known_shards(folder), count, is_stale)
    missing = [task for task in own if task.outputs[-1].name not in fresh]
    by_name = {task.outputs[-1].name: task for task in own}
    if not dry_run:
        for done in fresh:
            on_made(by_name[done])
    is_whole = share().is_whole or (is_stale is None and manifest is not None and _is_of(manifest, tasks))
    if not missing and manifest and manifest.facts == facts and len(manifest.shards) == len(tasks) and is_whole:
        if share().is_whole and not dry_run:
            remove_shares(folder)
        return Outcome(stage, name, "up to date", 0, len(own), manifest)
    if dry_run:
        return Outcome(stage, name, "planned", len(missing), len(own))

    _declare_unfinished(folder, tasks, missing)
    what, total, items = (*unit, len(missing)) if unit else ("shards", len(missing), None)
    with bar(f"{stage} {name}", total, what, items) as advance:
        on_bar(advance)
        for shard in _described(missing, make, make_batch, count, batch, workers):
            fresh[shard.name] = shard
            advance(0 if unit else 1, items=1 if unit else 0)
            on_made(by_name[shard.name])
    made = Manifest(stage, tuple(fresh[task.outputs[-1].name] for task in own), facts)
    whole = made if share().is_whole else _hand_in(folder, made, tasks)
    if isinstance(whole, str):
        return Outcome(stage, name, "partly", len(missing), len(own), note=whole)
    on_whole()
    _remove_strays({output for task in tasks for output in task.outputs})
    write_manifest(folder, whole)
    return Outcome(stage, name, "done", len(missing), len(own), whole)


# -- ranks -----------------------------------------------------------------------------------------------------------


def _is_of(manifest: Manifest, tasks: Sequence[TaskT]) -> bool:
    """Whether the manifest is of what these tasks make, and that is in place."""
    known = {shard.name: shard for shard in manifest.shards}
    return all(
        task.outputs[-1].name in known and _in_place(task, known[task.outputs[-1].name]) is not None for task in tasks
    )


def _hand_in(folder: Path, made: Manifest, tasks: Sequence[TaskT]) -> Manifest | str:
    """Say that this rank's share is made, and put all shares together; a note of what is missing while something is.

    Two ranks that end together put the same together.
    """
    write_share(folder, share(), made)
    shares = read_shares(folder, share().world_size)
    alike = [other for other in shares if other.facts == made.facts]
    known = {shard.name: shard for other in alike for shard in other.shards}
    found = [(task, known.get(task.outputs[-1].name)) for task in tasks]
    shards = [_in_place(task, shard) for task, shard in found if shard is not None]
    whole = tuple(shard for shard in shards if shard is not None)
    if len(alike) < share().world_size or len(whole) < len(tasks):
        return others_missing(len(shares), len(alike))
    return Manifest(made.stage, whole, made.facts)


def others_missing(shares: int, alike: int) -> str:
    """What other ranks have not made, as a person is told.

    Args:
        shares: how many ranks have made theirs, this one among them.
        alike: those of them who made it by the same rules, of the same inputs.
    """
    others, unlike = share().world_size - shares, shares - alike
    left = [f"{others} other{'s have' if others > 1 else ' has'} not"] if others else []
    left += [f"what {unlike} other{'s' if unlike > 1 else ''} made is of other rules or inputs"] if unlike else []
    return f"{share()}: its share is made; {', and '.join(left) or 'what others made is not up to date'}"


# -- what is there ---------------------------------------------------------------------------------------------------


def _declare_unfinished(folder: Path, tasks: Sequence[TaskT], missing: Sequence[TaskT]) -> None:
    """Take the manifest away before anything changes; of several ranks each only where it has work to do."""
    if share().is_whole:
        remove_manifest(folder)
        _remove_strays({output for task in tasks for output in task.outputs})
    elif missing:
        remove_share(folder, share())
        remove_manifest(folder)


def _described(
    tasks: Sequence[TaskT],
    make: Make[TaskT] | None,
    make_batch: Callable[[Sequence[TaskT]], None] | None,
    count: Count[TaskT] | None,
    batch: int,
    workers: int,
) -> Iterator[Shard]:
    """Have the tasks done, here or on a cluster; the shard of each, as they come."""
    machines = cluster()
    at_once = workers if machines is None else machines.workers
    batches = _batches(tasks, at_once, batch) if make_batch else [_Batch((task,)) for task in tasks]
    return chain.from_iterable(run_tasks(partial(_make, make, make_batch, count), batches, workers=workers))


def _fresh_shards(
    tasks: Sequence[TaskT],
    known: Mapping[str, Shard],
    count: Count[TaskT] | None,
    is_stale: Callable[[TaskT], bool] | None,
) -> dict[str, Shard]:
    """Shards, by name, that need not be made."""
    finished = ((task, _finished(task, known.get(task.outputs[-1].name), count)) for task in tasks)
    return {shard.name: shard for task, shard in finished if shard is not None and not (is_stale and is_stale(task))}


def _finished(task: TaskT, known: Shard | None, count: Count[TaskT] | None) -> Shard | None:
    """The task's shard if it is there and made from what the task is made from, else None."""
    if not all(output.is_file() for output in task.outputs):
        return None
    if known is not None and known.task == task.fingerprint:
        return _in_place(task, known)
    if any(fingerprint_in(output) != task.fingerprint for output in task.outputs):
        return None
    return _describe(task, count)


def _in_place(task: TaskT, known: Shard) -> Shard | None:
    """The shard, if it is made from what the task is made from and its files are there and have their sizes."""
    try:
        sizes = [output.stat().st_size for output in task.outputs]
    except FileNotFoundError:
        return None
    is_same = (known.task, known.size_bytes, known.beside_bytes) == (task.fingerprint, sizes[-1], sum(sizes[:-1]))
    return known if is_same else None


@dataclass(frozen=True)
class _Batch(Generic[TaskT]):
    """Tasks that one worker does together."""

    tasks: tuple[TaskT, ...]

    def __str__(self) -> str:
        more = f" and {len(self.tasks) - 1} more" if len(self.tasks) > 1 else ""
        return f"{self.tasks[0].outputs[-1]}{more}"


def _batches(tasks: Sequence[TaskT], workers: int, most: int) -> list[_Batch[TaskT]]:
    """The tasks dealt out evenly, to each worker one batch if that is not more than `most`."""
    number = max(min(workers, len(tasks)), -(-len(tasks) // most))
    return [_Batch(tuple(tasks[first::number])) for first in range(number)]


def _make(
    make: Make[TaskT] | None,
    make_batch: Callable[[Sequence[TaskT]], None] | None,
    count: Count[TaskT] | None,
    batch: _Batch[TaskT],
) -> list[Shard]:
    if make_batch is not None:
        make_batch(batch.tasks)
    elif make is not None:
        make(batch.tasks[0])
    return [_describe(task, count) for task in batch.tasks]


def _describe(task: TaskT, count: Count[TaskT] | None) -> Shard:
    import pyarrow.parquet as pq

    path = task.outputs[-1]
    rows = pq.read_metadata(path).num_rows
    counts = count(task) if count else {}
    beside = sum(output.stat().st_size for output in task.outputs[:-1])
    sha256, size_bytes = hash_file(path), path.stat().st_size
    return Shard(path.name, task.fingerprint, rows, size_bytes, sha256, counts, beside, passed=task.passed())


def fingerprint_in(path: Path) -> str | None:
    """The fingerprint a parquet file carries; None for one that is not ours or not readable."""
    return metadata_in(path, sql.TASK_KEY)


def metadata_in(path: Path, key: str) -> str | None:
    """What the metadata of a parquet file says under `key`; None for one that is not readable, or does not say it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError):
        return None
    value = metadata.get(key.encode())
    return value.decode() if value else None


def _remove_strays(wanted: set[Path]) -> None:
    """Remove files of an earlier, different run: a loader of the folder would read them too.

    And what a killed one left half made, but for that of other ranks: they may be at it.
    """
    for folder in {path.parent for path in wanted}:
        for path in folder.glob("*"):
            if not share().is_whole and (path.match(SHARES) or path.match(RANKS_FILES)):
                continue
            if path.is_file() and path not in wanted:
                path.unlink(missing_ok=True)
            elif path.match(SPILLS) and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
