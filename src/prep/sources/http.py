"""Files at plain http(s) addresses, as a dataset's YAML lists them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from prep.config import HttpSource
from prep.errors import ConfigError
from prep.sources import Listing, Part, is_inside
from prep.sources.transfer import Session


def list_parts(source: HttpSource, folder: Path, revision: str | None) -> Listing:
    """The files of the YAML; nothing is asked of the network.

    Raises:
        ConfigError: an address that is not http(s), a path that leaves the dataset's folder, or one that two have.
    """
    parts: dict[str, Part] = {}
    for file in source.files:
        path = PurePosixPath(file.path or unquote(_path_of(file.url)).rsplit("/", 1)[-1])
        mend = "Give the file a `path` of its own in the dataset's YAML."
        if not is_inside(str(path)):
            raise ConfigError(f"{file.url}: {str(path)!r} is not a path inside the dataset's folder", mend)
        if str(path) in parts:
            raise ConfigError(f"{file.url} and {parts[str(path)].url} would both be {str(path)!r}", mend)
        parts[str(path)] = Part(str(path), file.url, file.size_bytes, file.sha256, file.md5, file.url)
    return Listing(tuple(part for _, part in sorted(parts.items())))


def _path_of(url: str) -> str:
    try:
        address = urlsplit(url)
    except ValueError:  # brackets that hold no IPv6 address
        address = urlsplit("")
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(f"{url} is not an http(s) address", "Mend the dataset's YAML.")
    return address.path


def fetch(source: HttpSource, part: Part, target: Path, session: Session) -> str:
    """Bring one file."""
    return session.bring(part, target)
