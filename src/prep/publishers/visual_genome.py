"""Visual Genome: two zips of pictures, one id in both, some pictures without bytes in the second."""

from __future__ import annotations

from pathlib import Path

from prep.publishers.packs import write, zipped
from prep.publishers.pictures import Picture

PARTS = {"images.zip": ("VG_100K", ("2", "61")), "images2.zip": ("VG_100K_2", ("51", "61"))}
EMPTY = ("52", "53")  # of the second part; rows name the first of them


def write_visual_genome(files: Path) -> None:
    """Write `files/vg/images.zip` and `files/vg/images2.zip`."""
    for archive, (folder, ids) in PARTS.items():
        names = [f"{folder}/{number}.jpg" for number in ids]
        members = {name: Picture.named(f"vg {name}", 96, 64).encode() for name in names}
        if folder == "VG_100K_2":
            members |= {f"{folder}/{number}.jpg": b"" for number in EMPTY}
        write(files / "vg" / archive, zipped({f"{folder}/": b"", **members}))
