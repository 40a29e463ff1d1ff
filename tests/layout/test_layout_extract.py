"""Archives in a tree, unpacked straight to their places, killed or not, and taken away again."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from trees import files, listing, make

from prep.layout import lay_out
from prep.layout.extract import extract
from prep.layout.journal import FOLDER, NAME, open_journal, undo
from prep.layout.report import Archive
from worlds import prep, prep_json

# Archive -> member -> its place.
ARCHIVES = {
    "images.zip": {"VG_100K/2.jpg": "vg/VG_100K/2.jpg"},
    "coco/train2017.zip": {"train2017/000000000009.jpg": "coco/train2017/000000000009.jpg"},
    "gqa/images.zip": {"images/1.jpg": "gqa/images/1.jpg", "images/n2.jpg": "gqa/images/n2.jpg"},
    "llava/llava_pretrain/images.zip": {"00453/004539375.jpg": "llava/llava_pretrain/images/00453/004539375.jpg"},
    "web-landmakr.zip": {"data/web-landmark/images/é金+1.jpg": "web-landmark/images/é金+1.jpg"},
    "images_1.zip": {"images/100277305.jpeg": "allava/allava_laion/images/100277305.jpeg"},
    "image_191-task_1k.zip": {"image_191-task_1k/images_191task_1k/a.png": "vflan/images_191task_1k/a.png"},
    "textvqa/train_val_images.zip": {"train_images/0a1b2c3d4e5f6071.jpg": "textvqa/train_images/0a1b2c3d4e5f6071.jpg"},
    "sa_000000.tar": {"./sa_1.jpg": "sam/images/sa_1.jpg"},
}
PLACES = {place: member for members in ARCHIVES.values() for member, place in members.items()}


def packed(path: Path, *members: str) -> Path:
    """An archive of members whose content is their name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for member in members:
                file.writestr(member, member)
        return path
    with tarfile.open(path, "w") as tar:
        for member in members:
            info = tarfile.TarInfo(member)
            info.size = len(member.encode())
            tar.addfile(info, io.BytesIO(member.encode()))
    return path


def pictures(root: Path) -> dict[str, str]:
    """Where a picture is -> the member that it was."""
    found = (path for path in root.rglob("*.*") if path.suffix not in (".zip", ".tar", ".jsonl") and path.is_file())
    kept = (path for path in found if not str(path.relative_to(root)).startswith("allava/allava_vflan/images/"))
    return {str(path.relative_to(root)): path.read_text() for path in kept}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of archives alone."""
    for archive, members in ARCHIVES.items():
        packed(tmp_path / "tree" / archive, *members)
    return tmp_path / "tree"


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_every_archive_goes_to_its_place_and_back(tree: Path) -> None:
    before = names(tree)
    assert lay_out(tree, None, extract=True, dry_run=True).unpacked == {} and names(tree) == before
    layout = lay_out(tree, None, extract=True)
    assert {path: dict(counts) for path, counts in layout.unpacked.items()} == {
        path: {"unpacked": len(members)} for path, members in ARCHIVES.items()
    }
    assert pictures(tree) == PLACES and layout.found.left == []
    assert layout.tree is not None and not any("unzip" in folder.brings for folder in layout.tree.folders)
    after = names(tree)
    again = lay_out(tree, None, extract=True)
    assert sum(counts["there"] for counts in again.unpacked.values()) == len(PLACES) and names(tree) == after
    assert undo(tree).as_json() == {"moved_back": 0, "removed": len(PLACES), "left": []}
    assert names(tree) == before


def test_nothing_is_replaced_and_nothing_leaves_the_tree(tmp_path: Path) -> None:
    root = make(tmp_path / "tree", "gqa/images/1.jpg", "gqa/images/2.jpg", "vg")
    (root / "gqa/images/2.jpg").write_text("images/2.jpg")
    (root / "gqa/images/3.jpg").symlink_to(tmp_path / "far.jpg")
    members = ["images/1.jpg", "images/2.jpg", "images/3.jpg", "../4.jpg", "/tmp/prep-5.jpg", "images/readme.txt"]
    packed(root / "gqa/images.zip", *members, "images/6.jpg")
    packed(root / "vg.zip", "VG_100K/2.jpg")
    with zipfile.ZipFile(root / "gqa/images.zip", "a") as file:
        info = zipfile.ZipInfo("images/7.jpg")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        file.writestr(info, "/etc/passwd")  # a link
    before = listing(root)
    layout = lay_out(root, None, extract=True)
    assert {path: dict(counts) for path, counts in layout.unpacked.items()} == {
        "gqa/images.zip": {"in the way": 2, "there": 1, "unsafe": 2, "unpacked": 1},
        "vg.zip": {"in the way": 1},
    }
    new = {"gqa/images/6.jpg": "images/6.jpg"}
    assert {path: text for path, text in listing(root).items() if before.get(path) != text} == {
        "allava": "", "allava/allava_vflan": "", "allava/allava_vflan/images": "-> ../../vflan", **new
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    undo(root)
    assert listing(root) == before


def test_what_is_broken_is_named_and_stops_nothing_else(tmp_path: Path) -> None:
    packed(tmp_path / "wikiart.zip", "data/wikiart/images/a.jpg")
    (tmp_path / "train2017.zip").write_bytes(b"<html>")
    broken = packed(tmp_path / "gqa/images.zip", "images/1.jpg", "images/2.jpg")
    broken.write_bytes(broken.read_bytes().replace(b"images/1.jpgimages/1.jpg", b"images/1.jpgimages/X.jpg"))
    layout = lay_out(tmp_path, None, extract=True)
    assert {path: dict(counts) for path, counts in layout.unpacked.items()} == {
        "gqa/images.zip": {"damaged": 1, "unpacked": 1}, "wikiart.zip": {"unpacked": 1}
    }  # fmt: skip
    assert [sentence.partition(" to its end")[0] for sentence in layout.found.left] == [
        f"{tmp_path}/train2017.zip cannot be read as an archive"
    ]


def test_undo_leaves_what_has_changed(tree: Path) -> None:
    lay_out(tree, None, extract=True)
    (tree / "gqa/images/1.jpg").write_text("Images/1.jpg")  # as long as it was
    (tree / "gqa/images/n2.jpg").unlink()
    assert undo(tree, dry_run=True).removed == len(PLACES) - 2
    assert undo(tree).as_json() == {"moved_back": 0, "removed": len(PLACES) - 2, "left": ["gqa/images/1.jpg"]}
    assert pictures(tree) == {"gqa/images/1.jpg": "Images/1.jpg"}


def test_a_place_taken_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path / "gqa/images.zip", "images/1.jpg", "images/2.jpg")
    monkeypatch.setattr(os, "sync", lambda: make(tmp_path, "gqa/images/2.jpg"))
    archive = Archive("gqa/images.zip", "gqa/images", "gqa", "")
    with open_journal(tmp_path) as journal, pytest.raises(FileExistsError):
        extract(tmp_path, archive, journal)
    assert pictures(tmp_path) == {"gqa/images/1.jpg": "images/1.jpg", "gqa/images/2.jpg": "gqa/images/2.jpg"}
    assert undo(tmp_path).as_json() == {"moved_back": 0, "removed": 1, "left": ["gqa/images/2.jpg"]}


KILLED = """
import os, sys
from pathlib import Path
touches = 0
def count(event, arguments):
    global touches
    if event in ("os.rename", "os.mkdir", "os.symlink") or (event == "open" and arguments[1] in ("a+", "xb")):
        touches += 1
        if touches == int(sys.argv[2]):
            os._exit(9)
from prep import progress
from prep.layout import extract, lay_out
progress.use(progress.no_bar)
sys.addaudithook(count)
extract.FILES_AT_ONCE = 2
lay_out(Path(sys.argv[1]), None, extract=True)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    members = [f"images/{number}.jpg" for number in range(5)]
    for moment in range(1, 40):
        root = tmp_path / str(moment)
        packed(root / "gqa/images.zip", *members)
        before = names(root)
        command = [sys.executable, "-c", KILLED, str(root), str(moment)]
        lived = subprocess.run(command, check=False, timeout=60).returncode == 0
        if moment % 2 and (root / FOLDER / NAME).exists():
            undo(root)
            assert names(root) == before
        lay_out(root, None, extract=True)
        assert pictures(root) == {f"gqa/{member}": member for member in members}
        undo(root)
        assert names(root) == before
        if lived:
            break
    assert lived


def test_the_option_is_named_and_used(tree: Path) -> None:
    planned = prep(tree.parent, "layout", "convllava", "--root", "tree", "--dry-run")
    assert "or with --extract:" in planned.stderr and f"unzip -nq {tree}/gqa/images.zip -d {tree}/gqa" in planned.stderr
    assert "--extract unpacks" in prep(tree.parent, "layout", "convllava", "--root", "tree").stderr
    assert pictures(tree) == {}
    done = prep(tree.parent, "layout", "convllava", "--root", "tree", "--extract")
    assert "gqa/images.zip: 2 unpacked" in done.stdout.splitlines() and pictures(tree) == PLACES
    gone = prep_json(tree.parent, "layout", "convllava", "--root", "tree", "--undo")
    assert gone == {"moved_back": 0, "removed": len(PLACES), "left": []}
    assert files(tree).keys() == set(ARCHIVES)
