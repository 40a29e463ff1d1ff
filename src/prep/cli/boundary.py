"""The one place where an error becomes what a user sees: a message, a next step, an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, NoReturn, TextIO, cast

import typer

from prep.cli import INTERRUPTED, document, leave_at_once
from prep.errors import PrepError, WorkspaceError
from prep.progress import say, write_event


@contextmanager
def boundary(debug: bool, as_json: bool = False) -> Iterator[None]:
    """Report errors on stderr and end with exit code 1, or 130 after Ctrl-C; with `debug` show the traceback too.

    An error that nobody foresaw is a bug: it says so, and still shows no traceback without `debug`. With `as_json` the
    command's document is printed at the end, whatever the end is, and holds the errors.
    """
    document.put({})
    leaving: typer.Exit | None = None
    try:
        with _interruptible(), redirect_stdout(cast(Any, _Stdout(sys.stdout))):
            try:
                yield
            except typer.Exit as error:
                leaving = error
            if as_json:
                document.write()
            sys.stdout.flush()
    except KeyboardInterrupt:
        message, _, next_step = INTERRUPTED.partition(": ")
        _fail(PrepError(message, next_step), debug, as_json, INTERRUPTED, 130)
    except BrokenPipeError:
        _leave(1)
    except PrepError as error:
        _fail(error, debug, as_json)
    except OSError as error:
        _fail(WorkspaceError.of(error), debug, as_json)
    except Exception as error:
        about = f"a bug in prep: {type(error).__name__}: {error}"
        _fail(PrepError(about, "Please report it, with what `prep --debug ...` prints."), debug, as_json)
    if leaving is not None:
        raise leaving


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt here, and SIGTERM, by which batch systems end a job.

    Before and after, `main` has Ctrl-C leave at once.
    """
    is_ours = signal.getsignal(signal.SIGINT) is leave_at_once
    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, leave_at_once)
            signal.signal(signal.SIGTERM, before)


class _Stdout:
    """stdout, whose own refusals are told from those of the disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _told():
            return self._stream.write(text)

    def flush(self) -> None:
        with _told():
            self._stream.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WorkspaceError(
            f"stdout cannot be written: {error.strerror}",
            "Send the output elsewhere, then run the same command; what is done stays done.",
        ) from error


def _fail(error: PrepError, debug: bool, as_json: bool, text: str = "", code: int = 1) -> NoReturn:
    if debug:
        import traceback

        say(traceback.format_exc().rstrip())
    if as_json:
        errors = [{"message": each.message, "next_step": each.next_step} for each in error.together]
        for each in errors:
            write_event({"event": "error", **each})
        with suppress(OSError):
            document.write(errors)
    else:
        say(text or f"Error: {error}")
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End now, also while threads are in the middle of a transfer: the interpreter would wait for them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the interpreter would try once more, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if "prep.engine" in sys.modules:
        sys.modules["prep.engine"].abandon()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)
