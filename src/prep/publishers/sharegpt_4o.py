"""ShareGPT-4o-Image: two JSON lists, and tars of PNGs named `image/...` that both sides point into.

The tars of edits lack some names that their list has, and a pair may be in two tars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prep.publishers.packs import tar, write, write_json
from prep.publishers.pictures import Picture, truncate

REPO = "FreedomIntelligence/ShareGPT-4o-Image"
Row = dict[str, Any]

# Member of the text-to-image tars -> size; each tar's members are in no order.
TEXT_PICTURES = (
    {"10023": (640, 512), "2": (512, 768), "unnamed": (96, 64)},
    {"31": (96, 64), "4": (600, 600), "cat_7": (520, 512)},
    {"5": (96, 64), "6": (96, 64)},
)
# Member of the edit tars, without `v2v_` -> size: of pair b the input is in one tar, the output in another.
EDIT_PICTURES = (
    {"a_out": (96, 128), "a_in": (120, 80), "b_in": (96, 96), "e_in": (64, 64)},
    {"d_out": (96, 64), "b_out": (128, 96), "e_out": (64, 64), "c_in": (80, 80), "f_in": (96, 64), "f_out": (64, 96)},
)


def write_sharegpt_4o(hub: Path) -> None:
    """Write the repository."""
    root = hub / REPO
    for number, sizes in enumerate(TEXT_PICTURES):
        members = {f"image/{stem}.png": _picture(stem, size) for stem, size in sizes.items()}
        if "6" in sizes:
            members["image/6.png"] = truncate(members["image/6.png"])
        write(root / f"text_to_image_part_{number}.tar", tar(members))
    for number, sizes in enumerate(EDIT_PICTURES):
        members = {f"image/v2v_{stem}.png": _picture(stem, size) for stem, size in sizes.items()}
        write(root / f"text_and_image_to_image_part_{number}.tar", tar(members))
    write_json(root / "text_to_image.json", _text_rows())
    write_json(root / "text_and_image_to_image.json", _edit_rows())
    write(root / "README.md", "# ShareGPT-4o-Image\n")


def _picture(stem: str, size: tuple[int, int]) -> bytes:
    return Picture.named(f"sharegpt-4o {stem}", *size).encode("PNG")


def _text_rows() -> list[Row]:
    """Text-to-image records; image 404 is in no tar, 6 breaks off, and `unnamed` is in a tar alone."""
    whole = {"synthesis_pipeline": "text-first", "output_image_resolution": [512, 768]}
    return [
        {"input_prompt": "A red circle left of a blue square.", "output_image": "image/2.png", **whole},
        {"input_prompt": "A square before the sea.", "output_image": "image/10023.png"},
        {"input_prompt": "A row without its picture.", "output_image": "image/404.png"},
        {"input_prompt": "A name that is no number.", "output_image": "image/cat_7.png"},
        {"input_prompt": "雾中的圆形", "output_image": "image/4.png", "output_image_resolution": [600, 600]},
        {"input_prompt": " \n", "output_image": "image/5.png"},
        {"input_prompt": "A picture that breaks off.", "output_image": "image/6.png"},
        {"input_prompt": "A small picture.", "output_image": "image/31.png", "output_image_resolution": [96, 64]},
        {"input_prompt": "A row that names no picture."},
    ]


def _edit_rows() -> list[Row]:
    """Edit records; c_out and d_in are in no tar."""
    return [
        _edit("a", "Turn the scene into night."),
        _edit("b", "Remove the square."),
        _edit("c", "A row without its output."),
        _edit("d", "A row without its input."),
        _edit("e", None),
        {"input_prompt": "Make it tall.", "input_image": ["image/v2v_f_in.png"], "output_image": "image/v2v_f_out.png"},
    ]


def _edit(pair: str, prompt: str | None) -> Row:
    sizes = {stem: list(size) for tar_sizes in EDIT_PICTURES for stem, size in tar_sizes.items()}
    return {
        "input_prompt": prompt,
        "input_image": [f"image/v2v_{pair}_in.png"],
        "input_image_resolution": sizes.get(f"{pair}_in", [64, 64]),
        "output_image": f"image/v2v_{pair}_out.png",
        "output_image_resolution": sizes.get(f"{pair}_out", [64, 64]),
    }
