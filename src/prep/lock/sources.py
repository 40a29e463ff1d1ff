"""Whether a dataset's source, and what it has now, are those that a lock is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prep.config import Dataset
from prep.errors import SourceError
from prep.lock.contents import describe_source, hash_parts
from prep.lock.differences import Difference, differences
from prep.manifest import Manifest, Shard, read_manifest
from prep.sources import Part
from prep.sources.mirrors import Places
from prep.stages.plan import Plan, find_damaged, plan_download
from prep.workspace import Workspace


def in_source(workspace: Workspace, dataset: Dataset, locked: Mapping[str, Any]) -> Iterator[Difference]:
    """How a source is not the one that was asked; paths of this machine are told apart by what is in them."""
    places = Places(dataset.name, workspace.sources(dataset), workspace.raw(dataset.name)).all
    if any(place.asked == locked.get("asked") or place.source.kind == "local" for place in places):
        return
    here = describe_source(places[0].source)
    there = locked.get("source") or {"kind": locked.get("from", "another"), **_resolved(locked)}
    if there.get("kind") == here["kind"] and there != here:
        for key in sorted(key for key in {*there, *here} if there.get(key) != here.get(key)):
            yield Difference("dataset", dataset.name, f"source.{key}", there.get(key), here.get(key))
        return
    if there == here:  # but for instructions, and such
        there, here = {"asked": locked.get("asked")}, {"asked": places[0].asked}
    yield Difference("dataset", dataset.name, "source", _in_words(there), _in_words(here))


def _resolved(locked: Mapping[str, Any]) -> dict[str, Any]:
    """What a lock says of a source where it does not say what was asked of it, as older ones do not."""
    return {key: locked[key] for key in ("repo", "folder") if key in locked}


def _in_words(source: Mapping[str, Any]) -> str:
    words = [
        f"{key} {' '.join(map(str, value)) if isinstance(value, list) else value}" for key, value in source.items()
    ]
    return ", ".join(words).removeprefix("kind ")


def in_changing_parts(
    workspace: Workspace,
    dataset: Dataset,
    locked: Mapping[str, Any],
    contents: Mapping[str, Any],
    *,
    on_s3: bool = True,
) -> Iterator[Difference]:
    """How parts that may change at any time differ, before anything is made of them anew.

    These are files of this machine (listed again, and compared by size and time of change with those that the lock
    is of; hashed where only the time is another) and objects that are read in place (compared by size and ETag). Where
    nothing has been made of them here yet, how many they are and their bytes are compared.

    Args:
        on_s3: ask S3 about objects that are read in place.
    """
    places = Places(dataset.name, workspace.sources(dataset), workspace.raw(dataset.name)).all
    is_on_s3 = any(place.source.kind == "s3" for place in places)
    if all(place.is_pinned for place in places) or (is_on_s3 and not on_s3):
        return
    try:
        plan = plan_download(workspace, dataset, ask_sizes=False)
    except SourceError:  # not there yet, or cannot be reached: the download tells it, and brings nothing
        return
    raw = read_manifest(plan.folder)
    if raw is not None and hash_parts(raw) == contents.get("sha256"):
        yield from _since(plan, {shard.name: shard for shard in raw.shards})
    else:
        yield from _in_sum(plan, locked, contents)


def _since(plan: Plan, taken: Mapping[str, Shard]) -> Iterator[Difference]:
    """What is otherwise since the parts were taken, part by part."""
    name, wanted = plan.dataset.name, {part.path: part for _, part in plan.wanted}
    touched: dict[str, tuple[Part, Shard]] = {}
    for path in sorted({*taken, *wanted}):
        shard, part = taken.get(path), wanted.get(path)
        if shard is None or part is None:
            yield Difference("dataset", name, path, *("there" if one else None for one in (shard, part)))
        elif part.identity != shard.task:
            if part.size_bytes is not None and part.size_bytes != shard.size_bytes:
                yield Difference("dataset", name, f"{path} size_bytes", shard.size_bytes, part.size_bytes)
            elif "://" not in part.url:
                touched[part.url] = part, shard
            elif part.sha256 is not None:  # of the note that names the object's size and ETag
                yield Difference("dataset", name, f"{path} sha256", shard.sha256, part.sha256)
    files = [replace(shard, name=url) for url, (_, shard) in touched.items()]
    for url in sorted(find_damaged(name, Path("/"), files)):
        part, shard = touched[url]
        yield Difference("dataset", name, f"{part.path} sha256", shard.sha256, "other bytes")


def _in_sum(plan: Plan, locked: Mapping[str, Any], contents: Mapping[str, Any]) -> Iterator[Difference]:
    """What differs of all parts together, where it is not known which of them the lock is of."""
    name, wanted = plan.dataset.name, [part for _, part in plan.wanted]
    there: dict[str, Any] = {}
    here: dict[str, Any] = {}
    if all(part.size_bytes is not None for part in wanted):
        here = {"parts": len(wanted), "size_bytes": sum(part.size_bytes or 0 for part in wanted)}
        there = {key: locked[key] for key in here if key in locked}
    if "sha256" in contents and all("://" in part.url and part.sha256 for part in wanted):
        there["sha256"] = contents["sha256"]
        shards = (Shard(part.path, part.identity, None, part.size_bytes or 0, part.sha256 or "") for part in wanted)
        here["sha256"] = hash_parts(Manifest("download", tuple(shards)))
    yield from differences({"datasets": {name: there}}, {"datasets": {name: {key: here[key] for key in there}}})
