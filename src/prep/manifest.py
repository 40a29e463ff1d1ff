"""What a finished stage produced.

A manifest is one JSON file, `_manifest.json`, in the folder of what it describes. It is written last, so that its
presence means finished, and removed before a stage changes anything. It holds nothing that differs between two runs
over the same inputs: no times, no machine.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prep.errors import WorkspaceError
from prep.files import write_text

MANIFEST_NAME = "_manifest.json"
JOURNAL_NAME = "_parts.jsonl"  # parts finished so far; only there while a download is unfinished


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
    """

    name: str
    task: str
    rows: int | None
    size_bytes: int
    sha256: str
    counts: Mapping[str, int] = field(default_factory=dict)
    beside_bytes: int = 0


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
    path = folder / MANIFEST_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        shards = tuple(Shard(**shard) for shard in data.pop("shards"))
        return Manifest(shards=shards, **data)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WorkspaceError(f"{path}: not a manifest", "Delete that file and run the same command again.") from error


def read_finished(folder: Path) -> Manifest | None:
    """The manifest of `folder` if every file it names is in place and has its size, else None."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    for shard in manifest.shards:
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.size_bytes:
            return None
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare `folder` finished."""
    write_text(folder / MANIFEST_NAME, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def remove_manifest(folder: Path) -> None:
    """Declare `folder` unfinished, before it is changed."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
