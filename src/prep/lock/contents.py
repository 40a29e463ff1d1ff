"""What prep.lock says of a workspace: revisions, hashes, rules, passports, rows.

Nothing in it depends on the machine, the folder or the hour: the same inputs give the same bytes, and two machines
can be held to one file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prep.config import Dataset, Entry, LocalSource, Rules, Source
from prep.engine import run_tasks
from prep.errors import DataError, WorkspaceError
from prep.files import hash_file, size_of, write_text
from prep.lock_file import LOCK_VERSION
from prep.manifest import Manifest, fingerprint, read_finished
from prep.progress import bar
from prep.schema import REASON, ROW
from prep.sources.mirrors import Places
from prep.stages import filter as filter_stage
from prep.stages import normalize as normalize_stage
from prep.stages.filter import TEXT_ONLY
from prep.workspace import LOCK_NAME, Workspace

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 18  # in memory at once


@dataclass(frozen=True)
class Written:
    """What became of prep.lock.

    Attributes:
        data: all that it says now.
        is_new: it said something else before.
        left: tables whose files are not finished or not up to date -> why; of these it says what it said before.
    """

    path: Path
    data: Mapping[str, Any]
    is_new: bool
    left: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        state = "done" if self.is_new else "up to date"
        return {"path": str(self.path), "state": state, "left": dict(self.left), "lock": dict(self.data)}


def write_lock(workspace: Workspace, stale: Mapping[str, str]) -> Written:
    """Let prep.lock say what is in the workspace.

    Of a table that is not ready it says what it said before; tables that the recipe has no more are taken out.

    Args:
        stale: tables whose files are not what the configuration says now -> why.
    """
    before = workspace.lock_data()
    found = describe(workspace, stale)
    data: dict[str, Any] = found.data | {"datasets": before["datasets"] | found.data["datasets"]}
    for name, facts in before.get("contents", {}).items():
        if "sha256" in facts and name in found.data["contents"]:  # of parts that are removed to save room
            found.data["contents"][name].setdefault("sha256", facts["sha256"])
    datasets = [dataset.name for dataset in workspace.datasets]
    for section, names in (("contents", datasets), ("tables", workspace.table_names)):
        known = before.get(section, {}) | found.data[section]
        data[section] = {name: known[name] for name in names if name in known}
    remember_rows(workspace, found.data)
    return Written(workspace.root / LOCK_NAME, data, workspace.write_lock(data), found.left)


@dataclass(frozen=True)
class Described:
    """A workspace in the words of prep.lock.

    Attributes:
        left: tables that are not ready -> why; `data` does not have them.
    """

    data: dict[str, Any]
    left: dict[str, str]


def describe(workspace: Workspace, stale: Mapping[str, str], *, anew: bool = False) -> Described:
    """What is in the workspace, in the words of prep.lock.

    Args:
        stale: tables whose files are not what the configuration says now -> why.
        anew: read the rows of all tables, whatever is noted of them.
    """
    tables, left = {}, {}
    for name in workspace.table_names:
        manifest = read_finished(workspace.filtered(name))
        if manifest is None:
            left[name] = "not filtered yet"
        elif name in stale:
            left[name] = stale[name]
        elif read_finished(workspace.normalized(name)) and not workspace.read_filtered(name):
            left[name] = "normalized anew since it was filtered"
        else:
            tables[name] = _table(workspace, name, manifest, anew)
    raw = {dataset.name: finished_raw(workspace, dataset) for dataset in workspace.datasets}
    data = {
        "version": LOCK_VERSION,
        "made_with": {"normalize": normalize_stage.VERSION, "filter": filter_stage.VERSION},
        "recipe": describe_recipe(workspace),
        "datasets": {
            dataset.name: _resolved(workspace, dataset, manifest)
            for dataset in workspace.datasets
            if (manifest := raw[dataset.name])
        },
        "contents": {
            dataset.name: facts
            for dataset in workspace.datasets
            if (facts := _contents(workspace, dataset, raw[dataset.name]))
        },
        "tables": tables,
    }
    return Described(data, left)


def describe_recipe(workspace: Workspace) -> dict[str, Any]:
    """What of the recipe decides on training, but for filter rules, which stand with each table."""
    recipe = workspace.recipe
    said = recipe.model_dump(mode="json", include={"name", "trainer", "weights", "batch_sizes"}, exclude_defaults=True)
    entries, seen = {}, Counter[str]()
    for entry in workspace.entries:
        seen[entry.label] += 1
        number = f" #{seen[entry.label]}" if seen[entry.label] > 1 else ""
        entries[entry.label + number] = _entry(entry)
    return said | {"entries": entries, "order": [*entries]}


def _entry(entry: Entry) -> dict[str, Any]:
    others = {"name", "note", "not_public", *Rules.model_fields}
    return entry.model_dump(mode="json", exclude=others, exclude_defaults=True)


def describe_definition(workspace: Workspace, name: str) -> str:
    """Fingerprint of what the datasets' YAML says of a table's samples; a key at its default is no part of it."""
    dataset, table = workspace.table(name)
    images = [
        shown.images.model_dump(mode="json", exclude={"encode"}, exclude_defaults=True) if shown.images else None
        for shown in (workspace.catalogue.dataset(own) for own in table.image_datasets(dataset.name).values())
    ]
    return fingerprint([table.model_dump(mode="json", exclude={"filter"}, exclude_defaults=True), images])


def _resolved(workspace: Workspace, dataset: Dataset, raw: Manifest) -> dict[str, Any]:
    """What a finished download was resolved to, as `prep download` writes it."""
    places = Places(dataset.name, workspace.sources(dataset), workspace.raw(dataset.name)).all
    place = next((place for place in places if place.asked == raw.facts["asked"]), None)
    found = {**raw.facts, "parts": len(raw.shards), "size_bytes": raw.size_bytes}
    return found | ({"from": place.label, "source": describe_source(place.source)} if place else {})


def describe_source(source: Source) -> dict[str, Any]:
    """What is asked of a source, without what holds on one machine alone; of files that are listed a hash."""
    others = {"instructions", "files", "files_from", *(("path", "copied") if isinstance(source, LocalSource) else ())}
    facts = source.model_dump(mode="json", exclude=others, exclude_defaults=True)
    if files := getattr(source, "files", ()):
        facts["files"] = fingerprint([file.model_dump(mode="json") for file in files])
    path = getattr(source, "files_from", None)
    return facts | ({"files_from": hash_file(Path(path)) if size_of(Path(path)) is not None else None} if path else {})


def finished_raw(workspace: Workspace, dataset: Dataset) -> Manifest | None:
    """The manifest of a dataset's parts, if all that are wanted are there."""
    raw = read_finished(workspace.raw(dataset.name))
    return raw if raw is not None and "missing" not in raw.facts else None


def _contents(workspace: Workspace, dataset: Dataset, raw: Manifest | None) -> dict[str, Any]:
    """What is in `raw/` and in the image index of a dataset."""
    facts: dict[str, Any] = {} if raw is None else {"sha256": hash_parts(raw)}
    index = read_finished(workspace.index(dataset.name)) if workspace.needs_images(dataset) else None
    if index is not None:
        facts["images"] = index.counts
        encode = workspace.encode(dataset).model_dump(mode="json", exclude_none=True)
        facts |= {"encode": encode} if encode else {}
    return facts


def hash_parts(raw: Manifest) -> str:
    """SHA-256 over the paths and hashes of a dataset's parts."""
    digest = hashlib.sha256()
    for shard in raw.shards:
        digest.update(f"{shard.name}\0{shard.sha256}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _table(workspace: Workspace, name: str, filtered: Manifest, anew: bool) -> dict[str, Any]:
    """What is said of one filtered table."""
    facts, dropped = filtered.facts, dict(filtered.counts)
    text_only = dropped.pop(TEXT_ONLY, 0)
    said = {
        "dataset": facts["dataset"],
        "kind": facts["kind"],
        "definition": describe_definition(workspace, name),
        "columns": facts["columns"],
        "rules": facts["rules"],
        "samples": facts["rows_in"],
        "kept": filtered.rows + text_only,
        "dropped": dropped,
        "rows": hash_rows(workspace, name, filtered, anew=anew),
    }
    said |= {"text_only": text_only} if text_only else {}
    said |= {} if facts["has_images"] else {"has_images": False}
    said |= {"dedup": facts["dedup"]} if "dedup" in facts else {}
    scores = {column: _scores(workspace, name, used) for column, used in facts.get("scores", {}).items()}
    return said | ({"scores": scores} if scores else {})


def _scores(workspace: Workspace, name: str, used: Mapping[str, Any]) -> dict[str, Any]:
    """Whose scores a column has, with the passports of those that were computed."""
    scorer = used.get("scorer")
    manifest = read_finished(workspace.scores(scorer, name)) if scorer else None
    return {**used, **({"passports": manifest.facts["passports"]} if manifest else {})}


# -- which rows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """What filter wrote of the samples of one part.

    Attributes:
        part: its path; with a row's number it is the sample's key.
        samples: the file of all of them.
        kept: files of kept rows.
        dropped: the file of the others, each with its reason.
    """

    part: str
    samples: Path
    kept: tuple[Path, ...]
    dropped: Path


def judged_shards(workspace: Workspace, name: str, filtered: Manifest) -> list[Judged]:
    """What filter wrote of a table, part by part."""
    normalized = read_finished(workspace.normalized(name))
    if normalized is None:
        raise WorkspaceError(f"table {name} is filtered, and its samples are gone", "`prep run` makes them again.")
    if workspace.read_filtered(name) is None:
        raise WorkspaceError(f"table {name} was normalized anew since it was filtered", f"`prep filter {name}` first.")
    parts = {shard.name: part for shard, part in zip(normalized.shards, normalized.facts["parts"], strict=True)}
    has_text = workspace.table(name)[1].shape.may_lack_images
    folders = [workspace.filtered(name), *([workspace.text_only(name)] if has_text else [])]
    return [
        Judged(
            parts[shard.name],
            workspace.normalized(name) / shard.name,
            tuple(folder / shard.name for folder in folders),
            workspace.dropped(name) / shard.name,
        )
        for shard in filtered.shards
    ]


def hash_rows(workspace: Workspace, name: str, filtered: Manifest, *, anew: bool = False) -> str:
    """Fingerprint of which rows of which part were kept, and for what reason every other was dropped.

    Not of the files, which hold the folder they lie in and differ with the version of the library that wrote them.

    Args:
        anew: read them, whatever is noted.

    Raises:
        DataError: a file is damaged.
    """
    known = None if anew else _known_rows(workspace).get(name)
    if known is not None and known["of"] == _name_of_files(filtered):
        return known["rows"]
    shards = judged_shards(workspace, name, filtered)
    digests: dict[str, str] = {}
    with bar(f"lock {name}", len(shards), "shards") as advance:
        for part, digest in run_tasks(_hash_shard, shards, workers=workspace.workers, threads=True):
            digests[part] = digest
            advance(1)
    return fingerprint(digests)


def remember_rows(workspace: Workspace, described: Mapping[str, Any]) -> None:
    """Note the fingerprints of rows, so that rows are read once and not at every run."""
    known = _known_rows(workspace)
    notes = {name: note for name, note in known.items() if name in workspace.table_names}
    for name, facts in described["tables"].items():
        filtered = read_finished(workspace.filtered(name))
        if filtered is not None:
            notes[name] = {"of": _name_of_files(filtered), "rows": facts["rows"]}
    if notes != known:
        write_text(workspace.known_rows, json.dumps(notes, indent=1, sort_keys=True) + "\n")


def _known_rows(workspace: Workspace) -> dict[str, dict[str, str]]:
    """What was noted of each table: the name of its files, and the fingerprint of their rows."""
    try:
        notes = json.loads(workspace.known_rows.read_bytes())
        return {name: {key: str(note[key]) for key in ("of", "rows")} for name, note in notes.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _name_of_files(filtered: Manifest) -> str:
    return fingerprint([[shard.name, shard.task, shard.sha256] for shard in filtered.shards])


def _hash_shard(shard: Judged) -> tuple[str, str]:
    """A part's path, and a fingerprint of the numbers of its kept rows, and of its dropped ones reason by reason."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    kept: list[hashlib._Hash] = []
    dropped: defaultdict[str, hashlib._Hash] = defaultdict(hashlib.sha256)
    try:
        for path in shard.kept:
            kept.append(hashlib.sha256())
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=[ROW]):
                    kept[-1].update(_bytes(batch.column(0)))
        with pq.ParquetFile(shard.dropped, read_dictionary=[REASON]) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=[ROW, REASON]):
                for reason in batch.column(REASON).unique().to_pylist():
                    rows = batch.column(ROW).filter(pc.equal(batch.column(REASON), reason))
                    dropped[reason].update(_bytes(rows))
    except (pa.ArrowException, OSError) as error:
        files = ", ".join(map(str, (*shard.kept, shard.dropped)))
        raise DataError(f"one of {files} cannot be read: {error}", "`prep filter --force` makes them again.") from error
    digests = {reason: digest.hexdigest() for reason, digest in dropped.items()}
    return shard.part, fingerprint([[digest.hexdigest() for digest in kept], digests])


def _bytes(rows: pa.Int64Array) -> memoryview:
    return memoryview(rows.to_numpy(zero_copy_only=False).astype("<i8", copy=False)).cast("B")
