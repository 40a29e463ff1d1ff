"""Files that only a person can get: the instructions are data, what was put in place is taken as it is."""

from __future__ import annotations

from pathlib import Path

from prep.config import ManualSource
from prep.errors import SourceError
from prep.files import hash_file
from prep.sources import Listing, Part, matching
from prep.sources.local import part_of
from prep.sources.transfer import Session


def list_parts(source: ManualSource, folder: Path, revision: str | None) -> Listing:
    """The matching files that a person has put into `folder`.

    Raises:
        SourceError: there are none yet; the message holds the publisher's instructions.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []
    names = [path.relative_to(folder).as_posix() for path in found]
    parts = tuple(part_of(folder / name, name) for name in matching(names, source.include))
    if not parts:
        raise SourceError(
            f"{folder.name} has to be fetched by hand:\n{source.instructions.strip()}",
            f"Put the files ({', '.join(source.include)}) into {folder}, or name a folder that has them in "
            f"prep.yaml (sources: {{{folder.name}: {{kind: local, path: ...}}}}); then run the same command.",
        )
    return Listing(parts)


def fetch(source: ManualSource, part: Part, target: Path, session: Session) -> str:
    """Nothing to bring: the file is in its place."""
    session.advance(part.size_bytes or 0)
    return hash_file(target)
