"""The places that have a dataset's files: its source, then its mirrors, tried in order."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prep.config import LocalSource, Source
from prep.errors import SourceError
from prep.files import hash_file
from prep.manifest import fingerprint
from prep.sources import Listing, Part, module_of
from prep.sources.transfer import Session


@dataclass(frozen=True)
class Place:
    """One place that has a dataset's files.

    Attributes:
        label: what it is called in messages and in prep.lock: `source (huggingface)`, `mirror 1 (s3)`.
    """

    label: str
    source: Source

    @property
    def asked(self) -> str:
        """Fingerprint of what is asked of it; changes when the configuration does, or what a list of files says."""
        asked = self.source.model_dump(mode="json", exclude={"files_from"})
        files_from = getattr(self.source, "files_from", None)
        return fingerprint(asked if files_from is None else [asked, _hash_of_list(files_from)])

    @property
    def is_pinned(self) -> bool:
        """Whether what it had once is what counts; what is read where it lies may change at any time."""
        return self.source.kind not in ("local", "manual") and not getattr(self.source, "in_place", False)

    def is_copied(self, part: Part) -> bool:
        """Whether the part's bytes come onto our disk; a link takes no room, a file put there by hand is there."""
        if isinstance(self.source, LocalSource):
            return self.source.copied
        return "://" in part.url


class Places:
    """All places of one dataset.

    Args:
        name: the dataset's.
        sources: the source, then its mirrors.
        folder: the dataset's folder in `raw/`.
    """

    def __init__(self, name: str, sources: Sequence[Source], folder: Path) -> None:
        labels = ["source", *(f"mirror {number}" for number in range(1, len(sources)))]
        self.all = tuple(
            Place(f"{label} ({source.kind})", source) for label, source in zip(labels, sources, strict=True)
        )
        self._name, self._folder = name, folder
        self._listings: dict[Place, Listing | SourceError] = {}
        self._lock = threading.Lock()

    def resolve(self, locked: Mapping[str, Any]) -> tuple[Place, Listing]:
        """The first place that can say what there is, and what it says.

        Args:
            locked: what prep.lock says of the dataset: the place that answered before comes first, at its revision.

        Raises:
            SourceError: no place can; every one is named with its reason.
        """
        failures: list[tuple[Place, SourceError]] = []
        for place in sorted(self.all, key=lambda place: place.asked != locked.get("asked")):
            revision = locked.get("revision") if locked.get("asked") == place.asked else None
            try:
                return place, self._list(place, revision)
            except SourceError as error:
                failures.append((place, error))
        raise _nowhere(self._name, failures)

    def fetch(self, place: Place, part: Part, target: Path, session: Session) -> tuple[str, Place]:
        """Bring a part that `place` listed, from there or else from another; its SHA-256 and where it came from.

        Size and hashes that `place` says hold for every other place too.

        Raises:
            SourceError: no place has it; every one is named with its reason.
        """
        failures: list[tuple[Place, SourceError]] = []
        for other in (place, *(other for other in self.all if other != place)):
            if failures:
                session.check_time()
            try:
                wanted = part if other == place else self._same_part(other, part)
                return module_of(other.source).fetch(other.source, wanted, target, session), other
            except SourceError as error:
                failures.append((other, error))
        raise _nowhere(part.path, failures)

    def _list(self, place: Place, revision: str | None) -> Listing:
        """What a place has; each is asked once, whoever asks."""
        with self._lock:
            if place not in self._listings:
                try:
                    listing = module_of(place.source).list_parts(place.source, self._folder, revision)
                    self._listings[place] = listing if listing.parts else self._empty(place)
                except SourceError as error:
                    self._listings[place] = error
            found = self._listings[place]
        if isinstance(found, SourceError):
            raise found
        return found

    def _empty(self, place: Place) -> SourceError:
        return SourceError(
            f"{self._name}: the source has no file that matches {getattr(place.source, 'include', '*')}",
            "Has the publisher renamed its files? See the dataset's page, and `include` in its YAML.",
        )

    def _same_part(self, place: Place, part: Part) -> Part:
        """The part as another place has it, held to what is known of it here."""
        same = next((found for found in self._list(place, None).parts if found.path == part.path), None)
        if same is None:
            raise SourceError(f"has no {part.path}")
        known: dict[str, Any] = {}
        for what in ("size_bytes", "sha256", "md5"):
            ours, theirs = getattr(part, what), getattr(same, what)
            if None not in (ours, theirs) and ours != theirs:
                raise SourceError(f"has another {part.path}: {what} {theirs}, not {ours}")
            known[what] = theirs if ours is None else ours
        return replace(same, **known)


def _hash_of_list(path: str) -> str | None:
    """Hash of a list of files; None for one that cannot be read, which listing its files will tell."""
    try:
        return hash_file(Path(path))
    except OSError:
        return None


def _nowhere(what: str, failures: Sequence[tuple[Place, SourceError]]) -> SourceError:
    """One error for all places; that of a single place as it is."""
    first = failures[0][1]
    if len(failures) == 1:
        return first
    reasons = "\n".join(f"    {place.label}: {error.message}" for place, error in failures)
    return SourceError(
        f"{what} cannot be had from any of its {len(failures)} places:\n{reasons}",
        first.next_step or "Run the same command later; what has come is kept.",
    )
