"""What a scorer is and gives, and the passport that its scores carry; no model is loaded here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple, Protocol

from prep.schema import AESTHETIC_SCORE, PREFERENCE_SCORE

OK = "ok"
MISSING, UNREADABLE, UNDECODABLE, NOT_FINITE = "missing", "unreadable", "undecodable", "not_finite"
EMBEDDINGS = "embeddings as they were given"  # in the place of preprocessing
CLIP_SIMILARITY = "clip_similarity"  # a column for `where`; no trainer reads it


@dataclass(frozen=True)
class ScorerInfo:
    """One scorer.

    Attributes:
        about: what it is, in a few words.
        column: of the samples, where its scores go.
        scale: scores of one scale can be compared with each other, and with one cutoff.
        needs_text: a score is of an image and its caption.
    """

    name: str
    about: str
    column: str
    scale: str
    needs_text: bool = False


SCORERS = {
    info.name: info
    for info in (
        ScorerInfo(
            "aesthetic-v2", "LAION's improved predictor: an MLP on CLIP ViT-L/14", AESTHETIC_SCORE, "aesthetic-v2"
        ),
        ScorerInfo(
            "aesthetic-v1", "LAION's first predictor: a linear head on CLIP ViT-L/14", AESTHETIC_SCORE, "aesthetic-v1"
        ),
        ScorerInfo(
            "hpsv2", "Human Preference Score v2: CLIP ViT-H/14 tuned on choices", PREFERENCE_SCORE, "hpsv2", True
        ),
        ScorerInfo("hpsv2.1", "the same, trained on more and better choices", PREFERENCE_SCORE, "hpsv2.1", True),
        ScorerInfo(
            "clip-similarity", "cosine of image and caption by CLIP ViT-L/14", CLIP_SIMILARITY, "clip-vit-l-14", True
        ),
    )
}
DEFAULT_SCORER = "aesthetic-v2"


class Picture(NamedTuple):
    """An image to be scored: its whole path or `s3://` address, and its caption where the scorer takes one."""

    address: str
    text: str = ""


class Score(NamedTuple):
    """What became of a picture: a score with status `ok`, or why there is none."""

    value: float | None
    status: str = OK
    error: str = ""


@dataclass(frozen=True)
class Passport:
    """Where scores come from.

    Attributes:
        scale: scores of one scale can be compared; the scorer's own, unless its weights are not the published ones.
        weights: file name -> SHA-256.
        preprocessing: how pixels came out of a file.
        dtype: the model's numbers.
        libraries: name -> version.
    """

    scorer: str
    scale: str
    weights: Mapping[str, str]
    preprocessing: str
    dtype: str
    libraries: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Passport:
        """The passport that `as_json` wrote.

        Raises:
            ValueError, TypeError: it is none.
        """
        return cls(**json.loads(text))

    @property
    def is_of_embeddings(self) -> bool:
        """Whether no image was looked at."""
        return self.preprocessing == EMBEDDINGS

    @property
    def identity(self) -> list[object]:
        """What has to be equal for two scores to be compared; numbers of other precision differ a little only."""
        return [self.scorer, self.scale, sorted(self.weights.items()), self.preprocessing]


class Scorer(Protocol):
    """A model that is loaded."""

    @property
    def info(self) -> ScorerInfo:
        """Which one it is."""

    @property
    def passport(self) -> Passport:
        """What its scores carry."""

    def score(self, pictures: Iterable[Picture]) -> Iterator[Score]:
        """The score of each picture, in order, while later ones are read and decoded."""
