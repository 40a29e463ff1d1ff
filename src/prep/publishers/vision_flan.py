"""Vision-Flan: questions of 191 tasks, and one zip of the pictures that they name by file name alone.

The zip writes letters beyond ASCII as #U91d1, the list as they are. Zip, folder and list spell the set's name in three
ways.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prep.publishers.llava import dialogue
from prep.publishers.packs import write, write_json, zipped
from prep.publishers.pictures import Picture

REPO = "Vision-Flan/vision-flan_191-task_1k"
FOLDER = "images_191task_1k"
GUITAR = "PACS+guitar_image_category_classification_830_n03272010_10795-5.png"
STREET = "VQA-E+visual_question_answering_574_COCO_train2014_000000119456.jpg"
COUNTING = "VQA_counting_COCO_train2014_000000076081.jpg"
FISH = "Caltech101+金鱼_🐟_1.jpg"
RIDDLE = "riddle_7.jpg"  # in no row of its own list
BAD_SUM = "bad_sum_1.png"  # as long as the zip says, and other bytes
_SWAPPED = 200  # bytes from its end, in which two are swapped
Row = dict[str, Any]


def write_vision_flan(hub: Path) -> None:
    """Write the repository."""
    root = hub / REPO
    pictures = {name: flan_picture(name) for name in (GUITAR, STREET, COUNTING, FISH, RIDDLE, BAD_SUM)}
    members = {f"{FOLDER}/": b""} | {f"{FOLDER}/{_escaped(name)}": data for name, data in pictures.items()}
    sound, at = pictures[BAD_SUM], len(pictures[BAD_SUM]) - _SWAPPED
    broken = sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]
    write(root / "image_191-task_1k.zip", zipped(members).replace(sound, broken))
    write_json(root / "annotation_191-task_1k.json", _rows())
    write_json(root / "metadata.json", {"tasks": 191})
    write(root / "README.md", "# Vision-Flan\n")


def flan_picture(name: str) -> bytes:
    """The picture of that name."""
    return Picture.named(f"flan {name}", 64, 96).encode("PNG" if name.endswith(".png") else "JPEG")


def _escaped(name: str) -> str:
    """A name as the zip has it: the four digits of each half of what UTF-16 needs for a letter."""

    def units(letter: str) -> list[str]:
        data = letter.encode("utf-16-be")
        return [f"#U{data[at : at + 2].hex()}" for at in range(0, len(data), 2)]

    return "".join(letter if letter.isascii() else "".join(units(letter)) for letter in name)


def _rows() -> list[Row]:
    """Rows of three tasks; ids repeat, one answer is empty, one picture is damaged and one in no zip."""
    long = "You are shown a picture. Count what is asked for, and say a number alone. "
    return [
        _row("VQA_counting_42", COUNTING, f"{long}How many cups are there?\n<image>", "2"),
        _row("VQA_counting_42", COUNTING, f"{long}<image> How many spoons are there?", "3"),
        _row("PACS_1", GUITAR, "<image>\nWhat is drawn?", "A guitar", "In which style?", "A sketch"),
        _row("PACS_2", GUITAR, "<image>\nWhat is drawn?", ""),
        _row("Caltech101_1", FISH, "What swims here?\n<image>", "A goldfish (金鱼)"),
        _row("PACS_3", BAD_SUM, "<image>\nWhat is drawn?", "A house"),
        _row("PACS_4", "PACS+nothing_4.png", "<image>\nWhat is drawn?", "Nobody knows"),
        _row("VQA_E_1", STREET, f"{long}<image>\nHow many wheels?\n<image>", "4"),
    ]


def _row(key: str, name: str, *values: str) -> Row:
    return dialogue(key, name, *values) | {"task_name": key.rpartition("_")[0]}
