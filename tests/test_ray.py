"""The whole line on a Ray cluster of two nodes leaves the bytes of the local engine, also when a node is killed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from plain_scorer import PlainLoading
from prep import engine_ray, progress
from prep.config import packaged_configs
from prep.errors import UsageError
from prep.publishers import World
from prep.scorers.scorer import SCORERS
from prep.stages.score import score_table
from prep.workspace import Workspace
from worlds import QUICK_PREP, environment, make_workspace, prep, prep_json, snapshot

HERE = Path(__file__).parent
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")
SMALL = {"name": "small", "entries": [{"table": "blip3o-60k", "min_size": 512}, {"table": "grand-f-flickr"}]}


@dataclass
class Nodes:
    """A cluster under way."""

    process: subprocess.Popen[str]
    address: str

    def kill_one(self) -> None:
        """Kill one of its nodes, with all that runs on it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"


@contextmanager
def two_nodes(world: World) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / "ray_nodes.py"), "2"],
        env=environment(world, PYTHONPATH=str(HERE), RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def address_of(process: subprocess.Popen[str]) -> Nodes:
    """The cluster, once it is up."""
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address, "the cluster did not start"
    return Nodes(process, address)


@needs_ray
def test_the_demo_line_with_a_node_killed_halfway(tmp_path: Path) -> None:
    recipe = yaml.safe_load((packaged_configs() / "recipes/lavida-o-start.yaml").read_text())
    root = tmp_path / "workspace"
    with World(tmp_path / "publishers") as world, two_nodes(world) as process:
        make_workspace(root, recipe, world, workers=2)
        prep_json(root, "run", world=world)  # while the cluster starts
        alone = snapshot(root)
        shutil.rmtree(root)

        nodes = address_of(process)
        make_workspace(root, recipe, world, workers=2)
        command = [sys.executable, str(QUICK_PREP), "run", "--json", "--engine", "ray", "--address", nodes.address]
        with subprocess.Popen(
            command, cwd=root, env=environment(world), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            wait_for(root / "index/coyo-700m.parquet", run)  # addresses are being fetched, the slowest of all
            nodes.kill_one()
            assert run.poll() is None
            out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert {finding["level"] for finding in json.loads(out)["check"]["findings"]} == {"warning"}
        assert snapshot(root) == alone


def wait_for(folder: Path, run: subprocess.Popen[str]) -> None:
    """Wait until something is being made in `folder`."""
    until = time.monotonic() + 60
    while not (folder.is_dir() and any(folder.iterdir())):
        assert run.poll() is None and time.monotonic() < until, "it never came that far"
        time.sleep(0.02)


@needs_ray
def test_what_comes_of_tasks_and_of_single_stages(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "prep.yaml").touch()
    with two_nodes(world) as process:
        nodes = address_of(process)
        check_tasks(on_cluster(world, nodes, folder))

        root = make_workspace(tmp_path / "w", SMALL, world)
        prep_json(root, "run", world=world)
        alone = snapshot(root)
        for made in ("raw", "index", "normalized", "filtered", "dropped", "images", "training", "prep.lock"):
            shutil.rmtree(root / made) if (root / made).is_dir() else (root / made).unlink()
        for stage in ("download", "images", "normalize", "filter"):
            outcomes = prep_json(root, stage, "--engine", "ray", "--address", nodes.address, world=world)["outcomes"]
            assert "done" in {outcome["state"] for outcome in outcomes}
        prep_json(root, "run", world=world)
        assert snapshot(root) == alone

        progress.use(progress.no_bar)
        score_table(Workspace(root), "blip3o-60k", SCORERS["aesthetic-v2"], PlainLoading())
        progress.use(progress.tqdm_bar)
        alone = snapshot(root)
        shutil.rmtree(root / "scores")
        assert on_cluster(world, nodes, root, "blip3o-60k") == ["done", 11, 11]
        assert snapshot(root) == alone


def on_cluster(world: World, nodes: Nodes, folder: Path, *table: str) -> Any:
    """What `ray_tasks.py` prints."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "ray_tasks.py"), nodes.address, str(folder), *table],
        env=environment(world),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    assert "\x1b[" not in said.stderr  # what Ray says of workers that died, into a file
    return json.loads(said.stdout)


def check_tasks(said: dict[str, Any]) -> None:
    """Compare what came of tasks with what has to."""
    died = said.pop("dies always")
    assert died["results"] == [0, 1, 2] and died["error"][0] == "PrepError"
    assert died["error"][1].startswith("on the cluster a worker died 3 times on ('die', ")
    bug = said.pop("bug")
    assert bug == {"results": [], "error": ["KeyError", bug["error"][1]]} and "KeyError" in bug["error"][1]
    full = said.pop("disk full")
    assert full["results"] == [] and "No space left on device" in full["error"][1]
    assert said == {
        "workers": 2,
        "all well": {"results": list(range(30))},
        "some fail": {"results": [0, 2, 3], "error": ["DataError", said["some fail"]["error"][1], "Fetch it again."]},
        "dies once": {"results": [0, 1, 2]},
        "finds what lies here": {"results": [0]},
        "afterwards": True,
        "not seen": said["not seen"],
    }
    assert "is damaged\n(and 1 more failures)" in said["some fail"]["error"][1]
    assert said["not seen"].endswith("of the Ray cluster does not see /proc/self/cwd")


@needs_ray
def test_a_cluster_that_is_not_there(world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w", SMALL, world)
    done = prep(root, "normalize", "--engine", "ray", "--address", "127.0.0.1:9")
    assert done.returncode == 1
    assert "there is no Ray cluster at 127.0.0.1:9 that this machine could use" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@needs_ray
def test_what_listens_and_is_no_ray_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine_ray, "ANSWER_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UsageError) as caught, engine_ray.ray_cluster(address, tmp_path):
            pass
    assert caught.value.message == (
        f"there is no Ray cluster at {address} that this machine could use: no head of one answered in 3 s"
    )


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with pytest.raises(UsageError) as caught, engine_ray.ray_cluster(None, tmp_path):
        pass
    assert str(caught.value) == "--engine ray needs Ray, which is not installed\n  pip install 'prep[ray]'"
