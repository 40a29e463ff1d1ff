"""Human Preference Score v2 and v2.1: the cosine of image and prompt by a tuned ViT-H/14, about 0.2 to 0.35."""

from __future__ import annotations

from collections.abc import Mapping

from prep.errors import DataError
from prep.scorers import pixels
from prep.scorers.clip import TOKENIZER, ClipTower
from prep.scorers.clip_similarity import cosine
from prep.scorers.model import Parts
from prep.scorers.open_clip import config_of, renamed
from prep.scorers.weights import Hub, Weight, WeightFile, read_tensors

_HOME = Hub("xswu/HPSv2", "main")  # its publisher says no hashes; the passport has those of what came
MODELS = {
    "hpsv2": WeightFile("HPS_v2_compressed.pt", _HOME),
    "hpsv2.1": WeightFile("HPS_v2.1_compressed.pt", _HOME),
}
PREPROCESSING = pixels.HPS


def files(version: str) -> tuple[WeightFile, ...]:
    """The files of `hpsv2` or `hpsv2.1`; its tokenizer is CLIP's."""
    return (MODELS[version], TOKENIZER)


def load(weights: Mapping[str, Weight], device: str, dtype: str) -> Parts:
    """The model of `files`.

    Raises:
        DataError: the checkpoint is none of open_clip's.
    """
    [path] = [weight.path for name, weight in weights.items() if name != TOKENIZER.name]
    state = read_tensors(path).get("state_dict")
    if not isinstance(state, dict):
        raise DataError(f"{path} is no checkpoint of open_clip: it has no `state_dict`", "Fetch it anew.")
    tower = ClipTower(config_of(state, path), renamed(state), weights[TOKENIZER.name].path, device, dtype)
    return cosine(tower)
