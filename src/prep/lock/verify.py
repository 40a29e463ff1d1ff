"""Whether the files that manifests and image indexes name are there, and hold the bytes that they say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prep.engine import run_tasks
from prep.files import size_of
from prep.images.index import OK
from prep.lock.differences import Difference
from prep.manifest import read_finished, read_manifest
from prep.progress import Bar, bar
from prep.stages.plan import HASH_CHUNK_BYTES, TRANSFERS, find_damaged
from prep.workspace import Workspace

OTHER_BYTES, GONE = "other bytes", "gone"
MOST = 20  # files of a folder that are named
BATCH_ROWS = 1 << 16  # of an image index in memory at once, a thread


def in_files(workspace: Workspace, *, verify: bool) -> Iterator[Difference]:
    """Parts, index shards, samples, kept rows and scores that are gone, or have another size than their manifest says.

    Dropped rows and kept rows without an image have no hash in a manifest.

    Args:
        verify: hash them all too.
    """
    for what, name, folder in _folders(workspace):
        manifest = read_manifest(folder)
        shards = manifest.shards if manifest else ()
        lost = {shard.name for shard in shards if not shard.is_in(folder)}
        label = f"{folder.relative_to(workspace.root).parts[0]} {name}"
        others = find_damaged(label, folder, [s for s in shards if s.name not in lost]) if verify else set()
        wrong = [shard for shard in shards if shard.name in lost or shard.name in others]
        for shard in wrong[:MOST]:
            path = folder / shard.name
            key = str(path.relative_to(workspace.root))
            if shard.name in lost:
                yield Difference(what, name, f"{key} size_bytes", shard.size_bytes, size_of(path))
            else:
                yield Difference(what, name, f"{key} sha256", shard.sha256, OTHER_BYTES)
        if len(wrong) > MOST:
            yield Difference(what, name, "more files", None, len(wrong) - MOST)


def _folders(workspace: Workspace) -> Iterator[tuple[str, str, Path]]:
    """Folders of finished stages: of a dataset or table, its name, and where."""
    for dataset in workspace.datasets:
        yield from (("dataset", dataset.name, place(dataset.name)) for place in (workspace.raw, workspace.index))
    for table in workspace.normalized_names:
        yield "table", table, workspace.normalized(table)
    for table in workspace.table_names:
        yield "table", table, workspace.filtered(table)
        filtered = read_manifest(workspace.filtered(table))
        used = filtered.facts.get("scores", {}).values() if filtered else ()
        for scorer in sorted({facts["scorer"] for facts in used if facts.get("scorer")}):
            yield "table", table, workspace.scores(scorer, table)


# -- images ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Images:
    """What is wrong with the images of one index shard.

    Attributes:
        gone, others: how many are not there, and how many have other bytes.
        first: path of the first of them.
        wrong: why the shard cannot be read; empty where it can.
    """

    gone: int
    others: int
    first: str
    wrong: str = ""


def in_images(workspace: Workspace, *, verify: bool) -> Iterator[Difference]:
    """Stored images on this machine that are gone, or have another size than their index says.

    Args:
        verify: read and hash each one too.
    """
    for dataset in workspace.datasets:
        folder = workspace.index(dataset.name)
        index = read_finished(folder) if workspace.needs_images(dataset) else None
        if index is None:
            continue
        root = Path(workspace.image_root, dataset.name)
        is_on_s3 = workspace.image_root.startswith("s3://")
        paths = [folder / shard.name for shard in index.shards]
        with bar(f"verify images {dataset.name}", index.rows, "images") as advance:
            look = partial(_look_at, None if is_on_s3 else root, verify, advance)
            found = list(run_tasks(look, paths, workers=TRANSFERS, threads=True))
        for wrong in sorted(one.wrong for one in found if one.wrong):
            yield Difference("dataset", dataset.name, "index", None, wrong)
        first = min((one.first for one in found if one.first), default="")
        for key, number in ((GONE, sum(one.gone for one in found)), (OTHER_BYTES, sum(one.others for one in found))):
            if number:
                yield Difference("dataset", dataset.name, f"images {key}", None, f"{number:,}, such as {first}")


def _look_at(root: Path | None, verify: bool, advance: Bar, shard: Path) -> _Images:
    """Look at the images of one index shard; with no root only at those of an adopted folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    gone, others, first = 0, 0, ""
    try:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=["status", "path", "size_bytes", "sha256"]):
                for status, path, size_bytes, sha256 in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                    if status != OK or (root is None and not path.startswith("/")):
                        continue
                    whole = Path(path) if root is None else root / path
                    wrong = _problem(whole, size_bytes, sha256 if verify else None)
                    gone, others = gone + (wrong == GONE), others + (wrong == OTHER_BYTES)
                    first = first or (path if wrong else "")
                advance(batch.num_rows)
    except (pa.ArrowException, OSError) as error:
        return _Images(gone, others, first, f"{shard.name} cannot be read: {error}")
    return _Images(gone, others, first)


def _problem(path: Path, size_bytes: int | None, sha256: str | None) -> str:
    """What is wrong with a file; empty where nothing is."""
    try:
        if path.stat().st_size != size_bytes:
            return OTHER_BYTES
        if sha256 is None:
            return ""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return GONE
    return "" if digest.hexdigest() == sha256 else OTHER_BYTES
