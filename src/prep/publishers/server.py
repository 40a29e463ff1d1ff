"""A web server on loopback that plays every publisher: the hub, plain file hosts, an image host and Google Drive."""

from __future__ import annotations

import gzip
import re
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from prep.publishers.drive import Drive
from prep.publishers.hub import MODELS, TOKEN, Hub
from prep.publishers.image_host import IMAGE_FAULTS
from prep.publishers.replies import Fault, Reply, Sent, error_reply, file_headers

__all__ = ["TOKEN", "Fault", "PublisherServer", "Sent"]

DRIPS = 10
PIECE_BYTES = 1 << 18
TLS_BYTES = 1 << 14  # of one record


class PublisherServer:
    """A running server; a context manager.

    Serves the hub under `/api/`, `/datasets/` and (models) `/`, its CDN under `/cdn/`, plain files under `/files/`,
    images under `/img/` and Google Drive under `/drive/`. Paths in `requests`, `sent` and `faults` are decoded and
    without their query.

    Args:
        hub: folder of dataset repositories, `<org>/<name>/`.
        files: folder behind `/files/`.
        images: folder behind `/img/`.
        drive: folder behind `/drive/`.
        models: folder of model repositories, `<org>/<name>/`.
        gated: repositories whose contents need TOKEN.
        port: 0 for any free one.
        tls: the server's certificate; then the addresses are https.

    Attributes:
        url: `http://127.0.0.1:<port>`, or https.
        cdn_url: the same server at another port, where the hub redirects to: its client takes a redirect to the same
            host and port for one within the hub, and forwards its token.
        requests: (method, path) of every request, in order; `request_headers` has each one's headers.
        sent: every answer, in order of their ends; a client that has all of one finds it here.
        faults: path -> how it misbehaves; goes over the image host's own `IMAGE_FAULTS`.
    """

    def __init__(
        self,
        hub: Path,
        files: Path,
        images: Path | None = None,
        *,
        drive: Path | None = None,
        models: Path | None = None,
        gated: Collection[str] = (),
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hub = Hub(hub, gated, models)
        self.drive = Drive(drive)
        self.requests: list[tuple[str, str]] = []
        self.request_headers: list[dict[str, str]] = []
        self.sent: list[Sent] = []
        self.faults: dict[str, Fault] = {}
        self.closing = threading.Event()
        self._folders = {"files": files} | ({"img": images} if images else {})
        self._fault_uses: dict[str, tuple[Fault, int]] = {}
        self._lock = threading.Lock()
        self._listeners = [_Listener(self, at, tls) for at in (port, 0)]
        self._threads = [
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True) for listener in self._listeners
        ]
        self.url, self.cdn_url = (
            f"{'https' if tls else 'http'}://127.0.0.1:{listener.server_port}" for listener in self._listeners
        )

    def __enter__(self) -> PublisherServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        for listener in self._listeners:
            listener.shutdown()
            listener.close_connections()
            listener.server_close()
        for thread in self._threads:
            thread.join()

    def note(self, method: str, path: str, headers: dict[str, str]) -> Fault | None:
        """Log a request and give the fault it meets, if any."""
        with self._lock:
            self.requests.append((method, path))
            self.request_headers.append(headers)
            fault = self.faults.get(path) or IMAGE_FAULTS.get(path)
            if fault is None or (fault.times is None and not fault.after):
                return fault
            counted, uses = self._fault_uses.get(path, (fault, 0))
            uses = uses + 1 if counted is fault else 1
            self._fault_uses[path] = (fault, uses)
            has_ended = fault.times is not None and uses > fault.after + fault.times
            return None if uses <= fault.after or has_ended else fault

    def log(self, entry: Sent, instead_of: Sent | None = None) -> None:
        """Log an answer, in place of an entry that proved wrong."""
        with self._lock:
            if instead_of:
                self.sent[:] = [other for other in self.sent if other is not instead_of]
            self.sent.append(entry)

    def find(self, path: str, query: dict[str, str], token: str | None) -> Reply:
        """What is at `path` when nothing goes wrong."""
        top, _, rest = path.lstrip("/").partition("/")
        if top == "api":
            return self.hub.api(self.url, rest, query, token)
        if top == "datasets":
            return self.hub.resolve(self.cdn_url, rest, token)
        if top == "cdn":
            return self.hub.cdn(rest, query)
        if top == "drive":
            return self.drive.answer(f"{self.url}/drive", rest, query)
        if top not in self._folders and rest.partition("/")[2].startswith("resolve/"):
            return self.hub.resolve(self.cdn_url, MODELS + path.lstrip("/"), token)
        folder = self._folders.get(top)
        file = (folder / rest).resolve() if folder and "\0" not in rest else None
        if not folder or not file or not file.is_relative_to(folder.resolve()) or not file.is_file():
            return error_reply(404, "Not found")
        stat = file.stat()
        return Reply(200, file, {"ETag": f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"', **file_headers(file)})


class _Listener(ThreadingHTTPServer):
    """A listening socket; remembers its connections so that closing leaves none behind."""

    daemon_threads = False  # closing waits for every answer's thread
    request_queue_size = 128

    def __init__(self, publisher: PublisherServer, port: int, tls: ssl.SSLContext | None) -> None:
        self.publisher = publisher
        self.tls = tls
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; a TLS handshake is left to its own thread."""
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """End a connection and forget it."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """End the connections that clients keep open."""
        for connection in list(self.connections):
            with suppress(OSError):  # its own thread may have closed it just now
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not TLS's, which a thread may be using

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away; anything else is a mistake here and is printed."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener
    breaks_off = False

    def setup(self) -> None:
        """Shake hands where there is TLS."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def finish(self) -> None:
        """Say goodbye where there is TLS and nothing is to look broken, without waiting for the client's."""
        if isinstance(self.connection, ssl.SSLSocket) and not self.breaks_off:
            self.connection.setblocking(False)
            with suppress(OSError):
                self.connection.unwrap()
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
        self._send(path, reply, fault)

    def _send(self, path: str, reply: Reply, fault: Fault) -> None:
        headers, body = dict(reply.headers), reply.body
        if fault.etag is not None:
            headers["ETag"] = fault.etag
        if fault.gzip:
            body = gzip.compress(body if isinstance(body, bytes) else body.read_bytes(), mtime=0)
            headers["Content-Encoding"] = "gzip"
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        status, span = reply.status, range(size)
        if status == 200 and headers.keys() & {"ETag", "Last-Modified"} and not (fault.ignore_range or fault.gzip):
            headers["Accept-Ranges"] = "bytes"
            status, span = self._range(size, headers)
            if status != 200:
                asked = f"{span.start}-{span.stop - 1}" if span else "*"
                headers["Content-Range"] = f"bytes {asked}/{size}"
        self._send_head(status, headers | _framing(len(span), fault), fault)
        span = span[:0] if self.command == "HEAD" else span[: fault.cut_at]
        self._write(body, span, Sent(path, self.headers.get("Range", ""), status, len(span)), fault)
        if fault.reset:
            self._reset()

    def _range(self, size: int, headers: dict[str, str]) -> tuple[int, range]:
        """Status, and the span of bytes that the request's Range asks for; If-Range is honoured.

        Several ranges, and what is no range, are answered with everything, as RFC 9110 allows and wants.
        """
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        first, last = asked.groups() if asked else ("", "")
        if not (first or last) or (first and last and int(last) < int(first)):
            return 200, range(size)
        condition = self.headers.get("If-Range")
        validators = [headers.get("ETag"), headers.get("Last-Modified")]
        if condition is not None and (condition not in validators or condition.startswith("W/")):
            return 200, range(size)
        start = int(first) if first else max(0, size - int(last))
        span = range(start, min(size, int(last) + 1) if first and last else size)
        return (206, span) if span else (416, range(0))

    def _send_head(self, status: int, headers: dict[str, str], fault: Fault) -> None:
        """Prepare the status line and the headers; they go with the body."""
        if fault.retry_after:
            date = formatdate(time.time() + 1, usegmt=True)
            headers["Retry-After"] = "1" if fault.retry_after == "seconds" else date
        self.send_response(status)
        for name, value in (headers | dict(fault.headers)).items():
            self.send_header(name, value)
        self.breaks_off = fault.cut_at is not None or fault.reset
        if self.breaks_off or fault.content_length is not None:
            self.close_connection = True

    def _write(self, body: bytes | Path, span: range, entry: Sent, fault: Fault) -> None:
        """Send the headers and `span` of the body; logged before the last piece, so that no client is faster."""
        publisher, done, has_chunks = self.server.publisher, 0, fault.length == "chunked" and self.command != "HEAD"
        is_secret = isinstance(self.connection, ssl.SSLSocket)
        step = min(PIECE_BYTES, -(-len(span) // DRIPS) or 1) if fault.drip_seconds else PIECE_BYTES
        try:
            if not span:
                publisher.log(entry)
            self.end_headers()
            for piece in _pieces(body, span, step):
                if done + len(piece) == len(span):
                    publisher.log(entry)
                pause = fault.drip_seconds * len(piece) / len(span)
                if has_chunks:
                    self.wfile.write(b"%x\r\n" % len(piece))
                while piece:
                    # A larger one over TLS says nothing of what went out before the client left.
                    count = self.connection.send(piece[:TLS_BYTES] if is_secret else piece)
                    piece, done = piece[count:], done + count
                if has_chunks:
                    self.wfile.write(b"\r\n")
                if pause and publisher.closing.wait(pause):
                    break
            if done < len(span):
                raise ConnectionAbortedError("the server closes, or the file has shrunk")
            if has_chunks and fault.cut_at is None:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            publisher.log(replace(entry, size_bytes=done), instead_of=entry)
            raise

    def _reset(self) -> None:
        """Reset the connection: close it for real, at once and without the usual goodbye."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())


def _framing(size: int, fault: Fault) -> dict[str, str]:
    """The headers that tell where the body ends."""
    if fault.length == "chunked":
        return {"Transfer-Encoding": "chunked"}
    if fault.length == "none":
        return {"Connection": "close"}
    return {"Content-Length": str(size if fault.content_length is None else fault.content_length)}


def _pieces(body: bytes | Path, span: range, step: int) -> Iterator[memoryview]:
    """`span` of the body in pieces of at most `step` bytes; a file's share one buffer."""
    if isinstance(body, bytes):
        for start in span[::step]:
            yield memoryview(body)[start : min(start + step, span.stop)]
        return
    buffer, left = memoryview(bytearray(min(step, len(span)))), len(span)
    with body.open("rb", buffering=0) as file:
        file.seek(span.start)
        while left and (count := file.readinto(buffer[:left])):
            left -= count
            yield buffer[:count]
