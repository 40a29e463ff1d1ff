"""Tiny models with random weights, as their publishers' files: what `--weights` takes. They need torch.

All have ViT-L/14's embeddings of 768 numbers, so that LAION's heads fit, and else next to nothing.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from prep.scorers import aesthetic_v1, aesthetic_v2, hpsv2
from prep.scorers.heads import WIDTH

WORDS = 514  # of the tokenizer: 256 bytes, the same at a word's end, start and end
ENDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as in the published file, where they are wrong
HIDDEN, LAYERS, PATCH, PLACES = 128, 2, 56, 77


def write_weights(folder: Path, seed: int = 0) -> Path:
    """All files of all scorers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder, seed)
    write_heads(folder, seed)
    for number, name in enumerate(hpsv2.MODELS):
        write_hps(folder, name, seed + number)
    return folder


def write_clip(folder: Path, seed: int = 0, width: int = WIDTH) -> None:
    """`config.json`, `model.safetensors` and `tokenizer.json` of a CLIP of two layers."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    tower = {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "projection_dim": width,
    }
    config = CLIPConfig(
        vision_config={**tower, "patch_size": PATCH, "image_size": 224},
        text_config={**tower, "vocab_size": WORDS, "max_position_embeddings": PLACES, **ENDS},
        projection_dim=width,
        initializer_factor=8.0,  # or all images would look alike
    )
    torch.manual_seed(seed)
    save_file(CLIPModel(config).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    write_tokenizer(folder / "tokenizer.json")


def write_tokenizer(path: Path) -> None:
    """CLIP's way of making tokens of a text, without any merges: one token a byte."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", WORDS - 1), ("<|startoftext|>", WORDS - 2), add_prefix_space=False
    )
    tokenizer.save(str(path))


def write_heads(folder: Path, seed: int = 0) -> None:
    """Both heads of LAION's, in their real shapes; scores are about 5."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    v1 = {"weight": 4 * torch.randn(1, WIDTH, generator=generator), "bias": torch.tensor([5.0])}
    torch.save(v1, folder / aesthetic_v1.HEAD.name)
    v2 = {}
    for name, (wide, narrow) in zip(aesthetic_v2.LAYERS, pairwise(aesthetic_v2.WIDTHS), strict=True):
        v2[f"{name}weight"] = 1.5 * torch.randn(narrow, wide, generator=generator) / wide**0.5
        v2[f"{name}bias"] = torch.zeros(narrow)
    v2[f"{aesthetic_v2.LAYERS[-1]}bias"] += 5
    torch.save(v2, folder / aesthetic_v2.HEAD.name)


def write_hps(folder: Path, name: str = "hpsv2", seed: int = 0) -> None:
    """The checkpoint of `hpsv2` or `hpsv2.1`, as open_clip saves one, and the tokenizer."""
    import torch

    torch.save({"state_dict": open_clip_state(seed)}, folder / hpsv2.MODELS[name].name)
    write_tokenizer(folder / "tokenizer.json")


def open_clip_state(seed: int = 0, width: int = 64) -> dict[str, Any]:
    """Random tensors by open_clip's names."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    state = {
        "logit_scale": torch.tensor(4.6),
        "positional_embedding": some(PLACES, HIDDEN),
        "text_projection": some(HIDDEN, width),
        "token_embedding.weight": some(WORDS, HIDDEN),
        "visual.class_embedding": some(HIDDEN),
        "visual.positional_embedding": some((224 // PATCH) ** 2 + 1, HIDDEN),
        "visual.proj": some(HIDDEN, width),
        "visual.conv1.weight": some(HIDDEN, 3, PATCH, PATCH),
    }
    shapes = {
        "attn.in_proj_weight": (3 * HIDDEN, HIDDEN),
        "attn.in_proj_bias": (3 * HIDDEN,),
        "attn.out_proj.weight": (HIDDEN, HIDDEN),
        "attn.out_proj.bias": (HIDDEN,),
        "mlp.c_fc.weight": (2 * HIDDEN, HIDDEN),
        "mlp.c_fc.bias": (2 * HIDDEN,),
        "mlp.c_proj.weight": (HIDDEN, 2 * HIDDEN),
        "mlp.c_proj.bias": (HIDDEN,),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for block in [f"{tower}transformer.resblocks.{n}" for tower in ("visual.", "") for n in range(LAYERS)]:
        state |= {f"{block}.{name}": some(*shape) for name, shape in shapes.items()}
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
    for norm in norms:
        state |= {f"{norm}.weight": 1 + 0.1 * some(HIDDEN), f"{norm}.bias": some(HIDDEN)}
    return state
