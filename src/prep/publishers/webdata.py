"""WebData of ShareGPT4V: zips on Google Drive that nest `data/<name>/images/`, and a user's copies on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from prep.publishers.packs import write, zipped
from prep.publishers.pictures import Picture

MIRROR = "DVLe/sharegpt"


class Zip(NamedTuple):
    """A zip of the folder on Drive.

    Attributes:
        drive_id: its id there.
        folder: of its members; empty or with a slash at its end.
        pictures: their names.
    """

    name: str
    drive_id: str
    folder: str
    pictures: tuple[str, ...]


# Dataset -> its zip. l1.jpg is in two of them, and Choi_Min-sik.jpg, which rows name, in none.
ZIPS = {
    "web-celebrity": Zip(
        "web-celebrity.zip",
        "1-SB71C3j1mVg0kDDXwj2IWGEoBoRUD-J",
        "data/web-celebrity/images/",
        ("a b.jpg", "l1.jpg"),
    ),
    "web-landmark": Zip(
        "web-landmark.zip", "1JpJkN7ZMA50xAhMx9O-rVb5yLhfGm3_o", "data/web-landmark/images/", ("l1.jpg",)
    ),
    "wikiart": Zip("wikiart.zip", "1FxB2Nw-vWUcTUSI_dBpPIykb-uGYoEqV", "data/wikiart/images/", ("w1.jpg",)),
    "share-textvqa": Zip(
        "share_textvqa.zip", "1f4v_3e1OJtyYqam1CEp6RenCNTU5_mG2", "data/share_textvqa/images/", ("s1.jpg",)
    ),
    "sam-9k": Zip("sam_images_share-sft.zip", "16_5S-l4X01Kv7AUPFzfJ2LZjpw1-lLVF", "", ("sa_1.jpg",)),
}


def drive_files(files: Path) -> dict[str, Path]:
    """Id on Drive -> file."""
    return {archive.drive_id: files / "webdata" / archive.name for archive in ZIPS.values()}


def drive_sources(endpoint: str) -> dict[str, dict[str, Any]]:
    """Dataset -> its source, on the Drive at `endpoint`."""
    return {
        dataset: {
            "kind": "google-drive",
            "endpoint": endpoint,
            "files": [{"id": archive.drive_id, "path": archive.name}],
        }
        for dataset, archive in ZIPS.items()
    }


def write_webdata(hub: Path, files: Path) -> None:
    """Write the zips to `files/webdata/` and to the hub."""
    for archive in ZIPS.values():
        names = [archive.folder + name for name in archive.pictures]
        data = zipped({name: Picture.named(name, 96, 64).encode() for name in names})
        for place in (files / "webdata", hub / MIRROR):
            write(place / archive.name, data)
