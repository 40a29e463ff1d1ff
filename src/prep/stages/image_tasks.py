"""One piece of work of the images stage: the images of a share of an archive, of a part, of a folder, of some rows.

Every task writes one shard of the index. Its rows are spooled while it works, so that a killed run goes on from there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prep.config import Encode
from prep.errors import WorkspaceError
from prep.manifest import fingerprint
from prep.schema import IMAGE_KEY
from prep.stages.shards import ShardTask, fingerprint_in

if TYPE_CHECKING:
    from prep.images.index import IndexRow
    from prep.images.spool import Spool
    from prep.images.store import Store

VERSION = 2  # raise when the same inputs give other bytes
GONE = "gone"  # an image that was stored and is not there any more, nor where it came from

# Of members with one name the last counts, as when an archive is unpacked; of different ones with one key the first
# that was stored. Where two are stored under one path, the bytes are those of the last.
_MEMBERS = f"""
    SELECT * REPLACE (
        if(is_over, 'unsafe_name', status) AS status, if(is_over, NULL, path) AS path,
        if(is_over, NULL, sha256) AS sha256, if(is_over, 'another image is stored under its path', error) AS error
    ) FROM (
        SELECT *, path IS NOT NULL AND place < max(place) OVER (PARTITION BY path) AS is_over FROM (
            SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY source ORDER BY place DESC) = 1
        )
    ) QUALIFY row_number() OVER (PARTITION BY {IMAGE_KEY} ORDER BY is_over OR status != 'ok', place) = 1 ORDER BY place
"""


@dataclass(frozen=True)
class StoreSpec:
    """Where a dataset's images are kept and as what, as plain data for a worker.

    Attributes:
        name: the place as prep.yaml names it, which stays the same when a workspace is moved.
        encode: what a stored image has to be.
    """

    name: str
    root: str
    dataset: str
    s3_endpoint: str | None
    encode: Encode

    @property
    def facts(self) -> list[object]:
        """What a shard depends on."""
        return [self.name, self.s3_endpoint, self.encode.model_dump(exclude_none=True)]

    def open(self, writer: str, *, is_there: bool = False) -> Store:
        """The store, for one task to write to.

        Args:
            is_there: it has images already.

        Raises:
            WorkspaceError: then the whole of it is gone.
        """
        from prep.images.store import open_store

        if is_there and not self.root.startswith("s3://") and not Path(self.root).is_dir():
            raise WorkspaceError(
                f"there is no folder {self.root}, where images are kept", "Mount its disk, or put it back."
            )
        return open_store(self.root, self.dataset, self.s3_endpoint, writer=writer)


@dataclass(frozen=True)
class Found:
    """One image that a part or folder holds.

    Attributes:
        name: its path below the dataset's folder in the store; None for a name that would leave it.
        data: None where `status` says why.
        at: of a file that stays where it is, its absolute path.
    """

    key: str
    name: str | None
    source: str
    data: bytes | None
    status: str = "ok"
    error: str | None = None
    at: str | None = None


@dataclass(frozen=True)
class ImageTask(ShardTask):
    """One shard of a dataset's index.

    Attributes:
        verify: look at every image again that is stored already: is it there, and does every pixel decode.
    """

    output: Path
    store: StoreSpec
    verify: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class LocalTask(ImageTask):
    """Images that are on this machine already, in an order that never changes."""

    @abstractmethod
    def found(self, skip: int) -> Iterator[Found]:
        """The images after the first `skip`."""


@dataclass(frozen=True)
class PartsTask(LocalTask):
    """Images inside one part, or inside several that make one archive.

    Attributes:
        parts: their paths, in order.
        sha256s: their hashes.
        is_freed: their bytes were deleted when their images had been stored.
        stem: their name without its endings; names their images' folder.
    """

    parts: tuple[Path, ...]
    sha256s: tuple[str, ...]
    is_freed: bool
    stem: str


@dataclass(frozen=True)
class ArchiveTask(PartsTask):
    """One share of an archive.

    Attributes:
        key: how its images are named (see ArchiveImages).
        share, shares: which piece of it, of how many.
    """

    key: str
    share: int = 0
    shares: int = 1

    @property
    def fingerprint(self) -> str:
        """Everything the shard and its images are made from."""
        return fingerprint([VERSION, self.sha256s, self.stem, self.key, self.share, self.shares, self.store.facts])

    def found(self, skip: int) -> Iterator[Found]:
        """The share's members, and what of it cannot be read."""
        from prep.images.archives import image_key, read_members, safe_member

        for member in read_members(self.parts, self.share, skip=skip):
            safe = safe_member(member.name)
            is_gap = member.status == "lost"
            yield Found(
                f"{self.stem}: {member.name}" if is_gap else image_key(self.key, self.stem, member.name),
                None if safe is None else f"{self.stem}/{safe}",
                f"{self.parts[0].name}: {member.name}" if is_gap else member.name,
                member.data,
                member.status,
                member.error,
            )


@dataclass(frozen=True)
class ParquetTask(PartsTask):
    """The images inside one parquet part (see ParquetImages)."""

    column: str
    key: str | None

    @property
    def fingerprint(self) -> str:
        """Everything the shard and its images are made from."""
        return fingerprint([VERSION, self.sha256s, self.stem, self.column, self.key, self.store.facts])

    def found(self, skip: int) -> Iterator[Found]:
        """The part's images, row by row."""
        from prep.images.archives import safe_member
        from prep.images.embedded import embedded_images

        images = embedded_images(self.parts[0], self.column, self.key, self.stem, skip=skip)
        for key, source, data, status in images:
            safe = safe_member(key)
            name = safe if safe is None or self.key is None else f"{self.stem}/{safe}"
            yield Found(key, name, f"{self.parts[0].name}: {source}", data, status or "ok")


@dataclass(frozen=True)
class FolderTask(LocalTask):
    """A stretch of the files of a folder that is adopted.

    Attributes:
        files: path below the folder, size, time of the last change in nanoseconds.
    """

    folder: Path
    files: tuple[tuple[str, int, int], ...]
    key: str

    @property
    def fingerprint(self) -> str:
        """Everything the shard is made from; that a file's size and time are the same is taken for the same bytes."""
        return fingerprint([VERSION, str(self.folder), self.files, self.key, self.store.facts])

    def found(self, skip: int) -> Iterator[Found]:
        """The files, read whole."""
        from prep.images.archives import safe_member
        from prep.images.probe import MAX_IMAGE_BYTES

        for name, size_bytes, _ in self.files[skip:]:
            path = self.folder / name
            safe = safe_member(name)
            key = _folder_key(self.key, name)
            if safe is None:
                yield Found(key, None, name, None)
            elif size_bytes > MAX_IMAGE_BYTES:
                yield Found(key, safe, name, None, "too_large")
            else:
                try:
                    yield Found(key, safe, name, path.read_bytes(), at=str(path))
                except OSError as error:
                    yield Found(key, safe, name, None, "unreadable", error.strerror)


def _folder_key(kind: str, name: str) -> str:
    from prep.images.archives import image_key

    if kind == "part-member":
        folder, _, member = name.rpartition("/")
        return image_key(kind, folder, member) if folder else image_key("member", "", member.rpartition(".")[0])
    return image_key(kind, "", name)


def make_local(task: LocalTask) -> None:
    """Store the images of one local task and write its shard of the index."""
    from prep.images.index import index_rows
    from prep.images.spool import Spool

    is_there = task.verify and task.output.is_file() and any(_is_stored(row) for row in index_rows(task.output))
    store = task.store.open(task.output.stem, is_there=is_there)
    spool = Spool(task.output, task.fingerprint, store)
    if task.verify and fingerprint_in(task.output) == task.fingerprint:
        spool.replace()
        gone = 0
        for row in verified(store, index_rows(task.output)):
            gone += row.status == GONE
            spool.add(row)
        if not gone or (isinstance(task, PartsTask) and task.is_freed):
            finish_shard(spool, store, "SELECT * FROM rows ORDER BY place")
            return
        spool.replace()
    for found in task.found(spool.count):
        spool.add(_stored(store, task, found))
    finish_shard(spool, store, _MEMBERS)


def _is_stored(row: IndexRow) -> bool:
    """Whether an image is in the store, and not in a folder that was adopted."""
    return row.path is not None and not row.path.startswith("/")


def finish_shard(spool: Spool, store: Store, query: str) -> None:
    """Write the shard, then delete what an earlier one had stored under names that nothing uses any more."""
    for path in spool.finish(query):
        store.delete(path)


def _stored(store: Store, task: LocalTask, found: Found) -> IndexRow:
    """The index row of one image, which is stored if it can be."""
    from prep.images.index import IndexRow, describe
    from prep.images.store import Clash

    if found.data is None or found.name is None:
        status = "unsafe_name" if found.name is None and found.status == "ok" else found.status
        return IndexRow(found.key, status, found.source, error=found.error)
    row, data = describe(found.key, found.name, found.source, found.data, task.store.encode, verify=task.verify)
    if row.path is None:
        return row
    if found.at is not None and data is found.data:
        return replace(row, path=found.at)
    try:
        store.put(row.path, data)
    except Clash as clash:  # a member whose name is a folder's elsewhere
        return IndexRow(found.key, "unsafe_name", found.source, error=str(clash))
    return row


def verified(store: Store, rows: Iterable[IndexRow]) -> Iterator[IndexRow]:
    """The rows as they prove to be: every stored image read back, compared with its hash and decoded.

    What is gone keeps its path: it may come back, as a disk does that was not mounted.

    Raises:
        WorkspaceError: the store itself is not there.
    """
    import hashlib

    from prep.images.encode import decode_problem
    from prep.images.index import OK, UNDECODABLE

    for row in rows:
        if row.status not in (OK, GONE) or row.path is None:
            yield row
            continue
        try:
            data = Path(row.path).read_bytes() if row.path.startswith("/") else store.get(row.path)
        except FileNotFoundError:
            yield replace(row, status=GONE, error="it is not in the image store any more")
            continue
        if hashlib.sha256(data).hexdigest() != row.sha256:
            yield replace(row, status=GONE, error="other bytes stand in its place in the image store")
        elif row.decoded or (problem := decode_problem(data)) is None:
            yield replace(row, status=OK, decoded=True, error=None)
        else:
            yield replace(row, status=UNDECODABLE, path=None, sha256=None, error=problem)
