"""Heal: every cause, repairs and their journal, lists written anew."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from prep import progress
from prep.errors import DataError, UsageError, WorkspaceError
from prep.heal.heal import heal, tree_pairs, undo_all
from prep.heal.inventory import unescape
from prep.heal.journal import locked, undo
from prep.heal.repairs import Surgeon
from prep.heal.report import CAUSES, HealReport
from prep.heal.rows import Pair, to_ascii
from worlds import prep, snapshot


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    progress.use(progress.no_bar)
    yield
    progress.use(progress.tqdm_bar)


def picture(path: Path, format_: str = "JPEG", mode: str = "RGB") -> Path:
    """A picture whose bytes differ from those of other names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    letters = str(path).encode(errors="surrogateescape")
    image = Image.frombytes("RGB", (32, 32), (letters * 3072)[:3072])
    image.convert(mode).save(path, format_)
    return path


def row(image: Any, text: str = "<image>\nWhat?", **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "That."}]
    return {"id": "x", "image": image, "conversations": turns, **more}


def pair(folder: Path, rows: Sequence[Any], name: str = "list.json") -> Pair:
    path = folder / name
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (folder / "data").mkdir(exist_ok=True)
    return Pair(path, folder / "data")


def tree_of(folder: Path) -> dict[str, str]:
    """Path -> hash of everything below, our own folder left out; folders and links too."""
    found = {path: value for path, value in snapshot(folder).items() if ".prep-heal" not in path}
    for path in folder.rglob("*"):
        if ".prep-heal" not in path.parts and (path.is_symlink() or path.is_dir()):
            found[str(path.relative_to(folder))] = str(path.readlink()) if path.is_symlink() else "folder"
    return found


def causes(report: HealReport) -> dict[str, int]:
    return report.lists[0].total().causes


def kept(pair: Pair) -> list[Any]:
    found: list[Any] = json.loads(pair.healed.read_text(encoding="ascii"))
    return found


def lost(pair: Pair) -> list[Any]:
    return [json.loads(line) for line in pair.missing.read_text(encoding="ascii").splitlines()]


# -- the whole report --------------------------------------------------------------------------------------------


def damaged(folder: Path) -> Pair:
    """A tree with something of everything."""
    data = folder / "data"
    picture(data / "coco/train2017/000000000009.jpg")
    picture(data / "coco/train2017/25.jpg")
    picture(data / "gqa/images/images/1.jpg")
    picture(data / "gqa/2.jpg")
    picture(data / "ocr_vqa/images/A.JPG")
    picture(data / "ocr_vqa/images/b.jpg", "GIF", "P")
    picture(data / "ocr_vqa/images/c.GIF", "GIF", "P")
    picture(data / "ocr_vqa/images/images/d.png", "PNG", "RGBA")
    picture(data / "ocr_vqa/images/e.png")
    picture(data / "vflan/#U91d1.jpg")
    picture(data / "vflan/a b+c.jpg")
    picture(data / "vflan/x+y.jpg")
    for name in ("m.jpg", "m.png"):
        picture(data / "wikiart" / name, "JPEG" if name == "m.jpg" else "PNG")
    whole = picture(data / "vg/VG_100K/cut.jpg").read_bytes()
    (data / "vg/VG_100K/cut.jpg").write_bytes(whole[:-40])
    (data / "vg/VG_100K/zero.jpg").write_bytes(b"")
    (data / "vg/VG_100K/page.jpg").write_text("<html>quota</html>")
    (data / "vg/VG_100K/folder.jpg").mkdir()
    (data / "vg/VG_100K/link.jpg").symlink_to("nowhere.jpg")
    picture(data / "allava/images/100.jpeg")
    paths = [
        "coco/train2017/000000000009.jpg", "coco/train2017/000000000025.jpg", "gqa/images/1.jpg", "gqa/images/2.jpg",
        "ocr_vqa/images/a.jpg", "ocr_vqa/images/b.jpg", "ocr_vqa/images/c.jpg", "ocr_vqa/images/d.jpg",
        "ocr_vqa/images/e.png", "vflan/金.jpg", "vflan/a%20b c.jpg", "vflan/x+y.jpg", "wikiart/m.gif",
        "vg/VG_100K/cut.jpg", "vg/VG_100K/zero.jpg", "vg/VG_100K/page.jpg", "vg/VG_100K/folder.jpg",
        "vg/VG_100K/link.jpg", "allava/images/100", "web-celebrity/images/Choi_Min-sik.jpg", "/etc/a.jpg", "../b.jpg",
    ]  # fmt: skip
    rows: list[Any] = [row(path) for path in paths]
    rows += [row("coco/train2017/000000000009.jpg"), {"id": "t", "model": "", "conversations": []}]
    rows += [row(None, "Hello"), row(""), row(7), row(["vflan/x+y.jpg", "gqa/images/1.jpg"]), ["no object"]]
    return pair(folder, rows)


def test_every_cause_is_reported(tmp_path: Path) -> None:
    given = damaged(tmp_path)
    before = tree_of(tmp_path)
    report = heal([given]).as_json()
    assert tree_of(tmp_path) == before and not (given.images / ".prep-heal").exists()

    def collection(name: str, rows: int, found: int, repaired: int, lost: int, **causes: int) -> dict[str, Any]:
        counts = {"rows": rows, "found": found, "repaired": repaired, "lost": lost}
        return {"name": name, **counts, "causes": {cause.replace("_and_", "+"): n for cause, n in causes.items()}}

    [listed] = report["lists"]
    assert listed["collections"] == [
        collection("(no path)", 5, 0, 0, 5, bad_json=1, bad_path=1, no_path=1, unsafe_path=2),
        collection("(text only)", 2, 2, 0, 0),
        collection("allava/images", 1, 0, 0, 1, no_extension=1),
        collection("coco/train2017", 3, 2, 1, 0, padding=1),
        collection("gqa/images", 3, 0, 3, 0, folder=3),
        collection("ocr_vqa/images", 5, 1, 4, 0, case=1, extension=1, folder_and_extension=1, wrong_format=2),
        collection("vflan", 3, 1, 2, 0, escaped=2),
        collection("vg/VG_100K", 5, 0, 0, 5, broken_link=1, empty=1, not_a_file=1, not_an_image=1, truncated=1),
        collection("web-celebrity/images", 1, 0, 0, 1, missing=1),
        collection("wikiart", 1, 0, 0, 1, ambiguous=1),
    ]
    assert (listed["duplicates"], listed["healed"], listed["missing"]) == (1, None, None)
    assert report["repairs"] == {"encode": 3, "link": 6}
    assert {(each["cause"], each["path"], each["action"], each["source"]) for each in report["examples"]} >= {
        ("padding", "coco/train2017/000000000025.jpg", "link", "coco/train2017/25.jpg"),
        ("folder", "gqa/images/2.jpg", "link", "gqa/2.jpg"),
        ("case", "ocr_vqa/images/a.jpg", "link", "ocr_vqa/images/A.JPG"),
        ("wrong_format", "ocr_vqa/images/b.jpg", "encode", "ocr_vqa/images/b.jpg"),
        ("wrong_format", "ocr_vqa/images/e.png", None, None),
        ("extension", "ocr_vqa/images/c.jpg", "encode", "ocr_vqa/images/c.GIF"),
        ("folder+extension", "ocr_vqa/images/d.jpg", "encode", "ocr_vqa/images/images/d.png"),
        ("escaped", "vflan/金.jpg", "link", "vflan/#U91d1.jpg"),
        ("ambiguous", "wikiart/m.gif", None, None),
        ("unsafe_path", "../b.jpg", None, None),
    }
    details = {each["path"]: each["detail"] for each in report["examples"] if each["detail"]}
    assert details == {
        "allava/images/100": "allava/images/100.jpeg",
        "ocr_vqa/images/b.jpg": "its content is GIF",
        "ocr_vqa/images/e.png": "its content is JPEG",
        "wikiart/m.gif": "wikiart/m.jpg, wikiart/m.png",
    }
    assert report["warnings"] == [] and report["journals"] == [] and report["applied"] is False
    assert {part for each in report["examples"] for part in each["cause"].split("+")} <= set(CAUSES)


def test_apply_then_again_then_undo(tmp_path: Path) -> None:
    given = damaged(tmp_path)
    rows, before = json.loads(given.json.read_text()), tree_of(tmp_path)
    done = heal([given], apply=True)
    counts = done.lists[0].total()
    assert (counts.rows, counts.found, counts.repaired, counts.lost) == (29, 6, 10, 13)
    data = given.images
    with Image.open(data / "ocr_vqa/images/d.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
    with Image.open(data / "ocr_vqa/images/b.jpg") as image:
        assert image.format == "JPEG"
    assert (data / "gqa/images/1.jpg").samefile(data / "gqa/images/images/1.jpg")
    assert [each["row"] for each in lost(given)] == [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 25, 26, 28]
    assert [each["reason"] for each in lost(given)][-4:] == ["unsafe_path", "no_path", "bad_path", "bad_json"]
    assert lost(given)[0]["record"] == rows[12] and lost(given)[-1]["record"] == ["no object"]
    good = [*rows[:12], rows[22], rows[23], {k: v for k, v in rows[24].items() if k != "image"}, rows[27]]
    assert kept(given) == good
    healed = tree_of(tmp_path)
    again = heal([given], apply=True)
    assert (again.repairs, again.journals, again.lists[0].total().found) == ({}, [], 16)
    assert tree_of(tmp_path) == healed
    [result] = undo_all([data])
    assert (result.undone, result.left) == (11, [])
    assert tree_of(tmp_path) == before
    with pytest.raises(WorkspaceError, match="nothing to undo"):
        undo(data)
    assert heal([given], apply=True).lists[0].total() == counts  # and once more, from the start
    assert tree_of(tmp_path) == healed


def test_move_leaves_what_other_rows_name(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("images/1.jpg"), row("images/2.jpg"), row("images/images/2.jpg")])
    for name in ("1.jpg", "2.jpg"):
        picture(given.images / "images/images" / name)
    before = tree_of(tmp_path)
    report = heal([given], apply=True, move=True)
    assert report.repairs == {"move": 1} and causes(report) == {"claimed": 1, "folder": 1}
    names = sorted(path for path, value in tree_of(given.images).items() if value != "folder")
    assert names == ["images/1.jpg", "images/images/2.jpg"]
    undo(given.images)
    assert tree_of(tmp_path) == before


# -- nothing is guessed ------------------------------------------------------------------------------------------


def state_of(folder: Path, image: str, *files: str, also: Sequence[str] = ()) -> str:
    """What becomes of one row, beside these files and other rows: `found`, or the cause and what is done."""
    for name in files:
        picture(folder / "data" / name)
    report = heal([pair(folder, [row(image), *map(row, also)])])
    found = [each for each in report.examples if each.path == image]
    return f"{found[0].cause} {found[0].action}" if found else "found"


@pytest.mark.parametrize(
    ("image", "files", "also", "expected"),
    [
        ("a/B.jpg", ["a/b.jpg"], [], "case link"),
        ("a/B.jpg", ["a/b.jpg", "a/b.JPG"], [], "ambiguous None"),
        ("a/B.jpg", ["a/b.jpg"], ["a/b.jpg"], "claimed None"),
        ("a/B.jpg", ["a/b.jpg"], ["a/b.JPG"], "ambiguous None"),  # one file for two rows
        # A file that a row names is that row's, however another one's name differs.
        ("set/images/1.jpg", ["set/1.jpg"], ["set/1.jpg"], "claimed None"),
        ("set/1.jpg", ["set/1.png"], ["set/1.png"], "claimed None"),
        ("set/a+b.jpg", ["set/a b.jpg"], ["set/a b.jpg"], "claimed None"),
        ("images/gqa/1.jpg", ["gqa/images/1.jpg"], ["gqa/1.jpg"], "missing None"),
        # Two rows may mean gqa/1.jpg, though for one of them there is another file too.
        ("gqa/images/1.jpg", ["gqa/1.jpg", "images/images/gqa/1.jpg"], ["images/gqa/1.jpg"], "ambiguous None"),
        ("A/b.jpg", ["a/b.jpg"], [], "case link"),
        ("vg/VG_100K/2.jpg", ["vg/VG_100K_2/2.jpg"], [], "missing None"),
        ("train2017/000000000009.jpg", ["train2017/COCO_train2014_000000000009.jpg"], [], "missing None"),
        ("a/0012.jpg", ["a/12.jpg"], ["a/0013.jpg"], "padding link"),
        ("a/12.jpg", ["a/0012.jpg", "a/0013.jpg"], [], "padding link"),
        # Keys, as ISBNs: some of them begin with a zero, and all of them have their own width.
        ("ocr/0761183272.jpg", ["ocr/761183272.jpg"], ["ocr/143771777.jpg"], "padding_unclear None"),
        ("ocr/761183272.jpg", ["ocr/0761183272.jpg", "ocr/143771777.jpg"], [], "padding_unclear None"),
        ("ocr/012345678X.jpg", ["ocr/12345678X.jpg"], [], "missing None"),
        # Zeros behind a point or a letter are no padding.
        ("s/t_0.5.jpg", ["s/t_0.05.jpg"], ["s/t_0.25.jpg"], "missing None"),
        ("s/1e5.jpg", ["s/1e05.jpg"], [], "missing None"),
        ("s/abc0.jpg", ["s/abc00.jpg"], [], "missing None"),
        ("s/sa_7.jpg", ["s/sa_007.jpg"], [], "padding link"),
        ("s/x-07.jpg", ["s/x-7.jpg"], [], "padding link"),
        ("s/no 7.jpg", ["s/no 07.jpg"], [], "padding link"),
        ("s/a\n_07.jpg", ["s/a\n_7.jpg"], ["s/a\n_123.jpg"], "padding_unclear None"),
        ("a/123", ["a/123.jpeg"], [], "no_extension None"),
        ("./a//b.jpg", ["a/b.jpg"], [], "found"),
        ("a/b.jpg/", ["a/b.jpg"], [], "not_a_file None"),
        ("a/b.jpg/.", ["a/b.jpg"], [], "not_a_file None"),
        ("a/e\u0301.jpg", ["a/\u00e9.jpg"], [], "escaped link"),
        ("a/\u212b.jpg", ["a/\u00c5.jpg"], [], "escaped link"),  # a letter that Unicode has twice
        ("a/\u212a.jpg", ["a/K.jpg"], [], "escaped link"),
        # Folders: only a repetition and wrappers may be too many or too few.
        ("a/b.jpg", ["a/images/b.jpg", "a/a/b.jpg"], [], "ambiguous None"),
        ("a/b.jpg", ["data/images/a/b.jpg"], [], "missing None"),
        ("coco/train2017/1.jpg", ["coco/train2017/train2017/1.jpg"], [], "folder link"),
        ("web-celebrity/1.jpg", ["Web_Celebrity/web-celebrity/1.jpg"], [], "folder link"),
        ("vg/vg/1.jpg", ["vg/1.jpg"], [], "folder link"),
        ("gqa/1.jpg", ["gqa/Imgs/1.jpg"], [], "folder link"),
        ("a/1.jpg", ["a/train-val-images/1.jpg"], [], "folder link"),
        ("images/a/1.jpg", ["a/1.jpg"], [], "folder link"),
        ("wikiart/images/a.jpg", ["wikiart/images/thumbs/a.jpg"], [], "missing None"),
        ("ade/images/a.jpg", ["ade/images/masks/a.png"], [], "missing None"),
        ("s/1.jpg", ["s/.Trash/1.jpg"], [], "missing None"),
        ("s/.old/1.jpg", ["s/.old/.old/1.jpg"], [], "missing None"),
        ("1.jpg", ["val/1.jpg"], [], "missing None"),
        ("vg/VG_100K/51.jpg", ["vg/VG_100K/VG_100K_2/51.jpg"], [], "missing None"),
        ("clips/v1-1/1.jpg", ["clips/v1-1/v11/1.jpg"], [], "missing None"),
        ("clips/v1/0001.jpg", ["clips/0001.jpg"], [], "missing None"),
        ("images/vg/1.jpg", ["images/1.jpg"], [], "missing None"),
        ("vg/imgs/1.jpg", ["imgs/1.jpg"], [], "missing None"),
        ("a/train2017/1.jpg", ["train2017/1.jpg"], [], "missing None"),
        ("gqa/2.jpg", ["2.jpg"], [], "missing None"),
        ("images/2.jpg", ["2.jpg"], [], "ambiguous None"),  # of which collection?
        ("imgs/imgs/2.jpg", ["imgs/2.jpg"], [], "ambiguous None"),
        ("C:\\a.jpg", [], [], "unsafe_path None"),
        ("a\0b.jpg", [], [], "unsafe_path None"),
        ("a/" + "b" * 300 + ".jpg", [], [], "missing None"),
    ],
)  # fmt: skip
def test_candidates(image: str, files: list[str], also: list[str], expected: str, tmp_path: Path) -> None:
    assert state_of(tmp_path, image, *files, also=also) == expected


def test_two_names_of_one_file_are_one_candidate(tmp_path: Path) -> None:
    first = picture(tmp_path / "data/a/b.jpg")
    (tmp_path / "data/images/a").mkdir(parents=True)
    os.link(first, tmp_path / "data/images/a/B.jpg")
    assert state_of(tmp_path, "a/B.jpg") == "case link"


def test_a_candidate_that_is_no_image_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "data/images/images").mkdir(parents=True)
    (tmp_path / "data/images/images/1.jpg").write_bytes(b"")
    [example] = heal([pair(tmp_path, [row("images/1.jpg")])]).examples
    assert (example.cause, example.detail) == ("missing", "images/images/1.jpg (empty)")


@pytest.mark.parametrize("broken", [b"", b"\xff\xd8\xffcut off", b"no image"])
def test_a_broken_candidate_does_not_make_another_the_only_one(broken: bytes, tmp_path: Path) -> None:
    picture(tmp_path / "data/s/A.png", "PNG")
    (tmp_path / "data/s/a.JPG").write_bytes(broken)
    assert state_of(tmp_path, "s/a.jpg") == "ambiguous None"


def test_a_link_made_by_one_run_is_not_taken_by_the_next(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("gqa/1.jpg"), row("data/gqa/1.jpg"), row("data/images/gqa/1.jpg")])
    picture(given.images / "gqa/images/1.jpg")
    results = [heal([given], apply=True).lists[0].total() for _ in range(3)]
    assert [(each.found, each.repaired, each.lost) for each in results] == [(0, 1, 2), (1, 0, 2), (1, 0, 2)]
    assert results[1].causes == {"claimed": 1, "missing": 1}


def test_names_with_line_ends_and_foreign_letters(tmp_path: Path) -> None:
    names = ["a\nb/c\nd.jpg", "ünï/ødd 🐕.jpg", "x/quo\"te'.jpg"]
    given = pair(tmp_path, [row(name) for name in names])
    for name in names:
        folder, _, rest = name.partition("/")
        picture(given.images / folder / folder / rest)
    assert heal([given], apply=True).repairs == {"link": 3}
    assert all((given.images / name).is_file() for name in names)
    assert [each["image"] for each in kept(given)] == names
    undo(given.images)
    assert not any((given.images / name).exists() for name in names)


def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg")])
    picture(given.images / os.fsdecode(b"caf\xe9.jpg"))
    assert heal([given]).warnings == [f"1 names below {given.images} are not UTF-8: no JSON can name them"]


# -- links -------------------------------------------------------------------------------------------------------


def test_a_link_inside_the_folder_shows_the_files_it_leads_to(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("allava_vflan/images/images_191task_1k/a.jpg"), row("allava_vflan/images/b.jpg")])
    picture(given.images / "vflan/images_191task_1k/a.jpg")
    picture(given.images / "vflan/vflan/b.jpg")
    (given.images / "allava_vflan").mkdir()
    (given.images / "allava_vflan/images").symlink_to("../vflan")
    (given.images / "vflan/loop").symlink_to(".")
    report = heal([given], apply=True)
    total = report.lists[0].total()
    assert (total.found, total.repaired, report.repairs) == (1, 1, {"link": 1})
    assert (given.images / "vflan/b.jpg").is_file()


def test_what_links_lead_out_to_is_read_and_never_changed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name in ("good.jpg", "images/deep.jpg"):
        picture(elsewhere / name)
    picture(elsewhere / "gif.jpg", "GIF", "P")
    (elsewhere / "up").symlink_to("..")
    rows = [row(f"set/{name}") for name in ("good.jpg", "deep.jpg", "gif.jpg", "Good.JPG")] + [
        row("set/images/gif.jpg")
    ]
    given = pair(tmp_path, [*rows, row("one.jpg")])
    (given.images / "set").symlink_to(elsewhere)
    (given.images / "one.jpg").symlink_to(elsewhere / "good.jpg")
    before = tree_of(tmp_path)
    report = heal([given], apply=True)
    assert causes(report) == {"outside": 3, "wrong_format": 1}
    assert report.lists[0].total().found == 3 and report.repairs == {}
    given.healed.unlink()
    given.missing.unlink()
    assert tree_of(tmp_path) == before


# -- lists -------------------------------------------------------------------------------------------------------


def test_rows_stay_as_they_are_written(tmp_path: Path) -> None:
    given = pair(tmp_path, [])
    picture(given.images / "a.jpg")
    text = '{"z": 1.50, "image": "a.jpg",\n  "b": [1e2, "\\u00e9 é 🐕 \\/"], "conversations": [], "z2": {"k" : null}}'
    given.json.write_text(f"\ufeff[ {text} ,{text}]", encoding="utf-8")
    report = heal([given], apply=True)
    plain = text.replace("é 🐕", "\\u00e9 \\ud83d\\udc15")
    assert given.healed.read_text(encoding="ascii") == f"[\n{plain},\n{plain}\n]\n"
    assert report.lists[0].duplicates == 1 and given.missing.read_text() == ""


@given(st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_ascii_means_the_same(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, default=str)
    assert to_ascii(text).isascii() and json.loads(to_ascii(text)) == json.loads(text)


@given(st.text(alphabet="aé%2#U019+ d", max_size=12))
def test_unescaping_any_name_gives_text(name: str) -> None:
    unescape(name).encode()


def test_lines_become_a_list(tmp_path: Path) -> None:
    given = pair(tmp_path, [])
    picture(given.images / "a.jpg")
    rows = [row("a.jpg"), row("gone.jpg"), {"conversations": []}]
    lines = [json.dumps(each) for each in rows]
    given.json.write_text("\n".join([lines[0], '{"image": broken', *lines[1:]]))
    report = heal([given], apply=True)
    assert kept(given) == [rows[0], rows[2]]
    assert [(each["row"], each["reason"]) for each in lost(given)] == [(1, "bad_json"), (2, "missing")]
    assert causes(report) == {"bad_json": 1, "missing": 1}


GOOD = '[{"image": "\u00e9.jpg", "conversations": []}]'


def test_no_rows(tmp_path: Path) -> None:
    given = pair(tmp_path, [])
    report = heal([given], apply=True)
    assert (report.lists[0].collections, report.lost) == ([], 0)
    assert given.healed.read_text() == "[]\n" and given.missing.read_text() == ""


def test_huge_rows(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg", "x" * (15 << 20)), row("a.jpg", "x" * (17 << 20))])
    picture(given.images / "a.jpg")
    heal([given], apply=True)
    assert len(kept(given)) == 1 and [each["reason"] for each in lost(given)] == ["bad_json"]
    assert lost(given)[0]["record"] == row("a.jpg", "x" * (17 << 20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}]', "no list of LLaVA's format"),
        ('{"761183272": {"imageURL": "x"}}', "no list of LLaVA's format"),
        ("", "no list of LLaVA's format"),
        (" \n\t\r\n", "no list of LLaVA's format"),
        ("\ufeff\n", "no list of LLaVA's format"),
        ('[["a"]]', "no list of LLaVA's format"),
        ('[{"image": "a.jpg"}', "not whole"),
        ("PK\x03\x04", "no list of LLaVA's format"),
    ],
)
def test_what_is_no_such_list_is_refused(text: str, message: str, tmp_path: Path) -> None:
    given = pair(tmp_path, [])
    given.json.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        heal([given], apply=True)
    assert not given.healed.exists()


@pytest.mark.parametrize(
    ("content", "next_step"),
    [
        (GOOD.encode("utf-16"), "It is UTF-16. Write it anew: iconv -f UTF-16 -t UTF-8 LIST > NEW.json"),
        (GOOD.encode("utf-16-le"), "It is UTF-16LE. Write it anew: iconv -f UTF-16LE -t UTF-8 LIST > NEW.json"),
        (GOOD.encode("utf-16-be"), "It is UTF-16BE. Write it anew: iconv -f UTF-16BE -t UTF-8 LIST > NEW.json"),
        (GOOD.encode("utf-32"), "It is UTF-32. Write it anew: iconv -f UTF-32 -t UTF-8 LIST > NEW.json"),
        (
            GOOD.encode("latin-1"),
            "It is not UTF-8; Latin-1 perhaps. Write it anew: iconv -f LATIN1 -t UTF-8 LIST > NEW.json",
        ),
        (gzip.compress(GOOD.encode(), mtime=0), "It is packed with gzip: unpack it first."),
        (
            f'{{"info": {{"a": [1]}}, "da ta": {GOOD}}}'.encode(),
            "It is one object with a list under 'da ta': write that list to a file of its own.",
        ),
    ],
)
def test_what_is_no_such_list_is_named(content: bytes, next_step: str, tmp_path: Path) -> None:
    given = pair(tmp_path, [])
    given.json.write_bytes(content)
    with pytest.raises(DataError) as caught:
        heal([given])
    assert caught.value.next_step.replace(str(given.json), "LIST") == next_step


def test_of_a_key_that_stands_twice_the_last_counts(tmp_path: Path) -> None:
    given = pair(tmp_path, [])
    picture(given.images / "a.jpg")
    gone, there = '{"image": "a.jpg", "image": "gone.jpg"}', '{"image": "gone.jpg", "id": "\\u00e9", "image": "a.jpg"}'
    given.json.write_text(f"[{gone}, {there}]")
    heal([given], apply=True)
    assert given.healed.read_text() == f"[\n{there}\n]\n"
    assert [(each["row"], each["reason"]) for each in lost(given)] == [(0, "missing")]


def test_rows_that_cannot_be_read_are_kept_aside_as_they_are(tmp_path: Path) -> None:
    given = pair(tmp_path, [])
    picture(given.images / "a.jpg")
    good = '{"image": "a.jpg", "x": "\u00e9]\\"},{"}'
    bad = ['{"image":  "a.jpg", "x": "\\ud800 \u00e9", "y": [1,\n {}]}', "[1, 2]", '"a, b"', "7", "{x}"]
    given.json.write_text(f" [{bad[0]},{good} ,{bad[1]}\n, {bad[2]},{bad[3]},{good},{bad[4]}]", encoding="utf-8")
    heal([given], apply=True)
    texts = [line.partition('"record": ')[2] for line in given.missing.read_text().splitlines()]
    assert texts == [bad[0].replace("\u00e9", "\\u00e9").replace("\n", " ") + "}", "[1, 2]}", '"a, b"}', "7}", "null}"]
    given.json.write_text(f"{good}\n{bad[0]}\n{{broken\n[1, 2]\n{good}\n{bad[0]}", encoding="utf-8")
    given.healed.unlink()
    heal([given], apply=True)
    records = [each["record"] for each in lost(given)]
    assert records == [json.loads(bad[0]), None, json.loads(bad[0])]  # {broken and [1, 2] are one


def test_several_lists_over_nested_folders(tmp_path: Path) -> None:
    data = tmp_path / "data"
    picture(data / "llava/images/00453/1.jpg")
    picture(data / "llava/images/00453/2.JPG")
    long = pair(tmp_path, [row("llava/images/00453/1.jpg"), row("llava/images/00453/2.jpg")], "pt.json")
    short = pair(tmp_path, [row("00453/1.jpg"), row("00453/2.jpg"), row("00453/3.jpg")], "lcs.json")
    pairs = [long, Pair(short.json, data / "llava/images")]
    report = heal(pairs, apply=True)
    assert report.repairs == {"link": 1}
    assert [(c.name, c.found, c.repaired, c.lost) for each in report.lists for c in each.collections] == [
        ("llava/images", 1, 1, 0),
        (".", 1, 1, 1),
    ]
    assert not (data / "llava/images/.prep-heal").exists()
    assert len(kept(long)) == 2 and len(kept(pairs[1])) == 2


def test_a_list_of_someone_else_is_not_written_over(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg")])
    picture(given.images / "A.jpg")
    given.healed.write_text("mine")
    with pytest.raises(UsageError, match=r"list\.healed\.json is there"):
        heal([given], apply=True)
    assert given.healed.read_text() == "mine" and not (given.images / "a.jpg").exists()


@pytest.mark.parametrize("name", ["list.healed.json", "list.missing.jsonl"])
def test_a_list_that_was_edited_is_not_written_over(name: str, tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg"), row("b.jpg")])
    picture(given.images / "A.jpg")
    heal([given], apply=True)
    (tmp_path / name).write_text("mine")
    picture(given.images / "B.jpg")
    with pytest.raises(UsageError, match=rf"{name} was changed since `prep heal` wrote it"):
        heal([given], apply=True)
    assert (tmp_path / name).read_text() == "mine" and not (given.images / "b.jpg").exists()


def test_lists_of_ours_are_known_by_another_spelling(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg")])
    picture(given.images / "A.jpg")
    (tmp_path / "link").symlink_to(".")
    for above in ("data/..", "link", "."):
        heal([Pair(tmp_path / above / "list.json", given.images)], apply=True)
        assert heal([given], apply=True).journals == []
    twice = [given, Pair(tmp_path / "link/list.json", given.images)]
    with pytest.raises(UsageError, match="two lists would be written to one file"):
        heal(twice, apply=True)


def test_nothing_to_do_changes_nothing(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg"), row("gone.jpg")])
    picture(given.images / "A.jpg")
    heal([given], apply=True)
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (given.healed, given.missing)]
    shown = prep(tmp_path, "heal", "--json", "list.json", "--images", "data", "--apply")
    assert shown.stderr.splitlines()[-1] == "Nothing was to do; nothing was changed."
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (given.healed, given.missing)] == before


@pytest.mark.parametrize("above", ["data", "link", "link/../data"])
def test_a_folder_may_be_relative_or_a_link(above: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = pair(tmp_path, [row("a.jpg")])
    picture(given.images / "a.jpg", "GIF", "P")
    (tmp_path / "link").symlink_to("data")
    before = tree_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert heal([Pair(Path("list.json"), Path(above))], apply=True).repairs == {"encode": 1}
    undo_all([Path(above)])
    assert tree_of(tmp_path) == before


def test_a_folder_a_step_off_is_named(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("coco/train2017/1.jpg")])
    picture(given.images / "coco/train2017/1.jpg")
    with pytest.raises(UsageError) as caught:
        heal([Pair(given.json, given.images / "coco")])
    assert caught.value.next_step == f"Give --images {given.images}"


# -- what can go wrong -------------------------------------------------------------------------------------------


def test_decoding_finds_what_the_ends_do_not_tell(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg"), row("b.jpg"), row("c.jpg")])
    data = bytearray(picture(given.images / "a.jpg").read_bytes())
    data[200:-100] = bytes(len(data) - 300)
    (given.images / "a.jpg").write_bytes(data)
    picture(given.images / "b.jpg")
    shutil.copy(given.images / "b.jpg", given.images / "c.jpg")
    assert causes(heal([given])) == {}
    report = heal([given], decode=True)
    assert causes(report) in ({"undecodable": 1}, {"not_an_image": 1}) and report.same_bytes == 1


def test_an_image_that_cannot_be_encoded_is_lost(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg")])
    data = bytearray(picture(given.images / "a.jpg", "PNG").read_bytes())
    data[60:-60] = bytes(len(data) - 120)
    (given.images / "a.jpg").write_bytes(data)
    report = heal([given], apply=True)
    assert causes(report) == {"repair_failed": 1} and (given.images / "a.jpg").read_bytes() == data
    assert lost(given)[0]["detail"].startswith("wrong_format: ")


def test_a_file_where_a_folder_has_to_be(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("set/images/1.jpg"), row("set/2.jpg")])
    picture(given.images / "set/1.jpg")
    picture(given.images / "set/set/2.jpg")
    (given.images / "set/images").write_text("in the way")
    report = heal([given], apply=True)
    assert causes(report) == {"folder": 1, "repair_failed": 1}
    assert undo(given.images).left == []
    assert sorted(tree_of(given.images)) == ["set", "set/1.jpg", "set/images", "set/set", "set/set/2.jpg"]


def test_undo_leaves_what_was_changed_since(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg"), row("b.jpg")])
    picture(given.images / "a.gif", "GIF", "P")
    picture(given.images / "B.jpg")
    heal([given], apply=True)
    picture(given.images / "a.jpg")
    (given.images / "B.jpg").unlink()
    result = undo(given.images)
    assert result.left == [("a.jpg", "it is another file now")]
    assert sorted(tree_of(given.images)) == ["B.jpg", "a.gif", "a.jpg"]  # B.jpg has its name back


def test_one_at_a_time(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a.jpg")])
    with locked(given.images), pytest.raises(WorkspaceError, match="another `prep heal`"):
        heal([given], apply=True)


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who may not write everywhere; root may."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_folder_that_is_read_only() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = pair(folder, [row("a.jpg"), row("b.jpg")])
        picture(given.images / "A.jpg")
        picture(given.images / "b.jpg")
        before = tree_of(folder)
        given.images.chmod(0o555)
        folder.chmod(0o555)
        with nobody():
            assert causes(heal([given])) == {"case": 1}  # looking needs no right to write
            with pytest.raises(PermissionError):
                heal([given], apply=True)
        folder.chmod(0o755)
        given.images.chmod(0o755)
        assert tree_of(folder) == before


def test_lists_that_cannot_be_written_are_told_before_anything_is_repaired() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        given = pair(folder, [row("a.jpg")])
        picture(given.images / "A.jpg")
        long = folder / f"{'n' * 245}.json"
        shutil.copy(given.json, long)
        before = tree_of(folder)
        with pytest.raises(WorkspaceError, match="File name too long"):
            heal([Pair(long, given.images)], apply=True)
        shutil.rmtree(given.images / ".prep-heal")
        given.images.chmod(0o777)
        folder.chmod(0o555)
        with nobody(), pytest.raises(WorkspaceError, match=r"list\.healed\.json: Permission denied"):
            heal([given], apply=True)
        folder.chmod(0o755)
        assert tree_of(folder) == before


# -- killed ------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from prep import progress
from prep.heal import heal as module, repairs
from prep.heal.rows import Pair

touches, moment = 0, int(sys.argv[3])
def count(event, arguments):
    global touches
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event in ("os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir") or writes:
        if not str(arguments[0]).startswith(sys.argv[4]):
            return
        touches += 1
        if touches == moment:
            os.kill(os.getpid(), signal.SIGKILL)

progress.use(progress.no_bar)
repairs.BATCH = module.BATCH = 3
folder = Path(sys.argv[2])
sys.addaudithook(count)
if sys.argv[1] == "heal":
    module.heal([Pair(folder / "list.json", folder / "data")], apply=True)
else:
    module.undo_all([folder / "data"])
"""


def killed(folder: Path, what: str, moment: int) -> bool:
    """Whether `heal` or `undo` was killed at its `moment`-th change below the folder."""
    command = [sys.executable, "-c", KILLED, what, str(folder), str(moment), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9


def test_killed_at_any_moment(tmp_path: Path) -> None:
    given = damaged(tmp_path)
    before = tree_of(tmp_path)
    heal([given], apply=True)
    healed = tree_of(tmp_path)
    undo(given.images)
    moments = [1, 3, 6, 10, 15, 21, 28]
    kills = [killed(tmp_path, "heal", moment) for moment in moments]
    assert kills.count(True) >= 5
    heal([given], apply=True)
    assert tree_of(tmp_path) == healed
    for moment in (2, 5, 9, 14):
        killed(tmp_path, "undo", moment)
    heal_again = undo(given.images) if any((given.images / ".prep-heal").glob("journal-*")) else None
    assert heal_again is None or heal_again.left == []
    assert tree_of(tmp_path) == before


def test_what_was_planned_and_never_made_needs_no_undoing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = pair(tmp_path, [row("a.jpg"), row("b.jpg")])
    for name in ("a.jpg", "b.gif"):
        picture(given.images / name, "GIF", "P")
    before = tree_of(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Surgeon, "_do", interrupt)
        heal([given], apply=True)
    [journal] = given.images.glob(".prep-heal/journal-*")
    assert journal.read_text().count('"do": "encode"') == 2
    [result] = undo_all([given.images])
    assert (result.undone, result.left) == (0, [])
    assert tree_of(tmp_path) == before


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# -- the command -------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    given = pair(tmp_path, [row("a/b.jpg"), row("a/gone.jpg")])
    picture(given.images / "a/B.jpg")
    shown = prep(tmp_path, "heal", "--json", "list.json", "--images", "data")
    assert shown.returncode == 0
    assert [line.rstrip() for line in shown.stdout.splitlines()] == [
        "list.json with data",
        "collection  rows  found  repairable  lost  why",
        "a              2      0           1     1  1 case, 1 missing",
        "",
        "case: its name has other letter case",
        "  a/b.jpg <- a/B.jpg (link)",
        "missing: there is no such file, nor one of a similar name",
        "  a/gone.jpg",
        "",
        "1 images get a second name (hard link); 1 rows are lost.",
    ]
    assert shown.stderr == "Nothing was changed. The same command with --apply does it.\n"
    options = ("--json", "list.json", "--images", "data")
    done = prep(tmp_path, "heal", *options, "--apply", "--as-json")
    document = json.loads(done.stdout)
    assert (document["applied"], document["repairs"], document["lists"][0]["healed"]) == (
        True,
        {"link": 1},
        "list.healed.json",
    )
    assert (
        done.stderr.splitlines()[0]
        == '{"event": "start", "stage": "list", "name": "data", "done": 0, "total": null, "unit": "files"}'
    )
    undone = prep(tmp_path, "heal", "--images", "data", "--undo", "--as-json")
    assert json.loads(undone.stdout) == [{"images": "data", "undone": 3, "left": []}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing says what to heal"),
        (["--json", "list.json"], "--json and --images go together"),
        (["--json", "gone.json", "--images", "data"], "there is no list gone.json"),
        (["--json", "list.json", "--images", "gone"], "there is no folder gone"),
        (["--json", "list.json", "--images", "data", "--images", "data"], "1 times --json and 2 times --images"),
        (["--root", ".", "--images", "data"], "--root names every list"),
        (["--root", "."], "data has none of ConvLLaVA's lists"),
        (["--json", "list.json", "--images", "data", "--verify", "all"], "--verify all: must be decode"),
        (["--images", "data", "--undo"], "there is nothing to undo"),
        (["--images", "data", "--undo", "--apply"], "--undo goes alone"),
        (["--json", "list.json", "--images", ""], "--images is empty"),
        (["--json", "", "--images", "data"], "--json is empty"),
        (["--root", ""], "--root is empty"),
        (["--images", "", "--undo"], "--images is empty"),
    ],
)
def test_options_that_do_not_fit(options: list[str], message: str, tmp_path: Path) -> None:
    pair(tmp_path, [row("a.jpg")])
    done = prep(tmp_path, "heal", *options)
    assert done.returncode == 1 and f"Error: {message}" in done.stderr.replace(f"{tmp_path}/", "")


def test_the_tree(tmp_path: Path) -> None:
    data = tmp_path / "data"
    picture(data / "coco/train2017/1.JPG")
    picture(data / "llava/llava_pretrain/images/00453/2.jpg")
    (data / "llava/llava_v1_5_mix665k.json").write_text(json.dumps([row("coco/train2017/1.jpg")]))
    (data / "llava/llava_pretrain/blip_laion_cc_sbu_558k.json").write_text(json.dumps([row("00453/2.jpg")]))
    assert [each.json.name for each in tree_pairs(tmp_path)] == [
        "blip_laion_cc_sbu_558k.json",
        "llava_v1_5_mix665k.json",
    ]
    (tmp_path / "prep.yaml").write_text("recipe: recipe.yaml")
    (tmp_path / "recipe.yaml").write_text("{name: x, entries: []}")
    reports = [prep_heal(tmp_path), prep_heal(tmp_path, "--root", "data")]
    assert [[each["total"]["causes"] for each in report["lists"]] for report in reports] == [[{}, {"case": 1}]] * 2


def test_two_trees_of_one_root(tmp_path: Path) -> None:
    name = "llava/llava_v1_5_mix665k.json"
    for folder in ("", "data"):
        (tmp_path / folder / "llava").mkdir(parents=True)
    (tmp_path / name).write_text("[]")
    assert [each.json for each in tree_pairs(tmp_path)] == [tmp_path / name]
    (tmp_path / "data" / name).write_text("[]")
    with pytest.raises(UsageError, match="both hold lists of the tree") as caught:
        tree_pairs(tmp_path)
    assert f"--root {tmp_path / 'data'}" in caught.value.next_step
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").symlink_to(".")
    assert [each.json for each in tree_pairs(tmp_path)] == [tmp_path / "data" / name]


def prep_heal(folder: Path, *options: str) -> Any:
    done = prep(folder, "heal", *options, "--as-json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_errors_are_told_as_a_document(tmp_path: Path) -> None:
    done = prep(tmp_path, "heal", "--as-json")
    assert done.returncode == 1 and json.loads(done.stdout)["errors"][0]["message"] == "nothing says what to heal"


def test_every_cause_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "healing.md").read_text(encoding="utf-8")
    table = page.partition("## Causes")[2].partition("Causes of names")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(cause for cell in cells for cause in re.findall(r"`(\w+)`", cell)) == sorted(CAUSES)
