"""Echo-4o-Image: three packs in one repository, JSON lines beside small tars whose member names repeat.

Records call an image `/Echo-4o-Image/<pack>/images/00000.jpg`; in the tars it is `00000.jpg`, `images/00000.jpg` or
`./00000.jpg`, and may have another extension. The folders are spelled as the publisher spells them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prep.publishers.packs import tar_gz, write, write_json
from prep.publishers.pictures import Picture

REPO = "Yejy53/Echo-4o-Image"
FANTASY, INSTRUCTION, MULTI = "Surrel-Fantasy-Image", "Instruction-Following-Image", "Multi-Reference-Image"
KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
Row = dict[str, Any]


def write_echo_4o(hub: Path) -> None:
    """Write the repository."""
    root = hub / REPO
    write(root / "README.md", "# Echo-4o-Image\n")
    _write_fantasy(root / FANTASY)
    _write_instruction(root / INSTRUCTION)
    _write_multi(root / MULTI)


def _write_fantasy(folder: Path) -> None:
    """Bare members; lines that are blank, broken or two on one line; 00002 is a PNG, 00003 is in both tars."""
    _write_tar(folder / "images/0-5000.tar.gz", FANTASY, ("00001.jpg", "00000.jpg", "00002.png", "00003.png"))
    _write_tar(folder / "images/5000-10000.tar.gz", FANTASY, ("05000.jpg", "05001.jpg", "00003.webp"))
    first, second, third, fourth, fifth, sixth = (
        json.dumps(_text_row(FANTASY, number, text), ensure_ascii=False)
        for number, text in (
            (0, "A whale swims through a library."),
            (1, "雪地里的火山"),
            (2, "A picture whose name has another extension."),
            (3, "A name that two pictures fit."),
            (5000, "A clock that melts."),
            (9999, "A row without its picture."),
        )
    )
    write(folder / "conflict.jsonl", "\n".join([first, "", second + third, second[:40], fourth, fifth, sixth, ""]))


def _write_instruction(folder: Path) -> None:
    """Members below `images/` in one tar and below `./` in the other; the numbers are those of the other pack."""
    _write_tar(folder / "images/0-5000.tar.gz", INSTRUCTION, ("images/00000.jpg", "images/00001.jpg"))
    _write_tar(folder / "images/5000-10000.tar.gz", INSTRUCTION, ("./05000.jpg", "./05001.jpg"))
    rows = [
        _text_row(INSTRUCTION, 0, "Three red cubes and a green ball.", "easy"),
        _text_row(INSTRUCTION, 1, "Two cups, the left one broken.", "hard"),
        _text_row(INSTRUCTION, 5000, "A dog above a bench.", "easy"),
        _text_row(INSTRUCTION, 5001, "", "easy"),
        {"task_type": "t2i", "instruction": "A row without an image and a type."},
    ]
    write(folder / f"{INSTRUCTION}.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))


def _write_multi(folder: Path) -> None:
    """Members bare, so that their names repeat from category to category; one file is a list, one has lines.

    Output hum_sce/man/0009 is missing, and human/man/0009 an input; output hum_sce/man/0008 is nowhere.
    """
    for place in ("human/man", "human/woman", "object/cup", "sence/beach"):
        path = f"multi_refer_images_input/{place}"
        _write_tar(folder / f"{path}.tar.gz", path, ("0001.jpg", "0002.jpg", *(["0009.jpg"] if "/man" in path else [])))
    for place in ("hum_sce/man", "hum_obj/man", "hum_obj_sce/woman"):
        path = f"multi_refer_images_output/{place}"
        _write_tar(folder / f"{path}.tar.gz", path, ("0001.jpg", "0002.png"))
    two_people = [
        _multi_row("hum_sce/man/0001.jpg", "The man walks along the beach.", "human/man/0001", "sence/beach/0002"),
        _multi_row("hum_sce/man/0002.jpg", "The man sits on the beach.", "human/man/0002", "sence/beach/0001"),
        _multi_row("hum_sce/man/0008.jpg", "A row without its output.", "human/man/0001", "sence/beach/0001"),
        _multi_row("hum_sce/man/0009.jpg", "An output with a namesake.", "human/man/0009", "sence/beach/0001"),
    ]
    things = [
        _multi_row(
            "hum_obj_sce/woman/0001.jpg",
            "The woman drinks from the cup on the beach.",
            *("human/woman/0001", "object/cup/0001", "sence/beach/0001"),
        ),
        _multi_row(
            "hum_obj/man/0001.jpg", "A row one of whose inputs is missing.", "human/man/0001", "object/cup/0404"
        ),
        _multi_row("hum_obj/man/0002.jpg", "A row without inputs."),
    ]
    write(folder / "multi-ic/hum_sce.jsonl", "".join(f"{json.dumps(row)}\n" for row in two_people))
    write_json(folder / "multi-ic/hum_obj_sce.jsonl", things)


def _text_row(pack: str, number: int, instruction: str, type_: str = "T1") -> Row:
    image = f"/Echo-4o-Image/{pack}/images/{number:05}.jpg"
    return {"task_type": "t2i", "instruction": instruction, "output_image": image, "type": type_}


def _multi_row(output: str, instruction: str, *inputs: str) -> Row:
    root = f"/Echo-4o-Image/{MULTI}"
    return {
        "task_type": "multi-reference",
        "instruction": instruction,
        "input_images": [f"{root}/multi_refer_images_input/{name}.jpg" for name in inputs],
        "output_image": f"{root}/multi_refer_images_output/{output}",
    }


def _write_tar(path: Path, seed: str, names: tuple[str, ...]) -> None:
    """Small pictures in the formats that their names say, none like another's of the same name elsewhere."""
    write(path, tar_gz({name: _picture(f"{seed} {name}", name.rpartition(".")[2]) for name in names}))


def _picture(seed: str, suffix: str) -> bytes:
    return Picture.named(f"echo-4o {seed}", 96, 64).encode(KINDS[suffix])
