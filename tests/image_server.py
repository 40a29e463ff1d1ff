"""An image host that misbehaves in every way, fast enough to be asked tens of thousands of times.

One thread and one event loop; it listens on every loopback address, so that it is many hosts.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

PIECES = 20


@dataclass(frozen=True)
class Reply:
    """What is sent for one request, byte for byte.

    Attributes:
        end: of the connection: wait for the next request, close, reset, or never send anything again.
        delay_seconds: before the first byte.
        drip_seconds: spread the bytes over this time.
    """

    data: bytes = b""
    end: Literal["keep", "close", "reset", "hang"] = "keep"
    delay_seconds: float = 0.0
    drip_seconds: float = 0.0


def reply(
    status: str = "200 OK", body: bytes = b"", headers: Sequence[str] = (), *, length: int | None = None
) -> Reply:
    """A whole answer; `length` is what it says of its body."""
    size = f"Content-Length: {len(body) if length is None else length}"
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, size, "", ""])
    return Reply(head.encode("latin-1") + body)


def raw(data: bytes, end: Literal["keep", "close", "reset", "hang"] = "close") -> Reply:
    """Bytes as they are."""
    return Reply(data, end)


NOT_THERE = reply("404 Not Found")


class ImageServer:
    """A running server; a context manager.

    Args:
        replies: first step of a path -> what its addresses answer; of several the first to the first request of an
            address, and so on, the last from then on.
        tls: the server's certificate.

    Attributes:
        hits: path -> how often it was asked for.
        heads: path -> the last request for it.
        most: how many requests were being answered at once, by the address they came to, and in all.
        connections: how many were opened.
    """

    def __init__(self, replies: Mapping[str, Reply | Sequence[Reply]], tls: ssl.SSLContext | None = None) -> None:
        self.replies = {name: [what] if isinstance(what, Reply) else what for name, what in replies.items()}
        self.hits: Counter[str] = Counter()
        self.heads: dict[str, str] = {}
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.connections = 0
        self.port = 0
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self.open: set[asyncio.Transport] = set()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The address of a path."""
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}/{path}"

    def __enter__(self) -> ImageServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", 0))
        server = await self._loop.create_server(lambda: _Connection(self), sock=listener, ssl=self._tls, backlog=4096)
        self.port = listener.getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        # What is being accepted has to become a connection first: a closed server would leave its socket open.
        self._loop.remove_reader(listener)
        await asyncio.sleep(0.001)
        server.close()
        while self.open or len(asyncio.all_tasks()) > 1:  # those being accepted are tasks
            for transport in list(self.open):
                transport.abort()
            await asyncio.sleep(0.001)


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: ImageServer) -> None:
        self._server = server
        self._received = b""
        self._waiting: list[asyncio.Handle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._host = transport.get_extra_info("sockname")[0]
        self._server.open.add(transport)
        self._server.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        for handle in self._waiting:
            handle.cancel()
        if self._waiting:
            self._end_request()
        self._server.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"\r\n\r\n"):
            return
        server, head = self._server, self._received.decode("latin-1")
        self._received = b""
        path = head.split(" ", 2)[1]
        replies = server.replies.get(path.split("/")[1].split("?")[0], [NOT_THERE])
        answer = replies[min(server.hits[path], len(replies) - 1)]
        server.hits[path] += 1
        server.heads[path] = head
        for key in (self._host, "all"):
            server.now[key] += 1
            server.most[key] = max(server.most[key], server.now[key])
        if not (answer.delay_seconds or answer.drip_seconds):
            self._send(answer.data, answer)
            return
        loop, size = asyncio.get_running_loop(), -(-len(answer.data) // PIECES) if answer.drip_seconds else 1 << 30
        pieces = [answer.data[start : start + size] for start in range(0, len(answer.data), size)] or [b""]
        for number, piece in enumerate(pieces):
            is_last = number == len(pieces) - 1
            when = answer.delay_seconds + answer.drip_seconds * number / len(pieces)
            self._waiting.append(loop.call_later(when, self._send, piece, answer if is_last else None))

    def _send(self, data: bytes, ended: Reply | None) -> None:
        """Send bytes, and with the last of an answer do what comes after it."""
        self._transport.write(data)
        if ended is None:
            return
        self._waiting.clear()
        self._end_request()
        if ended.end == "close":
            self._transport.close()
        elif ended.end == "reset":
            # Not at once: a reset overtakes what was sent before.
            asyncio.get_running_loop().call_later(0.05 if data else 0, self._reset)

    def _reset(self) -> None:
        if not self._transport.is_closing():
            wire: socket.socket = self._transport.get_extra_info("socket")
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def _end_request(self) -> None:
        for key in (self._host, "all"):
            self._server.now[key] -= 1
