"""What the images stage makes of an archive's members."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from prep.config import Encode
from prep.images.index import read_index
from prep.stages.image_tasks import ArchiveTask, StoreSpec, make_local


def picture(format_: str, shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, 90, 30)).save(data, format_)
    return data.getvalue()


def unpacked(tmp_path: Path, key: str, *members: tuple[str, bytes]) -> list[tuple[str, str, str | None]]:
    """(key, status, path) of the index of a tar with these members; the stored bytes are checked on the way."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    spec = StoreSpec("images", str(tmp_path / "images"), "set", None, Encode())
    task = ArchiveTask(tmp_path / "index.parquet", spec, (tmp_path / "a.tar",), ("-",), False, "a", key)
    make_local(task)
    rows = read_index([task.output]).to_pylist()
    contents = dict(members)
    for row in rows:
        if row["path"]:
            assert (tmp_path / "images/set" / row["path"]).read_bytes() == contents[row["source"]]
    return [(row["image_key"], row["status"], row["path"]) for row in rows]


def test_names_keep_apart_what_is_apart(tmp_path: Path) -> None:
    """Members that differ only in a lying extension are different files."""
    members = [("x/1.jpg", picture("JPEG", 1)), ("x/1.png", picture("JPEG", 2)), ("x/1.JPG", picture("JPEG", 3))]
    members += [("x/2.jpeg", picture("JPEG", 4)), ("x/3.jpg", picture("WEBP", 5)), ("x/4.jpg", picture("GIF", 6))]
    assert unpacked(tmp_path, "member", *members) == [
        ("x/1.jpg", "ok", "a/x/1.jpg"),
        ("x/1.png", "ok", "a/x/1.png.jpg"),
        ("x/1.JPG", "ok", "a/x/1.JPG"),
        ("x/2.jpeg", "ok", "a/x/2.jpeg"),
        ("x/3.jpg", "ok", "a/x/3.jpg.webp"),
        ("x/4.jpg", "ok", "a/x/4.jpg.gif"),
    ]


@pytest.mark.parametrize(("key", "expected"), [("member", "x/1.jpg"), ("name", "1.jpg"), ("part-member", "a/x/1")])
def test_keys(key: str, expected: str, tmp_path: Path) -> None:
    assert unpacked(tmp_path, key, ("x/1.jpg", picture("JPEG", 1))) == [(expected, "ok", "a/x/1.jpg")]


def test_a_mask_does_not_take_the_pictures_place(tmp_path: Path) -> None:
    members = [("1.jpg", picture("JPEG", 1)), ("1.seg.png", picture("PNG", 2)), ("1.png", picture("PNG", 3))]
    assert unpacked(tmp_path, "part-member", *members) == [
        ("a/1", "ok", "a/1.jpg"),
        ("a/1.seg", "ok", "a/1.seg.png"),
    ]


def test_a_file_that_is_also_a_folder_stops_nothing(tmp_path: Path) -> None:
    members = [("a.jpg", picture("JPEG", 1)), ("a.jpg/b.jpg", picture("JPEG", 2)), ("c.jpg", picture("JPEG", 3))]
    assert unpacked(tmp_path, "member", *members) == [
        ("a.jpg", "ok", "a/a.jpg"),
        ("a.jpg/b.jpg", "unsafe_name", None),
        ("c.jpg", "ok", "a/c.jpg"),
    ]


def test_of_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    members = [("1.jpg", picture("JPEG", 1)), ("1.jpg", picture("JPEG", 2))]
    assert unpacked(tmp_path, "member", *members) == [("1.jpg", "ok", "a/1.jpg")]
