"""download: publishers' files, verified, under `raw/`, unchanged."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prep.config import Dataset, Source
from prep.engine import cluster, run_tasks, share
from prep.errors import SourceError, UsageError, WorkspaceError
from prep.files import try_lock
from prep.manifest import (
    MANIFEST_NAME,
    Journal,
    Manifest,
    Shard,
    read_finished,
    remove_manifest,
    shelve_parts,
    write_journal,
    write_manifest,
)
from prep.progress import bar, event, size
from prep.sources import Part
from prep.sources.mirrors import Place, Places
from prep.sources.part_file import journal_path, part_path
from prep.sources.slices import Slice
from prep.sources.transfer import Session
from prep.stages.plan import (
    TRANSFERS,
    Plan,
    PlannedPart,
    find_damaged,
    plan_download,
    remembered_slice,
    whole_shards,
)
from prep.stages.shards import Outcome
from prep.workspace import Workspace

ADOPTED = "its images are in a folder already"
UNFINISHED = re.compile(r"\.(.+)\.part(\.json(\.tmp)?)?")  # what transfers leave of the part `(1)`


@dataclass(frozen=True)
class PlannedDownload(Outcome):
    """What a dry run found.

    Attributes:
        plan: part by part.
    """

    plan: Plan | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return super().as_json() | ({"plan": self.plan.as_json()} if self.plan else {})


def download(
    workspace: Workspace,
    dataset: Dataset,
    *,
    choice: Slice | None = None,
    verify: bool = False,
    force: bool = False,
    dry_run: bool = False,
    ask_sizes: bool = False,
    deadline: float | None = None,
    at_most: int | None = None,
) -> Outcome:
    """Bring every part of `dataset`, or of a slice of it, into the workspace.

    Args:
        choice: the slice, remembered in prep.lock; the empty one means all, None the one remembered.
        verify: hash what is there, and bring again what is not what once came.
        force: resolve the revision anew and bring every part again.
        dry_run: ask the publisher what there is, bring nothing, write nothing.
        ask_sizes: in a dry run, ask servers for sizes that the publisher's listing does not give.
        deadline: moment of `time.monotonic()` after which nothing goes on; what has come stays.
        at_most: bring only so many more archives now; the manifest then says how many parts are `missing`.

    Raises:
        SourceError: no place can be reached, all refuse, or send other bytes than announced.
        UsageError: a slice without a part, or `force` with `verify`.
        WorkspaceError: the disk cannot hold it.
    """
    if force and verify:
        raise UsageError("--force brings every part again, so --verify has nothing to look at", "Give one of them.")
    _check_time(dataset.name, deadline)
    if workspace.adopted_parts(dataset) is not None and not dataset.tables:
        return Outcome("download", dataset.name, "up to date", note=ADOPTED)
    complete = None if force else _complete(workspace, dataset, choice)
    shards = share().of(complete.shards) if complete and verify else ()
    verified = [shard.name for shard in shards]
    damaged = find_damaged(dataset.name, workspace.raw(dataset.name), shards)
    if complete and not damaged and _is_pinned(workspace, dataset, complete):
        return _up_to_date(workspace, dataset, complete, len(verified) if verify else None, dry_run)

    # The first rank pins a revision, the others go by it.
    with nullcontext() if dry_run or workspace.locked(dataset.name) else workspace.turn():
        plan = plan_download(
            workspace,
            dataset,
            choice=choice,
            force=force,
            verify=verify,
            verified=[name for name in verified if name not in damaged],
            ask_sizes=ask_sizes or not dry_run,
            deadline=deadline,
            at_most=at_most,
        )
        if not (share().is_whole or dry_run or workspace.locked(dataset.name)):
            workspace.lock(dataset.name, _pin(plan))
    if complete and not plan.missing and _is_what_is_wanted(complete, plan):
        return _up_to_date(workspace, dataset, complete, len(plan.parts) if verify else None, dry_run)
    if dry_run:
        note = "; ".join([f"{size(plan.bytes_to_bring)} to bring", *_notes(plan, verify, dry_run)])
        counts = len(plan.missing), len(plan.parts)
        return PlannedDownload("download", dataset.name, "planned", *counts, note=note, plan=plan)
    return _carry_out(workspace, plan, verify, deadline)


def _carry_out(workspace: Workspace, plan: Plan, verify: bool, deadline: float | None) -> Outcome:
    """Do what was planned, unless it cannot be mended or does not fit."""
    _check_repair(plan)
    _check_space(plan)
    manifest, used = _bring(workspace, plan, deadline)
    notes = _notes(plan, verify, dry_run=False)
    notes += _changed(plan, manifest) if verify and manifest else []
    notes += [f"{_parts(count)} from {label}" for label, count in used.items()]
    counts = len(plan.missing), len(plan.parts)
    if manifest is None:
        notes.append(f"{share()}: its share of {_parts(len(plan.wanted))} is there; others are not")
        return Outcome("download", plan.dataset.name, "partly", *counts, note="; ".join(notes))
    return Outcome("download", plan.dataset.name, "done", *counts, manifest, note="; ".join(notes))


# -- what is there already -------------------------------------------------------------------------------------------


def _complete(workspace: Workspace, dataset: Dataset, choice: Slice | None) -> Manifest | None:
    """The manifest, if it is of a place and of the slice that are wanted now, and its files are in place."""
    wanted = remembered_slice(workspace, dataset) if choice is None else choice
    manifest = read_finished(workspace.raw(dataset.name))
    if manifest is None or _place_of(workspace, dataset, manifest) is None:
        return None
    chosen, _ = _slice_of(dataset.name, manifest)
    is_adopted = manifest.facts.get("adopted") == workspace.adopted_parts(dataset)
    return manifest if chosen == wanted and is_adopted and "missing" not in manifest.facts else None


def _slice_of(name: str, manifest: Manifest) -> tuple[Slice, int]:
    """The slice that a manifest is of, and the number of parts it was cut from (0 for the empty one).

    Raises:
        WorkspaceError: somebody edited it.
    """
    facts = manifest.facts.get("slice")
    if facts is None:
        return Slice(), 0
    try:
        return Slice.from_json(facts), facts["of"] + 0
    except (TypeError, AttributeError, KeyError, UsageError) as error:
        raise WorkspaceError(
            f"raw/{name}/{MANIFEST_NAME}: not a manifest", "Delete that file and run the same command again."
        ) from error


def _place_of(workspace: Workspace, dataset: Dataset, manifest: Manifest) -> Place | None:
    """The place that the manifest's parts were listed by, if it is one of the dataset's still."""
    places = Places(dataset.name, workspace.sources(dataset), workspace.raw(dataset.name))
    return next((place for place in places.all if place.asked == manifest.facts.get("asked")), None)


def _is_pinned(workspace: Workspace, dataset: Dataset, manifest: Manifest) -> bool:
    place = _place_of(workspace, dataset, manifest)
    return place is not None and place.is_pinned


def _is_what_is_wanted(manifest: Manifest, plan: Plan) -> bool:
    names = [shard.name for shard in manifest.shards]
    of = {key: manifest.facts[key] for key in ("slice", "adopted", "missing") if key in manifest.facts}
    return of == plan.slice_facts and names == _paths(plan)


def _paths(plan: Plan) -> list[str]:
    """Paths of what a finished download has: what all ranks bring, without archives that are to come later."""
    if share().is_whole:
        return [part.part.path for part in plan.parts]
    return [part.path for _, part in plan.wanted]


def _up_to_date(
    workspace: Workspace, dataset: Dataset, manifest: Manifest, verified: int | None, dry_run: bool
) -> Outcome:
    notes = [] if verified is None else [f"{verified} verified, 0 repaired"]
    if "slice" in manifest.facts:
        notes.append(slice_note(dataset.name, manifest))
    elif not dry_run and share().is_whole:
        write_journal(workspace.raw(dataset.name), ())  # a kill may have come before this
    note, total = "; ".join(notes), len(manifest.shards)
    return Outcome("download", dataset.name, "up to date", 0, total, manifest, note)


# -- what is said ----------------------------------------------------------------------------------------------------


def slice_note(name: str, manifest: Manifest) -> str:
    """How a finished slice is told; empty for a whole dataset."""
    if "slice" not in manifest.facts:
        return ""
    return _slice_note(name, len(manifest.shards), _slice_of(name, manifest)[1])


def _slice_note(name: str, chosen: int, listed: int) -> str:
    if chosen == listed:
        return f"a slice: all {_parts(listed)}"
    return f"a slice: {chosen:,} of {listed:,} parts; `prep download {name} --all` brings the rest"


def _notes(plan: Plan, verify: bool, dry_run: bool) -> list[str]:
    notes = []
    if verify:
        lost = sum(part.shard is not None for part in plan.missing)
        notes.append(f"{len(plan.finished)} verified, {lost} {'to repair' if dry_run else 'repaired'}")
    if plan.unknown_sizes and dry_run:
        notes.append(f"{_parts(plan.unknown_sizes)} of unknown size")
    listed, expected = len(plan.listing.parts), plan.dataset.expected.parts
    if plan.choice:
        notes.append(_slice_note(plan.dataset.name, len(plan.parts), listed))
        if plan.others:
            notes.append(f"{_parts(len(plan.others))} outside it stay in {plan.folder}")
    elif plan.left_out:
        notes.append(f"{_parts(plan.left_out)} to come later")
    elif plan.adopted:
        notes.append(f"parts {plan.adopted} are not needed: {ADOPTED}")
    elif expected is not None and expected != listed:
        notes.append(f"the publisher has {listed} parts, {expected} were expected")
    if plan.place != plan.places.all[0]:
        notes.append(f"listed by {plan.place.label}")
    return notes


def _changed(plan: Plan, manifest: Manifest) -> list[str]:
    """A part whose publisher gives no hash may come back as other bytes, which still count as a repair."""
    now = {shard.name: shard.sha256 for shard in manifest.shards}
    count = sum(part.shard is not None and part.shard.sha256 != now[part.part.path] for part in plan.missing)
    if not count:
        return []
    are = "is" if count == 1 else "are"
    return [f"{_parts(count)} {are} not the bytes that came before: their publisher changed them"]


def _parts(count: int) -> str:
    return f"{count:,} part" if count == 1 else f"{count:,} parts"


# -- before anything is brought --------------------------------------------------------------------------------------


def _check_time(name: str, deadline: float | None, there: str = "") -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise SourceError(
            f"{name}: the time given with --deadline is over{there}", "Run the same command to go on from here."
        )


def _check_repair(plan: Plan) -> None:
    """Damage can be mended where bytes come from elsewhere; a link or a file put here by hand has only itself."""
    hopeless = [part.part.path for part in plan.missing if part.state == "damaged" and not part.is_copied]
    if hopeless:
        raise SourceError(
            f"{plan.dataset.name}: {', '.join(hopeless[:5])}{' and others' if len(hopeless) > 5 else ''} changed since "
            f"the download, and a {plan.place.source.kind} source has no other copy to bring",
            f"Put the right bytes back; or `prep download {plan.dataset.name} --force` takes them as they are now.",
        )


def _check_space(plan: Plan) -> None:
    if plan.disk_needed > plan.disk_free:
        raise WorkspaceError(
            f"{plan.dataset.name}: {size(plan.disk_needed)} are to come, {size(plan.disk_free)} are free in "
            f"{plan.disk_folder}",
            "Free some space, let raw/ be a link to a larger disk, or bring a slice (--parts, --only, --limit).",
        )


# -- bringing --------------------------------------------------------------------------------------------------------


def _facts(plan: Plan) -> dict[str, Any]:
    return {"asked": plan.place.asked, **plan.listing.resolved, **plan.slice_facts}


def _pin(plan: Plan) -> dict[str, Any]:
    """What prep.lock says of a dataset that is being brought."""
    return {**_facts(plan), "from": plan.place.label}


def _bring(workspace: Workspace, plan: Plan, deadline: float | None) -> tuple[Manifest | None, Counter[str]]:
    """Pin, bring, declare finished; the manifest, and how many parts came from places that did not list them.

    There is no manifest while other ranks have not brought their parts.
    """
    name, folder = plan.dataset.name, plan.folder
    workspace.lock(name, _pin(plan))  # before any byte: a killed download goes on at the same revision
    finished = plan.finished
    folder.mkdir(parents=True, exist_ok=True)
    with workspace.turn():
        if share().is_whole:
            write_journal(folder, [*plan.others, *plan.kept])
        else:
            shelve_parts(folder, share())
            write_journal(folder, plan.kept, share())
        if plan.missing or share().is_whole:
            remove_manifest(folder)
    try:
        used = _fetch_all(workspace, plan, finished, deadline)
    except SourceError:
        _check_time(name, deadline, f"; {len(finished):,} of {len(plan.parts):,} parts are there")
        raise
    with workspace.turn():
        whole = finished if share().is_whole else whole_shards(plan, finished)
        return (None if whole is None else _finish(workspace, plan, whole)), used


def _finish(workspace: Workspace, plan: Plan, finished: Mapping[str, Shard]) -> Manifest:
    """Declare a download finished, and clean up after it."""
    position = {part.path: position for position, part in plan.wanted}
    shards = tuple(replace(finished[path], position=position[path]) for path in _paths(plan))
    manifest = Manifest("download", shards, _facts(plan))
    sizes = {"parts": len(manifest.shards), "size_bytes": manifest.size_bytes}
    workspace.lock(plan.dataset.name, {**_pin(plan), **sizes})
    write_manifest(plan.folder, manifest)
    _remove_strays(plan)
    write_journal(plan.folder, plan.others)  # a wider slice will take them up
    return manifest


def _fetch_all(workspace: Workspace, plan: Plan, finished: dict[str, Shard], deadline: float | None) -> Counter[str]:
    """Fetch the missing parts, noting each in the journal as soon as it is whole."""
    total = None if plan.unknown_sizes else plan.bytes_to_bring or None
    used: Counter[str] = Counter()
    private = workspace.config.allow_private_hosts
    is_far = cluster() is not None and plan.place.source.kind not in ("local", "manual")
    with (
        bar(f"download {plan.dataset.name}", total, "B", len(plan.missing)) as advance,
        Session(advance, allow_private_hosts=private, deadline=deadline) as session,
        Journal(plan.folder, share()) as journal,
    ):

        def fetch(planned: PlannedPart) -> tuple[Shard, Place]:
            return _fetch(plan.dataset.name, plan.places, plan.place, planned.part, plan.folder, session)

        if is_far:
            brought = run_tasks(fetch_part, _part_tasks(workspace, plan, deadline), workers=TRANSFERS)
        else:
            brought = run_tasks(fetch, plan.missing, workers=TRANSFERS, threads=True)
        for shard, place in brought:
            finished[shard.name] = shard
            advance(shard.size_bytes if is_far else 0)
            journal.add(shard)
            advance(0, items=1)
            event("part", name=plan.dataset.name, path=shard.name, size_bytes=shard.size_bytes)
            if place != plan.place:
                used[place.label] += 1
    return used


def _fetch(name: str, places: Places, place: Place, part: Part, folder: Path, session: Session) -> tuple[Shard, Place]:
    """Bring one part; it, and the place it came from."""
    target = folder / part.path
    try:
        sha256, place = places.fetch(place, part, target, session)
        return Shard(part.path, part.identity, None, target.stat().st_size, sha256), place
    except OSError as error:  # of this part alone, as far as anybody knows: the others go on
        raise WorkspaceError.of(error, f"{name}: {part.path}") from error


@dataclass(frozen=True)
class PartTask:
    """One part to be brought by another machine.

    Attributes:
        until: seconds since the epoch after which nothing goes on; None for no such time.
    """

    dataset: str
    sources: tuple[Source, ...]
    place: Place
    part: Part
    folder: Path
    allow_private_hosts: bool
    until: float | None

    def __str__(self) -> str:
        return f"{self.dataset}: {self.part.path}"


def _part_tasks(workspace: Workspace, plan: Plan, deadline: float | None) -> list[PartTask]:
    until = None if deadline is None else time.time() + deadline - time.monotonic()
    sources, private = workspace.sources(plan.dataset), workspace.config.allow_private_hosts
    return [
        PartTask(plan.dataset.name, sources, plan.place, planned.part, plan.folder, private, until)
        for planned in plan.missing
    ]


def fetch_part(task: PartTask) -> tuple[Shard, Place]:
    """Bring one part, with connections of its own."""
    deadline = None if task.until is None else time.monotonic() + task.until - time.time()
    with Session(allow_private_hosts=task.allow_private_hosts, deadline=deadline) as session:
        places = Places(task.dataset, task.sources, task.folder)
        return _fetch(task.dataset, places, task.place, task.part, task.folder, session)


def _remove_strays(plan: Plan) -> None:
    """Remove what is left of unfinished parts that no download will go on with; not from a person's own folder."""
    if not any(plan.place.is_copied(part) for _, part in plan.wanted):
        return
    wanted = {part.path for part in plan.listing.parts} - set(_paths(plan))
    found = [(path, UNFINISHED.fullmatch(path.name)) for path in plan.folder.rglob(".*.part*")]
    for target in {path.with_name(name[1]) for path, name in found if name}:
        if target.relative_to(plan.folder).as_posix() not in wanted:
            _remove_unfinished(target)


def _remove_unfinished(target: Path) -> None:
    """Remove what there is of an unfinished part, unless another process has it: `raw/` may be shared by a link."""
    part, journal = part_path(target), journal_path(target)
    with part.open("rb") if part.is_file() else nullcontext() as file:
        if file is None or try_lock(file.fileno()):
            for path in (part, journal, journal.with_name(f"{journal.name}.tmp")):
                if path.is_file():
                    path.unlink()
