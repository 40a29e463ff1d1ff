"""Trees in which a move would break something: links, strays, loops, pipes, the wrong folder named."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from trees import files, listing, make, moves

from prep.errors import UsageError
from prep.layout import Layout, lay_out
from prep.layout.journal import FOLDER, NAME, undo
from prep.layout.places import place_of

HOLE = "allava/allava_vflan/images"
VFLAN = "vflan/images_191task_1k"
OLD = f"{HOLE}/images_191task_1k/a.jpg"
KNOWN = "wikiart/images/known.jpg"


def settled(root: Path) -> Layout:
    """Lay out a tree; a second run and a dry run before must agree with the first, and `undo` be exact."""
    before = listing(root)
    planned = lay_out(root, None, dry_run=True)
    assert listing(root) == before
    layout = lay_out(root, None)
    assert (moves(planned), planned.found.links) == (moves(layout), layout.found.links)
    after, journal = listing(root), (root / FOLDER / NAME).read_bytes() if (root / FOLDER).exists() else b""
    again = lay_out(root, None)
    assert (moves(again), again.found.links, listing(root)) == ([], {}, after)
    assert not journal or (root / FOLDER / NAME).read_bytes() == journal
    if journal:
        undo(root)
    assert listing(root) == before
    return lay_out(root, None)


# -- the place where ALLaVA's lists look for Vision-Flan's pictures ----------------------------------------------


@pytest.mark.parametrize("stray", [".DS_Store", "images_191task_1k.zip", "notes.txt"])
def test_a_stray_file_beside_the_pictures_of_allava(stray: str, tmp_path: Path) -> None:
    layout = settled(make(tmp_path, OLD, f"{HOLE}/{stray}"))
    assert moves(layout) == [(f"{HOLE}/images_191task_1k", VFLAN, 1)]
    assert layout.found.links == {f"{HOLE}/images_191task_1k": f"../../../{VFLAN}"}
    assert (tmp_path / OLD).is_file() and (tmp_path / VFLAN / "a.jpg").is_file() and (tmp_path / HOLE / stray).is_file()
    assert layout.tree is not None and layout.tree.holes[HOLE] == "there"


def test_a_folder_that_litter_is_in_moves_with_it(tmp_path: Path) -> None:
    layout = settled(make(tmp_path, OLD, f"{HOLE}/images_191task_1k/.DS_Store", f"{HOLE}/images_191task_1k/Thumbs.db"))
    assert layout.found.links == {HOLE: "../../vflan"} and (tmp_path / VFLAN / ".DS_Store").is_file()
    assert (tmp_path / OLD).is_file()


@pytest.mark.parametrize("other", ["notes.txt", "more/b.jpg"])
def test_pictures_of_allava_among_other_things_stay_where_they_serve(other: str, tmp_path: Path) -> None:
    layout = settled(make(tmp_path, OLD, f"{HOLE}/images_191task_1k/{other}"))
    assert (moves(layout), layout.found.links, (tmp_path / OLD).is_file()) == ([], {}, True)
    assert layout.found.left == [
        f"{HOLE}/images_191task_1k stays, since it serves where it is and cannot go to {VFLAN} as a whole: take other "
        "things out of it",
        *(["1 picture in " + f"{HOLE}/images_191task_1k/more: no rule knows this folder"] * (other == "more/b.jpg")),
    ]


def test_a_folder_without_pictures_in_the_place_of_the_link(tmp_path: Path) -> None:
    layout = settled(make(tmp_path, f"{HOLE}/.gitkeep", f"{VFLAN}/a.jpg"))
    assert layout.found.links == {f"{HOLE}/images_191task_1k": f"../../../{VFLAN}"} and (tmp_path / OLD).is_file()


def test_a_hole_that_leads_to_no_pictures_is_not_filled(tmp_path: Path) -> None:
    tree = lay_out(make(tmp_path, KNOWN, "vflan/annotation_191-task_1k.json"), None).tree
    assert tree is not None and tree.holes[HOLE] == "leads to nothing yet"


# -- links -------------------------------------------------------------------------------------------------------


def test_a_folder_with_links_that_lead_out_of_it_stays(tmp_path: Path) -> None:
    make(tmp_path, "store/a.jpg", "data/llava/00001/y.jpg", "data/llava/00002/y.jpg")
    (tmp_path / "data/llava/00001/x.jpg").symlink_to("../../../store/a.jpg")
    (tmp_path / "data/llava/00002/x.jpg").symlink_to("y.jpg")  # within: it moves along
    layout = settled(tmp_path / "data")
    assert moves(layout) == [("llava", "llava/llava_pretrain/images", 1)]
    assert layout.found.left == ["1 name in llava is or holds a link that would lead nowhere from another folder"]
    links = [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert {path.name for path in links if not path.exists()} == {"images"}  # ALLaVA's, to a vflan that is not there
    assert (tmp_path / "data/llava/00001/x.jpg").read_text() == "store/a.jpg"


@pytest.mark.parametrize("is_whole_path", [True, False])
@pytest.mark.parametrize("leads_to", ["coco/train2017/train2017", "coco/train2017/train2017/000000000009.jpg", "data"])
def test_what_a_link_leads_to_stays(leads_to: str, is_whole_path: bool, tmp_path: Path) -> None:
    make(tmp_path, "coco/train2017/train2017/000000000009.jpg", "data/wikiart/x.jpg", KNOWN)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/link").symlink_to(tmp_path / leads_to if is_whole_path else f"../{leads_to}")
    layout = settled(tmp_path)
    stays, moved = ("data/wikiart", "coco/train2017/train2017")[:: 1 if leads_to == "data" else -1]
    assert [source for source, *_ in moves(layout)] == [moved]
    assert layout.found.left == [f"{stays}: the link mine/link leads there; take it away first"]
    assert (tmp_path / "mine/link").exists()


def test_a_link_between_lcs_folders(tmp_path: Path) -> None:
    make(tmp_path, "llava/llava_pretrain/images/00001/a.jpg", "coco/train2017/train2017/000000000009.jpg")
    at = tmp_path / "llava/llava_pretrain/images/00001/b.jpg"
    at.symlink_to("../../../../coco/train2017/train2017/000000000009.jpg")
    assert moves(settled(tmp_path)) == [] and at.is_file()


def test_a_loop_of_links(tmp_path: Path) -> None:
    make(tmp_path, "wikiart/a.jpg")
    for loop in ("loop", "wikiart/loop.jpg", "wikiart/images", "coco"):
        (tmp_path / loop).symlink_to(loop.rpartition("/")[2])
    layout = settled(tmp_path)
    assert moves(layout) == []
    assert layout.found.left == [
        "1 name in wikiart is or holds a link that would lead nowhere from another folder",
        "wikiart: something else stands at wikiart/images",
    ]
    with pytest.raises(UsageError, match="there is no folder"):
        lay_out(tmp_path / "loop", None)


# -- whose is it? ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["share_textvqa/train_images", "sam/train_images", "coco/train_val_images",
                                    "llava/train2017", "wikiart/images/train_images"])  # fmt: skip
def test_a_folder_of_another_collection_is_left_alone(folder: str, tmp_path: Path) -> None:
    path = f"{folder}/0a1b2c3d4e5f6071.jpg"
    assert moves(settled(make(tmp_path, path, KNOWN))) == []
    assert place_of(folder.split("/")) is None


@pytest.mark.parametrize(("path", "place"), {
    "llava/coco/train2017": "coco/train2017", "LLaVA/playground/data/textvqa/train_images": "textvqa/train_images",
    "gqa/VG_100K": "vg/VG_100K", "allava/allava_vflan": VFLAN,
}.items())  # fmt: skip
def test_the_innermost_collection_has_it(path: str, place: str) -> None:
    found = place_of(path.split("/"))
    assert found is not None and found.path == place


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    make(tmp_path, KNOWN)
    for name in ("train2017.zip", "llava_v1_5_mix665k.json", "wikiart/pipe.jpg"):
        os.mkfifo(tmp_path / name)
    layout = lay_out(tmp_path, None)
    assert (moves(layout), layout.archives, layout.found.left) == ([], [], [])


def zipped(path: Path, *members: str) -> Path:
    """A zip of members whose content is their name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for member in members:
            file.writestr(member, member)
    return path


@pytest.mark.parametrize(("path", "member", "into"), [
    ("gqa/images.zip", "images/1.jpg", "gqa"), ("gqa/images.zip", "1.jpg", "gqa/images"),
    ("allava/allava_laion/images.zip", "images/1.jpg", "allava/allava_laion"),
    ("wikiart/images.zip", "images/x.jpg", "wikiart"), ("data/wikiart/images_1.zip", "x.jpg", "wikiart/images"),
    ("gqa/images.zip", "VG_100K/2.jpg", "vg"), ("llava/llava_pretrain/images.zip", "00000/1.jpg",
    "llava/llava_pretrain/images"), ("images_1.zip", "1.jpg", "allava/allava_laion"),
    ("images.zip", "images/1.jpg", None), ("coco/images.zip", "images/1.jpg", None), ("mine.zip", "x/y.txt", None),
])  # fmt: skip
def test_the_folder_that_an_archive_lies_in_decides(path: str, member: str, into: str | None, tmp_path: Path) -> None:
    make(tmp_path, KNOWN)
    zipped(tmp_path / path, member)
    layout = lay_out(tmp_path, None, dry_run=True)
    assert [archive.command.rpartition(" -d ")[2] for archive in layout.archives] == (
        [] if into is None else [f"{tmp_path}/{into}"]
    )
    folder, _, name = path.rpartition("/")
    unknown = f"1 archive in {folder or '.'} of which nothing says whose it is, such as {name}"
    assert layout.found.left == ([unknown] if into is None else [])


# -- honest words ------------------------------------------------------------------------------------------------


def test_a_link_that_leads_nowhere_in_the_place_of_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "gqa/2.jpg", KNOWN, "sharegpt4v", "x/sharegpt4v_instruct_gpt4-vision_cap100k.json")
    (tmp_path / "gqa/images").symlink_to("nothing")
    layout = settled(tmp_path)
    assert moves(layout) == []
    assert layout.found.left == [
        "gqa: something else stands at gqa/images",
        "x/sharegpt4v_instruct_gpt4-vision_cap100k.json: something else stands at sharegpt4v",
    ]


def test_a_disk_mounted_in_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "train2017/000000000009.jpg", "coco/x", "wikiart/a.jpg")
    rename = os.rename

    def refuse(old: str, new: str) -> None:
        if "train2017" in str(old):
            raise OSError(18, os.strerror(18), old)
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    layout = lay_out(tmp_path, None)
    assert moves(layout) == [("wikiart", "wikiart/images", 1)]
    assert layout.found.left == ["train2017 is on another disk than coco/train2017: move it by hand"]
    journal = (tmp_path / FOLDER / NAME).read_text()
    assert moves(lay_out(tmp_path, None)) == [] and (tmp_path / FOLDER / NAME).read_text() == journal


def test_two_loose_places_with_the_same_lcs_folder_settle_in_one_run(tmp_path: Path) -> None:
    place = "llava/llava_pretrain/images/00002"
    make(tmp_path, "llava/images/00002/4.jpg", "llava/00002/5.jpg", "llava/00002/4.jpg", "LLaVA-Pretrain/00002/5.jpg")
    layout = settled(make(tmp_path, "LLaVA-Pretrain/00002/6.jpg"))
    assert layout.found.left == [
        f"1 name of {source} in {place} too" for source in ("llava/00002", "llava/images/00002")
    ]
    assert files(tmp_path) == {
        f"{place}/4.jpg": "llava/00002/4.jpg",
        f"{place}/5.jpg": "LLaVA-Pretrain/00002/5.jpg",
        f"{place}/6.jpg": "LLaVA-Pretrain/00002/6.jpg",
        "llava/00002/5.jpg": "llava/00002/5.jpg",
        "llava/images/00002/4.jpg": "llava/images/00002/4.jpg",
    }


# -- which folder is named ---------------------------------------------------------------------------------------


def test_a_folder_that_is_too_high_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make(tmp_path / "users/me", KNOWN)
    monkeypatch.setenv("HOME", str(home))
    for folder in (Path("/"), home, home.parent):
        with pytest.raises(UsageError, match="holds more than a tree") as raised:
            lay_out(folder, None)
        assert "--root DIR" in raised.value.next_step
    assert files(home) == {KNOWN: KNOWN}


def test_the_folder_around_the_tree_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "data/coco/train2017/000000000009.jpg", "train.py")
    with pytest.raises(UsageError, match="but in its data") as raised:
        lay_out(tmp_path, None)
    assert f"--root {tmp_path}/data" in raised.value.next_step
    make(tmp_path, "data/data/web-celebrity/images/a.jpg")
    assert [move[0] for move in moves(lay_out(tmp_path / "data", None))] == ["data/web-celebrity/images"]


@pytest.mark.parametrize("beside", ["coco/x", "web-landmakr.zip", "llava_v1_5_mix665k.json"])
def test_a_wrapper_beside_collections_is_unwrapped(beside: str, tmp_path: Path) -> None:
    make(tmp_path, "data/web-celebrity/images/a.jpg", beside)
    lay_out(tmp_path, None)
    assert files(tmp_path)["web-celebrity/images/a.jpg"] == "data/web-celebrity/images/a.jpg"
