"""Checkpoints of open_clip as transformers' CLIP takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prep.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

HEADS = {1280: 16}  # of attention, by width; others have one for each 64 numbers, as text's 1,024
_VISION, _TEXT = "vision_model.", "text_model."
_NAMES = {
    "visual.class_embedding": f"{_VISION}embeddings.class_embedding",
    "visual.positional_embedding": f"{_VISION}embeddings.position_embedding.weight",
    "visual.conv1.weight": f"{_VISION}embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": f"{_VISION}pre_layrnorm.weight",  # sic
    "visual.ln_pre.bias": f"{_VISION}pre_layrnorm.bias",
    "visual.ln_post.weight": f"{_VISION}post_layernorm.weight",
    "visual.ln_post.bias": f"{_VISION}post_layernorm.bias",
    "positional_embedding": f"{_TEXT}embeddings.position_embedding.weight",
    "token_embedding.weight": f"{_TEXT}embeddings.token_embedding.weight",
    "ln_final.weight": f"{_TEXT}final_layer_norm.weight",
    "ln_final.bias": f"{_TEXT}final_layer_norm.bias",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_BLOCKS = {"visual.transformer.resblocks.": _VISION, "transformer.resblocks.": _TEXT}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a CLIP of open_clip by transformers' names; what no tower has (`logit_scale`) is left out.

    Queries, keys and values lie one below the other in open_clip's `in_proj`; projections are transposed there.
    """
    return {new: tensor for name, value in state.items() for new, tensor in _renamed(name, value)}


def _renamed(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One tensor's new names and contents."""
    if name in _NAMES:
        yield _NAMES[name], value
    elif name in _PROJECTIONS:
        yield _PROJECTIONS[name], value.T.contiguous()
    for start, tower in _BLOCKS.items():
        if not name.startswith(start):
            continue
        number, _, inner = name.removeprefix(start).partition(".")
        layer = f"{tower}encoder.layers.{number}."
        if inner.startswith("attn.in_proj_"):
            end = inner.removeprefix("attn.in_proj_")
            for part, third in zip("qkv", value.chunk(3), strict=True):
                yield f"{layer}self_attn.{part}_proj.{end}", third
        else:
            module, _, end = inner.rpartition(".")
            yield f"{layer}{_IN_BLOCK.get(module, module)}.{end}", value


def config_of(state: Mapping[str, Tensor], path: Path) -> Any:
    """transformers' `CLIPConfig` of a CLIP of open_clip, read from its tensors' shapes.

    What no shape says is ViT-H-14's: exact GELU, and the heads of attention in `HEADS`.

    Raises:
        DataError: it lacks tensors that such a model has.
    """
    from transformers import CLIPConfig

    try:
        patches = state["visual.positional_embedding"].shape[0] - 1
        patch = state["visual.conv1.weight"].shape[-1]
        vision = _tower(state, "visual.transformer.resblocks.", len(state["visual.class_embedding"]))
        text = _tower(state, "transformer.resblocks.", state["token_embedding.weight"].shape[1])
        words, places = state["token_embedding.weight"].shape[0], state["positional_embedding"].shape[0]
        # The end of a text is the last word, and the highest: open_clip takes the place of the highest.
        ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": 0}
        return CLIPConfig(
            vision_config={**vision, "patch_size": patch, "image_size": patch * round(patches**0.5)},
            text_config={**text, "vocab_size": words, "max_position_embeddings": places, **ends},
            projection_dim=state["visual.proj"].shape[1],
        )
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is no CLIP of open_clip: it lacks {error}", "Fetch it anew.") from error


def _tower(state: Mapping[str, Tensor], start: str, width: int) -> dict[str, Any]:
    """What both towers' configurations say."""
    return {
        "hidden_size": width,
        "intermediate_size": state[f"{start}0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": sum(name.startswith(start) and name.endswith("ln_1.weight") for name in state),
        "num_attention_heads": HEADS.get(width, max(1, width // 64)),
        "hidden_act": "gelu",
    }
