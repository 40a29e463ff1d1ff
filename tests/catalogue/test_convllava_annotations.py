"""ConvLLaVA's lists of dialogues through the whole line, their pictures those of other publishers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lines import Finished, finish
from PIL import Image

from prep.config import Catalogue, Recipe, load
from prep.publishers import World
from prep.publishers.allava import PICTURES, allava_picture
from prep.publishers.llava import MIX
from prep.publishers.sharegpt4v import VARIANT
from prep.publishers.vision_flan import COUNTING, FISH, GUITAR, RIDDLE, STREET, flan_picture
from prep.trainers.convllava import STAGES
from worlds import make_workspace, prep

Row = dict[str, Any]
LAION, VFLAN, PT, CAP100K = (
    *("allava_laion/ALLaVA-Caption-LAION-4V.json", "allava_vflan/ALLaVA-Caption-VFLAN-4V.json"),
    *("share-captioner_coco_lcs_sam_1246k_1107.json", "sharegpt4v_instruct_gpt4-vision_cap100k.json"),
)
OTHER_TABLES = (
    *("allava-laion-instruct", "allava-vflan-instruct", "allava-text"),
    *("lcs-558k", "vision-flan", "llava-mix665k"),
)
FLAN, COCO = "vision-flan/image_191-task_1k/images_191task_1k", "coco-train2017/train2017/train2017"
NINE, OCR = f"{COCO}/000000000009.jpg", "ocr-vqa/ocr_vqa_images_llava_v15/images"
LONG = "You are shown a picture. Count what is asked for, and say a number alone."


def stage(number: int) -> Recipe:
    return load(Recipe, Catalogue().recipe_path(f"convllava-s{number}"))


@pytest.fixture(scope="module")
def line(running_world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    entries = [{"table": entry.table, "where": entry.where} for entry in stage(1).entries]
    entries += [{"table": table} for table in OTHER_TABLES]
    return finish(tmp_path_factory.mktemp("convllava"), entries, running_world)


def dialogue(image: str | None, *values: str) -> Row:
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"image": image, "conversations": turns}


def kept(line: Finished, table: str) -> list[Row]:
    return [row | {"conversations": json.loads(row["conversations"])} for row in line.rows(table)]


def text_alone(line: Finished, table: str) -> list[Row]:
    return [row | {"conversations": json.loads(row["conversations"])} for row in line.text_rows(table)]


def ids(line: Finished, table: str) -> list[str]:
    return pd.read_parquet(line.root / f"normalized/{table}.parquet")["id"].to_list()


def allava(number: int) -> str:
    return f"allava/allava_laion/image_chunks/images_{number}/images/{PICTURES[number]}"


def test_allava_about_pictures_of_laion(line: Finished) -> None:
    assert kept(line, "allava-laion-caption") == [
        dialogue(allava(0), "<image>\nPlease depict the image in words.", "A ring lies on grey cloth."),
        dialogue(allava(1), "<image>\nWrite a detailed description.", "Two shapes – 两个图形 – side by side."),
        dialogue(allava(2), "<image>\nWhat do you see?", "A soft background."),
        dialogue(allava(0), "<image>\nOnce more, please.", "The same ring."),
        dialogue(allava(9), "<image>\nWhat do you see?", "The last chunk."),
    ]
    assert line.text_rows("allava-laion-caption") == []
    assert line.dropped("allava-laion-caption") == {f"{LAION}#4": "image_missing", f"{LAION}#5": "image_missing"}
    assert kept(line, "allava-laion-instruct") == [
        dialogue(allava(0), "<image>\nHow might the ring be worn?", "On any finger."),
        dialogue(allava(5), "<image>\nWhy is it blurred?", "It moved."),
    ]
    assert line.dropped("allava-laion-instruct") == {}
    assert [Path(allava(number)).suffix for number in range(3)] == [".jpeg", ".png", ".webp"]
    assert [(line.root / "images" / allava(number)).read_bytes() for number in range(10)] == [
        allava_picture(name) for name in PICTURES
    ]


def test_allava_about_pictures_of_vision_flan(line: Finished) -> None:
    assert kept(line, "allava-vflan-caption") == [
        dialogue(f"{FLAN}/{GUITAR}", "<image>\nDescribe it.", "A drawing of a guitar."),
        dialogue(f"{FLAN}/{RIDDLE}", "<image>\nDescribe it.", "A riddle in a frame."),
        dialogue(f"{FLAN}/{FISH}", "<image>\nDescribe it.", "A goldfish."),
    ]
    assert line.dropped("allava-vflan-caption") == {f"{VFLAN}#3": "image_missing"}
    assert kept(line, "allava-vflan-instruct") == [
        dialogue(f"{FLAN}/{STREET}", "<image>\nWhere was it taken?", "In a street."),
        dialogue(f"{FLAN}/{STREET}", "<image>\nIs it day?", "Yes."),
    ]
    assert line.dropped("allava-vflan-instruct") == {}


def test_allava_without_pictures(line: Finished) -> None:
    assert kept(line, "allava-text") == []
    assert text_alone(line, "allava-text") == [
        dialogue(None, "Name a prime.", "7"),
        dialogue(None, "And an even one?", "2"),
    ]
    assert ids(line, "allava-text") == ["heR0vZB", "aB3xY9q"]


def test_vision_flan(line: Finished) -> None:
    assert kept(line, "vision-flan") == [
        dialogue(f"{FLAN}/{COUNTING}", f"<image>\n{LONG} How many cups are there?", "2"),
        dialogue(f"{FLAN}/{COUNTING}", f"<image>\n{LONG}  How many spoons are there?", "3"),
        dialogue(f"{FLAN}/{GUITAR}", "<image>\nWhat is drawn?", "A guitar", "In which style?", "A sketch"),
        dialogue(f"{FLAN}/{FISH}", "<image>\nWhat swims here?", "A goldfish (金鱼)"),
        dialogue(f"{FLAN}/{STREET}", f"<image>\n{LONG} \nHow many wheels?", "4"),
    ]
    assert line.dropped("vision-flan") == {
        "annotation_191-task_1k.json#3": "empty_turn",
        "annotation_191-task_1k.json#5": "image_damaged",
        "annotation_191-task_1k.json#6": "image_missing",
    }
    assert ids(line, "vision-flan")[:2] == ["VQA_counting_42", "VQA_counting_42"]
    pictures = {name: (line.root / "images" / FLAN / name).read_bytes() for name in (GUITAR, FISH, COUNTING, STREET)}
    assert pictures == {name: flan_picture(name) for name in pictures}


def test_lcs(line: Finished) -> None:
    assert kept(line, "lcs-558k") == [
        dialogue(
            "lcs-558k/images/00453/004539375.jpg",
            "<image>\nRender a clear summary of the photo.",
            "a mattress with a soft topper",
        ),
        dialogue("lcs-558k/images/00453/004539376.jpg", "<image>\nWhat is this?", "two shapes – zwei Formen"),
        dialogue("lcs-558k/images/00000/000000010.jpg", "<image>\nSay it briefly.", "a circle"),
    ]
    assert line.dropped("lcs-558k") == {
        "blip_laion_cc_sbu_558k.json#3": "image_truncated",
        "blip_laion_cc_sbu_558k.json#4": "image_missing",
    }
    assert ids(line, "lcs-558k") == ["004539375", "004539376", "000000010", "000000012", "000000011"]


def test_sharegpt4v(line: Finished) -> None:
    ask = "<image>\nWhat is this photo about?"
    assert kept(line, "sharegpt4v-pt") == [
        dialogue(NINE, ask, "Two shapes stand before a soft background."),
        dialogue("lcs-558k/images/00453/004539375.jpg", ask, "A mattress in a bright room – sehr weich."),
        dialogue("sa-1b/sa_000000/sa_1.jpg", ask, "A street in the evening."),
        dialogue("sa-1b/sa_000001/sa_5.jpg", ask, "A market."),
    ]
    assert line.text_rows("sharegpt4v-pt") == []
    assert line.dropped("sharegpt4v-pt") == {
        f"{PT}#4": "image_truncated",
        f"{PT}#5": "image_missing",
        f"{PT}#6": "where",  # two questions
        f"{PT}#7": "where",  # no picture
    }
    pictures = {
        1: f"{COCO}/000000000001.jpg",
        2: "lcs-558k/images/00453/004539376.jpg",
        3: "sa-1b/sa_000002/sa_9.jpg",
        4: "share-textvqa/share_textvqa/data/share_textvqa/images/s1.jpg",
        6: "web-celebrity/web-celebrity/data/web-celebrity/images/a b.jpg",
        7: "web-landmark/web-landmark/data/web-landmark/images/l1.jpg",
        8: "wikiart/wikiart/data/wikiart/images/w1.jpg",
    }
    assert kept(line, "sharegpt4v-cap100k") == [
        dialogue(image, "<image>\nDescribe this picture in detail.", f"Number {number} of eight.")
        for number, image in pictures.items()
    ]
    assert line.dropped("sharegpt4v-cap100k") == {f"{CAP100K}#4": "image_missing"}  # Choi_Min-sik.jpg


def test_llava_mix(line: Finished) -> None:
    ask = ("<image>\nWhat is there?", "A circle.")
    ocr = (f"{name}.jpg" for name in ("761183272", "0123456789", "014028329X", "1565928555.png", "B000234N7K.GIF"))
    rows, texts = kept(line, "llava-mix665k"), text_alone(line, "llava-mix665k")
    assert len(rows) == 51 and len(texts) == 6  # tests/test_convllava_line.py counts them by source
    assert rows[:21] == [
        dialogue(NINE, *ask, "Which colour?", "Red.", "And beside it?", "A square."),
        dialogue(NINE, "<image>\nWhat is on the right?", "A square."),
        dialogue("gqa/images/images/2375429.jpg", "<image>\nIs it round?\nAnswer with one word.", "No"),
        dialogue("gqa/images/images/n1234567.jpg", "<image>\nIs it red?", "Yes"),
        *(dialogue(f"{OCR}/{name}", "<image>\nWho wrote it?", "I. Writer") for name in ocr),
        dialogue("textvqa/train_val_images/train_images/0a1b2c3d4e5f6071.jpg", "<image>\nWhat is written?", "stop"),
        dialogue("visual-genome/images/VG_100K/2.jpg", "<image>\nWhere is it?", "[0.1, 0.2, 0.3, 0.4]"),
        dialogue("visual-genome/images2/VG_100K_2/51.jpg", "<image>\nWhere is it?", "[0.5, 0.5, 0.9, 0.9]"),
        dialogue(NINE, *ask),  # from a list of one
        dialogue(NINE, *ask, "And now?", "A square."),  # from a token in each turn
        dialogue(NINE, *ask),  # from two tokens
        dialogue(NINE, *ask),  # <image> added
        dialogue(NINE, "<image>\nWhat is there?", "USER: A circle? ASSISTANT: Yes.</s>"),
        dialogue(NINE, *ask),  # without what gpt said before
        dialogue(NINE, *ask),  # without the question at its end
        dialogue(NINE, *ask),  # roles renamed
        dialogue(NINE, *ask),  # without the system's turn
    ]
    assert texts[:4] == [
        dialogue(None, "Sag etwas – 说点什么.", "Grüße, 你好."),
        *[dialogue(None, "What is 2 + 2?", "4")] * 3,  # image: null, [] and ""
    ]
    assert line.dropped("llava-mix665k") == {
        f"{MIX}#{row}": reason
        for row, reason in {
            13: "image_empty",
            14: "image_truncated",
            15: "image_missing",
            16: "image_missing",  # in val2017
            17: "image_truncated",
            18: "image_missing",
            19: "image_tokens",  # image: null
            21: "image_tokens",  # image: []
            23: "image_tokens",  # image: ""
            26: "several_images",
            27: "image_outside",  # an absolute path
            28: "image_outside",  # ..
            32: "image_tokens",  # text alone
            34: "few_turns",
            35: "bad_conversation",
            36: "empty_turn",
            38: "turn_order",
        }.items()
    }
    assert ids(line, "llava-mix665k")[:2] == ["000000000009", "000000000009"]


def test_every_picture_of_a_kept_row_opens(line: Finished) -> None:
    tables = [*(entry.table for entry in stage(1).entries), *OTHER_TABLES]
    for path in {line.root / "images" / row["image"] for table in tables for row in line.rows(table)}:
        with Image.open(path) as image:
            image.load()


def test_nothing_is_fetched_that_nothing_needs(line: Finished) -> None:
    def parts(dataset: str) -> list[str]:
        folder = line.root / "raw" / dataset
        found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(("_", ".")))
        return sorted(str(path.relative_to(folder)) for path in found)

    assert {name: parts(name) for name in ("allava", "allava-text", "llava-mix665k", "sharegpt4v")} == {
        "allava": [
            LAION,
            LAION.replace("Caption", "Instruct"),
            *(f"allava_laion/image_chunks/images_{number}.zip" for number in range(10)),
            VFLAN,
            VFLAN.replace("Caption", "Instruct"),
        ],
        "allava-text": ["allava_text/Evol-Instruct-GPT4-Turbo-143K.json"],
        "llava-mix665k": [MIX],
        "sharegpt4v": [PT, CAP100K],
    }
    assert parts("lcs-558k") == ["blip_laion_cc_sbu_558k.json", "images.zip"]
    assert parts("vision-flan") == ["annotation_191-task_1k.json", "image_191-task_1k.zip"]
    assert parts("coco-train2017") == ["train2017.zip"]


def test_another_mix_is_not_taken_for_llavas(running_world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(running_world.folder / "hub/Lin-Chen/ShareGPT4V" / VARIANT, tmp_path / "mine")
    sources = running_world.sources | {"llava-mix665k": {"kind": "local", "path": str(tmp_path / "mine")}}
    recipe = {"name": "variant", "entries": [{"table": "llava-mix665k"}]}
    root = make_workspace(tmp_path / "workspace", recipe, running_world, sources=sources)
    assert prep(root, "download", "llava-mix665k", world=running_world).returncode == 0
    done = prep(root, "normalize", "llava-mix665k", world=running_world)
    assert done.returncode == 1
    assert f"the first part is '{VARIANT}'" in done.stderr, done.stderr


@pytest.mark.parametrize("number", [1, 2, 3])
def test_recipes_name_what_fits_each_stage(number: int) -> None:
    recipe = stage(number)
    assert recipe.trainer == "convllava"
    assert [entry.label for entry in recipe.entries] == list(STAGES[number])
