"""Files at plain http(s) addresses, as a dataset's YAML lists them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from prep.config import HttpSource
from prep.errors import ConfigError
from prep.progress import Advance
from prep.sources import Listing, Part
from prep.sources.transfer import transfer


def list_parts(source: HttpSource, folder: Path, revision: str | None) -> Listing:
    """The files of the YAML; nothing is asked of the network.

    Raises:
        ConfigError: an address that is not http(s), or a path that leaves the dataset's folder.
    """
    parts = []
    for file in source.files:
        address = urlsplit(file.url)
        path = PurePosixPath(file.path or unquote(address.path).rsplit("/", 1)[-1])
        if address.scheme not in ("http", "https") or not address.netloc:
            raise ConfigError(f"{file.url} is not an http(s) address", "Mend the dataset's YAML.")
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ConfigError(
                f"{file.url}: {str(path)!r} is not a path inside the dataset's folder",
                "Give the file a `path` in the dataset's YAML.",
            )
        parts.append(Part(str(path), file.url, file.size_bytes, file.sha256, file.md5))
    return Listing(tuple(sorted(parts, key=lambda part: part.path)))


def fetch(source: HttpSource, part: Part, target: Path, advance: Advance) -> None:
    """Bring one file."""
    transfer(part, target, {}, advance)
