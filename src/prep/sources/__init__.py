"""Where published files come from: one module per kind of place, each with the same two functions.

list_parts(source, folder, revision)  what the publisher has, and what it says of each file
fetch(source, part, target, session)  bring one part to `target`, whole or not at all
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

from prep.config import Source
from prep.errors import SourceError
from prep.manifest import JOURNAL_NAME, MANIFEST_NAME, fingerprint

if TYPE_CHECKING:
    from prep.sources.transfer import Session


@dataclass(frozen=True)
class Part:
    """One file as the publisher split it.

    Attributes:
        path: its path below `raw/<dataset>/`.
        url: where it is now; for a local or manual file its path.
        size_bytes, sha256, md5: as far as the publisher says.
        version: anything else that changes when the file does (an ETag, a modification time, an address).
        mirrors: more addresses of the same bytes.
    """

    path: str
    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    version: str | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Changes when the file does; not when the same file is found at another address."""
        return fingerprint([self.path, self.size_bytes, self.sha256, self.md5, self.version])


@dataclass(frozen=True)
class Listing:
    """What a publisher has: its parts, sorted by path, and what was resolved on the way (a commit)."""

    parts: tuple[Part, ...]
    resolved: dict[str, Any] = field(default_factory=dict)


class SourceModule(Protocol):
    """What every module in this package offers."""

    def list_parts(self, source: Any, folder: Path, revision: str | None) -> Listing:
        """The source's parts; `folder` is the dataset's place in `raw/`, `revision` one pinned before."""

    def fetch(self, source: Any, part: Part, target: Path, session: Session) -> str:
        """Bring one part to `target`, whole or not at all; gives the SHA-256 of its bytes."""


def module_of(source: Source) -> SourceModule:
    """The module for the source's kind.

    Raises:
        SourceError: HF_ENDPOINT is no address; the hub's client would break off while it is imported.
    """
    if source.kind == "huggingface" and not is_web_address(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        raise SourceError("HF_ENDPOINT in the environment is not an http(s) address", "Mend it, or unset it.")
    return cast(SourceModule, import_module(f"prep.sources.{source.kind.replace('-', '_')}"))


def is_inside(path: str) -> bool:
    """Whether a part's path names a file below its dataset's folder and nowhere else."""
    steps = PurePosixPath(path).parts
    is_text = path.encode(errors="ignore").decode() == path and "\0" not in path  # JSON may hold half a character
    return bool(steps) and not path.startswith("/") and ".." not in steps and is_text


def is_web_address(address: str) -> bool:
    """Whether it is an http(s) address with a host."""
    try:
        parsed = urlsplit(address)
    except ValueError:  # brackets that hold no IPv6 address
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.hostname)


def matching(paths: Iterable[str], include: Iterable[str], exclude: Iterable[str] = ()) -> list[str]:
    """The paths that some glob of `include` takes and none of `exclude`; `*` crosses folders.

    Never hidden files, nor files of hidden folders (`.cache` beside a download by other means), nor names of ours.
    """
    include, exclude = tuple(include), tuple(exclude)
    return sorted(
        path
        for path in paths
        if path not in (MANIFEST_NAME, JOURNAL_NAME)
        and not any(step.startswith(".") for step in path.split("/"))
        and any(fnmatch.fnmatchcase(path, glob) for glob in include)
        and not any(fnmatch.fnmatchcase(path, glob) for glob in exclude)
    )
