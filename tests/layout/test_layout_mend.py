"""Trees that people have, mended by moves: what is found, what is left, and that all of it can be taken back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import files, listing, make, moves

import prep.layout
from prep.errors import UsageError, WorkspaceError
from prep.layout import lay_out
from prep.layout.journal import FOLDER, NAME, open_journal, undo
from prep.layout.places import place_of
from prep.layout.search import find
from prep.trainers.convllava import FOLDERS, NAMES

HOLE = {"allava/allava_vflan/images": "../../vflan"}


# One wrong tree each -> where its files must be.
WRONG = {
    "data/data/web-celebrity/images/a+b c.jpg": "web-celebrity/images/a+b c.jpg",
    "web-celebrity/data/web-celebrity/images/Choi_Min-sik.jpg": "web-celebrity/images/Choi_Min-sik.jpg",
    "web-landmakr/images/x.jpg": "web-landmark/images/x.jpg",
    "wikiart/x.jpg": "wikiart/images/x.jpg",
    "share_textvqa/images/images/x.jpg": "share_textvqa/images/x.jpg",
    "coco/train2017/train2017/000000000009.jpg": "coco/train2017/000000000009.jpg",
    "train2017/000000000009.jpg": "coco/train2017/000000000009.jpg",
    "ShareGPT4V/data/coco/train2017/000000000009.jpg": "coco/train2017/000000000009.jpg",
    "gqa/images/images/n1234567.jpg": "gqa/images/n1234567.jpg",
    "gqa/2375429.jpg": "gqa/images/2375429.jpg",
    "textvqa/train_val_images/train_images/0a1b2c3d4e5f6071.jpg": "textvqa/train_images/0a1b2c3d4e5f6071.jpg",
    "textvqa/images/0a1b2c3d4e5f6071.jpg": "textvqa/train_images/0a1b2c3d4e5f6071.jpg",
    "vg/VG_100K_2/VG_100K/2.jpg": "vg/VG_100K/2.jpg",
    "vg/images/VG_100K_2/51.jpg": "vg/VG_100K_2/51.jpg",
    "vg/vg_100k/2.jpg": "vg/VG_100K/2.jpg",
    "gqa/VG_100K/2.jpg": "vg/VG_100K/2.jpg",
    "vg/VG_100K/images/2.jpg": "vg/VG_100K/2.jpg",
    "llava/llava_pretrain/00453/004539375.jpg": "llava/llava_pretrain/images/00453/004539375.jpg",
    "llava/llava_pretrain/images/images/00453/004539375.jpg": "llava/llava_pretrain/images/00453/004539375.jpg",
    "LLaVA-Pretrain/images/00453/004539375.jpg": "llava/llava_pretrain/images/00453/004539375.jpg",
    "sam/sa_1.jpg": "sam/images/sa_1.jpg",
    "sam/images/sa_000000/sa_1.jpg": "sam/images/sa_1.jpg",
    "ocr-vqa/images/076118327X.jpg": "ocr_vqa/images/076118327X.jpg",
    "vflan/images/images_191task_1k/é金+1.png": "vflan/images_191task_1k/é金+1.png",
    "vflan/image_191-task_1k/a.png": "vflan/images_191task_1k/a.png",
    "allava/allava_vflan/images/images_191task_1k/a.png": "vflan/images_191task_1k/a.png",
    "allava/allava_laion/images/images/100277305.jpeg": "allava/allava_laion/images/100277305.jpeg",
    "allava/allava_laion/image_chunks/images/1.webp": "allava/allava_laion/images/1.webp",
    "llava_v1_5_mix665k.json": "llava/llava_v1_5_mix665k.json",
    "my lists/deep/ALLaVA-Caption-VFLAN-4V.json": "allava/allava_vflan/ALLaVA-Caption-VFLAN-4V.json",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_lies_wrong_is_put_right_and_back(wrong: str, tmp_path: Path) -> None:
    make(tmp_path, wrong)
    before = listing(tmp_path)
    assert moves(lay_out(tmp_path, None, dry_run=True)) == moves(layout := lay_out(tmp_path, None))
    assert (len(layout.found.moves), layout.found.left) == (1, [])
    assert files(tmp_path) == {WRONG[wrong]: wrong}
    assert (tmp_path / "allava/allava_vflan/images").readlink() == Path("../../vflan")
    after = listing(tmp_path)
    again = lay_out(tmp_path, None)
    assert (again.found.moves, again.found.links, again.found.left, listing(tmp_path)) == ([], {}, [], after)
    assert undo(tmp_path).left == []
    assert listing(tmp_path) == before and not (tmp_path / FOLDER).exists()


def test_all_at_once(tmp_path: Path) -> None:
    wrong = {target: source for source, target in WRONG.items()}  # one source for each target
    make(tmp_path, *wrong.values())
    before = listing(tmp_path)
    lay_out(tmp_path, None)
    assert files(tmp_path) == wrong
    undo(tmp_path)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_right_folder_means_itself(folder: str) -> None:
    place = place_of(folder.split("/"))
    assert place is not None and place.path == folder


@pytest.mark.parametrize(
    "path",
    [
        "eval/gqa/images/1.jpg",  # below a folder that is not the tree's
        "coco/val2017/000000000139.jpg",  # another split
        "coco/annotations/panoptic/train2017/000000000009.png",
        "train2017/a.jpg",  # not called like COCO's
        "images/2375429.jpg",  # of whom?
        "wikiart/Impressionism/x.jpg",
        "llava/model/train.py",
        "vg/VG_100K/2.png",
    ],
)
def test_what_is_not_known_stays(path: str, tmp_path: Path) -> None:
    make(tmp_path, path, "wikiart/images/right.jpg")
    assert moves(lay_out(tmp_path, None)) == []
    assert files(tmp_path) == {path: path, "wikiart/images/right.jpg": "wikiart/images/right.jpg"}


def test_nothing_is_replaced_and_what_is_left_is_named(tmp_path: Path) -> None:
    double, mine = "coco/train2017/train2017/000000000009.jpg", "coco/train2017/train2017/readme.txt"
    make(tmp_path, double, mine, "coco/train2017/000000000009.jpg", "coco/train2017/train2017/000000000025.jpg")
    make(tmp_path, "notes/a.jpg", "vg/vg_100k/2.jpg", "vg/VG_100K/2.jpg", "vg/VG_100K/3.jpg")
    layout = lay_out(tmp_path, None)
    assert moves(layout) == [("coco/train2017/train2017", "coco/train2017", 1)]
    assert layout.found.left == [
        "1 name of coco/train2017/train2017 in coco/train2017 too",
        "1 picture in notes: no rule knows this folder",
        "1 name of vg/vg_100k in vg/VG_100K too",
    ]
    right = ["coco/train2017/000000000009.jpg", "notes/a.jpg", "vg/VG_100K/2.jpg", "vg/VG_100K/3.jpg"]
    stay = [double, mine, "vg/vg_100k/2.jpg", *right]
    moved = {"coco/train2017/000000000025.jpg": "coco/train2017/train2017/000000000025.jpg"}
    assert files(tmp_path) == {path: path for path in stay} | moved


def test_two_folders_for_one_place_become_one(tmp_path: Path) -> None:
    make(tmp_path, "train2017/000000000001.jpg", "data/coco/train2017/000000000002.jpg")
    make(tmp_path, "data/coco/train2017/000000000001.jpg")
    layout = lay_out(tmp_path, None, dry_run=True)
    assert moves(layout) == [("data/coco/train2017", "coco/train2017", 2)]
    assert layout.found.left == ["1 name of train2017 in coco/train2017 too"]
    make(tmp_path, "train2017/000000000003.jpg")
    lay_out(tmp_path, None)
    assert files(tmp_path) == {
        "coco/train2017/000000000001.jpg": "data/coco/train2017/000000000001.jpg",
        "coco/train2017/000000000002.jpg": "data/coco/train2017/000000000002.jpg",
        "coco/train2017/000000000003.jpg": "train2017/000000000003.jpg",
        "train2017/000000000001.jpg": "train2017/000000000001.jpg",
    }


def test_lcs_unpacked_in_two_halves(tmp_path: Path) -> None:
    right, wrong = "llava/llava_pretrain/images/00453", "llava/llava_pretrain/00453"
    make(tmp_path, f"{right}/004530001.jpg", f"{right}/004530002.jpg", f"{wrong}/004530002.jpg")
    make(tmp_path, f"{wrong}/004530003.jpg", "llava/llava_pretrain/00454/004540001.jpg")
    before = listing(tmp_path)
    assert lay_out(tmp_path, None).found.left == [f"1 name of {wrong} in {right} too"]
    assert files(tmp_path) == {
        f"{right}/004530001.jpg": f"{right}/004530001.jpg",
        f"{right}/004530002.jpg": f"{right}/004530002.jpg",
        f"{right}/004530003.jpg": f"{wrong}/004530003.jpg",
        f"{wrong}/004530002.jpg": f"{wrong}/004530002.jpg",
        "llava/llava_pretrain/images/00454/004540001.jpg": "llava/llava_pretrain/00454/004540001.jpg",
    }
    undo(tmp_path)
    assert listing(tmp_path) == before


def test_two_lists_of_one_name(tmp_path: Path) -> None:
    name, target = "llava_v1_5_mix665k.json", "llava/llava_v1_5_mix665k.json"
    make(tmp_path, f"a/{name}", f"b/c/{name}")
    left = lay_out(tmp_path, None).found.left
    assert left == [
        f"b/c/{name} is another file than a/{name}",
        f"{name} is not put in place: move the right one to {target}",
    ]
    (tmp_path / f"b/c/{name}").write_text(f"a/{name}")  # now the same bytes
    assert lay_out(tmp_path, None).found.left == [f"b/c/{name} is the same file again"]
    assert files(tmp_path) == {target: f"a/{name}", f"b/c/{name}": f"a/{name}"}


def test_the_holes(tmp_path: Path) -> None:
    make(tmp_path, "vflan/images_191task_1k/a.png", "sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107.json")
    layout = lay_out(tmp_path, None)
    assert layout.found.links == HOLE and layout.tree is not None
    assert layout.tree.holes == {"llava/llava_pretrain/images": "missing", "allava/allava_vflan/images": "there"}
    lcs = next(folder for folder in layout.tree.folders if folder.folder == "llava/llava_pretrain/images")
    assert (lcs.expected, lcs.found, lcs.missing) == (558_128, 0, 558_128)
    assert lcs.brings == "prep download lcs-558k && prep images lcs-558k"
    link = tmp_path / "allava/allava_vflan/images"
    assert (link / "images_191task_1k/a.png").is_file()
    status = link.lstat()
    assert lay_out(tmp_path, None).found.links == {} and link.lstat() == status


def test_a_link_that_leads_elsewhere_and_a_second_copy_stay(tmp_path: Path) -> None:
    make(tmp_path, "vflan/images_191task_1k/a.png", "allava/allava_vflan/images/images_191task_1k/a.png")
    left = ["allava/allava_vflan/images/images_191task_1k is a second copy of vflan/images_191task_1k; "]
    layout = lay_out(tmp_path, None)
    assert [sentence[: len(left[0])] for sentence in layout.found.left] == left and layout.found.links == {}
    other = make(tmp_path / "other", "wikiart/images/a.jpg", "allava/allava_vflan/x.txt", "pictures/x.txt")
    (other / "allava/allava_vflan/images").symlink_to("../../pictures")
    left = ["allava/allava_vflan/images is a link to ../../pictures and should lead to ../../vflan"]
    assert lay_out(other, None).found.left == left


def test_the_table_counts_and_pairs_are_absolute(tmp_path: Path) -> None:
    make(tmp_path, *(f"{folder}/{'00000/' * ('pretrain' in folder)}{n}.jpg" for folder in FOLDERS for n in range(2)))
    make(tmp_path, *(builder.json_path for builder in NAMES.values()))
    tree = lay_out(tmp_path, None).tree
    assert tree is not None
    assert {folder.folder: folder.found for folder in tree.folders} == dict.fromkeys(FOLDERS, 2)
    assert [pair.name for pair in tree.pairs] == list(NAMES)
    assert all(pair.is_there and pair.json_path.is_absolute() and not pair.brings for pair in tree.pairs)
    pairs = {pair.name: pair.image_folder for pair in tree.pairs}
    assert pairs["lcs"] == tmp_path / "llava/llava_pretrain/images" and pairs["llava665k"] == tmp_path
    assert pairs["allava_vflan_caption"] == tmp_path / "allava"


def test_archives_are_named_with_what_unpacks_them(tmp_path: Path) -> None:
    import tarfile
    import zipfile

    members = {
        "vg part.zip": "", "images.zip": "VG_100K/2.jpg", "lcs/images.zip": "00000/000000001.jpg",
        "gqa/images.zip": "images/1.jpg", "web-landmakr.zip": "data/web-landmark/images/a.jpg",
        "train2017.zip": "train2017/000000000009.jpg", "mine.zip": "x/y.txt",
    }  # fmt: skip
    for archive, member in members.items():
        (tmp_path / archive).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / archive, "w") as file:
            file.writestr(member or "VG_100K_2/51.jpg", "picture")
    sam = f"{tmp_path}/sam/images"
    with tarfile.open(tmp_path / "sa_000000.tar", "w") as tar:
        tar.add(make(tmp_path / "x", "1") / "1", "./sa_1.jpg")
    assert {a.path: a.command for a in lay_out(tmp_path, None, dry_run=True).archives} == {
        "images.zip": f"unzip -nq {tmp_path}/images.zip -d {tmp_path}/vg",
        "vg part.zip": f"unzip -nq '{tmp_path}/vg part.zip' -d {tmp_path}/vg",
        "lcs/images.zip": f"unzip -nq {tmp_path}/lcs/images.zip -d {tmp_path}/llava/llava_pretrain/images",
        "gqa/images.zip": f"unzip -nq {tmp_path}/gqa/images.zip -d {tmp_path}/gqa",
        "web-landmakr.zip": f"unzip -nq {tmp_path}/web-landmakr.zip -d {tmp_path}",
        "train2017.zip": f"unzip -nq {tmp_path}/train2017.zip -d {tmp_path}/coco",
        "sa_000000.tar": f"mkdir -p {sam} && tar -xkf {tmp_path}/sa_000000.tar -C {sam}",
    }


# -- safety ------------------------------------------------------------------------------------------------------


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"wikiart/caf\xe9.jpg")
    make(tmp_path, name)
    before = listing(tmp_path)
    layout = lay_out(tmp_path, None, dry_run=True)
    assert json.loads(json.dumps(layout.as_json(), default=str))["moves"][0]["names"] == ["caf\\xe9.jpg"]
    lay_out(tmp_path, None)
    assert (tmp_path / os.fsdecode(b"wikiart/images/caf\xe9.jpg")).is_file()
    undo(tmp_path)
    assert listing(tmp_path) == before


def test_a_root_behind_a_link_and_links_inside(tmp_path: Path) -> None:
    real = make(tmp_path / "real", "wikiart/a.jpg", "gqa/images/1.jpg")
    far = make(tmp_path / "far", "000000000009.jpg", "b.jpg")
    (tmp_path / "tree").symlink_to(real)
    (real / "train2017").symlink_to(far)  # a known name that is a link
    (real / "wikiart/far.jpg").symlink_to(far / "b.jpg")  # may move: it is a whole path
    (real / "wikiart/near.jpg").symlink_to("../gqa/images/1.jpg")  # would lead nowhere
    layout = lay_out(tmp_path / "tree", None)
    assert layout.root == real
    assert layout.found.left[0] == "train2017 is a link to a folder, and not looked into"
    assert (real / "wikiart/images/far.jpg").read_text() == "b.jpg" and (real / "wikiart/near.jpg").read_text()
    assert sorted(path.name for path in (real / "wikiart/images").iterdir()) == ["a.jpg", "far.jpg"]
    assert sorted(path.name for path in far.iterdir()) == ["000000000009.jpg", "b.jpg"]


def test_a_place_taken_since_the_look_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "train2017/000000000009.jpg", "wikiart/a.jpg")
    monkeypatch.setattr(prep.layout, "find", lambda *given: (find(*given), make(tmp_path, "coco/train2017"))[0])
    layout = lay_out(tmp_path, None)
    assert layout.found.left == ["train2017: something else stands at coco/train2017"]
    assert {"train2017/000000000009.jpg", "coco/train2017", "wikiart/images/a.jpg"} <= set(files(tmp_path))


def test_another_disk_and_a_disk_for_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "train2017/000000000009.jpg", "coco/x")
    before = files(tmp_path)

    def refuse(number: int) -> None:
        def rename(*paths: str) -> None:
            raise OSError(number, os.strerror(number), paths[0])

        monkeypatch.setattr(os, "rename", rename)

    refuse(18)  # EXDEV
    assert lay_out(tmp_path, None).found.left == ["train2017 is on another disk than coco/train2017: move it by hand"]
    refuse(30)  # EROFS
    with pytest.raises(OSError, match="Read-only"):
        lay_out(tmp_path, None)
    assert files(tmp_path) == before
    assert undo(tmp_path).as_json() == {"moved_back": 0, "removed": 0, "left": []}


def test_a_disk_without_links_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "wikiart/images/a.jpg")

    def refuse(path: Path, to: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(WorkspaceError, match="holds no symbolic links") as raised:
        lay_out(tmp_path, None)
    assert "in a copy of ALLaVA's two lists" in raised.value.next_step


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "repository", ".git/x", "wikiart/a.jpg")
    make(tmp_path / "strange", "a/b.txt")
    make(tmp_path / "workspace", "raw/wikiart/a.jpg", "images/wikiart/a.jpg")
    (tmp_path / "workspace/prep.yaml").write_text("recipe: recipe.yaml\n")
    for name, words in {
        "nowhere": "there is no folder", "repository": "is a repository", "strange": "holds nothing of the guide's",
        "workspace": "what prep keeps", "workspace/raw": "what prep keeps", "workspace/images/wikiart": "what prep",
        ".": "nothing of the guide's",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=words):
            lay_out(tmp_path / name, None)


def test_one_at_a_time(tmp_path: Path) -> None:
    make(tmp_path, "wikiart/a.jpg")
    with open_journal(tmp_path), pytest.raises(WorkspaceError, match="another prep"):
        lay_out(tmp_path, None)


# -- kill and undo -----------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
touches = 0
def count(event, arguments):
    global touches
    if event in ("os.rename", "os.mkdir", "os.rmdir", "os.symlink") or (event == "open" and arguments[1] == "a+"):
        touches += 1
        if touches == int(sys.argv[2]):
            os._exit(9)
from prep import progress
from prep.layout import lay_out
from prep.layout.journal import undo
progress.use(progress.no_bar)
sys.addaudithook(count)
lay_out(Path(sys.argv[1]), None) if sys.argv[3] == "do" else undo(Path(sys.argv[1]))
"""
MESSY = (
    "coco/train2017/train2017/000000000009.jpg",
    "coco/train2017/train2017/000000000025.jpg",
    "data/data/web-celebrity/images/a.jpg",
    "wikiart/b.jpg",
    "x/llava_v1_5_mix665k.json",
)


def run_killed(root: Path, moment: int, what: str) -> bool:
    """Whether the run lived to its end."""
    command = [sys.executable, "-c", KILLED, str(root), str(moment), what]
    return subprocess.run(command, check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("what", ["do", "undo"])
def test_killed_at_any_moment(what: str, tmp_path: Path) -> None:
    make(tmp_path / "whole", *MESSY)
    before = listing(tmp_path / "whole")
    lay_out(tmp_path / "whole", None)
    after = listing(tmp_path / "whole")
    for moment in range(1, 40, 3):
        root = make(tmp_path / str(moment), *MESSY)
        if what == "undo":
            lay_out(root, None)
        lived = run_killed(root, moment, what)
        lay_out(root, None)
        assert listing(root) == after
        undo(root)
        assert listing(root) == before
        if lived:
            break
    assert lived


def test_undo_replaces_nothing_and_keeps_what_it_could_not_do(tmp_path: Path) -> None:
    make(tmp_path, "coco/train2017/train2017/000000000009.jpg", "coco/train2017/train2017/000000000025.jpg")
    lay_out(tmp_path, None)
    make(tmp_path, "coco/train2017/train2017/000000000009.jpg")
    assert undo(tmp_path, dry_run=True).moved == 1
    left = ["coco/train2017/000000000009.jpg"]
    assert undo(tmp_path).as_json() == {"moved_back": 1, "removed": 0, "left": left}
    (tmp_path / "coco/train2017/train2017/000000000009.jpg").unlink()
    assert undo(tmp_path).as_json() == {"moved_back": 1, "removed": 0, "left": []}
    with pytest.raises(UsageError, match="nothing was moved"):
        undo(tmp_path)


def test_a_journal_cut_off_in_a_line(tmp_path: Path) -> None:
    make(tmp_path, "wikiart/a.jpg")
    before = listing(tmp_path)
    lay_out(tmp_path, None)
    make(tmp_path, "train2017/000000000009.jpg")
    with (tmp_path / FOLDER / NAME).open("a") as file:
        file.write('{"move": ["tr')
    lay_out(tmp_path, None)
    assert undo(tmp_path).moved == 2
    (tmp_path / "train2017/000000000009.jpg").unlink()
    (tmp_path / "train2017").rmdir()
    assert listing(tmp_path) == before


steps = st.sampled_from(["data", "coco", "train2017", "images", "vg", "VG_100K", "VG_100K_2", "gqa", "sam", "mine"])
names = st.sampled_from(["000000000009.jpg", "2.jpg", "sa_1.jpg", "n1.jpg", "a.txt"])


@settings(max_examples=25)
@given(st.lists(st.tuples(st.lists(steps, max_size=4), names), min_size=1, max_size=8))
def test_any_tree_loses_nothing_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[list[str], str]]
) -> None:
    root = make(tmp_path_factory.mktemp("tree"), *("/".join([*folders, name]) for folders, name in parts))
    make(root, "wikiart/images/known.jpg")
    before = listing(root)
    lay_out(root, None)
    assert sorted(files(root).values()) == sorted(text for text in before.values() if text)
    assert lay_out(root, None).found.moves == []  # one run settles
    undo(root)
    assert listing(root) == before
