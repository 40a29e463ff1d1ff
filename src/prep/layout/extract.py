"""Archives that lie in a tree, unpacked straight to their places; the archives stay."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prep import progress
from prep.errors import DataError
from prep.images.archives import Member, count_shares, read_members, safe_member
from prep.layout.journal import Journal
from prep.layout.places import place_of
from prep.layout.report import Archive
from prep.layout.search import obstacle

BYTES_AT_ONCE = 64 << 20  # unpacked between two flushes of the disk
FILES_AT_ONCE = 1000


def extract(root: Path, archive: Archive, journal: Journal) -> Counter[str]:
    """Unpack the pictures of one archive; what stands in a place stays.

    Returns:
        How many pictures were `unpacked`, were `there`, have something else `in the way`, have an `unsafe` name, or
        are `damaged`, `too_large` or `lost` in the archive.

    Raises:
        DataError: nothing of it can be read as an archive.
        OSError: the disk's own; what was unpacked is in the journal, and the same command goes on.
    """
    counts: Counter[str] = Counter()
    batch: dict[str, bytes] = {}

    def put() -> None:
        journal.put(batch)
        counts["unpacked"] += len(batch)
        batch.clear()

    with progress.bar(f"unpack {archive.path}", None, "pictures") as advance:
        for member in _members(root / archive.path):
            advance(1)
            name = safe_member(member.name)
            if member.data is None or name is None:
                counts["unsafe" if member.data is not None else member.status] += 1
                continue
            path = _path(archive.into, name)
            if state := _state(root, path, member.data, batch):
                counts[state] += 1
                continue
            batch[path] = member.data
            if len(batch) == FILES_AT_ONCE or sum(map(len, batch.values())) > BYTES_AT_ONCE:
                put()
        if batch:
            put()
    return counts


def unpack_all(root: Path, archives: list[Archive], journal: Journal) -> tuple[dict[str, Counter[str]], list[str]]:
    """Unpack the pictures of several archives; those that cannot be read are named, a sentence each."""
    counts, left = {}, []
    for archive in archives:
        try:
            counts[archive.path] = extract(root, archive, journal)
        except DataError as error:
            left.append(str(error))
    return counts, left


def _members(path: Path) -> Iterator[Member]:
    for share in range(count_shares([path])):
        yield from read_members([path], share)


def _path(into: str, name: str) -> str:
    """Where a member goes, below the root: to its folder's place, if it is called as that place wants it."""
    steps = posixpath.normpath(f"{into}/{name}").split("/")
    for count in (1, 2):  # a picture; one in a folder of LCS
        place = place_of(steps[:-count]) if len(steps) > count else None
        if place and place.has_folders == (count == 2) and place.entry.fullmatch(steps[-count]):
            return "/".join([place.path, *steps[-count:]])
    return "/".join(steps)


def _state(root: Path, path: str, data: bytes, batch: dict[str, bytes]) -> str:
    """Why a picture is not written: `there`, `in the way`; empty where its place is free."""
    if path in batch:
        return "there" if batch[path] == data else "in the way"
    at = root / path
    if os.path.lexists(at):
        return "there" if at.is_file() and at.stat().st_size == len(data) else "in the way"
    return "in the way" if obstacle(root, path.rpartition("/")[0]) else ""
