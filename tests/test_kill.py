"""A run killed at any moment goes on with the next command and ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prep.publishers import World
from worlds import QUICK_PREP, environment, make_workspace, snapshot

# Every kind of source, of images and of reader, without the datasets that would only repeat them.
RECIPE = {
    "name": "killed",
    "entries": [
        {"table": "coyo-700m", "aes_cutoff": 5.67, "min_size": 512, "group": "urls"},
        {"table": "blip3o-60k", "min_size": 512},
        {"table": "grand-f-refcocog", "group": "grounding", "sampling": "dup:3"},
        {"table": "grand-f-flickr", "group": "grounding"},
    ],
}


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("publishers")) as world:
        yield world


@contextmanager
def runner(world: World) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("kill_runner.py"))]
    with subprocess.Popen(
        command, env=environment(world), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def run_until(process: subprocess.Popen[str], root: Path, moment: int) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{root} {moment}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_many_moments_ends_with_the_same_bytes(seed: int, small_world: World, tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    with runner(small_world) as process:
        make_workspace(root, RECIPE, small_world)
        ended = run_until(process, root, 0)
        assert ended.startswith("finished ")
        touches = int(ended.split()[1])
        whole = snapshot(root)
        shutil.rmtree(root)

        make_workspace(root, RECIPE, small_world)
        moments = random.Random(seed)
        kills = 0
        # Short lives first, to hit the early stages; then longer ones, so that the run gets to its end.
        while run_until(process, root, moments.randint(1, 20 + touches * (1 + kills) // 120)) == "killed":
            kills += 1
            assert kills < 200
    assert kills >= 15
    assert run_whole(root, small_world) == 0
    assert snapshot(root) == whole


def run_whole(root: Path, world: World) -> int:
    done = subprocess.run(
        [sys.executable, str(QUICK_PREP), "run"], cwd=root, env=environment(world), capture_output=True, timeout=120
    )
    return done.returncode


def test_the_command_and_its_worker_processes_killed_by_the_clock(small_world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "workspace", RECIPE, small_world)
    assert run_whole(root, small_world) == 0
    whole = snapshot(root)
    shutil.rmtree(root)

    # The same with two worker processes: the engine must not change a byte either.
    make_workspace(root, RECIPE, small_world, workers=2)
    for life in (0.6, 1.2, 1.8, 2.4):
        process = subprocess.Popen(
            [sys.executable, str(QUICK_PREP), "run"],
            cwd=root,
            env=environment(small_world),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(life)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert run_whole(root, small_world) == 0
    with_two = snapshot(root)
    assert with_two.pop("prep.yaml") != whole.pop("prep.yaml")
    assert with_two == whole
