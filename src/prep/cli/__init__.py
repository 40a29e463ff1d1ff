"""The command line: options in, one library call, one printed result.

This module imports next to nothing, so that Ctrl-C is dealt with from the first moment.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

__all__ = ["main"]

INTERRUPTED = "Interrupted. Nothing is lost: run the same command to go on."


def main() -> None:
    """The `prep` command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants it ignored
        signal.signal(signal.SIGINT, leave_at_once)
    _open_streams()
    from prep.cli.app import app

    app()


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """Ctrl-C before a command has begun, or after it: there is nothing to end in order."""
    with suppress(OSError):
        os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


def _open_streams() -> None:
    """Let standard streams that are closed (`2>&-`) lead nowhere; the next file opened would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
