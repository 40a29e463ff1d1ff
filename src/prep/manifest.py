"""What a finished stage produced.

A manifest is one JSON file, `_manifest.json`, in the folder of what it describes. It is written last, so that its
presence means finished, and removed before a stage changes anything. It holds nothing that differs between two runs
over the same inputs: no times, no machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from prep.engine import WHOLE, Share
from prep.errors import WorkspaceError
from prep.files import open_own, size_of, write_text

MANIFEST_NAME = "_manifest.json"
JOURNAL_NAME = "_parts.jsonl"  # parts that are whole and in no manifest: of an unfinished download, or outside a slice
RANK_JOURNALS = ".parts-*.jsonl"  # the same of single ranks
SHARES = ".share-*.json"  # what single ranks have made
FSYNC_SECONDS = 1.0  # how often the journal is made durable; a line lost with the power costs one hashing


@dataclass(frozen=True)
class Shard:
    """One finished file.

    Attributes:
        name: its path below the manifest's folder.
        task: fingerprint of everything it was made from.
        rows: rows in it; None for a file that has none (a part).
        size_bytes, sha256: of its bytes.
        counts: what its making counted, e.g. rows dropped by reason.
        beside_bytes: size of what was written along with it elsewhere (the dropped rows).
        position: of a part, its place in the publisher's sorted list, whatever slice of it is here.
        freed_shares: of an archive that was unpacked and whose bytes were then deleted, into how many shards; None
            while they are there.
        passed: of a filtered shard, a name for the rows that `where` let pass; empty without one. It may read a file,
            so that the question alone does not tell them.
    """

    name: str
    task: str
    rows: int | None
    size_bytes: int
    sha256: str
    counts: Mapping[str, int] = field(default_factory=dict)
    beside_bytes: int = 0
    position: int | None = None
    freed_shares: int | None = None
    passed: str = ""

    def is_in(self, folder: Path) -> bool:
        """Whether its file is in place and has its size, or is not needed any more."""
        return self.freed_shares is not None or size_of(folder / self.name) == self.size_bytes


@dataclass(frozen=True)
class Manifest:
    """What one stage produced in one folder.

    Attributes:
        stage: the stage's name.
        shards: every file, in order.
        facts: what holds for all of it (rules applied, revision, columns).
    """

    stage: str
    shards: tuple[Shard, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows over all shards."""
        return sum(shard.rows or 0 for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Bytes over all shards."""
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def counts(self) -> dict[str, int]:
        """Counts summed over all shards."""
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.counts)
        return dict(total)


def fingerprint(value: object) -> str:
    """A short stable name for `value` (anything JSON holds): equal values, equal names."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`, or None where the stage has not finished.

    Raises:
        WorkspaceError: the file is there and is not a manifest.
    """
    return _read(folder / MANIFEST_NAME)


def _read(path: Path) -> Manifest | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        shards = tuple(_shard(shard) for shard in data.pop("shards"))
        manifest = Manifest(shards=shards, **data)
        if not isinstance(manifest.stage, str) or not isinstance(manifest.facts, dict):
            raise TypeError(path)
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WorkspaceError(f"{path}: not a manifest", "Delete that file and run the same command again.") from error


def read_finished(folder: Path) -> Manifest | None:
    """The manifest of `folder` if every file it names is in place and has its size, else None."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    return manifest if all(shard.is_in(folder) for shard in manifest.shards) else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare `folder` finished."""
    _write(folder / MANIFEST_NAME, manifest)


def _write(path: Path, manifest: Manifest) -> None:
    write_text(path, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def remove_manifest(folder: Path) -> None:
    """Declare `folder` unfinished, before it is changed."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)


# -- shares of ranks -----------------------------------------------------------------------------------------------


def _share_path(folder: Path, share: Share) -> Path:
    return folder / f".share-{share.rank}-of-{share.world_size}.json"


def write_share(folder: Path, share: Share, manifest: Manifest) -> None:
    """Declare that a rank has made its share of `folder`."""
    _write(_share_path(folder, share), manifest)


def remove_share(folder: Path, share: Share) -> None:
    """Declare a rank's share unfinished, before it changes anything, and what other numbers of ranks said void."""
    _share_path(folder, share).unlink(missing_ok=True)
    for path in folder.glob(SHARES):
        if not path.name.endswith(f"-of-{share.world_size}.json"):
            path.unlink(missing_ok=True)


def read_shares(folder: Path, world_size: int) -> list[Manifest]:
    """What the ranks that have finished made, in the ranks' order; as many as there are when all have."""
    shares = (_read(_share_path(folder, Share(rank, world_size))) for rank in range(world_size))
    return [share for share in shares if share is not None]


def remove_shares(folder: Path) -> None:
    """Forget which rank made what."""
    for path in folder.glob(SHARES):
        path.unlink(missing_ok=True)


def known_shards(folder: Path) -> dict[str, Shard]:
    """Every shard, by name, that the manifest or a finished rank tells of; whether it is there is another question."""
    manifests = [read_manifest(folder), *(_read(path) for path in folder.glob(SHARES))]
    return {shard.name: shard for manifest in manifests if manifest for shard in manifest.shards}


# -- the journal of a download -----------------------------------------------------------------------------------


def read_journal(folder: Path) -> dict[str, Shard]:
    """Parts that the journal of `folder` holds, by path, and over it those of single ranks.

    A line that is none (the last may be cut off by a kill) is passed over: its part is hashed or brought again.
    """
    return _read_lines(folder / JOURNAL_NAME, *sorted(folder.glob(RANK_JOURNALS)))


def _read_lines(*paths: Path) -> dict[str, Shard]:
    shards = {}
    for path in paths:
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                shard = _shard(json.loads(line.decode()))
            except (ValueError, TypeError, RecursionError):
                continue
            shards[shard.name] = shard
    return shards


def shelve_parts(folder: Path, share: Share) -> None:
    """Keep in the journal what a manifest says that is about to go, and what journals of other numbers of ranks say."""
    manifest = read_manifest(folder)
    others = [path for path in folder.glob(RANK_JOURNALS) if not path.stem.endswith(f"-of-{share.world_size}")]
    if manifest is not None or others:
        known = {shard.name: shard for shard in manifest.shards} if manifest else {}
        known |= _read_lines(folder / JOURNAL_NAME, *sorted(others))
        write_text(folder / JOURNAL_NAME, "".join(_line(shard) for shard in known.values()))
    for path in others:
        path.unlink(missing_ok=True)


def _journal_path(folder: Path, share: Share) -> Path:
    return folder / (JOURNAL_NAME if share.is_whole else f".parts-{share.rank}-of-{share.world_size}.jsonl")


def write_journal(folder: Path, shards: Iterable[Shard], share: Share = WHOLE) -> None:
    """Let the journal of `folder`, or of one rank, hold `shards`; with none there is no journal.

    That of the folder takes the place of those of all ranks.
    """
    path, text = _journal_path(folder, share), "".join(_line(shard) for shard in shards)
    if text:
        write_text(path, text)
    else:
        path.unlink(missing_ok=True)
    if share.is_whole:
        for other in folder.glob(RANK_JOURNALS):
            other.unlink(missing_ok=True)


class Journal:
    """The journal of `folder` or of one rank, open for more: a line each, at once with the system, soon on the disk."""

    def __init__(self, folder: Path, share: Share = WHOLE) -> None:
        self._file = open_own(_journal_path(folder, share), "a")
        self._synced = time.monotonic()

    def add(self, shard: Shard) -> None:
        """Note one more part."""
        self._file.write(_line(shard))
        self._file.flush()
        if time.monotonic() - self._synced >= FSYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._sync()


def _shard(data: Any) -> Shard:
    """The shard that a file of ours holds.

    Raises:
        TypeError: it holds none.
    """
    shard = Shard(**data)
    optional = (shard.rows, shard.position, shard.freed_shares)
    numbers = (shard.size_bytes, shard.beside_bytes, *(number for number in optional if number is not None))
    if not (
        all(isinstance(text, str) for text in (shard.name, shard.task, shard.sha256, shard.passed))
        and all(type(number) is int for number in (*numbers, *dict(shard.counts).values()))
    ):
        raise TypeError(shard)
    return shard


def _line(shard: Shard) -> str:
    return json.dumps(asdict(shard)) + "\n"
