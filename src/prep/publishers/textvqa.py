"""TextVQA: the zip of training and validation pictures, all in one folder `train_images`."""

from __future__ import annotations

from pathlib import Path

from prep.publishers.packs import write, zipped
from prep.publishers.pictures import Picture

TRAINING, VALIDATION = "0a1b2c3d4e5f6071.jpg", "ffee0011223344aa.jpg"


def write_textvqa(files: Path) -> None:
    """Write `files/textvqa/train_val_images.zip`."""
    names = [f"train_images/{name}" for name in (TRAINING, VALIDATION)]
    members = {name: Picture.named(f"textvqa {name}", 96, 64).encode() for name in names}
    write(files / "textvqa" / "train_val_images.zip", zipped({"train_images/": b"", **members}))
