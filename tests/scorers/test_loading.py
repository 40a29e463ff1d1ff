"""Scorers loaded from real checkpoints (tiny ones), and what their models make of an image."""

from __future__ import annotations

import io
import json
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from checkpoints import write_clip, write_weights
from prep.errors import ConfigError, DataError, UsageError
from prep.scorers import aesthetic_v1, aesthetic_v2, hpsv2
from prep.scorers.loading import expected_passport, load_head, load_model, load_scorer
from prep.scorers.model import Model
from prep.scorers.pixels import CLIP, HPS, pixels
from prep.scorers.scorer import EMBEDDINGS, SCORERS, Passport, Picture

CAPTIONS = ["a red house", "", "A CAT &amp; a dog", "long " * 100]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    return write_weights(tmp_path_factory.mktemp("weights"))


def picture(seed: int, size: tuple[int, int] = (300, 420)) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (6, 9, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def loaded(name: str, weights: Path, device: str = "cpu", dtype: str | None = None) -> Model:
    return load_model(name, weights=weights, device=device, dtype=dtype)


def scores(model: Model, images: list[Image.Image], texts: list[str]) -> np.ndarray:
    import torch

    batch = torch.from_numpy(np.stack([pixels(png(image), model.preprocessing) for image in images]))
    return model.scores(model.run(batch.to(model.device), texts).float().cpu().numpy())


def hash_of(weights: Path, name: str) -> str:
    return sha256((weights / name).read_bytes()).hexdigest()


def embedded(weights: Path, images: list[Image.Image]) -> np.ndarray:
    """Embeddings by transformers' own way of loading a folder, in float32."""
    import torch
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(weights).eval()
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    values = [(np.asarray(pixels(png(image), CLIP)) / 255 - mean) / std for image in images]
    with torch.inference_mode():
        batch = torch.tensor(np.stack(values), dtype=torch.float32).permute(0, 3, 1, 2)
        rows: np.ndarray = model.visual_projection(model.vision_model(batch).pooler_output).numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


@pytest.mark.parametrize(("name", "module"), [("aesthetic-v1", aesthetic_v1), ("aesthetic-v2", aesthetic_v2)])
def test_an_aesthetic_score_is_the_head_on_the_embedding(name: str, module: Any, weights: Path) -> None:
    images = [picture(seed) for seed in range(4)]
    found = scores(loaded(name, weights), images, [])
    expected = module.load_head(weights / module.HEAD.name).score(embedded(weights, images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 0.01  # or the test would show nothing


def test_a_similarity_is_the_cosine_of_image_and_text(weights: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import CLIPModel

    images = [picture(seed) for seed in range(2)]
    model, tokenizer = CLIPModel.from_pretrained(weights).eval(), Tokenizer.from_file(str(weights / "tokenizer.json"))
    expected = []
    for row, text in zip(embedded(weights, images), ["a red house", "a cat & a dog"], strict=True):
        with torch.inference_mode():
            pooled = model.text_model(torch.tensor([tokenizer.encode(text).ids])).pooler_output
            column = model.text_projection(pooled)[0].numpy()
        expected.append(float(row @ column / np.linalg.norm(column)))
    found = scores(loaded("clip-similarity", weights), images, ["A red   house", "a cat &amp; a DOG"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


@pytest.mark.parametrize("name", SCORERS)
def test_alone_and_in_a_batch_a_picture_has_one_score(name: str, weights: Path) -> None:
    """Within 1e-5: sums are made in another order."""
    model = loaded(name, weights)
    images = [picture(seed) for seed in range(4)]
    together = scores(model, images, CAPTIONS)
    alone = [float(scores(model, [image], [text])[0]) for image, text in zip(images, CAPTIONS, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    again = scores(loaded(name, weights), images, CAPTIONS)
    assert together.tolist() == again.tolist()


def test_the_two_preference_models_are_two(weights: Path) -> None:
    images, texts = [picture(1)], ["a house"]
    assert scores(loaded("hpsv2", weights), images, texts) != scores(loaded("hpsv2.1", weights), images, texts)


@pytest.mark.parametrize("name", SCORERS)
def test_the_whole_way_from_files_to_scores(name: str, weights: Path, tmp_path: Path) -> None:
    """JPEG and PNG of the same pixels agree exactly where the JPEG is too small to be decoded at a fraction."""
    picture(0, (440, 330)).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.png")
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html>")
    pictures = [Picture(str(tmp_path / file), "a house") for file in ("a.jpg", "page.jpg", "gone.jpg", "a.png")]
    scorer = load_scorer(name, weights=weights, device="cpu", batch_size=3, workers=0)
    jpeg, page, gone, png_ = scorer.score(pictures)
    assert (jpeg.status, page.status, gone.status, png_.status) == ("ok", "undecodable", "missing", "ok")
    assert jpeg.value is not None and jpeg.value == pytest.approx(png_.value, abs=1e-6)
    assert scorer.info is SCORERS[name]


def test_a_large_jpeg_scores_as_its_pixels_do(weights: Path, tmp_path: Path) -> None:
    """Decoded at a fraction, an aesthetic score moves by some thousandths."""
    picture(0, (1300, 1000)).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.png")
    scorer = load_scorer("aesthetic-v2", weights=weights, device="cpu", workers=0)
    jpeg, whole = scorer.score([Picture(str(tmp_path / "a.jpg")), Picture(str(tmp_path / "a.png"))])
    assert jpeg.value == pytest.approx(whole.value, abs=5e-3)


def test_passports_say_where_scores_come_from(weights: Path) -> None:
    files = ["config.json", "model.safetensors", aesthetic_v2.HEAD.name]
    hashes = {name: hash_of(weights, name) for name in files}
    libraries = {name: version(name) for name in ("torch", "transformers", "pillow")}
    others = ", ".join(hash_[:12] for hash_ in hashes.values())
    scale = f"aesthetic-v2 with other weights ({others})"
    passport = loaded("aesthetic-v2", weights).passport
    assert passport == Passport("aesthetic-v2", scale, hashes, CLIP.name, "fp32", libraries)

    passport = loaded("hpsv2.1", weights).passport
    assert list(passport.weights) == [hpsv2.MODELS["hpsv2.1"].name, "tokenizer.json"]
    assert passport.preprocessing == HPS.name


@pytest.mark.parametrize("name", SCORERS)
def test_a_passport_is_known_before_a_model_is_loaded(name: str, weights: Path) -> None:
    passport = expected_passport(name, weights, fetch=False)
    assert passport is not None and passport.identity == loaded(name, weights).passport.identity
    published = expected_passport(name, None, fetch=False)  # and nothing is fetched
    if name.startswith("hpsv2"):  # whose hashes nobody says
        assert published is None
    else:
        assert published is not None and published.scale == SCORERS[name].scale


def test_a_head_alone_needs_no_clip(weights: Path, tmp_path: Path) -> None:
    name = aesthetic_v1.HEAD.name
    (tmp_path / name).write_bytes((weights / name).read_bytes())
    head, passport = load_head("aesthetic-v1", weights=tmp_path)
    rows = embedded(weights, [picture(0)])
    np.testing.assert_allclose(head.score(rows), scores(loaded("aesthetic-v1", weights), [picture(0)], []), atol=1e-5)
    scale = f"aesthetic-v1 with other weights ({hash_of(weights, name)[:12]})"
    expected = Passport(
        "aesthetic-v1", scale, {name: hash_of(weights, name)}, EMBEDDINGS, "fp32", {"torch": version("torch")}
    )
    assert passport == expected
    with pytest.raises(ConfigError, match="hpsv2 scores no embeddings"):
        load_head("hpsv2", weights=tmp_path)


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        ("model.safetensors", b"<!DOCTYPE html>", "model.safetensors holds no tensors"),
        ("config.json", b"<!DOCTYPE html>", "config.json is no CLIP configuration"),
        ("config.json", b"[]", "config.json is no CLIP configuration"),
        ("config.json", b"{}", "vision tower: .*Missing key"),
        ("config.json", b'{"projection_dim": null}', "without `projection_dim`"),
        ("tokenizer.json", b"{}", "tokenizer.json is no tokenizer"),
    ],
)
def test_files_that_are_no_models_are_refused(
    file: str, data: bytes, words: str, weights: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(data if name == file else (weights / name).read_bytes())
    with pytest.raises(DataError, match=words):
        loaded("clip-similarity", tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_act", "bogus", "no vision tower can be made as the configuration says: KeyError"),
        ("num_attention_heads", 3, "config.json is no CLIP configuration: .* not a multiple of"),
        ("hidden_size", "big", "config.json is no CLIP configuration: .* expected int, got str"),
    ],
)
def test_configurations_that_make_no_model_are_refused(
    key: str, value: object, words: str, weights: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(weights / name)
    config = json.loads((weights / "config.json").read_text())
    config["vision_config"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=words):
        loaded("clip-similarity", tmp_path)


@pytest.mark.parametrize("name", ["aesthetic-v2", "clip-similarity"])
def test_a_model_that_scores_nothing_is_refused(name: str, weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in weights.iterdir():
        (tmp_path / path.name).symlink_to(path)
    state = load_file(weights / "model.safetensors")
    state["visual_projection.weight"][0, 0] = float("nan")
    (tmp_path / "model.safetensors").unlink()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=f"the model of {name} scores nothing: of a black picture its score is nan"):
        loaded(name, tmp_path)


def test_models_that_do_not_fit_are_refused(weights: Path, tmp_path: Path) -> None:
    import torch

    write_clip(tmp_path, width=512)
    head = aesthetic_v2.HEAD.name
    (tmp_path / head).write_bytes((weights / head).read_bytes())
    with pytest.raises(DataError, match="embeddings of 512 numbers; the head takes 768"):
        loaded("aesthetic-v2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["image_size"] = 336
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="a CLIP for 336 pixels, not 224"):
        loaded("clip-similarity", tmp_path)
    torch.save({"epoch": torch.zeros(1)}, tmp_path / hpsv2.MODELS["hpsv2"].name)
    with pytest.raises(DataError, match="no checkpoint of open_clip"):
        loaded("hpsv2", tmp_path)


def test_arguments_that_cannot_be_honoured(weights: Path, tmp_path: Path) -> None:
    import torch

    with pytest.raises(UsageError, match="--dtype float8"):
        loaded("aesthetic-v2", weights, dtype="float8")
    with pytest.raises(UsageError, match="lacks 3 of 3 files"):
        loaded("aesthetic-v2", tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="--device cuda"):
            loaded("aesthetic-v2", weights, device="cuda")


def test_half_the_precision_is_near_enough(weights: Path) -> None:
    images = [picture(seed) for seed in range(4)]
    exact = scores(loaded("aesthetic-v2", weights), images, [])
    near = loaded("aesthetic-v2", weights, dtype="bf16")
    assert near.passport.dtype == "bf16"
    np.testing.assert_allclose(scores(near, images, []), exact, atol=0.1)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SCORERS)
def test_a_gpu_agrees_with_the_cpu(name: str, dtype: str, weights: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    images = [picture(seed) for seed in range(4)]
    found = scores(loaded(name, weights, "cuda", dtype), images, CAPTIONS)
    expected = scores(loaded(name, weights), images, CAPTIONS)
    np.testing.assert_allclose(found, expected, atol=1e-3 if dtype == "fp32" else 0.1)


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_without_the_libraries_the_next_step_is_told(
    library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match="prep score needs torch and transformers") as caught:
        load_scorer("aesthetic-v2", weights=tmp_path, workers=0)
    assert caught.value.next_step == "pip install 'prep[score]'"
