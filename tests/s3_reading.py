"""The emitted reader of images on S3, imported as the loader imports it; and an S3 service that misbehaves."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prep.trainers import s3_reader


@contextmanager
def installed(folder: Path, **settings: Any) -> Iterator[Any]:
    """The module `piat`, in `folder` with these settings, as whoever imports it meanwhile gets it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(s3_reader.__file__, folder / "piat.py")
    (folder / "piat.json").write_text(json.dumps(settings))
    with imported(folder) as module:
        yield module


@contextmanager
def imported(folder: Path) -> Iterator[Any]:
    """The module `piat` that is in `folder`."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("piat")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["piat"]


@dataclass
class Faulty:
    """An S3 service of one answer for all, after those in `first`; a fault is given the handler and answers."""

    body: bytes
    first: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def faulty_s3(body: bytes) -> Iterator[Faulty]:
    """Serve `body` under every key."""
    faulty = Faulty(body)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            faulty.paths.append(self.path)
            if faulty.first:
                faulty.first.pop(0)(self)
            else:
                reply(self, 200, faulty.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # cut on purpose
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        faulty.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield faulty
        finally:
            server.shutdown()
            thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def error(status: int, code: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """An error as S3 tells it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>so it is</Message></Error>"
    return lambda handler: reply(handler, status, text.encode())


def page(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """An error of something that stands before S3."""
    return lambda handler: reply(handler, status, b"<html><h1>Bad gateway</h1></html>")


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Half a body."""
    reply(handler, 200, b"\x89PNG half", 5000)
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """No answer."""
    handler.close_connection = True


def silence(seconds: float) -> Callable[[BaseHTTPRequestHandler], None]:
    """Nothing for a while, then the connection ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return answer


def drip(pieces: int, seconds: float) -> Callable[[BaseHTTPRequestHandler], None]:
    """A body in pieces, each after a while."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        size = 1 << 16
        reply(handler, 200, b"", pieces * size)
        for _ in range(pieces):
            time.sleep(seconds)
            handler.wfile.write(bytes(size))

    return answer
