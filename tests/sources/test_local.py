"""Files that are here already: linked, never copied or changed."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from prep.config import LocalSource
from prep.errors import SourceError
from prep.sources import Part, local
from prep.sources.transfer import Session


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("b.csv", "a.csv", "deep/c.parquet", ".hidden", ".cache/d.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"of {name}")
    return folder


def parts(path: Path, *include: str) -> tuple[Part, ...]:
    return local.list_parts(LocalSource(kind="local", path=str(path), include=include or ("*",)), Path(), None).parts


def fetch(part: Part, target: Path, *, copy: bool = False) -> int:
    """Fetch, and give the bytes told of."""
    told: list[int] = []
    given = LocalSource.model_validate({"kind": "local", "path": "unused", "copy": copy})
    with Session(told.append) as session:
        sha256 = local.fetch(given, part, target, session)
    assert sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    return sum(told)


def test_a_folder_lists_its_matching_files(data: Path) -> None:
    mtime = str((data / "a.csv").stat().st_mtime_ns)
    assert parts(data)[0] == Part("a.csv", str(data / "a.csv"), 8, version=mtime)
    assert [part.path for part in parts(data)] == ["a.csv", "b.csv", "deep/c.parquet"]
    assert [part.path for part in parts(data, "*.parquet")] == ["deep/c.parquet"]


def test_a_file_is_a_part_of_its_own_name(data: Path) -> None:
    assert [part.path for part in parts(data / "deep/c.parquet")] == ["c.parquet"]


def test_a_file_of_a_name_of_ours_is_refused(data: Path) -> None:
    for name in ("_manifest.json", ".a.tmp"):
        (data / "a.csv").rename(data / name)
        with pytest.raises(SourceError) as caught:
            parts(data / name)
        assert str(caught.value) == (
            f"{data / name}: {name!r} is a name that `prep` keeps for files of its own\n  Rename it."
        )
        (data / name).rename(data / "a.csv")


def test_a_home_of_nobody() -> None:
    with pytest.raises(SourceError) as caught:
        parts(Path("~nosuchuser/x"))
    assert str(caught.value) == "~nosuchuser/x: there is no such home\n  Mend the path in the dataset's `source`."


# -- links and what is no file -------------------------------------------------------------------------------


def test_linked_folders_are_followed_and_each_folder_is_read_once(data: Path, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "e.csv").touch()
    (elsewhere / "back").symlink_to(data)
    (data / "a-link").symlink_to(elsewhere)
    (data / "z-link").symlink_to(elsewhere)
    (data / "Deep").symlink_to(data / "deep")
    (data / "deep/up").symlink_to("..")
    (data / "f.csv").symlink_to(elsewhere / "e.csv")
    found = parts(data)
    assert [part.path for part in found] == ["a-link/e.csv", "a.csv", "b.csv", "deep/c.parquet", "f.csv"]
    assert found[0].url == str(data / "a-link/e.csv")


def test_a_link_to_a_folder_that_holds_the_workspace(data: Path, tmp_path: Path) -> None:
    (data / "all").symlink_to(tmp_path)
    given = LocalSource(kind="local", path=str(data))
    with pytest.raises(SourceError, match=f"^{data}/all contains this workspace"):
        local.list_parts(given, tmp_path / "workspace/raw/x", None)


@pytest.mark.parametrize("target", ["gone.csv", "l.csv"])
def test_a_link_that_leads_nowhere_is_said_when_it_matches(target: str, data: Path) -> None:
    (data / "l.csv").symlink_to(target)
    assert [part.path for part in parts(data, "*.parquet")] == ["deep/c.parquet"]
    with pytest.raises(SourceError) as caught:
        parts(data)
    assert str(caught.value) == (
        f"{data}/l.csv is a link that leads nowhere\n"
        "  Mend or remove it; or leave it out, and name what to take with `include`."
    )


def test_what_is_no_file_is_said_when_it_matches(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(data / "x.fifo")
    monkeypatch.chdir(data)
    with socket.socket(socket.AF_UNIX) as served:
        served.bind("x.socket")
    for name in ("x.fifo", "x.socket"):
        with pytest.raises(SourceError, match=f"^{data}/{name} is a FIFO, a socket or a device, not a file"):
            parts(data, name)
    assert [part.path for part in parts(data, "*.csv")] == ["a.csv", "b.csv"]


def test_a_folder_that_cannot_be_read_is_said_unless_nothing_of_it_is_meant(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: Path) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        if path == data / "deep":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    for include in ("*", "*.csv", "deep/*", "deep/c.parquet", "d?ep/*"):
        with pytest.raises(SourceError) as caught:
            parts(data, include)
        assert str(caught.value) == (
            f"{data}/deep cannot be read: Permission denied\n"
            "  Mend or remove it; or leave it out, and name what to take with `include`."
        )
    assert [part.path for part in parts(data, "a*", "b.csv", "deeper/*")] == ["a.csv", "b.csv"]


def test_home_is_expanded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(data))
    assert [part.url for part in parts(Path("~/a.csv"))] == [str(data / "a.csv")]


def test_a_changed_file_is_another_version(data: Path) -> None:
    before = parts(data)[0]
    (data / "a.csv").write_text("of b.csv")
    os.utime(data / "a.csv", ns=(1, 1))
    after = parts(data)[0]
    assert (before.size_bytes, before.version) != (after.size_bytes, after.version)


def test_fetch_links_and_tells_the_size(data: Path, tmp_path: Path) -> None:
    part, target = parts(data)[2], tmp_path / "raw/deep/c.parquet"
    assert fetch(part, target) == 17
    assert target.is_symlink() and target.resolve() == data / "deep/c.parquet"
    assert fetch(part, target) == 17
    assert [path.name for path in target.parent.iterdir()] == ["c.parquet"]


def test_fetch_replaces_a_link_to_somewhere_else_and_one_to_nowhere(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    for elsewhere in (data / "b.csv", data / "gone.csv"):
        target.unlink(missing_ok=True)
        target.symlink_to(elsewhere)
        fetch(parts(data)[0], target)
        assert target.resolve() == data / "a.csv"
    assert (data / "b.csv").read_text() == "of b.csv"


def test_a_file_that_lies_in_its_place_already_is_not_replaced_by_a_link_to_itself(data: Path) -> None:
    fetch(parts(data)[0], data / "a.csv")
    assert not (data / "a.csv").is_symlink()
    assert (data / "a.csv").read_text() == "of a.csv"


# -- copies --------------------------------------------------------------------------------------------------


def test_a_copy_stays_when_its_origin_changes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "CHUNK_BYTES", 5)
    part, target = parts(data)[2], tmp_path / "raw/deep/c.parquet"
    assert fetch(part, target, copy=True) == 17
    (data / "deep/c.parquet").write_text("changed")
    assert not target.is_symlink() and target.read_text() == "of deep/c.parquet"
    assert [path.name for path in target.parent.iterdir()] == ["c.parquet"]


def test_a_copy_takes_the_place_of_a_link_and_a_link_that_of_a_copy(data: Path, tmp_path: Path) -> None:
    part, target = parts(data)[0], tmp_path / "a.csv"
    for copy in (False, True, False):
        fetch(part, target, copy=copy)
        assert target.is_symlink() is not copy
        assert target.read_text() == (data / "a.csv").read_text() == "of a.csv"


def test_a_copy_onto_itself_changes_nothing(data: Path) -> None:
    inode = (data / "a.csv").stat().st_ino
    assert fetch(parts(data)[0], data / "a.csv", copy=True) == 8
    assert (data / "a.csv").stat().st_ino == inode


@pytest.mark.parametrize("copy", [False, True])
def test_a_file_that_is_not_what_was_listed_is_not_taken(copy: bool, data: Path, tmp_path: Path) -> None:
    part, target = parts(data)[0], tmp_path / "raw/a.csv"
    told: list[int] = []
    given = LocalSource.model_validate({"kind": "local", "path": "unused", "copy": copy})
    right = hashlib.md5(b"of a.csv", usedforsecurity=False).hexdigest()
    wrong = {
        "has 8 bytes, 9 when it was listed": replace(part, size_bytes=9),
        f"sha256 is {hashlib.sha256(b'of a.csv').hexdigest()}, {'0' * 64} is expected": replace(part, sha256="0" * 64),
        f"md5 is {right}, {'0' * 32} is expected": replace(part, md5="0" * 32),
    }
    for message, other in wrong.items():
        with pytest.raises(SourceError) as caught, Session(told.append) as session:
            local.fetch(given, other, target, session)
        assert message in caught.value.message and caught.value.message.startswith(str(data / "a.csv"))
    assert sum(told) == 0
    assert not target.parent.exists() or list(target.parent.iterdir()) == []
    fetch(replace(part, md5=right), target, copy=copy)


@pytest.mark.parametrize(("copy", "verb"), [(False, "read"), (True, "copied")])
def test_a_file_that_changes_meanwhile_is_not_taken(
    copy: bool, verb: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, target = parts(data)[0], tmp_path / "raw/a.csv"
    told: list[int] = []

    def advance(amount: int) -> None:
        told.append(amount)
        (data / "a.csv").write_text("OF A.CSV")
        os.utime(data / "a.csv", ns=(len(told), len(told)))

    given = LocalSource.model_validate({"kind": "local", "path": "unused", "copy": copy})
    with pytest.raises(SourceError) as caught, Session(advance) as session:
        local.fetch(given, part, target, session)
    assert str(caught.value) == (
        f"{data}/a.csv changed while it was {verb}\n  Wait until nothing writes to it, then run the same command."
    )
    assert told == [8, -8]
    assert not target.parent.exists() or list(target.parent.iterdir()) == []


def test_what_is_not_there_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        parts(tmp_path / "nowhere")
    assert caught.value.message == f"{tmp_path}/nowhere is neither a file nor a folder"

    part = parts(data)[0]
    (data / "a.csv").unlink()
    with pytest.raises(SourceError) as caught:
        fetch(part, tmp_path / "raw/a.csv")
    assert caught.value.message == f"{data}/a.csv is gone"
    assert not (tmp_path / "raw").exists()


def test_a_name_that_is_not_utf8_is_said_when_it_matches(data: Path) -> None:
    Path(os.fsdecode(os.fsencode(data) + b"/caf\xe9.csv")).touch()
    assert [part.path for part in parts(data, "*.parquet")] == ["deep/c.parquet"]
    with pytest.raises(SourceError, match=r"caf\\udce9.csv': its name is not UTF-8"):
        parts(data, "*.csv")
