"""Runs the line again and again in forked children, each killed at a given moment.

Reads lines `ROOT MOMENT` from stdin; for each it forks a child that works in the workspace ROOT and kills itself with
SIGKILL at its MOMENT-th touch of the file system (0: never), and answers with the child's end: `killed`, or
`finished TOUCHES`. One process for all, so that the imports are paid for once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import duckdb  # noqa: F401
import pyarrow.parquet  # noqa: F401

import prep.images.fetch
from prep import progress
from prep.cli.running import run_workspace
from prep.workspace import Workspace

prep.images.fetch.MAX_PAUSE_SECONDS = 0.0
TOUCHES = {"os.rename", "os.remove", "os.symlink", "os.mkdir", "os.truncate", "shutil.rmtree"}


def work(root: Path, moment: int, answer: int) -> None:
    """Run the line in `root` until it ends or its moment comes."""
    touches = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touches
        is_write = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in TOUCHES or is_write:
            touches += 1
            if touches == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    progress.use(progress.no_bar)
    workspace = Workspace(root)
    with workspace.exclusive():
        run_workspace(workspace, dry_run=False, as_json=True)
    os.write(answer, f"finished {touches}\n".encode())


def main() -> None:
    """Answer every line of stdin."""
    for line in sys.stdin:
        root, moment = line.split()
        answer = os.dup(1)
        child = os.fork()
        if child == 0:
            try:
                work(Path(root), int(moment), answer)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(answer)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print("killed", flush=True)
        elif os.waitstatus_to_exitcode(status) != 0:
            print("failed", flush=True)


if __name__ == "__main__":
    main()
