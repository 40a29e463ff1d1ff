"""Making the moves and links that mend a tree; nothing is replaced, and no two files become one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from prep import progress
from prep.errors import WorkspaceError
from prep.layout.journal import Journal
from prep.layout.search import Findings, Move, lacking_links
from prep.trainers.convllava import LINKS

NAMES_AT_ONCE = 1000  # moved between two flushes of the journal
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def mend(root: Path, found: Findings, journal: Journal, links: Mapping[str, str] = LINKS) -> None:
    """Make the moves that `find` decided on, then the links; afterwards `found` says what was made and what was left.

    Raises:
        OSError: the system's own; what was moved is in the journal, and the same command goes on.
        WorkspaceError: no link can be made there.
    """
    planned, found.moves = found.moves, []
    with progress.bar("layout moves", sum(move.count for move in planned), "files") as advance:
        for move in planned:
            count = 0
            try:
                for some in _make(root, move, journal):
                    count += some
                    advance(some)
            except FileExistsError as error:
                found.left.append(f"{move.source}: something else stands at {os.path.relpath(error.filename, root)}")
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                found.left.append(f"{move.source} is on another disk than {move.target}: move it by hand")
            found.moves += [replace(move, count=count)] if count else []
    for folder in found.emptied:
        journal.remove_empty(folder)
    found.links, _ = lacking_links(root, links, Findings())  # as it is by now
    for path, to in found.links.items():
        _make_link(root, path, to, journal)


def _make(root: Path, move: Move, journal: Journal) -> Iterator[int]:
    """Make one move, some files at a time; how many."""
    if move.place is None:
        journal.make_folder(move.target.rpartition("/")[0])
        journal.move(move.source, move.target)
        yield move.count
        journal.remove_empty(move.source.rpartition("/")[0])
        return
    journal.make_folder(move.target)
    names = move.names(root)
    for start in range(0, len(names), NAMES_AT_ONCE):
        journal.move(move.source, move.target, names[start : start + NAMES_AT_ONCE])
        yield len(names[start : start + NAMES_AT_ONCE])
    journal.remove_empty(move.source)


def _make_link(root: Path, path: str, to: str, journal: Journal) -> None:
    try:
        journal.make_link(path, to)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise WorkspaceError(
            f"{root / path}: this disk holds no symbolic links ({error.strerror})",
            "Keep the tree on one that does; or write `vflan/` for `allava_vflan/images/` in a copy of ALLaVA's two "
            f"lists of Vision-Flan's pictures, and give {root} as their image folder.",
        ) from error
