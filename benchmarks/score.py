"""How fast `prep score` feeds its models: the whole stream beside the bare model on pixels that are ready.

python benchmarks/score.py [--device cpu] [--models vit-l-14 vit-h-14] [--images 20000] [--bare-images 4000]
                           [--workers 16] [--batch-size 256] [--sides 512 1024] [--note TEXT] [--output FILE]

Needs `prep[score]`. Models have random weights in their real shapes, and take no text; `tiny` is for a try on a CPU.
Pictures are JPEGs of each side in a folder of /tmp, over and over the same, so that they come from the page cache.
Writes benchmarks/results/score.md. Aims: ViT-L/14's stream at 60 % of the bare model's rate with 16 cores to feed it,
and more than 112 images a second on a GPU, which is what NeMo Curator's nightly benchmark gives.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle, islice, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from prep.engine import default_workers
from prep.scorers.aesthetic_v2 import WIDTHS
from prep.scorers.clip import ClipTower, pick_dtype
from prep.scorers.devices import CPU, devices, open_link
from prep.scorers.heads import Head
from prep.scorers.model import Model
from prep.scorers.pixels import CLIP
from prep.scorers.reading import BLOCK
from prep.scorers.scorer import SCORERS, Passport, Picture
from prep.scorers.stream import CPU_BATCH, Stream

INFO = SCORERS["aesthetic-v2"]
PHOTOS = 64  # different ones of each side
AIM_SHARE, AIM_RATE = 0.6, 112
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 of the SXM cards, by NVIDIA's data sheets
RESULT = Path(__file__).parent / "results" / "score.md"

TITLE = "# Score: the whole stream beside the bare model"
EXPLAINED = "Images a second; shares are of the seconds that each step takes when it runs alone."
HEADER = """\
| model | side | batch | decode | copy | bare model | stream | of the bare | decode | copy | model | of bf16's peak |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
NO_GPU = """\
Not measured, for want of a GPU: copies to a device (here they stay in memory), bf16 and its share of a card's peak, \
the batch size that is found, and the aims, which are for a GPU."""
NO_COMPILE = "`torch.compile` is not used: no measurement on a GPU has shown yet that it pays."


@dataclass(frozen=True)
class Shape:
    """A CLIP image tower for pictures of 224 pixels."""

    name: str
    hidden: int
    layers: int
    heads: int
    patch: int
    width: int
    activation: str

    @property
    def flops(self) -> int:
        """Operations for an image: two for each product of the matrices, attention's and the patches' among them."""
        tokens = (224 // self.patch) ** 2 + 1
        layer = 12 * tokens * self.hidden**2 + 2 * tokens**2 * self.hidden
        return 2 * (self.layers * layer + (tokens - 1) * self.hidden * 3 * self.patch**2)


SHAPES = {
    "vit-l-14": Shape("ViT-L/14", 1024, 24, 16, 14, 768, "quick_gelu"),
    "vit-h-14": Shape("ViT-H/14", 1280, 32, 16, 14, 1024, "gelu"),
    "tiny": Shape("a tiny ViT of 4 layers", 256, 4, 4, 32, 256, "quick_gelu"),
}


def make_model(shape: Shape, device: str, dtype: str) -> Model:
    """The tower with random weights, and a head of aesthetic-v2's size."""
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    vision = {
        "hidden_size": shape.hidden,
        "intermediate_size": 4 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "patch_size": shape.patch,
        "image_size": 224,
        "projection_dim": shape.width,
        "hidden_act": shape.activation,
    }
    config = CLIPConfig(vision_config=vision, projection_dim=shape.width)
    tower = ClipTower(config, CLIPVisionModelWithProjection(config.vision_config).state_dict(), None, device, dtype)
    numbers = np.random.default_rng(0)
    sizes = pairwise([shape.width, *WIDTHS[1:]])
    head = Head(tuple((numbers.normal(0, 1, (out, into)).astype(np.float32), np.zeros(out)) for into, out in sizes))
    passport = Passport(INFO.name, "random weights", {}, CLIP.name, dtype)
    return Model(INFO, passport, CLIP, device, lambda pixels, texts: tower.embed_images(pixels), head.score)


def make_photos(folder: Path, side: int) -> list[Picture]:
    """Write JPEGs of 3:4 with soft shapes and grain, which take the room and the time that photographs take."""
    numbers = np.random.default_rng(side)
    pictures = []
    for number in range(PHOTOS):
        size = (side, side * 3 // 4)
        shapes = numbers.integers(0, 255, (size[1] // 24, size[0] // 24, 3), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(shapes).resize(size, Image.Resampling.BICUBIC))
        grained = (soft + numbers.normal(0, 12, (*soft.shape[:2], 1))).clip(0, 255).astype(np.uint8)
        path = folder / f"{side}-{number}.jpg"
        Image.fromarray(grained).save(path, quality=85)
        pictures.append(Picture(str(path)))
    return pictures


# -- measuring, all in images a second -------------------------------------------------------------------------------


def stream_rate(stream: Stream, pictures: list[Picture], count: int) -> float:
    """The whole stream's, its workers' start included."""
    start = time.perf_counter()
    scores = list(stream.score(islice(cycle(pictures), count)))
    rate = count / (time.perf_counter() - start)
    assert len(scores) == count
    assert all(score.status == "ok" for score in scores)
    return rate


def decode_rate(pictures: list[Picture], count: int, workers: int) -> float:
    """Of reading and decoding alone: a stream whose model does nothing."""
    nothing = Model(INFO, Passport("", "", {}, "", ""), CLIP, CPU, lambda pixels, _: pixels[:, 0, 0, :1], np.ravel)
    return stream_rate(Stream(nothing, batch_size=BLOCK, workers=workers), pictures, count)


def copy_rate(device: str, count: int) -> float:
    """Of pinning and copying alone, block by block."""
    link = open_link(device)
    block = np.zeros((BLOCK, CLIP.side, CLIP.side, 3), np.uint8)
    blocks = max(1, count // BLOCK)
    for rounds in (4, blocks):  # the first to warm up
        link.synchronize()
        start = time.perf_counter()
        deque((link.upload(block) for _ in range(rounds)), maxlen=8)
        link.synchronize()
    return blocks * BLOCK / (time.perf_counter() - start)


def bare_rate(model: Model, batch_size: int, count: int) -> float:
    """The model's own, on a batch that is on the device."""
    import torch

    batch = torch.randint(0, 256, (batch_size, CLIP.side, CLIP.side, 3), dtype=torch.uint8, device=model.device)
    link = open_link(model.device)
    rounds = max(1, count // batch_size)
    for repeats in (1, rounds):
        link.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            model.run(batch, [])
        link.synchronize()
    return rounds * batch_size / (time.perf_counter() - start)


# -- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Rates of one model and one side."""

    shape: Shape
    side: int
    batch_size: int
    decode: float
    copy: float
    bare: float
    stream: float

    def row(self, peak: float | None) -> str:
        """A line of the table; shares are those of the seconds that each step would take alone."""
        seconds = [1 / rate for rate in (self.decode, self.copy, self.bare)]
        shares = (f"{share / sum(seconds):.1%}" for share in seconds)
        of_peak = f"{self.bare * self.shape.flops / peak:.0%}" if peak else ""
        rates = (f"{rate:,.1f}" for rate in (self.decode, self.copy, self.bare, self.stream))
        of_bare = f"{self.stream / self.bare:.0%}"
        cells = (self.shape.name, self.side, self.batch_size, *rates, of_bare, *shares, of_peak)
        return f"| {' | '.join(map(str, cells))} |"


def measure(options: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """All models and sides; the batch size is what a first, warming run of the stream has found."""
    device = devices(options.device)[0]
    dtype = pick_dtype(options.dtype, device)
    photos = {side: make_photos(folder, side) for side in options.sides}
    many = max(options.images, 40 * BLOCK)
    decode = {side: decode_rate(photos[side], many, options.workers) for side in options.sides}
    copy = copy_rate(device, many)
    for name in options.models:
        model = make_model(SHAPES[name], device, dtype)
        stream = Stream(model, batch_size=options.batch_size, workers=options.workers)
        if device != CPU:
            stream_rate(stream, photos[options.sides[0]], options.images)
        for side in options.sides:
            rate = stream_rate(stream, photos[side], options.images)
            bare = bare_rate(model, stream.batch_size, options.bare_images)
            yield Result(SHAPES[name], side, stream.batch_size, decode[side], copy, bare, rate)


def machine(options: argparse.Namespace) -> tuple[str, float | None]:
    """What it ran on, in words, and the card's peak rate in bf16 where that is known."""
    versions = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "pillow"))
    device = devices(options.device)[0]
    text = (
        f"{default_workers()} cores, {platform.system()} {platform.machine()}, --workers {options.workers}; {versions}"
    )
    if device == CPU:
        return f"No GPU: the CPU, fp32; {text}", None
    import torch

    card = torch.cuda.get_device_name(device)
    peak = next((rate for name, rate in PEAKS.items() if name in card), None)
    return f"{card}, {pick_dtype(options.dtype, device)}; {text}", peak


def report(options: argparse.Namespace, results: list[Result]) -> str:
    """The page, in Markdown."""
    about, peak = machine(options)
    rows = "\n".join(result.row(peak) for result in results)
    end = NO_GPU if devices(options.device)[0] == CPU else "## Aims\n\n" + "\n".join(map(aim, results))
    parts = [TITLE, f"{about}. Written by `python benchmarks/score.py`.", options.note, EXPLAINED, HEADER + rows, end]
    return "\n\n".join(part for part in [*parts, NO_COMPILE] if part) + "\n"


def aim(result: Result) -> str:
    """Whether a stream is as fast as it should be."""
    verdict = "met" if result.stream >= max(AIM_RATE, AIM_SHARE * result.bare) else "**missed**"
    return f"- {result.shape.name}, {result.side} pixels: {AIM_SHARE:.0%} of the bare model and {AIM_RATE}/s: {verdict}"


def main() -> None:
    """Measure, and write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=["vit-l-14", "vit-h-14"])
    parser.add_argument("--sides", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--images", type=int, default=20_000, help="through each stream")
    parser.add_argument("--bare-images", type=int, default=4_000, help="through each bare model")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--batch-size", type=int, help=f"found out on a GPU, {CPU_BATCH} on a CPU")
    parser.add_argument("--note", default="", help="goes into the report")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prep-score-") as folder:
        page = report(options, list(measure(options, Path(folder))))
    options.output.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
