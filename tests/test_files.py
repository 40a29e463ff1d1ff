"""Files that are either whole under their final name or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prep.errors import WorkspaceError
from prep.files import atomic_path, hash_file, open_own, size_of, write_text


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


def test_only_a_file_of_the_users_is_written_through_a_link(tmp_path: Path) -> None:
    for name in ("theirs.txt", "ours.txt"):
        (tmp_path / name).write_text("before")
        (tmp_path / f"link-{name}").symlink_to(name)
    write_text(tmp_path / "link-theirs.txt", "after", follow_links=True)
    write_text(tmp_path / "link-ours.txt", "after")
    (tmp_path / "theirs.txt").chmod(0o640)
    write_text(tmp_path / "link-theirs.txt", "last", follow_links=True)
    assert tree(tmp_path) == {
        "theirs.txt": "last",
        "link-theirs.txt": "last",
        "ours.txt": "before",
        "link-ours.txt": "after",
    }
    assert [(tmp_path / f"link-{name}.txt").is_symlink() for name in ("theirs", "ours")] == [True, False]
    assert (tmp_path / "theirs.txt").stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="link"), open_own(tmp_path / "link-theirs.txt", "a"):
        pass


def test_the_size_of_what_cannot_be_looked_at_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    others = [tmp_path, tmp_path / "b", tmp_path / "a/b", tmp_path / ("x" * 300), tmp_path / "a\0"]
    assert [size_of(path) for path in (tmp_path / "a", *others)] == [3, *[None] * 5]


@pytest.mark.parametrize(
    ("error", "message", "next_step"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "/a/b: No space left on device",
            "The disk is full.",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "File name too long", "Give a shorter name."),
        (OSError("odd"), "odd", "Mend that, then run the same command."),
    ],
)
def test_what_the_system_refuses_has_a_next_step(error: OSError, message: str, next_step: str) -> None:
    told = WorkspaceError.of(error)
    assert told.message == message and told.next_step.startswith(next_step)
    assert WorkspaceError.of(error, "data/a.csv").message == f"data/a.csv: {error.strerror or error}"
