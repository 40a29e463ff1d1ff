"""What `dedup` writes and `filter` reads: which rows of a table are duplicates, and whether that still holds.

It holds for exactly the rows that passed everything else when it was found out. So its manifest names them, as `filter`
judged them before duplicates and samples, for every table that was looked at together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.config import Dedup
from prep.errors import UsageError
from prep.files import hash_file, size_of, write_text
from prep.images.chunks import NOT_FETCHED
from prep.manifest import Manifest, fingerprint, read_finished, read_manifest
from prep.stages.sampling import SAMPLED_OUT
from prep.workspace import Workspace

VERSION = 2  # raise when the same inputs give other bytes
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
PHASH = "image_phash"  # a column of samples, as COYO publishes it
PARQUET = ".parquet"
OUT_OF_DATE = "dedup is out of date and not used"
ASK_AGAIN = f"{OUT_OF_DATE}; `prep dedup`, then `prep filter` once more"
_NOT_YET = "duplicates are not looked for yet"


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
    judged = filtered.facts.get("judged") or [shard.task for shard in filtered.shards]
    return row_names(judged, [shard.passed for shard in filtered.shards])


def row_names(judged: Iterable[str], passed: Iterable[str]) -> list[str]:
    """Names of shards' rows: of what they are judged by, and of those that `where` let pass, which may read a file."""
    return [f"{rules} {rows}".rstrip() for rules, rows in zip(judged, passed, strict=True)]


def pool_names(workspace: Workspace, asked: Mapping[str, Any], own: Mapping[str, Sequence[str]] = {}) -> dict[str, str]:
    """A name for the rows of each table that are looked at together, with their images' hashes, and for each file.

    Args:
        own: table -> its judged rows, where the workspace does not say them yet.
    """
    names = {}
    for table in (*asked["tables"], *asked["against"]):
        if table in workspace.table_names:
            judged = own.get(table) or judged_rows(read_manifest(workspace.filtered(table)))
            names[table] = fingerprint([judged, _hash_names(workspace, table) if "phash" in asked["by"] else []])
        else:
            files = against_files(workspace, table)
            names[table] = fingerprint([(path.name, _name_of_file(workspace, path)) for path in files])
    return names


def _hash_names(workspace: Workspace, table: str) -> list[list[str]]:
    """Names of the perceptual hashes of a table's images: for the same images others, once more can be read."""
    own, definition = workspace.table(table)
    datasets = dict.fromkeys(definition.image_datasets(own.name).values())
    known = (read_manifest(workspace.phash(dataset)) for dataset in datasets)
    return [[shard.sha256 for shard in manifest.shards] for manifest in known if manifest is not None]


def against_files(workspace: Workspace, path: str | Path, name: str = "") -> list[Path]:
    """The parquet files that `--against` names by a path, a relative one taken from the workspace.

    Args:
        name: the path as a person has written it.

    Raises:
        UsageError: there are none.
    """
    name, path = name or str(path), workspace.root / path
    found = sorted(path.glob(f"*{PARQUET}")) if path.is_dir() else [path] if size_of(path) is not None else []
    if not found:
        raise UsageError(
            f"--against {name}: neither a table of this workspace nor a parquet file or a folder of them",
            f"There are: {', '.join(workspace.table_names)}. A file has columns url, caption, sha256 or phash.",
        )
    return found


# -- files -------------------------------------------------------------------------------------------------------------


def _name_of_file(workspace: Workspace, path: Path) -> str:
    """SHA-256 of a file, which may be large: of one that has not been touched since, as it is remembered."""
    known = _known_files(workspace.dedup_files).get(str(path))
    return known[1] if known is not None and known[0] == _touched(path) else hash_file(path)


def remember_files(workspace: Workspace, paths: Iterable[Path]) -> None:
    """Hash those files that were touched since they were hashed last, and remember only these."""
    before = _known_files(workspace.dedup_files)
    known = {}
    for path in paths:
        touched = _touched(path)
        known[str(path)] = [touched, _name_of_file(workspace, path)]
    if known and known != before:
        write_text(workspace.dedup_files, json.dumps(known, indent=1, sort_keys=True) + "\n")
    elif not known:
        workspace.dedup_files.unlink(missing_ok=True)


def _touched(path: Path) -> str:
    """When a file was changed last, and what tells it from another: the time of writing alone can be set back."""
    status = path.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _known_files(path: Path) -> dict[str, list[str]]:
    """Of each file: when it was touched, and its SHA-256."""
    try:
        known = json.loads(path.read_bytes())
        return {name: [str(touched), str(sha256)] for name, (touched, sha256) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


# -- for filter --------------------------------------------------------------------------------------------------------


def comes_first(workspace: Workspace, name: str) -> str:
    """Why the duplicates of a filtered table are still among its rows, where `prep dedup` can find them now; or empty.

    Before the images are there it finds none by their bytes, and by their looks only where these are published.
    """
    request, filtered = workspace.given_rules().dedup, read_manifest(workspace.filtered(name))
    if request is None or filtered is None:
        return ""
    can_be = {"url", "caption"} | ({"phash"} if PHASH in workspace.table(name)[1].extra else set())
    if not filtered.facts["has_images"] and not can_be & set(request.by or ()):
        return ""
    _, asked, note = find_duplicates(workspace, name, judged_rows(filtered) or ())
    if asked and filtered.facts.get("dedup") != asked["dedup"]:
        return "duplicates are found and not dropped yet"
    return note.partition(";")[0]


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
        return {}, {}, f"{_NOT_YET}; `prep dedup` does"
    asked = in_full(workspace, request)
    try:
        holds = manifest.facts["asked"] == asked
        holds = holds and manifest.facts["pool"] == pool_names(workspace, asked, {name: judged})
    except UsageError:  # a file that is not there any more
        holds = False
    if not holds:
        return {}, {}, ASK_AGAIN
    folder = workspace.dedup(name)
    known = REASONS.values()
    found = {
        shard.name: Duplicates(folder / shard.name, shard.sha256, tuple(r for r in known if shard.counts.get(r)))
        for shard in manifest.shards
    }
    return found, {"dedup": asked}, ""
