"""What a publisher answers, and how an answer can go wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Reply:
    """One answer; a 200 with an ETag can also be asked for in ranges."""

    status: int = 200
    body: bytes | Path = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """How the answers of one path go wrong.

    Attributes:
        status: answer this, with `body`, instead of what is there.
        headers: sent besides, or instead of, the usual ones.
        body: send this instead of what is there.
        cut_at: close the connection after this many bytes of the body; Content-Length still says all of it.
        content_length: say this length, whatever the body's.
        ignore_range: answer a range with 200 and everything.
        drip_seconds: spread the body over this time.
        retry_after: add a Retry-After of one second, as a number or as a date.
        times: how many requests it lasts; None for good.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut_at: int | None = None
    content_length: int | None = None
    ignore_range: bool = False
    drip_seconds: float = 0.0
    retry_after: Literal["seconds", "date"] | None = None
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
