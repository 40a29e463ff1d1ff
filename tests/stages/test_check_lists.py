"""`prep check` of JSON lists and of the module that names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import convllava_loader
from prep.stages.check_lists import ListsReport, check_json, check_module
from prep.trainers import convllava_list
from prep.trainers.convllava import module_text

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}]
TEXT_TURNS = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello."}]


def rows(number: int) -> list[dict[str, Any]]:
    """Every third row without a picture."""
    return [
        {"id": str(i), "conversations": TEXT_TURNS}
        if i % 3 == 2
        else {"id": str(i), "image": f"pictures/{i}.png", "conversations": TURNS}
        for i in range(number)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(60):
        Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def write(folder: Path, items: Any, name: str = "list.json") -> Path:
    path = folder / name
    path.write_text(items if isinstance(items, str) else json.dumps(items), encoding="utf-8")
    return path


def told(report: ListsReport) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.entry, finding.problem) for finding in report.findings]


def test_a_good_list(folder: Path) -> None:
    report = check_json(write(folder, rows(60)), folder)
    assert report.as_json() == {
        "path": str(folder / "list.json"),
        "version": "v1",
        "lists": [
            {
                "name": "list.json",
                "path": str(folder / "list.json"),
                "image_folder": str(folder),
                "rows": 60,
                "rows_with_image": 40,
                "images_missing": 0,
                "images_opened": 17,
                "first_image": str(folder / "pictures" / "0.png"),
                "first_text": "human: <image>\nWhat?\ngpt: A square.",
            }
        ],
        "findings": [],
    }
    assert check_json(folder / "list.json", folder, images="all").lists[0].images_opened == 40
    looked = check_json(folder / "list.json", folder / "nowhere", images="none")
    assert (looked.findings, looked.lists[0].images_missing, looked.lists[0].images_opened) == ([], None, 0)


def test_every_row_is_judged_and_every_picture_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convllava_list, "_BATCH_ROWS", 7)
    monkeypatch.setattr(convllava_list, "_LOOKS", 2)
    items: list[Any] = rows(60)
    items[51]["image"] = None
    items[56] = "text"
    items[59]["conversations"] = [{"from": "human", "value": "x"}, {"from": "user", "value": "y"}]
    for number in (31, 45):
        (folder / "pictures" / f"{number}.png").unlink()
    (folder / "pictures" / "46.png").write_bytes(b"")
    (folder / "pictures" / "57.png").write_bytes(b"no picture")
    report = check_json(write(folder, items), folder, images="all")
    assert told(report) == [
        ("error", "list.json", "image is null (1 of 60 rows looked at; first in row 51, id 51)"),
        ("error", "list.json", "a row is not an object (1 of 60 rows looked at; first in row 56)"),
        (
            "error",
            "list.json",
            "a turn is neither from human nor from gpt (1 of 60 rows looked at; first in row 59, id 59)",
        ),
        ("error", "list.json", "a picture is not there (2 of 40 rows looked at; first in row 31, pictures/31.png)"),
        ("error", "list.json", "a picture has no bytes (1 of 40 rows looked at; first in row 46, pictures/46.png)"),
        ("error", "list.json", "a picture cannot be opened (1 of 36 rows looked at; first in row 57, pictures/57.png)"),
    ]
    assert (report.lists[0].images_missing, report.lists[0].images_opened) == (3, 35)
    assert report.errors == report.findings


def test_the_sample_is_the_same_every_time_and_has_the_first(folder: Path) -> None:
    path = write(folder, rows(60))
    (folder / "pictures" / "0.png").write_bytes(b"no picture")
    for _ in range(2):
        report = check_json(path, folder)
        assert told(report) == [
            (
                "error",
                "list.json",
                "a picture cannot be opened (1 of 17 rows looked at; first in row 0, pictures/0.png)",
            )
        ]


@pytest.mark.parametrize(
    ("text", "level", "problem"),
    [
        ("{}", "error", "does not hold a list"),
        (json.dumps({"id": 1}) + "\n" + json.dumps({"id": 2}), "error", "does not hold a list"),
        ("[1", "error", "is not good JSON after item 1"),
        ("[]", "warning", "the list is empty"),
        ('[{"conversations": [{"from": "human", "value": "ä"}, {"from": "gpt", "value": "ö"}]}]', "warning", "beyond"),
    ],
)
def test_what_the_file_itself_is(tmp_path: Path, text: str, level: str, problem: str) -> None:
    [finding] = check_json(write(tmp_path, text), tmp_path).findings
    assert finding.level == level and problem in finding.problem


def test_without_a_folder_pictures_are_not_looked_for(folder: Path) -> None:
    report = check_json(write(folder, rows(3)), None)
    assert [finding.problem for finding in report.warnings] == [
        "no image folder was named, so no picture was looked for"
    ]
    assert report.errors == []
    assert check_json(write(folder, rows(3)[2:]), None).findings == []


def module(folder: Path, pairs: dict[str, tuple[str, str]]) -> Path:
    path = folder / "prep_datasets.py"
    path.write_text(module_text("mix", "prep_datasets", pairs))
    return path


def test_a_module_is_checked_list_by_list(folder: Path) -> None:
    first, second = write(folder, rows(6), "a.json"), write(folder, rows(3)[2:], "b.json")
    pairs = {"llava665k": (str(first), str(folder)), "vflan": (str(second), str(folder))}
    report = check_module(module(folder, pairs), images="all")
    assert report.findings == []
    assert [(each.name, each.rows, each.rows_with_image) for each in report.lists] == [
        ("llava665k", 6, 4),
        ("vflan", 1, 0),
    ]
    for dataset in convllava_loader.select("llava665k,vflan", pairs):
        assert all(not dataset[number].is_ignored for number in range(len(dataset)))
    plain = check_module(folder / "prep_datasets.py", version="plain")
    assert told(plain) == [
        (
            "error",
            name,
            "<image> is not in the first turn of a row of the format plain"
            f" ({bad} of {all_} rows looked at; first in row {first_bad}, id {first_id})",
        )
        for name, bad, all_, first_bad, first_id in (("llava665k", 2, 6, 2, 2), ("vflan", 1, 1, 0, 2))
    ]


LEFT_OUT = "PATHS has 'vflan', which --dataset leaves out"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("vflan", []),
        ("vflan, lcs", ["--dataset has a space at ' lcs'"]),
        ("vflan,vflan", ["--dataset has 'vflan' 2 times"]),
        ("lcs", [LEFT_OUT, "--dataset has 'lcs', for which PATHS has no paths"]),
        ("llava150k", [LEFT_OUT, "--dataset has the unknown name 'llava150k'; it is the option's default"]),
        ("llava665", [LEFT_OUT, "--dataset has the unknown name 'llava665'; did you mean 'llava665k'?"]),
        ("", [LEFT_OUT, "--dataset has the unknown name ''"]),
    ],
)
def test_the_names_that_training_is_started_with(folder: Path, option: str, expected: list[str]) -> None:
    pairs = {"vflan": (str(write(folder, rows(3))), str(folder))}
    report = check_module(module(folder, pairs), option=option)
    assert [finding.problem for finding in report.findings] == expected
    if report.errors and option != "lcs":
        with pytest.raises(ValueError, match="invalid dataset name"):
            convllava_loader.select(option, pairs)


def test_names_and_places_in_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    write(folder, rows(3))
    path = folder / "datasets.py"
    path.write_text("PATHS = {'llava': ('list.json', 'no'), 'lcs': ('/nowhere.json', '/')}\nDATASET = 'llava, lcs'\n")
    report = check_module(path)
    assert [(finding.level, finding.problem) for finding in report.findings] == [
        ("error", "--dataset has the unknown name 'llava'; did you mean 'llava665k'?"),
        ("error", "--dataset has a space at ' lcs'"),
        ("warning", "the JSON path 'list.json' is relative"),
        ("warning", "the image folder 'no' is relative"),
        ("error", "the image folder 'no' is not there"),
        ("error", "/nowhere.json cannot be read: No such file or directory"),
    ]
    path.write_text("PATHS = {'llava': ('/nowhere.json', '/')}\n")
    assert [finding.problem for finding in check_module(path).findings] == [
        "PATHS has 'llava', which is no dataset name of the trainer; did you mean 'llava665k'?",
        "/nowhere.json cannot be read: No such file or directory",
    ]
    path.write_text("PATHS = {}")
    assert [(finding.level, finding.problem) for finding in check_module(path).findings] == [
        ("error", "PATHS is empty")
    ]


def test_only_lists_that_training_opens_are_looked_at(folder: Path) -> None:
    pairs = {"vflan": (str(write(folder, rows(3))), str(folder)), "lcs": ("/nowhere.json", "/")}
    report = check_module(module(folder, pairs), option="vflan")
    assert [each.name for each in report.lists] == ["vflan"]
    assert [(finding.level, finding.problem) for finding in report.findings] == [
        ("warning", "PATHS has 'lcs', which --dataset leaves out")
    ]
