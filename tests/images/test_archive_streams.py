"""Bytes that are not at hand all at once: an archive cut into files, and a tar that is compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_samples import IMAGES, MEMBERS, archive_bytes, members, read, split, tar_bytes, told
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.images import tars
from prep.images.archives import read_members
from prep.images.joined import JoinedFile
from prep.images.unpacked import Unpacked

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
EIGHT = {f"{n}.jpg": bytes([n]) + bytes(range(256)) * 11 for n in range(8)}  # a header and six blocks each


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "part-0"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    cuts=st.lists(st.integers(0, 200), max_size=6).map(sorted),
    reads=st.lists(st.tuples(st.integers(0, 250), st.integers(-5, 250)), min_size=1, max_size=10),
)
def test_joined_files_read_as_one(cuts: list[int], reads: list[tuple[int, int]], tmp_path: Path) -> None:
    data = bytes(range(200))
    with JoinedFile(split(tmp_path, data, cuts)) as file:
        assert file.size == 200
        for size, at in reads:
            assert file.pread(size, at) == (data[at : at + size] if at >= 0 else b"")
            opened = [link for link in Path("/proc/self/fd").iterdir() if _leads_to(link, tmp_path)]
            assert len(opened) <= 1
    assert [link for link in Path("/proc/self/fd").iterdir() if _leads_to(link, tmp_path)] == []


def _leads_to(link: Path, folder: Path) -> bool:
    return link.is_symlink() and link.readlink().is_relative_to(folder)


def test_a_file_that_becomes_shorter_ends_there(path: Path) -> None:
    path.write_bytes(bytes(1000))
    with JoinedFile([path]) as file:
        assert len(file.pread(1000, 0)) == 1000
        with path.open("r+b") as other:
            other.truncate(600)
        assert (len(file.pread(1000, 0)), file.pread(10, 700)) == (600, b"")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    kind=st.sampled_from(sorted(COMPRESS)),
    steps=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 900)), max_size=20),
)
def test_what_a_stream_unpacks_to_is_read_forward(kind: str, steps: list[tuple[int, int]], path: Path) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(5000))
    path.write_bytes(COMPRESS[kind](data))
    with JoinedFile([path]) as file:
        source, at = Unpacked(file, kind), 0
        for step, size in steps:
            at += step
            source.keep(at)
            assert source.pread(size, at) == data[at : at + size]
            assert source.floor <= at
        assert source.pread(1 << 20, at) == data[at:]
        assert (source.size, source.fault) == (len(data), None)


@pytest.mark.parametrize("kind", COMPRESS)
def test_streams_one_after_the_other_are_one(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = tar_bytes(MEMBERS)
    data = COMPRESS[kind](tar[:3000]) + COMPRESS[kind](tar[3000:3500]) + COMPRESS[kind](tar[3500:])
    for size in (1 << 16, 100, 64):
        monkeypatch.setattr("prep.images.unpacked.READ_BYTES", size)
        assert read(path, data) == IMAGES
        assert read(path, data + bytes(200)) == IMAGES


@pytest.mark.parametrize("kind", COMPRESS)
def test_what_follows_a_stream_and_is_none_is_told(kind: str, path: Path) -> None:
    tar = tar_bytes(MEMBERS)
    found = members(path, COMPRESS[kind](tar) + bytes(4) + b"something else")
    assert [(member.name, member.data) for member in found[:-1]] == IMAGES
    assert found[-1].error == f"after {len(tar):,} bytes something else follows the {kind} stream"


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_stream_is_unpacked_in_little_memory(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_IMAGE_BYTES", 1000)
    data = tar_bytes({"a.jpg": b"a", "huge.bin": bytes(30_000_000), "b.jpg": b"b"})
    path.write_bytes(gzip.compress(data, 1) if kind == "gzip" else COMPRESS[kind](data))
    del data
    tracemalloc.start()
    try:
        assert [member.name for member in read_members([path])] == ["a.jpg", "b.jpg"]
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_cut_gzip_gives_every_member_before_the_cut(path: Path) -> None:
    tar = tar_bytes(EIGHT)
    whole = gzip.compress(tar, 1)
    ends = {name: n * 3584 + 512 + len(data) for n, (name, data) in enumerate(EIGHT.items())}
    for length in range(80, len(whole), 3):
        there = len(zlib.decompressobj(31).decompress(whole[:length]))
        if there < 512:
            continue
        found = members(path, whole[:length])
        saved = {member.name: member.data for member in found if member.status == "ok"}
        assert saved == {name: EIGHT[name] for name, end in ends.items() if end <= there}
        assert found[-1].status == "lost"
        assert found[-1].error == f"the gzip stream ends after {there:,} bytes, too early"
        assert [member.status for member in found[len(saved) : -1]] in ([], ["damaged"])


@pytest.mark.parametrize("kind", ["bzip2", "xz"])
def test_a_cut_stream_of_any_kind_gives_the_first_members_and_says_so(kind: str, path: Path) -> None:
    # Two streams, so that the first is there whole: what comes out of half a block is up to the library.
    tar = tar_bytes(EIGHT)
    first, second = COMPRESS[kind](tar[:10_000]), COMPRESS[kind](tar[10_000:])
    for length in range(6, len(second), 9):
        found = members(path, first + second[:length])
        saved = {member.name: member.data for member in found if member.status == "ok"}
        assert list(saved.items()) == list(EIGHT.items())[: len(saved)] and len(saved) >= 2
        assert found[-1].status == "lost" and f"the {kind} stream ends after " in (found[-1].error or "")


@pytest.mark.parametrize("at", [-1, -5])
def test_a_gzip_with_a_wrong_checksum_gives_all_and_says_so(at: int, path: Path) -> None:
    data = bytearray(archive_bytes("tar.gz", MEMBERS))
    data[at] ^= 1
    found = members(path, bytes(data))
    assert [(member.name, member.data) for member in found[:-1]] == IMAGES
    assert found[-1].status == "lost" and "incorrect" in (found[-1].error or "")


def test_a_gzip_damaged_inside_gives_every_member_before(path: Path) -> None:
    # Two streams, the second of them no deflate.
    tar = tar_bytes(EIGHT)
    second = bytearray(gzip.compress(tar[10_000:], 1))
    second[10:400] = b"\xff" * 390
    found = members(path, gzip.compress(tar[:10_000], 1) + bytes(second))
    assert told(found) == [
        ("0.jpg", "ok"),
        ("1.jpg", "ok"),
        ("2.jpg", "damaged"),
        ("bytes 10,000 on", "lost"),
    ]
    assert (found[-1].error or "").startswith("the gzip stream is damaged after 10,000 bytes: ")
