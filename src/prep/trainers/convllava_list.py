"""What ConvLLaVA does with one dataset: every row of its JSON list is judged, and pictures are looked for and opened.

The list is streamed, however long; of what is found only counts and first examples are kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from prep.errors import DataError
from prep.readers.json_list import list_items
from prep.trainers.convllava import DEFAULT_DATASET, IMAGE, NAMES, PATHS, TURNS, nearest_name
from prep.trainers.convllava_rows import (
    STARTS_FAIL,
    Version,
    absence_fault,
    open_fault,
    picture_path,
    row_faults,
)
from prep.trainers.findings import STOPS, Finding, Notes, RowFault, Tally

ImageChoice = Literal["sample", "all", "none"]

_SAMPLE = 16  # pictures opened besides the first
_BATCH_ROWS = 1_000
_LOOKS = 125  # for pictures by one thread: to look costs little more than to hand it over
_OPENERS = 8  # threads; decoding releases the interpreter lock, and a slow disk answers several at once


@dataclass
class ListReport:
    """What the trainer makes of one JSON list; None where something in the way kept it from being known.

    Attributes:
        name: of the dataset; of a list by itself, its file's.
        path: the list as it was named.
        image_folder: what the rows' paths are joined to; None where nobody said.
        rows, rows_with_image: all of them, and those with a picture.
        images_missing: rows whose picture is not there, or has no bytes.
        images_opened: pictures that were opened and are good.
        first_image, first_text: of the first row: the picture as it is opened, the first question and answer.
    """

    name: str
    path: str
    image_folder: str | None
    rows: int | None = None
    rows_with_image: int | None = None
    images_missing: int | None = None
    images_opened: int = 0
    first_image: str | None = None
    first_text: str = ""


def check_list(
    name: str, path: str, image_folder: str | None, version: Version, images: ImageChoice
) -> tuple[ListReport, list[Finding]]:
    """Find out what the trainer does with the JSON list at `path`.

    Args:
        name: what it is called in what is found.
        images: pictures to open: those of the first row and 16 others, all, or none; unless none is, those of all rows
            are looked for.
    """
    notes, report = Notes(name), ListReport(name, path, image_folder)
    _check_places(path, image_folder, notes)
    folder = Path(image_folder) if image_folder is not None and images != "none" else None
    if folder is not None and not folder.is_dir():
        notes.error(
            f"the image folder {image_folder!r} is not there", "the first row with a picture stops the run", "Mend it."
        )
        folder = None
    looker = _Looker(folder, version, images, report)
    try:
        looker.look_through(Path(path))
    except DataError as error:
        notes.error(error.message, STOPS, error.next_step)
        return report, notes.findings
    if report.rows == 0:
        notes.warning("the list is empty", "the dataset adds nothing", "Leave its name out of --dataset.")
    if image_folder is None and images != "none" and report.rows_with_image:
        notes.warning(
            "no image folder was named, so no picture was looked for",
            "a picture that is missing stops the run",
            "Name it: `prep check FILE.json --image-folder DIR`.",
        )
    notes.findings += looker.findings(name)
    return report, notes.findings


def check_names(paths: Mapping[str, tuple[str, str]], option: str | None, notes: Notes) -> None:
    """Judge the dataset names of a module, and the text that the trainer's --dataset is to have."""
    parts = [] if option is None else option.split(",")
    for name in paths:
        if name not in chosen_names(option, paths):
            notes.warning(
                f"{PATHS} has {name!r}, which --dataset leaves out",
                "nothing of it is trained on; its list was not looked at",
                "Add the name to --dataset, if it should be.",
            )
        elif name not in NAMES and option is None:
            notes.error(
                f"{PATHS} has {name!r}, which is no dataset name of the trainer{nearest_name(name)}",
                "--dataset refuses it (`invalid dataset name`): the run stops at its start",
                f"Write one of: {', '.join(NAMES)}.",
            )
    if not paths:
        notes.error(f"{PATHS} is empty", "no dataset has paths: the run stops at its start", "Write it: `prep emit`.")
    for part in dict.fromkeys(parts):
        _check_name(part, paths, parts.count(part), notes)


def chosen_names(option: str | None, paths: Iterable[str]) -> set[str]:
    """Names that are trained on: those in the text of --dataset, spaces around them forgiven; all where it is None."""
    return set(paths) if option is None else {part.strip() for part in option.split(",")}


def _check_name(name: str, paths: Mapping[str, tuple[str, str]], times: int, notes: Notes) -> None:
    """Judge one name of --dataset."""
    refused = "the trainer says `invalid dataset name` and stops"
    if name != name.strip():
        notes.error(
            f"--dataset has a space at {name!r}",
            f"the list is split at commas and nothing is trimmed: {refused}",
            "Write the names without spaces.",
        )
    elif name not in NAMES:
        default = "; it is the option's default" if name == DEFAULT_DATASET else nearest_name(name)
        notes.error(f"--dataset has the unknown name {name!r}{default}", refused, f"Write some of: {', '.join(NAMES)}.")
    elif name not in paths:
        notes.error(
            f"--dataset has {name!r}, for which {PATHS} has no paths",
            "its builder has placeholders: no such file is there, and the run stops",
            "Take it out, or add an entry of that name to the recipe.",
        )
    if times > 1:
        notes.warning(f"--dataset has {name!r} {times} times", "the dataset is added as often", "Write it once.")


def _check_places(path: str, image_folder: str | None, notes: Notes) -> None:
    """Whether the two paths are the same wherever training is started, and the list text that every locale reads."""
    for what, place in (("the JSON path", path), ("the image folder", image_folder)):
        if place is not None and not Path(place).is_absolute():
            notes.warning(
                f"{what} {place!r} is relative",
                "it is found only when training is started in the same folder as this check",
                "Write the absolute path.",
            )
    if not _is_ascii(Path(path)):
        notes.warning(
            "the list has characters beyond ASCII",
            "it is opened in the locale's encoding: where that is not UTF-8, the run stops or text is garbled",
            "Write them as \\u escapes, as `prep emit` does.",
        )


def _is_ascii(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return all(piece.isascii() for piece in iter(lambda: file.read(1 << 20), b""))
    except OSError:  # which reading it as a list tells
        return True


class _Looker:
    """Judges the rows of one list and looks for their pictures.

    Args:
        folder: where pictures are; None looks for none.
        report: is filled in.
    """

    def __init__(self, folder: Path | None, version: Version, images: ImageChoice, report: ListReport) -> None:
        self._folder, self._version, self._images, self._report = folder, version, images, report
        self._rows, self._absent, self._broken = (Tally(STARTS_FAIL) for _ in range(3))
        self._sample = _Sample()
        self._tried = 0

    def look_through(self, path: Path) -> None:
        """Judge all rows.

        Raises:
            DataError: the list cannot be read.
        """
        report = self._report
        rows, with_image = 0, 0
        items = list_items(path)
        while batch := list(islice(items, _BATCH_ROWS)):
            pictures = []
            for number, row in enumerate(batch, start=rows):
                self._judge(number, row)
                with_image += isinstance(row, dict) and IMAGE in row
                picture = picture_path(row)
                if picture is not None:
                    pictures.append((number, picture))
            if rows == 0:
                self._show_first(batch[0])
            rows += len(batch)
            self._look_for(pictures)
        if self._folder is not None and self._images == "sample":
            self._open(self._sample.chosen())
        report.rows, report.rows_with_image = rows, with_image

    def findings(self, name: str) -> list[Finding]:
        """What was found."""
        rows, with_image = self._report.rows or 0, self._report.rows_with_image or 0
        return [
            *self._rows.findings(name, rows),
            *self._absent.findings(name, with_image),
            *self._broken.findings(name, self._tried),
        ]

    def _judge(self, number: int, row: Any) -> None:
        for fault in row_faults(row, self._version):
            example = row.get("id") if isinstance(row, dict) else None
            self._rows.add(fault, number, f"id {example}"[:60] if isinstance(example, str | int) else "")

    def _show_first(self, row: Any) -> None:
        picture = picture_path(row)
        if picture is not None:
            self._report.first_image = str((self._folder or Path()) / picture)
        turns = row.get(TURNS) if isinstance(row, dict) else None
        told = [turn for turn in turns[:2] if isinstance(turn, dict)] if isinstance(turns, list) else []
        self._report.first_text = "\n".join(f"{turn.get('from')}: {turn.get('value')}" for turn in told)

    def _look_for(self, pictures: Sequence[tuple[int, str]]) -> None:
        """Find out which pictures are not there, and open those that are to be opened."""
        if self._folder is None:
            return
        report, folder = self._report, self._folder
        report.images_missing = report.images_missing or 0
        with ThreadPoolExecutor(_OPENERS) as pool:
            parts = [pictures[start : start + _LOOKS] for start in range(0, len(pictures), _LOOKS)]
            looks = pool.map(lambda part: [absence_fault(folder / path) for _, path in part], parts)
            faults = list(chain.from_iterable(looks))
        there = []
        for (number, path), fault in zip(pictures, faults, strict=True):
            if fault is None:
                there.append((number, path))
                continue
            report.images_missing += 1
            self._absent.add(fault, number, path)
        if self._images == "all":
            self._open(there)
        for picture in there:
            self._sample.offer(picture)

    def _open(self, pictures: Sequence[tuple[int, str]]) -> None:
        folder = self._folder or Path()
        with ThreadPoolExecutor(_OPENERS) as pool:
            faults: list[RowFault | None] = list(pool.map(open_fault, [folder / path for _, path in pictures]))
        self._tried += len(pictures)
        self._report.images_opened += faults.count(None)
        for (number, path), fault in zip(pictures, faults, strict=True):
            if fault is not None:
                self._broken.add(fault, number, path)


@dataclass
class _Sample:
    """The first of the pictures offered, and some others, each as likely as any; the same every time."""

    first: tuple[int, str] | None = None
    others: list[tuple[int, str]] = field(default_factory=list)
    offered: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def offer(self, picture: tuple[int, str]) -> None:
        """Take one more into account."""
        if self.first is None:
            self.first = picture
            return
        self.offered += 1
        if len(self.others) < _SAMPLE:
            self.others.append(picture)
        elif (place := self._random.randrange(self.offered)) < _SAMPLE:
            self.others[place] = picture

    def chosen(self) -> list[tuple[int, str]]:
        """Those that were chosen, in their order."""
        return sorted([*([self.first] if self.first else []), *self.others])
