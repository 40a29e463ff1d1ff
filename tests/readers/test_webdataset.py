"""Members of a tar that share a name make one record."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prep.errors import DataError
from prep.readers import webdataset
from prep.readers.webdataset import MAX_TEXT_BYTES, SCHEMA


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "part.tar"


def write(part: Path, *members: tuple[str, bytes], mode: str = "w") -> None:
    with tarfile.open(part, mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def records(part: Path) -> list[dict[str, Any]]:
    return [row for batch in webdataset.read(part) for row in batch.to_pylist()]


def record(key: str, *extensions: str, txt: str | None = None, json: str | None = None) -> dict[str, Any]:
    return {"key": key, "txt": txt, "json": json, "extensions": list(extensions)}


def test_members_are_grouped_by_their_name_up_to_the_first_dot(part: Path) -> None:
    write(
        part,
        *[("0001.jpg", b"image"), ("0001.txt", b"one"), ("0001.seg.png", b"image"), ("0001.json", b'{"a": 1}')],
        *[("v1.2/0002.txt", b"two"), ("v1.2/0002.JPG", b"image")],
        *[("other/0002.txt", b"of another folder"), ("plain", b"no extension"), ("./0003.TXT", "drei ü".encode())],
    )
    assert records(part) == [
        record("0001", "jpg", "txt", "seg.png", "json", txt="one", json='{"a": 1}'),
        record("v1.2/0002", "txt", "jpg", txt="two"),
        record("other/0002", "txt", txt="of another folder"),
        record("plain", ""),
        record("0003", "txt", txt="drei ü"),
    ]


def test_a_record_without_text_has_none_and_an_empty_text_is_empty(part: Path) -> None:
    write(part, ("1.jpg", b"image"), ("2.txt", b""), ("3.txt", b" \n"))
    assert records(part) == [record("1", "jpg"), record("2", "txt", txt=""), record("3", "txt", txt=" \n")]


def test_the_order_is_the_tars_and_only_neighbours_are_grouped(part: Path) -> None:
    write(part, ("b.txt", b"first"), ("a.txt", b"second"), ("b.jpg", b"image"))
    assert records(part) == [record("b", "txt", txt="first"), record("a", "txt", txt="second"), record("b", "jpg")]


def test_text_that_is_not_utf8_is_replaced_and_not_lost(part: Path) -> None:
    write(part, ("1.txt", b"caf\xe9 \xf0\x9f\x94"), ("2.txt", b"a\0b"))
    assert records(part) == [record("1", "txt", txt="caf\ufffd \ufffd"), record("2", "txt", txt="a\0b")]


def test_a_name_that_is_not_utf8_can_be_written_down(part: Path) -> None:
    with tarfile.open(part, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("café.txt"))
    assert records(part) == [record("café", "txt", txt="")]


def test_a_huge_text_is_passed_over(part: Path) -> None:
    write(part, ("1.txt", b"x" * MAX_TEXT_BYTES), ("2.txt", b"x" * (MAX_TEXT_BYTES + 1)), ("2.json", b"{}"))
    assert records(part) == [record("1", "txt", txt="x" * MAX_TEXT_BYTES), record("2", "txt", "json", json="{}")]


def test_links_and_folders_make_no_records(part: Path) -> None:
    with tarfile.open(part, "w") as tar:
        for name, kind in (("d.txt", tarfile.DIRTYPE), ("l.txt", tarfile.SYMTYPE), ("h.txt", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert records(part) == []


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_many_records_come_in_batches_of_one_schema(part: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "BATCH_ROWS", 10)
    write(part, *((f"{n:04}.txt", b"%d" % n) for n in range(25)), mode=mode)
    batches = list(webdataset.read(part))
    assert [batch.num_rows for batch in batches] == [10, 10, 5]
    assert {batch.schema for batch in batches} == {SCHEMA}
    assert [row["txt"] for batch in batches for row in batch.to_pylist()] == [str(n) for n in range(25)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_breaks_off_gives_the_records_before(part: Path, mode: str) -> None:
    write(part, *((f"{n}.{end}", Random(n).randbytes(700)) for n in range(5) for end in ("txt", "jpg")), mode=mode)
    data = part.read_bytes()
    whole = records(part)
    found = []
    for length in range(len(data) // 8, len(data), len(data) // 40):
        part.write_bytes(data[:length])
        found.append(records(part))
        *before, last = found[-1]
        assert before == whole[: len(before)]
        expected = whole[len(before)]
        # Of the last record a member may be missing, or its text where it is cut.
        assert last["key"] == expected["key"] and last["txt"] in (None, expected["txt"])
    assert len(found[0]) == 1 and len(found[-1]) == 5


def test_behind_a_broken_header_records_go_on(part: Path) -> None:
    write(part, *((f"{n}.{end}", b"text") for n in range(4) for end in ("txt", "jpg")))
    data = bytearray(part.read_bytes())
    data[2 * 1024] ^= 1  # the second record's text
    part.write_bytes(data)
    assert records(part) == [
        record("0", "txt", "jpg", txt="text"),
        record("1", "jpg"),
        record("2", "txt", "jpg", txt="text"),
        record("3", "txt", "jpg", txt="text"),
    ]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_cut_into_parts_is_one(part: Path, mode: str) -> None:
    write(part, *((f"{n}.txt", b"%d" % n) for n in range(9)), mode=mode)
    whole, data = records(part), part.read_bytes()
    parts = [part.with_name(f"a.tar.part{n}") for n in (1, 2, 3)]
    for n, path in enumerate(parts):
        path.write_bytes(data[n * len(data) // 3 : (n + 1) * len(data) // 3])
    assert [row for batch in webdataset.read(*parts) for row in batch.to_pylist()] == whole
    assert len(whole) == 9


def test_files_that_macos_adds_make_no_records(part: Path) -> None:
    write(part, ("._1.txt", b"\0"), ("1.txt", b"one"), ("__MACOSX/1.txt", b"\0"), (".DS_Store", b"\0"))
    assert records(part) == [record("1", "txt", txt="one")]


@pytest.mark.parametrize(
    "data", [b"", b"<html>Not found</html>", b"PK\3\4zip" + bytes(600)], ids=["empty", "html", "zip"]
)
def test_what_is_no_tar_is_an_error(part: Path, data: bytes) -> None:
    part.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as an archive"):
        records(part)
