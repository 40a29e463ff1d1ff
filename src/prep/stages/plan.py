"""What a download has to do, decided before it does anything: which parts, which are there, and how much is to come."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prep.config import ArchiveImages, Dataset, ParquetImages, Source
from prep.engine import run_tasks, share
from prep.errors import PrepError, UsageError, WorkspaceError
from prep.files import size_of
from prep.manifest import Shard, read_journal, read_manifest
from prep.progress import Bar, bar
from prep.sources import Listing, Part
from prep.sources.mirrors import Place, Places
from prep.sources.slices import Slice
from prep.sources.transfer import Answer, Session, partial_bytes
from prep.web import USER_AGENT
from prep.workspace import Workspace

TRANSFERS = 8  # parts under way at once, and files hashed at once
HASH_CHUNK_BYTES = 8 << 20
SIZES_PATIENCE_SECONDS = 10.0  # with servers that ask to wait before they say a size; then it stays unknown

PartState = Literal["there", "partial", "to bring", "damaged"]


@dataclass(frozen=True)
class PlannedPart:
    """One part and what has to be done for it.

    Attributes:
        position: in the sorted list of the dataset's parts, from 0.
        state: `there` (whole, and what the publisher has), `partial` (some of its bytes are kept), `to bring`, or
            `damaged` (its bytes are not those that came).
        size_bytes: as listed, or as its server says; None when neither does.
        kept_bytes: of an unfinished part, what need not come again.
        is_copied: whether its bytes take room in `raw/`; a link does not.
        shard: as the manifest knows it; None for one that never was whole.
    """

    part: Part
    position: int
    state: PartState
    size_bytes: int | None
    kept_bytes: int = 0
    is_copied: bool = True
    shard: Shard | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "position": self.position,
            "path": self.part.path,
            "state": self.state,
            "size_bytes": self.size_bytes,
            "kept_bytes": self.kept_bytes,
        }


@dataclass(frozen=True)
class Plan:
    """What a download of one dataset has to do.

    Attributes:
        folder: the dataset's folder in `raw/`.
        place, places: where its listing is from, and every place that may have its parts.
        listing: all parts that the place has.
        choice: the slice of them that is wanted.
        adopted: glob of parts that are not, because their images are in a folder already.
        left_out: parts that are wanted and are to come another time.
        wanted: the slice's parts, each with its position.
        parts: those that this process is to bring: all, or a rank's share.
        others: parts outside the slice that are there, as an earlier download knew them.
        disk_folder, disk_free: where the parts will lie, and the bytes that are free there.
    """

    dataset: Dataset
    folder: Path
    place: Place
    places: Places
    listing: Listing
    choice: Slice
    adopted: str | None
    left_out: int
    wanted: tuple[tuple[int, Part], ...]
    parts: tuple[PlannedPart, ...]
    others: tuple[Shard, ...]
    disk_folder: Path
    disk_free: int

    @property
    def missing(self) -> list[PlannedPart]:
        """Parts to bring."""
        return [part for part in self.parts if part.state != "there"]

    @property
    def finished(self) -> dict[str, Shard]:
        """Parts that are there, by path."""
        return {part.part.path: part.shard for part in self.parts if part.state == "there" and part.shard}

    @property
    def kept(self) -> list[Shard]:
        """Parts that lie there whole: those that are to stay, and those that `--force` has yet to replace."""
        shards = [part.shard for part in self.parts if part.shard and part.state != "damaged"]
        return [shard for shard in shards if shard.is_in(self.folder)]

    @property
    def bytes_there(self) -> int:
        """Bytes of the parts that are there, and what is kept of unfinished ones."""
        return sum(shard.size_bytes for shard in self.finished.values()) + sum(p.kept_bytes for p in self.missing)

    @property
    def bytes_to_bring(self) -> int:
        """Bytes to come, as far as sizes are known."""
        return sum(_to_come(part) for part in self.missing)

    @property
    def disk_needed(self) -> int:
        """Bytes of them that need room in `raw/`."""
        return sum(_to_come(part) for part in self.missing if part.is_copied)

    @property
    def unknown_sizes(self) -> int:
        """Parts to bring whose size nobody says."""
        return sum(part.size_bytes is None for part in self.missing)

    @property
    def hub_requests(self) -> int:
        """Files to ask of the hub, which counts them."""
        return len(self.missing) if self.place.source.kind == "huggingface" else 0

    @property
    def slice_facts(self) -> dict[str, Any]:
        """For prep.lock and the manifest, what of the whole is wanted here and what is still missing; empty for all."""
        facts: dict[str, Any] = {} if self.adopted is None else {"adopted": self.adopted}
        facts |= {"missing": self.left_out} if self.left_out else {}
        return facts | ({"slice": {**self.choice.as_json(), "of": len(self.listing.parts)}} if self.choice else {})

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "from": self.place.label,
            **self.slice_facts,
            "bytes_to_bring": self.bytes_to_bring,
            "bytes_there": self.bytes_there,
            "unknown_sizes": self.unknown_sizes,
            "disk_needed_bytes": self.disk_needed,
            "disk_free_bytes": self.disk_free,
            "hub_requests": self.hub_requests,
            "parts": [part.as_json() for part in self.parts],
        }


def _to_come(part: PlannedPart) -> int:
    return max(0, (part.size_bytes or 0) - part.kept_bytes)


def plan_download(
    workspace: Workspace,
    dataset: Dataset,
    *,
    choice: Slice | None = None,
    force: bool = False,
    verify: bool = False,
    verified: Collection[str] = (),
    ask_sizes: bool = True,
    deadline: float | None = None,
    at_most: int | None = None,
) -> Plan:
    """Decide what a download of `dataset` has to do; nothing is written.

    Args:
        choice: the slice wanted; by default the one remembered.
        force: resolve the revision anew and count nothing as there.
        verify: hash the parts that are there, but for those in `verified`.
        ask_sizes: ask servers for sizes that the listing does not give.
        deadline: moment of `time.monotonic()` after which nobody is asked any more.
        at_most: of the archives that are to come, only so many.

    Raises:
        SourceError: no place can say what there is.
        UsageError: a slice without a part.
    """
    folder = workspace.raw(dataset.name)
    places = Places(dataset.name, workspace.sources(dataset), folder)
    place, listing = places.resolve({} if force else workspace.locked(dataset.name))
    choice = remembered_slice(workspace, dataset) if choice is None else choice
    known = known_shards(folder)
    adopted = workspace.adopted_parts(dataset)
    chosen = _chosen(dataset, choice, listing, adopted)
    chosen = chosen if force else _with_freed(chosen, listing, known)
    own = share().of(chosen)
    there = {} if force else _finished([part for _, part in own], folder, known, dataset.name)
    unverified = [shard for path, shard in there.items() if path not in verified] if verify else []
    damaged = find_damaged(dataset.name, folder, unverified)
    parts = [_planned(place, folder, part, position, there, damaged, known) for position, part in own]
    parts = _with_first_archives(dataset, parts, at_most)
    if ask_sizes:
        until = min(time.monotonic() + SIZES_PATIENCE_SECONDS, deadline or float("inf"))
        with Session(allow_private_hosts=workspace.config.allow_private_hosts, deadline=until) as session:
            parts = _with_sizes(session, place.source, parts)
    disk_folder = _nearest_folder(folder)
    return Plan(
        dataset,
        folder,
        place,
        places,
        listing,
        choice,
        adopted,
        len(own) - len(parts),
        tuple(chosen),
        tuple(parts),
        _others(listing, {part.path for _, part in chosen}, folder, known),
        disk_folder,
        shutil.disk_usage(disk_folder).free,
    )


def _chosen(dataset: Dataset, choice: Slice, listing: Listing, adopted: str | None) -> list[tuple[int, Part]]:
    """The parts of the slice, without those that a folder of images stands for; each with its position."""
    parts = choice.choose(listing.parts)
    chosen = [(position, part) for position, part in parts if not _is_adopted(dataset, part, adopted)]
    if not chosen:
        raise _nothing_chosen(dataset, choice, listing)
    return chosen


def _is_adopted(dataset: Dataset, part: Part, adopted: str | None) -> bool:
    """Whether nothing is wanted of a part but images, and a folder has those."""
    has_records = any(fnmatch.fnmatchcase(part.path, table.records.parts) for table in dataset.tables.values())
    return adopted is not None and fnmatch.fnmatchcase(part.path, adopted) and not has_records


def _with_freed(
    chosen: Sequence[tuple[int, Part]], listing: Listing, known: Mapping[str, Shard]
) -> list[tuple[int, Part]]:
    """A slice, and the parts whose images are unpacked and whose bytes were deleted: they cost nothing to keep."""
    freed = {name for name, shard in known.items() if shard.freed_shares is not None}
    more = [(place, part) for place, part in enumerate(listing.parts) if part.path in freed]
    return sorted(dict((*chosen, *more)).items())


def _with_first_archives(dataset: Dataset, parts: Sequence[PlannedPart], at_most: int | None) -> list[PlannedPart]:
    """The parts without the archives to come that go beyond the first `at_most`; an archive may be many parts."""
    kind = dataset.images
    if at_most is None or not isinstance(kind, ArchiveImages | ParquetImages):
        return list(parts)
    from prep.images.archives import group_parts

    to_come = [p.part.path for p in parts if p.state != "there" and fnmatch.fnmatchcase(p.part.path, kind.parts)]
    later = {name for group in group_parts(to_come)[at_most:] for name in group}
    return [part for part in parts if part.part.path not in later]


def remembered_slice(workspace: Workspace, dataset: Dataset) -> Slice:
    """The slice that prep.lock keeps for a dataset; the empty one for all of it.

    Raises:
        WorkspaceError: what it keeps is none.
    """
    try:
        return Slice.from_json(workspace.locked(dataset.name).get("slice", {}))
    except (TypeError, AttributeError, UsageError) as error:
        raise WorkspaceError(
            f"{workspace.root}/prep.lock: the slice of {dataset.name} is none",
            f"`prep download {dataset.name} --all` forgets it.",
        ) from error


def _nothing_chosen(dataset: Dataset, choice: Slice, listing: Listing) -> UsageError:
    last = len(listing.parts) - 1
    return UsageError(
        f"{dataset.name}: {choice} takes none of its {len(listing.parts)} parts",
        f"Positions go from 0 ({listing.parts[0].path}) to {last} ({listing.parts[-1].path}); "
        f"`prep download {dataset.name} --all --dry-run` lists the parts.",
    )


def _planned(
    place: Place,
    folder: Path,
    part: Part,
    position: int,
    there: Mapping[str, Shard],
    damaged: Collection[str],
    known: Mapping[str, Shard],
) -> PlannedPart:
    planned = PlannedPart(part, position, "to bring", part.size_bytes, is_copied=place.is_copied(part))
    if part.path in there:
        shard = there[part.path]
        state: PartState = "damaged" if part.path in damaged else "there"
        return replace(planned, state=state, size_bytes=shard.size_bytes, shard=shard)
    before = known.get(part.path)
    planned = replace(planned, shard=before if before and before.task == part.identity else None)
    kept = _kept_bytes(folder / part.path)
    return replace(planned, state="partial", kept_bytes=kept) if kept else planned


def _kept_bytes(target: Path) -> int:
    try:
        return partial_bytes(target)
    except OSError:  # rights, a name too long: bringing it will say so
        return 0


def _others(listing: Listing, chosen: Collection[str], folder: Path, known: Mapping[str, Shard]) -> tuple[Shard, ...]:
    """Parts outside the slice that are there: a wider slice will not bring them again."""
    outside = [(part, known[part.path]) for part in listing.parts if part.path in known and part.path not in chosen]
    return tuple(shard for part, shard in outside if _is_there(part, shard, folder))


def _nearest_folder(path: Path) -> Path:
    """The folder that is there and will hold `path`; links are followed, `raw/` may lead to another disk."""
    path = path.resolve()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


# -- what is there ---------------------------------------------------------------------------------------------------


def known_shards(folder: Path) -> dict[str, Shard]:
    """Parts that the manifest or a journal knows, by path; whether they are there is another question."""
    manifest = read_manifest(folder)
    known = {shard.name: shard for shard in manifest.shards} if manifest else {}
    return known | read_journal(folder)


def _finished(parts: Sequence[Part], folder: Path, known: Mapping[str, Shard], name: str) -> dict[str, Shard]:
    """Parts that are in place and are what the publisher has now, by path.

    One that no journal knows (a kill came between) counts if it has the publisher's size and hash.
    """
    finished = {
        part.path: shard for part in parts if (shard := known.get(part.path)) and _is_there(part, shard, folder)
    }
    candidates = [
        Shard(part.path, part.identity, None, part.size_bytes, part.sha256)
        for part in parts
        if part.path not in finished and part.size_bytes is not None and part.sha256 is not None
        if size_of(folder / part.path) == part.size_bytes
    ]
    others = find_damaged(name, folder, candidates)
    return finished | {shard.name: shard for shard in candidates if shard.name not in others}


def whole_shards(plan: Plan, own: Mapping[str, Shard]) -> dict[str, Shard] | None:
    """All parts that are wanted, by path, once every rank has brought its own; None before.

    Args:
        own: what this rank has brought, or found.
    """
    known = {**known_shards(plan.folder), **own}
    there = {
        part.path: known[part.path]
        for _, part in plan.wanted
        if part.path in known and _is_there(part, known[part.path], plan.folder)
    }
    return there if len(there) == len(plan.wanted) else None


def _is_there(part: Part, shard: Shard, folder: Path) -> bool:
    return shard.task == part.identity and shard.is_in(folder)


def find_damaged(name: str, folder: Path, shards: Sequence[Shard]) -> set[str]:
    """Names of the files in `folder` whose bytes are not those of their shard (any more)."""
    shards = [shard for shard in shards if shard.freed_shares is None]
    if not shards:
        return set()
    total = sum(shard.size_bytes for shard in shards)
    with bar(f"verify {name}", total, "B", len(shards)) as advance:
        check = partial(_is_damaged, folder, advance)
        results = run_tasks(check, shards, workers=TRANSFERS, threads=True)
        return {shard.name for shard, damaged in results if damaged}


def _is_damaged(folder: Path, advance: Bar, shard: Shard) -> tuple[Shard, bool]:
    digest = hashlib.sha256()
    try:
        with (folder / shard.name).open("rb") as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
                advance(len(chunk))
    except OSError:  # gone, or on a disk that cannot read it any more
        return shard, True
    advance(0, items=1)
    return shard, digest.hexdigest() != shard.sha256


# -- what servers say ------------------------------------------------------------------------------------------------


def ask(session: Session, source: Source, part: Part, *, limit: int = 0, seconds: float | None = None) -> Answer | None:
    """What the server of a part says, with at most `limit` bytes of it; None for one that fails or shows a page.

    Args:
        seconds: stop reading after this time.
    """
    headers: dict[str, str] = {}
    if source.kind == "huggingface":
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = build_hf_headers(user_agent=USER_AGENT)
    is_named = source.kind != "manual"  # what a person got names addresses that no configuration does
    try:
        answer = session.ask(part.url, headers, limit=limit, seconds=seconds, is_named=is_named)
    except PrepError:
        return None
    is_page = answer.headers.get("content-type", "").startswith("text/html") and not part.path.endswith(".html")
    return answer if answer.status in (200, 206) and not is_page else None


def _with_sizes(session: Session, source: Source, parts: Sequence[PlannedPart]) -> list[PlannedPart]:
    """The same parts, with the sizes that their servers say where the listing says none."""

    def ask_size(part: PlannedPart) -> tuple[int, int | None]:
        answer = ask(session, source, part.part)
        return part.position, answer.size_bytes if answer else None

    unknown = [part for part in parts if part.size_bytes is None and is_on_the_web(part.part)]
    sizes = dict(run_tasks(ask_size, unknown, workers=TRANSFERS, threads=True)) if unknown else {}
    return [replace(part, size_bytes=sizes.get(part.position, part.size_bytes)) for part in parts]


def is_on_the_web(part: Part) -> bool:
    """Whether the part has an http(s) address of its own."""
    return part.url.startswith(("http://", "https://"))
