"""A small stand-in for ConvLLaVA's dataset class, written from shared facts about it, never importing `prep`.

Tests hold the lists that `prep emit` writes, and what `prep check` says of any list, against it. Where the trainer
stops, it raises; rows that the trainer passes over with a warning, it calls ignored.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from PIL import Image

TOKEN = "<image>"
ROLES = {"human": "USER", "gpt": "ASSISTANT"}
NAMES = {
    "lcs", "sharegpt4vpretrain", "sharegpt4v100k", "llava665k", "vflan", "allava_laion_caption",
    "allava_vflan_caption", "allava_laion_instruct", "allava_vflan_instruct",
}  # fmt: skip


@dataclass
class Sample:
    """One row as it is trained on: turns of (role, text), the picture, and whether it is ignored."""

    turns: list[tuple[str, str]]
    picture: Image.Image | None
    is_ignored: bool


class Dataset:
    """The rows of one JSON list, counted at the start as the sampler does, built one at a time."""

    def __init__(self, json_path: str, image_folder: str, version: str = "v1") -> None:
        with open(json_path) as file:  # noqa: PTH123  (as text, in the locale's encoding)
            self.rows = json.load(file)
        self.image_folder, self.version = image_folder, version
        lengths = [sum(len(turn["value"].split()) for turn in row["conversations"]) for row in self.rows]
        assert all(lengths), "a row of no length"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Sample:
        row: dict[str, Any] = self.rows[number]
        picture = None
        turns = [dict(turn) for turn in row["conversations"]]
        if "image" in row:
            with Image.open(os.path.join(self.image_folder, row["image"])) as image:  # noqa: PTH118
                picture = image.convert("RGB")
            for turn in turns:
                if TOKEN in turn["value"]:
                    turn["value"] = f"{TOKEN}\n{turn['value'].replace(TOKEN, '').strip()}".strip()
        built = _plain(turns) if self.version == "plain" else _v1(turns)
        tokens = sum(text.count(TOKEN) for _, text in built)
        if picture is not None and tokens > 1:
            raise IndexError("more tokens than pictures")
        return Sample(built, picture, self.version == "v1" and _is_ignored(built))


def select(option: str, known: dict[str, tuple[str, str]]) -> list[Dataset]:
    """The datasets of the trainer's --dataset."""
    parts = option.split(",")
    wrong = [part for part in parts if part not in NAMES]
    if wrong:
        raise ValueError(f"invalid dataset name {wrong[0]!r}")
    return [Dataset(*known[part]) for part in parts]


def _plain(turns: list[dict[str, str]]) -> list[tuple[str, str]]:
    assert len(turns) == 2
    assert TOKEN in turns[0]["value"]
    return [("", TOKEN), ("", turns[1]["value"])]


def _v1(turns: list[dict[str, str]]) -> list[tuple[str, str]]:
    if ROLES[turns[0]["from"]] != "USER":
        turns = turns[1:]
    for place, turn in enumerate(turns):
        assert ROLES[turn["from"]] == ("USER", "ASSISTANT")[place % 2]
    return [(ROLES[turn["from"]], turn["value"]) for turn in turns]


def _is_ignored(turns: list[tuple[str, str]]) -> bool:
    """Whether the mask of answers comes out at another length than the text."""
    if not turns or turns[-1][0] != "ASSISTANT" or not turns[-1][1].strip():
        return True
    return any(mark in text for role, text in turns if role == "ASSISTANT" for mark in ("ASSISTANT: ", "</s>"))
