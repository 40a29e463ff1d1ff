"""One request for an image: what is asked, how much of the answer is taken, and what the answer means."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import pycurl

import prep
from prep.config import Fetch
from prep.images.addresses import Address
from prep.images.transfers import Ended, Transfers
from prep.web import CurlSocket, certificate_authorities, may_connect, retry_after

CONNECT_SECONDS = 10.0
SLOW_SECONDS = 10  # below `Fetch.bytes_per_second` for so long, a transfer is dead
USER_AGENT = f"Mozilla/5.0 (compatible; prep/{prep.__version__}; dataset preparation)"
Reach = Literal["no way", "unreached", "silent", "answered"]
OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex"}
REDIRECTS = {301, 302, 303, 307, 308}
_MAX_ERROR_BYTES = 64 << 10  # of what comes with an error; after that a new connection is cheaper
_LONGEST_SECONDS = 86_400  # libcurl takes numbers up to a limit
_SUPPRESS_CONNECT_HEADERS = 265  # CURLOPT_SUPPRESS_CONNECT_HEADERS: a proxy's own answer is not the server's
_UNREACHED = {pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY}
_NO_WAY = {errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}
_MEANINGS = {
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_URL_MALFORMAT: "bad_url",
    pycurl.E_COULDNT_RESOLVE_HOST: "dns",
    pycurl.E_COULDNT_RESOLVE_PROXY: "dns",
    pycurl.E_SSL_CONNECT_ERROR: "tls",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls",
    pycurl.E_SSL_CACERT_BADFILE: "tls",
    pycurl.E_SSL_CIPHER: "tls",
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one address: `status` is `ok` or an error class, `error` its detail."""

    status: str
    data: bytes = b""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        location: where a redirect leads to, if that is what came.
        pause_seconds: the host asks to be left alone for so long.
        reach: how far it got. `no way` out of this machine; `unreached`, nothing took the connection; `silent`, not a
            byte came in time; or `answered`, whatever it was.
    """

    fetched: Fetched
    location: str | None = None
    pause_seconds: float | None = None
    reach: Reach = "answered"


class Request:
    """An easy handle of libcurl, for one address after the other.

    Args:
        proxy_ips: IP addresses of proxies, which may be connected to whatever they are.
    """

    def __init__(self, fetch: Fetch, *, allow_private_hosts: bool, proxy_ips: Collection[str]) -> None:
        self._fetch, self._allow_private_hosts, self._proxy_ips = fetch, allow_private_hosts, proxy_ips
        self._head: list[bytes] = []
        self._body: list[bytes] = []
        self._left: int | None = None  # bytes of the body that may come yet; None before the first
        self._is_blocked = False
        self._refusal: Fetched | None = None
        self._error: BaseException | None = None  # raised in a callback, where libcurl would swallow it
        self._to: str | None = None
        self._curl = pycurl.Curl()
        for option, value in _options(fetch).items():
            self._curl.setopt(option, value)
        self._curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self._curl.setopt(pycurl.HEADERFUNCTION, self._head.append)
        self._curl.setopt(pycurl.WRITEFUNCTION, self._write)

    async def get(self, transfers: Transfers, address: Address, ip: str, proxy: str, seconds: float) -> Answer:
        """Ask for an address.

        Args:
            ip: the IP address to ask; "" to leave that to the proxy.
            proxy: "" to do without.
            seconds: for all of it.
        """
        self._head.clear()
        self._left, self._is_blocked, self._refusal = None, False, None
        curl = self._curl
        curl.setopt(pycurl.URL, address.url)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(min(seconds, _LONGEST_SECONDS) * 1000)))
        # The name stays what it is for TLS and the Host header; libcurl only never asks for its address.
        to = f"::[{ip}]:{address.port}" if ip and ":" in ip else f"::{ip}:{address.port}" if ip else proxy
        if to != self._to:
            self._to = to
            curl.setopt(pycurl.CONNECT_TO, [to] if ip else [])
            curl.setopt(pycurl.PROXY, "" if ip else proxy)
        try:
            ended = await transfers.run(curl)
            if self._error is not None:
                raise self._error
            return self._answer(ended)
        finally:
            self._body.clear()

    def close(self) -> None:
        """Let go of the handle, which no transfer may have any more."""
        self._curl.close()

    # What libcurl calls.

    def _open_socket(self, purpose: int, address: Any) -> socket.socket | int:
        """Open a socket to a resolved address, the one that will be connected to, unless it must not be."""
        family, kind, protocol, target = address
        try:
            ip = str(target[0])
            if ip in self._proxy_ips or may_connect(ip, allow_private_hosts=self._allow_private_hosts):
                return CurlSocket(family, kind, protocol)
            self._is_blocked = True
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # not, say, a machine without IPv6
                self._error = error
        except BaseException as error:
            self._error = error
        return pycurl.SOCKET_BAD

    def _write(self, data: bytes) -> int | None:
        """Take bytes of the body; -1 ends the request."""
        left = self._start() if self._left is None else self._left
        self._left = left = left - len(data)
        if left < 0:
            return -1
        self._body.append(data)
        return None

    def _start(self) -> int:
        """How many bytes of a body to take, by what stands before it."""
        try:
            if b" 200" not in _status_line(self._head)[:13]:
                return _MAX_ERROR_BYTES
            self._refusal = _opt_out(self._head) if self._fetch.opt_out else None
        except BaseException as error:
            self._error = error
        return -1 if self._refusal or self._error else self._fetch.max_bytes

    # What came.

    def _answer(self, ended: Ended) -> Answer:
        status: int = self._curl.getinfo(pycurl.RESPONSE_CODE)
        if status == 200:
            return Answer(self._image(ended))
        if status in REDIRECTS:
            location = _values(self._head, b"location")
            if location:
                return Answer(Fetched("redirects"), location=location[0])
            return Answer(Fetched("redirects", error="to nowhere"))
        if status >= 200:
            name = "http_5xx" if 500 <= status < 600 else f"http_{status}"
            pause = _values(self._head, b"retry-after") if status in (429, 503) else []
            fetched = Fetched(name, error=_text(b" ".join(_status_line(self._head).split(b" ", 2)[2:])) or None)
            return Answer(fetched, pause_seconds=retry_after(pause[0]) if pause else None)
        return self._no_answer(ended)

    def _image(self, ended: Ended) -> Fetched:
        if self._left is None:
            self._refusal = _opt_out(self._head) if self._fetch.opt_out else None
            if ended.code == 0 and not any(line in (b"\r\n", b"\n") for line in self._head):
                return Fetched("truncated", error="the headers break off")
        if self._refusal is not None:
            return self._refusal
        if ended.code == 0:
            return Fetched("ok", b"".join(self._body))
        if ended.code == pycurl.E_FILESIZE_EXCEEDED or (self._left or 0) < 0:
            return Fetched("too_large", error=f"more than {self._fetch.max_bytes} bytes")
        status = "timeout" if ended.code == pycurl.E_OPERATION_TIMEDOUT else "truncated"
        return Fetched(status, error=ended.words or "its end cannot be made sense of")

    def _no_answer(self, ended: Ended) -> Answer:
        """What it means that no status came."""
        if self._is_blocked:
            return Answer(Fetched("blocked_address", error="not a public address"))
        number: int = 0
        reach: Reach = "answered"
        if ended.code in _UNREACHED or not self._curl.getinfo(pycurl.PRIMARY_IP):
            number = self._curl.getinfo(pycurl.OS_ERRNO)
            reach = "no way" if number in _NO_WAY else "unreached"
        elif ended.code == pycurl.E_OPERATION_TIMEDOUT and not self._head:
            reach = "silent"
        words = (ended.words or "no answer") + (f" ({os.strerror(number)})" if number else "")
        is_broken_off = ended.code == pycurl.E_SSL_CONNECT_ERROR and (
            ": error:" not in words or "unexpected eof" in words
        )
        status = "connect" if is_broken_off else _MEANINGS.get(ended.code, "connect")
        return Answer(Fetched(status, error=words), reach=reach)


def _options(fetch: Fetch) -> dict[int, Any]:
    """What holds for every request."""
    options: dict[int, Any] = {
        pycurl.USERAGENT: USER_AGENT,
        pycurl.HTTPHEADER: ["Accept: image/*,*/*;q=0.5"],
        pycurl.ACCEPT_ENCODING: "",  # all that libcurl decodes
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        # An image is one short answer; many at once are many connections, and these may be to many machines.
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        _SUPPRESS_CONNECT_HEADERS: 1,
        pycurl.CONNECTTIMEOUT_MS: int(CONNECT_SECONDS * 1000),
        pycurl.LOW_SPEED_LIMIT: min(fetch.bytes_per_second, 1 << 30),
        pycurl.LOW_SPEED_TIME: SLOW_SECONDS,
        pycurl.MAXFILESIZE_LARGE: fetch.max_bytes,
        pycurl.BUFFERSIZE: 512 * 1024,
        pycurl.NOSIGNAL: 1,
        pycurl.PROXY: "",
    }
    authorities = certificate_authorities()
    if authorities:
        options[pycurl.CAINFO] = authorities
    return options


def _status_line(head: list[bytes]) -> bytes:
    """The status line of the final answer."""
    return next((line for line in reversed(head) if line.startswith(b"HTTP/")), b"")


def _values(head: list[bytes], name: bytes) -> list[str]:
    """The values of a header of the final answer."""
    start = max((place for place, line in enumerate(head) if line.startswith(b"HTTP/")), default=0)
    pairs = (line.partition(b":") for line in head[start:])
    return [_text(value) for key, _, value in pairs if key.strip().lower() == name]


def _opt_out(head: list[bytes]) -> Fetched | None:
    """What an owner says who does not want the image used; a bot's name may stand before a word, and is any bot's."""
    if b"x-robots-tag" not in b"".join(head).lower():
        return None
    said = ", ".join(_values(head, b"x-robots-tag"))
    if OPT_OUTS.isdisjoint(word.strip() for word in said.lower().replace(":", ",").split(",")):
        return None
    return Fetched("opted_out", error=f"X-Robots-Tag: {said[:100]}")


def _text(value: bytes) -> str:
    """What stands in a header, which need not be text."""
    return value.strip().decode("utf-8", "surrogateescape")
