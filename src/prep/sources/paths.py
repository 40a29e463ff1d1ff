"""What the paths of a listing obey: below the dataset's folder, plainly written, each file with one of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from prep.errors import PrepError
from prep.sources import Part, is_inside


def checked(parts: Iterable[Part], error: type[PrepError], next_step: str) -> tuple[Part, ...]:
    """The parts, sorted by path, if a folder can hold them all.

    Raises:
        error: with `next_step`, where a path leaves the folder or would be written otherwise on disk (`a//b`), where
            two parts have one path, or where one is a file and another's folder.
    """
    by_path: dict[str, Part] = {}
    for part in parts:
        path = part.path
        if not is_inside(path) or str(PurePosixPath(path)) != path:
            raise error(f"{part.url}: {path!r} is not a path inside the dataset's folder", next_step)
        if path in by_path:
            raise error(f"{part.url} and {by_path[path].url} would both be {path!r}", next_step)
        by_path[path] = part
    for path, part in by_path.items():
        parent = next((str(folder) for folder in PurePosixPath(path).parents if str(folder) in by_path), None)
        if parent is not None:
            raise error(f"{part.url}: {path!r} needs a folder where {by_path[parent].url} is a file", next_step)
    return tuple(part for _, part in sorted(by_path.items()))
