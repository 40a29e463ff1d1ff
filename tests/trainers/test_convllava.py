"""ConvLLaVA's names and tree, and the module of datasets."""

from __future__ import annotations

import runpy
from pathlib import Path, PurePosixPath

import pytest

import convllava_loader
from prep.config import Catalogue
from prep.errors import DataError, UsageError
from prep.trainers.convllava import (
    DEFAULT_DATASET,
    FOLDERS,
    LINKS,
    NAMES,
    STAGES,
    dataset_option,
    is_module_name,
    module_text,
    read_module,
)

PAIRS = {
    "lcs": ("/data/l'c\"s.json", "/data/\\images"),
    "vflan": ("/data/ü.json", "/data/\udcff"),
}


def test_names_are_the_trainers() -> None:
    assert set(NAMES) == convllava_loader.NAMES
    assert DEFAULT_DATASET not in NAMES
    assert (
        len({builder.function for builder in NAMES.values()}) == len({each.json_path for each in NAMES.values()}) == 9
    )
    assert {name for names in STAGES.values() for name in names} <= set(NAMES)


def test_every_folder_of_the_tree_is_filled_by_a_dataset_that_is_known() -> None:
    known = Catalogue().dataset_names()
    assert [folder.dataset for folder in FOLDERS.values() if folder.dataset not in known] == []
    assert {path.partition("/")[0] for path in FOLDERS} == {
        "allava", "coco", "llava", "sam", "gqa", "ocr_vqa", "textvqa", "vg", "vflan", "share_textvqa", "web-celebrity",
        "web-landmark", "wikiart",
    }  # fmt: skip


def test_the_second_hole_is_linked_to_a_folder_of_the_tree() -> None:
    for link, target in LINKS.items():
        steps = [*PurePosixPath(link).parent.parts]
        for step in PurePosixPath(target).parts:
            steps = steps[:-1] if step == ".." else [*steps, step]
        assert any(folder.startswith("/".join(steps) + "/") for folder in FOLDERS)


def test_the_option_has_no_spaces_and_no_repeats() -> None:
    assert dataset_option(["lcs", "vflan", "lcs"]) == "lcs,vflan"


def test_the_module_gives_pairs_and_calls_what_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "prep_datasets.py"
    path.write_text(module_text("mix", "prep_datasets", PAIRS, ['vflan (it says "ü"\n)']), encoding="utf-8")
    module = runpy.run_path(str(path))
    assert module["PATHS"] == PAIRS
    assert module["DATASET"] == "lcs,vflan"
    assert module["build_lcs"]() == PAIRS["lcs"]
    made = module["build_vflan"](lambda *paths, **more: (paths, more), "tokenizer", size=1)
    assert made == ((*PAIRS["vflan"], "tokenizer"), {"size": 1})
    assert read_module(path) == (PAIRS, "lcs,vflan")
    assert path.read_text().isascii()


def test_nothing_of_a_module_is_run(tmp_path: Path) -> None:
    path = tmp_path / "datasets.py"
    path.write_text("raise SystemExit\nPATHS: dict = {'lcs': ['a.json', 'b']}\ndef f():\n    return PATHS\n")
    assert read_module(path) == ({"lcs": ("a.json", "b")}, None)


@pytest.mark.parametrize(
    "text",
    [
        "DATASET = open('x').read()",
        "PATHS['lcs'] = ('c.json', 'd')",
        "PATHS.update(lcs=('c.json', 'd'))",
        "if True:\n    PATHS = {}",
        "DATASET = ''\nDATASET += 'lcs'",
        "PATHS, x = {}, 1",
        "for PATHS in []:\n    pass",
        "def f():\n    global PATHS\n    PATHS = {}",
    ],
)
def test_what_only_running_it_would_tell_is_not_guessed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "datasets.py"
    path.write_text(f"PATHS = {{'lcs': ['a.json', 'b']}}\n{text}\n")
    with pytest.raises(UsageError, match="cannot be known without running this"):
        read_module(path)


@pytest.mark.parametrize(
    "text",
    [
        "PATHS = ",
        "\0",
        "",
        "PATHS = {'lcs': ('a\\0.json', 'b')}",
        "PATHS = {}\nDATASET = ['lcs']",
        "PATHS = {'lcs': 'a.json'}",
        "PATHS = {'lcs': ('a.json', 1)}",
        "PATHS = {1: ('a.json', 'b')}",
        "PATHS = ['lcs']",
        "PATHS = " + "-" * 100_000 + "1",
    ],
)
def test_what_is_no_module_of_datasets_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "datasets.py"
    path.write_text(text)
    with pytest.raises(DataError):
        read_module(path)


def test_module_names_can_be_imported() -> None:
    names = ["prep_datasets", "convllava-s1", "class", "1", "ä", "json"]
    assert [name for name in names if is_module_name(name)] == ["prep_datasets"]
