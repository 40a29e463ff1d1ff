"""Tars, zips, JSON and cut streams, the same bytes each time."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Members = Mapping[str, bytes]


def tar(members: Members) -> bytes:
    """A plain tar without times or owners; a name that ends in `/` is a folder."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def tar_gz(members: Members) -> bytes:
    """The same, compressed."""
    return gzip.compress(tar(members), 1, mtime=0)


def zipped(members: Members) -> bytes:
    """A zip of members as they are, dated 1980; a name that ends in `/` is a folder."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return target.getvalue()


def write(path: Path, data: bytes | str) -> None:
    """Write a file and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as one JSON document."""
    write(path, json.dumps(data, ensure_ascii=False))


def write_cut(path: Path, data: bytes, count: int) -> None:
    """Write `data` cut by bytes into `count` files `<path>.part001`, `.part002` and so on."""
    size = -(-len(data) // count)
    for number in range(count):
        write(path.with_name(f"{path.name}.part{number + 1:03}"), data[number * size : (number + 1) * size])
