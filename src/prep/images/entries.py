"""What the walkers of tars and zips find: a member, or a stretch of the archive that cannot be read."""

from __future__ import annotations

from typing import NamedTuple


class NoArchive(Exception):
    """Nothing in the bytes is of an archive."""


class Damaged(Exception):
    """A member's bytes cannot be read to the end, or are not what they were."""


class Packed(NamedTuple):
    """How a zip keeps a member's bytes.

    Attributes:
        size: of the compressed bytes.
        shift: bytes that stand before the zip, or are missing from it, going by where its directory lies.
    """

    method: int
    flags: int
    crc: int
    size: int
    shift: int = 0


class Entry(NamedTuple):
    """A member, or a stretch that cannot be read.

    Attributes:
        at: where its header begins, in bytes of the archive or of what a compressed tar unpacks to; in a zip with a
            directory, where that says.
        end: where the next header should begin.
        name: of a stretch, which bytes it is.
        is_file: a regular member: no folder, link, device or sparse file.
        data_at: where its bytes begin; 0 where only the header at `at` can say.
        size: of its bytes, unpacked, as the archive announces it.
        error: what is wrong with it, where the walker can see that.
        is_lost: a stretch that cannot be read.
        packed: of a zip's member.
    """

    at: int
    end: int
    name: str
    is_file: bool = False
    data_at: int = 0
    size: int = 0
    error: str | None = None
    is_lost: bool = False
    packed: Packed | None = None


def lost(start: int, end: int | None, error: str) -> Entry:
    """The stretch from `start` up to `end`; up to wherever the archive should have ended for None."""
    name = f"bytes {start:,} on" if end is None else f"bytes {start:,} to {end - 1:,}"
    return Entry(start, start if end is None else end, name, error=error, is_lost=True)
