"""What ConvLLaVA's dataset class makes of one row of a JSON list, and of its picture.

The rules are those of the trainer's `llava/data/data.py` and of its two prompt formats: `v1`, which the published
scripts of all three stages use, and `plain`, the usual one for captions in the LLaVA family.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image

from prep.datasets.turns import GPT, HUMAN
from prep.datasets.turns import IMAGE as TOKEN
from prep.files import size_of
from prep.trainers.convllava import IMAGE, TURNS
from prep.trainers.findings import RowFault

Version = Literal["v1", "plain"]
VERSIONS: tuple[Version, ...] = ("v1", "plain")

# What the mask of answers is cut at: a text that holds one of them is cut in the wrong place.
SEPARATORS = ("ASSISTANT: ", "</s>")

STARTS_FAIL = "words of all rows are counted before the first step: the run stops there"
ROW_FAILS = "the run stops when the row is drawn; nothing is tried again or passed over"
ROW_IGNORED = "the trainer prints `tokenization mismatch` and learns nothing from the row"
_DROP = "Drop such rows, or mend them where the list is made."

_NO_OBJECT = RowFault("error", "a row is not an object", STARTS_FAIL, _DROP)
_NO_TURNS = RowFault("error", f"{TURNS} is missing, or not a list", STARTS_FAIL, _DROP)
_EMPTY_TURNS = RowFault("error", f"{TURNS} is empty", STARTS_FAIL, _DROP)
_NO_TEXT = RowFault("error", "a turn has no text as its value", STARTS_FAIL, _DROP)
_NO_WORDS = RowFault("error", "a row has no words", STARTS_FAIL, _DROP)
_ROLE = RowFault("error", f"a turn is neither from {HUMAN} nor from {GPT}", ROW_FAILS, "Name the roles so.")
_ORDER = RowFault("error", f"turns do not alternate from {HUMAN} to {GPT}", ROW_FAILS, _DROP)
_LEADING = RowFault("warning", "an answer stands before the first question", "it is left out", "Leave it out yourself.")
_NO_ANSWER = RowFault("warning", "the last turn is not an answer", ROW_IGNORED, "Leave it out.")
_EMPTY_ANSWER = RowFault("warning", "the last answer is empty", ROW_IGNORED, _DROP)
_SEPARATOR = RowFault("warning", "an answer holds a separator of the prompt", ROW_IGNORED, _DROP)

_NULL_IMAGE = RowFault(
    "error",
    f"{IMAGE} is null",
    f"the key alone makes the row count as one with a picture: {ROW_FAILS}",
    "Leave the key out of rows of text alone.",
)
_NOT_ONE_IMAGE = RowFault(
    "error", f"{IMAGE} is not one path", f"it cannot be joined to a folder: {ROW_FAILS}", "Write one path as a string."
)
_EMPTY_IMAGE = RowFault(
    "error",
    f"{IMAGE} is empty",
    f"the folder itself is opened: {ROW_FAILS}",
    "Leave the key out of rows of text alone.",
)
_ABSOLUTE = RowFault(
    "error",
    f"{IMAGE} is an absolute path",
    "the image folder is passed over, and where nothing is at that place the run stops",
    "Write paths below the image folder.",
)
_OUTSIDE = RowFault(
    "error",
    f"{IMAGE} leads out of the image folder",
    "another file is opened, and where none is at that place the run stops",
    "Write paths below the image folder, without `..`.",
)

_TEXT_TOKEN = RowFault(
    "warning", f"{TOKEN} stands in a row without a picture", "it stays as words of the text", "Take it out."
)
_NO_TOKEN = RowFault(
    "warning", f"{TOKEN} is missing in a row with a picture", "the picture is loaded and not used", "Put it in front."
)
_SEVERAL_TOKENS = RowFault(
    "error",
    f"{TOKEN} stands in several turns",
    "each takes a picture: the row uses up the next row's, or there is none left and the run stops",
    "Leave one, in the first question.",
)
_COPIES = RowFault("warning", f"{TOKEN} stands several times in one turn", "the copies become one", "Leave one.")
_IN_ANSWER = RowFault(
    "warning",
    f"{TOKEN} stands in an answer",
    "the picture is put there, behind the question",
    "Put it into the first question.",
)
_NOT_TWO_TURNS = RowFault("error", "a row of the format plain has not two turns", ROW_FAILS, "Drop it, or use v1.")
_PLAIN_TOKEN = RowFault(
    "error",
    f"{TOKEN} is not in the first turn of a row of the format plain",
    ROW_FAILS,
    "Put it there; rows of text alone cannot be had with plain.",
)

MISSING = RowFault("error", "a picture is not there", ROW_FAILS, "Fetch it, or drop the row.")
EMPTY_FILE = RowFault("error", "a picture has no bytes", ROW_FAILS, "Fetch it again, or drop the row.")
UNREADABLE = RowFault(
    "error",
    "a picture cannot be opened",
    f"whole pictures are decoded, so one that is cut off fails too: {ROW_FAILS}",
    "Fetch it again, or drop the row.",
)


def row_faults(row: object, version: Version = "v1") -> list[RowFault]:
    """What goes wrong with a row as JSON gives it; its picture is not looked at."""
    if not isinstance(row, dict):
        return [_NO_OBJECT]
    faults = [fault] if (fault := _image_fault(row)) else []
    turns = row.get(TURNS)
    fault = _start_fault(turns)
    if fault is not None or not isinstance(turns, list):
        return [*faults, fault or _NO_TURNS]
    if version == "plain":
        return [*faults, *_token_faults(row, turns, version), *_plain_faults(turns)]
    order, rest = _order_faults(turns)
    return [*faults, *order, *_token_faults(row, rest, version), *_answer_faults(rest)]


def picture_path(row: object) -> str | None:
    """The path of the row's picture below the image folder; None for a row that has none, or no such path."""
    if isinstance(row, dict) and IMAGE in row and _image_fault(row) is None:
        return str(row[IMAGE])
    return None


def absence_fault(path: Path) -> RowFault | None:
    """What goes wrong with a picture before it is opened."""
    size_bytes = size_of(path)
    if size_bytes is None:
        return MISSING
    return EMPTY_FILE if size_bytes == 0 else None


def open_fault(path: Path) -> RowFault | None:
    """Open a picture as the trainer does, with Pillow and in RGB, and say what goes wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd palettes and large images; the trainer goes on
            with Image.open(path) as image:
                image.convert("RGB")
    except Exception:  # as in the trainer: whatever a decoder raises stops the run
        return UNREADABLE
    return None


def _image_fault(row: Mapping[str, Any]) -> RowFault | None:
    image = row.get(IMAGE, "x")
    if image is None:
        return _NULL_IMAGE
    if not isinstance(image, str):
        return _NOT_ONE_IMAGE
    if not image:
        return _EMPTY_IMAGE
    if image.startswith("/"):
        return _ABSOLUTE
    if ".." in PurePosixPath(image).parts:
        return _OUTSIDE
    return MISSING if image.endswith(("/", "/.")) else None


def _start_fault(turns: object) -> RowFault | None:
    """What stops the run when the words of all rows are counted."""
    if not isinstance(turns, list):
        return _NO_TURNS
    if not turns:
        return _EMPTY_TURNS
    if not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns):
        return _NO_TEXT
    return None if any(_has_words(turn) for turn in turns) else _NO_WORDS


def _has_words(turn: Mapping[str, str]) -> bool:
    """Whether the turn has any."""
    return bool(turn["value"]) and not turn["value"].isspace()


def _order_faults(turns: Sequence[Mapping[str, str]]) -> tuple[list[RowFault], Sequence[Mapping[str, str]]]:
    """Faults of the roles, and the turns that are left."""
    roles = [turn.get("from") for turn in turns]
    if not all(role in (HUMAN, GPT) for role in roles):
        return [_ROLE], turns
    faults = []
    if roles[0] == GPT:
        faults.append(_LEADING)
        turns, roles = turns[1:], roles[1:]
    if any(role != (HUMAN, GPT)[place % 2] for place, role in enumerate(roles)):
        faults.append(_ORDER)
    elif not roles or roles[-1] != GPT:
        faults.append(_NO_ANSWER)
    elif not _has_words(turns[-1]):
        faults.append(_EMPTY_ANSWER)
    return faults, turns


def _answer_faults(turns: Sequence[Mapping[str, str]]) -> Iterator[RowFault]:
    answers = [turn["value"] for turn in turns if turn.get("from") == GPT]
    if any(separator in answer for answer in answers for separator in SEPARATORS):
        yield _SEPARATOR


def _token_faults(row: Mapping[str, Any], turns: Sequence[Mapping[str, str]], version: Version) -> Iterator[RowFault]:
    """Faults of where the picture's token stands."""
    counts = [turn["value"].count(TOKEN) for turn in turns]
    if IMAGE not in row:
        if any(counts):
            yield _TEXT_TOKEN
        return
    holding = [turn for turn, count in zip(turns, counts, strict=True) if count]
    if not holding and version == "v1":
        yield _NO_TOKEN
    if len(holding) > 1:
        yield _SEVERAL_TOKENS
    if max(counts, default=0) > 1:
        yield _COPIES
    if any(turn.get("from") == GPT for turn in holding):
        yield _IN_ANSWER


def _plain_faults(turns: Sequence[Mapping[str, str]]) -> Iterator[RowFault]:
    if len(turns) != 2:
        yield _NOT_TWO_TURNS
    if TOKEN not in turns[0]["value"]:
        yield _PLAIN_TOKEN
