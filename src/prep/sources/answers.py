"""What servers' answers mean, and what is said of those that bring no file."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from prep.errors import SourceError
from prep.sources.connection import Response
from prep.web import retry_after

LOOK = "Check the address on the publisher's page, or give another source in prep.yaml."
LATER = "Run the same command later; what has come is kept."
ANEW = "Has the publisher changed the file? `prep download --force` lists it anew; see also the publisher's page."
RETRIED = {408, 425, 429, 500, 502, 503, 504}
# Of the hub, in the form of IETF draft-ietf-httpapi-ratelimit-headers: requests left, seconds until there are more.
RATE_LIMIT = re.compile(r"r\s*=\s*([0-9]{1,9})\s*;\s*t\s*=\s*([0-9]{1,9})")


class Refused(SourceError):
    """The server answers 401 or 403: terms to accept, a token to give, or an address that has run out."""


class WebPage(SourceError):
    """A web page came where a file should be.

    Attributes:
        html: its beginning.
    """

    html = ""


class Changed(Exception):
    """What comes does not belong to what is there."""


def asked_pause(response: Response) -> float | None:
    """Seconds for which the server wants to be left alone, from Retry-After or the hub's RateLimit."""
    seconds = retry_after(response.headers.get("retry-after", "")) if response.status in RETRIED else None
    limit = RATE_LIMIT.search(response.headers.get("ratelimit", ""))
    if seconds is None and limit and int(limit[1]) == 0:
        seconds = int(limit[2]) + 1.0  # it counts in whole seconds
    return seconds


def size_of(response: Response) -> int | None:
    """The whole file's size by an answer's headers."""
    value = response.headers.get("content-range", "").rpartition("/")[2] if response.status == 206 else None
    value = response.headers.get("content-length", "") if value is None else value
    return None if "content-encoding" in response.headers else number(value)


def number(value: str) -> int | None:
    """A size as headers write it; None for anything else, which hostile ones write."""
    return int(value) if re.fullmatch("[0-9]{1,18}", value) else None


def shown(url: str) -> str:
    """An address as it may be shown: without a user's name, a signature or a key."""
    address = urlsplit(url)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"


def web_page(where: str, html: bytes) -> WebPage:
    """The error for a page, of which this is the beginning, in place of a file."""
    text = html.decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>\s*(.*?)\s*</title", text, re.IGNORECASE | re.DOTALL)
    called = f" ({' '.join(title[1].split())[:100]!r})" if title else ""
    error = WebPage(f"{where}: a web page{called} came in place of the file", LOOK)
    error.html = text
    return error


def is_html(data: bytes) -> bool:
    """Whether a file that begins so is a web page."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html"))
