"""Tars of every format as the standard library reads them, and broken ones, of which it reads no more."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest
from archive_samples import header, members, read, tar_bytes, told
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from prep.images.archives import IMAGE_SUFFIXES, Member, read_members, safe_member

FORMATS = {
    "v7": tarfile.USTAR_FORMAT,
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}
RANDOM = random.Random(3)
FIVE = {f"{n}.jpg": RANDOM.randbytes(900 + n) for n in range(5)}  # a header and two blocks each
PLACES = {name: n * 1536 for n, name in enumerate(FIVE)}
TAR = tar_bytes(FIVE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "part-0"


def saved(path: Path, data: bytes) -> list[str]:
    """Names of the five that came out, each with the bytes it went in with."""
    found = [member for member in members(path, data) if member.status == "ok"]
    assert all(member.data == FIVE[member.name] for member in found)
    return [member.name for member in found]


# -- sound -----------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    format_=st.sampled_from(["ustar", "gnu", "pax"]),
    files=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
        | st.text("ab/é.", min_size=90, max_size=260),
        st.binary(max_size=1200),
        max_size=6,
    ),
    is_image=st.booleans(),
)
@example(format_="ustar", files={"0.GIF": b""}, is_image=False)
def test_every_format_reads_as_with_the_standard_library(
    format_: str, files: dict[str, bytes], is_image: bool, path: Path
) -> None:
    try:
        data = tar_bytes({name + ".jpg" * is_image: data for name, data in files.items()}, format_=FORMATS[format_])
    except ValueError:  # a name too long for ustar
        assume(False)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [
            (member.name, file.read())
            for member in tar
            if member.isfile() and (file := tar.extractfile(member))
            if Path(member.name).suffix.lower() in IMAGE_SUFFIXES
        ]
    expected = [(name, data) for name, data in expected if not name.rpartition("/")[2].startswith("._")]
    assert read(path, data) == list(dict(reversed(expected)).items())[::-1]


@pytest.mark.parametrize("format_", FORMATS)
def test_both_ways_of_long_names(format_: str, path: Path) -> None:
    longest = 100 if format_ == "v7" else 255 if format_ == "ustar" else 4000
    names = ["d" * 60 + "/" + "x" * 35 + ".jpg", "d" * 150 + "/" + "x" * 90 + ".jpg", "deep/" * 700 + "a.jpg"]
    files = {name: b"1" for name in names if len(name) <= longest}
    data = tar_bytes(files, format_=FORMATS[format_])
    if format_ == "v7":
        data = header(data, magic=bytes(8)) + data[512:]
    assert read(path, data) == list(files.items()) and files


def test_links_devices_folders_and_sparse_files_are_passed_over(path: Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for kind in (
            *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
            *(tarfile.DIRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE),
        ):
            member = tarfile.TarInfo(f"{kind.decode()}.jpg")
            member.type, member.linkname, member.size = kind, "/etc/passwd", 5 * (kind in b"12345")
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("folder.jpg/"))
        sparse = tarfile.TarInfo("GNUSparseFile.0/pax.jpg")
        sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "pax.jpg"}
        tar.addfile(sparse)
        tar.addfile(tarfile.TarInfo("file.jpg"))
    # A contiguous file is a file.
    assert read(path, target.getvalue()) == [("7.jpg", b""), ("file.jpg", b"")]


def test_a_sparse_file_of_many_holes_is_passed_over(path: Path) -> None:
    data = tar_bytes({"sparse.jpg": b"s" * 600, "a.jpg": b"a"})
    more = bytes(504) + b"\1" + bytes(7) + bytes(512)
    assert read(path, header(data, kind=b"S", sparse=b"\1") + more + data[512:]) == [("a.jpg", b"a")]


def test_a_size_of_base_256(path: Path) -> None:
    size = b"\x80" + (900).to_bytes(11, "big")
    assert read(path, header(TAR, size=size) + TAR[512:]) == list(FIVE.items())
    negative = header(TAR, size=b"\xff" * 12) + TAR[512:]
    assert told(members(path, negative))[:2] == [("bytes 0 to 1,535", "lost"), ("1.jpg", "ok")]


def test_members_beyond_one_of_many_gigabytes_are_found(path: Path) -> None:
    size = 9 << 30
    first = header(tar_bytes({"huge.jpg": b""}), size=b"\x80" + size.to_bytes(11, "big"))
    with path.open("wb") as file:
        file.write(first)
        file.seek(512 + size)
        file.write(tar_bytes({"a.jpg": b"a"}))
    assert list(read_members([path], 0)) == [Member("huge.jpg", None, "too_large")]
    assert list(read_members([path], 9)) == [Member("a.jpg", b"a", "ok")]


def test_sizes_and_names_of_pax(path: Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", pax_headers={"path": "all.jpg", "comment": "of all"}) as tar:
        one = tarfile.TarInfo("short.jpg")
        one.size, one.pax_headers = 3, {"path": "très/long=1.jpg", "size": "3"}
        tar.addfile(one, io.BytesIO(b"one"))
        two = tarfile.TarInfo("two.jpg")
        two.size = 3
        tar.addfile(two, io.BytesIO(b"two"))
    assert read(path, target.getvalue()) == [("très/long=1.jpg", b"one"), ("all.jpg", b"two")]


def test_a_name_that_is_not_utf8_becomes_text_that_can_be_written_down(path: Path) -> None:
    data = tar_bytes({"caf_.jpg": b"coffee"}, format_=tarfile.GNU_FORMAT)
    ((name, _),) = read(path, header(data, name=b"caf\xe9.jpg") + data[512:])
    assert name == "café.jpg"
    assert safe_member(name) == name


def test_sums_of_signed_bytes_as_some_old_programs_made_them(path: Path) -> None:
    data = bytearray(tar_bytes({"é.jpg": b"a"}, format_=tarfile.GNU_FORMAT))
    total = int(data[148:154], 8)
    data[148:154] = b"%06o" % (total - 512)  # two bytes above 127
    assert read(path, bytes(data)) == [("é.jpg", b"a")]


def test_a_tar_without_its_end_marker_is_whole(path: Path) -> None:
    # Some writers leave the two empty blocks out, and other readers do not miss them either.
    sound = {"a.jpg": b"a" * 512, "b.jpg": b"b" * 512}
    assert read(path, tar_bytes(sound)[:2048]) == list(sound.items())
    assert read(path, tar_bytes(sound)[:2048] + bytes(300)) == list(sound.items())


def test_a_tar_behind_a_tar_is_read_too(path: Path) -> None:
    for blocks in (0, 1, 2000):
        data = tar_bytes({"a.jpg": b"a"}) + bytes(512 * blocks) + tar_bytes({"b.jpg": b"b"})
        assert read(path, data) == [("a.jpg", b"a"), ("b.jpg", b"b")]


def test_a_tar_inside_a_tar_is_a_member_like_any_other(path: Path) -> None:
    data = tar_bytes({"a.jpg": b"a", "in.tar": tar_bytes({"x.jpg": b"x", "y.jpg": b"y"}), "b.jpg": b"b"})
    assert read(path, data) == [("a.jpg", b"a"), ("b.jpg", b"b")]
    # Nor where the header behind it is broken, or the archive ends within it.
    at = data.index(b"b.jpg")
    assert told(members(path, data[:at] + b"!" + data[at + 1 :])) == [
        ("a.jpg", "ok"),
        (f"bytes {at:,} to {len(data) - 1:,}", "lost"),
    ]
    assert told(members(path, data[:4000])) == [("a.jpg", "ok"), ("bytes 4,000 on", "lost")]


# -- broken ----------------------------------------------------------------------------------------------------


def test_behind_a_broken_header_the_next_is_found(path: Path) -> None:
    at = PLACES["2.jpg"]
    data = bytearray(TAR)
    data[at + 150] ^= 1
    assert members(path, bytes(data)) == [
        Member("0.jpg", FIVE["0.jpg"], "ok"),
        Member("1.jpg", FIVE["1.jpg"], "ok"),
        Member("bytes 3,072 to 4,607", None, "lost", "no member's header where one should be"),
        Member("3.jpg", FIVE["3.jpg"], "ok"),
        Member("4.jpg", FIVE["4.jpg"], "ok"),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["tar", "tar.gz"]),
    broken=st.sets(st.integers(0, 4), max_size=4),
    place=st.integers(0, 511),
    size=st.integers(1, 512),
)
def test_whatever_headers_are_broken_all_others_are_saved(
    kind: str, broken: set[int], place: int, size: int, path: Path
) -> None:
    data = bytearray(TAR)
    for n in broken:
        at = n * 1536 + min(place, 512 - size)
        data[at : at + size] = bytes(byte ^ 0xA5 for byte in data[at : at + size])
    packed = gzip.compress(data, 1) if kind == "tar.gz" else bytes(data)
    assert saved(path, packed) == [f"{n}.jpg" for n in range(5) if n not in broken]
    lost = [member.name for member in members(path, packed) if member.status != "ok"]
    runs = sum(n - 1 not in broken for n in broken)
    assert len(lost) == runs and all(name.startswith("bytes ") for name in lost)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(number=st.integers(1, 4), place=st.integers(0, 899), size=st.integers(1, 1400))
def test_where_bytes_are_missing_inside_a_member_the_next_is_found_earlier(
    number: int, place: int, size: int, path: Path
) -> None:
    at = (number - 1) * 1536 + 512 + place
    size = min(size, number * 1536 - at)
    found = members(path, TAR[:at] + TAR[at + size :])
    others = [member for member in found if member.name != f"{number - 1}.jpg"]
    assert others == [Member(name, data, "ok") for name, data in FIVE.items() if name != f"{number - 1}.jpg"]
    (short,) = [member for member in found if member not in others]
    there = 1024 - size
    if there < 899 + number:
        assert short.status == "damaged"
        assert short.error == f"the next member begins after {there:,} of its {899 + number:,} bytes"


def test_where_bytes_were_put_in_the_next_member_is_found_later(path: Path) -> None:
    at = PLACES["2.jpg"] - 100
    data = TAR[:at] + b"\1" * 77 + TAR[at:]
    assert saved(path, data) == list(FIVE)
    assert [member.name for member in members(path, data) if member.status != "ok"] == ["bytes 3,072 to 3,148"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_hole_of_zeros_is_not_taken_for_the_end(kind: str, path: Path) -> None:
    for first, last, gone in ((PLACES["2.jpg"], PLACES["2.jpg"] + 512, [2]), (PLACES["1.jpg"], 5000, [1, 2, 3])):
        data = TAR[:first] + bytes(last - first) + TAR[last:]
        found = members(path, data if kind == "tar" else gzip.compress(data, 1))
        assert [member.name for member in found if member.status == "ok"] == [
            name for name in FIVE if int(name[0]) not in gone
        ]
        assert [member.status for member in found].count("lost") == 1


def test_zeros_instead_of_the_rest_are_told(path: Path) -> None:
    # A download that set its file's size first, and was killed.
    data = TAR[: PLACES["2.jpg"]] + bytes(3 << 20)
    assert members(path, data)[2:] == [Member("bytes 3,072 to 3,148,799", None, "lost", "nothing but zeros")]
    assert told(members(path, TAR[: PLACES["2.jpg"]] + bytes(1 << 20)))[2:] == []


def test_old_headers_without_magic_are_found_too(path: Path) -> None:
    data = bytearray(TAR)
    for at in PLACES.values():
        data[at : at + 512] = header(TAR, at, magic=bytes(8))
    assert saved(path, bytes(data)) == list(FIVE)
    data[PLACES["2.jpg"]] ^= 1
    assert told(members(path, bytes(data)))[2] == ("bytes 3,072 to 4,607", "lost")
    assert saved(path, bytes(data)) == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]


def test_headers_are_found_across_the_pieces_that_are_searched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prep.images.tars.SEARCH_BYTES", 1024)
    for shift in range(0, 1100, 37):
        data = b"!" * shift + TAR
        assert saved(path, data) == list(FIVE), shift


@pytest.mark.parametrize(
    "records", [b"12 path=a.jpg\n", b"999 path=a.jpg\n", b"x path=a.jpg\n", b"14 path=a.jp\n", b"2 \n"]
)
def test_broken_pax_records_are_a_broken_header(records: bytes, path: Path) -> None:
    data = tar_bytes({"before.jpg": b"0", "PAX": records, "own.jpg": b"1"})
    at = data.index(b"PAX\0")
    data = data[:at] + header(data, at, kind=b"x") + data[at + 512 :]
    assert told(members(path, data)) == [
        ("before.jpg", "ok"),
        (f"bytes {at:,} to {at + 1023:,}", "lost"),
        ("own.jpg", "ok"),
    ]


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_whose_member_is_lost_is_given_to_no_other(format_: int, path: Path) -> None:
    name = "long/" * 40 + "a.jpg"
    data = tar_bytes({"0.jpg": b"0", name: b"1" * 600, "2.jpg": b"2"}, format_=format_)
    own = data.index(b"1" * 600) - 512
    start = data.index(b"0" + bytes(511)) + 512
    data = data[:own] + b"\xff" + data[own + 1 :]
    assert told(members(path, data)) == [
        ("0.jpg", "ok"),
        (f"bytes {start:,} to {own + 1535:,}", "lost"),
        ("2.jpg", "ok"),
    ]


def test_a_chain_of_headers_without_end_is_given_up(path: Path) -> None:
    link = tar_bytes({"x": b"a" * 100})
    chain = (header(link, kind=b"L") + link[512:1024]) * 50
    data = chain + TAR
    found = members(path, data)
    assert told(found) == [("bytes 0 to 44,031", "lost"), *((name, "ok") for name in list(FIVE)[1:])]


# -- cut -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_cut_anywhere_all_members_before_the_cut_are_saved(format_: int, path: Path) -> None:
    files = {"a.jpg": b"a" * 600, "b.txt": b"b" * 512, "long/" * 30 + "ü.jpg": b"c" * 700, "d.jpg": b"", "e.jpg": b"e"}
    whole = tar_bytes(files, format_=format_)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        spans = [(member.name, member.offset, member.offset_data, member.offset_data + member.size) for member in tar]
    for length in range(512, spans[-1][3], 13):
        found = members(path, whole[:length])
        assert [(member.name, member.data) for member in found if member.status == "ok"] == [
            (name, files[name]) for name, _, _, end in spans if end <= length and name != "b.txt"
        ]
        cut = [name for name, _, start, end in spans if start <= length < end]
        in_header = [name for name, at, start, _ in spans if at < length < start]
        rest = [(member.name, member.status) for member in found if member.status != "ok"]
        assert [name for name, status in rest if status == "damaged"] == [name for name in cut if name != "b.txt"]
        assert [status for _, status in rest].count("lost") == len(cut + in_header)


def test_a_member_that_is_cut_says_by_how_much(path: Path) -> None:
    assert members(path, TAR[:2100])[1:] == [
        Member("1.jpg", None, "damaged", "the archive ends 849 bytes before it does"),
        Member("bytes 2,100 on", None, "lost", "the archive ends within 1.jpg"),
    ]
    assert members(path, TAR[:1700])[1:] == [Member("bytes 1,536 on", None, "lost", "the archive ends within a header")]


def test_a_lying_size_does_not_hide_the_members_behind(path: Path) -> None:
    data = header(TAR, size=b"77777777777\0") + TAR[512:]
    found = members(path, data)
    assert told(found) == [("0.jpg", "damaged"), *((name, "ok") for name in list(FIVE)[1:])]
    assert found[0].error == "the next member begins after 1,024 of its 8,589,934,591 bytes"
