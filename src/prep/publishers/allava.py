"""ALLaVA-4V: captions and instructions about LAION's pictures, in ten chunks, and about Vision-Flan's; and text alone.

Pictures are named by a number and their real format. The repository's page tells of one images.zip, which is not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prep.publishers.llava import dialogue
from prep.publishers.packs import write, write_json, zipped
from prep.publishers.pictures import Picture
from prep.publishers.vision_flan import FISH, GUITAR, RIDDLE, STREET

REPO = "FreedomIntelligence/ALLaVA-4V"
FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
# One picture a chunk, the others' rows being left out here.
PICTURES = tuple(f"{100277305 + number}.{('jpeg', 'png', 'webp')[number % 3]}" for number in range(10))
Row = dict[str, Any]


def write_allava(hub: Path) -> None:
    """Write the repository."""
    root = hub / REPO
    laion, vflan = root / "allava_laion", root / "allava_vflan"
    for number, name in enumerate(PICTURES):
        chunk = zipped({"images/": b"", f"images/{name}": allava_picture(name)})
        write(laion / f"image_chunks/images_{number}.zip", chunk)
    write_json(laion / "ALLaVA-Caption-LAION-4V.json", _laion_captions())
    write_json(laion / "ALLaVA-Instruct-LAION-4V.json", _laion_instructions())
    write_json(vflan / "ALLaVA-Caption-VFLAN-4V.json", _vflan_captions())
    write_json(vflan / "ALLaVA-Instruct-VFLAN-4V.json", _vflan_instructions())
    write_json(root / "allava_text/Evol-Instruct-GPT4-Turbo-143K.json", _texts())
    write(root / "README.md", "# ALLaVA-4V\n\nallava_laion/images.zip\n")


def allava_picture(name: str) -> bytes:
    """The picture of that name in LAION's half."""
    return Picture.named(f"allava {name}", 96, 64).encode(FORMATS[name.rpartition(".")[2]])


def _laion_captions() -> list[Row]:
    """One picture for two rows, one that is in no chunk, and a name as an older release has it."""
    first, second, third = PICTURES[:3]
    return [
        _laion("cap", first, "<image>\nPlease depict the image in words.", "A ring lies on grey cloth."),
        _laion("cap", second, "<image>\nWrite a detailed description.", "Two shapes – 两个图形 – side by side."),
        _laion("cap", third, "<image>\nWhat do you see?", "A soft background."),
        _laion("cap", first, "<image>\nOnce more, please.", "The same ring."),
        _laion("cap", "100277399.jpeg", "<image>\nWhat do you see?", "Nobody knows."),
        _laion("cap", second.removesuffix(".png"), "<image>\nWhat do you see?", "An older name."),
        _laion("cap", PICTURES[9], "What do you see?\n<image>", "The last chunk."),
    ]


def _laion_instructions() -> list[Row]:
    return [
        _laion("inst", PICTURES[0], "<image>\nHow might the ring be worn?", "On any finger."),
        _laion("inst", PICTURES[5], "<image>\nWhy is it blurred?", "It moved."),
    ]


def _laion(task: str, name: str, *values: str) -> Row:
    row = dialogue(f"allava_laion_{task}_{name.partition('.')[0]}", f"allava_laion/images/{name}", *values)
    return row | {"original_caption": "190 Ring", "url": f"https://shop.example/{name}"}


def _vflan_captions() -> list[Row]:
    """Pictures of Vision-Flan's tasks, and one that Vision-Flan's own list does not name."""
    return [
        _vflan("cap_100000", GUITAR, "<image>\nDescribe it.", "A drawing of a guitar."),
        _vflan("cap_100001", RIDDLE, "<image>\nDescribe it.", "A riddle in a frame."),
        _vflan("cap_100002", FISH, "<image>\nDescribe it.", "A goldfish."),
        _vflan("cap_100003", "nothing.jpg", "<image>\nDescribe it.", "Nobody knows."),
    ]


def _vflan_instructions() -> list[Row]:
    return [
        _vflan("inst_9", STREET, "<image>\nWhere was it taken?", "In a street."),
        _vflan("inst_10", STREET, "<image>\nIs it day?", "Yes."),
    ]


def _vflan(key: str, name: str, *values: str) -> Row:
    return dialogue(f"allava_vflan_{key}", f"allava_vflan/images/images_191task_1k/{name}", *values)


def _texts() -> list[Row]:
    rows = [dialogue("heR0vZB", None, "Name a prime.", "7"), dialogue("aB3xY9q", None, "And an even one?", "2")]
    return [{"idx": row["id"], "conversations": row["conversations"]} for row in rows]
