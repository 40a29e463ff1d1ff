"""Shard tasks: results, failures, and workers that die."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from prep import engine
from prep.engine import MAX_ATTEMPTS, MAX_FAILURES, default_workers, run_tasks
from prep.errors import ConfigError, DataError, PrepError, SourceError, UsageError, WorkspaceError


@dataclass(frozen=True)
class Task:
    """What one task does: counts itself in `folder`, then works, fails or dies."""

    number: int
    folder: Path
    deed: str = "work"
    seconds: float = 0.0

    @property
    def attempts(self) -> int:
        """How often it was begun."""
        path = self.folder / f"attempts-{self.number}"
        return path.stat().st_size if path.exists() else 0


def run(task: Task) -> int:
    with (task.folder / f"attempts-{task.number}").open("ab") as file:
        file.write(b".")
    time.sleep(task.seconds)
    if task.deed == "wait for task 4":
        assert wait_until(lambda: (task.folder / "attempts-4").exists(), 20)
        time.sleep(0.05)  # until its result is on its way
    if task.deed == "fail":
        raise DataError(f"task {task.number} is bad", f"Mend {task.number}.")
    if task.deed == "die" or (task.deed == "die once" and task.attempts == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.deed == "bug":
        raise ZeroDivisionError(f"in task {task.number}")
    return task.number * task.number


def process_id(task: Task) -> int:
    time.sleep(task.seconds)
    return os.getpid()


def report_and_sleep(task: Task) -> None:
    (task.folder / f"pid-{os.getpid()}").touch()
    time.sleep(task.seconds)


def tasks(folder: Path, *deeds: str, seconds: float = 0.0) -> list[Task]:
    return [Task(number, folder, deed, seconds) for number, deed in enumerate(deeds)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


MODES = [(1, False), (1, True), (3, True), (2, False)]
ids = ["here", "one thread", "threads", "processes"]


@pytest.mark.parametrize(("workers", "threads"), MODES, ids=ids)
def test_every_task_gives_its_result(workers: int, threads: bool, tmp_path: Path) -> None:
    found = list(run_tasks(run, tasks(tmp_path, *["work"] * 20), workers=workers, threads=threads))
    assert sorted(found) == [number * number for number in range(20)]
    if workers == 1 and not threads:
        assert found == sorted(found)


@pytest.mark.parametrize(("workers", "threads"), MODES, ids=ids)
def test_no_tasks_give_nothing(workers: int, threads: bool) -> None:
    assert list(run_tasks(run, [], workers=workers, threads=threads)) == []


@pytest.mark.parametrize(("workers", "threads"), [(3, True), (2, False)], ids=["threads", "processes"])
def test_a_result_comes_when_it_is_there_and_does_not_wait_for_earlier_ones(
    workers: int, threads: bool, tmp_path: Path
) -> None:
    work = tasks(tmp_path, "wait for task 4", *["work"] * 4)
    assert list(run_tasks(run, work, workers=workers, threads=threads))[-1] == 0


def test_processes_are_others_and_threads_are_this_one(tmp_path: Path) -> None:
    work = tasks(tmp_path, *["work"] * 4, seconds=0.05)
    assert set(run_tasks(process_id, work, workers=1)) == {os.getpid()}
    assert set(run_tasks(process_id, work, workers=3, threads=True)) == {os.getpid()}
    assert os.getpid() not in set(run_tasks(process_id, work, workers=2))


@pytest.mark.parametrize(("workers", "threads"), MODES, ids=ids)
def test_one_failure_is_raised_as_it_is_after_all_others_are_done(workers: int, threads: bool, tmp_path: Path) -> None:
    found: list[int] = []
    with pytest.raises(DataError) as caught:
        for result in run_tasks(run, tasks(tmp_path, "work", "fail", "work", "work"), workers=workers, threads=threads):
            found.append(result)
    assert sorted(found) == [0, 4, 9]
    assert str(caught.value) == "task 1 is bad\n  Mend 1."


@pytest.mark.parametrize(("workers", "threads"), MODES, ids=ids)
def test_several_failures_are_one_error_that_counts_them(workers: int, threads: bool, tmp_path: Path) -> None:
    found: list[int] = []
    with pytest.raises(DataError) as caught:
        for result in run_tasks(run, tasks(tmp_path, *["fail", "work"] * 3), workers=workers, threads=threads):
            found.append(result)
    assert sorted(found) == [1, 9, 25]
    number = caught.value.next_step.removeprefix("Mend ").removesuffix(".")
    assert number in ("0", "2", "4")
    assert caught.value.message == f"task {number} is bad\n(and 2 more failures)"


@pytest.mark.parametrize(("workers", "threads"), MODES, ids=ids)
def test_after_many_failures_no_further_task_is_begun(workers: int, threads: bool, tmp_path: Path) -> None:
    work = tasks(tmp_path, *["fail"] * 100)
    with pytest.raises(DataError) as caught:
        list(run_tasks(run, work, workers=workers, threads=threads))
    begun = sum(task.attempts for task in work)
    under_way = 0 if workers == 1 and not threads else 2 * workers
    assert MAX_FAILURES <= begun <= MAX_FAILURES + under_way
    assert caught.value.message.endswith(f"(and {begun - 1} more failures)")


@pytest.mark.parametrize(("workers", "threads"), MODES, ids=ids)
def test_a_bug_is_raised_as_it_is(workers: int, threads: bool, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="in task 1"):
        list(run_tasks(run, tasks(tmp_path, "work", "bug", "work"), workers=workers, threads=threads))


def test_a_task_whose_worker_dies_once_is_run_again(tmp_path: Path) -> None:
    work = tasks(tmp_path, *["work"] * 5, "die once", *["work"] * 6)
    assert sorted(run_tasks(run, work, workers=2)) == [number * number for number in range(12)]
    assert work[5].attempts == 2
    assert max(task.attempts for task in work) <= MAX_ATTEMPTS


def test_a_task_that_always_kills_its_worker_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    work = tasks(tmp_path, "work", "die", "work", "work", "fail", "work")
    found: list[int] = []
    with pytest.raises(PrepError) as caught:
        for result in run_tasks(run, work, workers=2):
            found.append(result)
    assert sorted(found) == [0, 4, 9, 25]
    assert work[1].attempts == MAX_ATTEMPTS
    messages = {f"a worker process died {MAX_ATTEMPTS} times on {work[1]}", "task 4 is bad"}
    assert caught.value.message.removesuffix("\n(and 1 more failures)") in messages
    assert caught.value.message.endswith("(and 1 more failures)")


def test_a_lone_deadly_task_says_what_to_try(tmp_path: Path) -> None:
    (work,) = tasks(tmp_path, "die")
    with pytest.raises(PrepError) as caught:
        list(run_tasks(run, [work], workers=2))
    assert caught.value.message == f"a worker process died {MAX_ATTEMPTS} times on {work}"
    assert "workers: 1" in caught.value.next_step


def children(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def first_and_close(runs: Iterator[object]) -> float:
    """Seconds that closing takes after the first result."""
    next(runs)
    started = time.monotonic()
    runs.close()  # type: ignore[attr-defined]
    return time.monotonic() - started


def test_closing_early_ends_the_workers_at_once(tmp_path: Path) -> None:
    work = [Task(0, tmp_path), *(Task(number, tmp_path, seconds=60) for number in range(1, 6))]
    assert first_and_close(run_tasks(report_and_sleep, work, workers=2)) < 2
    assert children(tmp_path)
    assert not any(is_alive(pid) for pid in children(tmp_path))


def test_closing_early_begins_no_further_task_in_threads(tmp_path: Path) -> None:
    work = [Task(number, tmp_path, seconds=0.05) for number in range(100)]
    assert first_and_close(run_tasks(run, work, workers=2, threads=True)) < 2
    time.sleep(0.2)
    assert sum(task.attempts for task in work) <= 4, "those under way or waiting in the pool"


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_engine import Task, report_and_sleep
from prep.engine import run_tasks

if __name__ == "__main__":
    work = [Task(number, Path(sys.argv[1]), seconds=60) for number in range(4)]
    try:
        list(run_tasks(report_and_sleep, work, workers=2, threads={threads}))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        import os
        os._exit(130)
"""


def start(folder: Path, threads: bool) -> subprocess.Popen[str]:
    """A process that runs two tasks of a minute each, once both are under way."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), threads=threads))
    process = subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True)
    assert wait_until(lambda: len(children(folder)) == (1 if threads else 2), 20)
    return process


def test_workers_end_with_a_run_that_was_killed(tmp_path: Path) -> None:
    with start(tmp_path, threads=False) as process:
        assert all(is_alive(pid) for pid in children(tmp_path))
        process.kill()
        process.wait()
        assert wait_until(lambda: not any(is_alive(pid) for pid in children(tmp_path)), 2)


@pytest.mark.parametrize("threads", [False, True], ids=["processes", "threads"])
def test_ctrl_c_does_not_wait_for_what_is_under_way(threads: bool, tmp_path: Path) -> None:
    with start(tmp_path, threads) as process:
        try:
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=3)
        finally:
            process.kill()
    assert (out, process.returncode) == ("interrupted\n", 130)
    if not threads:
        assert wait_until(lambda: not any(is_alive(pid) for pid in children(tmp_path)), 2)


def test_there_are_as_many_workers_as_cores_this_process_may_use() -> None:
    assert default_workers() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("kind", [PrepError, UsageError, ConfigError, WorkspaceError, SourceError, DataError])
def test_errors_survive_the_way_between_processes(kind: type[PrepError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what happened", "what to do")))
    assert type(error) is kind
    assert (error.message, error.next_step) == ("what happened", "what to do")
    assert str(error) == "what happened\n  what to do"
    assert str(kind("alone")) == "alone"


def test_the_preloaded_modules_exist() -> None:
    for module in engine.PRELOADED:
        __import__(module)


def test_workers_import_nothing_from_the_folder_that_prep_is_run_in(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    script = tmp_path / "bin/script.py"
    script.parent.mkdir()
    code = "from prep.engine import run_tasks\nprint(list(run_tasks(abs, [-1, -2], workers=2)))"
    script.write_text(f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}\n")
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (sorted(done.stdout), (tmp_path / "imported").exists()) == (sorted("[1, 2]\n"), False), done.stderr


def test_a_temporary_folder_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ("t" * 120)
    folder.mkdir()
    code = (
        "from prep.engine import run_tasks\nfrom prep.errors import PrepError\n"
        "try:\n    list(run_tasks(abs, [-1, -2], workers=2))\nexcept PrepError as error:\n    print(error)"
    )
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == (
        f"the folder for temporary files, {folder}, has too long a name for a socket\n"
        "  Set TMPDIR to a shorter one, or `workers: 1` in prep.yaml.\n"
    ), done.stderr
