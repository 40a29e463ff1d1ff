"""Zips as the standard library reads them, and broken ones, of which it reads nothing."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from archive_samples import IMAGES, MEMBERS, ZIPS, archive_bytes, members, read, told, zip_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.images import archives, zips
from prep.images.archives import Member, read_members

RANDOM = random.Random(5)
FIVE = {f"{n}.jpg": RANDOM.randbytes(700 + n) for n in range(5)}
LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "part-0"


class Pipe(io.RawIOBase):
    """Something that is written to and never gone back in: sizes then stand behind each member."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


def streamed_zip(files: dict[str, bytes], compression: int, *, is_signed: bool = True, is_64: bool = False) -> bytes:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", compression) as archive:
        for name, data in files.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=is_64) as file:
                file.write(data)
    data = bytes(pipe.data)
    return data if is_signed else data.replace(b"PK\7\x08", b"")


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


# -- sound -----------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(sorted(ZIPS)),
    files=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0#"), min_size=1, max_size=20),
        st.binary(max_size=1200),
        max_size=6,
    ),
    comment=st.binary(max_size=50).filter(lambda comment: b"PK" not in comment),
    before=st.sampled_from([b"", b"MZ a program that unpacks itself"]),
)
def test_every_zip_reads_as_with_the_standard_library(
    kind: str, files: dict[str, bytes], comment: bytes, before: bytes, path: Path
) -> None:
    target = io.BytesIO()
    target.write(before)
    with zipfile.ZipFile(target, "w" if not before else "a", ZIPS[kind]) as archive:
        archive.comment = comment
        for name, content in files.items():
            archive.writestr(name + ".jpg", content)
    with zipfile.ZipFile(target) as archive:
        expected = [(info.filename, archive.read(info)) for info in archive.infolist()]
    expected = [(name, data) for name, data in expected if Path(name).suffix and not Path(name).name.startswith("._")]
    assert read(path, target.getvalue()) == expected


def test_folders_and_links_are_passed_over(path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.mkdir("folder.jpg")
        archive.writestr("folder.jpg/a.jpg", b"a")
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        regular = zipfile.ZipInfo("regular.jpg")
        regular.create_system, regular.external_attr = 3, 0o100644 << 16
        archive.writestr(regular, b"r")
        other = zipfile.ZipInfo("dos.jpg")
        other.create_system, other.external_attr = 0, 0o120777 << 16
        archive.writestr(other, b"d")
    assert read(path, target.getvalue()) == [("folder.jpg/a.jpg", b"a"), ("regular.jpg", b"r"), ("dos.jpg", b"d")]


def test_more_members_than_the_old_format_can_count(path: Path) -> None:
    count = 66_000
    data = zip_bytes({f"{n}.jpg": b"" for n in range(count)})
    assert read(path, data) == [(f"{n}.jpg", b"") for n in range(count)]


def test_sizes_in_the_zip64_fields(path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FIVE.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(content)
    data = target.getvalue()
    assert read(path, data) == list(FIVE.items())
    assert told(members(path, data[: data.index(CENTRAL)]))[:-1] == [(name, "ok") for name in FIVE]

    # And in the directory: the second member's sizes and place, as for one beyond four gigabytes.
    data = zip_bytes(FIVE)
    at = data.index(CENTRAL, data.index(CENTRAL) + 1)
    size, offset = len(FIVE["1.jpg"]), data.index(LOCAL, 1)
    extra = struct.pack("<2H3Q", 1, 24, size, size, offset)
    new = changed(data[at : at + 46], 20, b"\xff" * 8)
    new = changed(changed(new, 30, struct.pack("<H", len(extra))), 42, b"\xff" * 4)
    end = data.index(END)
    record = changed(data[end:], 12, struct.pack("<L", end + len(extra) - data.index(CENTRAL)))
    data = data[:at] + new + b"1.jpg" + extra + data[at + 51 : end] + record
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("1.jpg") == FIVE["1.jpg"], "else this tests nothing"
    assert read(path, data) == list(FIVE.items())


def test_a_directory_longer_than_the_piece_that_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "READ_BYTES", 400_000)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for n in range(40):
            info = zipfile.ZipInfo(f"{n}.jpg")
            info.comment = b"c" * 30_000
            archive.writestr(info, b"%d" % n)
    assert read(path, target.getvalue()) == [(f"{n}.jpg", b"%d" % n) for n in range(40)]


# -- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("escaped", "name"),
    [
        ("images/#U91d1#U5e01.jpg", "images/金币.jpg"),
        ("#U00e9t#U00E9.jpg", "été.jpg"),
        ("#L01f600.jpg", "😀.jpg"),
        ("#L0001f600.jpg", "😀.jpg"),
        ("#L01f600ab.jpg", "😀ab.jpg"),
        ("#L10ffff.jpg", "\U0010ffff.jpg"),
        ("#L110000.jpg", "#L110000.jpg"),
        ("#Ud83d#Ude00.jpg", "😀.jpg"),
        ("#Ud83d.jpg", "\ufffd.jpg"),
        ("#U91d.jpg", "#U91d.jpg"),
        ("a#1.jpg", "a#1.jpg"),
        ("#u91d1.jpg", "#u91d1.jpg"),
    ],
)
def test_escaped_characters_become_characters(escaped: str, name: str, path: Path) -> None:
    assert read(path, zip_bytes({escaped: b"1"})) == [(name, b"1")]


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("金币.jpg".encode(), "金币.jpg"),
        (b"caf\x82.jpg", "café.jpg"),
        ("金币.jpg".encode("gbk"), "╜≡▒╥.jpg"),
    ],
)
def test_names_that_do_not_say_what_they_are(raw: bytes, name: str, path: Path) -> None:
    stand_in = "x" * (len(raw) - 4) + ".jpg"
    data = zip_bytes({stand_in: b"1"}).replace(stand_in.encode(), raw)
    assert read(path, data) == [(name, b"1")]


def test_a_name_that_says_it_is_utf8_and_is_not_loses_no_other_member(path: Path) -> None:
    data = zip_bytes({"é.jpg": b"1", "b.jpg": b"2"}).replace("é".encode(), b"\xc3\xff")
    assert read(path, data) == [("\ufffd\ufffd.jpg", b"1"), ("b.jpg", b"2")]


@pytest.mark.parametrize(("sums", "name"), [(True, "金.jpg"), (False, "_.jpg")])
def test_the_real_name_may_stand_in_a_field_of_its_own(sums: bool, name: str, path: Path) -> None:
    info = zipfile.ZipInfo("_.jpg")
    real = struct.pack("<BL", 1, zlib.crc32(b"_.jpg") ^ (not sums)) + "金.jpg".encode()
    info.extra = struct.pack("<2H", 0x7855, 2) + b"ab" + struct.pack("<2H", 0x7075, len(real)) + real
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(info, b"1")
    assert read(path, target.getvalue()) == [(name, b"1")]


# -- damaged members -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ZIPS)
def test_members_with_wrong_bytes_are_named_and_all_others_saved(kind: str, path: Path) -> None:
    data = archive_bytes(kind, FIVE)
    places = [info.header_offset + 80 for info in zipfile.ZipFile(io.BytesIO(data)).infolist()]
    for at in (places[1], places[3]):
        data = changed(data, at, bytes(20))
    found = members(path, data)
    assert told(found) == [(name, "damaged" if name in ("1.jpg", "3.jpg") else "ok") for name in FIVE]
    assert all(member.data == FIVE[member.name] for member in found if member.status == "ok")
    assert all(member.error for member in found if member.status == "damaged")


def test_a_wrong_checksum_is_said(path: Path) -> None:
    data = zip_bytes(FIVE)
    at = data.index(FIVE["2.jpg"])
    assert members(path, changed(data, at, b"!"))[2] == Member(
        "2.jpg", None, "damaged", "its checksum is wrong (CRC-32)"
    )


def test_an_encrypted_member_is_damaged(path: Path) -> None:
    data = bytearray(zip_bytes({"a.jpg": b"secret", "b.jpg": b"open"}))
    for mark, at in ((LOCAL, 6), (CENTRAL, 8)):
        data[data.index(mark) + at] |= 1
    assert members(path, bytes(data)) == [
        Member("a.jpg", None, "damaged", "it is encrypted"),
        Member("b.jpg", b"open", "ok"),
    ]


def test_a_method_that_is_not_known_is_said(path: Path) -> None:
    data = zip_bytes({"a.jpg": b"a", "b.jpg": b"b"})
    data = changed(data, data.index(CENTRAL) + 10, struct.pack("<H", 93))
    assert members(path, data) == [
        Member("a.jpg", None, "damaged", "it is packed with method 93, which is not known here"),
        Member("b.jpg", b"b", "ok"),
    ]


def lying_zip(says: int) -> bytes:
    """A zip whose one member of 5,000 zeros is said to have `says` bytes."""
    data = zip_bytes({"a.jpg": bytes(5000)}, zipfile.ZIP_DEFLATED)
    return data.replace(struct.pack("<L", 5000), struct.pack("<L", says))


def test_a_zip_that_lies_about_sizes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(path, lying_zip(6000)) == [("a.jpg", bytes(5000))]
    assert told(members(path, lying_zip(100))) == [("a.jpg", "damaged")]
    monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", 1000)
    assert told(members(path, lying_zip(100))) == [("a.jpg", "damaged")]
    assert told(members(path, lying_zip(2**32 - 2))) == [("a.jpg", "too_large")]


@pytest.mark.parametrize("kind", ["zip", "bz2.zip", "xz.zip"])
def test_a_bomb_costs_no_memory(kind: str, path: Path) -> None:
    data = archive_bytes(kind, {"a.jpg": bytes(40_000_000)})
    path.write_bytes(data.replace(struct.pack("<L", 40_000_000), struct.pack("<L", 60_000)))
    tracemalloc.start()
    try:
        assert [member.status for member in read_members([path])] == ["damaged"]
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_packed_bytes_without_end_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zip_bytes({"a.jpg": bytes(5000)})
    at = data.index(CENTRAL)
    data = changed(data, at + 24, struct.pack("<L", 10))
    assert members(path, data) == [Member("a.jpg", None, "damaged", "5,000 bytes that unpack to 10")]


# -- broken zips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-300, 300])
def test_members_before_and_behind_missing_or_doubled_bytes_are_saved(size: int, path: Path) -> None:
    data = zip_bytes(FIVE)
    at = data.index(FIVE["2.jpg"]) + 300
    data = data[:at] + data[at - size :]
    found = members(path, data)
    assert told(found) == [(name, "damaged" if name == "2.jpg" else "ok") for name in FIVE]


def test_a_beginning_of_zeros_loses_only_what_was_there(path: Path) -> None:
    data = zip_bytes(FIVE)
    found = members(path, bytes(800) + data[800:])
    assert told(found) == [(name, "damaged" if name in ("0.jpg", "1.jpg") else "ok") for name in FIVE]
    assert found[0].error == "no header of its own at byte 0"


def test_bytes_behind_a_zip_do_not_matter(path: Path) -> None:
    data = zip_bytes(FIVE)
    for behind in (bytes(3000), b"PK\5\6", b"PK\5\6" + bytes(30), data[-22:-10]):
        assert read(path, data + behind) == list(FIVE.items())


def streams() -> dict[str, bytes]:
    """Zips whose members stand in them in every way there is, without their directory."""
    ways = {
        "stored": zip_bytes(FIVE),
        "deflated": zip_bytes(FIVE, zipfile.ZIP_DEFLATED),
        "stored, streamed": streamed_zip(FIVE, zipfile.ZIP_STORED),
        "deflated, streamed": streamed_zip(FIVE, zipfile.ZIP_DEFLATED),
        "stored, streamed, no signature": streamed_zip(FIVE, zipfile.ZIP_STORED, is_signed=False),
        "deflated, streamed, no signature": streamed_zip(FIVE, zipfile.ZIP_DEFLATED, is_signed=False),
        "deflated, streamed, 64": streamed_zip(FIVE, zipfile.ZIP_DEFLATED, is_64=True),
        "stored, streamed, 64": streamed_zip(FIVE, zipfile.ZIP_STORED, is_64=True),
    }
    return {way: data[: data.index(CENTRAL)] for way, data in ways.items()}


STREAMS = streams()


@pytest.mark.parametrize("way", STREAMS)
def test_without_its_directory_a_zip_is_read_by_its_members(way: str, path: Path) -> None:
    data = STREAMS[way]
    found = members(path, data + CENTRAL)
    assert [(member.name, member.data) for member in found] == list(FIVE.items())
    # Not even the beginning of a directory: nobody knows what more there was.
    if "no signature" not in way and "64" not in way:
        found = members(path, data)
        assert [(member.name, member.data) for member in found[:-1]] == list(FIVE.items())
        assert found[-1] == Member(f"bytes {len(data):,} on", None, "lost", "the zip ends before its directory")


@pytest.mark.parametrize("way", STREAMS)
def test_cut_anywhere_all_members_before_the_cut_are_saved(way: str, path: Path) -> None:
    data = STREAMS[way]
    starts = [at for at in range(len(data)) if data.startswith(LOCAL, at)]
    for length in range(starts[1], len(data), 17):
        found = members(path, data[:length])
        # Without a signature a member's end is known by what follows it.
        whole = sum(start + 4 * ("no signature" in way) <= length for start in starts) - 1
        saved = [(member.name, member.data) for member in found if member.status == "ok"]
        assert saved[:whole] == list(FIVE.items())[:whole] and len(saved) <= whole + 1
        assert saved == list(FIVE.items())[: len(saved)]
        assert found[-1].status == "lost"


def test_a_broken_directory_is_passed_over(path: Path) -> None:
    data = archive_bytes("zip", MEMBERS)
    at = data.index(CENTRAL)
    for broken in (changed(data, data.index(CENTRAL, at + 1), b"!"), changed(data, at + 28, b"\xff\xff"), data[:-30]):
        assert read(path, broken) == IMAGES


def test_behind_a_broken_header_the_next_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zip_bytes(FIVE)
    data = data[: data.index(CENTRAL) + 4]
    at = data.index(LOCAL, data.index(LOCAL, 1) + 1)
    end = data.index(LOCAL, at + 1)
    expected = [
        *[Member(name, FIVE[name], "ok") for name in ("0.jpg", "1.jpg")],
        Member(f"bytes {at:,} to {end - 1:,}", None, "lost", "no member's header where one should be"),
        *[Member(name, FIVE[name], "ok") for name in ("3.jpg", "4.jpg")],
    ]
    for place, new in ((0, b"!"), (4, b"\xff"), (8, b"\xff"), (26, b"\0\0"), (28, b"\xff\xff")):
        for size in (1 << 20, 1000, 64):
            monkeypatch.setattr(zips, "READ_BYTES", size)
            assert members(path, changed(data, at + place, new)) == expected, (place, size)
    assert told(members(path, data[: at + 700] + bytes(2000)))[:3] == [
        ("0.jpg", "ok"),
        ("1.jpg", "ok"),
        ("2.jpg", "damaged"),
    ]


def test_a_member_whose_size_is_lost_ends_where_the_next_begins(path: Path) -> None:
    data = STREAMS["deflated, streamed"] + CENTRAL
    at = data.index(b"PK\7\x08", data.index(b"PK\7\x08") + 1)
    found = members(path, changed(data, at + 8, b"\xff\xff"))
    assert told(found) == [(name, "damaged" if name == "1.jpg" else "ok") for name in FIVE]
    assert found[1].error == "how long it is stands nowhere"


def test_a_member_that_hides_that_its_sizes_stand_behind_it_is_not_taken_for_empty(path: Path) -> None:
    data = STREAMS["deflated, streamed"] + CENTRAL
    at = data.index(LOCAL, 1) + 6
    assert read(path, changed(data, at, b"\0")) == list(FIVE.items())
    empty = zip_bytes({"a.jpg": b"", "b.jpg": b"b"})
    assert read(path, empty[: empty.index(CENTRAL) + 4]) == [("a.jpg", b""), ("b.jpg", b"b")]
