"""The option `--memory` of the stages that are DuckDB queries."""

from __future__ import annotations


def memory_option(amount: str | None) -> int | None:
    """Bytes that `--memory` says.

    Raises:
        UsageError: it is no amount, or less than a query needs.
    """
    from prep.config import memory_bytes
    from prep.errors import UsageError

    try:
        return None if amount is None else memory_bytes(amount)
    except ValueError as error:
        raise UsageError(f"--memory {error}", "It is what all workers may have together.") from error
