"""A scorer without a model: the score of an image is the red of its first pixel, that of a text adds its length."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from prep.errors import DataError
from prep.scorers.scorer import MISSING, SCORERS, UNDECODABLE, UNREADABLE, Passport, Picture, Score, ScorerInfo


def ignore(picture: Picture) -> None:
    """Takes no notice."""


@dataclass
class PlainScorer:
    """A scorer; `seen` has every picture that it was given.

    Attributes:
        dies_at: kills this process when it is given that many pictures.
        refuses: the name of pictures that cannot be read, without what they end in.
        sees: is told of a picture before it is looked at.
    """

    info: ScorerInfo
    passport: Passport
    seen: list[Picture]
    dies_at: int | None = None
    sees: Callable[[Picture], None] = ignore
    refuses: str | None = None

    def score(self, pictures: Iterable[Picture]) -> Iterator[Score]:
        for picture in pictures:
            self.seen.append(picture)
            self.sees(picture)
            if len(self.seen) == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield self._score(picture)

    def _score(self, picture: Picture) -> Score:
        if Path(picture.address).stem == self.refuses:
            return Score(None, UNREADABLE, "refused")
        try:
            with Image.open(io.BytesIO(Path(picture.address).read_bytes())) as image:
                red, *_ = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        except FileNotFoundError:
            return Score(None, MISSING, "no such file")
        except OSError as error:
            return Score(None, UNDECODABLE, type(error).__name__)
        return Score(red / 10 + len(picture.text))


PICTURES: list[Picture] = []  # that any scorer of this process was given


@dataclass(frozen=True)
class PlainLoading:
    """How to load it."""

    scorer: str = "aesthetic-v2"
    weights: str = "0" * 64
    has_own_weights: bool = False
    runs_on: tuple[str, ...] = ("cpu",)
    dies_at: int | None = None
    dtype: str = "fp32"
    has_model: bool = True
    sees: Callable[[Picture], None] = ignore
    refuses: str | None = None

    @property
    def passport(self) -> Passport:
        scale = SCORERS[self.scorer].scale
        scale = f"{scale} with other weights" if self.has_own_weights else scale
        return Passport(self.scorer, scale, {"head.pth": self.weights}, "the first pixel", self.dtype, {})

    def expected(self, *, fetch: bool) -> Passport | None:
        return replace(self.passport, dtype="")

    def devices(self) -> Sequence[str]:
        return self.runs_on

    def load(self, device: str) -> PlainScorer:
        if not self.has_model:
            raise DataError("the model cannot be loaded", "Fetch it anew.")
        return PlainScorer(SCORERS[self.scorer], self.passport, PICTURES, self.dies_at, self.sees, self.refuses)
