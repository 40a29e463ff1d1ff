"""Lists of files: what is in them, what they may not hold, and what they do to a download."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prep.config import Catalogue, Dataset, LocalSource, S3Source
from prep.errors import SourceError
from prep.sources import Listing, Part, local
from prep.sources.file_list import Listed, common_folder, in_order, list_named, read_list
from prep.sources.mirrors import Place
from prep.workspace import Workspace


def write_list(folder: Path, text: str | bytes, *names: str) -> Path:
    """A list, and the files beside it that it may name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def told(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read_list(path)
    return str(caught.value).replace(str(path.parent), "")


# -- what a list says ------------------------------------------------------------------------------------------


def test_names_of_every_kind(tmp_path: Path) -> None:
    text = "\ufeff# ours\r\n\r\n  a.parquet\t\r\nsub/é b'c\".parquet\r\n*[x]?.parquet\r./#4.parquet\n/abs/5.parquet"
    here = tmp_path.resolve()
    assert read_list(write_list(tmp_path, text)) == [
        Listed(3, f"{here}/a.parquet"),
        Listed(4, f"{here}/sub/é b'c\".parquet"),
        Listed(5, f"{here}/*[x]?.parquet"),
        Listed(6, f"{here}/#4.parquet"),
        Listed(7, "/abs/5.parquet"),
    ]


def test_addresses_stay_as_they_are(tmp_path: Path) -> None:
    keys = ["a/x=1#?%25 é*.parquet", "a/b/c.parquet"]
    listed = read_list(write_list(tmp_path, "\n".join(f"s3://b-1/{key}" for key in keys)))
    assert listed == [Listed(number, f"s3://b-1/{key}") for number, key in enumerate(keys, 1)]
    assert common_folder(listed) == "s3://b-1/a/"


def test_names_start_from_the_lists_own_folder_through_links(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    write_list(real, "../x.parquet\n", "a")
    (tmp_path / "link").symlink_to("real")
    assert read_list(tmp_path / "link/list.txt") == [Listed(1, f"{tmp_path.resolve()}/x.parquet")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "/list.txt names no file\n  Write one path or s3:// address a line."),
        ("# a\n\n", "/list.txt names no file\n  Write one path or s3:// address a line."),
        ("a\n\nb\n./a\n", "/list.txt:4: ./a is the file of line 1, named twice"),
        ("a\nlink\n", "/list.txt:2: link is the file of line 1, named twice"),
        ("s3://b/a\ns3://b/a\n", "/list.txt:2: s3://b/a is the file of line 1, named twice"),
        ("a\ns3://b/a\n", "/list.txt:2: s3://b/a is in s3://b, and the file of line 1 on this machine"),
        ("s3://b/a\n# x\na\n", "/list.txt:3: /a is on this machine, and the file of line 1 in s3://b"),
        ("s3://b/a\ns3://c/a\n", "/list.txt:2: s3://c/a is in s3://c, and the file of line 1 in s3://b"),
        ("s3://b/a/\n", "/list.txt:1: s3://b/a/ is not the address of an object, s3://bucket/key"),
        ("s3://b\n", "/list.txt:1: s3://b is not the address of an object, s3://bucket/key"),
        ("s3:///a\n", "/list.txt:1: s3:///a is not the address of an object, s3://bucket/key"),
        ("https://h/a\n", "/list.txt:1: https://h/a is neither a path nor an s3:// address"),
        ("S3://b/a\n", "/list.txt:1: S3://b/a is neither a path nor an s3:// address"),
        ("a\nb\xe9\n".encode("latin-1"), "/list.txt:2: is not UTF-8 text"),
        ("a\n".encode("utf-16"), "/list.txt:1: is not UTF-8 text"),
        ("a\n".encode("utf-16-le"), "/list.txt:1: is not UTF-8 text"),
        (b"PAR1\x15\x04\xff\x00\n", "/list.txt:1: is not UTF-8 text"),
    ],
)
def test_what_is_no_list_is_told_with_its_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    assert told(write_list(tmp_path, text, "a")).startswith(message)


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    assert told(tmp_path / "list.txt").startswith("/list.txt cannot be read: No such file or directory")
    (tmp_path / "list.txt").mkdir()
    assert told(tmp_path / "list.txt").startswith("/list.txt cannot be read: Is a directory")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20
).filter(lambda name: name.strip(" ") == name and name not in (".", "..") and not name.startswith("\ufeff"))


@settings(max_examples=60)
@given(names=st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6, unique=True))
def test_every_name_is_below_the_common_folder(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("lists")
    files = read_list(write_list(folder, "\n".join(f"./{name}" for name in names)))
    root = common_folder(files)
    assert [listed.address for listed in files] == [f"{folder.resolve()}/{name}" for name in names]
    assert all(listed.address.startswith(root) for listed in files)
    assert root.rstrip("/") == os.path.commonpath([Path(listed.address).parent for listed in files])


def test_results_come_in_the_order_of_the_items_and_the_first_failure_is_told() -> None:
    def double(number: int) -> int:
        if number >= 30:
            raise SourceError(str(number))
        return number * 2

    assert in_order(double, range(30)) == [*range(0, 60, 2)]
    with pytest.raises(SourceError, match=r"^30$"):
        in_order(double, range(100))


# -- as a source -----------------------------------------------------------------------------------------------


def source(path: Path, root: Path | str) -> LocalSource:
    return LocalSource(kind="local", path=str(root), files_from=str(path))


def listing(path: Path, root: Path | str) -> Listing:
    return local.list_parts(source(path, root), Path("/nowhere/raw/x"), None)


def test_parts_are_named_from_the_folder_and_sorted(tmp_path: Path) -> None:
    names = ["sub/b.parquet", "[a]*?.parquet", ".hidden.parquet"]
    path = write_list(tmp_path, "\n".join(names), *names, "not-named.parquet")
    found = listing(path, tmp_path)
    assert [part.path for part in found.parts] == sorted(names)
    assert [part.url for part in found.parts] == [f"{tmp_path}/{name}" for name in sorted(names)]
    assert [part.size_bytes for part in found.parts] == [len(name) for name in sorted(names)]
    assert [part.path for part in listing(path, "/").parts] == [f"{tmp_path}/{name}"[1:] for name in sorted(names)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gone.parquet", "{0}/list.txt:2: {0}/gone.parquet cannot be read: No such file or directory"),
        ("folder", "{0}/list.txt:2: {0}/folder is a folder"),
        ("pipe", "{0}/list.txt:2: {0}/pipe is a FIFO, a socket or a device, not a file"),
        ("dangling", "{0}/list.txt:2: {0}/dangling is a link that leads nowhere"),
        ("/dev/null", "{0}/list.txt:2: /dev/null is not below {0}/"),
        ("_manifest.json", "{0}/_manifest.json: '_manifest.json' is a name that `prep` keeps for files of its own"),
    ],
)
def test_what_a_list_names_and_cannot_be_a_part(line: str, message: str, tmp_path: Path) -> None:
    path = write_list(tmp_path, f"a\n{line}\n", "a", "folder/b", "_manifest.json")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(SourceError) as caught:
        listing(path, tmp_path)
    assert caught.value.message == message.format(tmp_path)
    assert caught.value.next_step


def test_a_changed_list_asks_for_something_else_and_a_moved_one_does_not(tmp_path: Path) -> None:
    path = write_list(tmp_path, "a\n", "a", "b")
    before = Place("x", source(path, tmp_path)).asked
    moved = path.rename(tmp_path / "other.txt")
    assert Place("x", source(moved, tmp_path)).asked == before
    moved.write_text("a\nb\n")
    assert Place("x", source(moved, tmp_path)).asked != before
    assert Place("x", source(path, tmp_path)).asked != before


@pytest.mark.parametrize("more", [{"include": ["*.parquet"]}, {"exclude": ["a"]}, {"files_from": ""}])
def test_a_list_leaves_nothing_to_choose(more: dict[str, Any]) -> None:
    keys = {"kind": "s3", "path": "s3://b/", "files_from": "list.txt"}
    with pytest.raises(ValidationError, match=r"nothing to include or exclude|at least 1 character"):
        S3Source.model_validate(keys | more)
    if "exclude" not in more:
        with pytest.raises(ValidationError, match=r"nothing to include or exclude|at least 1 character"):
            LocalSource.model_validate(keys | {"kind": "local"} | more)


def test_a_relative_list_is_taken_from_the_workspace(tmp_path: Path) -> None:
    Workspace.create(tmp_path, Catalogue().recipe_path("empty").read_text())
    write_list(tmp_path, "data/a\n", "data/a")
    dataset = Dataset.model_validate(
        {
            "name": "x",
            "source": {"kind": "local", "path": "data", "files_from": "list.txt"},
            "images": {"kind": "given"},
        }
    )
    source = Workspace(tmp_path).source(dataset)
    assert source == LocalSource(kind="local", path=str(tmp_path / "data"), files_from=str(tmp_path / "list.txt"))
    assert [part.path for part in local.list_parts(source, tmp_path / "raw/x", None).parts] == ["a"]


def test_the_folder_may_be_a_link_or_hold_steps_up(tmp_path: Path) -> None:
    path = write_list(tmp_path / "real", "d/a\n", "d/a")
    (tmp_path / "link").symlink_to("real")
    for root in ("link", "link/d", "link/", "x/../real"):
        found = listing(tmp_path / "link/list.txt", tmp_path / root)
        name = "a" if root.endswith("d") else "d/a"
        assert [(part.path, part.url) for part in found.parts] == [(name, str(path.resolve().parent / "d/a"))]


def test_what_was_asked_of_a_source_without_a_list_is_what_it_always_was(tmp_path: Path) -> None:
    assert Place("x", LocalSource(kind="local", path="/data")).asked == "36e942c27423824befc1d742bb0e934d"
    assert Place("x", S3Source(kind="s3", path="s3://b/")).asked == "88deff919651c5acc7f29962f29c2144"


def test_a_listing_is_asked_for_in_threads_and_told_by_its_line(tmp_path: Path) -> None:
    path = write_list(tmp_path, "\n".join(f"s3://b/p/{number}" for number in range(50)))

    def part_of(address: str, name: str) -> Part:
        if int(name) >= 20:
            raise SourceError(f"{address} is not there", "Look.")
        return Part(name, address)

    with pytest.raises(SourceError) as caught:
        list_named(path, "s3://b/p/", part_of)
    assert str(caught.value) == f"{path}:21: s3://b/p/20 is not there\n  Look."
