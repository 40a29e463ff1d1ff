"""Images behind addresses: the rows that are wanted, chunk by chunk, as one stream of addresses.

A worker has many chunks one after the other, so that the slow addresses at the end of one hold nothing up: the next
ones are under way meanwhile, and what was learnt of hosts stays. Each chunk's index is written when its last address
has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prep import sql
from prep.config import Fetch
from prep.images.chunks import CHUNK_ROWS
from prep.manifest import fingerprint
from prep.schema import IMAGE_KEY, ROW, URL
from prep.stages.image_guard import Guard
from prep.stages.image_tasks import GONE, VERSION, ImageTask, finish_shard, verified
from prep.stages.shards import fingerprint_in

if TYPE_CHECKING:
    from prep.images.fetch import Fetched
    from prep.images.index import IndexRow

FAILED = "failed"  # stands for every status but ok
BATCH_CHUNKS = 200  # for one worker at once: a million rows

# By key, so that the bytes do not depend on which rows were fetched first.
_BY_KEY = f"""
    SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY {IMAGE_KEY} ORDER BY place DESC) = 1 ORDER BY {IMAGE_KEY}
"""


@dataclass(frozen=True)
class UrlTask(ImageTask):
    """The images of `CHUNK_ROWS` rows of a shard of samples.

    Which of the rows are fetched depends on the filter and changes with it, so the fingerprint names the place of
    the rows alone: a chunk is made again only when a row that is wanted is not in its index yet, and then only that
    row is fetched.

    Attributes:
        wanted: SQL of the wanted rows of the whole shard: row, image key, address.
        share: how many processes fetch at the same time.
        retry: statuses that are worth another try; their rows are fetched again.
        min_success: share of the first addresses that have to give an image; None where that is known already.
        refetch: fetch what is there already too.
    """

    table: str
    shard: str
    chunk: int
    wanted: str
    fetch: Fetch
    allow_private_hosts: bool
    share: int
    retry: tuple[str, ...]
    min_success: float | None
    refetch: bool

    @property
    def fingerprint(self) -> str:
        """Which rows, and where and as what their images are kept."""
        return fingerprint([VERSION, self.table, self.shard, self.chunk, CHUNK_ROWS, self.store.facts])


def make_from_urls(tasks: Sequence[UrlTask]) -> None:
    """Fetch and store the images that some chunks lack, and write the index of each.

    Raises:
        SourceError: so few addresses gave an image that it must be this machine, or the whole list.
    """
    from prep.images.fetch import fetch_all

    first = tasks[0]
    stream = _Stream(tasks)
    try:
        fetch_all(
            stream.urls(), stream.keep, first.fetch, allow_private_hosts=first.allow_private_hosts, share=first.share
        )
        stream.guard.end()
    finally:
        stream.flush()
    stream.close_all()


class _Stream:
    """The addresses of several chunks, and what becomes of each."""

    def __init__(self, tasks: Sequence[UrlTask]) -> None:
        self.guard = Guard(tasks[0].store.dataset, tasks[0].min_success)
        self._tasks = tasks
        self._under_way: dict[int, tuple[_Chunk, str, str]] = {}  # place -> chunk, image key, address
        self._open: list[_Chunk] = []

    def urls(self) -> Iterator[str]:
        """Every address that is to be fetched; chunks are opened as their turn comes."""
        place = 0
        for task in self._tasks:
            chunk = _Chunk(task)
            self._open.append(chunk)
            for key, url in chunk.missing:
                self._under_way[place] = chunk, key, url
                yield url
                place += 1
            self._close_ended()

    async def keep(self, place: int, fetched: Fetched) -> None:
        """Store what came of one address."""
        chunk, key, url = self._under_way.pop(place)
        row = await chunk.keep(key, url, fetched)
        self.guard.see(row)
        if not chunk.left:
            self._close_ended()

    def _close_ended(self) -> None:
        """Write the index of chunks without an address left, once it is sure that their results can be believed."""
        if self.guard.is_sure:
            for chunk in [chunk for chunk in self._open if not chunk.left]:
                chunk.close()
                self._open.remove(chunk)

    def flush(self) -> None:
        """Write down what has come, also when the run breaks off."""
        for chunk in self._open:
            chunk.spool.flush()

    def close_all(self) -> None:
        """Write the index of the chunks that are left."""
        for chunk in self._open:
            chunk.close()


class _Chunk:
    """One chunk under way.

    Attributes:
        missing: (image key, address) of the rows that are wanted and not known, in row order.
        left: how many of them have not ended yet.
    """

    def __init__(self, task: UrlTask) -> None:
        from prep.images.spool import Spool

        self._task = task
        self._store = task.store.open(task.output.stem, is_there=task.verify and task.output.is_file())
        self.spool = Spool(task.output, task.fingerprint, self._store)
        known = {row.image_key: row for row in self._index()}
        again = {key for key, row in known.items() if task.refetch or is_retried(row.status, (*task.retry, GONE))}
        # What failed before a run was killed or stopped is tried again; what was stored is not.
        stored = {row.image_key: row for row in self.spool.rows() if row.path is not None}
        done = (known.keys() - again) | stored.keys()
        self.missing = [(key, url) for key, url in _wanted_images(task) if key not in done]
        left_out = {key for key, _ in self.missing}
        known |= stored
        self.spool.replace(row for key, row in known.items() if key not in left_out)
        self.left = len(self.missing)

    def _index(self) -> Iterator[IndexRow]:
        """The chunk's index as it stands, unless it is of images that were kept elsewhere."""
        from prep.images.index import index_rows

        if fingerprint_in(self._task.output) != self._task.fingerprint:
            return iter(())
        rows = index_rows(self._task.output)
        return verified(self._store, rows) if self._task.verify else rows

    async def keep(self, key: str, url: str, fetched: Fetched) -> IndexRow:
        """Store an image, if it is one, and note what came of its address."""
        from prep.images.index import IndexRow, describe

        task = self._task
        row = IndexRow(key, fetched.status, url, error=fetched.error)
        if fetched.status == "ok":
            name, how, min_side = f"{key[:2]}/{key}", task.store.encode, task.fetch.min_side
            row, data = describe(key, name, url, fetched.data, how, verify=task.verify, min_side=min_side)
            if row.path is not None:
                await self._store.put_async(row.path, data)
        self.spool.add(row)
        self.left -= 1
        return row

    def close(self) -> None:
        """Write the index."""
        finish_shard(self.spool, self._store, _BY_KEY)


def is_retried(status: str, retry: Collection[str]) -> bool:
    """Whether an address with this status is to be fetched again."""
    return status in retry or (FAILED in retry and status != "ok")


def _wanted_images(task: UrlTask) -> list[tuple[str, str]]:
    """(image key, address) of the chunk's rows that are wanted, in row order."""
    first = task.chunk * CHUNK_ROWS
    query = (
        f"SELECT {IMAGE_KEY}, any_value({URL}) FROM {task.wanted} "
        f"WHERE {ROW} BETWEEN {first} AND {first + CHUNK_ROWS - 1} GROUP BY {IMAGE_KEY} ORDER BY min({ROW})"
    )
    with sql.connect(task.output) as connection:
        return connection.execute(query).fetchall()
