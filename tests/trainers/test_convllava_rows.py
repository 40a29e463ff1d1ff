"""What `prep check` says of a row is what the trainer's dataset class does with it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import convllava_loader
from prep.trainers.convllava_rows import (
    ROW_FAILS,
    ROW_IGNORED,
    STARTS_FAIL,
    VERSIONS,
    Version,
    absence_fault,
    open_fault,
    picture_path,
    row_faults,
)

GOOD = {
    "id": "1",
    "image": "a.png",
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}],
}
TEXT = {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello."}]}


def turn(role: Any, value: Any = "Words") -> dict[str, Any]:
    return {"from": role, "value": value}


H, G = turn("human", "<image>\nWhat?"), turn("gpt")


def row(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"image": "a.png", "conversations": list(turns), **more}


# A row, its faults with v1, and those with plain where they are others.
CASES: list[tuple[Any, list[str], list[str] | None]] = [
    (GOOD, [], []),
    (TEXT, [], ["<image> is not in the first turn of a row of the format plain"]),
    (row(H, G, H | {"value": "More?"}, G), [], ["a row of the format plain has not two turns"]),
    ("text", ["a row is not an object"], ["a row is not an object"]),
    (None, ["a row is not an object"], ["a row is not an object"]),
    ({"image": "a.png"}, ["conversations is missing, or not a list"], None),
    (row(conversations={}), ["conversations is missing, or not a list"], None),
    (row(), ["conversations is empty"], None),
    (row(H, "text"), ["a turn has no text as its value"], None),
    (row(H, turn("gpt", None)), ["a turn has no text as its value"], None),
    (row(H, {"from": "gpt"}), ["a turn has no text as its value"], None),
    (row(turn("human", ""), turn("gpt", " \n")), ["a row has no words"], None),
    (row(H, turn("assistant")), ["a turn is neither from human nor from gpt"], []),
    (row(H, turn(["gpt"])), ["a turn is neither from human nor from gpt"], []),
    (row(H, {"value": "x"}), ["a turn is neither from human nor from gpt"], []),
    (row(H, turn("human")), ["turns do not alternate from human to gpt"], []),
    (row(H, G, G), ["turns do not alternate from human to gpt"], ["a row of the format plain has not two turns"]),
    (
        row(G, H, G),
        ["an answer stands before the first question"],
        [
            "a row of the format plain has not two turns",
            "<image> is not in the first turn of a row of the format plain",
        ],
    ),
    (row(H, G, turn("human")), ["the last turn is not an answer"], ["a row of the format plain has not two turns"]),
    (row(H, turn("gpt", "")), ["the last answer is empty"], []),
    (row(H, turn("gpt", "So ASSISTANT: yes")), ["an answer holds a separator of the prompt"], []),
    (row(H, turn("gpt", "So</s>")), ["an answer holds a separator of the prompt"], []),
    (GOOD | {"image": None}, ["image is null"], None),
    (GOOD | {"image": []}, ["image is not one path"], None),
    (GOOD | {"image": ["a.png"]}, ["image is not one path"], None),
    (GOOD | {"image": ["a.png", "b.png"]}, ["image is not one path"], None),
    (GOOD | {"image": 7}, ["image is not one path"], None),
    (GOOD | {"image": ""}, ["image is empty"], None),
    (GOOD | {"image": "/data/a.png"}, ["image is an absolute path"], None),
    (GOOD | {"image": "x/../a.png"}, ["image leads out of the image folder"], None),
    (
        row(turn("human"), G),
        ["<image> is missing in a row with a picture"],
        ["<image> is not in the first turn of a row of the format plain"],
    ),
    (
        row(H, G, H, G),
        ["<image> stands in several turns"],
        ["<image> stands in several turns", "a row of the format plain has not two turns"],
    ),
    (row(turn("human", "<image><image> What?"), G), ["<image> stands several times in one turn"], None),
    (
        row(turn("human"), turn("gpt", "<image> A")),
        ["<image> stands in an answer"],
        ["<image> stands in an answer", "<image> is not in the first turn of a row of the format plain"],
    ),
    ({"conversations": [H, G]}, ["<image> stands in a row without a picture"], None),
]


@pytest.mark.parametrize(("row", "v1", "plain"), CASES)
def test_faults_of_a_row(row: Any, v1: list[str], plain: list[str] | None) -> None:
    assert [fault.problem for fault in row_faults(row)] == v1
    assert [fault.problem for fault in row_faults(row, "plain")] == (v1 if plain is None else plain)


VALUES = st.lists(st.sampled_from(["<image>", "\n", "a word", " ", "ASSISTANT: ", "</s>"]), max_size=3).map("".join)
TURNS = st.lists(
    st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "human", "gpt", "user"]), "value": VALUES})
    | st.fixed_dictionaries({"from": st.just("gpt"), "value": st.none()}),
    max_size=5,
)
ROWS = st.fixed_dictionaries(
    {"conversations": TURNS}, optional={"image": st.sampled_from(["a.png", "a.png", "no.png", "", None, ["a.png"]])}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder


@given(row=ROWS, version=st.sampled_from(VERSIONS))
def test_the_trainer_does_what_is_said(folder: Path, row: dict[str, Any], version: Version) -> None:
    faults = row_faults(row, version)
    picture = picture_path(row)
    faults += [fault] if picture and (fault := absence_fault(folder / picture)) else []
    (folder / "list.json").write_text(json.dumps([row]))
    try:
        dataset = convllava_loader.Dataset(str(folder / "list.json"), str(folder), version)
    except (AssertionError, KeyError, IndexError, AttributeError):
        assert any(fault.effect == STARTS_FAIL for fault in faults)
        return
    assert not any(fault.effect == STARTS_FAIL for fault in faults)
    try:
        sample = dataset[0]
    except (AssertionError, KeyError, IndexError, TypeError, OSError):
        assert any(fault.level == "error" for fault in faults)
        return
    assert [fault for fault in faults if fault.level == "error"] == []
    assert sample.is_ignored == any(fault.effect == ROW_IGNORED for fault in faults)
    if not faults and sample.picture is not None:
        assert sum(text.count("<image>") for _, text in sample.turns) == 1


def test_pictures_are_opened_as_the_trainer_opens_them(tmp_path: Path) -> None:
    Image.new("P", (8, 8)).save(tmp_path / "really.jpg", format="GIF")
    whole = (tmp_path / "really.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-20])
    (tmp_path / "empty.jpg").touch()
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", 60_000, 60_000) + bytes(9)
    (tmp_path / "bomb.png").write_bytes(bomb)
    found = {}
    for name in ("really.jpg", "cut.jpg", "empty.jpg", "bomb.png", "none.jpg", "nul\0.jpg", "."):
        fault = absence_fault(tmp_path / name) or open_fault(tmp_path / name)
        found[name] = None if fault is None else (fault.problem, fault.effect.endswith(ROW_FAILS))
    assert found == {
        "really.jpg": None,
        "cut.jpg": ("a picture cannot be opened", True),
        "empty.jpg": ("a picture has no bytes", True),
        "bomb.png": ("a picture cannot be opened", True),
        "none.jpg": ("a picture is not there", True),
        "nul\0.jpg": ("a picture is not there", True),
        ".": ("a picture is not there", True),
    }
