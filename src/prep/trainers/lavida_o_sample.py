"""What LaViDa-O's preprocess functions make of one row, and how the loader opens its images."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from prep.errors import UsageError
from prep.schema import AESTHETIC_SCORE, PREFERENCE_SCORE
from prep.trainers.findings import RowFault
from prep.trainers.lavida_o import (
    LLAVA_SAMPLE,
    MAX_CAPTION_LENGTH,
    PRIVATE_READER,
    PRIVATE_SCHEME,
    S3_SCHEME,
    Function,
    Holds,
    Read,
)

ROW_FAILS = "such a row is tried for 30 s, then the next one for 30 s, then the run stops"
FIRST_ROW_FAILS = "the entry's first sample is read at start-up: the run stops there"

_MISSING = RowFault("error", "an image is not there", ROW_FAILS, "Put it there, or take the row out of the data.")
_UNREADABLE = RowFault(
    "error",
    "an image cannot be opened",
    ROW_FAILS,
    "Drop the row; the loader decodes whole images, so a cut-off file fails too.",
)
_RELATIVE = RowFault(
    "warning",
    "an image path is relative",
    "it is opened relative to the folder that training is started in; no image folder is put in front",
    "Write absolute paths.",
)
_NEEDS_S3_READER = RowFault(
    "warning",
    "an image is on S3",
    f"it is opened with a module named {PRIVATE_READER}; where training cannot import one, the run stops",
    "`prep emit-yaml --s3-reader FOLDER` writes one, and `prep check --s3-reader FOLDER` uses it.",
)
_REFUSED = RowFault(
    "error",
    "S3 does not give an image",
    ROW_FAILS,
    "Check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) and the endpoint.",
)
_NO_ANSWER = RowFault(
    "error",
    "S3 does not answer",
    ROW_FAILS,
    "Check the network and the endpoint (AWS_ENDPOINT_URL_S3); after its first silence it is not asked again.",
)
_NEEDS_PRIVATE_STORE = RowFault(
    "error",
    "an image is in the authors' private store",
    f"it is opened with their module {PRIVATE_READER}, which is not installed here: the run stops",
    "Use preproces_text_to_image_generation_s3 with image paths.",
)
_EMPTY_LIST = RowFault(
    "error",
    "a list of images is empty",
    "the row counts as having an image, and `<image>` is put in its text with no picture behind it",
    "Write null for a row without images, or drop it.",
)
_NULL_KEY = RowFault(
    "error",
    "image is null",
    "the key alone makes the row count as one with an image",
    "Leave the key out of text-only rows.",
)
_EMPTY_PATH = RowFault(
    "error", "an image path is empty", ROW_FAILS, "Write null for a row without an image, or drop it."
)

_silent: set[str] = set()  # schemes of stores that gave no answer


@dataclass(frozen=True)
class Sample:
    """One row as its function would build it.

    Attributes:
        images: addresses as they are opened.
        text: caption (cut as the loader cuts it), answer, or the first two turns.
        scores: what is added to the prompt, such as `SCORE : 5.812`.
        faults: what would go wrong; nulls are left to the caller.
    """

    images: tuple[str, ...]
    text: str
    scores: str
    faults: tuple[RowFault, ...]


def build_sample(function: Function, arguments: Mapping[str, Any], row: Mapping[str, Any]) -> Sample:
    """Build the sample of `row` (column -> value, as `DataFrame.iloc[i].to_dict()` gives it)."""
    images: list[str] = []
    texts: list[str] = []
    faults: list[RowFault] = []
    for read in function.reads_with(arguments):
        value = row.get(read.column)
        if is_null(value):
            continue
        if read.holds.is_image:
            paths = _paths(read, value)
            images += [_address(read, path, arguments, row) for path in paths or () if path]
            faults += _path_faults(read, paths)
        elif read.holds in (Holds.TURNS, Holds.TURNS_AS_JSON):
            turns, problem = _turns(read, value)
            texts += [f"{turn['from']}: {turn['value']}" for turn in turns[:2]]
            faults += [_fault(read.column, problem)] if problem else []
        elif read.holds.is_string:
            texts.append(str(value)[: MAX_CAPTION_LENGTH if read.is_caption else None])
            faults += [] if isinstance(value, str) else [_fault(read.column, "is not a string")]
        elif isinstance(value, str):
            texts.append(value)
    return Sample(tuple(images), "\n".join(texts), _scores(function, row), tuple(faults))


def null_faults(function: Function, arguments: Mapping[str, Any], row: Mapping[str, Any]) -> list[RowFault]:
    """Faults of a JSON row for keys that are missing, or null where they must not be."""
    reads = [read for read in function.reads_with(arguments) if is_null(row.get(read.column))]
    faults = [_fault(read.column, "is missing or null") for read in reads if not read.nullable]
    if function is LLAVA_SAMPLE:
        faults += [_NULL_KEY for read in reads if read.nullable and read.column in row]
    return faults


def is_null(value: Any) -> bool:
    """Whether a cell has no value: None, NaN or NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


@contextmanager
def reader_on_path(folder: Path | None) -> Iterator[None]:
    """Let the module that opens images on S3 be the one in `folder`; None changes nothing.

    Raises:
        UsageError: there is none in it, it cannot be imported, or its settings are wrong.
    """
    if folder is None:
        yield
        return
    if not (folder / f"{PRIVATE_READER}.py").is_file():
        raise UsageError(
            f"{folder} has no {PRIVATE_READER}.py", f"`prep emit-yaml --s3-reader {folder}` writes one there."
        )
    place = str(folder.absolute())
    before = sys.modules.pop(PRIVATE_READER, None)
    sys.path.insert(0, place)
    try:
        importlib.invalidate_caches()
        _reader("s3_image")
        yield
    finally:
        sys.path.remove(place)
        sys.modules.pop(PRIVATE_READER, None)
        if before is not None:
            sys.modules[PRIVATE_READER] = before


def ask_again() -> None:
    """Forget which stores gave no answer; a check begins with that."""
    _silent.clear()


def can_open(address: str) -> bool:
    """Whether the image could be opened here: stores need the private reader, which must be importable."""
    return not _is_private(address) or importlib.util.find_spec(PRIVATE_READER) is not None


def address_faults(address: str) -> Iterator[RowFault]:
    """Faults of an image address as such, before it is opened."""
    if not can_open(address):
        yield _NEEDS_S3_READER if address.startswith(S3_SCHEME) else _NEEDS_PRIVATE_STORE
    elif not _is_private(address) and not os.path.isabs(address):  # noqa: PTH117  (opened as text, not as a Path)
        yield _RELATIVE


def image_fault(address: str) -> RowFault | None:
    """Open an image as the loader does, and say what goes wrong.

    The loader hands the path to Pillow and converts to RGB, which decodes all of it; it never sets Pillow's
    LOAD_TRUNCATED_IMAGES, so a truncated file fails. EXIF rotation plays no part. A store that gave no answer is not
    asked for further images, each of which would be waited for as long, until `ask_again`.

    Raises:
        UsageError: the private reader is of no use.
    """
    is_private = _is_private(address)
    if is_private and _scheme(address) in _silent:
        return _NO_ANSWER
    try:
        if not is_private and not Path(address).is_file():
            return _MISSING
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd palettes and large images; the loader goes on
            image = _open_private(address) if is_private else Image.open(address)
            with image:
                image.convert("RGB")
    except FileNotFoundError:
        return _MISSING
    except ConnectionError:
        if not is_private:
            return _UNREADABLE
        _silent.add(_scheme(address))
        return _NO_ANSWER
    except PermissionError:
        return _REFUSED if is_private else _UNREADABLE
    except UsageError:
        raise
    except Exception:
        # As in the loader: whatever is raised, by a decoder or by the private reader, fails the row.
        return _UNREADABLE
    return None


def _is_private(address: str) -> bool:
    return address.startswith((S3_SCHEME, PRIVATE_SCHEME))


def _scheme(address: str) -> str:
    return S3_SCHEME if address.startswith(S3_SCHEME) else PRIVATE_SCHEME


def _reader(function: str) -> Callable[..., Any]:
    """A function of the private reader."""
    try:
        module = importlib.import_module(PRIVATE_READER)
        if callable(
            getattr(module, "settings", None)
        ):  # of the one that prep writes; the environment may say them wrongly
            module.settings()
    except Exception as error:  # whatever is in the module that was found
        raise UsageError(
            f"the module {PRIVATE_READER} cannot be used: {type(error).__name__}: {error}",
            "Mend that; training would meet it too. `prep emit-yaml --s3-reader FOLDER` writes a module that works.",
        ) from error
    found: Callable[..., Any] | None = getattr(module, function, None)
    if found is None:
        raise UsageError(
            f"the module {PRIVATE_READER} ({getattr(module, '__file__', None)}) has no function {function}",
            "It is another one of that name; `prep emit-yaml --s3-reader FOLDER` writes one that opens images.",
        )
    return found


def _open_private(address: str) -> Image.Image:
    if address.startswith(S3_SCHEME):
        return Image.fromarray(_reader("s3_image")(address))
    key = address.removeprefix(PRIVATE_SCHEME)
    get_image = _reader("get_image")
    try:
        pixels = get_image({"strSource": "1024-pil-antialias"}, key)
    except ConnectionError:
        raise
    except Exception:  # the store's own errors are unknown to us; the loader tries the original next
        pixels = get_image({"strSource": "raw"}, key)
    return Image.fromarray(pixels)


def _fault(column: str, problem: str) -> RowFault:
    return RowFault("error", f"{column} {problem}", ROW_FAILS, "Mend or drop such rows where the table is made.")


def _paths(read: Read, value: Any) -> list[str] | None:
    """The paths in a cell; None where it does not hold what it should."""
    if read.holds is Holds.PRIVATE_HASH:
        return [f"{PRIVATE_SCHEME}{value}"]
    if isinstance(value, str):
        if read.holds is Holds.JOINED_PATHS:
            return value.split(";")
        return None if read.holds is Holds.PATHS else [value]
    is_list = isinstance(value, list | tuple | np.ndarray)
    if is_list and read.holds in (Holds.PATHS, Holds.PATH_OR_PATHS) and all(isinstance(p, str) for p in value):
        return list(value)
    return None


def _path_faults(read: Read, paths: list[str] | None) -> list[RowFault]:
    if paths is None:
        return [_fault(read.column, f"is not {read.holds.value}")]
    if not paths:
        return [_EMPTY_LIST]
    return [] if all(paths) else [_EMPTY_PATH]


def _address(read: Read, path: str, arguments: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """`path` behind its prefix and folder, joined as the loader joins them: an absolute path wins."""
    before = [str(arguments[read.prefix])] if read.prefix and arguments.get(read.prefix) else []
    if read.folder and isinstance(row.get(read.folder), str):
        before.append(row[read.folder])
    return os.path.join(*before, path)  # noqa: PTH118  (s3:// prefixes must keep both slashes)


def _turns(read: Read, value: Any) -> tuple[list[dict[str, str]], str]:
    """The turns of a conversation, and what is wrong with them (an empty string: nothing)."""
    if read.holds is Holds.TURNS_AS_JSON:
        if not isinstance(value, str):
            return [], "is not a JSON string"
        try:
            value = json.loads(value)
        except ValueError:
            return [], "is not JSON"
    if not isinstance(value, list | tuple | np.ndarray):
        return [], "is not a list of turns"
    turns = list(value)
    if not all(isinstance(turn, dict) and _is_turn(turn) for turn in turns):
        return [], "has a turn without `from` and `value` texts"
    if turns and turns[0]["from"] not in ("human", "gpt"):
        return turns, "begins with a turn that is neither human nor gpt"
    # The loader drops a first turn that is not human, then insists on an answer.
    rest = turns[1:] if turns and turns[0]["from"] == "gpt" else turns
    if len(rest) < 2 or rest[1]["from"] != "gpt":
        return turns, "has no human turn followed by a gpt turn"
    return turns, ""


def _is_turn(turn: Mapping[str, Any]) -> bool:
    return isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)


def _scores(function: Function, row: Mapping[str, Any]) -> str:
    parts = []
    for column, label, factor in ((AESTHETIC_SCORE, "SCORE", 1), (PREFERENCE_SCORE, "HPS", 10)):
        value = row.get(column)
        if column in function.uses_when_present and not is_null(value):
            parts.append(f"{label} : {factor * float(value):.3f}")  # type: ignore[arg-type]
    return " ".join(parts)
