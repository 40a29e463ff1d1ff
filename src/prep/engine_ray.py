"""Send tasks to a Ray cluster: the same functions as on this machine, over the same files.

Every machine has to see the workspace under the same path, for tasks read and write files there; only their names and
what a manifest says of a shard go through Ray. A lost machine costs the tasks that it had under way: they are run again
on another.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import prep
from prep.engine import MAX_ATTEMPTS, MAX_FAILURES, working
from prep.errors import ConfigError, DataError, PrepError, SourceError, UsageError, WorkspaceError
from prep.files import write_as

T = TypeVar("T")
R = TypeVar("R")

MIN_VERSION = (2, 50)
TASK_BYTES = 2_000_000_000  # of memory that a task is scheduled with, unless machines have less for each core
POLL_SECONDS = 5.0  # after which the cluster is looked at again: it may have grown
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0  # for a head to say what its cluster is; a second where all is well
PROBE_SECONDS = 60.0  # for all machines to say what they see
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_ERRORS = {kind.__name__: kind for kind in (PrepError, UsageError, ConfigError, WorkspaceError, SourceError, DataError)}


@dataclass(frozen=True)
class _Failure:
    """A PrepError that a task ended with, on its way back."""

    kind: str
    message: str
    next_step: str


@contextmanager
def ray_cluster(address: str | None, root: Path) -> Iterator[None]:
    """Send the tasks of all stages to a Ray cluster meanwhile.

    Args:
        address: `host:port` of its head; by default the cluster that this machine is part of, or RAY_ADDRESS.
        root: the workspace.

    Raises:
        UsageError: Ray is not installed, too old, or there is no such cluster.
        WorkspaceError: a machine of the cluster does not see the workspace, or has another `prep`.
    """
    ray = _import_ray()
    with redirect_stdout(cast(Any, _OneThread(sys.stdout))):
        _connect(ray, address)
        try:
            _check_machines(ray, root)
            with working(on=RayCluster(ray)):
                yield
        finally:
            with redirect_stdout(cast(Any, _OneThread(None))):  # what it has not told yet
                ray.shutdown()


class _OneThread:
    """stdout for this thread alone: what Ray's own say of lost machines is talk, and goes to stderr.

    Args:
        stream: stdout; with None this thread's goes to stderr too.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream, self._thread = stream, threading.current_thread()

    @property
    def _own(self) -> TextIO | None:
        return self._stream if threading.current_thread() is self._thread else None

    def write(self, text: str) -> int:
        """Write it, and to stderr without Ray's colours unless that is a terminal."""
        if self._own is not None:
            return self._own.write(text)
        return sys.stderr.write(text if sys.stderr.isatty() else _COLOURS.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own or sys.stderr, name)


class RayCluster:
    """A cluster that this process is connected to."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._work = ray.remote(max_retries=MAX_ATTEMPTS - 1)(_work)

    @property
    def workers(self) -> int:
        """Cores of all machines."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def run(
        self, function: Callable[[T], R], tasks: Sequence[T], failures: list[PrepError], *, on_gpu: bool
    ) -> Iterator[R]:
        """Keep two tasks a core under way and yield results as they come."""
        waiting, running = deque(tasks), dict[Any, T]()
        send = self._work.options(**self._needs(on_gpu))
        name = self._ray.put(function)
        try:
            while (waiting and len(failures) < MAX_FAILURES) or running:
                room = 2 * self.workers - len(running)
                while waiting and room > 0 and len(failures) < MAX_FAILURES:
                    task = waiting.popleft()
                    running[send.remote(name, task)] = task
                    room -= 1
                finished, _ = self._ray.wait(list(running), timeout=POLL_SECONDS)
                for reference in finished:
                    result = self._result(reference, running.pop(reference))
                    if isinstance(result, PrepError):
                        failures.append(result)
                    else:
                        yield result
        finally:
            for reference in running:
                self._ray.cancel(reference, force=True)

    def _needs(self, on_gpu: bool) -> dict[str, Any]:
        """What a task is scheduled with: a core, its share of memory, and a GPU where there are any and it can use one.

        Never more than every machine with cores could give, or tasks would wait for ever.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        shares = [node.get("memory", 0) / node["CPU"] for node in nodes]
        has_gpu = on_gpu and any(node.get("GPU") for node in nodes)
        needs: dict[str, Any] = {"num_cpus": 1, "memory": int(min([TASK_BYTES, *shares])) // 2**20 * 2**20}
        return needs | {"scheduling_strategy": "SPREAD"} | ({"num_gpus": 1} if has_gpu else {})

    def _result(self, reference: Any, task: object) -> Any:
        """What a task gave; a PrepError where it ended with one, or its worker died too often."""
        errors = self._ray.exceptions
        try:
            result = self._ray.get(reference)
        except errors.RayTaskError as error:
            raise (error.cause or error) from None
        except errors.RayError as error:  # its worker or machine is gone, or out of memory
            return PrepError(
                f"on the cluster a worker died {MAX_ATTEMPTS} times on {task} ({type(error).__name__})",
                "Out of memory, or machines that go? `ray status` shows them; run the same command, finished work is "
                "kept.",
            )
        if isinstance(result, _Failure):
            return _ERRORS.get(result.kind, PrepError)(result.message, result.next_step)
        return result


def _work(function: Callable[[T], R], task: T) -> R | _Failure:
    """Run one task on a machine of the cluster."""
    write_as(f"{socket.gethostname()}-{os.getpid()}")  # a machine that is cut off may write beside its successor
    try:
        return function(task)
    except PrepError as error:
        return _Failure(type(error).__name__, error.message, error.next_step)


# -- connecting ------------------------------------------------------------------------------------------------------


def _import_ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what it will do some day
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray, which is not installed", "pip install 'prep[ray]'") from error
    version = tuple(int(number) for number in ray.__version__.split(".")[:2])
    if version < MIN_VERSION:
        needed = ".".join(map(str, MIN_VERSION))
        raise UsageError(f"--engine ray needs Ray {needed} or later, and this is {ray.__version__}", "Upgrade Ray.")
    return ray


def _connect(ray: Any, address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    _check_answers(address)
    _check_is_ray(address)
    before, on_sigterm = Path.cwd(), signal.getsignal(signal.SIGTERM)
    os.chdir("/")  # or workers would import modules that lie in the folder where prep is run
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _no_cluster(address, reason) from error
    finally:
        os.chdir(before)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray sets one of its own


def _check_answers(address: str) -> None:
    """Make sure that somebody listens at `HOST:PORT`: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except ValueError as error:
        raise UsageError(f"--address {address}: must be HOST:PORT", "For example --address head:6379.") from error
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from error


def _check_is_ray(address: str) -> None:
    """Make sure that a head answers: Ray itself would wait minutes for one that does not, and heed no Ctrl-C.

    In a process that can be ended. What is wrong with an answer is better told when this process asks.
    """
    ask = [sys.executable, "-P", "-m", "ray.scripts.scripts", "status", "--address", address]
    silent = subprocess.DEVNULL
    try:
        subprocess.run(ask, cwd="/", stdin=silent, stdout=silent, stderr=silent, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _no_cluster(address, f"no head of one answered in {ANSWER_SECONDS:.0f} s") from error


def _no_cluster(address: str, reason: str) -> UsageError:
    where = "here" if address == "auto" else f"at {address}"
    return UsageError(
        f"there is no Ray cluster {where} that this machine could use: {reason}",
        "`ray start --head` makes one; --address HOST:PORT names one. All machines need the same Python and Ray.",
    )


def _check_machines(ray: Any, root: Path) -> None:
    """Make sure that every machine sees the workspace and has the same `prep`."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    config = root / "prep.yaml"
    wanted = _look(str(config))
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU"):
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[look.options(scheduling_strategy=where).remote(str(config))] = node["NodeManagerHostname"]
    if not asked:
        raise UsageError("the Ray cluster has no machine with cores", "`ray status` shows what it has.")
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
    for reference in silent:
        raise WorkspaceError(f"{asked[reference]} of the Ray cluster does not answer", "`ray status` shows why.")
    for reference in answered:
        try:
            seen = ray.get(reference)
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1]
            raise WorkspaceError(
                f"prep cannot run on {asked[reference]} of the Ray cluster: {why}",
                "Install the same prep, with the extra ray, on every machine.",
            ) from error
        if seen[0] != wanted[0]:
            raise WorkspaceError(
                f"{asked[reference]} of the Ray cluster does not see {root}",
                "The workspace has to be on a file system that all machines see, under the same path.",
            )
        if seen[1] != wanted[1]:
            raise WorkspaceError(
                f"{asked[reference]} of the Ray cluster has prep {seen[1]}, and here is {wanted[1]}",
                "Install the same prep on every machine.",
            )


def _look(path: str) -> tuple[bytes | None, str]:
    """What a machine sees at `path`, and its version of `prep` and Python."""
    version = f"{prep.__version__} with Python {sys.version_info.major}.{sys.version_info.minor}"
    try:
        return Path(path).read_bytes(), version
    except OSError:
        return None, version
