"""Files that are on this machine already: linked into `raw/`, never copied or changed."""

from __future__ import annotations

from pathlib import Path

from prep.config import LocalSource
from prep.errors import SourceError
from prep.files import hash_file
from prep.sources import Listing, Part, matching
from prep.sources.transfer import Session


def list_parts(source: LocalSource, folder: Path, revision: str | None) -> Listing:
    """The file, or the files of the folder that match; a changed size or modification time makes a new version.

    Raises:
        SourceError: there is nothing at the path, or the workspace itself is below it.
    """
    root = Path(source.path).expanduser()
    if root.is_file():
        return Listing((part_of(root, root.name),))
    if not root.is_dir():
        raise SourceError(f"{root} is neither a file nor a folder", "Mend the path in the dataset's `source`.")
    if root.resolve() in folder.resolve().parents:
        raise SourceError(
            f"{root} contains this workspace, whose own files would be taken too", "Name a folder of the data alone."
        )
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    return Listing(tuple(part_of(paths[name], name) for name in matching(paths, source.include)))


def fetch(source: LocalSource, part: Part, target: Path, session: Session) -> str:
    """Link the file to its place.

    Raises:
        SourceError: it is gone.
    """
    origin = Path(part.url)
    if not origin.is_file():
        raise SourceError(f"{origin} is gone", "Put it back, then run the same command.")
    if not (target.exists() and target.samefile(origin)):  # a link would replace a file that lies there itself
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(origin)
        temporary.replace(target)
    session.advance(part.size_bytes or 0)
    return hash_file(target)


def part_of(path: Path, name: str) -> Part:
    """The file at `path` as the part `name`.

    Raises:
        SourceError: its name is not UTF-8, so no manifest or query could hold it.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{str(path)!r}: its name is not UTF-8", "Rename it.") from error
    status = path.stat()
    return Part(name, str(path.absolute()), status.st_size, version=str(status.st_mtime_ns))
