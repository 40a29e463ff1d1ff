"""The option `--memory` of the stages that are DuckDB queries."""

from __future__ import annotations

import re

LEAST = 100_000_000  # bytes with which a query can do anything at all
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def memory_bytes(text: str | None) -> int | None:
    """Bytes that an amount such as `8GB` or `512MiB` says.

    Raises:
        UsageError: it is none, or less than a query needs.
    """
    from prep.errors import UsageError

    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"--memory {text}: is no amount of memory", "For example --memory 8GB, or 512MB.")
    amount = int(float(found[1]) * (_BINARY if found[3] else _UNITS)[found[2]])
    if amount < LEAST:
        raise UsageError(f"--memory {text}: is less than a query needs", "At least --memory 100MB; 1GB is better.")
    return amount
