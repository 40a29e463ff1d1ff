"""A web server on loopback that plays every publisher: the hub, plain file hosts and an image host."""

from __future__ import annotations

import mimetypes
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from prep.publishers.hub import TOKEN, Hub
from prep.publishers.image_host import IMAGE_FAULTS
from prep.publishers.replies import Fault, Reply, error_reply

__all__ = ["TOKEN", "Fault", "PublisherServer"]

DRIPS = 10


class PublisherServer:
    """A running server; a context manager.

    Serves the hub under `/api/` and `/datasets/`, plain files under `/files/` and images under `/img/`. Paths in
    `requests` and `faults` are decoded and without their query.

    Args:
        hub: folder of repositories, `<org>/<name>/`.
        files: folder behind `/files/`.
        images: folder behind `/img/`.
        gated: repositories whose contents need TOKEN.
        port: 0 for any free one.

    Attributes:
        url: `http://127.0.0.1:<port>`.
        requests: (method, path) of every request, in order; `request_headers` has each one's headers.
        faults: path -> how it misbehaves; goes over the image host's own `IMAGE_FAULTS`.
    """

    def __init__(
        self, hub: Path, files: Path, images: Path | None = None, *, gated: Collection[str] = (), port: int = 0
    ) -> None:
        self.hub = Hub(hub, gated)
        self.requests: list[tuple[str, str]] = []
        self.request_headers: list[dict[str, str]] = []
        self.faults: dict[str, Fault] = {}
        self.closing = threading.Event()
        self._folders = {"files": files} | ({"img": images} if images else {})
        self._fault_uses: dict[str, tuple[Fault, int]] = {}
        self._lock = threading.Lock()
        self._listener = _Listener(("127.0.0.1", port), _Handler)
        self._listener.publisher = self
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"

    def __enter__(self) -> PublisherServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._listener.shutdown()
        self._listener.close_connections()
        self._listener.server_close()
        self._thread.join()

    def note(self, method: str, path: str, headers: dict[str, str]) -> Fault | None:
        """Log a request and give the fault it meets, if any."""
        with self._lock:
            self.requests.append((method, path))
            self.request_headers.append(headers)
            fault = self.faults.get(path) or IMAGE_FAULTS.get(path)
            if fault is None or fault.times is None:
                return fault
            counted, uses = self._fault_uses.get(path, (fault, 0))
            uses = uses + 1 if counted is fault else 1
            self._fault_uses[path] = (fault, uses)
            return fault if uses <= fault.times else None

    def find(self, path: str, query: dict[str, str], token: str | None) -> Reply:
        """What is at `path` when nothing goes wrong."""
        top, _, rest = path.lstrip("/").partition("/")
        if top == "api":
            return self.hub.api(self.url, rest, query, token)
        if top == "datasets":
            return self.hub.resolve(rest, token)
        folder = self._folders.get(top)
        file = (folder / rest).resolve() if folder and "\0" not in rest else None
        if not folder or not file or not file.is_relative_to(folder.resolve()) or not file.is_file():
            return error_reply(404, "Not found")
        stat = file.stat()
        headers = {
            "ETag": f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"',
            "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
            "Content-Type": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
        }
        return Reply(200, file, headers)


class _Listener(ThreadingHTTPServer):
    """The listening socket; remembers its connections so that closing leaves none behind."""

    daemon_threads = False  # closing waits for every answer's thread
    request_queue_size = 128
    publisher: PublisherServer

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def server_activate(self) -> None:
        """Listen."""
        self.connections: set[socket.socket] = set()
        super().server_activate()

    def close_connections(self) -> None:
        """End the connections that clients keep open."""
        for connection in list(self.connections):
            with suppress(OSError):  # its own thread may have closed it just now
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away; anything else is a mistake here and is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def setup(self) -> None:
        """Remember the connection; one that came while the server closes is ended."""
        super().setup()
        self.server.connections.add(self.connection)
        if self.server.publisher.closing.is_set():
            self.server.close_connections()

    def finish(self) -> None:
        """Forget the connection."""
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer a HEAD."""
        self._answer()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        path, publisher = unquote(address.path), self.server.publisher
        fault = publisher.note(self.command, path, dict(self.headers)) or Fault()
        if fault.status is not None or fault.body is not None:
            reply = Reply(fault.status or 200, fault.body or b"")
        else:
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            query = dict(parse_qsl(address.query))
            reply = publisher.find(path, query, token if scheme == "Bearer" else None)
        self._send(reply, fault)

    def _send(self, reply: Reply, fault: Fault) -> None:
        body = reply.body if isinstance(reply.body, bytes) else reply.body.read_bytes()
        status, headers = reply.status, dict(reply.headers)
        if status == 200 and "ETag" in headers and not fault.ignore_range:
            headers["Accept-Ranges"] = "bytes"
            status, body, content_range = self._range(body, headers)
            headers |= {"Content-Range": content_range} if content_range else {}
        headers["Content-Length"] = str(len(body) if fault.content_length is None else fault.content_length)
        if fault.retry_after:
            date = formatdate(time.time() + 1, usegmt=True)
            headers["Retry-After"] = "1" if fault.retry_after == "seconds" else date
        self.send_response(status)
        for name, value in (headers | dict(fault.headers)).items():
            self.send_header(name, value)
        if fault.cut_at is not None or fault.content_length is not None:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._write(body[: fault.cut_at], fault.drip_seconds)

    def _range(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str]:
        """Status, bytes and Content-Range for what the request's Range asks; If-Range is honoured."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        condition = self.headers.get("If-Range")
        current = condition in (None, headers["ETag"], headers.get("Last-Modified"))
        if asked is None or asked.group(0) == "bytes=-" or not current:
            return 200, body, ""
        first, last = asked.groups()
        start = int(first) if first else max(0, len(body) - int(last))
        end = min(len(body), int(last) + 1) if first and last else len(body)
        if start >= len(body) or end <= start:
            return 416, b"", f"bytes */{len(body)}"
        return 206, body[start:end], f"bytes {start}-{end - 1}/{len(body)}"

    def _write(self, body: bytes, drip_seconds: float) -> None:
        if not drip_seconds:
            self.wfile.write(body)
            return
        step = -(-len(body) // DRIPS) or 1
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            if self.server.publisher.closing.wait(drip_seconds / DRIPS):
                return
