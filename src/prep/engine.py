"""Run independent shard tasks: in this process, in threads, in a pool of processes that survives its workers.

Or on the machines of a cluster, while one is in use (see `engine_ray`). A task is plain data, its function a plain
module-level function; both are safe to run twice.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from typing import Protocol, TypeVar

from prep.errors import PrepError, WorkspaceError
from prep.files import write_as

T = TypeVar("T")
R = TypeVar("R")

MAX_FAILURES = 10  # after so many failed tasks no further one is started
MAX_ATTEMPTS = 3  # of a task whose worker process dies
RANKS_FILES = ".*.rank-*.*"  # temporary ones of ranks, which may be at work

# Modules that workers find imported when they start, which saves each of them a second. Only names: nothing here
# depends on them.
PRELOADED = (
    "prep.cli",
    "prep.stages.images",
    "prep.stages.image_guard",
    "prep.stages.normalize",
    "prep.stages.filter",
    "prep.images.archives",
    "prep.images.fetch",
    "prep.images.spool",
)


@dataclass(frozen=True)
class Share:
    """Which shards this process makes, where several processes make those of a stage together.

    Attributes:
        rank: which of the processes this is, from 0.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share: the same for the same list, whatever is done of it already."""
        return items[self.rank :: self.world_size]

    @property
    def is_whole(self) -> bool:
        """Whether it is everything."""
        return self.world_size == 1

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


WHOLE = Share()


class Cluster(Protocol):
    """Machines that tasks are sent to."""

    @property
    def workers(self) -> int:
        """Tasks that can be at work at once."""

    def run(
        self, function: Callable[[T], R], tasks: Sequence[T], failures: list[PrepError], *, on_gpu: bool
    ) -> Iterator[R]:
        """Yield results as they come; of tasks that fail, and of those whose worker dies again and again, the error."""


_share = WHOLE
_cluster: Cluster | None = None


def share() -> Share:
    """What of each stage this process is to make."""
    return _share


def cluster() -> Cluster | None:
    """The cluster that tasks are sent to; None where they run on this machine."""
    return _cluster


@contextmanager
def working(own: Share = WHOLE, on: Cluster | None = None) -> Iterator[None]:
    """Make only a share of every stage meanwhile, or send tasks to a cluster."""
    global _share, _cluster
    before = _share, _cluster
    _share, _cluster = own, on
    write_as("" if own.is_whole else f"rank-{own.rank}")
    try:
        yield
    finally:
        _share, _cluster = before
        write_as("")


def default_workers() -> int:
    """One worker per core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    function: Callable[[T], R], tasks: Sequence[T], *, workers: int, threads: bool = False, on_gpu: bool = False
) -> Iterator[R]:
    """Call `function` on every task and yield results as they come.

    A failing task does not stop the others; the failures are raised together at the end.

    Args:
        workers: tasks at work at once; 1 runs them here, in order.
        threads: use threads (for tasks that wait on the network) rather than processes, also beside a cluster.
        on_gpu: on a cluster, a task has a GPU to itself where there are any.

    Raises:
        PrepError: the first failure, and how many there were.
    """
    failures: list[PrepError] = []
    if _cluster is not None and not threads:
        runs = _cluster.run(function, tasks, failures, on_gpu=on_gpu)
    elif workers == 1 and not threads:
        runs = _run_here(function, tasks, failures)
    elif threads:
        runs = _run_threads(function, tasks, workers, failures)
    else:
        runs = _run_processes(function, tasks, workers, failures)
    yield from runs
    if failures:
        first = failures[0]
        if len(failures) > 1:
            raise type(first)(f"{first.message}\n(and {len(failures) - 1} more failures)", first.next_step)
        raise first


def _run_here(function: Callable[[T], R], tasks: Sequence[T], failures: list[PrepError]) -> Iterator[R]:
    for task in tasks:
        try:
            yield function(task)
        except PrepError as error:
            failures.append(error)
            if len(failures) >= MAX_FAILURES:
                return


def _run_threads(
    function: Callable[[T], R], tasks: Sequence[T], workers: int, failures: list[PrepError]
) -> Iterator[R]:
    pool = ThreadPoolExecutor(workers)
    try:
        yield from _feed(pool, function, deque(tasks), 2 * workers, failures)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for what is under way
        raise
    pool.shutdown()


def _run_processes(
    function: Callable[[T], R], tasks: Sequence[T], workers: int, failures: list[PrepError]
) -> Iterator[R]:
    """Feed a pool; when a worker dies, run what was under way one task at a time, so that the deadly one shows."""
    waiting = deque(tasks)
    while waiting and len(failures) < MAX_FAILURES:
        suspects: list[T] = []
        with Processes(min(workers, len(waiting))) as pool:
            yield from _feed(pool, function, waiting, 2 * workers, failures, suspects)
        for suspect in suspects:
            yield from _run_alone(function, suspect, failures)


def _run_alone(function: Callable[[T], R], task: T, failures: list[PrepError]) -> Iterator[R]:
    for _ in range(MAX_ATTEMPTS - 1):
        died: list[T] = []
        with Processes(1) as pool:
            yield from _feed(pool, function, deque([task]), 1, failures, died)
        if not died:
            return
    failures.append(
        PrepError(
            f"a worker process died {MAX_ATTEMPTS} times on {task}",
            "Out of memory? Set `workers: 1` in prep.yaml and run the same command; finished work is kept.",
        )
    )


def _feed(
    pool: Executor,
    function: Callable[[T], R],
    waiting: deque[T],
    in_flight: int,
    failures: list[PrepError],
    suspects: list[T] | None = None,
) -> Iterator[R]:
    """Keep `in_flight` tasks in the pool; a broken pool leaves its tasks in `suspects` and returns."""
    running: dict[Future[R], T] = {}
    broken = False
    while (waiting and not broken and len(failures) < MAX_FAILURES) or running:
        while waiting and not broken and len(running) < in_flight and len(failures) < MAX_FAILURES:
            task = waiting.popleft()
            try:
                running[pool.submit(function, task)] = task
            except BrokenProcessPool:
                waiting.appendleft(task)
                broken = True
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            task = running.pop(future)
            try:
                yield future.result()
            except BrokenProcessPool:
                if suspects is None:
                    raise
                suspects.append(task)
                broken = True
            except PrepError as error:
                failures.append(error)


class Processes(ProcessPoolExecutor):
    """Worker processes that end with this one, and at once when it stops caring for their results."""

    def __init__(self, workers: int) -> None:
        # Not fork: the parent may hold threads and locks of DuckDB and Arrow.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(list(PRELOADED))
            _start_forkserver()
        super().__init__(workers, mp_context=context, initializer=_start_worker)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            for process in list((self._processes or {}).values()):
                process.kill()
        self.shutdown(wait=True, cancel_futures=True)


def _start_forkserver() -> None:
    """Start it with SIGINT blocked, which workers inherit: Ctrl-C is for the parent alone to deal with.

    And without the current folder among those that modules come from: workers would import a json.py that lies there.
    """
    safe_path = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    resource_tracker.ensure_running()  # when it starts, it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        place = f"the folder for temporary files, {tempfile.gettempdir()}, has too long a name for a socket"
        raise WorkspaceError(place, "Set TMPDIR to a shorter one, or `workers: 1` in prep.yaml.") from error
    finally:
        if safe_path is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = safe_path
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def abandon() -> None:
    """Let go of all workers at once, also of one that is just being started; this process is about to end.

    A worker that came up now would find its parent's queues gone and say so in a traceback.
    """
    server = getattr(forkserver, "_forkserver", None)  # the standard library has no public way to stop it
    process = getattr(server, "_forkserver_pid", None)
    if process is not None:
        os.kill(process, signal.SIGKILL)


def _start_worker() -> None:
    """Die with the parent: a worker that outlived a killed run would write beside the next one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
