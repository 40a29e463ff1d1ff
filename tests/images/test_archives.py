"""Images out of tars and zips, whole or hostile."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.errors import DataError
from prep.images import archives
from prep.images.archives import archive_stem, image_key, image_members, safe_member, split_member

Members = Mapping[str, bytes]
RANDOM = Random(7)
MEMBERS = {
    "000.jpg": RANDOM.randbytes(700),
    "000.txt": b"not an image",
    "deep/folder/001.PNG": b"p" * 1500,
    "bild ü 图.webp": RANDOM.randbytes(1024),
    "x" * 150 + ".jpeg": b"long",
    "last.gif": RANDOM.randbytes(300),
}
IMAGES = [(name, data) for name, data in MEMBERS.items() if not name.endswith(".txt")]
TARS = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
ZIPS = {
    "stored.zip": zipfile.ZIP_STORED,
    "zip": zipfile.ZIP_DEFLATED,
    "bz2.zip": zipfile.ZIP_BZIP2,
    "xz.zip": zipfile.ZIP_LZMA,
}


def tar_bytes(members: Members, mode: str = "w", format_: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode, format=format_) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


def zip_bytes(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def archive_bytes(kind: str, members: Members) -> bytes:
    return tar_bytes(members, TARS[kind]) if kind in TARS else zip_bytes(members, ZIPS[kind])


def read(path: Path, data: bytes) -> list[tuple[str, bytes | None]]:
    path.write_bytes(data)
    return list(image_members(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "part-0"


@pytest.mark.parametrize("kind", [*TARS, *ZIPS])
def test_images_come_in_the_order_of_the_archive(kind: str, path: Path) -> None:
    assert read(path, archive_bytes(kind, MEMBERS)) == IMAGES


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_both_ways_of_long_names(format_: int, path: Path) -> None:
    assert read(path, tar_bytes(MEMBERS, format_=format_)) == IMAGES


@pytest.mark.parametrize("kind", [*TARS, *ZIPS])
def test_an_archive_of_nothing_has_no_images(kind: str, path: Path) -> None:
    assert read(path, archive_bytes(kind, {})) == []
    assert read(path, archive_bytes(kind, {"readme.txt": b"", "jpg": b"", ".jpg": b"", "a.jpg.txt": b""})) == []


HOSTILE = [
    *("../up.jpg", "a/../../up.jpg", "/etc/absolute.jpg", "//host/share.jpg", "C:\\windows.jpg", "..\\up.jpg"),
    *("a\\..\\b.jpg", "./dot.jpg", "a//b.jpg", "Case.jpg", "case.jpg", " .jpg", "a\nb.jpg", "-rf.jpg", "~.jpg"),
]


@pytest.mark.parametrize("kind", ["tar", "zip"])
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


def test_links_devices_and_folders_are_passed_over(path: Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for kind in (
            *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
            *(tarfile.DIRTYPE, tarfile.CONTTYPE),
        ):
            member = tarfile.TarInfo(f"{kind.decode()}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("file.jpg"))
    # A contiguous file is a file.
    assert read(path, target.getvalue()) == [("7.jpg", b""), ("file.jpg", b"")]

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.mkdir("folder.jpg")
        archive.writestr("folder.jpg/a.jpg", b"a")
    assert read(path, target.getvalue()) == [("folder.jpg/a.jpg", b"a")]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_comes_twice(path: Path) -> None:
    tar, archive = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as tar_file, zipfile.ZipFile(archive, "w") as zip_file:
        for data in (b"one", b"three"):
            member = tarfile.TarInfo("a.jpg")
            member.size = len(data)
            tar_file.addfile(member, io.BytesIO(data))
            zip_file.writestr("a.jpg", data)
    for data in (tar.getvalue(), archive.getvalue()):
        assert read(path, data) == [("a.jpg", b"one"), ("a.jpg", b"three")]


def test_a_name_that_is_not_utf8_becomes_text_that_can_be_written_down(path: Path) -> None:
    data = tar_bytes({"caf_.jpg": b"coffee"}, format_=tarfile.GNU_FORMAT).replace(b"caf_.jpg", b"caf\xe9.jpg")
    header = bytearray(data[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    ((name, _),) = read(path, bytes(header) + data[512:])
    assert name == "caf\ufffd.jpg"
    assert safe_member(name) == name


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_member_over_the_cap_comes_without_its_bytes(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", 1000)
    data = archive_bytes(kind, {"just.jpg": bytes(1000), "over.jpg": bytes(1001), "next.jpg": b"next"})
    assert read(path, data) == [("just.jpg", bytes(1000)), ("over.jpg", None), ("next.jpg", b"next")]


def lying_zip(says: int) -> bytes:
    """A zip whose one member of 5,000 zeros is said to have `says` bytes."""
    data = zip_bytes({"a.jpg": bytes(5000)}, zipfile.ZIP_DEFLATED)
    return data.replace(struct.pack("<L", 5000), struct.pack("<L", says))


def test_a_zip_that_lies_about_sizes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(path, lying_zip(6000)) == [("a.jpg", bytes(5000))]
    with pytest.raises(DataError, match="Bad CRC-32"):
        read(path, lying_zip(100))
    monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", 1000)
    with pytest.raises(DataError, match="Bad CRC-32"):
        read(path, lying_zip(100))
    assert read(path, lying_zip(2**32 - 2)) == [("a.jpg", None)]


def test_an_encrypted_zip_is_an_error(path: Path) -> None:
    data = bytearray(zip_bytes({"a.jpg": b"secret"}))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + at] |= 1
    with pytest.raises(DataError, match="password required"):
        read(path, bytes(data))


def test_a_tar_that_ends_with_a_zip_is_a_tar(path: Path) -> None:
    data = tar_bytes({"a.jpg": b"of the tar", "more.zip": zip_bytes({"b.jpg": b"of the zip"})})
    assert zipfile.is_zipfile(io.BytesIO(data)), "else this tests nothing"
    assert read(path, data) == [("a.jpg", b"of the tar")]


@pytest.mark.parametrize(
    "data",
    [b"", b"<!doctype html><p>Not found", b"\x89PNG\r\n\x1a\n", b"PK\3\4", bytes(range(256)) * 8],
    ids=["empty", "html", "png", "zip", "noise"],
)
def test_what_is_no_archive_is_said_with_how_it_begins(data: bytes, path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(path, data)
    assert caught.value.message.startswith(f"{path} cannot be read as an archive to its end: ")
    assert caught.value.message.endswith(f"(it begins with {data[:16]!r})")
    assert caught.value.next_step == (
        "Delete it and run `prep download` again; if it stays so, the publisher's file is broken."
    )


def test_an_archive_that_is_gone_is_an_os_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(image_members(path))


@pytest.mark.parametrize("kind", [*TARS, *ZIPS])
def test_a_truncated_archive_is_an_error_and_never_a_shorter_archive(kind: str, path: Path) -> None:
    whole = archive_bytes(kind, MEMBERS)
    steps = range(1, len(whole), 37) if kind in TARS else range(1, len(whole), 97)
    for length in steps:
        try:
            found = read(path, whole[:length])
        except DataError as error:
            assert str(path) in error.message
        else:
            assert found == IMAGES, f"cut after {length} of {len(whole)} bytes"


def test_a_tar_without_its_end_marker_is_whole(path: Path) -> None:
    # Some writers leave the two empty blocks out, and other readers do not miss them either.
    members = {"a.jpg": b"a" * 512, "b.jpg": b"b" * 512}
    assert read(path, tar_bytes(members)[:2048]) == list(members.items())


def test_a_broken_header_is_not_taken_for_the_end(path: Path) -> None:
    data = bytearray(tar_bytes({"a.jpg": b"a" * 512, "b.jpg": b"b", "c.jpg": b"c"}))
    data[1024 + 150] ^= 1  # in the checksum of the second member's header
    with pytest.raises(DataError, match="a member's header is broken"):
        read(path, bytes(data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    kind=st.sampled_from(["tar", "tar.gz", *ZIPS]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_whatever_the_bytes_the_error_is_ours(kind: str, changes: list[tuple[float, int]], path: Path) -> None:
    data = bytearray(archive_bytes(kind, {"d/é.jpg": bytes(range(256)), "b.jpg": b"b" * 100}))
    for place, byte in changes:
        data[int(place * len(data))] = byte
    try:
        for name, _ in read(path, bytes(data)):
            name.encode()
            safe_member(name)
    except DataError as error:
        assert str(path) in error.message


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


def test_archive_stem() -> None:
    stems = {
        "a/b.tar": "a/b",
        "b.tar.gz": "b",
        "b.tgz": "b",
        "b.zip": "b",
        "train.v2.zip": "train.v2",
        "b": "b",
        "b.parquet": "b.parquet",
    }
    assert {part: archive_stem(part) for part in stems} == stems


def test_image_key() -> None:
    member = "./train2017/0001.seg.png"
    assert {kind: image_key(kind, "data/part-0", member) for kind in ("member", "name", "part-member")} == {
        "member": "train2017/0001.seg.png",
        "name": "0001.seg.png",
        "part-member": "data/part-0/train2017/0001.seg",
    }
