"""GranD-f's human annotations, with their pictures from Google Drive."""

from __future__ import annotations

import io

import pytest
from lines import Finished, finish
from PIL import Image

from prep.config import Catalogue
from prep.publishers import World
from prep.publishers.pictures import Picture

PART = "train/GranDf_HA_GCG_train.json"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, running_world: World) -> Finished:
    return finish(tmp_path_factory.mktemp("human"), [{"table": "grand-f-human"}], running_world)


def loc(*tokens: int) -> str:
    return "<LOC_BEGIN>" + "".join(f"<LOC_{token}>" for token in tokens) + "<LOC_END>"


# The pictures are 320 x 240: 40 pixels of padding above, 3.2 tokens a pixel.
ANSWERS = {
    "train/sa_0": f"<box_p> A black circle </box_p>{loc(323, 592, 509, 778)} stands left of "
    f"<box_p> a green square </box_p>{loc(624, 243, 995, 614)} after the rain.",
    "val_test/sa_1": f"<box_p> A black circle </box_p>{loc(96, 390, 365, 659)} stands left of "
    f"<box_p> a blue square </box_p>{loc(512, 474, 851, 813)} behind a window. (of val_test)",
    "train/sa_10": f"<box_p> A green square </box_p>{loc(90, 406, 438, 755)} stands left of "
    f"<box_p> a purple circle </box_p>{loc(573, 163, 768, 358)} on a winter evening. (quoted)",
    "train/sa_11": "A green square stands left of "
    f"<box_p> a purple circle </box_p>{loc(566, 435, 925, 794)} on a winter evening. (a negative span)",
    "train/sa_12": "A purple square stands left of "
    f"<box_p> a yellow square </box_p>{loc(525, 326, 752, 554)} on a winter evening. (an empty span)",
    "train/sa_13": f"<box_p> A black square </box_p>{loc(70, 422, 374, 726)} stands left of "
    f"<box_p> a blue square </box_p>{loc(768, 141, 938, 310)} on a winter evening. (no height)",
    "train/sa_14": f"<box_p> A green circle </box_p>{loc(70, 474, 390, 794)} stands left of "
    f"<box_p> a blue circle </box_p>{loc(554, 170, 726, 342)} on a winter evening. (sizes as strings)",
    "train/sa_15": f"<box_p> A green square </box_p>{loc(307, 346, 877, 672)} stands left of "
    f"<box_p> a blue circle </box_p>{loc(662, 346, 877, 560)} after the rain. (two masks of one phrase)",
}


def test_answers_and_pictures(line: Finished) -> None:
    archive = "grand-f-images/GranDf_HA_images/GranDf_HA_images"
    assert line.rows("grand-f-human") == [
        {"s3_path": f"{archive}/{name}.jpg", "loc_caption": answer} for name, answer in ANSWERS.items()
    ]
    assert line.dropped("grand-f-human") == {
        f"{PART}#8": "no_phrase",
        f"{PART}#9": "image_missing",
        f"{PART}#10": "image_truncated",
    }
    pictures = [Picture.named(f"GranDf_HA_images/{name}.jpg", 320, 240) for name in ANSWERS]
    assert line.samples("grand-f-human") == [
        {"images": [Image.open(io.BytesIO(picture.encode())).convert("RGB")], "text": [answer], "scores": ""}
        for picture, answer in zip(pictures, ANSWERS.values(), strict=True)
    ]


@pytest.mark.parametrize("name", ["train/sa_0", "val_test/sa_1", "train/sa_14"])
def test_the_numbers_are_where_the_shapes_are(name: str) -> None:
    for thing in Picture.named(f"GranDf_HA_images/{name}.jpg", 320, 240).things:
        x, y, width, height = thing.box
        edges = (x, y + 40, x + width, y + height + 40)
        assert loc(*(int(edge * 3.2 + 0.5) for edge in edges)) in ANSWERS[name]


def test_the_pictures_come_from_one_file_on_drive() -> None:
    source = Catalogue().dataset("grand-f-images").source.model_dump()
    assert (source["kind"], [file["id"] for file in source["files"]]) == (
        "google-drive",
        ["1abdxVhrbNQhjJQ8eAcuPrOUBzhGaFsF_"],
    )
