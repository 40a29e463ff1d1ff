"""Images from addresses: many at once, politely, and never from where they must not come.

Every address ends in one `Fetched`: bytes, or the class of what went wrong.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

import prep
from prep.images.probe import MAX_IMAGE_BYTES
from prep.web import may_connect, retry_after

CONCURRENCY = 64
PER_HOST = 8
ATTEMPTS = 3
MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30.0
MAX_PAUSE_SECONDS = 10.0
USER_AGENT = f"Mozilla/5.0 (compatible; prep/{prep.__version__}; dataset preparation)"
OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex"}
RETRIED = {"connect", "timeout", "http_429", "http_5xx", "truncated"}


@dataclass(frozen=True)
class Fetched:
    """What came of one address: `status` is `ok` or an error class, `error` its detail."""

    status: str
    data: bytes = b""
    error: str | None = None
    retry_after: float | None = None


class _BlockedAddress(OSError):
    """The address is private, loopback, link-local or otherwise not public."""


def fetch_all(urls: Iterable[str], on_fetched: Callable[[int, Fetched], None], *, allow_private_hosts: bool) -> None:
    """Fetch every address and hand each result, with its place in `urls`, to `on_fetched` as it comes.

    At most `CONCURRENCY` bodies are in memory at once. What `on_fetched` raises ends it.
    """
    try:
        asyncio.run(_fetch_all(urls, on_fetched, allow_private_hosts))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _fetch_all(
    urls: Iterable[str], on_fetched: Callable[[int, Fetched], None], allow_private_hosts: bool
) -> None:
    queue = enumerate(urls)
    # Beside the connector's own limit, so that waiting for one's turn at a busy host does not count as its timeout.
    turns: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(PER_HOST))
    connector = aiohttp.TCPConnector(
        limit=CONCURRENCY,
        limit_per_host=PER_HOST,
        ttl_dns_cache=300,
        socket_factory=partial(_socket, allow_private_hosts),
    )
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=10)
    headers = {"User-Agent": USER_AGENT, "Accept": "image/*,*/*;q=0.5"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:

        async def work() -> None:
            for place, url in queue:
                async with turns["/".join(url.split("/", 3)[:3])]:
                    fetched = await _fetch(session, url)
                on_fetched(place, fetched)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(work())


def _socket(allow_private_hosts: bool, address: tuple[Any, ...]) -> socket.socket:
    """Open a socket for a resolved address, the one that will be connected to, unless it must not be."""
    family, kind, protocol, _, target = address
    if not may_connect(str(target[0]), allow_private_hosts=allow_private_hosts):
        # The same words for every address of a name: only then does aiohttp raise the error itself, not a list of them.
        raise _BlockedAddress("not a public address")
    return socket.socket(family, kind, protocol)


async def _fetch(session: aiohttp.ClientSession, url: str) -> Fetched:
    """Fetch one address, again where the failure may pass."""
    for attempt in range(1, ATTEMPTS + 1):
        fetched = await _attempt(session, url)
        if fetched.status not in RETRIED or attempt == ATTEMPTS:
            break
        back_off = 0.25 * 4**attempt * random.uniform(0.5, 1.0)
        await asyncio.sleep(min(back_off if fetched.retry_after is None else fetched.retry_after, MAX_PAUSE_SECONDS))
    # A host's words need not be text that a parquet file can hold.
    return replace(fetched, error=fetched.error and fetched.error.encode(errors="replace").decode()[:300])


async def _attempt(session: aiohttp.ClientSession, url: str) -> Fetched:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await _follow(session, url)
    except (TimeoutError, aiohttp.ServerTimeoutError) as error:
        return Fetched("timeout", error=str(error) or None)
    except aiohttp.ClientConnectorDNSError as error:
        return Fetched("dns", error=str(error.os_error))
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        return Fetched("tls", error=str(error))
    except aiohttp.ClientConnectorError as error:
        blocked = isinstance(error.os_error, _BlockedAddress)
        return Fetched("blocked_address" if blocked else "connect", error=str(error.os_error))
    except _BlockedAddress as error:
        return Fetched("blocked_address", error=str(error))
    except aiohttp.ClientPayloadError as error:
        return Fetched("truncated", error=str(error))
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
        return Fetched("bad_url", error=str(error))
    except (aiohttp.ClientError, OSError) as error:
        return Fetched("connect", error=str(error) or type(error).__name__)


async def _follow(session: aiohttp.ClientSession, url: str) -> Fetched:
    """Follow redirects ourselves, so that every hop is http(s) and its address is checked."""
    for _ in range(MAX_REDIRECTS + 1):
        if urlsplit(url).scheme.lower() not in ("http", "https"):
            return Fetched("bad_url", error=f"not an http(s) address: {url[:200]}")
        async with session.get(url, allow_redirects=False) as response:
            if response.status not in (301, 302, 303, 307, 308):
                return await _read(response)
            url = urljoin(url, response.headers.get("Location", ""))
    return Fetched("redirects", error=f"more than {MAX_REDIRECTS} redirects")


async def _read(response: aiohttp.ClientResponse) -> Fetched:
    if response.status != 200:
        status = "http_5xx" if response.status >= 500 else f"http_{response.status}"
        return Fetched(status, error=response.reason, retry_after=retry_after(response.headers.get("Retry-After", "")))
    tags = ",".join(response.headers.getall("X-Robots-Tag", [])).lower().replace(":", ",").split(",")
    if OPT_OUTS & {tag.strip() for tag in tags}:
        return Fetched("opted_out", error=f"X-Robots-Tag: {response.headers['X-Robots-Tag'][:100]}")
    data = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > MAX_IMAGE_BYTES:
            return Fetched("too_large", error=f"more than {MAX_IMAGE_BYTES} bytes")
    return Fetched("ok", bytes(data))
