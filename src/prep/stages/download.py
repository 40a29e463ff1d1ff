"""download: publishers' files, verified, under `raw/`, unchanged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from prep.config import Dataset, Source
from prep.engine import run_tasks
from prep.errors import SourceError, WorkspaceError
from prep.files import hash_file, write_text
from prep.manifest import (
    JOURNAL_NAME,
    Manifest,
    Shard,
    fingerprint,
    read_finished,
    read_manifest,
    remove_manifest,
    write_manifest,
)
from prep.progress import Advance, bar
from prep.sources import Listing, Part, module_of
from prep.sources.transfer import Session
from prep.stages.shards import Outcome
from prep.workspace import Workspace

TRANSFERS = 4  # parts under way at once


@dataclass(frozen=True)
class PartTask:
    """One part to be brought."""

    source: Source
    part: Part
    folder: Path

    @property
    def fingerprint(self) -> str:
        """Changes when the publisher's file does."""
        return self.part.identity

    @property
    def target(self) -> Path:
        """Where the part goes."""
        return self.folder / self.part.path


def download(workspace: Workspace, dataset: Dataset, *, force: bool = False, dry_run: bool = False) -> Outcome:
    """Bring every part of `dataset` into the workspace.

    Args:
        force: resolve the revision anew and bring every part again.
        dry_run: ask the publisher what there is, bring nothing.

    Raises:
        SourceError: the publisher cannot be reached, refuses, or sends other bytes than it announces.
        WorkspaceError: the disk cannot hold it.
    """
    source, folder = workspace.source(dataset), workspace.raw(dataset.name)
    asked = fingerprint(source.model_dump(mode="json"))
    complete = read_finished(folder)
    if force or (complete and complete.facts["asked"] != asked):
        complete = None
    if complete and source.kind in ("huggingface", "http"):  # pinned; what is local may have changed
        return _up_to_date(dataset, folder, complete)

    locked = workspace.locked(dataset.name)
    revision = locked.get("revision") if not force and locked.get("asked") == asked else None
    listing = module_of(source).list_parts(source, folder, revision)
    if not listing.parts:
        raise SourceError(
            f"{dataset.name}: the source has no file that matches {getattr(source, 'include', '*')}",
            "Has the publisher renamed its files? See the dataset's page, and `include` in its YAML.",
        )
    tasks = [PartTask(source, part, folder) for part in listing.parts]
    finished = {} if force else _finished(tasks, folder)
    missing = [task for task in tasks if task.part.path not in finished]
    if complete and not missing and len(complete.shards) == len(tasks):
        return _up_to_date(dataset, folder, complete)
    note = _note(dataset, listing, missing, dry_run=dry_run)
    if dry_run:
        return Outcome("download", dataset.name, "planned", len(missing), len(tasks), note=note)
    _check_space(workspace, missing)
    _bring(dataset.name, folder, missing, finished)

    resolved = {"asked": asked, **listing.resolved}
    manifest = Manifest("download", tuple(finished[task.part.path] for task in tasks), resolved)
    workspace.lock(dataset.name, {**resolved, "parts": len(tasks), "size_bytes": manifest.size_bytes})
    write_manifest(folder, manifest)
    (folder / JOURNAL_NAME).unlink(missing_ok=True)
    return Outcome("download", dataset.name, "done", len(missing), len(tasks), manifest, note)


def _up_to_date(dataset: Dataset, folder: Path, manifest: Manifest) -> Outcome:
    (folder / JOURNAL_NAME).unlink(missing_ok=True)  # a kill may have come between manifest and this
    return Outcome("download", dataset.name, "up to date", 0, len(manifest.shards), manifest)


def _bring(name: str, folder: Path, missing: Sequence[PartTask], finished: dict[str, Shard]) -> None:
    """Fetch the missing parts, noting each in the journal as soon as it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / JOURNAL_NAME
    _write_journal(journal, finished.values())
    remove_manifest(folder)
    total = sum(task.part.size_bytes or 0 for task in missing) or None
    with bar(f"download {name}", total, "B") as advance, journal.open("a", encoding="utf-8") as file:
        fetch = partial(_fetch, advance=advance)
        for shard in run_tasks(fetch, missing, workers=TRANSFERS, threads=True):
            finished[shard.name] = shard
            file.write(json.dumps(asdict(shard)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _fetch(task: PartTask, advance: Advance) -> Shard:
    module_of(task.source).fetch(task.source, task.part, task.target, Session(advance))
    return _describe(task)


def _describe(task: PartTask) -> Shard:
    size = task.target.stat().st_size
    return Shard(task.part.path, task.fingerprint, None, size, task.part.sha256 or hash_file(task.target))


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def _finished(tasks: Sequence[PartTask], folder: Path) -> dict[str, Shard]:
    """Parts that are in place and are what the publisher has now, by path."""
    manifest = read_manifest(folder)
    known = {shard.name: shard for shard in manifest.shards} if manifest else {}
    known |= _read_journal(folder / JOURNAL_NAME)
    finished = {}
    for task in tasks:
        shard = known.get(task.part.path)
        if shard and shard.task == task.fingerprint and _has_size(task.target, shard.size_bytes):
            finished[shard.name] = shard
        elif _is_what_the_publisher_says(task):
            finished[task.part.path] = _describe(task)
    return finished


def _is_what_the_publisher_says(task: PartTask) -> bool:
    """Whether a part that is in no journal (a kill came between) has the publisher's size and hash."""
    part = task.part
    return (
        part.size_bytes is not None
        and part.sha256 is not None
        and _has_size(task.target, part.size_bytes)
        and hash_file(task.target) == part.sha256
    )


def _read_journal(path: Path) -> dict[str, Shard]:
    """Journal lines by part; a last line cut off by a kill is passed over."""
    shards = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            shard = Shard(**json.loads(line))
        except (ValueError, TypeError):
            continue
        shards[shard.name] = shard
    return shards


def _write_journal(path: Path, shards: Iterable[Shard]) -> None:
    write_text(path, "".join(json.dumps(asdict(shard)) + "\n" for shard in shards))


def _check_space(workspace: Workspace, missing: Sequence[PartTask]) -> None:
    needed = sum(task.part.size_bytes or 0 for task in missing if task.source.kind in ("huggingface", "http"))
    free = shutil.disk_usage(workspace.root).free
    if needed > free:
        raise WorkspaceError(
            f"{needed / 1e9:,.1f} GB are to come, {free / 1e9:,.1f} GB are free in {workspace.root}",
            "Free some space, or make the workspace on a larger disk.",
        )


def _note(dataset: Dataset, listing: Listing, missing: Sequence[PartTask], *, dry_run: bool) -> str:
    notes = []
    if dry_run:
        notes.append(f"{sum(task.part.size_bytes or 0 for task in missing) / 1e6:,.1f} MB to bring")
    expected = dataset.expected.parts
    if expected is not None and expected != len(listing.parts):
        notes.append(f"the publisher has {len(listing.parts)} parts, {expected} were expected")
    return "; ".join(notes)
