from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ijson
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask

from prep.datasets import grand_f
from prep.errors import DataError

# Most pictures here are 128 x 64: 32 pixels of padding above and below, 8 tokens a pixel.
LEFT = "<LOC_BEGIN><LOC_0><LOC_336><LOC_80><LOC_416><LOC_END>"  # pixels 0, 10 to 10, 20
RIGHT = "<LOC_BEGIN><LOC_480><LOC_256><LOC_1024><LOC_768><LOC_END>"  # pixels 60, 0 to 128, 64
BOTH = "<LOC_BEGIN><LOC_0><LOC_256><LOC_1024><LOC_768><LOC_END>"
LEFT_BOX, RIGHT_BOX = (0, 10, 10, 20), (60, 0, 128, 64)
CAPTION = "A giraffe stands near a tree."
TAGGED = f"<box_p> A giraffe </box_p>{LEFT} stands near <box_p> a tree </box_p>{RIGHT}."
TREE_ONLY = f"A giraffe stands near <box_p> a tree </box_p>{RIGHT}."

Json = dict[str, Any]
Reader = Callable[..., Iterator[pa.RecordBatch]]


def missing(name: str) -> None:
    return None


def write(folder: Path, data: object) -> Path:
    part = folder / "part.json"
    part.write_text(json.dumps(data), encoding="utf-8")
    return part


def rows(batches: Iterator[pa.RecordBatch]) -> list[tuple[str | None, str | None, str | None, str | None]]:
    found = []
    for batch in batches:
        assert batch.schema == grand_f.SCHEMA
        found += [tuple(row.values()) for row in batch.to_pylist()]
    return found


def rle(*boxes: tuple[int, int, int, int], height: int = 64, width: int = 128) -> Json:
    pixels = np.zeros((height, width), np.uint8, order="F")
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 1
    return {"size": [height, width], "counts": mask.encode(pixels)["counts"].decode()}


def grounding(start: int, end: int, *masks: Json) -> Json:
    return {"token_positives": [start, end], "rle_masks": list(masks)}


def scene(**changes: Any) -> Json:
    """A record of OpenPSG; a change to None removes the key."""
    record = {
        "file_name": "train2017/000000000025.jpg",
        "image_id": "25",
        "height": 64,
        "width": 128,
        "caption": CAPTION,
        "groundings": {
            "A giraffe": grounding(0, 9, rle(LEFT_BOX)),
            "a tree": grounding(22, 28, rle(RIGHT_BOX)),
        },
    }
    return {key: value for key, value in (record | changes).items() if value is not None}


# --- OpenPSG and HA ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [grand_f.openpsg, grand_f.human])
def test_masks_in_both_forms(tmp_path: Path, read: Reader) -> None:
    part = write(tmp_path, [scene()])
    listed = (
        f"There are following objects in the scene. <box_p> A giraffe </box_p>{LEFT}, <box_p> a tree </box_p>{RIGHT}"
    )
    assert rows(read(part, missing)) == [("000000000025.jpg", CAPTION, TAGGED, None)]
    assert rows(read(part, missing, form="list")) == [("000000000025.jpg", CAPTION, listed, None)]


@pytest.mark.parametrize(
    ("file_name", "image_name"),
    [
        ("train2017/000000000025.jpg", "000000000025.jpg"),
        ("val2017/000000000139.jpg", "000000000139.jpg"),
        ("000000000025.jpg", "000000000025.jpg"),
        ("GranDf_HA_images/train/sa_1.jpg", "sa_1.jpg"),
        ("../../etc/passwd", "passwd"),
    ],
)
def test_image_name_has_no_folder(tmp_path: Path, file_name: str, image_name: str) -> None:
    part = write(tmp_path, [scene(file_name=file_name)])
    assert rows(grand_f.openpsg(part, missing)) == [(image_name, CAPTION, TAGGED, None)]


@pytest.mark.parametrize(
    "size",
    [
        pytest.param({"height": 128, "width": 256}, id="integers"),
        pytest.param({"height": "128", "width": "256"}, id="strings"),
        pytest.param({"height": 128.0, "width": 256.0}, id="floats"),
        pytest.param({"height": "128.0", "width": " 256 "}, id="strings of floats"),
    ],
)
def test_size_of_a_scene(tmp_path: Path, size: Json) -> None:
    part = write(tmp_path, [scene(groundings={"a tree": grounding(22, 28, rle(RIGHT_BOX))}, **size)])
    answer = "A giraffe stands near <box_p> a tree </box_p><LOC_BEGIN><LOC_240><LOC_256><LOC_512><LOC_512><LOC_END>."
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", CAPTION, answer, None)]


@pytest.mark.parametrize(
    "size",
    [
        pytest.param({"height": None, "width": None}, id="missing"),
        pytest.param({"height": None, "width": 999}, id="half missing"),
        pytest.param({"height": "tall", "width": []}, id="unreadable"),
        pytest.param({"height": 0, "width": 0}, id="zero"),
        pytest.param({"height": -64, "width": "-128"}, id="negative"),
        pytest.param({"height": "nan", "width": "1e999"}, id="not finite"),
    ],
)
def test_size_of_a_scene_from_its_masks(tmp_path: Path, size: Json) -> None:
    part = write(tmp_path, [scene(**size)])
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", CAPTION, TAGGED, None)]


@pytest.mark.parametrize(
    "caption",
    [
        pytest.param('"A giraffe stands near a tree."', id="quotes"),
        pytest.param(' "A giraffe stands near a tree." \n', id="quotes and white space"),
        pytest.param("  A giraffe stands near a tree.", id="white space"),
        pytest.param('" A giraffe stands near a tree."', id="white space inside quotes"),
    ],
)
def test_offsets_count_the_raw_caption(tmp_path: Path, caption: str) -> None:
    shift = caption.index("A")
    groundings = {
        "A giraffe": grounding(shift, shift + 9, rle(LEFT_BOX)),
        "a tree": grounding(shift + 22, shift + 28, rle(RIGHT_BOX)),
    }
    part = write(tmp_path, [scene(caption=caption, groundings=groundings)])
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", caption, TAGGED, None)]


def test_a_span_that_takes_in_the_quotes_loses_them(tmp_path: Path) -> None:
    caption = f'"{CAPTION}"'
    groundings = {'"A giraffe': grounding(0, 10, rle(LEFT_BOX)), 'a tree."': grounding(23, 31, rle(RIGHT_BOX))}
    part = write(tmp_path, [scene(caption=caption, groundings=groundings)])
    answer = f"<box_p> A giraffe </box_p>{LEFT} stands near <box_p> a tree. </box_p>{RIGHT}"
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", caption, answer, None)]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(grounding(-1, -1, rle(LEFT_BOX)), id="negative span"),
        pytest.param(grounding(-29, 9, rle(LEFT_BOX)), id="negative start, as a slice the phrase"),
        pytest.param(grounding(-29, -20, rle(LEFT_BOX)), id="negative span, as a slice the phrase"),
        pytest.param(grounding(0, 0, rle(LEFT_BOX)), id="empty span"),
        pytest.param(grounding(9, 0, rle(LEFT_BOX)), id="reversed span"),
        pytest.param(grounding(4000, 4009, rle(LEFT_BOX)), id="span past the caption"),
        pytest.param(grounding(1, 10, rle(LEFT_BOX)), id="span of other words"),
        pytest.param({"token_positives": [], "rle_masks": [rle(LEFT_BOX)]}, id="span without offsets"),
        pytest.param({"token_positives": ["0", "9"], "rle_masks": [rle(LEFT_BOX)]}, id="offsets in strings"),
        pytest.param({"token_positives": [[0, 9]], "rle_masks": [rle(LEFT_BOX)]}, id="a list of spans"),
        pytest.param({"token_positives": [0, 9]}, id="no masks key"),
        pytest.param(grounding(0, 9), id="no masks"),
        pytest.param(grounding(0, 9, rle()), id="an empty mask"),
        pytest.param(grounding(0, 9, {"size": [64, 128], "counts": "0P"}), id="a damaged mask"),
        pytest.param(grounding(0, 9, rle(LEFT_BOX), {"counts": 5}), id="one of two masks damaged"),
        pytest.param("a tree", id="no object"),
    ],
)
def test_a_bad_phrase_is_skipped(tmp_path: Path, bad: object) -> None:
    good = grounding(22, 28, rle(RIGHT_BOX))
    records = [scene(groundings={"A giraffe": bad, "a tree": good}), scene(groundings={"A giraffe": bad})]
    assert rows(grand_f.openpsg(write(tmp_path, records), missing)) == [
        ("000000000025.jpg", CAPTION, TREE_ONLY, None),
        ("000000000025.jpg", CAPTION, None, "no_phrase"),
    ]


def test_several_masks_of_a_phrase_have_one_box(tmp_path: Path) -> None:
    groundings = {"A giraffe": grounding(0, 9, rle(LEFT_BOX), rle(), rle(RIGHT_BOX))}
    part = write(tmp_path, [scene(groundings=groundings)])
    answer = f"<box_p> A giraffe </box_p>{BOTH} stands near a tree."
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", CAPTION, answer, None)]


def test_uncompressed_masks(tmp_path: Path) -> None:
    plain = {"size": [64, 128], "counts": [60 * 64, 68 * 64]}
    part = write(tmp_path, [scene(groundings={"a tree": grounding(22, 28, plain)})])
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", CAPTION, TREE_ONLY, None)]


def test_a_phrase_said_twice_is_tagged_at_its_span(tmp_path: Path) -> None:
    caption = "A cat beside a cat."
    part = write(tmp_path, [scene(caption=caption, groundings={"A CAT": grounding(13, 18, rle(LEFT_BOX))})])
    answer = f"A cat beside <box_p> a cat </box_p>{LEFT}."
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", caption, answer, None)]


def test_offsets_are_characters_not_bytes(tmp_path: Path) -> None:
    caption = "😀 Café: a giraffe."
    part = write(tmp_path, [scene(caption=caption, groundings={"a giraffe": grounding(8, 17, rle(LEFT_BOX))})])
    answer = f"😀 Café: <box_p> a giraffe </box_p>{LEFT}."
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", caption, answer, None)]


def test_overlapping_phrases_are_trimmed(tmp_path: Path) -> None:
    groundings = {
        "A giraffe stands near a tree": grounding(0, 28, rle(LEFT_BOX)),
        "a tree": grounding(22, 28, rle(RIGHT_BOX)),
    }
    part = write(tmp_path, [scene(groundings=groundings)])
    answer = f"<box_p> A giraffe stands near </box_p>{LEFT} <box_p> a tree </box_p>{RIGHT}."
    assert rows(grand_f.openpsg(part, missing)) == [("000000000025.jpg", CAPTION, answer, None)]


@pytest.mark.parametrize(
    ("record", "row"),
    [
        (scene(caption=None), ("000000000025.jpg", None, None, "no_caption")),
        (scene(caption=7), ("000000000025.jpg", None, None, "no_caption")),
        (scene(caption=' "" '), ("000000000025.jpg", ' "" ', None, "no_caption")),
        (scene(groundings={}), ("000000000025.jpg", CAPTION, None, "no_phrase")),
        (scene(groundings=None), ("000000000025.jpg", CAPTION, None, "bad_record")),
        (scene(groundings=[]), ("000000000025.jpg", CAPTION, None, "bad_record")),
        (scene(file_name=None), (None, CAPTION, None, "bad_record")),
        (scene(file_name=25), (None, CAPTION, None, "bad_record")),
        (scene(file_name="train2017/"), (None, CAPTION, None, "bad_record")),
        ("a string", (None, None, None, "bad_record")),
        (None, (None, None, None, "bad_record")),
        ([scene()], (None, None, None, "bad_record")),
    ],
)
def test_a_bad_record_keeps_its_row(tmp_path: Path, record: object, row: tuple[str | None, ...]) -> None:
    part = write(tmp_path, [record, scene()])
    assert rows(grand_f.openpsg(part, missing)) == [row, ("000000000025.jpg", CAPTION, TAGGED, None)]


# --- RefCOCOg ----------------------------------------------------------------------------------------------------

POT = "COCO_train2014_000000460986.jpg"
POT_CAPTION = "The tallest white pot sits beside the pot on the far left."
LEFT_POLYGON = [[0.0, 10.0, 10.0, 10.0, 5.0, 20.0]]
RIGHT_POLYGON = [[60.0, 0.0, 128.0, 0.0], [128.0, 64.0, 70.5, 64.0, 65.0, 30.0]]


def refer(*refs: tuple[str, object], caption: str = POT_CAPTION) -> Json:
    found = [{"sentence": sentence, "segmentation": segmentation} for sentence, segmentation in refs]
    return {"0": {"img_file_name": POT, "caption": caption, "refs": found}}


def pot_size(name: str) -> tuple[int, int] | None:
    return (128, 64) if name == POT else None


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        pytest.param(
            refer(("the tallest white pot", LEFT_POLYGON), ("the pot on the far left", RIGHT_POLYGON)),
            f"<box_p> The tallest white pot </box_p>{LEFT} sits beside "
            f"<box_p> the pot on the far left </box_p>{RIGHT}.",
            id="the caption's own case is kept",
        ),
        pytest.param(
            refer(("The Tallest WHITE pot ", LEFT_POLYGON)),
            f"<box_p> The tallest white pot </box_p>{LEFT} sits beside the pot on the far left.",
            id="a phrase in mixed case",
        ),
        pytest.param(
            refer(("a zebra", RIGHT_POLYGON), ("the tallest white pot", LEFT_POLYGON)),
            f"<box_p> The tallest white pot </box_p>{LEFT} sits beside the pot on the far left.",
            id="a phrase not in the caption",
        ),
        pytest.param(
            refer(("the tallest white pot sits", LEFT_POLYGON), ("pot sits beside the pot", RIGHT_POLYGON)),
            f"<box_p> The tallest white </box_p>{LEFT} "
            f"<box_p> pot sits beside the pot </box_p>{RIGHT} on the far left.",
            id="overlapping phrases",
        ),
        pytest.param(
            refer(("the tallest white pot", LEFT_POLYGON), caption=f'"{POT_CAPTION}"'),
            f"<box_p> The tallest white pot </box_p>{LEFT} sits beside the pot on the far left.",
            id="a caption in quotes",
        ),
        pytest.param(
            refer(("the pot", LEFT_POLYGON), ("The pot", RIGHT_POLYGON)),
            f"The tallest white pot sits beside <box_p> the pot </box_p>{BOTH} on the far left.",
            id="one phrase of two objects has one box",
        ),
        pytest.param(
            refer(("man", LEFT_POLYGON), caption="The woman and the man."),
            f"The woman and the <box_p> man </box_p>{LEFT}.",
            id="a phrase is not found inside a word",
        ),
        pytest.param(
            refer(("a pot (left)", LEFT_POLYGON), caption="İİ: a pot (left)."),
            f"İİ: <box_p> a pot (left) </box_p>{LEFT}.",
            id="letters that grow in lower case, and signs of a pattern",
        ),
        pytest.param(
            refer(("the pot", rle(LEFT_BOX))),
            f"The tallest white pot sits beside <box_p> the pot </box_p>{LEFT} on the far left.",
            id="a mask instead of polygons",
        ),
        pytest.param(
            refer(("the pot", [[-5.0, 10.0, 10.0, 10.0, 5.0, 20.0]])),
            f"The tallest white pot sits beside <box_p> the pot </box_p>{LEFT} on the far left.",
            id="a polygon partly outside",
        ),
    ],
)
def test_polygons(tmp_path: Path, record: Json, answer: str) -> None:
    part = write(tmp_path, [record])
    assert rows(grand_f.refcocog(part, pot_size)) == [(POT, record["0"]["caption"], answer, None)]


@pytest.mark.parametrize(
    "refs",
    [
        pytest.param([], id="none"),
        pytest.param([("a zebra", LEFT_POLYGON)], id="not in the caption"),
        pytest.param([("", LEFT_POLYGON)], id="empty sentence"),
        pytest.param([("the pot", [])], id="no polygon"),
        pytest.param([("the pot", [[5.0, 6.0, 5.0, 6.0, 5.0, 6.0]])], id="a polygon without area"),
        pytest.param([("the pot", [[300.0, 6.0, 400.0, 6.0, 300.0, 60.0]])], id="a polygon outside"),
        pytest.param([("the pot", "polygon")], id="no list"),
    ],
)
def test_a_row_with_no_phrase(tmp_path: Path, refs: list[tuple[str, object]]) -> None:
    part = write(tmp_path, [refer(*refs)])
    assert rows(grand_f.refcocog(part, pot_size)) == [(POT, POT_CAPTION, None, "no_phrase")]


def test_a_picture_of_unknown_size(tmp_path: Path) -> None:
    part = write(tmp_path, [refer(("the pot", LEFT_POLYGON)), refer(("a zebra", LEFT_POLYGON))])
    assert rows(grand_f.refcocog(part, missing)) == [
        (POT, POT_CAPTION, None, "no_size"),
        (POT, POT_CAPTION, None, "no_phrase"),
    ]


def test_an_exif_rotated_picture_has_the_size_of_its_stored_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn when shown
    buffer = io.BytesIO()
    Image.new("RGB", (128, 64)).save(buffer, "JPEG", exif=exif)

    def size_of(name: str) -> tuple[int, int]:
        with Image.open(buffer) as image:
            return image.size

    part = write(tmp_path, [refer(("the pot", LEFT_POLYGON))])
    answer = f"The tallest white pot sits beside <box_p> the pot </box_p>{LEFT} on the far left."
    assert rows(grand_f.refcocog(part, size_of)) == [(POT, POT_CAPTION, answer, None)]


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({}, (None, None, None, "bad_record")),
        ({"0": None}, (None, None, None, "bad_record")),
        ({**refer(), "1": {}}, (None, None, None, "bad_record")),
        (refer()["0"], (None, None, None, "bad_record")),
        ([refer()], (None, None, None, "bad_record")),
        ({"0": {"caption": POT_CAPTION, "refs": []}}, (None, POT_CAPTION, None, "bad_record")),
        ({"0": {"img_file_name": POT, "caption": POT_CAPTION}}, (POT, POT_CAPTION, None, "bad_record")),
        ({"0": {"img_file_name": POT, "refs": ["x", 3, None]}}, (POT, None, None, "no_caption")),
        (
            {"0": {"img_file_name": POT, "caption": POT_CAPTION, "refs": ["x", 3, None]}},
            (POT, POT_CAPTION, None, "no_phrase"),
        ),
    ],
)
def test_a_bad_refcocog_record_keeps_its_row(tmp_path: Path, record: object, row: tuple[str | None, ...]) -> None:
    assert rows(grand_f.refcocog(write(tmp_path, [record]), pot_size)) == [row]


# --- Flickr ------------------------------------------------------------------------------------------------------

GUYS = "Two young guys look at their hands ."
GUYS_TAGGED = f"<box_p> Two young guys </box_p>{LEFT} look at <box_p> their hands </box_p>{RIGHT} ."
HANDS_TAGGED = f"Two young guys look at <box_p> their hands </box_p>{RIGHT} ."


def picture(number: int = 0, **changes: Any) -> Json:
    image = {
        "id": number,
        "file_name": "1000092795.jpg",
        "height": "64",
        "width": "128",
        "caption": GUYS,
        "dataset_name": "flickr",
        "tokens_negative": [[0, 36]],
        "sentence_id": 0,
        "original_img_id": 1000092795,
        "tokens_positive_eval": [[[0, 14]]],
    }
    return {key: value for key, value in (image | changes).items() if value is not None}


def annotation(image: int, spans: object, bbox: object, **changes: Any) -> Json:
    return {
        "id": 0,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": 100.0,
        "bbox": bbox,
        "tokens_positive": spans,
        "sam_mask": rle(),
    } | changes


def guys(image: int = 0) -> Json:
    return annotation(image, [[0, 14]], [0.0, 10.0, 10.0, 10.0])


def hands(image: int = 0) -> Json:
    return annotation(image, [[23, 34]], [60.0, 0.0, 68.0, 64.0])


def coco(images: list[object], annotations: list[object]) -> Json:
    categories = [{"supercategory": "object", "id": 1, "name": "object"}]
    return {"images": images, "annotations": annotations, "categories": categories, "info": [], "licenses": []}


def test_one_picture_with_five_captions(tmp_path: Path) -> None:
    images: list[object] = [picture(number, sentence_id=number) for number in range(5)]
    annotations: list[object] = [hands(3), guys(0), hands(0), hands(1), guys(3)]
    data = coco(images, annotations)
    expected = [
        ("1000092795.jpg", GUYS, GUYS_TAGGED, None),
        ("1000092795.jpg", GUYS, HANDS_TAGGED, None),
        ("1000092795.jpg", GUYS, None, "no_phrase"),
        ("1000092795.jpg", GUYS, GUYS_TAGGED, None),
        ("1000092795.jpg", GUYS, None, "no_phrase"),
    ]
    assert rows(grand_f.flickr(write(tmp_path, data), missing)) == expected
    backwards = dict(reversed(data.items()))
    assert rows(grand_f.flickr(write(tmp_path, backwards), missing)) == expected


def test_flickr_list_form(tmp_path: Path) -> None:
    part = write(tmp_path, coco([picture()], [hands(), guys()]))
    assert rows(grand_f.flickr(part, missing, form="list")) == [
        (
            "1000092795.jpg",
            GUYS,
            "There are following objects in the scene. "
            f"<box_p> Two young guys </box_p>{LEFT}, <box_p> their hands </box_p>{RIGHT}",
            None,
        )
    ]


def test_only_the_first_span_of_an_annotation_counts(tmp_path: Path) -> None:
    fused = annotation(0, [[23, 34], [0, 14]], [60.0, 0.0, 68.0, 64.0])
    part = write(tmp_path, coco([picture()], [fused]))
    assert rows(grand_f.flickr(part, missing)) == [("1000092795.jpg", GUYS, HANDS_TAGGED, None)]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(annotation(0, [[0, 14]], [10.0, 20.0, 0.5, 30.0]), id="narrower than a pixel"),
        pytest.param(annotation(0, [[0, 14]], [10.0, 20.0, 30.0, 0.5]), id="lower than a pixel"),
        pytest.param(annotation(0, [[0, 14]], [10.0, 20.0, -30.0, 30.0]), id="negative width"),
        pytest.param(annotation(0, [[0, 14]], [128.0, 20.0, 30.0, 30.0]), id="off the picture"),
        pytest.param(annotation(0, [[0, 14]], [10.0, 20.0, 30.0]), id="three numbers"),
        pytest.param(annotation(0, [[0, 14]], None), id="no box"),
        pytest.param(annotation(0, [], [0.0, 10.0, 10.0, 10.0]), id="no span"),
        pytest.param(annotation(0, [[-1, 14], [0, 14]], [0.0, 10.0, 10.0, 10.0]), id="negative first span"),
        pytest.param(annotation(0, [[7, 7]], [0.0, 10.0, 10.0, 10.0]), id="empty span"),
        pytest.param(annotation(0, [[99, 140]], [0.0, 10.0, 10.0, 10.0]), id="span past the caption"),
        pytest.param(annotation(0, [0, 14], [0.0, 10.0, 10.0, 10.0]), id="span not in a list"),
        pytest.param(annotation(9, [[0, 14]], [0.0, 10.0, 10.0, 10.0]), id="of another picture"),
        pytest.param("annotation", id="no object"),
    ],
)
def test_a_bad_annotation_is_skipped(tmp_path: Path, bad: object) -> None:
    part = write(tmp_path, coco([picture(0), picture(1)], [bad, hands(0)]))
    assert rows(grand_f.flickr(part, missing)) == [
        ("1000092795.jpg", GUYS, HANDS_TAGGED, None),
        ("1000092795.jpg", GUYS, None, "no_phrase"),
    ]


def test_boxes_of_one_span_become_one_without_those_off_the_picture(tmp_path: Path) -> None:
    boxes = [[0.0, 10.0, 10.0, 10.0], [60.0, 0.0, 68.0, 64.0], [500.0, 0.0, 10.0, 500.0]]
    part = write(tmp_path, coco([picture()], [annotation(0, [[0, 14]], box) for box in boxes]))
    answer = f"<box_p> Two young guys </box_p>{BOTH} look at their hands ."
    assert rows(grand_f.flickr(part, missing)) == [("1000092795.jpg", GUYS, answer, None)]


def test_boxes_at_the_limits_are_kept(tmp_path: Path) -> None:
    thin = annotation(0, [[0, 14]], [0.0, 10.0, 1.0, 10.0])
    over = annotation(0, [[23, 34]], [-30.0, -20.0, 40.0, 900.0])
    part = write(tmp_path, coco([picture()], [thin, over]))
    first = "<LOC_BEGIN><LOC_0><LOC_336><LOC_8><LOC_416><LOC_END>"
    second = "<LOC_BEGIN><LOC_0><LOC_96><LOC_80><LOC_1024><LOC_END>"
    answer = f"<box_p> Two young guys </box_p>{first} look at <box_p> their hands </box_p>{second} ."
    assert rows(grand_f.flickr(part, missing)) == [("1000092795.jpg", GUYS, answer, None)]


@pytest.mark.parametrize(
    ("image", "row"),
    [
        (picture(caption="Two guys"), ("1000092795.jpg", "Two guys", None, "short_caption")),
        (picture(caption="  "), ("1000092795.jpg", "  ", None, "no_caption")),
        (picture(caption=None), ("1000092795.jpg", None, None, "no_caption")),
        (picture(height="31"), ("1000092795.jpg", GUYS, None, "small_image")),
        (picture(width=31), ("1000092795.jpg", GUYS, None, "small_image")),
        (picture(height=None), ("1000092795.jpg", GUYS, None, "no_size")),
        (picture(height="?"), ("1000092795.jpg", GUYS, None, "no_size")),
        (picture(id="0"), ("1000092795.jpg", GUYS, None, "bad_record")),
        (picture(id=None), ("1000092795.jpg", GUYS, None, "bad_record")),
        (picture(file_name=None), (None, GUYS, None, "bad_record")),
        (["image"], (None, None, None, "bad_record")),
        (
            picture(caption="Two young guys"),
            ("1000092795.jpg", "Two young guys", f"<box_p> Two young guys </box_p>{LEFT}", None),
        ),
        (picture(file_name="flickr30k-images/1000092795.jpg"), ("1000092795.jpg", GUYS, GUYS_TAGGED, None)),
    ],
)
def test_a_flickr_record_and_its_row(tmp_path: Path, image: object, row: tuple[str | None, ...]) -> None:
    part = write(tmp_path, coco([image], [guys(), hands()]))
    assert rows(grand_f.flickr(part, missing)) == [row]


def test_a_picture_of_32_pixels_is_not_small(tmp_path: Path) -> None:
    part = write(tmp_path, coco([picture(width="32", height="32")], [guys()]))
    whole = "<LOC_BEGIN><LOC_0><LOC_320><LOC_320><LOC_640><LOC_END>"
    answer = f"<box_p> Two young guys </box_p>{whole} look at their hands ."
    assert rows(grand_f.flickr(part, missing)) == [("1000092795.jpg", GUYS, answer, None)]


def test_flickr_sizes_from_the_images_where_the_part_has_none(tmp_path: Path) -> None:
    part = write(tmp_path, coco([picture(height=None, width=None)], [guys(), hands()]))
    sizes = {"1000092795.jpg": (128, 64)}
    assert rows(grand_f.flickr(part, sizes.get)) == [("1000092795.jpg", GUYS, GUYS_TAGGED, None)]


# --- Parts -------------------------------------------------------------------------------------------------------


def test_the_parser_is_the_fast_one() -> None:
    assert ijson.backend == "yajl2_c"


def test_batches_are_bounded_and_come_before_the_end_is_read(tmp_path: Path) -> None:
    part = tmp_path / "part.json"
    part.write_text("[" + "7," * 2000 + "8]", encoding="utf-8")
    assert [batch.num_rows for batch in grand_f.openpsg(part, missing)] == [1000, 1000, 1]
    part.write_text("[" + "7," * 200_000 + "oops]", encoding="utf-8")
    batches = grand_f.openpsg(part, missing)
    assert next(batches).num_rows == 1000
    with pytest.raises(DataError, match=re.escape(f"{part}: not a whole JSON file (lexical error")):
        list(batches)


@pytest.mark.parametrize("read", [grand_f.openpsg, grand_f.human, grand_f.refcocog])
def test_an_empty_list_has_no_rows(tmp_path: Path, read: Reader) -> None:
    assert rows(read(write(tmp_path, []), missing)) == []
    assert rows(grand_f.flickr(write(tmp_path, coco([], [])), missing)) == []


@pytest.mark.parametrize("read", [grand_f.openpsg, grand_f.human, grand_f.refcocog, grand_f.flickr])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<!DOCTYPE html><html></html>", id="HTML"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", id="a pointer"),
        pytest.param(b'{"annotations": [], "images": [{"id": 1', id="cut object"),
        pytest.param(b"[NaN]", id="not a number"),
        pytest.param(b'["\xff"]', id="not UTF-8"),
        pytest.param(b"[" + b"9" * 5000 + b"]", id="a number of 5000 digits"),
        pytest.param(b"[1e99999999999999999999]", id="a number of too large an exponent"),
    ],
)
def test_a_part_that_is_not_json(tmp_path: Path, read: Reader, text: bytes) -> None:
    part = tmp_path / "part.json"
    part.write_bytes(text)
    with pytest.raises(DataError) as caught:
        list(read(part, missing))
    assert caught.value.message.startswith(f"{part}: not a whole JSON file (")
    assert "\n" not in caught.value.message
    assert caught.value.next_step == "Delete it and run `prep download` again."


@pytest.mark.parametrize(
    ("read", "data", "seen"),
    [
        (
            grand_f.openpsg,
            coco([], []),
            "no list at the top; there, the top is an object, 'images' is a list, 'annotations' is a list, "
            "'categories' is a list, 'info' is a list, 'licenses' is a list",
        ),
        (
            grand_f.openpsg,
            {"k" * 100: 1, **{str(number): None for number in range(20)}},
            f"no list at the top; there, the top is an object, '{'k' * 40}' is a number, "
            + ", ".join(f"'{number}' is a null" for number in range(10)),
        ),
        (grand_f.human, "text", "no list at the top; there, the top is a string"),
        (grand_f.refcocog, {"item": {}}, "no list at the top; there, the top is an object, 'item' is an object"),
        (grand_f.flickr, [picture()], "no list under 'annotations'; there, the top is a list"),
        (
            grand_f.flickr,
            {"images": [], "info": []},
            "no list under 'annotations'; there, the top is an object, 'images' is a list, 'info' is a list",
        ),
        (
            grand_f.flickr,
            {"annotations": [], "images": {"0": [], "n": 1}},
            "no list under 'images'; there, the top is an object, 'annotations' is a list, 'images' is an object",
        ),
    ],
)
def test_a_part_of_the_wrong_shape(tmp_path: Path, read: Reader, data: object, seen: str) -> None:
    part = write(tmp_path, data)
    with pytest.raises(DataError) as caught:
        list(read(part, missing))
    assert caught.value.message == f"{part}: {seen}"


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(data: object) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in JSON data."""
    keys = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(keys):
        yield data, key
        yield from places(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


@pytest.mark.parametrize(
    ("read", "whole"),
    [
        (grand_f.openpsg, [scene()]),
        (grand_f.refcocog, [refer(("the pot", LEFT_POLYGON))]),
        (grand_f.flickr, coco([picture()], [guys(), hands()])),
    ],
)
@given(data=st.data(), values=st.lists(ANYTHING, min_size=1, max_size=3))
def test_whatever_a_record_holds_it_comes_out_as_one_row(
    folder: Path, read: Reader, whole: Any, data: st.DataObject, values: list[object]
) -> None:
    part = copy.deepcopy(whole)
    for value in values:
        container, key = data.draw(st.sampled_from([*places(part)]))
        container[key] = value
    records = part["images"] if isinstance(part, dict) else part
    if isinstance(records, list) and (isinstance(part, list) or isinstance(part["annotations"], list)):
        found = rows(read(write(folder, part), pot_size))
        assert len(found) == len(records)
        assert all((answer is None) != (reason is None) for _, _, answer, reason in found)
