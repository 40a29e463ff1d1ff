"""A scorer by its name: weights found and checked, model loaded, stream set up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np

from prep.errors import ConfigError, DataError
from prep.scorers import aesthetic_v1, aesthetic_v2, clip_similarity, hpsv2
from prep.scorers.clip import ANEW, pick_dtype
from prep.scorers.heads import Head
from prep.scorers.model import Model
from prep.scorers.scorer import EMBEDDINGS, SCORERS, Passport, Scorer
from prep.scorers.weights import Weight, WeightFile, find_weights, scale_of

_HEADS = {"aesthetic-v1": aesthetic_v1, "aesthetic-v2": aesthetic_v2}
_MODULES = {**_HEADS, "hpsv2": hpsv2, "hpsv2.1": hpsv2, "clip-similarity": clip_similarity}


def load_scorer(
    name: str,
    *,
    weights: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    workers: int,
    s3_endpoint: str | None = None,
) -> Scorer:
    """The scorer called `name`, ready to score.

    Args:
        weights: a folder that has the files; by default they come from their publishers.
        device: `cpu`, `cuda`, `cuda:1`; by default the first GPU, else the CPU.
        dtype: `fp32`, `bf16` or `fp16`; by default bf16 on a GPU that has it, fp32 on a CPU.
        batch_size: in images; found out by default.
        workers: processes that read and decode.
        s3_endpoint: of the images' store; by default AWS.

    Raises:
        ConfigError: torch or transformers are not installed.
        UsageError: a device that is not there, or a folder without the files.
        SourceError: weights that cannot be had, or are not the published ones.
        DataError: weights that are no such model's.
    """
    model = load_model(name, weights=weights, device=device, dtype=dtype)
    from prep.scorers.stream import Stream

    return Stream(model, batch_size=batch_size, workers=workers, s3_endpoint=s3_endpoint)


def load_model(name: str, *, weights: Path | None, device: str | None, dtype: str | None) -> Model:
    """The scorer's model on one device; arguments and errors are those of `load_scorer`."""
    check_installed("torch", "transformers")
    from prep.scorers.devices import devices

    device = devices(device)[0]
    dtype = pick_dtype(dtype, device)
    module = _MODULES[name]
    found = find_weights(_files(name), weights)
    libraries = {library: version(library) for library in ("torch", "transformers", "pillow")}
    passport = replace(_passport(name, found), dtype=dtype, libraries=libraries)
    model = Model(SCORERS[name], passport, module.PREPROCESSING, device, *module.load(found, device, dtype))
    _try_out(model)
    return model


def expected_passport(name: str, weights: Path | None, *, fetch: bool) -> Passport | None:
    """The passport of scores by these weights, without dtype and libraries, which no comparison needs.

    Args:
        weights: a folder that has the files; None for their publishers'.
        fetch: fetch files whose hashes nobody knows before; else None is given.

    Raises:
        UsageError, SourceError: as in `load_scorer`.
    """
    files = _files(name)
    if weights is None and all(file.sha256 for file in files):
        return _passport(name, {file.name: Weight(Path(file.name), file.sha256 or "") for file in files})
    return _passport(name, find_weights(files, weights)) if fetch or weights is not None else None


def _files(name: str) -> tuple[WeightFile, ...]:
    module = _MODULES[name]
    return hpsv2.files(name) if module is hpsv2 else module.FILES


def _passport(name: str, found: Mapping[str, Weight]) -> Passport:
    hashes = {file: weight.sha256 for file, weight in found.items()}
    return Passport(name, scale_of(SCORERS[name].scale, found), hashes, _MODULES[name].PREPROCESSING.name, "")


def _try_out(model: Model) -> None:
    """Raise DataError unless the model gives a picture, a black one, a score."""
    import torch

    side = model.preprocessing.side
    try:
        with torch.inference_mode():
            results = model.run(torch.zeros(1, side, side, 3, dtype=torch.uint8, device=model.device), ["a"])
            [score] = model.scores(results.float().cpu().numpy())
    except torch.OutOfMemoryError:
        return  # which the stream tells of
    except Exception as error:  # whatever a configuration leads to that is not the model's
        raise DataError(f"the model of {model.info.name} does not run: {error!r}", ANEW) from error
    if not np.isfinite(score):
        raise DataError(
            f"the model of {model.info.name} scores nothing: of a black picture its score is {score}",
            "Fetch its weights anew; or where --dtype is fp16, which cannot hold large numbers, give another.",
        )


def load_head(name: str, *, weights: Path | None) -> tuple[Head, Passport]:
    """The head of `aesthetic-v1` or `aesthetic-v2` alone, for embeddings that are there; no CLIP is needed.

    Raises:
        ConfigError: torch is not installed, or the scorer is not made of embeddings.
        UsageError, SourceError, DataError: as in `load_scorer`.
    """
    if name not in _HEADS:
        raise ConfigError(
            f"{name} scores no embeddings: it needs the images", f"Embeddings go with {', '.join(_HEADS)}."
        )
    check_installed("torch", "safetensors")
    module = _HEADS[name]
    found = find_weights([module.HEAD], weights)
    hashes = {file: weight.sha256 for file, weight in found.items()}
    passport = Passport(
        name, scale_of(SCORERS[name].scale, found), hashes, EMBEDDINGS, "fp32", {"torch": version("torch")}
    )
    return module.load_head(found[module.HEAD.name].path), passport


def check_installed(*libraries: str) -> None:
    """Import what only scoring needs.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    for library in libraries:
        try:
            import_module(library)
        except ImportError as error:
            message = f"prep score needs torch and transformers ({error})"
            raise ConfigError(message, "pip install 'prep[score]'") from error
