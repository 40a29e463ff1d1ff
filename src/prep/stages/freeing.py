"""`--delete-parts`: an archive's bytes go as soon as its images are stored and its records are normalized."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from prep.config import Dataset, LocalSource, ManualSource
from prep.errors import SourceError
from prep.manifest import Manifest, read_finished, write_manifest
from prep.progress import size
from prep.stages.image_tasks import PartsTask
from prep.stages.shards import Outcome, ShardTask, fingerprint_in
from prep.workspace import Workspace


def check_not_needed(dataset: Dataset, freed: Iterable[tuple[str, ShardTask]], force: bool) -> None:
    """Make sure that nothing has to come out of parts again whose bytes were deleted.

    Args:
        freed: such a part's name and what is made of it.

    Raises:
        SourceError: it has to.
    """
    names = [name for name, task in freed if force or fingerprint_in(task.output) != task.fingerprint]
    if names:
        parts = list(dict.fromkeys(names))
        more = f" and {len(parts) - 3:,} more" if len(parts) > 3 else ""
        raise SourceError(
            f"{dataset.name}: {', '.join(parts[:3])}{more} would have to be read again; --delete-parts deleted them",
            f"`prep download {dataset.name} --force` brings the parts back.",
        )


class Freeing:
    """Deletes parts while their dataset's images are being stored.

    The manifest of `raw/` says of a part that it is freed before its file goes, so a kill between the two leaves a
    file that the next run deletes.
    """

    def __init__(self, workspace: Workspace, dataset: Dataset, raw: Manifest, tasks: Sequence[PartsTask]) -> None:
        self._folder = workspace.raw(dataset.name)
        self._raw = raw
        self._left = Counter(path for task in tasks for path in task.parts)
        self._shares = Counter(self._left)
        self._readers = {path: names for path in self._left if (names := _unread_tables(workspace, dataset, path))}
        self._is_ours = _is_ours(workspace, dataset)
        self._freed_bytes = 0
        self._kept: Counter[str] = Counter()

    def made(self, task: PartsTask) -> None:
        """Take note of one finished shard; the last of an archive frees it."""
        self._left.subtract(task.parts)
        if not any(self._left[path] for path in task.parts):
            self._free(task.parts)

    def _free(self, paths: Sequence[Path]) -> None:
        if not self._is_ours:
            self._kept["a file of yours, which prep did not bring"] += len(paths)
            return
        if len(paths) > 1 and {"slice", "missing"} & self._raw.facts.keys():
            self._kept["of an archive that may have more parts than this slice"] += len(paths)
            return
        unread = sorted({name for path in paths for name in self._readers.get(path, ())})
        if unread:
            why = f"records not normalized yet (`prep normalize {' '.join(unread)}`, then the same command)"
            self._kept[why] += len(paths)
            return
        names = {path.relative_to(self._folder).as_posix() for path in paths}
        shares = {path.relative_to(self._folder).as_posix(): self._shares[path] for path in paths}
        shards = tuple(
            replace(shard, freed_shares=shares[shard.name]) if shard.name in names else shard
            for shard in self._raw.shards
        )
        if shards != self._raw.shards:
            self._raw = replace(self._raw, shards=shards)
            write_manifest(self._folder, self._raw)
        for path in paths:
            if path.is_file():
                self._freed_bytes += path.stat().st_size
                path.unlink()

    def end(self, outcome: Outcome) -> Outcome:
        """The outcome, with what was freed and what was kept, and why."""
        notes = [outcome.note] if outcome.note else []
        if self._freed_bytes:
            notes.append(f"{size(self._freed_bytes)} of parts deleted")
        notes += [f"{count:,} part{'s' if count > 1 else ''} kept: {why}" for why, count in self._kept.items()]
        return replace(outcome, note="; ".join(notes))


def _is_ours(workspace: Workspace, dataset: Dataset) -> bool:
    """Whether `prep` brought the parts and could bring them again."""
    source = workspace.source(dataset)
    if isinstance(source, LocalSource):
        return source.copied
    return not isinstance(source, ManualSource) or source.links is not None


def _unread_tables(workspace: Workspace, dataset: Dataset, path: Path) -> list[str]:
    """Tables of the workspace that read records out of the part and have not done so."""
    name = path.relative_to(workspace.raw(dataset.name)).as_posix()
    unread = []
    for table in workspace.normalized_names:
        owner, definition = workspace.table(table)
        if owner.name == dataset.name and fnmatch.fnmatchcase(name, definition.records.parts):
            normalized = read_finished(workspace.normalized(table))
            if normalized is None or name not in normalized.facts["parts"]:
                unread.append(table)
    return unread
