"""A scorer by its name: weights found and checked, model loaded, stream set up."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from prep.errors import ConfigError
from prep.scorers import aesthetic_v1, aesthetic_v2, clip_similarity, hpsv2
from prep.scorers.clip import pick_dtype
from prep.scorers.heads import Head
from prep.scorers.model import Model
from prep.scorers.scorer import SCORERS, Passport, Scorer
from prep.scorers.weights import find_weights, scale_of

EMBEDDINGS = "embeddings as they were given"  # in the place of preprocessing
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

    info = SCORERS[name]
    device = devices(device)[0]
    dtype = pick_dtype(dtype, device)
    module = _MODULES[name]
    found = find_weights(hpsv2.files(name) if module is hpsv2 else module.FILES, weights)
    passport = Passport(
        name,
        scale_of(info.scale, found),
        {file: weight.sha256 for file, weight in found.items()},
        module.PREPROCESSING.name,
        dtype,
        {library: version(library) for library in ("torch", "transformers", "pillow")},
    )
    return Model(info, passport, module.PREPROCESSING, device, *module.load(found, device, dtype))


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
