"""A checkpoint of open_clip in transformers' CLIP: the same embeddings as open_clip's own arithmetic gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoints import HIDDEN, LAYERS, PATCH, PLACES, open_clip_state, write_tokenizer
from prep.errors import DataError
from prep.scorers.clip import ClipTower
from prep.scorers.open_clip import config_of, renamed

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")


def layer_norm(state: dict[str, Any], name: str, values: Any) -> Any:
    return torch.nn.functional.layer_norm(values, (HIDDEN,), state[f"{name}.weight"], state[f"{name}.bias"])


def transformer(state: dict[str, Any], start: str, values: Any, mask: Any) -> Any:
    """Blocks as open_clip has them: torch's own attention, exact GELU, norms before."""
    for number in range(LAYERS):
        name = f"{start}transformer.resblocks.{number}"
        attention = torch.nn.MultiheadAttention(HIDDEN, HIDDEN // 64, batch_first=True)
        own = f"{name}.attn."
        attention.load_state_dict({key.removeprefix(own): state[key] for key in state if key.startswith(own)})
        normed = layer_norm(state, f"{name}.ln_1", values)
        values = values + attention(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        wide = torch.nn.functional.linear(
            layer_norm(state, f"{name}.ln_2", values), state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"]
        )
        narrow = state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"]
        values = values + torch.nn.functional.linear(torch.nn.functional.gelu(wide), *narrow)
    return values


def embedded_images(state: dict[str, Any], pixels: Any) -> Any:
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    values = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    patches = torch.nn.functional.conv2d(values, state["visual.conv1.weight"], stride=PATCH).flatten(2).mT
    first = state["visual.class_embedding"].expand(len(pixels), 1, HIDDEN)
    values = torch.cat([first, patches], 1) + state["visual.positional_embedding"]
    values = transformer(state, "visual.", layer_norm(state, "visual.ln_pre", values), None)
    embeddings = layer_norm(state, "visual.ln_post", values[:, 0]) @ state["visual.proj"]
    return torch.nn.functional.normalize(embeddings, dim=-1)


def embedded_texts(state: dict[str, Any], tokenizer: Path, texts: list[str]) -> Any:
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    reader.enable_truncation(PLACES)
    ids = [reader.encode(text).ids for text in texts]
    words = torch.tensor([row + [0] * (PLACES - len(row)) for row in ids])
    mask = torch.full((PLACES, PLACES), float("-inf")).triu(1)
    values = transformer(state, "", state["token_embedding.weight"][words] + state["positional_embedding"], mask)
    ends = layer_norm(state, "ln_final", values)[range(len(texts)), words.argmax(dim=-1)]
    return torch.nn.functional.normalize(ends @ state["text_projection"], dim=-1)


def test_embeddings_are_those_of_open_clip(tmp_path: Path) -> None:
    state, tokenizer = open_clip_state(), tmp_path / "tokenizer.json"
    write_tokenizer(tokenizer)
    tower = ClipTower(config_of(state, tmp_path), renamed(state), tokenizer, "cpu", "fp32")
    pixels = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        images = embedded_images(state, pixels)
        texts = embedded_texts(state, tokenizer, ["a cat", "", "two dogs & a bone", "long " * 40])
    assert (images[0] - images[1]).abs().max() > 1e-2  # they do tell pictures apart
    torch.testing.assert_close(tower.embed_images(pixels), images, rtol=0, atol=1e-5)
    found = tower.embed_texts(["A  cat", "", "Two dogs &amp;amp; a bone", "long " * 40])
    torch.testing.assert_close(found, texts, rtol=0, atol=1e-5)


def test_the_configuration_of_the_real_one_is_read_from_shapes(tmp_path: Path) -> None:
    vision, text = "visual.transformer.resblocks.", "transformer.resblocks."
    shapes = {
        "visual.class_embedding": (1280,),
        "visual.positional_embedding": (257, 1280),
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.proj": (1280, 1024),
        "token_embedding.weight": (49408, 1024),
        "positional_embedding": (77, 1024),
        **{f"{vision}{number}.ln_1.weight": (1280,) for number in range(32)},
        **{f"{text}{number}.ln_1.weight": (1024,) for number in range(24)},
        f"{vision}0.mlp.c_fc.weight": (5120, 1280),
        f"{text}0.mlp.c_fc.weight": (4096, 1024),
    }
    config = config_of({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, tmp_path)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    towers = [[getattr(part, name) for name in names] for part in (config.vision_config, config.text_config)]
    assert towers == [[1280, 5120, 32, 16, "gelu"], [1024, 4096, 24, 16, "gelu"]]
    assert (config.projection_dim, config.vision_config.patch_size, config.vision_config.image_size) == (1024, 14, 224)
    text_config = config.text_config
    assert (text_config.vocab_size, text_config.max_position_embeddings, text_config.eos_token_id) == (49408, 77, 49407)


def test_what_is_no_clip_of_open_clip_is_refused(tmp_path: Path) -> None:
    state, tokenizer = open_clip_state(), tmp_path / "tokenizer.json"
    write_tokenizer(tokenizer)
    with pytest.raises(DataError, match=r"HPS\.pt is no CLIP of open_clip: it lacks 'visual\.proj'"):
        config_of({name: state[name] for name in state if name != "visual.proj"}, Path("HPS.pt"))
    del state["visual.transformer.resblocks.1.mlp.c_fc.bias"]
    with pytest.raises(DataError, match=r"vision tower: .*Missing key.* .*layers\.1\.mlp\.fc1\.bias"):
        ClipTower(config_of(state, tmp_path), renamed(state), tokenizer, "cpu", "fp32")
