"""The files of a folder that is adopted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import WorkspaceError
from prep.images.archives import safe_member
from prep.images.folder import list_images


def fill(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())


def names(folder: Path) -> list[str]:
    return [path for path, _, _ in list_images(folder)]


def test_images_are_listed_with_size_and_time_in_order(tmp_path: Path) -> None:
    paths = ["a.jpg", "a/b.PNG", "a/c/d.webp", "a-b.jpeg", "ü 图/🔴.gif", "z.TIFF", "a b+c.bmp", "10.tif", "9.jpg"]
    fill(tmp_path, *paths)
    os.utime(tmp_path / "a.jpg", ns=(1, 1_234_567_890_123_456_789))
    found = list(list_images(tmp_path))
    assert [path for path, _, _ in found] == sorted(paths)
    assert [size for _, size, _ in found] == [len(path.encode()) for path in sorted(paths)]
    assert [time for _, _, time in found] == [(tmp_path / path).stat().st_mtime_ns for path in sorted(paths)]
    assert ("a.jpg", 5, 1_234_567_890_123_456_789) in found
    assert list(list_images(tmp_path)) == found


def test_what_is_hidden_or_no_image_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, ".a.jpg", ".cache/a.jpg", "a/._b.jpg", "a.txt", "jpg", "a.jpg.part", "a/.jpg", "README")
    (tmp_path / "folder.jpg").mkdir()
    fill(tmp_path, "folder.jpg/inside.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(tmp_path) == ["folder.jpg/inside.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    fill(outside, "one.jpg", "deep/two.jpg")
    fill(folder, "train/a.jpg")
    (folder / "linked.jpg").symlink_to(outside / "one.jpg")
    (folder / "val").symlink_to(outside)
    (folder / "again").symlink_to(folder / "train")
    (folder / "train/up").symlink_to(folder)
    (folder / "train/self").symlink_to(".")
    (outside / "deep/back").symlink_to(folder)
    (folder / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "under a file.jpg").symlink_to(outside / "one.jpg/x")
    assert names(folder) == ["again/a.jpg", "linked.jpg", "train/a.jpg", "val/deep/two.jpg", "val/one.jpg"]
    (tmp_path / "link").symlink_to(folder)
    assert names(tmp_path / "link") == names(folder)


def test_a_name_that_is_not_utf_8_is_told_and_not_safe(tmp_path: Path) -> None:
    for name in (b"caf\xe9.jpg", b"caf\xc3\xa9.jpg", b"fol\xffder"):
        if name.endswith(b".jpg"):
            Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"data")
        else:
            fill(Path(os.fsdecode(bytes(tmp_path) + b"/" + name)), "a.jpg")
    found = names(tmp_path)
    assert found == ["caf\\xe9.jpg", "café.jpg", "fol\\xffder/a.jpg"]
    assert [safe_member(name) for name in found] == [None, "café.jpg", None]
    assert all(name.encode() for name in found)


def test_no_depth_is_too_much(tmp_path: Path) -> None:
    # Deeper than Python recurses; made step by step, as the whole path is long, and gone before pytest cleans up.
    script = """
import os, sys
from pathlib import Path
from prep.images.folder import list_images
folder = Path(sys.argv[1])
os.chdir(folder)
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
Path("a.jpg").touch()
print([len(path) for path, _, _ in list_images(folder)])
Path("a.jpg").unlink()
for _ in range(1500):
    os.chdir("..")
    os.rmdir("d")
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[3005]\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    fill(tmp_path, "file.jpg")
    with pytest.raises(WorkspaceError, match=r"nothing: No such file or directory"):
        names(tmp_path / "nothing")
    with pytest.raises(WorkspaceError, match=r"file\.jpg: Not a directory"):
        names(tmp_path / "file.jpg")


def test_a_folder_below_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.jpg", "locked/b.jpg", "z.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:  # rights do not stop the superuser, who may run the tests
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(WorkspaceError, match=r"locked: Permission denied") as caught:
        names(tmp_path)
    assert caught.value.next_step == "Check the rights of that path, then run the same command."


STEP = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda step: not step.startswith(".") and len(step.encode()) < 100
)


@given(st.sets(st.lists(STEP, min_size=1, max_size=3).map("/".join), max_size=12))
def test_every_name_is_listed_once_and_in_order(tmp_path_factory: pytest.TempPathFactory, paths: set[str]) -> None:
    folder = tmp_path_factory.mktemp("many")
    paths = {f"{path}.jpg" for path in paths}
    fill(folder, *paths)
    assert names(folder) == sorted(paths)
