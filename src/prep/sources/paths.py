"""What the paths of a listing obey: below the dataset's folder, plainly written, each file with one of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from prep.errors import PrepError
from prep.manifest import JOURNAL_NAME, MANIFEST_NAME
from prep.sources import Part, is_inside

NAME_BYTES = 239  # of the 255 that file systems allow: `..NAME.part.json.tmp` has 16 more
LEFTOVER = re.compile(r"\..+\.(part|part\.json|tmp)", re.DOTALL)  # what is beside a file that is not whole yet


def checked(parts: Iterable[Part], error: type[PrepError], next_step: str) -> tuple[Part, ...]:
    """The parts, sorted by path, if a folder can hold them all.

    Raises:
        error: with `next_step`, where a path leaves the folder or would be written otherwise on disk (`a//b`), has a
            name of ours or one too long, where two parts have one path, or where one is a file and another's folder.
    """
    by_path: dict[str, Part] = {}
    for part in parts:
        path = part.path
        if wrong := _problem(path):
            raise error(f"{part.url}: {path!r} {wrong}", next_step)
        if path in by_path:
            raise error(f"{part.url} and {by_path[path].url} would both be {path!r}", next_step)
        by_path[path] = part
    for path, part in by_path.items():
        parent = next((str(folder) for folder in PurePosixPath(path).parents if str(folder) in by_path), None)
        if parent is not None:
            raise error(f"{part.url}: {path!r} needs a folder where {by_path[parent].url} is a file", next_step)
    return tuple(part for _, part in sorted(by_path.items()))


def _problem(path: str) -> str:
    """What is wrong with a path by itself; empty where nothing is."""
    if not is_inside(path) or str(PurePosixPath(path)) != path:
        return "is not a path inside the dataset's folder"
    steps = path.split("/")
    if steps[0] in (MANIFEST_NAME, JOURNAL_NAME) or any(LEFTOVER.fullmatch(step) for step in steps):
        return "is a name that `prep` keeps for files of its own"
    longest = max(len(step.encode()) for step in steps)
    return f"has a name of {longest} bytes, at most {NAME_BYTES} can be brought" if longest > NAME_BYTES else ""
