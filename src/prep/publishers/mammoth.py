"""MAmmoTH-VL: two JSON arrays of dialogues, and tars of the pictures (and videos) they name by their members' paths.

A record without a picture has no `image`; in the second array `image` may be a list, or there is a `video` instead. Ids
are text or whole numbers, and repeat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prep.publishers.packs import tar_gz, write, write_json
from prep.publishers.pictures import Picture, truncate

REPO = "MAmmoTH-VL/MAmmoTH-VL-Instruct-12M"
Row = dict[str, Any]

# Member -> size, one mapping for each tar; their numbers start from 1.
SINGLE_PICTURES = (
    {
        "LLaVA-OneVision-Data/geo170k/0001.png": (96, 64),
        "Cambrian-10M/coco/train2017/000000000007.jpg": (128, 96),
        "Cambrian-10M/coco/train2017/000000000008.jpg": (96, 96),
    },
    {
        "LLaVA-OneVision-Data/chart qa+/图 2.jpg": (64, 96),
        "tinychart_train/0003.png": (96, 64),
        "tinychart_train/broken.jpg": (96, 64),
    },
)
MULTI_PICTURES = (
    {"M4-Instruct-Data/HQ-Edit/images/83425.jpg": (96, 64), "M4-Instruct-Data/HQ-Edit/images/83426.jpg": (64, 96)},
    {"LLaVA-NeXT-Data/000000000009.jpg": (96, 96)},
)


def write_mammoth(hub: Path) -> None:
    """Write the repository."""
    root = hub / REPO
    for folder, tars in (("single_image_data", SINGLE_PICTURES), ("multi_image_data", MULTI_PICTURES)):
        for number, sizes in enumerate(tars, 1):
            members = {name: _picture(name, size) for name, size in sizes.items()}
            write(root / folder / f"shard_{number}.tar.gz", tar_gz(members))
    write(root / "video_data/shard_1.tar.gz", tar_gz({"LLaVA-Video-178K/1.mp4": b"\0\0\0\x18ftypmp42"}))
    write_json(root / "mammoth_si_10M.json", _single_rows())
    write_json(root / "mammoth_ov_2M.json", _other_rows())
    write(root / "README.md", "# MAmmoTH-VL-Instruct-12M\n")


def _picture(name: str, size: tuple[int, int]) -> bytes:
    data = Picture.named(f"mammoth {name}", *size).encode("PNG" if name.endswith(".png") else "JPEG")
    return truncate(data) if "broken" in name else data


def _single_rows() -> list[Row]:
    """Records of one picture or none; nothing.jpg is in no tar."""
    geometry, chart = "LLaVA-OneVision-Data/geo170k/0001.png", "LLaVA-OneVision-Data/chart qa+/图 2.jpg"
    seven, eight = (f"Cambrian-10M/coco/train2017/00000000000{n}.jpg" for n in (7, 8))
    tiny = "tinychart_train/0003.png"
    first_from_gpt = _row("late", tiny, "<image>\nWhich bar is the longest?", "The red one.")
    first_from_gpt["conversations"].insert(0, {"from": "gpt", "value": "Ask me something."})
    return [
        _row("geo_000123", geometry, "<image>\nFind x.", "Step 1 is to add. So x = 5.", source="geo170k"),
        _row(7, seven, "<image>\nWhat is there?", "A circle.", "Which colour?", "Red.", source="coco"),
        _row(7, eight, "What is on the right?\n<image>", "A square.", source="coco"),
        _row("text_1", None, "What is 2 + 2?", "4", source="orca"),
        _row("no_token", chart, "图里有什么？", "一个“圆形” 🔴\nand a second line", source="chartqa"),
        _row("empty", tiny, "<image>\nWhat is the title?", ""),
        _row("missing", "tinychart_train/nothing.jpg", "<image>\nWhat is there?", "Nobody knows."),
        _row("broken", "tinychart_train/broken.jpg", "<image>\nWhat is there?", "Half a picture."),
        _row("text_with_token", None, "<image>\nWhat is there?", "Nothing."),
        first_from_gpt,
        _row("dangling", tiny, "<image>\nHow many bars?", "Three.", "And how many lines?"),
        _row("two_tokens", tiny, "<image>\n<image>\nHow many bars?", "Three."),
        _row("list", [geometry, tiny], "Compare them.", "They differ."),
        _row("list_of_one", [geometry], "Find y in <image>.", "y = 6"),
        _row("text_2", None, "Say hello.", "Hello.", "Again.", "Hello again.", source="orca"),
    ]


def _other_rows() -> list[Row]:
    """Records of several pictures, of one, of none and of a video."""
    before, after = (f"M4-Instruct-Data/HQ-Edit/images/8342{n}.jpg" for n in (5, 6))
    other = "LLaVA-NeXT-Data/000000000009.jpg"
    film = _row("film", None, "<video>\nWhat happens?", "A square moves.", source="video")
    return [
        _row("hq_1", [before, after], "<image>\n<image>\nWhat was changed?", "The colour.", source="HQ-Edit"),
        _row(12, other, "<image>\nWhat is there?", "A circle."),
        _row(12, [before], "What is there? <image>", "A square."),
        _row("text", None, "What is 3 + 3?", "6"),
        film | {"video": "LLaVA-Video-178K/1.mp4"},
        _row("no_tokens", [before, after], "What was changed?", "The size."),
        _row("two_of_three", [before, after, other], "<image> or <image>?", "The first."),
        _row("missing", [before, "M4-Instruct-Data/HQ-Edit/images/1.jpg"], "<image><image>\nWhich?", "The first."),
        _row("by_turns", [before, other], "<image>\nWhat is there?", "A circle.", "And in <image> ?", "A square."),
        _row("empty", [before], "<image>\n", " "),
        _row("no_list", [], "Say hello.", "Hello."),
    ]


def _row(key: str | int, image: str | list[str] | None, *values: str, **more: str) -> Row:
    """A dialogue that a human begins; without an image it lacks the key."""
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"id": key, **({} if image is None else {"image": image}), "conversations": turns, **more}
