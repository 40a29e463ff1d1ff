"""prep.lock as a file: its form, and reading one that somebody may have edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prep.errors import WorkspaceError

LOCK_VERSION = 1  # of the file's form; files from before it was written have none, and only `datasets`

_Count = Annotated[int, Field(ge=0)]


class _Form(BaseModel):
    """A part of the file. Keys that are not named here are a newer `prep`'s, and may hold anything."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Recipe(_Form):
    name: str = ""
    trainer: str = ""
    weights: dict[str, float] = {}
    batch_sizes: dict[str, float] = {}
    entries: dict[str, dict[str, Any]] = {}
    order: list[str] = []


class _Dataset(_Form):
    """Its `slice` is looked at where it is used: there is a command that forgets it."""

    asked: str = ""
    origin: str = Field(default="", alias="from")
    source: dict[str, Any] = {}
    repo: str = ""
    revision: str = ""
    folder: str = ""
    parts: _Count = 0
    size_bytes: _Count = 0


class _Contents(_Form):
    sha256: str = ""
    images: dict[str, _Count] = {}
    encode: dict[str, Any] = {}


class _Scores(_Form):
    passports: list[dict[str, Any]] = []


class _Table(_Form):
    dataset: str
    kind: str
    definition: str
    columns: list[str]
    rules: dict[str, Any]
    samples: _Count
    kept: _Count
    dropped: dict[str, _Count]
    rows: str
    text_only: _Count = 0
    has_images: bool = True
    dedup: dict[str, Any] = {}
    scores: dict[str, _Scores] = {}


class _LockFile(_Form):
    version: Annotated[int, Field(ge=1)] = LOCK_VERSION
    made_with: dict[str, int] = {}
    recipe: _Recipe = _Recipe()
    datasets: dict[str, _Dataset]
    contents: dict[str, _Contents] = {}
    tables: dict[str, _Table] = {}


def read_lock(path: Path) -> dict[str, Any]:
    """What a lock file says; one of before there were versions has `datasets` alone.

    Raises:
        WorkspaceError: it is none (the first key that is wrong is named), or of a newer `prep`.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.get("version", LOCK_VERSION)
        if type(version) is int and version > LOCK_VERSION:
            raise WorkspaceError(
                f"{path}: a lock file of version {version}, and this prep knows {LOCK_VERSION}", "Use a newer prep."
            )
        _LockFile.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        why = first["msg"].partition(" or instance of ")[0]
        raise _no_lock(path, f": {printable(key)}: {why}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise _no_lock(path) from error
    return {"version": LOCK_VERSION, **data}


def _no_lock(path: Path, why: str = "") -> WorkspaceError:
    return WorkspaceError(f"{path}: not a lock file{why}", "Restore it, or delete it to resolve revisions anew.")


def printable(text: str) -> str:
    """Text of publishers and of edited files, without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
