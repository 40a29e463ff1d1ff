"""Images read and decoded ahead of a model, by worker processes that never import torch."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prep.engine import Processes
from prep.errors import PrepError, WorkspaceError
from prep.images.probe import MAX_IMAGE_BYTES
from prep.images.store import S3Store, Store
from prep.scorers.pixels import Preprocessing, Undecodable, pixels
from prep.scorers.scorer import MISSING, UNDECODABLE, UNREADABLE, Score

BLOCK = 32  # images that a worker reads and decodes at a time, 5 MB of pixels
AHEAD = 3  # blocks for each worker that are at work, wait for it, or wait for the model
BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")  # of others no signature is right
READS = 16  # of objects on S3 at once, in each worker: it answers in milliseconds, decoding takes as long


# -- in the workers --------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """What became of some pictures.

    Attributes:
        pixels: uint8 [n, side, side, 3] of those that can be scored, None where there are none.
        problems: for each picture None, or why it cannot be scored.
    """

    pixels: np.ndarray | None
    problems: list[Score | None]


def read_block(addresses: Sequence[str], how: Preprocessing, s3_endpoint: str | None) -> Block:
    """Read and decode images; a plain function for worker processes.

    Raises:
        WorkspaceError: S3 does not answer, or there are no keys for it; what it refuses for one image, or does not
            have, is that image's problem.
    """
    remote = {
        address: _threads().submit(_read, address, s3_endpoint) for address in addresses if address.startswith("s3://")
    }
    decoded: list[np.ndarray] = []
    problems: list[Score | None] = []
    for address in addresses:
        problem = None
        try:
            data = remote[address].result() if address in remote else _read(address, s3_endpoint)
            decoded.append(pixels(data, how))
        except (FileNotFoundError, NotADirectoryError):
            problem = Score(None, MISSING, "no such file")
        except OSError as error:
            problem = Score(None, UNREADABLE, _reason(error))
        except Undecodable as error:
            problem = Score(None, UNDECODABLE, str(error))
        problems.append(problem)
    return Block(np.stack(decoded) if decoded else None, problems)


def why_unreadable(address: str, s3_endpoint: str | None) -> str | None:
    """Why a picture cannot be read, whatever it is that it holds; None where it can.

    Raises:
        WorkspaceError: S3 does not answer, or there are no keys for it.
    """
    try:
        _read(address, s3_endpoint)
    except OSError as error:
        return _reason(error)
    return None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


class SharedPixels(NamedTuple):
    """Where workers leave pixels: through a pipe, one that dies while it writes would leave its reader waiting.

    Attributes:
        path: of a file that is mapped into memory.
        shape: slots, and the shape of a whole block.
    """

    path: str
    shape: tuple[int, ...]


@cache
def _opened(shared: SharedPixels) -> np.ndarray:
    return np.asarray(np.memmap(shared.path, np.uint8, "r+", shape=shared.shape))


def _read_shared(
    read: Callable[[Sequence[str], Preprocessing, str | None], Block],
    shared: SharedPixels,
    slot: int,
    addresses: Sequence[str],
    how: Preprocessing,
    s3_endpoint: str | None,
) -> tuple[int, list[Score | None]]:
    """Read a block, leave its pixels in a slot, and say how many there are."""
    block = read(addresses, how, s3_endpoint)
    if block.pixels is None:
        return 0, block.problems
    _opened(shared)[slot, : len(block.pixels)] = block.pixels
    return len(block.pixels), block.problems


def _block(shared: SharedPixels, slot: int, count: int, problems: list[Score | None]) -> Block:
    """The block that `_read_shared` left."""
    return Block(_opened(shared)[slot, :count] if count else None, problems)


def _read(address: str, s3_endpoint: str | None) -> bytes:
    """The bytes at a path or an `s3://` address."""
    if not address.startswith("s3://"):
        try:
            seen = Path(address).stat()
        except ValueError as error:
            raise OSError("no name of a file") from error
        if not stat.S_ISREG(seen.st_mode):  # opening a pipe would never end
            raise OSError("not a file")
        if seen.st_size > MAX_IMAGE_BYTES:
            raise OSError(f"more than {MAX_IMAGE_BYTES >> 20} MiB")
        return Path(address).read_bytes()
    from obstore.exceptions import PermissionDeniedError

    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not BUCKET.fullmatch(bucket):
        raise OSError("no name of a bucket")
    store = _bucket(bucket, s3_endpoint)
    try:
        return store.get(key)
    except WorkspaceError as error:
        # No such key or bucket possible; and S3 refuses what is not there too, to those who may not list the bucket.
        if isinstance(error.__cause__, PermissionDeniedError | FileNotFoundError | ValueError):
            raise OSError(error.message) from error
        raise


@cache
def _bucket(name: str, s3_endpoint: str | None) -> Store:
    return S3Store(f"s3://{name}", s3_endpoint)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READS, "read")


# -- here --------------------------------------------------------------------------------------------------------------

Read = Callable[[Sequence[str]], Callable[[], Block]]


@contextmanager
def open_readers(count: int, how: Preprocessing, s3_endpoint: str | None) -> Iterator[Read]:
    """How to have a block read by a worker process, or here when it is asked for.

    A block that a worker has read is to be used up when the next one but `AHEAD * count` is given to one.
    """
    if not count:
        yield lambda addresses: partial(read_block, addresses, how, s3_endpoint)
        return
    slots = AHEAD * count + 1
    turns = cycle(range(slots))
    with _shared_memory(slots, how.side) as shared, _told(), Processes(count) as pool:

        def read(addresses: Sequence[str]) -> Callable[[], Block]:
            slot = next(turns)
            found = pool.submit(_read_shared, read_block, shared, slot, addresses, how, s3_endpoint)
            return lambda: _block(shared, slot, *found.result())

        yield read


@contextmanager
def _shared_memory(slots: int, side: int) -> Iterator[SharedPixels]:
    """Memory that ends with this process; not of /dev/shm, of which containers have 64 MB."""
    descriptor = os.memfd_create("pixels")
    try:
        os.ftruncate(descriptor, slots * BLOCK * side * side * 3)
        yield SharedPixels(f"/proc/{os.getpid()}/fd/{descriptor}", (slots, BLOCK, side, side, 3))
    finally:
        _opened.cache_clear()
        os.close(descriptor)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise PrepError(
            "a process that reads and decodes images died: the system may have been out of memory",
            "Set a smaller --workers and run the same command; what is done stays done.",
        ) from error
