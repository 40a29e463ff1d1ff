"""Tasks that end in every way there is, run on a Ray cluster: `python ray_tasks.py ADDRESS FOLDER` prints what came.

`python ray_tasks.py ADDRESS ROOT TABLE` scores a table of the workspace in ROOT there, with a scorer without a model.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from plain_scorer import PlainLoading
from prep import progress
from prep.engine import cluster, run_tasks
from prep.engine_ray import ray_cluster
from prep.errors import DataError, PrepError, WorkspaceError
from prep.scorers.scorer import SCORERS
from prep.stages.score import score_table
from prep.workspace import Workspace


def run(task: tuple[str, Path, int]) -> int:
    """Do what the task is called."""
    kind, folder, number = task
    marker = folder / str(number)
    if kind == "fail":
        raise DataError(f"part {number} is damaged", "Fetch it again.")
    if kind == "full":
        raise OSError(28, "No space left on device", str(marker))
    if kind == "bug":
        raise KeyError(number)
    if kind == "die" or (kind == "die once" and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "modules":
        return sum("planted" in path for path in sys.path)
    return number


def outcome(folder: Path, *kinds: str) -> dict[str, Any]:
    """What comes of tasks of these kinds."""
    results: list[int] = []
    tasks = [(kind, folder, number) for number, kind in enumerate(kinds)]
    try:
        for result in run_tasks(run, tasks, workers=1):
            results.append(result)
    except PrepError as error:
        about = [type(error).__name__, error.message.replace(str(folder), "FOLDER"), error.next_step]
        return {"results": sorted(results), "error": about}
    except Exception as error:
        return {"results": sorted(results), "error": [type(error).__name__, repr(error)]}
    return {"results": sorted(results)}


def score(address: str, root: Path, table: str) -> None:
    """Score a table and print what the stage says."""
    progress.use(progress.no_bar)
    with ray_cluster(address, root):
        outcome = score_table(Workspace(root), table, SCORERS["aesthetic-v2"], PlainLoading())
    print(json.dumps([outcome.state, outcome.made, outcome.total]))


def main() -> None:
    """Run them all and print what came."""
    address, folder = sys.argv[1], Path(sys.argv[2])
    if len(sys.argv) > 3:
        score(address, folder, sys.argv[3])
        return
    planted = folder / "planted"
    planted.mkdir()
    os.chdir(planted)
    said: dict[str, Any] = {}
    with ray_cluster(address, folder):
        machines = cluster()
        said["workers"] = machines.workers if machines else 0
        said["all well"] = outcome(folder, *["work"] * 30)
        said["some fail"] = outcome(folder, "work", "fail", "work", "work", "fail")
        said["disk full"] = outcome(folder, "full")
        said["bug"] = outcome(folder, "bug")
        said["dies once"] = outcome(folder, "work", "die once", "work")
        said["dies always"] = outcome(folder, "work", "work", "work", "die")
        said["finds what lies here"] = outcome(folder, "modules")
    said["afterwards"] = cluster() is None
    (planted / "prep.yaml").touch()
    try:
        with ray_cluster(address, Path("/proc/self/cwd")):  # which is another folder to every process
            pass
    except WorkspaceError as error:
        said["not seen"] = error.message
    print(json.dumps(said))


if __name__ == "__main__":
    main()
