"""Files that are either whole under their final name or not there at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prep.files import atomic_path, hash_file, write_text


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_target_appears_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "deep/er/a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent and temporary.name.startswith(".")
        temporary.write_text("whole")
    assert tree(tmp_path) == {"deep/er/a.txt": "whole"}


def test_the_target_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert tree(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_on_an_error_the_target_is_untouched_and_nothing_else_stays(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(type(error)) as caught, atomic_path(tmp_path / name) as temporary:
            temporary.write_text("half")
            raise error
        assert caught.value is error
    assert tree(tmp_path) == {"a.txt": "old"}


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert tree(tmp_path) == {}


def test_what_a_killed_run_left_is_overwritten_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    script = """
import os, signal, sys
from pathlib import Path
from prep.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script, str(target)], timeout=60).returncode == -9
    (left,) = tree(tmp_path)
    assert left.startswith(".") and not target.exists()

    with atomic_path(target) as temporary:
        assert not temporary.exists()
        with temporary.open("a") as file:
            file.write("whole")
    assert tree(tmp_path) == {"a.txt": "whole"}


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError), atomic_path(tmp_path / "file/a.txt") as temporary:
        temporary.write_text("x")
    with pytest.raises(IsADirectoryError), atomic_path(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    with pytest.raises(OSError, match="proc"), atomic_path(Path("/proc/prep/a.txt")) as temporary:
        temporary.write_text("x")
    assert tree(tmp_path) == {"file": "in the way"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")


def test_write_text_and_hash_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ü\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xbc\n"
    assert hash_file(tmp_path / "a.txt") == hashlib.sha256(b"\xc3\xbc\n").hexdigest()
    (tmp_path / "empty").touch()
    assert hash_file(tmp_path / "empty") == hashlib.sha256().hexdigest()
