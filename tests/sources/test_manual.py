"""Files that only a person can get: put in place by hand, or brought from a table of signed links."""

from __future__ import annotations

import hashlib
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.config import ManualSource
from prep.errors import ConfigError, SourceError
from prep.publishers import Fault, World
from prep.sources import Part, manual
from prep.sources.transfer import Session

FORM = ManualSource(kind="manual", instructions="1. Fill in the form.\n2. Wait.\n", include=("*.tar", "*.zip"))


def fetch(source: ManualSource, part: Part, target: Path) -> int:
    """Fetch, and give the bytes told of."""
    told: list[int] = []
    with Session(told.append, allow_private_hosts=True) as session:
        sha256 = manual.fetch(source, part, target, session)
    assert sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    return sum(told)


def error_of(source: ManualSource, folder: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        manual.list_parts(source, folder, None)
    return caught.value


def test_nothing_there_yet_gives_the_instructions(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "flickr30k"
    assert str(error_of(FORM, folder)) == (
        "flickr30k has to be fetched by hand:\n1. Fill in the form.\n2. Wait.\n"
        f"  Put the files (*.tar, *.zip) into {folder}, or name a folder that has them in prep.yaml "
        "(sources: {flickr30k: {kind: local, path: ...}}); then run the same command."
    )


def test_what_is_there_and_does_not_match_is_not_taken(tmp_path: Path) -> None:
    for name in ("README.txt", "_manifest.json", "_parts.jsonl", ".hidden.tar", ".images.zip.tmp"):
        (tmp_path / name).touch()
    assert "by hand" in error_of(FORM, tmp_path).message


def test_what_a_person_put_there_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/images.zip").write_bytes(b"zip")
    (tmp_path / "a.tar").write_bytes(b"tarred")
    versions = [str((tmp_path / name).stat().st_mtime_ns) for name in ("a.tar", "b/images.zip")]
    listing = manual.list_parts(FORM, tmp_path, None)
    assert listing.parts == (
        Part("a.tar", str(tmp_path / "a.tar"), 6, version=versions[0]),
        Part("b/images.zip", str(tmp_path / "b/images.zip"), 3, version=versions[1]),
    )
    assert fetch(FORM, listing.parts[0], tmp_path / "a.tar") == 6
    assert (tmp_path / "a.tar").read_bytes() == b"tarred"


# -- files that have to be there -----------------------------------------------------------------------------


def needs(*files: dict[str, Any], include: tuple[str, ...] = ("*.tar",), **more: Any) -> ManualSource:
    return ManualSource.model_validate(
        {"kind": "manual", "instructions": "Ask.", "include": include, "files": files, **more}
    )


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "sa"
    folder.mkdir()
    (folder / "a.tar").touch()
    given = needs({"path": "b/c.tar"}, {"path": "a.tar"}, {"path": "terms.txt"})
    assert str(error_of(given, folder)) == (
        "sa has to be fetched by hand:\nAsk.\n"
        f"  Put the files (b/c.tar, terms.txt) into {folder}, or name a folder that has them in prep.yaml "
        "(sources: {sa: {kind: local, path: ...}}); then run the same command."
    )
    many = needs(*({"path": f"{n:02}.tar"} for n in range(51)))
    assert "(00.tar, 01.tar, 02.tar, 03.tar, 04.tar, 05.tar, 06.tar, 07.tar, 08.tar, 09.tar and 41 more)" in str(
        error_of(many, folder)
    )


def test_named_files_are_parts_beside_those_that_match(tmp_path: Path) -> None:
    for name in ("a.tar", "terms.txt", "other.txt"):
        (tmp_path / name).write_text(name)
    sha256, md5 = hashlib.sha256(b"terms.txt").hexdigest(), hashlib.md5(b"terms.txt", usedforsecurity=False).hexdigest()
    given = needs({"path": "terms.txt", "size_bytes": 9, "sha256": sha256, "md5": md5})
    first, second = manual.list_parts(given, tmp_path, None).parts
    assert (first.path, second.path) == ("a.tar", "terms.txt")
    assert (second.size_bytes, second.sha256, second.md5) == (9, sha256, md5)
    assert fetch(given, second, tmp_path / "terms.txt") == 9


def test_a_file_that_is_not_the_publishers_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("of a")
    error = error_of(needs({"path": "a.tar", "size_bytes": 5}), tmp_path)
    assert str(error) == (
        f"{tmp_path}/a.tar has 4 bytes, 5 are expected\n"
        "  It is cut off, or another file: get it again, then run the same command."
    )
    given = needs({"path": "a.tar", "size_bytes": 4, "md5": "0" * 32})
    (part,) = manual.list_parts(given, tmp_path, None).parts
    with pytest.raises(SourceError) as caught:
        fetch(given, part, tmp_path / "a.tar")
    assert caught.value.message.startswith(f"{tmp_path}/a.tar: md5 is ")
    assert caught.value.message.endswith(f", {'0' * 32} is expected")
    assert (tmp_path / "a.tar").read_text() == "of a"


@pytest.mark.parametrize("paths", [["../a"], ["/etc/passwd"], ["a", "a"], ["a//b"], ["_manifest.json"], [".a.part"]])
def test_named_files_have_paths_of_their_own(paths: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        manual.list_parts(needs(*({"path": path} for path in paths)), tmp_path, None)
    assert caught.value.next_step == "Mend `files` in the dataset's YAML."


def test_a_name_too_long_for_what_may_lie_beside_it(tmp_path: Path) -> None:
    name = "n" * 236 + ".tar"
    (tmp_path / name).touch()
    assert str(error_of(FORM, tmp_path)) == (
        f"{tmp_path / name}: {name!r} has a name of 240 bytes, at most 239 can be brought\n"
        "  Rename it, or choose others with `include`."
    )


# -- a table of links ----------------------------------------------------------------------------------------

TABLE = "segment_anything_links.txt"
SECRET = "Signature=very-secret"
HEADER = "file_name\tcdn_link"


def linked(*files: dict[str, Any], include: tuple[str, ...] = ("*.tar",), **links: str) -> ManualSource:
    return needs(*files, include=include, links={"file": "*_links.txt", **links})


def put(folder: Path, *lines: str, name: str = TABLE, end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(end.join(lines).encode())
    return folder


def row(url: str, name: str = "sa_000000.tar") -> str:
    return f"{name}\t{url}?{SECRET}"


def test_no_table_yet(tmp_path: Path) -> None:
    (tmp_path / "sa_000000.tar").touch()
    error = error_of(linked(), tmp_path)
    assert error.message == f"{tmp_path.name} has to be fetched by hand:\nAsk."
    assert error.next_step.startswith(f"Put the files (*_links.txt) into {tmp_path}")


def test_matching_rows_are_parts_and_the_table_is_none(tmp_path: Path) -> None:
    put(tmp_path, HEADER, row("https://h/b", "sa_000001.tar"), row("http://h/a"), row("http://h/c", "readme.txt"))
    assert manual.list_parts(linked(), tmp_path, None).parts == (
        Part("sa_000000.tar", f"http://h/a?{SECRET}", version="http://h/a"),
        Part("sa_000001.tar", f"https://h/b?{SECRET}", version="https://h/b"),
    )
    everything = manual.list_parts(linked(include=("*",)), tmp_path, None).parts
    assert [part.path for part in everything] == ["readme.txt", "sa_000000.tar", "sa_000001.tar"]


def test_links_signed_anew_are_the_same_version(tmp_path: Path) -> None:
    before = manual.list_parts(linked(), put(tmp_path, HEADER, "a.tar\thttp://h/a?Signature=old"), None).parts
    after = manual.list_parts(linked(), put(tmp_path, HEADER, "a.tar\thttp://h/a?Signature=new"), None).parts
    assert before != after
    assert [part.identity for part in before] == [part.identity for part in after]


def test_what_is_known_of_the_files_goes_with_their_links(tmp_path: Path) -> None:
    put(tmp_path, HEADER, row("http://h/a"), row("http://h/t", "terms.txt"))
    known = {"path": "sa_000000.tar", "size_bytes": 7, "md5": "ab" * 16}
    assert manual.list_parts(linked(known, {"path": "terms.txt"}), tmp_path, None).parts == (
        Part("sa_000000.tar", f"http://h/a?{SECRET}", 7, None, "ab" * 16, "http://h/a"),
        Part("terms.txt", f"http://h/t?{SECRET}", version="http://h/t"),
    )
    error = error_of(linked({"path": "x.tar"}, {"path": "y.tar"}), tmp_path)
    assert str(error) == f"{tmp_path}/{TABLE} has no link for x.tar, y.tar\n  Get the whole table."


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\r\n \n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n", "\ufeff\r\n"])
@pytest.mark.parametrize("separator", ["\t", ","])
def test_tables_as_programs_save_them(separator: str, start: str, end: str, tmp_path: Path) -> None:
    lines = [["cdn_link", "more", "file_name"], ["http://h/a,b?x=1", "", " a.tar "], ["https://h/b", "z", "b/c.tar"]]
    quote = '"' if separator == "," else ""
    text = end.join(separator.join(f"{quote}{cell}{quote}" for cell in line) for line in lines)
    put(tmp_path, start + text)
    parts = manual.list_parts(linked(), tmp_path, None).parts
    assert [(part.path, part.url) for part in parts] == [("a.tar", "http://h/a,b?x=1"), ("b/c.tar", "https://h/b")]


def test_columns_have_the_names_that_the_dataset_says(tmp_path: Path) -> None:
    put(tmp_path, "what,where", "a.tar,http://h/a")
    (part,) = manual.list_parts(linked(name="what", url="where"), tmp_path, None).parts
    assert (part.path, part.url) == ("a.tar", "http://h/a")


@pytest.mark.parametrize(
    "lines",
    [
        ["name,link", "a.tar,http://h/a.tar?x=1"],
        ["a.tar,http://h/a.tar?x=1"],
        ["size,link,file", "12,http://h/a.tar?x=1,a.tar"],
        ["n\tcdn_link", "a.tar\thttp://h/a.tar?x=1"],
    ],
)
def test_columns_of_other_names_are_told_by_what_is_in_them(tmp_path: Path, lines: list[str]) -> None:
    put(tmp_path, *lines)
    (part,) = manual.list_parts(linked(), tmp_path, None).parts
    assert (part.path, part.url) == ("a.tar", "http://h/a.tar?x=1")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["name\tcdn_link", "c\td\thttp://h/a"], "1: there is no column 'file_name', only: name, cdn_link"),
        (["", "c\td\thttp://h/a"], "2: there is no column 'file_name', only: c, d"),
        (["name\tcdn_link"], "1: there is no column 'file_name', only: name, cdn_link"),
        ([HEADER, row("http://h/a"), "", row("http://h/b")], "4: 'sa_000000.tar' stands here a second time"),
        (
            [HEADER, row("http://h/a", "a/b"), row("http://h/b", "a")],
            f"2: 'a/b' needs a folder where {{folder}}/{TABLE}:3 is a file",
        ),
        ([HEADER, row("http://h/a", ".a.part")], "2: '.a.part' is a name that `prep` keeps for files of its own"),
        ([HEADER, "a.tar"], "2: 'a.tar' has no http(s) address"),
        ([HEADER, "a.tar\t"], "2: 'a.tar' has no http(s) address"),
        ([HEADER, row("ftp://h/a", "a.tar")], "2: 'a.tar' has no http(s) address"),
        ([HEADER, row("http://[::1/a", "a.tar")], "2: 'a.tar' has no http(s) address"),
        ([HEADER, row("file:///etc/passwd", "a.tar")], "2: 'a.tar' has no http(s) address"),
        ([HEADER, row("http://h/a", "../a.tar")], "2: '../a.tar' is not a path inside the dataset's folder"),
        ([HEADER, row("http://h/a", "a//b.tar")], "2: 'a//b.tar' is not a path inside the dataset's folder"),
        ([HEADER, row("http://h/a", "")], "2: '' is not a path inside the dataset's folder"),
    ],
)
def test_a_table_that_is_wrong_says_where_and_keeps_its_secrets(lines: list[str], problem: str, tmp_path: Path) -> None:
    error = error_of(linked(), put(tmp_path, *lines))
    assert error.message == f"{tmp_path}/{TABLE}:{problem.format(folder=tmp_path)}"
    assert "very-secret" not in "".join(traceback.format_exception(error))
    assert error.next_step.startswith("Get the table anew")


@pytest.mark.parametrize("name", [TABLE, "b/old_links.txt"])
def test_a_row_does_not_take_the_place_of_a_table(name: str, tmp_path: Path) -> None:
    error = error_of(linked(), put(tmp_path, HEADER, row("http://h/a"), row("http://h/b", name)))
    assert str(error) == (
        f"{tmp_path}/{TABLE}:3: {name!r} would be taken for a table of links itself (*_links.txt)\n"
        "  Let the dataset's YAML name the table more closely (links: {file: ...}), or mend that line."
    )


@pytest.mark.parametrize("lines", [[], [HEADER], [HEADER, "", "\t"]])
def test_a_table_without_rows(lines: list[str], tmp_path: Path) -> None:
    error = error_of(linked(), put(tmp_path, *lines))
    assert str(error) == f"{tmp_path}/{TABLE} has no rows\n  Get the table anew."


def test_a_cell_without_an_end(tmp_path: Path) -> None:
    error = error_of(linked(), put(tmp_path, HEADER, row("http://h/a"), '"' + row("http://h/b") * 5000))
    assert str(error) == (
        f"{tmp_path}/{TABLE}:3: field larger than field limit (131072); is a quote left open?\n"
        "  Get the table anew, or mend that line."
    )


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / TABLE).write_bytes("file_name\tcdn_link".encode("utf-16"))
    assert error_of(linked(), tmp_path).message == f"{tmp_path}/{TABLE} is not text in UTF-8"


def test_two_tables_are_one_too_many(tmp_path: Path) -> None:
    put(tmp_path, HEADER, row("http://h/a"))
    put(tmp_path, HEADER, row("http://h/a"), name="old_links.txt")
    error = error_of(linked(), tmp_path)
    assert str(error) == (
        f"{tmp_path} has several tables of links: old_links.txt, {TABLE}\n  Leave only the newest there."
    )


@given(st.binary(max_size=200))
def test_no_table_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("links")
    (folder / TABLE).write_bytes(b"file_name,cdn_link\n" + data)
    try:
        parts = manual.list_parts(linked(include=("*",)), folder, None).parts
    except SourceError:
        return
    assert all(part.url.startswith("http") for part in parts)


def test_a_linked_file_comes_and_its_table_stays(world: World, tmp_path: Path) -> None:
    put(tmp_path, HEADER, row(f"{world.url}/files/coco/train2014.zip"))
    given = linked()
    (part,) = manual.list_parts(given, tmp_path, None).parts
    published = (world.folder / "files/coco/train2014.zip").read_bytes()
    assert fetch(given, part, tmp_path / part.path) == len(published)
    assert (tmp_path / part.path).read_bytes() == published
    assert world.requests == [("GET", "/files/coco/train2014.zip")]
    assert manual.list_parts(given, tmp_path, None).parts == (part,)


def test_links_that_have_run_out(world: World, tmp_path: Path) -> None:
    world.faults["/files/coco/train2014.zip"] = Fault(status=403)
    put(tmp_path, HEADER, row(f"{world.url}/files/coco/train2014.zip"))
    (part,) = manual.list_parts(linked(), tmp_path, None).parts
    with pytest.raises(SourceError) as caught:
        fetch(linked(), part, tmp_path / part.path)
    assert str(caught.value) == (
        "sa_000000.tar: its link is refused; the links have probably run out\nAsk.\n"
        "  Get a fresh table of links (*_links.txt), put it in place of the old one, and run the same command; "
        "finished parts, and what has come of others, are kept."
    )
    assert "very-secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("fault", [Fault(status=404), Fault(body=b"<html>Log in</html>")], ids=["404", "a page"])
def test_other_failures_of_a_link_keep_its_secret(fault: Fault, world: World, tmp_path: Path) -> None:
    world.faults["/files/x.tar"] = fault
    put(tmp_path, HEADER, row(f"{world.url}/files/x.tar"))
    (part,) = manual.list_parts(linked(), tmp_path, None).parts
    with pytest.raises(SourceError) as caught:
        fetch(linked(), part, tmp_path / part.path)
    assert caught.value.message.startswith(f"{world.url}/files/x.tar: ")
    assert "very-secret" not in "".join(traceback.format_exception(caught.value))


def test_a_link_does_not_lead_to_private_hosts(world: World, tmp_path: Path) -> None:
    put(tmp_path, HEADER, row(f"{world.url}/files/coco/train2014.zip"))
    (part,) = manual.list_parts(linked(), tmp_path, None).parts
    with pytest.raises(SourceError, match="not a public address"), Session() as session:
        manual.fetch(linked(), part, tmp_path / part.path, session)
    assert world.requests == []
