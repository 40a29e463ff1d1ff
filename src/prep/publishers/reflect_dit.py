"""Reflect-DiT: annotations in one repository, the pictures they name in another, a model whose id differs by case.

`object_self_correct_cleaned.csv` has good and bad pictures for each prompt, lists joined by `XXX`; `vllm.json` has
judgements in LLaVA's form. How paths in them begin is not documented, nor how the pictures are packed: here the tars
begin theirs in two ways and the annotations in three others.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from prep.publishers.packs import tar, write
from prep.publishers.pictures import Picture, truncate

ANNOTATIONS = "jacklishufan/reflect-DiT"
MODEL = "jacklishufan/reflect-dit"
PICTURES = "KonstantinosKK/reflect-dit-train-images"
CSV_PREFIX = "data/dit/gen_eval_sana_train/"
COLUMNS = ("prompt", "positive_filename", "negative_filename", "negative_reason", "tag")
SIDE = 128  # pixels; the real ones have 1024


def write_reflect_dit(hub: Path, models: Path) -> None:
    """Write the three repositories."""
    annotations = hub / ANNOTATIONS
    write(annotations / "dit/object_self_correct_cleaned.csv", _corrections())
    write(annotations / "vlm/vllm.json", json.dumps(_judgements()))
    write(annotations / "custom/example.csv", "prompt\na photo of a bench\n")
    evaluation = {f"gen_eval_sana-join-4/{n:05}/0.png": _picture(f"evaluation-{n}") for n in range(2)}
    write(annotations / "gen_eval_sana-join-4.tar", tar(evaluation))
    write(models / MODEL / "dit/config.json", "{}")
    # Scenes 0 to 4 in one tar, 5 to 9 in another whose members begin otherwise.
    first = {
        f"gen_eval_sana_train/{scene:05}/{n}.png": _picture(f"{scene}-{n}") for scene in range(5) for n in range(4)
    }
    second = {f"./sana/train/{scene:05}/{n}.png": _picture(f"{scene}-{n}") for scene in range(5, 10) for n in range(4)}
    second["./sana/train/00007/1.png"] = truncate(second["./sana/train/00007/1.png"])
    del second["./sana/train/00008/1.png"]
    second["./sana/train/00008/1.good_image.png"] = _picture("what GenRef calls its pictures")
    write(hub / PICTURES / "images_0.tar", tar(first))
    write(hub / PICTURES / "images_1.tar", tar(second))
    write(hub / PICTURES / "README.md", "Pictures for training.\n")


def _corrections() -> str:
    """The csv: plain rows, then one for every trap; prompts say which."""
    rows = [
        ("a photo of a bench", [_path(0, 0)], [_path(0, 1)], ["There is no bench"]),
        (
            "a photo of three cups",
            [_path(1, 0), _path(1, 1), _path(1, 2)],
            [_path(1, 3), _path(0, 2), _path(0, 3)],
            ["There are two cups", "There is one cup", "There are four cups"],
        ),
        ("fewer reasons than bad pictures", [_path(2, 0)], [_path(2, 1), _path(2, 2)], ["There is no cat"]),
        ("a semicolon, in a reason", [_path(3, 0)], [_path(3, 1)], ["The dog is blue; it should be red"]),
        ('"quotes", a comma\nand two lines', [_path(3, 2)], [], []),
        ("another beginning of the path", ["/mnt/disk/sana/train/00005/0.png"], [_path(5, 1)], ["Too dark"]),
        ("no beginning, and another extension", ["00006/0.jpg"], [], []),
        ("a truncated picture", [_path(7, 1)], [_path(7, 2)], ["Too bright"]),
        ("a picture missing from the tars", [_path(8, 1)], [_path(8, 2)], ["Too small"]),
        ("a name that many pictures have", ["0.png"], [], []),
        ("no good picture", [], [_path(9, 1)], ["Nothing is right"]),
        ("", [_path(9, 0)], [], []),
        ("an empty name at the end of a list", [_path(4, 0), ""], [_path(4, 1), ""], ["No tree", ""]),
    ]
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for prompt, *lists in rows:
        writer.writerow([prompt, *("XXX".join(texts) for texts in lists), "geneval"])
    return target.getvalue()


def _judgements() -> list[dict[str, Any]]:
    """vllm.json: plain records, then one for every trap; questions say which."""
    records = [
        _judgement("gen_eval_sana_train/00000/1.png", "a photo of a bench", "There is no bench"),
        _judgement("gen_eval_sana_train/00000/0.png", "a photo of a bench", "Correct."),
        _judgement(["sana/train/00005/1.png"], "a list of one picture", "Too dark"),
        _judgement("gen_eval_sana_train/00004/3.png", "the sign at the end <image>", "Correct."),
        _judgement(["00001/0.png", "00001/3.png"], "two pictures", "The second has two cups"),
        _judgement("gen_eval_sana_train/00004/2.png", "four turns", "No tree"),
        _judgement("gen_eval_sana_train/00004/1.png", "an empty answer", " "),
        _judgement("gen_eval_sana_train/00077/1.png", "a picture missing from the tars", "No tree"),
        _judgement("", "no picture", "No tree"),
    ]
    records[5]["conversations"] *= 2
    del records[8]["image"]
    return records


def _judgement(image: str | list[str], question: str, answer: str) -> dict[str, Any]:
    value = question if "<image>" in question else f"<image>\n{question}"
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    return {"id": question, "image": image, "conversations": turns}


def _path(scene: int, number: int) -> str:
    return f"{CSV_PREFIX}{scene:05}/{number}.png"


def _picture(name: str) -> bytes:
    return Picture.named(f"reflect-{name}", SIDE, SIDE).encode("PNG")
