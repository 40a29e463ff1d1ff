"""What the generators of pages share: write the page, or say that it is stale."""

from __future__ import annotations

import sys
from pathlib import Path


def write_page(page: Path, text: str, generator: str) -> None:
    """Write `text` to `page`, or with `--check` on the command line compare the two.

    Args:
        generator: the script's own path.
    """
    if sys.argv[1:] == ["--check"]:
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            sys.exit(f"{page.name} is stale: run python docs/{Path(generator).name}")
    elif sys.argv[1:]:
        sys.exit(f"usage: python docs/{Path(generator).name} [--check]")
    else:
        page.write_text(text, encoding="utf-8")
