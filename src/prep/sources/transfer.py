"""One file over http(s): streamed, hashed on the way, retried, verified, renamed."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError

from prep.errors import SourceError
from prep.files import atomic_path
from prep.progress import Advance
from prep.sources import Part
from prep.web import USER_AGENT, retry_after

ATTEMPTS = 5
MAX_PAUSE_SECONDS = 120.0
CHUNK_BYTES = 1 << 20
RETRIED = {408, 425, 429, 500, 502, 503, 504}


class _Transient(Exception):
    """A failure worth another attempt after `pause` seconds (None: the usual back-off)."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


@cache
def _pool() -> urllib3.PoolManager:
    retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=10)
    return urllib3.PoolManager(maxsize=16, timeout=urllib3.Timeout(connect=15, read=60), retries=retries)


class Refused(SourceError):
    """The server answers 401 or 403: terms to accept, a token to give, or an address that has run out."""


class WebPage(SourceError):
    """A web page came where a file should be.

    Attributes:
        html: its beginning.
    """

    html = ""


@dataclass(frozen=True)
class Answer:
    """What a server says of an address, without its body.

    Attributes:
        size_bytes: of the whole file; None where it does not say.
        headers: names in lower case.
        body: the first bytes, at most as many as were asked for.
    """

    status: int
    size_bytes: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Session:
    """Connections, limits and manners shared by all transfers of one download; a context manager.

    Args:
        advance: told of bytes as they come, and of their negative when they are thrown away.
        allow_private_hosts: let redirects, and addresses that no configuration names, lead to private hosts.
        deadline: moment of `time.monotonic()` after which nothing goes on.
    """

    def __init__(
        self,
        advance: Advance = lambda amount: None,
        *,
        allow_private_hosts: bool = False,
        deadline: float | None = None,
    ) -> None:
        self.advance = advance

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def ask(
        self, url: str, headers: Mapping[str, str] | None = None, *, limit: int = 0, is_named: bool = True
    ) -> Answer:
        """What the server says of `url` after redirects, with at most `limit` bytes of the body.

        Raises:
            SourceError: it cannot be asked (an answer of 4xx or 5xx is an answer).
        """
        response = _pool().request(
            "GET", url, headers={"User-Agent": USER_AGENT, **(headers or {})}, preload_content=False
        )
        size = response.headers.get("Content-Length")
        body = response.read(limit) if limit else b""
        response.close()
        return Answer(
            response.status, int(size) if size else None, {k.lower(): v for k, v in response.headers.items()}, body
        )

    def bring(
        self,
        part: Part,
        target: Path,
        headers: Mapping[str, str] | None = None,
        *,
        address: Callable[[], str] | None = None,
        is_named: bool = True,
    ) -> str:
        """Bring `part` to `target`, check size and hash against what its publisher says, and give its SHA-256.

        Args:
            headers: sent to the part's own host, not to where it redirects.
            address: gives the address to ask, anew each time (signed ones run out); by default the part's url.
            is_named: whether the configuration names the host, which then may be private.

        Raises:
            Refused, WebPage, SourceError: it cannot be had, or its bytes are not the publisher's.
        """
        transfer(part, target, headers or {}, self.advance)
        from prep.files import hash_file

        return hash_file(target)


def transfer(part: Part, target: Path, headers: Mapping[str, str], advance: Advance) -> None:
    """Bring `part` to `target` and check size and hash against what its publisher says.

    The whole file is tried `ATTEMPTS` times on failures that pass by themselves. `advance` is told of bytes as they
    come, and of their negative when an attempt is thrown away.

    Raises:
        SourceError: it cannot be had, or its bytes are not the publisher's.
    """
    for attempt in range(1, ATTEMPTS + 1):
        received = [0]

        def count(amount: int, received: list[int] = received) -> None:
            received[0] += amount
            advance(amount)

        try:
            _attempt(part, target, headers, count)
            return
        except _Transient as problem:
            advance(-received[0])
            if attempt == ATTEMPTS:
                raise SourceError(
                    f"{part.url}: {problem} ({ATTEMPTS} attempts)",
                    "Check the network, then run the same command; finished parts are kept.",
                ) from problem
            back_off = 0.5 * 2**attempt * random.uniform(0.5, 1.0)
            time.sleep(min(back_off if problem.pause is None else problem.pause, MAX_PAUSE_SECONDS))


def _attempt(part: Part, target: Path, headers: Mapping[str, str], advance: Advance) -> None:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    try:
        response = _pool().request(
            "GET",
            part.url,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
            preload_content=False,
        )
        try:
            _check_status(part, response)
            with atomic_path(target) as temporary, temporary.open("wb") as file:
                # Not decoded: hosts send a `.gz` as Content-Encoding: gzip, and a part stays as published.
                while chunk := response.read(CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
                    sha256.update(chunk)
                    md5.update(chunk)
                    size += len(chunk)
                    advance(len(chunk))
                file.flush()
                _check_bytes(part, size, sha256.hexdigest(), md5.hexdigest())
            response.release_conn()
        finally:
            response.close()
    except HTTPError as error:
        raise _Transient(_plain(error)) from error


def _check_status(part: Part, response: urllib3.BaseHTTPResponse) -> None:
    if response.status in RETRIED:
        pause = retry_after(response.headers.get("Retry-After", ""))
        raise _Transient(f"the server answers {response.status}", pause)
    if response.status in (401, 403):
        raise Refused(
            f"{part.url}: the server answers {response.status}, access refused",
            "Accept the dataset's terms on its page, then set HF_TOKEN or run `hf auth login`.",
        )
    if response.status != 200:
        raise SourceError(
            f"{part.url}: the server answers {response.status}",
            "Has the publisher moved the file? Check its page, or give another source in prep.yaml.",
        )


def _check_bytes(part: Part, size: int, sha256: str, md5: str) -> None:
    """A wrong size is a broken transfer; a wrong hash of the right size is another file."""
    if part.size_bytes is not None and size != part.size_bytes:
        raise _Transient(f"{size} bytes came, {part.size_bytes} were announced")
    for kind, got, wanted in (("sha256", sha256, part.sha256), ("md5", md5, part.md5)):
        if wanted is not None and got != wanted:
            raise SourceError(
                f"{part.url}: {kind} is {got}, its publisher says {wanted}",
                "The file changed or was damaged on its way. Run again; if it stays so, check the publisher's page.",
            )


def _plain(error: HTTPError) -> str:
    """The cause of a urllib3 error in a few words, without object addresses."""
    reason = getattr(error, "reason", None) or error
    words = str(reason.args[0] if isinstance(reason, ProtocolError) else reason).rsplit(">: ", 1)[-1]
    return f"{type(reason).__name__}: {words}"
