"""Images out of archives of every kind, whole or hostile."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from archive_samples import (
    IMAGES,
    MEMBERS,
    TARS,
    ZIPS,
    archive_bytes,
    members,
    read,
    split,
    tar_bytes,
    told,
    zip_bytes,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.errors import DataError
from prep.images import archives, tars, zips
from prep.images.archives import Member, count_shares, image_key, read_members, safe_member, split_member
from prep.images.entries import Entry
from prep.images.joined import JoinedFile

COMPRESSED = [kind for kind in TARS if kind != "tar"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "part-0"


@pytest.mark.parametrize("kind", [*TARS, *ZIPS])
def test_images_come_in_the_order_of_the_archive(kind: str, path: Path) -> None:
    assert read(path, archive_bytes(kind, MEMBERS)) == IMAGES


@pytest.mark.parametrize("kind", [*TARS, *ZIPS])
def test_an_archive_of_nothing_has_no_images(kind: str, path: Path) -> None:
    assert read(path, archive_bytes(kind, {})) == []
    assert read(path, archive_bytes(kind, {"readme.txt": b"", "jpg": b"", ".jpg": b"", "a.jpg.txt": b""})) == []


HOSTILE = [
    *("../up.jpg", "a/../../up.jpg", "/etc/absolute.jpg", "//host/share.jpg", "C:\\windows.jpg", "..\\up.jpg"),
    *("a\\..\\b.jpg", "./dot.jpg", "a//b.jpg", "Case.jpg", "case.jpg", " .jpg", "a\nb.jpg", "-rf.jpg", "~.jpg"),
]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_names_come_as_they_stand_and_become_no_path(kind: str, path: Path) -> None:
    data = archive_bytes(kind, {name: name.encode() for name in HOSTILE})
    assert read(path, data) == [(name, name.encode()) for name in HOSTILE]
    assert [entry.name for entry in path.parent.iterdir()] == ["part-0"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.jpg", "a.jpg"),
        ("a/b c/图.jpg", "a/b c/图.jpg"),
        ("./a//b/./c.jpg", "a/b/c.jpg"),
        ("Case.JPG", "Case.JPG"),
        ("...jpg", "...jpg"),
        ("a..b/c.jpg", "a..b/c.jpg"),
        ("/a.jpg", None),
        ("//a.jpg", None),
        ("../a.jpg", None),
        ("a/../b.jpg", None),
        ("..", None),
        ("", None),
        (".", None),
        ("a\\b.jpg", None),
        ("a\0.jpg", None),
        ("é" * 100, "é" * 100),
        ("é" * 101, None),
        ("/".join("a" * 400), "/".join("a" * 400)),
        ("/".join("a" * 401), None),
    ],
)
def test_safe_member(name: str, safe: str | None) -> None:
    assert safe_member(name) == safe


@given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "", "a", "é.jpg", "\\", "/"])).map("/".join))
def test_a_safe_name_lies_below_its_folder_and_fits_every_disk(name: str) -> None:
    safe = safe_member(name)
    if safe is not None:
        path = PurePosixPath("folder", safe)
        assert path.is_relative_to("folder") and ".." not in path.parts and path != PurePosixPath("folder")
        assert safe_member(safe) == safe


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_files_that_macos_adds_are_passed_over(kind: str, path: Path) -> None:
    names = ["__MACOSX/._a.jpg", "a.jpg", "b/__MACOSX/c.jpg", "b/._c.jpg", "b/.DS_Store", "b/c._d.jpg", "MACOSX/e.jpg"]
    found = read(path, archive_bytes(kind, {name: name.encode() for name in names}))
    assert [name for name, _ in found] == ["a.jpg", "b/c._d.jpg", "MACOSX/e.jpg"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_members_with_one_name_the_last_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar, archive = io.BytesIO(), io.BytesIO()
    put = [("a.jpg", b"one"), ("b.jpg", b"two"), ("a.jpg", b"three"), ("c.jpg", b"four")]
    with tarfile.open(fileobj=tar, mode="w") as tar_file, zipfile.ZipFile(archive, "w") as zip_file:
        for name, data in put:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar_file.addfile(member, io.BytesIO(data))
            zip_file.writestr(name, data)
    for data in (tar.getvalue(), archive.getvalue()):
        for share_bytes in (1 << 20, 1024, 40):
            monkeypatch.setattr(archives, "SHARE_BYTES", share_bytes)
            assert read(path, data) == put[1:]
    # What follows is not known in a stream; there all come.
    assert read(path, gzip.compress(tar.getvalue())) == put


# -- sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_member_over_the_cap_comes_without_its_bytes(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", 1000)
    data = archive_bytes(kind, {"just.jpg": bytes(1000), "over.jpg": bytes(1001), "next.jpg": b"next"})
    assert members(path, data) == [
        Member("just.jpg", bytes(1000), "ok"),
        Member("over.jpg", None, "too_large"),
        Member("next.jpg", b"next", "ok"),
    ]


# -- what it is --------------------------------------------------------------------------------------------------


def test_an_archive_is_told_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    for name in ("a.tar", "a.zip", "a.tar.gz", "a"):
        for kind in [*TARS, *ZIPS]:
            assert read(tmp_path / name, archive_bytes(kind, MEMBERS)) == IMAGES


def test_a_tar_that_ends_with_a_zip_is_a_tar(path: Path) -> None:
    data = tar_bytes({"a.jpg": b"of the tar", "more.zip": zip_bytes({"b.jpg": b"of the zip"})})
    assert zipfile.is_zipfile(io.BytesIO(data)), "else this tests nothing"
    assert read(path, data) == [("a.jpg", b"of the tar")]
    data = tar_bytes({"lost.jpg": b"", "a.jpg": b"of the tar", "more.zip": zip_bytes({"b.jpg": b"of the zip"})})
    assert told(members(path, b"!" + data[1:])) == [("bytes 0 to 511", "lost"), ("a.jpg", "ok")]


NOTHING = {
    "empty": b"",
    "html": b"<!doctype html><p>Not found",
    "png": b"\x89PNG\r\n\x1a\n",
    "zip": b"PK\3\4",
    "noise": bytes(range(256)) * 8,
    "gzip of html": gzip.compress(b"<!doctype html>"),
    "gzip of nothing": gzip.compress(b""),
    "start of a gzip": gzip.compress(bytes(1024))[:9],
    "half a header": tar_bytes({"a.jpg": b"a"})[:300],
    "some zeros": bytes(100),
    "zeros without end": bytes((1 << 20) + 512),
}


@pytest.mark.parametrize("data", NOTHING.values(), ids=NOTHING)
def test_what_is_no_archive_is_said_with_how_it_begins(data: bytes, path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(path, data)
    assert caught.value.message.startswith(f"{path} cannot be read as an archive to its end: ")
    assert caught.value.message.endswith(f"(it begins with {data[:16]!r})")
    assert caught.value.next_step == (
        "Delete it and run `prep download` again; if it stays so, the publisher's file is broken, and can be left "
        "out with a narrower images.parts in a copy of the dataset's YAML in datasets/."
    )


def test_an_archive_that_is_gone_is_an_os_error(path: Path) -> None:
    for call in (lambda: count_shares([path]), lambda: list(read_members([path]))):
        with pytest.raises(FileNotFoundError):
            call()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_failing_disk_is_not_taken_for_a_damaged_archive(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(archive_bytes(kind, MEMBERS))
    found = read_members([path])
    pread, calls = os.pread, iter(range(2 if kind == "tar.gz" else 6))

    def fail(descriptor: int, size: int, at: int) -> bytes:
        if next(calls, None) is None:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, size, at)

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr("prep.images.unpacked.READ_BYTES", 500)
    with pytest.raises(OSError) as caught:
        list(found)
    assert caught.value.errno == errno.EIO


# -- shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*TARS, *ZIPS])
def test_what_can_be_read_from_anywhere_is_shared_out(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive_bytes(kind, MEMBERS)
    path.write_bytes(data)
    assert count_shares([path]) == 1
    for share_bytes in (1, 512, 1000, len(data), len(data) - 1):
        monkeypatch.setattr(archives, "SHARE_BYTES", share_bytes)
        assert count_shares([path]) == (1 if kind in COMPRESSED else -(-len(data) // share_bytes))
        if share_bytes > 1:
            assert read(path, data) == IMAGES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["tar", "zip", "stored.zip"]),
    sizes=st.lists(st.integers(0, 3000), max_size=12),
    share_bytes=st.integers(100, 6000),
    skip=st.integers(0, 5),
    holes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 700)), max_size=3),
)
def test_all_shares_together_are_the_whole(
    kind: str, sizes: list[int], share_bytes: int, skip: int, holes: list[tuple[float, int]], path: Path
) -> None:
    data = bytearray(archive_bytes(kind, {f"{n}.jpg": bytes([n]) * size for n, size in enumerate(sizes)}))
    for place, size in holes:
        at = int(place * len(data))
        data[at : at + size] = b"!" * len(data[at : at + size])
    path.write_bytes(data)
    try:
        whole = list(read_members([path]))
    except DataError:
        whole = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "SHARE_BYTES", share_bytes)
        shares = range(count_shares([path]))
        if whole is None:
            with pytest.raises(DataError):
                list(read_members([path], shares[-1]))
            return
        each = [list(read_members([path], share)) for share in shares]
        assert [member for found in each for member in found] == whole
        assert [list(read_members([path], share, skip=skip)) for share in shares] == [found[skip:] for found in each]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "stored.zip"])
def test_what_is_skipped_is_not_read(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(archive_bytes(kind, MEMBERS))
    asked: list[str] = []
    read_tar, read_zip = tars.read, zips.read

    def tar(source: tars.Source, entry: Entry) -> bytes:
        asked.append(entry.name)
        return read_tar(source, entry)

    def zip_(file: JoinedFile, entry: Entry) -> bytes:
        asked.append(entry.name)
        return read_zip(file, entry)

    monkeypatch.setattr(tars, "read", tar)
    monkeypatch.setattr(zips, "read", zip_)
    assert [(member.name, member.data) for member in read_members([path], skip=3)] == IMAGES[3:]
    assert asked == [name for name, _ in IMAGES[3:]]


# -- parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*TARS, *ZIPS])
def test_an_archive_cut_by_bytes_is_read_without_joining_it(kind: str, tmp_path: Path) -> None:
    data = archive_bytes(kind, MEMBERS)
    for cuts in ([1, 2, len(data) - 3], [len(data) // 3, len(data) // 2], [600, 600], list(range(50, len(data), 50))):
        paths = split(tmp_path, data, cuts)
        assert [(member.name, member.data) for member in read_members(paths)] == IMAGES
        assert count_shares(paths) == 1


def test_without_its_last_part_an_archive_gives_what_is_before(tmp_path: Path) -> None:
    data = {f"{n}.jpg": bytes([n]) * 3000 for n in range(8)}
    for kind in ("tar", "tar.gz", "stored.zip"):
        whole = archive_bytes(kind, data)
        paths = split(tmp_path, whole, [len(whole) // 3, 2 * len(whole) // 3])
        found = list(read_members(paths[:2]))
        saved = [(member.name, member.data) for member in found if member.status == "ok"]
        assert saved == list(data.items())[: len(saved)] and len(saved) >= 4
        assert [member.status for member in found[len(saved) :]] in (["damaged", "lost"], ["lost"])


# -- damage ------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([*TARS, *ZIPS]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), min_size=1, max_size=4),
    cut=st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 600)),
)
def test_whatever_the_bytes_the_error_is_ours(
    kind: str, changes: list[tuple[float, bytes]], cut: tuple[float, int], path: Path
) -> None:
    data = bytearray(archive_bytes(kind, {"d/é.jpg": bytes(range(256)), "b.jpg": b"b" * 100, "c.txt": b"c" * 600}))
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    at = int(cut[0] * len(data))
    del data[at : at + cut[1]]
    try:
        found = members(path, bytes(data))
    except DataError as error:
        assert str(path) in error.message
        return
    for member in found:
        member.name.encode()
        safe_member(member.name)
        assert (member.status == "ok") == (member.data is not None)
        assert (member.status in ("ok", "too_large")) == (member.error is None)
        if kind in ZIPS and member.status == "ok":
            assert member.data in (bytes(range(256)), b"b" * 100, b"c" * 600)


@pytest.mark.parametrize(
    ("name", "stem", "extension"),
    [
        ("0001.jpg", "0001", "jpg"),
        ("a/b.c/0001.seg.PNG", "a/b.c/0001", "seg.png"),
        ("./0001.txt", "0001", "txt"),
        ("noextension", "noextension", ""),
        (".hidden", "", "hidden"),
        ("a/.json", "a/", "json"),
        ("trailing.", "trailing", ""),
    ],
)
def test_split_member(name: str, stem: str, extension: str) -> None:
    assert split_member(name) == (stem, extension)


def test_image_key() -> None:
    member = "./train2017/0001.seg.png"
    assert {kind: image_key(kind, "data/part-0", member) for kind in ("member", "name", "part-member")} == {
        "member": "train2017/0001.seg.png",
        "name": "0001.seg.png",
        "part-member": "data/part-0/train2017/0001.seg",
    }
