"""RefCOCO's three sets through the whole line, from the publisher's zips and from the hub's parquet."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from lines import Finished, finish
from PIL import Image

from prep.publishers import World
from prep.publishers.pictures import Picture

EVALUATION = ("refcoco-val", "refcoco-testA", "refcoco-testB", "refcoco-plus-testA", "refcocog-test")
HUB = ("refcoco-hf", "refcoco-hf-testA", "refcoco-plus-hf", "refcocog-hf", "refcocog-hf-val")
VASE = "<LOC_BEGIN><LOC_0><LOC_508><LOC_257><LOC_765><LOC_END>"
CUP = "<LOC_BEGIN><LOC_864><LOC_128><LOC_1024><LOC_896><LOC_END>"
Sample = tuple[int, str, str]  # the picture's number, words, answer

REFCOCO: list[Sample] = [
    (101, "left vase", VASE),
    (101, "cup on the left", VASE),
    (101, "a small , tan , earthenware bowl", VASE),
    (101, "thing in the middle", "<LOC_BEGIN><LOC_480><LOC_448><LOC_582><LOC_499><LOC_END>"),
    (102, "right most cup", CUP),
    (152, "odd padding : 641 by 480", "<LOC_BEGIN><LOC_16><LOC_160><LOC_176><LOC_479><LOC_END>"),
    (153, "all of a portrait", "<LOC_BEGIN><LOC_128><LOC_0><LOC_896><LOC_1024><LOC_END>"),
    (154, "in an exif - rotated file", "<LOC_BEGIN><LOC_102><LOC_256><LOC_614><LOC_512><LOC_END>"),
    (103, "partly outside", "<LOC_BEGIN><LOC_0><LOC_80><LOC_320><LOC_1024><LOC_END>"),
    (106, "the one with words", VASE),
    (107, 'café \' s " sign "', VASE),
]
PLUS: list[Sample] = [(121, "brown vase", VASE), (121, "brown , round thing", VASE), (122, "tall cup", CUP)]
LONGER: list[Sample] = [
    (131, "a small , tan , earthenware bowl", VASE),
    (131, "the vase on the left of the others .", VASE),
    (132, "a cup that touches the edge", CUP),
]
KEPT = {
    "refcoco": REFCOCO,
    "refcoco-plus": PLUS,
    "refcocog": LONGER,
    "refcoco-val": [(110, "held out for validation", VASE)],
    "refcoco-testA": [(111, "person of test a", VASE)],
    "refcoco-testB": [(112, "thing of test b", VASE)],
    "refcoco-plus-testA": [(124, "held out : testa", CUP)],
    "refcocog-test": [(134, "held out : test", CUP)],
    "refcoco-hf": REFCOCO,
    "refcoco-plus-hf": PLUS,
    "refcocog-hf": LONGER,
    "refcoco-hf-testA": [(111, "person of test a", VASE)],
    "refcocog-hf-val": [(133, "held out : val", CUP)],
}
DROPPED = {
    9: "empty_box",
    10: "empty_box",
    11: "bad_box",
    12: "no_expression",
    13: "no_expression",
    16: "image_missing",
    17: "image_truncated",
}


@pytest.fixture(scope="module")
def line(running_world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    tables = ("refcoco", "refcoco-plus", "refcocog", *EVALUATION, *HUB)
    return finish(tmp_path_factory.mktemp("refcoco"), [{"table": table} for table in tables], running_world)


def member(number: int) -> str:
    return f"train2014/COCO_train2014_{number:012}.jpg"


def picture(number: int) -> Image.Image:
    """The picture as stored: the rotation that its EXIF asks for is not applied."""
    width, height = {152: (641, 480), 153: (480, 640)}.get(number, (640, 480))
    data = Picture.named(member(number), width, height).encode(orientation=6 if number == 154 else 1)
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("table", KEPT)
def test_every_expression_that_can_be_used_is_kept(line: Finished, table: str) -> None:
    assert line.rows(table) == [
        {"s3_path": f"coco-2014/train2014/{member(number)}", "label": words, "loc_string": answer}
        for number, words, answer in KEPT[table]
    ]
    assert line.samples(table) == [
        {"images": [picture(number)], "text": [words, answer], "scores": ""} for number, words, answer in KEPT[table]
    ]


def test_what_is_dropped_says_why(line: Finished) -> None:
    zipped = DROPPED | {18: "no_annotation", 19: "no_annotation", 20: "no_picture"}
    assert line.dropped("refcoco") == {f"refcoco.zip#{row}": reason for row, reason in zipped.items()}
    part = "data/train-00000-of-00001-5f1238112d63199e.parquet"  # which has no ref without annotation
    listed = DROPPED | {18: "no_annotation", 19: "no_picture"}
    assert line.dropped("refcoco-hf") == {f"{part}#{row}": reason for row, reason in listed.items()}
    assert [line.dropped(table) for table in KEPT if table not in ("refcoco", "refcoco-hf")] == [{}] * 11


def test_entries_are_for_referring_expressions(line: Finished) -> None:
    assert line.entries() == [
        {
            "name": table,
            "json_path": str(line.root / f"filtered/{table}.parquet"),
            "columns": ["s3_path", "label", "loc_string"],
            "sampling_strategy": "all",
            "preprocess_fn": "preproces_refcoco_rec",
        }
        for table in ("refcoco", "refcoco-plus", "refcocog", *EVALUATION, *HUB)
    ]


def test_samples_keep_what_evaluation_needs(line: Finished) -> None:
    def evaluated(table: str) -> list[dict[str, object]]:
        columns = ["image_key", "label", "split", "raw", "raw_gt_box", "transformed_box"]
        rows: list[dict[str, object]] = pq.read_table(
            line.root / "normalized" / f"{table}.parquet", columns=columns
        ).to_pylist()
        return rows

    assert (
        evaluated("refcoco-testA")
        == evaluated("refcoco-hf-testA")
        == [
            {
                "image_key": Path(member(111)).name,
                "label": "person of test a",
                "split": "testA",
                "raw": "person of test A",
                "raw_gt_box": [0.0, 237.35, 160.82, 237.35 + 160.81],
                "transformed_box": [0.0, 508.0, 257.0, 765.0],
            }
        ]
    )
