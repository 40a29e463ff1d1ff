"""One request over libcurl: where it may lead, how slow it may be, and what its failure means."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import pycurl

from prep.web import USER_AGENT, CurlSocket, certificate_authorities, may_connect, proxy_addresses

MAX_REDIRECTS = 10
ATTEMPTS = 8
ATTEMPTS_TO_CONNECT = 4  # of a host that is not there
CONNECT_SECONDS = 20
STALL_SECONDS = 30  # below STALL_BYTES a second for so long, a transfer is dead
STALL_BYTES = 1024
NETWORK = "Check the network, then run the same command; what has come is kept."
_SUPPRESS_CONNECT_HEADERS = 265  # CURLOPT_SUPPRESS_CONNECT_HEADERS: a proxy's own answer is not the server's


class Transient(Exception):
    """A failure that may pass.

    Args:
        reason: in a few words.
        pause: seconds the server asks to wait; None for the usual back-off.
        attempts: how many in a row, bringing nothing new, are enough.
        next_step: what a person can do where it does not pass.
    """

    def __init__(
        self, reason: str, pause: float | None = None, attempts: int = ATTEMPTS, next_step: str = NETWORK
    ) -> None:
        super().__init__(reason)
        self.pause, self.attempts, self.next_step = pause, attempts, next_step


class Hopeless(Exception):
    """A failure that another attempt would meet again."""


class Stop(Exception):
    """Raised by a caller's `on_body` that has enough; `Connection.get` then returns."""


@dataclass
class Response:
    """The answer at the end of all redirects.

    Attributes:
        url: where it came from.
        headers: names in lower case; of repeated ones the last.
    """

    status: int = 0
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Host and port it came from."""
        return urlsplit(self.url).netloc


class Connection:
    """A libcurl handle, which keeps connections open between requests; one thread at a time.

    Args:
        allow_private_hosts: let every request lead to private addresses.
        named: IP addresses that a configuration's own URLs were found at; shared by all connections of a session. A
            redirect may lead there, or to public addresses.
    """

    def __init__(self, *, allow_private_hosts: bool, named: set[str]) -> None:
        self._curl = pycurl.Curl()
        for option, value in _options().items():
            self._curl.setopt(option, value)
        self._curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self._allow_private_hosts = allow_private_hosts
        self._named = named

    def close(self) -> None:
        """Close every connection of the handle."""
        self._curl.close()

    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        on_response: Callable[[Response], None],
        on_body: Callable[[bytes], None],
        *,
        is_named: bool,
        on_redirect: Callable[[Response], None] = lambda response: None,
    ) -> Response:
        """Ask for `url` and hand over the answer's headers, then its body as it comes.

        Args:
            on_response: called once, at the final answer's headers; what it or `on_body` raises ends the request.
            on_redirect: called at the headers of each redirect.
            is_named: a configuration names the host, which then may be private.

        Raises:
            Transient, Hopeless: no answer, or no whole one.
        """
        request = _Request(url, on_response, on_body, on_redirect)
        self._is_named, self._blocked = is_named, ""
        self._request = request
        curl = self._curl
        curl.setopt(pycurl.LOW_SPEED_LIMIT, STALL_BYTES)
        curl.setopt(pycurl.LOW_SPEED_TIME, STALL_SECONDS)
        curl.setopt(pycurl.URL, quote(url, safe="%/:?#[]@!$&'()*+,;=~"))
        curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()])
        curl.setopt(pycurl.HEADERFUNCTION, request.header)
        curl.setopt(pycurl.WRITEFUNCTION, request.body)
        try:
            curl.perform()
            request.end()
        except pycurl.error as error:
            if isinstance(request.error, Stop):
                return request.response
            if request.error is not None:
                raise request.error from None
            raise self._meaning(error) from error
        return request.response

    def _open_socket(self, purpose: int, address: Any) -> socket.socket | int:
        """Open a socket to a resolved address, the one that will be connected to, unless it must not be."""
        family, kind, protocol, target = address
        host = str(target[0])
        if self._is_named and not self._request.hops:
            self._named.add(host)
        if not (
            host in self._named
            or may_connect(host, allow_private_hosts=self._allow_private_hosts)
            or host in proxy_addresses()  # which then decides what may be reached
        ):
            self._blocked = host
            return pycurl.SOCKET_BAD
        return CurlSocket(family, kind, protocol)

    def _meaning(self, error: pycurl.error) -> Transient | Hopeless:
        """What a libcurl error means for another attempt."""
        code, detail = (*error.args, "")[:2]
        if self._blocked and code == pycurl.E_COULDNT_CONNECT:
            host = urlsplit(self._request.url).hostname
            may = may_connect(self._blocked, allow_private_hosts=True) and not self._allow_private_hosts
            hint = " (`allow_private_hosts: true` in prep.yaml allows it)" if may else ""
            return Hopeless(f"leads to {host} ({self._blocked}), which is not a public address{hint}")
        if code == pycurl.E_TOO_MANY_REDIRECTS:
            return Hopeless(f"redirects more than {MAX_REDIRECTS} times")
        if code in _HOPELESS:
            return Hopeless(detail)
        if code == pycurl.E_OPERATION_TIMEDOUT and "too slow" in detail:
            return Transient(f"stalled: under {STALL_BYTES} bytes a second for {STALL_SECONDS} s")
        return Transient(detail, attempts=ATTEMPTS_TO_CONNECT if code in _NOT_THERE else ATTEMPTS)


_NOT_THERE = {pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_COULDNT_CONNECT}
_HOPELESS = {
    pycurl.E_UNSUPPORTED_PROTOCOL,
    pycurl.E_URL_MALFORMAT,
    pycurl.E_PEER_FAILED_VERIFICATION,
    pycurl.E_SSL_CACERT_BADFILE,
    pycurl.E_LOGIN_DENIED,
}


class _Request:
    """The callbacks of one request; libcurl would swallow what they raise, so it is kept in `error`."""

    def __init__(
        self,
        url: str,
        on_response: Callable[[Response], None],
        on_body: Callable[[bytes], None],
        on_redirect: Callable[[Response], None],
    ) -> None:
        self.url = url
        self.hops = 0
        self.error: BaseException | None = None
        self.response = Response()
        self._on_response, self._on_body, self._on_redirect = on_response, on_body, on_redirect
        self._is_told = False

    def header(self, line: bytes) -> int:
        """Take one line of headers; -1 ends the request."""
        text = line.decode("latin-1").strip()
        if self._is_told:  # a trailer
            return len(line)
        try:
            if status := re.match(r"HTTP/\S+ ([0-9]{3})(?![0-9])", text):
                self.response = Response(int(status[1]), self.url)
            elif text:
                name, _, value = text.partition(":")
                self.response.headers[name.strip().lower()] = value.strip()
            else:
                self._block()
        except BaseException as error:
            self.error = error
            return -1
        return len(line)

    def _block(self) -> None:
        """The end of one answer's headers."""
        response = self.response
        location = response.headers.get("location")
        if response.status in (301, 302, 303, 307, 308) and location is not None:
            self.hops += 1
            self._on_redirect(response)
            try:
                self.url = urljoin(self.url, location)
                urlsplit(self.url).port  # noqa: B018 - raises where the address is none
            except ValueError as error:
                raise Hopeless("redirects to what is no address") from error
        elif response.status >= 200:
            self.end()

    def end(self) -> None:
        """Tell of the final answer, if that is still to do."""
        if not self._is_told:
            self._is_told = True
            self._on_response(self.response)

    def body(self, data: bytes) -> int | None:
        """Take bytes of the body; -1 ends the request."""
        if not self._is_told:  # the body of a redirect
            return None
        try:
            self._on_body(data)
        except BaseException as error:
            self.error = error
            return -1
        return None


@cache
def _options() -> dict[int, Any]:
    """What holds for every request."""
    options: dict[int, Any] = {
        pycurl.USERAGENT: USER_AGENT,
        pycurl.FOLLOWLOCATION: 1,
        pycurl.MAXREDIRS: MAX_REDIRECTS,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.REDIR_PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        # One range is one connection; a second stream over the same one would gain nothing.
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        _SUPPRESS_CONNECT_HEADERS: 1,
        pycurl.CONNECTTIMEOUT: CONNECT_SECONDS,
        pycurl.TCP_KEEPALIVE: 1,
        pycurl.BUFFERSIZE: 512 * 1024,
        pycurl.COOKIEFILE: "",  # cookies are kept in memory: some hosts send a redirect back with one
        pycurl.NOSIGNAL: 1,
    }
    authorities = certificate_authorities()
    if authorities:
        options[pycurl.CAINFO] = authorities
    return options
