"""CLIP's two towers: embeddings of images and of texts, of length 1."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prep.errors import DataError, UsageError
from prep.scorers.weights import Hub, Weight, WeightFile, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

VIT_L_14 = Hub("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")
CONFIG = WeightFile("config.json", VIT_L_14, "8a09b467700c58138c29d53c605b34ebc69beaadd13274a8a2af8ad2c2f4032a")
MODEL = WeightFile(
    "model.safetensors", VIT_L_14, "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb", 1_710_540_580
)
TOKENIZER = WeightFile("tokenizer.json", VIT_L_14, "a83e0809aa4c3af7208b2df632a7a69668c6d48775b3c3fe4e1b1199d1f8b8f4")

MEAN = (0.48145466, 0.4578275, 0.40821073)  # https://github.com/openai/CLIP, clip.py, _transform
STD = (0.26862954, 0.26130258, 0.27577711)
SIDE = 224  # of images, in pixels
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ANEW = "Fetch the model's files anew, all of one model."
_PARTS = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}


class ClipTower:
    """A CLIP model on one device: its image tower, and its text tower where there is a tokenizer.

    Args:
        config: transformers' `CLIPConfig`.
        state: tensors by transformers' names for `CLIPModel`.
        tokenizer: the path of a `tokenizer.json`.
        dtype: a key of `DTYPES`.

    Raises:
        DataError: the tensors are not those of the configuration, or the tokenizer is none.
    """

    def __init__(
        self, config: Any, state: Mapping[str, Tensor], tokenizer: Path | None, device: str, dtype: str
    ) -> None:
        import torch
        from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

        if not isinstance(config.projection_dim, int):
            raise DataError("a CLIP configuration without `projection_dim`", "Give the scorer's own.")
        self.width = config.projection_dim
        self.device = device
        self._dtype = getattr(torch, DTYPES[dtype])
        self._mean, self._std = (torch.tensor(values, device=device).mul(255) for values in (MEAN, STD))
        if config.vision_config.image_size != SIDE:
            side = config.vision_config.image_size
            raise DataError(f"a CLIP for {side} pixels, not {SIDE}", "Give the scorer's own.")
        config.vision_config.projection_dim = config.text_config.projection_dim = self.width
        self._vision = self._load(CLIPVisionModelWithProjection, config.vision_config, state, "vision")
        if tokenizer is not None:
            self._text = self._load(CLIPTextModelWithProjection, config.text_config, state, "text")
            self._tokenizer = _read_tokenizer(tokenizer, config.text_config.max_position_embeddings)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Embeddings of length 1, float32 [n, width], of pixels uint8 [n, side, side, 3] on the device."""
        import torch

        with torch.inference_mode():
            values = ((pixels - self._mean) / self._std).permute(0, 3, 1, 2).to(self._dtype)
            return _normalized(self._vision(pixel_values=values).image_embeds)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embeddings of length 1, float32 [n, width]; what is longer than 77 tokens is cut, as CLIP's own code can.

        HTML entities are resolved twice, as there; its mending of wrongly decoded characters (ftfy) is left out.
        """
        import torch

        encoded = self._tokenizer.encode_batch([html.unescape(html.unescape(text)) for text in texts])
        with torch.inference_mode():
            tokens = torch.tensor([text.ids for text in encoded])
            if self.device != "cpu":
                tokens = tokens.pin_memory().to(self.device, non_blocking=True)
            return _normalized(self._text(input_ids=tokens).text_embeds)

    def _load(self, kind: Any, config: Any, state: Mapping[str, Tensor], part: str) -> Any:
        """One tower with its tensors; it is made without memory, as filling it with random numbers takes seconds."""
        import torch

        own = {name: tensor for name, tensor in state.items() if name.startswith(_PARTS[part])}
        try:
            with torch.device("meta"):
                model = kind(config)
        except Exception as error:  # whatever numbers and names it does not expect lead to
            raise DataError(f"no {part} tower can be made as the configuration says: {error!r}", ANEW) from error
        try:
            model.load_state_dict({name: own[name] for name in own if not name.endswith("position_ids")}, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"the {part} tower: {reason}", ANEW) from error
        for module in model.modules():
            if hasattr(module, "position_ids"):  # the one buffer that no file has
                module.position_ids = torch.arange(module.position_ids.shape[-1]).expand(1, -1)
        return model.to(self.device, self._dtype).eval()


def load_clip(weights: Mapping[str, Weight], device: str, dtype: str) -> ClipTower:
    """The model of `CONFIG` and `MODEL`; with a text tower where `TOKENIZER` is among the files.

    Raises:
        DataError: the files are no CLIP model's, or not of one model.
    """
    from transformers import CLIPConfig

    path = weights[CONFIG.name].path
    try:
        config = CLIPConfig.from_json_file(path)
    except Exception as error:  # the library raises nothing more exact
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{path} is no CLIP configuration: {reason}", "Fetch it anew.") from error
    tokenizer = weights[TOKENIZER.name].path if TOKENIZER.name in weights else None
    return ClipTower(config, read_tensors(weights[MODEL.name].path), tokenizer, device, dtype)


def pick_dtype(asked: str | None, device: str) -> str:
    """A key of `DTYPES`: as asked, else bf16 on a GPU that computes in it, fp16 on an older one, fp32 on a CPU.

    Raises:
        UsageError: no such key.
    """
    if asked is not None:
        if asked not in DTYPES:
            raise UsageError(f"--dtype {asked} is none that scorers know", f"Give one of {', '.join(DTYPES)}.")
        return asked
    if not device.startswith("cuda"):
        return "fp32"
    import torch

    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def _normalized(embeddings: Tensor) -> Tensor:
    """In float32 and of length 1; a length of 0 counts as 1, as in LAION's code."""
    embeddings = embeddings.float()
    lengths = embeddings.norm(dim=-1, keepdim=True)
    return embeddings / lengths.masked_fill(lengths == 0, 1)


def _read_tokenizer(path: Path, length: int) -> Any:
    """CLIP's byte-pair encoding, padded to the longest of a batch.

    With which token it is padded does not matter: no token sees those behind it, and the first end counts.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more exact
        raise DataError(f"{path} is no tokenizer: {error}", "Fetch it anew.") from error
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding()
    return tokenizer
