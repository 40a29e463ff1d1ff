"""The files of models: where they come from, whether they are the published ones, and the tensors in them."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.config import HuggingFaceSource
from prep.errors import DataError, SourceError, UsageError
from prep.files import hash_file, size_of
from prep.progress import bar
from prep.sources import Part, module_of
from prep.sources.transfer import Session

_DAMAGED = (pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError)
BY_HAND = "Check the network, or copy the scorer's files to a folder and give it with `--weights`."


@dataclass(frozen=True)
class Hub:
    """A repository of models on the hub, at one revision."""

    repo: str
    revision: str


@dataclass(frozen=True)
class WeightFile:
    """A file as its publisher has it.

    Attributes:
        home: where it is: on the hub, or an address.
        sha256: in hex; None where the publisher's is not known.
        size_bytes: so that people know what they fetch.
    """

    name: str
    home: Hub | str
    sha256: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class Weight:
    """A file that is here.

    Attributes:
        sha256: of its bytes.
        is_published: they are its publisher's, or nobody knows what those are.
    """

    path: Path
    sha256: str
    is_published: bool = True


def find_weights(files: Sequence[WeightFile], folder: Path | None = None) -> dict[str, Weight]:
    """Each file by its name, hashed once: from `folder`, or from the publishers by way of a cache.

    In a folder other bytes than the publisher's are taken, and said to be such; `scale_of` names them. From the
    hub its own client fetches and caches; files of other homes are kept in `~/.cache/prep/weights`.

    Raises:
        UsageError: the folder lacks files.
        SourceError: a file cannot be had, or is not the published one.
    """
    if folder is None:
        return {file.name: _published(file) for file in files}
    missing = [file for file in files if size_of(folder / file.name) is None]
    if missing:
        lines = "".join(f"\n  {file.name}, from {_words(file.home)}" for file in missing)
        raise UsageError(f"{folder} lacks {len(missing)} of {len(files)} files:{lines}", "Copy them there.")
    hashes = {file.name: hash_file(folder / file.name) for file in files}
    return {
        file.name: Weight(folder / file.name, hashes[file.name], file.sha256 in (None, hashes[file.name]))
        for file in files
    }


def scale_of(scale: str, weights: Mapping[str, Weight]) -> str:
    """The scale of scores made with these files: the scorer's own only with the published ones."""
    others = [weight.sha256[:12] for weight in weights.values() if not weight.is_published]
    return f"{scale} with other weights ({', '.join(others)})" if others else scale


def read_tensors(path: Path) -> dict[str, Any]:
    """What a file of tensors holds, on the CPU: tensors by name, or dicts of them; no code in it is run.

    Raises:
        DataError: it is none, or holds more than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGED, struct.error, SafetensorError) as error:
        raise DataError(f"{path} holds no tensors, or more than tensors", "Fetch it anew.") from error
    if not isinstance(held, dict):
        raise DataError(f"{path} holds no tensors by name", "Fetch it anew.")
    return held


def _published(file: WeightFile) -> Weight:
    """A file as its publisher has it, from a cache or by way of one."""
    if isinstance(file.home, str):
        return _from_web(file, file.home)
    path = _from_hub(file, file.home)
    found = hash_file(path)
    if file.sha256 not in (None, found):
        raise SourceError(
            f"{path} has SHA-256 {found}, not {file.sha256} as published",
            "Delete it, then run the same command. To score with other weights, give their folder with `--weights`.",
        )
    return Weight(path, found)


def _from_hub(file: WeightFile, home: Hub) -> Path:
    """Where the hub's client has a file in its cache; it fetches what is not there."""
    # Says what is wrong with HF_ENDPOINT, which the client would break off over.
    module_of(HuggingFaceSource(kind="huggingface", repo=home.repo))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    from prep.sources.huggingface import check_token

    check_token()
    try:
        return Path(hf_hub_download(home.repo, file.name, revision=home.revision))
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise SourceError(f"{file.name} cannot be had from {_words(home)}: {reason}", BY_HAND) from error


def _from_web(file: WeightFile, url: str) -> Weight:
    """A file from its address, kept in a cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    path = cache / "prep" / "weights" / file.name
    if size_of(path) is not None and (found := hash_file(path)) == file.sha256:
        return Weight(path, found)
    part = Part(file.name, url, file.size_bytes, file.sha256)
    with bar(f"fetch {file.name}", file.size_bytes, "B") as advance, Session(advance) as session:
        try:
            return Weight(path, session.bring(part, path))
        except SourceError as error:
            raise SourceError(error.message, BY_HAND) from error


def _words(home: Hub | str) -> str:
    return f"hub model {home.repo} at {home.revision[:12]}" if isinstance(home, Hub) else home
