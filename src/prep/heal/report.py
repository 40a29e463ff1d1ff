"""What `prep heal` found and did, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# Every cause, and what it says to a person. Those of names can stand together: `folder+extension`.
CAUSES = {
    "wrong_format": "its content is of another format than its name says",
    "folder": "it lies a folder too deep or too high",
    "escaped": "its name is written with escapes (#U91d1, %20, +) or in another Unicode form",
    "case": "its name has other letter case",
    "padding": "the number in its name has other zeros before it",
    "extension": "it has another extension",
    "missing": "there is no such file, nor one of a similar name",
    "ambiguous": "several files may be meant, or one for several rows, or of several collections; nothing is guessed",
    "claimed": "the only file of a similar name is named by rows of its own",
    "padding_unclear": "a file differs by zeros in its name, where names have several lengths, as ISBNs have",
    "no_extension": "the row's name has no extension: the list is of another version than the images",
    "outside": "a similar file, or the folder, is reached through a link that leads out of the folder of images",
    "empty": "it has no bytes",
    "truncated": "its end is missing",
    "not_an_image": "it is no image",
    "undecodable": "it cannot be decoded",
    "too_many_pixels": "it has more pixels than the trainer's Pillow opens",
    "too_large": "it has more bytes than are looked into",
    "unreadable": "it cannot be read",
    "not_a_file": "a folder, or something else that is no file, stands there",
    "broken_link": "a link stands there that leads to nothing",
    "unsafe_path": "the row's path is absolute or leaves the folder (`..`); such rows are refused",
    "bad_path": "`image` is neither a path nor a list of paths",
    "no_path": "`image` is empty, and a text has <image>",
    "bad_json": "the row is no JSON object",
    "repair_failed": "the repair did not work",
}


@dataclass
class Collection:
    """Rows whose image paths begin alike.

    Attributes:
        name: the first steps of their folder; `.` for no folder, `(text only)`, `(no path)`.
        rows: all of them; `found`, `repaired` (in a dry run: can be) and `lost` add up to it.
        causes: cause -> rows, of whatever is not simply found.
    """

    name: str
    rows: int = 0
    found: int = 0
    repaired: int = 0
    lost: int = 0
    causes: dict[str, int] = field(default_factory=dict)


@dataclass
class ListReport:
    """One list of rows.

    Attributes:
        duplicates: rows that stand there once more, word for word; they stay.
        healed, missing: files that were written; None in a dry run.
    """

    json: str
    images: str
    duplicates: int
    collections: list[Collection]
    healed: str | None = None
    missing: str | None = None

    def total(self) -> Collection:
        """All collections together."""
        total = Collection("all")
        for each in self.collections:
            total.rows += each.rows
            total.found += each.found
            total.repaired += each.repaired
            total.lost += each.lost
            for cause, count in each.causes.items():
                total.causes[cause] = total.causes.get(cause, 0) + count
        total.causes = dict(sorted(total.causes.items()))
        return total


@dataclass(frozen=True)
class Example:
    """An image that is not simply found.

    Attributes:
        action: `link`, `move` or `encode`; None where nothing is done.
        source: the file that is used for it.
    """

    cause: str
    path: str
    action: str | None
    source: str | None
    detail: str

    @property
    def reason(self) -> str:
        """Why, for a person."""
        words = ", ".join(CAUSES[cause] for cause in self.cause.split("+"))
        return f"{words}: {self.detail}" if self.detail else words


@dataclass
class HealReport:
    """The whole of it.

    Attributes:
        applied: whether repairs were made; else it is what would be done.
        repairs: what is done -> number of files.
        examples: a few of each cause.
        same_bytes: names with the bytes of another name, where all were read; else None.
        warnings: what stands in the way of a full answer.
        healed_folders: where repairs are written down.
        journals: of this run.
    """

    lists: list[ListReport]
    applied: bool
    repairs: dict[str, int]
    examples: list[Example]
    same_bytes: int | None
    warnings: list[str]
    healed_folders: list[str] = field(default_factory=list)
    journals: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The document that `--as-json` prints."""
        return {
            "applied": self.applied,
            "lists": [{**asdict(each), "total": asdict(each.total())} for each in self.lists],
            "repairs": self.repairs,
            "examples": [{**asdict(example), "reason": example.reason} for example in self.examples],
            "same_bytes": self.same_bytes,
            "warnings": self.warnings,
            "journals": self.journals,
        }

    @property
    def lost(self) -> int:
        """Rows that cannot be used."""
        return sum(each.total().lost for each in self.lists)
