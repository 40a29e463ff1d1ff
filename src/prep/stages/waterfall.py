"""How many rows each rule of the filter left, in the order in which rows are judged, from a manifest's counts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prep.images.chunks import NOT_FETCHED
from prep.manifest import Manifest
from prep.stages.dedup_facts import REASONS as DUPLICATES
from prep.stages.filter import TEXT_ONLY
from prep.stages.sampling import SAMPLED_OUT

# The rules in the order in which they are judged, each with the reasons that it gives. What `normalize` found and
# images that are missing come before them.
_RULES = {
    "aes_cutoff": ("aes_cutoff",),
    "captions": ("no_recaption",),
    "min_size": ("no_size", "min_size"),
    "where": ("where",),
    "scores": ("no_score",),
    "dedup": tuple(DUPLICATES.values()),
    "sample": (SAMPLED_OUT,),
    "images": (NOT_FETCHED,),
}


@dataclass(frozen=True)
class Step:
    """What one reason took.

    Attributes:
        reason: as it stands in `dropped/`.
        dropped: rows dropped for it.
        left: rows that are left after it.
        rows_in: of the table, for percentages.
    """

    reason: str
    dropped: int
    left: int
    rows_in: int

    @property
    def left_percent(self) -> float:
        """Rows that are left, in percent of the table's."""
        return 100 * self.left / self.rows_in if self.rows_in else 100.0


def waterfall(filtered: Manifest) -> tuple[Step, ...]:
    """Every reason that took a row or belongs to a rule that was applied, in order; the last leaves the kept rows.

    Args:
        filtered: the manifest of a table's kept rows.
    """
    counts = {reason: count for reason, count in filtered.counts.items() if reason != TEXT_ONLY}
    rows_in = left = filtered.facts["rows_in"]
    steps = []
    for reason in _in_order(counts, filtered):
        dropped = counts.get(reason, 0)
        left -= dropped
        steps.append(Step(reason, dropped, left, rows_in))
    return tuple(steps)


def _in_order(counts: Mapping[str, int], filtered: Manifest) -> Iterator[str]:
    """Reasons as rows are judged; those of `normalize`, and statuses of images, by their name."""
    applied = filtered.facts["rules"]
    # A reader may say `no_size` of its own: without the rule it is one of normalize's.
    by_rule = [
        reason
        for rule, reasons in _RULES.items()
        for reason in reasons
        if (reason in counts and (rule != "min_size" or rule in applied)) or (reason == rule and rule in applied)
    ]
    of_images = sorted(reason for reason in counts if reason.startswith("image_") and reason not in by_rule)
    found = sorted(set(counts) - {*by_rule, *of_images})
    yield from (*found, *of_images, *by_rule)
