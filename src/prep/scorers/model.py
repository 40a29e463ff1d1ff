"""What a stream asks of a scorer's model: a part that runs on the device, and one that runs here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prep.scorers.pixels import Preprocessing
from prep.scorers.scorer import Passport, ScorerInfo

if TYPE_CHECKING:
    from torch import Tensor


class Parts(NamedTuple):
    """A model's two parts.

    Attributes:
        run: queues the device's work and gives its result without waiting for it: of pixels (uint8 [n, side, side, 3]
            on the device) and n captions (none where the scorer takes none), float32 [n, d] on the device.
        scores: of what `run` gave, as an array here, the scores: float64 [n].
    """

    run: Callable[[Tensor, list[str]], Tensor]
    scores: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Model:
    """A scorer's model, loaded on one device; `run` and `scores` are those of `Parts`."""

    info: ScorerInfo
    passport: Passport
    preprocessing: Preprocessing
    device: str
    run: Callable[[Tensor, list[str]], Tensor]
    scores: Callable[[np.ndarray], np.ndarray]
