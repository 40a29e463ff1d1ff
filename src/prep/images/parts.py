"""Names of archives, and of the parts that a publisher cut one into."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from prep.errors import DataError

ENDINGS = (".gz", ".bz2", ".xz", ".tgz", ".tbz2", ".tbz", ".txz", ".tar", ".zip")

# What `split` and 7-zip put behind an archive's name; of two letters alone some are an ending of their own.
_PART = re.compile(
    rf"""
    (?P<archive> .+ (?: {"|".join(map(re.escape, ENDINGS))}) )
    (?: [._-]part[._-]? (?P<after_part> \d+ | [a-z]{{2,}} )
      | \. (?P<digits> \d{{2,}} )
      | \. (?P<letters> (?!gz|xz) [a-z]{{2}} ) )
    """,
    re.VERBOSE,
)


class _Part(NamedTuple):
    """A part's name, and what in it says where it belongs."""

    name: str
    place: str


def group_parts(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Names of parts, those that make one archive together and in order.

    `a.tar.gz.part001`, `a.tar.gz.part002` and so on are one archive; also `.part_aa`, `.partaa`, `.aa`, `.001`.

    Raises:
        DataError: a part is missing before the last that there is.
    """
    groups: dict[tuple[str, bool], list[_Part]] = {}
    for name in names:
        match = _PART.fullmatch(name)
        place = match["after_part"] or match["digits"] or match["letters"] if match else ""
        groups.setdefault((name.removesuffix(place), place.isdigit()), []).append(_Part(name, place))
    for parts in groups.values():
        parts.sort(key=lambda part: (len(part.place), part.place))
        if parts[0].place:
            _check_for_holes(parts)
    return [tuple(part.name for part in parts) for parts in groups.values()]


def archive_stem(part: str) -> str:
    """A part's path without the endings of an archive: names its images' folder, and qualifies their keys."""
    match = _PART.fullmatch(part)
    name = match["archive"] if match else part
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name


def _check_for_holes(parts: Sequence[_Part]) -> None:
    """Raise DataError for the first part that is missing."""
    first = parts[0].place
    beginnings = ("1".zfill(len(first)), "0" * len(first)) if first.isdigit() else ("a" * len(first),)
    if first not in beginnings:
        _raise_missing(beginnings[0], parts[0])
    for before, after in pairwise(parts):
        following = _following(before.place)
        if after.place not in following:
            _raise_missing(following[0], before)


def _raise_missing(place: str, beside: _Part) -> None:
    raise DataError(
        f"{beside.name.removesuffix(beside.place)}{place} is missing: it and {beside.name} are parts of one archive",
        "Widen `include` of the dataset's source so that it is downloaded too, or ask the publisher for it.",
    )


def _following(place: str) -> tuple[str, ...]:
    """What may come after a part's number or letters: the next, and where `split` takes it, a longer one.

    `split` never uses a length up: after `89` comes `9000`, after `yz` comes `zaaa`.
    """
    first, before_last, last = ("0", "8", "9") if place.isdigit() else ("a", "y", "z")
    if place.isdigit():
        following = str(int(place) + 1).zfill(len(place))
    else:
        kept = place.rstrip(last)
        following = kept[:-1] + chr(ord(kept[-1]) + 1) if kept else first
        following = following.ljust(len(place), first)
    own = place.lstrip(last)
    if own.rstrip(last) != before_last:
        return (following,)
    return following, last * (len(place) - len(own) + 1) + first * (len(own) + 1)
