"""The one place where an error becomes what a user sees: a message, a next step, an exit code."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from prep.errors import PrepError

_NEXT_STEPS = {
    errno.ENOSPC: "The disk is full. Free some space, then run the same command; what is done stays done.",
    errno.EDQUOT: "The disk quota is used up. Free some space, then run the same command; what is done stays done.",
    errno.EFBIG: "The file is larger than this system allows. Raise the limit, then run the same command.",
    errno.EACCES: "Check the rights of that path, then run the same command.",
    errno.EPERM: "Check the rights of that path, then run the same command.",
    errno.EROFS: "That place is read-only. Work in another folder, or mount it for writing.",
    errno.ENOTDIR: "A file stands where a folder has to be. Move it away, then run the same command.",
    errno.EISDIR: "A folder stands where a file has to be. Move it away, then run the same command.",
    errno.EEXIST: "Something else stands at that path. Move it away, then run the same command.",
    errno.ENAMETOOLONG: "Give a shorter name.",
}


@contextmanager
def boundary(debug: bool) -> Iterator[None]:
    """Report errors on stderr and end with exit code 1, or 130 after Ctrl-C; with `debug` show the traceback too.

    An error that nobody foresaw is a bug: it says so, and still shows no traceback without `debug`.
    """
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        _say("Interrupted. Nothing is lost: run the same command to go on.")
        _leave(130)
    except BrokenPipeError:
        _leave(1)
    except PrepError as error:
        _fail(debug, error.message, error.next_step)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        next_step = _NEXT_STEPS.get(error.errno or 0, "Mend that, then run the same command.")
        _fail(debug, f"{place}{error.strerror or error}", next_step)
    except Exception as error:
        about = f"{type(error).__name__}: {error}"
        _fail(debug, f"a bug in prep: {about}", "Please report it, with what `prep --debug ...` prints.")


def _fail(debug: bool, message: str, next_step: str) -> NoReturn:
    if debug:
        import traceback

        traceback.print_exc()
    _say(f"Error: {message}" + (f"\n  {next_step}" if next_step else ""))
    _leave(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _leave(code: int) -> NoReturn:
    """End now, also while threads are in the middle of a transfer: the interpreter would wait for them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue
    if "prep.engine" in sys.modules:
        sys.modules["prep.engine"].abandon()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)
