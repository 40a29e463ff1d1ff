"""GQA: one zip of pictures, named by Visual Genome's ids, test pictures by `n` and digits."""

from __future__ import annotations

from pathlib import Path

from prep.publishers.packs import write, zipped
from prep.publishers.pictures import Picture

NAMES = ("2375429.jpg", "n1234567.jpg", "51.jpg")  # 51 is Visual Genome's too


def write_gqa(files: Path) -> None:
    """Write `files/gqa/images.zip`."""
    members = {f"images/{name}": Picture.named(f"gqa {name}", 96, 64).encode() for name in NAMES}
    write(files / "gqa" / "images.zip", zipped({"images/": b"", **members}))
