"""Trees of files whose content is their path, and what has become of them."""

from __future__ import annotations

from pathlib import Path

from prep.layout import Layout
from prep.layout.journal import FOLDER


def make(root: Path, *paths: str) -> Path:
    """A tree of files whose content is their path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path, encoding="utf-8", errors="surrogateescape")
    return root


def listing(root: Path) -> dict[str, str]:
    """Every path below a root: a file's content, where a link leads, or nothing for a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith(FOLDER):
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_text("utf-8", "surrogateescape") if path.is_file() else ""
    return found


def files(root: Path) -> dict[str, str]:
    """Where a file is now -> where it was, which is what stands in it."""
    return {path: text for path, text in listing(root).items() if text and not text.startswith("-> ")}


def moves(layout: Layout) -> list[tuple[str, str, int]]:
    """Source, target and count of every move."""
    return [(move.source, move.target, move.count) for move in layout.found.moves]
