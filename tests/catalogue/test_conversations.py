"""MAmmoTH-VL and VisualWebInstruct through the whole line."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lines import Finished, finish
from PIL import Image

from prep.publishers import World
from prep.publishers.pictures import Picture
from worlds import make_workspace, prep_json

Row = dict[str, Any]
SINGLE, MULTI, WEB = "mammoth-vl/single_image_data", "mammoth-vl-ov/multi_image_data", "visual-web-instruct/images"
GEOMETRY = f"{SINGLE}/shard_1/LLaVA-OneVision-Data/geo170k/0001.png"
SEVEN, EIGHT = (f"{SINGLE}/shard_1/Cambrian-10M/coco/train2017/00000000000{n}.jpg" for n in (7, 8))
CHART, TINY = f"{SINGLE}/shard_2/LLaVA-OneVision-Data/chart qa+/图 2.jpg", f"{SINGLE}/shard_2/tinychart_train/0003.png"
BEFORE, AFTER = (f"{MULTI}/shard_1/M4-Instruct-Data/HQ-Edit/images/8342{n}.jpg" for n in (5, 6))
OTHER = f"{MULTI}/shard_2/LLaVA-NeXT-Data/000000000009.jpg"
FIRST, SECOND = f"{WEB}/visualwebinstruct/0b1c.png", f"{WEB}/visualwebinstruct/4f2e.png"
ANGLE, GENOME = f"{WEB}/geoqa+/images/12.png", f"{WEB}/vg/VG_100K/2.jpg"
SIZES = {GEOMETRY: (96, 64), SEVEN: (128, 96), EIGHT: (96, 96), CHART: (64, 96), TINY: (96, 64)}
SIZES |= {BEFORE: (96, 64), AFTER: (64, 96), OTHER: (96, 96)}
SIZES |= {FIRST: (96, 64), SECOND: (64, 96), ANGLE: (96, 96), GENOME: (128, 96)}
HALF, ABOVE = (" ".join(f"word{n}" for n in range(count)) for count in (150, 151))


@pytest.fixture(scope="module")
def line(running_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    entries = [
        {"table": "mammoth-si", "group": "und"},
        {"table": "mammoth-ov"},
        {"table": "visual-web-instruct", "name": "vw", "group": "und_vw"},
    ]
    yield finish(tmp_path_factory.mktemp("conversations"), entries, running_world)


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


def mammoth(image: str | None, *values: str) -> Row:
    return {"image": image, "conversations": turns(*values)}


def parsed(rows: list[Row]) -> list[Row]:
    """Rows with their turns read; how their text is laid out is the publisher's."""
    return [row | {"conversations": json.loads(row["conversations"])} for row in rows]


def several(images: list[str] | None, *values: str) -> Row:
    return {"image": images, "conversations": turns(*values)}


def sample(images: list[str], question: str, answer: str) -> Row:
    return {"images": [pixels(path) for path in images], "text": [f"human: {question}\ngpt: {answer}"], "scores": ""}


def pixels(path: str) -> tuple[tuple[int, int], bytes]:
    """Size and RGB bytes of a publisher's picture, named by where it is stored."""
    dataset, _, rest = path.partition("/")
    name = f"vwi {rest.partition('/')[2]}" if dataset.startswith("visual") else f"mammoth {rest.split('/', 2)[2]}"
    data = Picture.named(name, *SIZES[path]).encode("PNG" if path.endswith(".png") else "JPEG")
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return image.size, image.tobytes()


def built(line: Finished, table: str) -> list[Row]:
    samples = line.samples(table)
    return [{**row, "images": [(image.size, image.tobytes()) for image in row["images"]]} for row in samples]


def parts(line: Finished, dataset: str) -> list[str]:
    folder = line.root / "raw" / dataset
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not path.name.startswith(("_", ".")))


def test_entries(line: Finished) -> None:
    folder = line.root / "filtered"

    def entry(name: str, table: str, function: str, **more: str) -> Row:
        return {
            "name": name,
            "json_path": str(folder / f"{table}.parquet"),
            "columns": ["image", "conversations"],
            "preprocess_fn": function,
            "process_fn_kwargs": {"s3_prefix": "/"},
            "sampling_strategy": "all",
            **more,
        }

    si, vw = "preproces_und_mammoth_si_10M", "preproces_vw_instruct"
    assert line.entries() == [
        entry("mammoth-si", "mammoth-si", si, length_group="und"),
        entry("mammoth-si-text", "mammoth-si-text", si, length_group="und"),
        entry("mammoth-ov", "mammoth-ov", vw),
        entry("mammoth-ov-text", "mammoth-ov-text", vw),
        entry("vw", "visual-web-instruct", vw, length_group="und_vw"),
        entry("vw-text", "visual-web-instruct-text", vw, length_group="und_vw"),
    ]


def test_mammoth_of_one_picture(line: Finished) -> None:
    assert parsed(line.rows("mammoth-si")) == [
        mammoth(GEOMETRY, "<image>\nFind x.", "Step 1 is to add. So x = 5."),
        mammoth(SEVEN, "<image>\nWhat is there?", "A circle.", "Which colour?", "Red."),
        mammoth(EIGHT, "<image>\nWhat is on the right?", "A square."),
        mammoth(CHART, "<image>\n图里有什么？", "一个“圆形” 🔴\nand a second line"),
        mammoth(TINY, "<image>\nWhich bar is the longest?", "The red one."),
        mammoth(TINY, "<image>\nHow many bars?", "Three."),
        mammoth(TINY, "<image>\nHow many bars?", "Three."),  # from two tokens
        mammoth(GEOMETRY, "<image>\nFind y in .", "y = 6"),
    ]
    assert parsed(line.text_rows("mammoth-si")) == [
        mammoth(None, "What is 2 + 2?", "4"),
        mammoth(None, "Say hello.", "Hello.", "Again.", "Hello again."),
    ]
    assert line.dropped("mammoth-si") == {
        "mammoth_si_10M.json#5": "empty_turn",
        "mammoth_si_10M.json#6": "image_missing",
        "mammoth_si_10M.json#7": "image_truncated",
        "mammoth_si_10M.json#8": "image_tokens",
        "mammoth_si_10M.json#12": "several_images",
    }
    assert built(line, "mammoth-si") == [
        sample([GEOMETRY], "<image>\nFind x.", "Step 1 is to add. So x = 5."),
        sample([SEVEN], "<image>\nWhat is there?", "A circle."),
        sample([EIGHT], "<image>\nWhat is on the right?", "A square."),
        sample([CHART], "<image>\n图里有什么？", "一个“圆形” 🔴\nand a second line"),
        sample([TINY], "<image>\nWhich bar is the longest?", "The red one."),
        sample([TINY], "<image>\nHow many bars?", "Three."),
        sample([TINY], "<image>\nHow many bars?", "Three."),
        sample([GEOMETRY], "<image>\nFind y in .", "y = 6"),
        sample([], "What is 2 + 2?", "4"),
        sample([], "Say hello.", "Hello."),
    ]


def test_mammoth_of_several_pictures(line: Finished) -> None:
    assert line.rows("mammoth-ov") == [
        several([BEFORE, AFTER], "<image>\n<image>\nWhat was changed?", "The colour."),
        several([OTHER], "<image>\nWhat is there?", "A circle."),
        several([BEFORE], "<image>\nWhat is there?", "A square."),
        several([BEFORE, AFTER], "<image>\n<image>\nWhat was changed?", "The size."),
        several([BEFORE, OTHER], "<image>\nWhat is there?", "A circle.", "<image>\nAnd in  ?", "A square."),
    ]
    assert line.text_rows("mammoth-ov") == [several(None, "What is 3 + 3?", "6"), several(None, "Say hello.", "Hello.")]
    assert line.dropped("mammoth-ov") == {
        "mammoth_ov_2M.json#4": "video",
        "mammoth_ov_2M.json#6": "image_tokens",
        "mammoth_ov_2M.json#7": "image_missing",
        "mammoth_ov_2M.json#9": "empty_turn",
    }
    assert built(line, "mammoth-ov") == [
        sample([BEFORE, AFTER], "<image>\n<image>\nWhat was changed?", "The colour."),
        sample([OTHER], "<image>\nWhat is there?", "A circle."),
        sample([BEFORE], "<image>\nWhat is there?", "A square."),
        sample([BEFORE, AFTER], "<image>\n<image>\nWhat was changed?", "The size."),
        sample([BEFORE, OTHER], "<image>\nWhat is there?", "A circle."),
        sample([], "What is 3 + 3?", "6"),
        sample([], "Say hello.", "Hello."),
    ]


WEB_ROWS = [
    several([FIRST], "<image>\nWhat is the area?", "Half of base times height. Answer: 12"),
    several([SECOND], "<image>\nWas ist das?", "Ein Quadrat — größer als der Kreis."),
    several([ANGLE], "<image>\nFind the angle.", HALF),
    several([ANGLE], "<image>\nFind the angle again.", ABOVE),
    several([GENOME], "<image>\nWhat is there?", "A circle.", "And behind it?", "A square."),
]
WEB_TEXT_ROWS = [
    several(None, "What is the speed of light?", "About 300,000 km/s."),
    several(None, "Name a prime.", "7", "And another.", "11"),
]


def test_visual_web_instruct(line: Finished) -> None:
    assert line.rows("visual-web-instruct") == WEB_ROWS
    assert line.text_rows("visual-web-instruct") == WEB_TEXT_ROWS
    assert line.dropped("visual-web-instruct") == {
        "mixed_conversation.jsonl#3": "image_missing",
        "mixed_conversation.jsonl#4": "image_empty",
        "mixed_conversation.jsonl#7": "several_images",
        "mixed_conversation.jsonl#8": "empty_turn",
        "mixed_conversation.jsonl#9": "image_tokens",
    }
    assert built(line, "visual-web-instruct") == [
        sample([FIRST], "<image>\nWhat is the area?", "Half of base times height. Answer: 12"),
        sample([SECOND], "<image>\nWas ist das?", "Ein Quadrat — größer als der Kreis."),
        sample([ANGLE], "<image>\nFind the angle.", HALF),
        sample([ANGLE], "<image>\nFind the angle again.", ABOVE),
        sample([GENOME], "<image>\nWhat is there?", "A circle."),
        sample([], "What is the speed of light?", "About 300,000 km/s."),
        sample([], "Name a prime.", "7"),
    ]


def test_nothing_is_fetched_that_nothing_needs(line: Finished) -> None:
    assert parts(line, "mammoth-vl") == [
        "mammoth_si_10M.json",
        *(f"single_image_data/shard_{n}.tar.gz" for n in (1, 2)),
    ]
    assert parts(line, "mammoth-vl-ov") == [
        "mammoth_ov_2M.json",
        *(f"multi_image_data/shard_{n}.tar.gz" for n in (1, 2)),
    ]
    assert parts(line, "visual-web-instruct") == ["images.zip", "mixed_conversation.jsonl"]


def test_an_older_name_of_the_dialogues(running_world: World, tmp_path: Path) -> None:
    published = running_world.folder / "hub/TIGER-Lab/VisualWebInstruct"
    older = tmp_path / "older"
    older.mkdir()
    shutil.copy(published / "images.zip", older)
    shutil.copy(published / "mixed_conversation.jsonl", older / "conversation_mixed.jsonl")
    for left in ("conversation_visualwebinstruct.jsonl", "qa_visualwebinstruct.jsonl"):
        (older / left).write_text("not read\n")
    recipe = {"name": "older", "entries": [{"table": "visual-web-instruct"}]}
    sources = {"visual-web-instruct": {"kind": "local", "path": str(older)}}
    root = make_workspace(tmp_path / "workspace", recipe, running_world, sources=sources)
    line = Finished(root, prep_json(root, "run", world=running_world))
    assert line.rows("visual-web-instruct") == WEB_ROWS
    assert line.text_rows("visual-web-instruct") == WEB_TEXT_ROWS
