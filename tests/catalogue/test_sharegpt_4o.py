"""ShareGPT-4o-Image through the whole line: prompts with their pictures, and edits whose pictures are in two tars."""

from __future__ import annotations

import io
from typing import Any

import pytest
from lines import Finished, finish
from PIL import Image

from prep.publishers import World
from prep.publishers.pictures import Picture

T2I, EDIT = "sharegpt-4o-t2i", "sharegpt-4o-edit"
TARS = "sharegpt-4o-image/text_to_image_part"
EDIT_TARS = "sharegpt-4o-image/text_and_image_to_image_part"


@pytest.fixture(scope="module")
def line(running_world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """As LaViDa-O's third mixture takes the two tables."""
    t2i = {"table": T2I, "min_size": 512, "arguments": {"random_truncate": False}}
    return finish(tmp_path_factory.mktemp("sharegpt"), [t2i, {"table": EDIT, "sampling": "dup:3"}], running_world)


def picture(stem: str, width: int, height: int) -> Image.Image:
    data = Picture.named(f"sharegpt-4o {stem}", width, height).encode("PNG")
    return Image.open(io.BytesIO(data)).convert("RGB")


def shown(image: Image.Image, text: str) -> dict[str, Any]:
    return {"images": [image], "text": [text], "scores": ""}


def test_prompts_and_their_pictures(line: Finished) -> None:
    assert line.rows(T2I) == [
        {"s3_path": f"{TARS}_{tar}/image/{stem}.png", "caption": caption, "intHeight": height, "intWidth": width}
        for tar, stem, caption, width, height in [
            (0, "2", "A red circle left of a blue square.", 512, 768),
            (0, "10023", "A square before the sea.", 640, 512),
            (1, "cat_7", "A name that is no number.", 520, 512),
            (1, "4", "雾中的圆形", 600, 600),
        ]
    ]
    assert line.samples(T2I) == [
        shown(picture("2", 512, 768), "A red circle left of a blue square."),
        shown(picture("10023", 640, 512), "A square before the sea."),
        shown(picture("cat_7", 520, 512), "A name that is no number."),
        shown(picture("4", 600, 600), "雾中的圆形"),
    ]
    assert line.dropped(T2I) == {
        "text_to_image.json#2": "image_missing",
        "text_to_image.json#5": "no_caption",
        "text_to_image.json#6": "image_truncated",
        "text_to_image.json#7": "min_size",
        "text_to_image.json#8": "no_image",
    }


def test_edits_and_their_two_pictures(line: Finished) -> None:
    rows = [
        ("Turn the scene into night.", "_0/image/v2v_a_in.png", "_0/image/v2v_a_out.png"),
        ("Remove the square.", "_0/image/v2v_b_in.png", "_1/image/v2v_b_out.png"),
        ("Make it tall.", "_1/image/v2v_f_in.png", "_1/image/v2v_f_out.png"),
    ]
    assert line.rows(EDIT) == [
        {"input_prompt": prompt, "input_image": [EDIT_TARS + source], "output_image": EDIT_TARS + target}
        for prompt, source, target in rows
    ]
    night, removed, tall = (
        {"images": images, "text": [prompt], "scores": ""}
        for (prompt, *_), images in zip(
            rows,
            (
                [picture("a_in", 120, 80), picture("a_out", 96, 128)],
                [picture("b_in", 96, 96), picture("b_out", 128, 96)],
                [picture("f_in", 96, 64), picture("f_out", 64, 96)],
            ),
            strict=True,
        )
    )
    assert line.samples(EDIT) == [night, night, night, removed, removed, removed, tall, tall, tall]
    assert line.dropped(EDIT) == {
        "text_and_image_to_image.json#2": "image_missing",
        "text_and_image_to_image.json#3": "image_missing",
        "text_and_image_to_image.json#4": "no_input_prompt",
    }


def test_how_the_trainer_reads_them(line: Finished) -> None:
    t2i, edit = line.entries()
    assert t2i["preprocess_fn"] == "preproces_text_to_image_generation_s3"
    assert t2i["process_fn_kwargs"] == {"random_truncate": False}
    assert t2i["min_size"] == 512
    assert t2i["columns"] == ["s3_path", "caption", "intHeight", "intWidth"]
    assert (edit["preprocess_fn"], edit["sampling_strategy"]) == ("process_sharegpt_4o_edit", "dup:3")
    assert sorted(edit["columns"]) == ["input_image", "input_prompt", "output_image"]
