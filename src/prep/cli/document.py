"""The one JSON document that a command prints with --json: what was done and, where something failed, the errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_data: Any = {}


def put(data: dict[str, Any] | list[Any]) -> None:
    """Let the document be `data`, whose lists may still grow; what has an `as_json` is written as that."""
    global _data
    _data = data


def write(errors: Sequence[dict[str, str]] = ()) -> None:
    """Print it; with errors, beside what was done."""
    data = {**(_data if isinstance(_data, dict) else {}), "errors": errors} if errors else _data
    print(json.dumps(data, indent=1, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    return value.as_json() if hasattr(value, "as_json") else str(value)
