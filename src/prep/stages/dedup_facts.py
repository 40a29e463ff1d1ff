"""What `dedup` writes and `filter` reads: which rows of a table are duplicates, and whether that still holds.

It holds for exactly the rows that passed everything else when it was found out. So its manifest names them, as `filter`
judged them before duplicates and samples, for every table that was looked at together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.config import Dedup
from prep.errors import UsageError
from prep.files import size_of
from prep.images.chunks import NOT_FETCHED
from prep.manifest import Manifest, fingerprint, read_finished, read_manifest
from prep.stages.sampling import SAMPLED_OUT
from prep.workspace import Workspace

VERSION = 1  # raise when the same inputs give other bytes
DISTANCE = 4  # bits, unless another number is asked for

# What rows have in common -> the reason to drop all but one, in the order in which they are looked for.
REASONS = {
    "url": "duplicate_url",
    "caption": "duplicate_caption",
    "sha256": "duplicate_image",
    "phash": "near_duplicate",
}
# Rows dropped for these passed everything that is judged before duplicates are.
JUDGED_LATER = (*REASONS.values(), SAMPLED_OUT, NOT_FETCHED)

OF_TABLE = "duplicate_of_table"
OF_KEY = "duplicate_of"
TEXT_TO_IMAGE = "text-to-image"  # how kinds begin of which a row is a picture and the words for it
PARQUET = ".parquet"
_FOOTER_BYTES = 1 << 16


@dataclass(frozen=True)
class Duplicates:
    """The duplicates of one shard of samples, as plain data for a worker.

    Attributes:
        shard, sha256: the facts.
        reasons: those that occur in it.
    """

    shard: Path
    sha256: str
    reasons: tuple[str, ...]


def pool_tables(workspace: Workspace, asked: Dedup) -> tuple[str, ...]:
    """Tables that duplicates are removed from, in the recipe's order.

    Unless tables are named: those of pictures and the words for them. In others a picture stands several times by
    design, with another question each time.
    """
    names = workspace.table_names
    named = asked.tables or [name for name in names if workspace.table(name)[1].kind.startswith(TEXT_TO_IMAGE)]
    return tuple(name for name in names if name in named and name not in (asked.against or ()))


def in_full(workspace: Workspace, asked: Dedup) -> dict[str, Any]:
    """What was asked, with every default filled in: for manifests."""
    by = [key for key in REASONS if key in (asked.by or ())]
    return {
        "by": by,
        **({"distance": DISTANCE if asked.distance is None else asked.distance} if "phash" in by else {}),
        "keep": asked.keep or "score",
        "tables": list(pool_tables(workspace, asked)),
        "against": list(asked.against or ()),
        "within": bool(asked.within or not asked.against),
    }


def judged_rows(filtered: Manifest | None) -> list[str] | None:
    """Names of what `filter` made of each shard before duplicates and samples; None where it has not finished."""
    if filtered is None:
        return None
    return list(filtered.facts.get("judged") or [shard.task for shard in filtered.shards])


def pool_names(workspace: Workspace, asked: Mapping[str, Any], own: Mapping[str, Sequence[str]] = {}) -> dict[str, str]:
    """A name for the rows of each table that are looked at together, and of each file.

    Args:
        own: table -> its judged rows, where the workspace does not say them yet.
    """
    names = {}
    for table in (*asked["tables"], *asked["against"]):
        if table in workspace.table_names:
            judged = own.get(table) or judged_rows(read_manifest(workspace.filtered(table)))
            names[table] = fingerprint(judged)
        else:
            files = against_files(workspace, table)
            names[table] = fingerprint([(path.name, _parquet_name(path)) for path in files])
    return names


def against_files(workspace: Workspace, name: str) -> list[Path]:
    """The parquet files that `--against` names by a path, a relative one taken from the workspace.

    Raises:
        UsageError: there are none.
    """
    path = workspace.root / name
    found = sorted(path.glob(f"*{PARQUET}")) if path.is_dir() else [path] if size_of(path) is not None else []
    if not found:
        raise UsageError(
            f"--against {name}: neither a table of this workspace nor a parquet file or a folder of them",
            f"There are: {', '.join(workspace.table_names)}. A file has columns url, caption, sha256 or phash.",
        )
    return found


def _parquet_name(path: Path) -> list[object]:
    """A name for a parquet file, which may be large, from its size and the end, where its footer is."""
    size = size_of(path) or 0
    with path.open("rb") as file:
        file.seek(max(0, size - _FOOTER_BYTES))
        return [size, hashlib.sha256(file.read()).hexdigest()]


def find_duplicates(
    workspace: Workspace, name: str, judged: Sequence[str]
) -> tuple[dict[str, Duplicates], dict[str, Any], str]:
    """The duplicates of table `name`, if they are asked for and known for exactly these rows.

    Args:
        judged: names of what `filter` makes of each shard before duplicates and samples.

    Returns:
        Shard name -> its duplicates; what was asked, for the manifest; and what a person should know.
    """
    request = workspace.given_rules().dedup
    if request is None or name not in pool_tables(workspace, request):
        return {}, {}, ""
    manifest = read_finished(workspace.dedup(name))
    if manifest is None:
        return {}, {}, "duplicates are not looked for yet; `prep dedup` does"
    try:
        asked = in_full(workspace, request)
        holds = manifest.facts["asked"] == asked
        holds = holds and manifest.facts["pool"] == pool_names(workspace, asked, {name: judged})
    except UsageError:  # a file that is not there any more
        holds = False
    if not holds:
        return {}, {}, "dedup is out of date and not used; `prep dedup`, then `prep filter` once more"
    folder = workspace.dedup(name)
    known = REASONS.values()
    found = {
        shard.name: Duplicates(folder / shard.name, shard.sha256, tuple(r for r in known if shard.counts.get(r)))
        for shard in manifest.shards
    }
    return found, {"dedup": asked}, ""
