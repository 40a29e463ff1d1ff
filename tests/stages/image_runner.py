"""Runs the images stage of dataset `pics` again and again in forked children, each killed after a given time.

Reads lines `ROOT SECONDS` from stdin; for each it forks a child that runs the stage in the workspace ROOT, kills it
with SIGKILL after SECONDS (0: never), and answers with the child's end: `killed`, or `finished`. One process for all,
so that the imports are paid for once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import duckdb  # noqa: F401
import pyarrow.parquet  # noqa: F401

import prep.images.spool
import prep.images.store
from prep import progress
from prep.stages.images import images
from prep.workspace import Workspace

prep.images.spool.FLUSH_SECONDS = 0.02
prep.images.store.DiskStore.sync = lambda self: None  # type: ignore[method-assign]  # a killed process loses no page


def main() -> None:
    """Answer every line of stdin."""
    import prep.images.archives
    import prep.images.fetch  # noqa: F401

    for line in sys.stdin:
        root, seconds = line.split()
        child = os.fork()
        if child == 0:
            progress.use(progress.no_bar)
            workspace = Workspace(Path(root))
            try:
                images(workspace, workspace.catalogue.dataset("pics"))
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if float(seconds):
            time.sleep(float(seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "finished" if status == 0 else "failed", flush=True)


if __name__ == "__main__":
    main()
