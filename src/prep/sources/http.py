"""Files at plain http(s) addresses, as a dataset's YAML lists them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from prep.config import HttpFile, HttpSource
from prep.errors import ConfigError, SourceError
from prep.sources import Listing, Part, is_web_address
from prep.sources.paths import checked
from prep.sources.transfer import Session


def list_parts(source: HttpSource, folder: Path, revision: str | None) -> Listing:
    """The files of the YAML; nothing is asked of the network.

    Raises:
        ConfigError: an address that is not http(s), or paths that the dataset's folder cannot hold.
    """
    parts = []
    for file in source.files:
        for mirror in file.mirrors:
            _steps_of(mirror)
        known = (file.size_bytes, file.sha256, file.md5)
        parts.append(Part(_path_of(file), file.url, *known, version=file.url, mirrors=file.mirrors))
    return Listing(checked(parts, ConfigError, "Give the file another `path` in the dataset's YAML."))


def fetch(source: HttpSource, part: Part, target: Path, session: Session) -> str:
    """Bring one file: from its address, or when that does not give it, from the first mirror that does.

    Raises:
        SourceError: no address gives it; the message has what became of each.
    """
    errors: list[SourceError] = []
    for url in (part.url, *part.mirrors):
        if errors:
            session.check_time()
        try:
            return session.bring(replace(part, url=url), target)
        except SourceError as error:
            errors.append(error)
    if not part.mirrors:
        raise errors[0]
    reasons = "".join(f"\n  {error.message}" for error in errors)
    raise SourceError(f"{part.path}: none of its {len(errors)} addresses gives it{reasons}", errors[0].next_step)


def _path_of(file: HttpFile) -> str:
    path = file.path or unquote(_steps_of(file.url)).rsplit("/", 1)[-1]
    return str(PurePosixPath(path)) if path else path


def _steps_of(url: str) -> str:
    """The path in an http(s) address."""
    if not is_web_address(url):
        raise ConfigError(f"{url} is not an http(s) address", "Mend the dataset's YAML.")
    return urlsplit(url).path
