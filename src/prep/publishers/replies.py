"""What a publisher answers, and how an answer can go wrong."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Reply:
    """One answer; a 200 with an ETag or a Last-Modified can also be asked for in ranges."""

    status: int = 200
    body: bytes | Path = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sent:
    """One answer as it went out.

    Attributes:
        path: decoded, without its query.
        asked: the request's Range header, or "".
        size_bytes: how much of the body (as encoded) was handed to the socket; a client may have read less.
    """

    path: str
    asked: str
    status: int
    size_bytes: int


@dataclass(frozen=True)
class Fault:
    """How the answers of one path go wrong.

    Attributes:
        status: answer this, with `body`, instead of what is there.
        headers: sent besides, or instead of, the usual ones (a wrong Content-Range, for one).
        body: send this instead of what is there.
        etag: the validator of what is sent, which If-Range is then compared with; with `body`, a changed file.
        cut_at: close the connection after this many bytes of the body; Content-Length still says all of it. Over TLS
            there is no close_notify either.
        reset: where it would be closed, reset the connection; the last bytes before may be lost, as in a real one.
        content_length: say this length, whatever the body's.
        length: how the end is told instead of by Content-Length: "none", by closing; or "chunked".
        gzip: encode the body, whether or not the client accepts that, and ignore ranges, as encoding servers do.
        ignore_range: answer a range with 200 and everything.
        drip_seconds: spread the body over this time.
        retry_after: add a Retry-After of one second, as a number or as a date.
        after: how many requests are answered well before it starts.
        times: how many requests it lasts from then on; None for good.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    etag: str | None = None
    cut_at: int | None = None
    reset: bool = False
    content_length: int | None = None
    length: Literal["none", "chunked"] | None = None
    gzip: bool = False
    ignore_range: bool = False
    drip_seconds: float = 0.0
    retry_after: Literal["seconds", "date"] | None = None
    after: int = 0
    times: int | None = None


def json_reply(data: Any, headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with `data` as JSON."""
    return Reply(200, json.dumps(data).encode(), {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def error_reply(status: int, message: str, code: str = "") -> Reply:
    """Answer with an error as the Hugging Face hub says it: in JSON and in two headers."""
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    return Reply(status, json.dumps({"error": message}).encode(), headers)


def file_headers(file: Path) -> dict[str, str]:
    """What is said of any file: its type by name, and when it was last modified."""
    return {
        "Content-Type": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
        "Last-Modified": formatdate(file.stat().st_mtime, usegmt=True),
    }
