"""`prep layout` as its user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prep.trainers.convllava import NAMES
from worlds import prep, prep_json


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of a user's own, with one set unpacked one folder too deep."""
    picture = tmp_path / "tree/coco/train2017/train2017/000000000009.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_text("picture")
    return tmp_path / "tree"


def test_dry_run_then_moves_then_back(tree: Path) -> None:
    wrong, right = (tree / f"coco/train2017/{name}000000000009.jpg" for name in ("train2017/", ""))
    move = {"from": "coco/train2017/train2017", "to": "coco/train2017", "count": 1}
    planned = prep_json(tree.parent, "layout", "convllava", "--root", "tree", "--dry-run")
    assert planned == {
        "root": str(tree),
        "moves": [move | {"names": ["000000000009.jpg"]}],
        "links": {"allava/allava_vflan/images": "../../vflan"},
        "left": [],
        "archives": {},
        "unpacked": {},
        "linked": None,
        "tree": None,
    }
    assert wrong.is_file()
    done = prep(tree.parent, "layout", "convllava", "--root", "tree")
    assert done.returncode == 0 and right.is_file() and not wrong.exists()
    lines = done.stdout.splitlines()
    assert lines[0] == "moved coco/train2017/train2017 -> coco/train2017 (1 file, such as 000000000009.jpg)"
    assert [line.split()[:4] for line in lines if line.startswith("coco/")] == [
        ["coco/train2017", "118,287", "1", "118,286"]
    ]
    pairs = {line.split()[0]: line.split()[1:3] for line in lines[-9:]}
    assert pairs == {
        name: [str(tree / builder.json_path), str(tree / builder.image_folder)] for name, builder in NAMES.items()
    }
    assert "llava/llava_pretrain/images: missing" in done.stderr and "--undo" in done.stderr
    assert f"rows that stop training: `prep heal --root {tree} --apply` writes lists without them." in done.stderr
    assert prep_json(tree.parent, "layout", "convllava", "--root", "tree", "--undo") == {
        "moved_back": 1,
        "removed": 0,
        "left": [],
    }
    assert wrong.is_file() and [path.name for path in tree.iterdir()] == ["coco"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lavida-o"], "'lavida-o' has no tree"),
        (["convllava", "--link", "copy"], "--link copy: must be hard or soft"),
        (["convllava"], "not in a workspace"),
        (["convllava", "--undo", "--extract"], "--undo goes alone"),
        (["convllava", "--root", ""], "--root is empty"),
        (["convllava", "--root", "/"], "holds more than a tree"),
        (["convllava", "--root", "nowhere"], "there is no folder"),
        (["convllava", "--root", "tree", "--undo"], "nothing was moved"),
    ],
)
def test_wrong(arguments: list[str], words: str, tree: Path) -> None:
    done = prep(tree.parent, "layout", *arguments)
    assert done.returncode == 1 and words in done.stderr and done.stdout == ""
