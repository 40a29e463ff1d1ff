"""Archives for the tests: sound ones of every kind, and ways to read and to break them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from prep.images.archives import Member, count_shares, read_members

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


def members(path: Path, data: bytes) -> list[Member]:
    """What comes out of all shares."""
    path.write_bytes(data)
    return [member for share in range(count_shares([path])) for member in read_members([path], share)]


def told(found: Sequence[Member]) -> list[tuple[str, str]]:
    return [(member.name, member.status) for member in found]


def read(path: Path, data: bytes) -> list[tuple[str, bytes | None]]:
    """Names and bytes of an archive in which nothing is wrong."""
    found = members(path, data)
    assert {member.status for member in found} <= {"ok"}, told(found)
    return [(member.name, member.data) for member in found]


def header(data: bytes, at: int = 0, **fields: bytes) -> bytes:
    """A tar's header at `at` of `data` with other fields, and the sum that fits them."""
    places = {"name": 0, "size": 124, "kind": 156, "magic": 257, "prefix": 345, "sparse": 482}
    block = bytearray(data[at : at + 512])
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def split(folder: Path, data: bytes, cuts: Sequence[int]) -> list[Path]:
    """The bytes in files, cut at these places."""
    paths = []
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(data)], strict=True), 1):
        paths.append(folder / f"part{number:03}")
        paths[-1].write_bytes(data[start:end])
    return paths
