"""Echo-4o-Image's three packs through the whole line: references that say more than the tars, and repeat in them."""

from __future__ import annotations

import io

import pytest
from lines import Finished, finish
from PIL import Image

from prep.publishers import World
from prep.publishers.pictures import Picture

FANTASY, INSTRUCTION, MULTI = "echo-4o-fantasy", "echo-4o-instruction", "echo-4o-multi-reference"
PACKS = {FANTASY: "Surrel-Fantasy-Image", INSTRUCTION: "Instruction-Following-Image"}
LISTS = "Multi-Reference-Image/multi-ic"


@pytest.fixture(scope="module")
def line(running_world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    entries = [{"table": table} for table in (FANTASY, INSTRUCTION, MULTI)]
    return finish(tmp_path_factory.mktemp("echo"), entries, running_world)


def picture(seed: str) -> Image.Image:
    kind = {"jpg": "JPEG", "png": "PNG"}[seed.rpartition(".")[2]]
    return Image.open(io.BytesIO(Picture.named(f"echo-4o {seed}", 96, 64).encode(kind))).convert("RGB")


def check_texts(line: Finished, table: str, expected: list[tuple[str, str, str]]) -> None:
    """Rows and samples of (instruction, tar, member)."""
    pack = PACKS[table]
    assert line.rows(table) == [
        {
            "s3_path": f"{table}/{pack}/images/{tar}/{member.removeprefix('./')}",
            "caption": text,
            "intHeight": 64,
            "intWidth": 96,
        }
        for text, tar, member in expected
    ]
    assert line.samples(table) == [
        {"images": [picture(f"{pack} {member}")], "text": [text], "scores": ""} for text, _, member in expected
    ]


def test_fantasy_keeps_what_its_lines_and_tars_give(line: Finished) -> None:
    expected = [
        ("A whale swims through a library.", "0-5000", "00000.jpg"),
        ("雪地里的火山", "0-5000", "00001.jpg"),
        ("A picture whose name has another extension.", "0-5000", "00002.png"),
        ("A clock that melts.", "5000-10000", "05000.jpg"),
    ]
    check_texts(line, FANTASY, expected)
    assert line.dropped(FANTASY) == {
        "Surrel-Fantasy-Image/conflict.jsonl#3": "bad_json",
        "Surrel-Fantasy-Image/conflict.jsonl#4": "image_ambiguous",
        "Surrel-Fantasy-Image/conflict.jsonl#6": "image_missing",
    }


def test_instruction_has_other_pictures_under_the_same_names(line: Finished) -> None:
    expected = [
        ("Three red cubes and a green ball.", "0-5000", "images/00000.jpg"),
        ("Two cups, the left one broken.", "0-5000", "images/00001.jpg"),
        ("A dog above a bench.", "5000-10000", "./05000.jpg"),
    ]
    check_texts(line, INSTRUCTION, expected)
    assert line.dropped(INSTRUCTION) == {
        "Instruction-Following-Image/Instruction-Following-Image.jsonl#3": "no_caption",
        "Instruction-Following-Image/Instruction-Following-Image.jsonl#4": "no_image",
    }


def test_several_references_make_one_picture(line: Finished) -> None:
    expected = [
        (
            "The woman drinks from the cup on the beach.",
            ["human/woman/0001.jpg", "object/cup/0001.jpg", "sence/beach/0001.jpg"],
            "hum_obj_sce/woman/0001.jpg",
        ),
        ("The man walks along the beach.", ["human/man/0001.jpg", "sence/beach/0002.jpg"], "hum_sce/man/0001.jpg"),
        ("The man sits on the beach.", ["human/man/0002.jpg", "sence/beach/0001.jpg"], "hum_sce/man/0002.png"),
    ]
    root = f"{MULTI}/Multi-Reference-Image/multi_refer_images"
    assert line.rows(MULTI) == [
        {
            "input_paths": [f"{root}_input/{name}" for name in inputs],
            "output_paths": f"{root}_output/{output}",
            "instruction": text,
        }
        for text, inputs, output in expected
    ]
    assert line.samples(MULTI) == [
        {"images": [*map(reference, inputs), result(output)], "text": [text], "scores": ""}
        for text, inputs, output in expected
    ]
    assert line.dropped(MULTI) == {
        f"{LISTS}/hum_sce.jsonl#2": "image_missing",
        f"{LISTS}/hum_sce.jsonl#3": "where",
        f"{LISTS}/hum_obj_sce.jsonl#1": "image_missing",
        f"{LISTS}/hum_obj_sce.jsonl#2": "no_image",
    }


def reference(name: str) -> Image.Image:
    return picture(f"multi_refer_images_input/{name.rpartition('/')[0]} {name.rpartition('/')[2]}")


def result(name: str) -> Image.Image:
    return picture(f"multi_refer_images_output/{name.rpartition('/')[0]} {name.rpartition('/')[2]}")


def test_how_the_trainer_reads_them(line: Finished) -> None:
    assert [(entry["preprocess_fn"], entry["columns"]) for entry in line.entries()] == [
        ("preproces_text_to_image_generation_s3", ["s3_path", "caption"]),
        ("preproces_text_to_image_generation_s3", ["s3_path", "caption"]),
        ("process_gpt_edit", ["input_paths", "output_paths", "instruction"]),
    ]
