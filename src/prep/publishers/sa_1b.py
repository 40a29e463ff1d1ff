"""SA-1B: tars of pictures with their masks beside them, ids with gaps, one tar gzip, one broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from prep.publishers.packs import tar, write
from prep.publishers.pictures import Picture

BLOCK = 512  # of a tar
SIZE = (96, 64)


def write_sa_1b(files: Path) -> None:
    """Write `files/sa-1b/sa_000000.tar` and two more.

    Members of the first begin with `./`. The second is gzip although its name does not say so. Of the third the header
    of `sa_11.jpg` is overwritten and the end is missing, in the middle of `sa_14.jpg`.
    """
    folder = files / "sa-1b"
    write(folder / "sa_000000.tar", tar(_members([1, 3], "./")))
    write(folder / "sa_000001.tar", gzip.compress(tar(_members([5, 6])), 1, mtime=0))
    write(folder / "sa_000002.tar", _broken(_members([9, 11, 12, 14])))


def picture(number: int) -> Picture:
    """The picture called `sa_<number>.jpg`."""
    return Picture.named(f"sa_{number}.jpg", *SIZE)


def _members(numbers: list[int], prefix: str = "") -> dict[str, bytes]:
    """A picture and its masks for each number."""
    members = {}
    for number in numbers:
        members[f"{prefix}sa_{number}.jpg"] = picture(number).encode()
        members[f"{prefix}sa_{number}.json"] = json.dumps(_masks(number)).encode()
    return members


def _masks(number: int) -> dict[str, object]:
    """What stands beside a picture: COCO's RLE and what the model said of each mask."""
    width, height = SIZE
    mask = {
        "id": 100 * number,
        "segmentation": {"size": [height, width], "counts": "0"},
        "bbox": [10.0, 20.0, 30.0, 20.0],
        "area": 410,
        "predicted_iou": 0.97,
        "stability_score": 0.98,
        "crop_box": [0.0, 0.0, float(width), float(height)],
        "point_coords": [[12.0, 28.0]],
    }
    image = {"image_id": number, "width": width, "height": height, "file_name": f"sa_{number}.jpg"}
    return {"image": image, "annotations": [mask]}


def _broken(members: dict[str, bytes]) -> bytes:
    data = bytearray(tar(members))
    at = data.index(b"sa_11.jpg\0")
    data[at : at + BLOCK] = b"\xaa" * BLOCK
    return bytes(data[: data.index(b"sa_14.jpg\0") + BLOCK + len(members["sa_14.jpg"]) // 2])
