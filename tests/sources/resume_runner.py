"""Brings one part again and again in forked children, so that the imports are paid for once.

Reads lines `MICROSECONDS` from stdin; for each it forks a child that brings the part and is killed with SIGKILL after
that time, and answers `killed`, `failed`, or `finished SHA256`. Arguments: the part's address, its size, its SHA-256,
its target.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from prep.sources import Part, part_transfer, transfer

transfer.FLUSH_SECONDS = 0.02
part_transfer.SEGMENT_BYTES = 8 << 20


def main() -> None:
    """Answer every line of stdin."""
    url, size, sha256, target = sys.argv[1:]
    part = Part(Path(target).name, url, int(size), sha256)
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with transfer.Session() as session:
                    os.write(writer, session.bring(part, Path(target)).encode())
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writer)
        microseconds = int(line)
        if microseconds:
            time.sleep(microseconds / 1e6)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        result = os.read(reader, 100).decode()
        os.close(reader)
        killed = os.WIFSIGNALED(status)
        print(f"finished {result}" if result and not killed else "killed" if killed else "failed", flush=True)


if __name__ == "__main__":
    main()
