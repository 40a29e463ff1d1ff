"""A workspace's images and lists at their places in the guide's tree: by links, again and again, killed or not."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from prep.errors import PrepError, UsageError, WorkspaceError
from prep.images.index import SCHEMA
from prep.layout import Layout, lay_out, tree_of
from prep.layout.links import How, Linked, shown_folders
from prep.manifest import Manifest, Shard, write_manifest
from prep.workspace import Workspace

EMPTY = dict.fromkeys(SCHEMA.names)
ENTRIES = {
    "llava665k": "llava-mix665k",
    "sharegpt4vpretrain": "sharegpt4v-pt",
    "vflan": "vision-flan",
    "allava_vflan_caption": "allava-vflan-caption",
    "allava_laion_caption": "allava-laion-caption",
    "lcs": "lcs-558k",
}
# Dataset -> key -> path in the store, whose bytes are that path.
IMAGES = {
    "coco-train2017": {"000000000009.jpg": "train2017/train2017/000000000009.jpg"},
    "gqa": {"1.jpg": "images/images/1.jpg", "n2.jpg": "images/images/n2.jpg.png"},  # a PNG, whatever its name
    "ocr-vqa": {"a.gif": "a.gif.jpg", "076118327X.jpg": "076118327X.jpg", "b.GIF": "b.GIF.jpg"},
    "textvqa": {"0a1b2c3d4e5f6071.jpg": "train_val_images/train_images/0a1b2c3d4e5f6071.jpg"},
    "visual-genome": {"VG_100K/2.jpg": "images/VG_100K/2.jpg", "VG_100K_2/2.jpg": "images2/VG_100K_2/2.jpg"},
    "lcs-558k": {"00453/004539375.jpg": "images/00453/004539375.jpg"},
    "sa-1b": {"./sa_1.jpg": "sa_000000/sa_1.jpg"},
    "vision-flan": {"a+b é金.png": "image_191-task_1k/images_191task_1k/a+b é金.png"},
    "allava": {"100277305.jpeg": "images_0/images/100277305.jpeg"},
}
PLACES = {
    "coco/train2017/000000000009.jpg": "coco-train2017",
    "gqa/images/1.jpg": "gqa",
    "gqa/images/n2.jpg": "gqa",
    "ocr_vqa/images/a.jpg": "ocr-vqa",
    "ocr_vqa/images/076118327X.jpg": "ocr-vqa",
    "ocr_vqa/images/b.jpg": "ocr-vqa",
    "textvqa/train_images/0a1b2c3d4e5f6071.jpg": "textvqa",
    "vg/VG_100K/2.jpg": "visual-genome",
    "vg/VG_100K_2/2.jpg": "visual-genome",
    "llava/llava_pretrain/images/00453/004539375.jpg": "lcs-558k",
    "sam/images/sa_1.jpg": "sa-1b",
    "vflan/images_191task_1k/a+b é金.png": "vision-flan",
    "allava/allava_laion/images/100277305.jpeg": "allava",
}


def write_index(root: Path, dataset: str, rows: list[dict[str, object]]) -> None:
    folder = root / "index" / f"{dataset}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    shard = folder / "shard-00000.parquet"
    pq.write_table(pa.Table.from_pylist([EMPTY | row for row in rows], schema=SCHEMA), shard)
    facts = Shard(shard.name, "task", len(rows), shard.stat().st_size, "0" * 64)
    write_manifest(folder, Manifest("images", (facts,)))


def make_workspace(root: Path) -> Workspace:
    """A workspace of a recipe of ConvLLaVA whose images are stored and indexed."""
    root.mkdir(parents=True)
    (root / "prep.yaml").write_text("recipe: recipe.yaml\n")
    entries = [{"table": table, "name": name} for name, table in ENTRIES.items()]
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "small", "trainer": "convllava", "entries": entries}))
    for dataset, images in IMAGES.items():
        rows: list[dict[str, object]] = [{"image_key": "gone.jpg", "status": "damaged"}]
        for key, path in images.items():
            at = root / "images" / dataset / path
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(path)
            format_ = "PNG" if path.endswith(".png") else "JPEG"
            rows.append({"image_key": key, "status": "ok", "path": path, "format": format_})
        write_index(root, dataset, rows)
    for part in ("llava-mix665k/llava_v1_5_mix665k.json", "allava/allava_vflan/ALLaVA-Caption-VFLAN-4V.json"):
        (root / "raw" / part).parent.mkdir(parents=True, exist_ok=True)
        (root / "raw" / part).write_text(part)
    return Workspace(root)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace")


def pictures(tree: Path) -> dict[str, Path]:
    found = (path for path in tree.rglob("*") if path.is_file() and path.suffix not in (".json", ".jsonl"))
    return {str(path.relative_to(tree)): path for path in found}


def lay(workspace: Workspace, tree: Path | None = None, how: How = "hard", dry_run: bool = False) -> Linked:
    linked = laid(workspace, tree, how, dry_run).linked
    assert linked is not None
    return linked


def laid(workspace: Workspace, tree: Path | None = None, how: How = "hard", dry_run: bool = False) -> Layout:
    return lay_out(tree or workspace.root / "data", workspace, how=how, dry_run=dry_run)


def counts(linked: Linked) -> dict[str, int]:
    return {
        state: sum(found[state] for found in linked.counts.values())
        for found in linked.counts.values()
        for state in found
    }


def test_folders_are_those_that_rows_name(workspace: Workspace) -> None:
    assert {shown.folder: (shown.dataset, shown.is_by_stem) for shown in shown_folders(workspace)} == {
        "coco/train2017": ("coco-train2017", True),
        "gqa/images": ("gqa", True),
        "ocr_vqa/images": ("ocr-vqa", True),
        "textvqa/train_images": ("textvqa", True),
        "vg": ("visual-genome", True),
        "llava/llava_pretrain/images": ("lcs-558k", False),
        "sam/images": ("sa-1b", False),
        "vflan/images_191task_1k": ("vision-flan", False),
        "allava/allava_laion/images": ("allava", False),
    }


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_every_image_has_its_place_and_no_second_copy(how: How, workspace: Workspace, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    planned = lay(workspace, tree, how, dry_run=True)
    assert not tree.exists()
    linked = lay(workspace, tree, how)
    assert planned.as_json() == linked.as_json()
    assert counts(linked) == {"linked": 13, "not ok": 9} and linked.unready == linked.in_the_way == []
    assert set(pictures(tree)) == set(PLACES)
    for place, dataset in PLACES.items():
        assert (tree / place).is_symlink() == (how == "soft")
        stored = workspace.root / "images" / dataset / (tree / place).read_text()
        assert (tree / place).samefile(stored)
    assert (tree / "allava/allava_vflan/images/images_191task_1k/a+b é金.png").is_file()
    lists = ["llava/llava_v1_5_mix665k.json", "allava/allava_vflan/ALLaVA-Caption-VFLAN-4V.json"]
    assert linked.lists == lists
    assert (tree / lists[0]).samefile(workspace.root / "raw/llava-mix665k/llava_v1_5_mix665k.json")
    again = lay(workspace, tree, how)
    assert counts(again) == {"there": 13, "not ok": 9} and again.lists == []
    assert counts(lay(workspace, tree, how, dry_run=True)) == {"there": 13, "not ok": 9}


def test_what_stands_there_is_left(workspace: Workspace) -> None:
    tree = workspace.root / "data"
    same, other, folder, nowhere = list(PLACES)[:4]
    for place, text in {
        same: IMAGES["coco-train2017"]["000000000009.jpg"],
        other: "mine",
        f"{folder}/x": "mine",
    }.items():
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).write_text(text)
    (tree / nowhere).parent.mkdir(parents=True)
    (tree / nowhere).symlink_to("nothing")
    linked = lay(workspace)
    assert sorted(linked.in_the_way) == sorted([other, folder, nowhere])
    assert counts(linked) == {"there": 1, "in the way": 3, "linked": 9, "not ok": 9}
    assert (tree / other).read_text() == "mine" and (tree / nowhere).is_symlink() and (tree / folder / "x").is_file()


def test_a_file_where_a_folder_has_to_be(workspace: Workspace) -> None:
    tree = workspace.root / "data"
    (tree / "vg").mkdir(parents=True)
    (tree / "vg/VG_100K").write_text("mine")
    assert lay(workspace).in_the_way == ["vg/VG_100K/2.jpg"]
    shutil.rmtree(tree / "gqa")
    (tree / "gqa").write_text("mine")
    with pytest.raises(OSError, match="gqa"):
        lay(workspace)


def test_names_in_the_index_that_would_leave_and_images_that_are_gone(workspace: Workspace) -> None:
    rows: list[dict[str, object]] = [
        {"image_key": key, "status": "ok", "path": "images/images/1.jpg", "format": "JPEG"}
        for key in ("../x.jpg", "/x.jpg")
    ]
    rows.append({"image_key": "3.jpg", "status": "ok", "path": "images/images/3.jpg", "format": "JPEG"})
    write_index(workspace.root, "gqa", rows)
    for how in ("hard", "soft"):
        assert dict(lay(workspace, how=how).counts["gqa/images"]) == {"unsafe": 2, "gone": 1}
    assert not (workspace.root / "data/gqa/x.jpg").exists()


def test_adopted_images_stay_where_they_are(workspace: Workspace, tmp_path: Path) -> None:
    mine = tmp_path / "mine/ConvLLaVA/train2017"
    mine.mkdir(parents=True)
    (mine / "real").write_text("picture")
    (mine / "000000000001.jpg").symlink_to("real")
    path = str(mine / "000000000001.jpg")
    write_index(workspace.root, "coco-train2017", [{"image_key": "000000000001.jpg", "status": "ok", "path": path}])
    (workspace.root / "prep.yaml").write_text(yaml.safe_dump({"image_folders": {"coco-train2017": str(mine)}}))
    tree = tmp_path / "mine"
    assert laid(Workspace(workspace.root), tree).found.moves == []  # its name would be a wrong place's
    at = tree / "coco/train2017/000000000001.jpg"
    assert not at.is_symlink() and at.samefile(mine / "real")


def test_images_not_indexed_yet_are_named(workspace: Workspace) -> None:
    shutil.rmtree(workspace.index("sa-1b"))
    done = laid(workspace)
    assert done.linked is not None and done.linked.unready == ["sa-1b"] and done.tree is not None
    brings = {folder.folder: folder.brings for folder in done.tree.folders}
    assert brings["sam/images"] == "prep download sa-1b && prep images sa-1b"
    assert brings["gqa/images"] == ""  # indexed: nothing brings the rest
    notes = {folder.folder: folder.note for folder in done.tree.folders}
    assert notes["gqa/images"] == "nothing: its archives have no more" and notes["sam/images"] == ""
    assert "wikiart/images" not in brings  # not of this recipe
    assert done.tree.holes == dict.fromkeys(["llava/llava_pretrain/images", "allava/allava_vflan/images"], "there")
    pairs = {pair.name: (pair.is_there, pair.is_wanted, pair.brings) for pair in done.tree.pairs}
    assert pairs["llava665k"] == (True, True, "")
    assert pairs["vflan"] == (False, True, "prep download vision-flan")
    assert pairs["allava_laion_instruct"] == (False, False, "")


def test_what_brings_the_rest_of_adopted_folders_and_of_slices(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (workspace.root / "prep.yaml").write_text(yaml.safe_dump({"image_folders": {"gqa": str(tmp_path / "mine")}}))
    workspace = Workspace(workspace.root)
    workspace.lock("sa-1b", {"slice": {"parts": "0-2", "of": 51}})
    tree = laid(workspace).tree
    assert tree is not None
    told = {folder.folder: (folder.brings, folder.note) for folder in tree.folders}
    assert told["gqa/images"] == ("", "nothing: the adopted folder has no more")
    assert told["sam/images"] == ("prep download sa-1b --all && prep images sa-1b", "")
    assert told["coco/train2017"] == ("", "nothing: its archives have no more")


def test_a_recipe_without_allavas_lists_wants_no_link(workspace: Workspace) -> None:
    (workspace.root / "recipe.yaml").write_text(
        "{name: small, trainer: convllava, entries: [{table: llava-mix665k, name: llava665k}]}"
    )
    done = laid(Workspace(workspace.root))
    assert done.tree is not None and (done.found.links, done.tree.holes) == ({}, {})
    assert not (workspace.root / "data/allava").exists()
    assert [folder.brings for folder in done.tree.folders] == [""] * 6


def test_another_disk_is_seen_before_anything_is_made(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prep.layout.links.disk_of", lambda folder: 1 if workspace.root in folder.parents else 2)
    with pytest.raises(WorkspaceError, match="on another disk than the images"):
        laid(workspace, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert counts(lay(workspace, tmp_path / "tree", how="soft"))["linked"] == 13


def test_a_link_before_what_it_leads_to(workspace: Workspace) -> None:
    shutil.rmtree(workspace.index("vision-flan"))
    shutil.rmtree(workspace.index("lcs-558k"))
    tree = laid(workspace).tree
    assert tree is not None
    assert tree.holes == {
        "llava/llava_pretrain/images": "missing",
        "allava/allava_vflan/images": "leads to nothing yet",
    }


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EXDEV, "on another disk than the images"), (errno.EPERM, "Operation not permitted")],
)
def test_a_disk_without_hard_links(
    number: int, words: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: str, **options: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(WorkspaceError, match=words) as raised:
        lay(workspace)
    assert "--link soft" in raised.value.next_step
    assert counts(lay(workspace, how="soft"))["linked"] == 13


def test_images_on_s3_cannot_be_linked(workspace: Workspace) -> None:
    (workspace.root / "prep.yaml").write_text("images: s3://bucket/prefix\n")
    with pytest.raises(UsageError, match="s3://bucket/prefix"):
        lay(Workspace(workspace.root))


@pytest.mark.parametrize("name", [".", "..", "raw", "images", "images/gqa", "index/x"])
def test_the_tree_keeps_off_what_is_the_workspaces(name: str, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="what prep keeps"):
        lay(workspace, workspace.root / name)


def test_a_tree_that_is_there_is_mended_first(workspace: Workspace, tmp_path: Path) -> None:
    stored = workspace.root / "images/coco-train2017" / IMAGES["coco-train2017"]["000000000009.jpg"]
    tree = tmp_path / "tree"
    wrong = tree / "train2017/000000000009.jpg"
    wrong.parent.mkdir(parents=True)
    shutil.copyfile(stored, wrong)
    inode = wrong.stat().st_ino
    assert lay(workspace, tree).counts["coco/train2017"] == {"there": 1, "not ok": 1}
    assert (tree / "coco/train2017/000000000009.jpg").stat().st_ino == inode


def test_which_tree_and_which_workspace(workspace: Workspace, tmp_path: Path) -> None:
    found, tree = tree_of(workspace.root / "raw", None)
    assert found is not None and (found.root, tree) == (workspace.root, workspace.root / "data")
    assert tree_of(tmp_path, tmp_path / "x") == (None, tmp_path / "x")
    with pytest.raises(WorkspaceError, match="not in a workspace"):
        tree_of(tmp_path, None)
    (workspace.root / "recipe.yaml").write_text("{name: other, entries: [{table: coyo-700m}]}")
    assert tree_of(workspace.root, tmp_path) == (None, tmp_path)
    with pytest.raises(PrepError, match="no recipe of ConvLLaVA"):
        tree_of(workspace.root, None)


KILLED = """
import os, sys
from pathlib import Path
links = 0
def count(event, arguments):
    global links
    if event in ("os.link", "os.symlink", "os.mkdir"):
        links += 1
        if links == int(sys.argv[2]):
            os._exit(9)
from prep import progress
from prep.layout import lay_out
from prep.workspace import Workspace
progress.use(progress.no_bar)
sys.addaudithook(count)
lay_out(Path(sys.argv[1]) / "data", Workspace(Path(sys.argv[1])))
"""


def test_killed_at_any_moment(workspace: Workspace) -> None:
    tree = workspace.root / "data"
    for moment in range(1, 60, 7):
        command = [sys.executable, "-c", KILLED, str(workspace.root), str(moment)]
        lived = subprocess.run(command, check=False, timeout=60).returncode == 0
        linked = lay(workspace)
        assert linked.in_the_way == [] and set(pictures(tree)) == set(PLACES)
        if lived:
            break
        shutil.rmtree(tree)
    assert lived
