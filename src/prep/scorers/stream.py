"""Pictures in, scores out, in order: reading and decoding, copies and the model's work all at the same time.

Worker processes read and decode, and never import torch. The model gets a batch while the next ones are decoded and
copied; its results are read when one more batch waits in the device's queue, so that the device has always work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from prep.errors import PrepError
from prep.scorers.devices import CPU, open_link
from prep.scorers.model import Model
from prep.scorers.reading import AHEAD, BLOCK, Block, Read, open_readers
from prep.scorers.scorer import NOT_FINITE, Passport, Picture, Score, ScorerInfo

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

CPU_BATCH = 16
FIRST_BATCH, MAX_BATCH = BLOCK, 1024  # on a GPU, where the size is found out
TRIALS = 2  # batches of a size; the first one's memory has to be allocated
GAIN = 1.03  # in images a second, for which a batch is doubled


class BatchSize:
    """How many images the model gets at once; doubled while that pays, halved when memory runs out.

    Args:
        now: the first size.
        limit: up to which it is doubled.
    """

    def __init__(self, now: int, limit: int) -> None:
        self.now = now
        self._limit = limit
        self._rates: list[float] = []  # of this size, in images a second
        self._best = 0.0  # of the size before

    @property
    def is_settled(self) -> bool:
        """Whether no further measurement is needed."""
        return 2 * self.now > self._limit

    def measured(self, count: int, seconds: float) -> None:
        """Take note of how long a batch took; batches that are no longer, or not nearly, of this size say nothing."""
        if not 0.75 * self.now < count <= self.now:
            return
        self._rates.append(count / seconds)
        if len(self._rates) < TRIALS:
            return
        best, self._best, self._rates = self._best, max(self._rates), []
        if self._best >= GAIN * best:
            self.now *= 2
        else:
            self._limit = self.now = self.now // 2

    def halve(self) -> None:
        """Make do with half, for good."""
        self._limit = self.now = self.now // 2


class _Task(NamedTuple):
    """A block that is being read, or waits for it."""

    result: Callable[[], Block]
    texts: list[str]
    ends_batch: bool


class _Batch(NamedTuple):
    """Pictures that the model has got.

    Attributes:
        results: of those without a problem; waits for the device. None where there are none.
    """

    problems: list[Score | None]
    results: Callable[[], np.ndarray] | None


class Stream:
    """A model that scores pictures as they come.

    Args:
        batch_size: in images; by default found out on a GPU, and 16 on a CPU.
        workers: processes that read and decode; 0 for none, when it is done here.
        s3_endpoint: of `s3://` addresses; by default AWS.
    """

    def __init__(
        self, model: Model, *, batch_size: int | None = None, workers: int = 0, s3_endpoint: str | None = None
    ) -> None:
        self._model = model
        self._link = open_link(model.device)
        fixed = batch_size or (CPU_BATCH if model.device == CPU else None)
        self._size = BatchSize(fixed, fixed) if fixed else BatchSize(FIRST_BATCH, MAX_BATCH)
        self._workers = workers
        self._s3_endpoint = s3_endpoint

    @property
    def info(self) -> ScorerInfo:
        """Which scorer it is."""
        return self._model.info

    @property
    def passport(self) -> Passport:
        """What its scores carry."""
        return self._model.passport

    @property
    def batch_size(self) -> int:
        """In images; on a GPU it is found out while the first ones are scored."""
        return self._size.now

    def score(self, pictures: Iterable[Picture]) -> Iterator[Score]:
        """The score of each picture, in order, or why it has none; as many without end as there are pictures.

        Some pictures are taken from `pictures` before the first score is given: about 100 for each worker, and two
        batches. Memory is bounded by those. Whoever does not take all scores closes the iterator, which ends the
        workers.

        Raises:
            PrepError: a worker process has died, or not even one image fits into the device's memory.
            WorkspaceError: S3 does not answer.
        """
        with open_readers(self._workers, self._model.preprocessing, self._s3_endpoint) as read:
            tasks = _ahead(self._tasks(pictures, read), AHEAD * self._workers)
            for batch in _ahead(self._batches(tasks), 1):
                yield from self._scores(batch)

    def _tasks(self, pictures: Iterable[Picture], read: Read) -> Iterator[_Task]:
        """Blocks, given to the workers; each batch is cut into as many as it needs."""
        pictures = iter(pictures)
        while batch := list(islice(pictures, self._size.now)):
            for start in range(0, len(batch), BLOCK):
                addresses, texts = zip(*batch[start : start + BLOCK], strict=True)
                yield _Task(read(addresses), list(texts), start + BLOCK >= len(batch))

    def _batches(self, tasks: Iterable[_Task]) -> Iterator[_Batch]:
        """Batches, given to the model; each block is on its way to the device as soon as it is read."""
        problems: list[Score | None] = []
        texts: list[str] = []
        uploaded: list[Tensor] = []
        for task in tasks:
            block = task.result()
            problems += block.problems
            texts += [text for text, problem in zip(task.texts, block.problems, strict=True) if problem is None]
            if block.pixels is not None:
                uploaded.append(self._link.upload(block.pixels))
            if task.ends_batch:
                yield _Batch(problems, self._link.download(self._run(uploaded, texts)) if uploaded else None)
                problems, texts, uploaded = [], [], []

    def _run(self, uploaded: Sequence[Tensor], texts: list[str]) -> Tensor:
        """Queue the model's work, in smaller batches where memory does not suffice; and time it, for the best size."""
        import torch

        batch = self._link.gather(uploaded)
        results: list[Tensor] = []
        at = 0
        while at < len(texts):
            stop = at + self._size.now
            try:
                with torch.inference_mode():
                    results.append(self._timed(batch[at:stop], texts[at:stop]))
            except torch.OutOfMemoryError as error:
                if self._size.now == 1:
                    raise PrepError(
                        f"{self._model.device}: not even one image fits into its memory beside the model",
                        "Close what else uses that device, or name another one with --device.",
                    ) from error
                self._size.halve()
            else:
                at = stop
        return torch.cat(results)

    def _timed(self, batch: Tensor, texts: list[str]) -> Tensor:
        if self._size.is_settled:
            return self._model.run(batch, texts)
        self._link.synchronize()
        start = time.perf_counter()
        results = self._model.run(batch, texts)
        self._link.synchronize()
        self._size.measured(len(texts), time.perf_counter() - start)
        return results

    def _scores(self, batch: _Batch) -> Iterator[Score]:
        values = iter(self._model.scores(batch.results()) if batch.results else ())
        for problem in batch.problems:
            yield problem or _score(float(next(values)))


def _score(value: float) -> Score:
    return Score(value) if np.isfinite(value) else Score(None, NOT_FINITE, f"the model's score is {value}")


def _ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The same items, each given when `count` later ones have been drawn."""
    items = iter(items)
    drawn = deque(islice(items, count))
    for item in items:
        drawn.append(item)
        yield drawn.popleft()
    yield from drawn
