"""Perceptual hashes of stored images: a shard beside each shard of the image index, made once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prep import sql
from prep.errors import DataError
from prep.files import atomic_path
from prep.images.encode import Undecodable
from prep.images.index import OK
from prep.images.phash import VERSION, phash
from prep.images.store import Store, open_store
from prep.manifest import fingerprint, known_shards, read_finished
from prep.stages.shards import Outcome, ShardTask, build_shards
from prep.workspace import Workspace

# What became of an image, in its row and among a manifest's counts: it has a hash; it is of one grey, or no image; its
# bytes were not to be had, which is tried again.
HASHED, UNHASHED, UNREADABLE = "hashed", "unhashed", "unreadable"
FORM = 2  # raise when the shards' columns change
BLOCK = 256  # images of which a worker has the bytes at once, at most
READS = 8  # images read at once: a store far away answers many as soon as one


@dataclass(frozen=True)
class PhashTask(ShardTask):
    """The perceptual hashes of the images of one shard of an index.

    Attributes:
        index, index_sha256: that shard, and what is in it.
        image_root, dataset, s3_endpoint: where its images are.
    """

    index: Path
    index_sha256: str
    image_root: str
    dataset: str
    s3_endpoint: str | None
    output: Path

    @property
    def fingerprint(self) -> str:
        """Everything the shard is made from."""
        return fingerprint([VERSION, FORM, self.index_sha256])


def hash_images(workspace: Workspace, dataset: str, *, force: bool = False, dry_run: bool = False) -> Outcome:
    """Hash every image of a dataset's index that can be read; the others get none, and are read again next time.

    Raises:
        DataError: hardly an image of a shard can be read, so that they are not where the index says.
    """
    index = read_finished(workspace.index(dataset))
    if index is None:
        return Outcome("phash", dataset, "waiting", note=f"images of {dataset} first")
    folder = workspace.index(dataset)
    tasks = [
        PhashTask(
            folder / shard.name,
            shard.sha256,
            workspace.image_root,
            dataset,
            workspace.config.s3_endpoint,
            workspace.phash(dataset) / shard.name,
        )
        for shard in index.shards
    ]
    facts = {"dataset": dataset, "version": VERSION}
    known = known_shards(workspace.phash(dataset))
    unreadable = {shard.name for shard in known.values() if shard.counts.get(UNREADABLE)}
    return build_shards(
        "phash",
        dataset,
        workspace.phash(dataset),
        tasks,
        hash_shard,
        count_hashed,
        facts=facts,
        workers=workspace.workers,
        force=force,
        dry_run=dry_run,
        is_stale=lambda task: task.output.name in unreadable,
    )


def hash_shard(task: PhashTask) -> None:
    """Write path, hash and what became of it for every image of one shard, in the index's order.

    Raises:
        DataError: none of at least ten images can be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # In the form of COYO's column: 16 hexadecimal digits.
    columns = [("path", pa.string()), ("phash", pa.string()), ("status", pa.string())]
    schema = pa.schema(columns, metadata={sql.TASK_KEY: task.fingerprint})
    store = open_store(task.image_root, task.dataset, task.s3_endpoint)
    tried = read = 0
    with (
        pq.ParquetFile(task.index) as index,
        ThreadPoolExecutor(READS) as threads,
        atomic_path(task.output) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for batch in index.iter_batches(BLOCK, columns=["path", "status"]):
            rows = zip(batch["path"].to_pylist(), batch["status"].to_pylist(), strict=True)
            paths = [path for path, status in rows if status == OK]
            images = list(threads.map(lambda path: _read(store, path), paths))
            found = [None if data is None else _hash(data) for data in images]
            tried, read = tried + len(images), read + len(images) - images.count(None)
            statuses = [_status(data, hash_) for data, hash_ in zip(images, found, strict=True)]
            writer.write_table(pa.table([paths, found, statuses], schema=schema))
        if tried >= 10 and not read:
            raise DataError(
                f"{task.index}: none of its {tried:,} images can be read below {task.image_root}",
                f"`prep images {task.dataset} --verify decode` finds out why.",
            )


def _read(store: Store, path: str) -> bytes | None:
    """The bytes of the image at `path`, None where there are none; adopted images are wherever they were."""
    try:
        return Path(path).read_bytes() if path.startswith("/") else store.get(path)
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
        return None


def _hash(data: bytes) -> str | None:
    """The hash of an image as text; None where it cannot be decoded, or is of one colour."""
    try:
        found = phash(data)
    except Undecodable:
        return None
    return None if found is None else f"{found:016x}"


def _status(data: bytes | None, found: str | None) -> str:
    if data is None:
        return UNREADABLE
    return UNHASHED if found is None else HASHED


def count_hashed(task: PhashTask) -> dict[str, int]:
    """How many images have a hash, how many have none, and how many could not be read."""
    import pyarrow.parquet as pq

    found = pq.read_table(task.output, columns=["status"])["status"].value_counts().to_pylist()
    counts = {one["values"]: one["counts"] for one in found}
    return {status: counts[status] for status in (HASHED, UNHASHED, UNREADABLE) if status in counts}
