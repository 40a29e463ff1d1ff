"""Reflect-DiT: annotations of one repository, pictures of another, found by the ends of their paths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lines import Finished, finish
from PIL import Image

from prep.config import Catalogue
from prep.publishers import World
from prep.publishers.pictures import Picture
from worlds import make_workspace, prep_json

CSV, JUDGEMENTS = "dit/object_self_correct_cleaned.csv", "vlm/vllm.json"
FIRST, SECOND = "reflect-dit-images/images_0/gen_eval_sana_train", "reflect-dit-images/images_1/sana/train"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, running_world: World) -> Finished:
    entries = [{"table": "reflect-dit"}, {"table": "reflect-dit-judge"}]
    return finish(tmp_path_factory.mktemp("reflect"), entries, running_world)


def image(scene: int, number: int) -> Image.Image:
    data = Picture.named(f"reflect-{scene}-{number}", 128, 128).encode("PNG")
    return Image.open(io.BytesIO(data)).convert("RGB")


def path(scene: int, number: int) -> str:
    return f"{FIRST if scene < 5 else SECOND}/{scene:05}/{number}.png"


GOOD = [
    ("a photo of a bench", 0, 0),
    ("a photo of three cups", 1, 0),
    ("a photo of three cups", 1, 1),
    ("a photo of three cups", 1, 2),
    ("fewer reasons than bad pictures", 2, 0),
    ("a semicolon, in a reason", 3, 0),
    ('"quotes", a comma\nand two lines', 3, 2),
    ("another beginning of the path", 5, 0),
    ("no beginning, and another extension", 6, 0),
    ("an empty name at the end of a list", 4, 0),
]


def test_a_row_for_each_good_picture(line: Finished) -> None:
    assert line.rows("reflect-dit") == [
        {"s3_path": path(scene, number), "caption": prompt, "intHeight": 128, "intWidth": 128}
        for prompt, scene, number in GOOD
    ]
    assert line.samples("reflect-dit") == [
        {"images": [image(scene, number)], "text": [prompt], "scores": ""} for prompt, scene, number in GOOD
    ]
    assert line.dropped("reflect-dit") == {
        f"{CSV}#9": "image_truncated",
        f"{CSV}#10": "image_missing",
        f"{CSV}#11": "image_ambiguous",
        f"{CSV}#12": "no_positive",
        f"{CSV}#13": "no_caption",
    }


def test_bad_pictures_and_reasons_are_kept_as_the_trainer_reads_them(line: Finished) -> None:
    begins = "data/dit/gen_eval_sana_train"
    cups = (
        f"{begins}/00001/3.png;{begins}/00000/2.png;{begins}/00000/3.png",
        "There are two cups;There is one cup;There are four cups",
    )
    rows = pq.read_table(line.root / "normalized/reflect-dit.parquet").to_pylist()
    assert [(row["negatives"], row["negative_reasons"]) for row in rows] == [
        (f"{begins}/00000/1.png", "There is no bench"),
        *([cups] * 3),
        (None, None),  # two pictures, one reason
        (f"{begins}/00003/1.png", "The dog is blue, it should be red"),
        (None, None),
        (f"{begins}/00005/1.png", "Too dark"),
        (None, None),
        (f"{begins}/00007/2.png", "Too bright"),
        (f"{begins}/00008/2.png", "Too small"),
        (None, None),
        (f"{begins}/00009/1.png", "Nothing is right"),
        (None, None),
        (f"{begins}/00004/1.png", "No tree"),
    ]


def test_judgements(line: Finished) -> None:
    expected: list[dict[str, Any]] = [
        {"image": path(0, 1), "prompts": "a photo of a bench", "results": "There is no bench"},
        {"image": path(0, 0), "prompts": "a photo of a bench", "results": "Correct."},
        {"image": path(5, 1), "prompts": "a list of one picture", "results": "Too dark"},
        {"image": path(4, 3), "prompts": "the sign at the end", "results": "Correct."},
    ]
    assert line.rows("reflect-dit-judge") == expected
    images = [image(0, 1), image(0, 0), image(5, 1), image(4, 3)]
    assert line.samples("reflect-dit-judge") == [
        {"images": [picture], "text": [row["prompts"], row["results"]], "scores": ""}
        for picture, row in zip(images, expected, strict=True)
    ]
    assert line.dropped("reflect-dit-judge") == {
        f"{JUDGEMENTS}#4": "several_images",
        f"{JUDGEMENTS}#5": "bad_conversation",
        f"{JUDGEMENTS}#6": "no_results",
        f"{JUDGEMENTS}#7": "image_missing",
        f"{JUDGEMENTS}#8": "no_image",
    }


def test_the_dataset_is_not_the_model_whose_id_differs_in_case(line: Finished, running_world: World) -> None:
    asked = {path for _, path in running_world.requests if "reflect-d" in path.lower()}
    assert any("jacklishufan/reflect-DiT" in path for path in asked)
    assert not any("jacklishufan/reflect-dit" in path for path in asked)
    assert not any("join-4" in path for path in asked)


def test_plans_with_feedback_from_layouts_of_ones_own(tmp_path: Path, running_world: World) -> None:
    """The table that the dataset's YAML ends with, as a comment."""
    recipe = {"name": "tried", "entries": [{"table": "reflect-dit-grounded"}]}
    root = make_workspace(tmp_path / "workspace", recipe, running_world)
    prompts = ["a photo of three cups", "fewer reasons than bad pictures", "a picture missing from the tars"]
    layouts = {"prompt": prompts, "text": [f"layout of {prompt}" for prompt in prompts]}
    pq.write_table(pa.table(layouts), tmp_path / "layouts.parquet")
    lines = Catalogue().dataset_path("reflect-dit").read_text(encoding="utf-8").splitlines()
    table = "\n".join(line.removeprefix("#   ") for line in lines if line.startswith("#   "))
    (root / "datasets").mkdir()
    (root / "datasets/reflect-dit-grounded.yaml").write_text(table.replace("/data/", f"{tmp_path}/"))
    prep_json(root, "run", world=running_world)

    columns = ["s3_path", "caption", "grounding_text", "negatives", "negative_reasons"]
    kept = pq.read_table(root / "filtered/reflect-dit-grounded.parquet", columns=columns).to_pylist()
    store = root / "images"
    cups = {
        "caption": prompts[0],
        "grounding_text": f"layout of {prompts[0]}",
        "negatives": ";".join(f"{store}/{path(*bad)}" for bad in ((1, 3), (0, 2), (0, 3))),
        "negative_reasons": "There are two cups;There is one cup;There are four cups",
    }
    fewer = {"caption": prompts[1], "grounding_text": f"layout of {prompts[1]}"}
    assert kept == [
        *({"s3_path": f"{store}/{path(1, n)}", **cups} for n in range(3)),
        {"s3_path": f"{store}/{path(2, 0)}", **fewer, "negatives": None, "negative_reasons": None},
    ]
    reasons = pq.read_table(root / "dropped/reflect-dit-grounded.parquet")["reason"].to_pylist()
    assert sorted(set(reasons)) == ["image_missing", "no_caption", "no_grounding_text", "no_positive"]
