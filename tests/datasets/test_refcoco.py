from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.datasets import refcoco
from prep.datasets.grounding import location_text
from prep.errors import DataError
from prep.publishers.refcoco import pickle_as_python_2

# Most pictures here are 128 x 64: 32 pixels of padding above and below, 8 tokens a pixel.
NAME = "COCO_train2014_000000460986.jpg"
XYWH, BOX = [0.0, 10.0, 10.0, 10.0], [0.0, 10.0, 10.0, 20.0]
ANSWER, TOKENS = "<LOC_BEGIN><LOC_0><LOC_336><LOC_80><LOC_416><LOC_END>", [0.0, 336.0, 80.0, 416.0]
AGAIN = "Delete it and run `prep download` again."
Json = dict[str, Any]


def missing(name: str) -> None:
    return None


def sentence(raw: str, number: int = 1, **changes: Any) -> Json:
    sent = raw.lower().replace(",", " ,")
    return {"tokens": sent.split(), "raw": raw, "sent_id": number, "sent": sent} | changes


def ref(*sentences: Json, **changes: Any) -> Json:
    """A ref to the annotation of `instances`, whose file name leads nowhere."""
    return {
        "sent_ids": [said["sent_id"] for said in sentences],
        "file_name": "COCO_train2014_000000460986_9.jpg",
        "ann_id": 1993516,
        "ref_id": 10505,
        "image_id": 460986,
        "split": "train",
        "sentences": list(sentences) or [sentence("left vase")],
        "category_id": 86,
    } | changes


def image(**changes: Any) -> Json:
    return {"license": 1, "file_name": NAME, "height": 64, "width": 128, "id": 460986} | changes


def annotation(**changes: Any) -> Json:
    outline = [[128.65, 384.85, 99.82, 392.62]]
    return {"id": 1993516, "image_id": 460986, "bbox": XYWH, "segmentation": outline, "iscrowd": 0} | changes


def instances(*more: Json, image_changes: Json | None = None, **changes: Any) -> Json:
    images = [image(id=1, file_name="other.jpg"), image(**image_changes or {})]
    return {"info": {}, "images": images, "licenses": [], "annotations": [annotation(**changes), *more]}


def write_zip(folder: Path, refs: object, found: object = None, **members: bytes | None) -> Path:
    """The publisher's zip; `members` are replaced by their name with `_` for signs, None leaves one out."""
    part = folder / "refcoco.zip"
    found = instances() if found is None else found
    named = {
        "instances": ("instances.json", json.dumps(found).encode()),
        "unc": ("refs(unc).p", pickle_as_python_2(refs)),
        "google": ("refs(google).p", pickle_as_python_2([ref(sentence("by google"))])),
    }
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("refcoco/", b"")
        for key, (name, data) in named.items():
            content = members.get(key, data)
            if content is not None:
                archive.writestr(f"refcoco/{name}", content)
    return part


def rows(batches: Iterator[pa.RecordBatch]) -> list[Json]:
    found = []
    for batch in batches:
        assert batch.schema == refcoco.SCHEMA
        assert 0 < batch.num_rows <= 1000
        found += batch.to_pylist()
    return found


def read(part: Path, size_of: Any = missing, **arguments: Any) -> list[Json]:
    return rows(refcoco.expressions(part, size_of, **{"partition": "unc"} | arguments))


def row(label: str | None = "left vase", raw: str | None = None, **changes: Any) -> Json:
    return {
        "image_name": NAME,
        "label": label,
        "loc_string": ANSWER,
        "split": "train",
        "ref_id": 10505,
        "ann_id": 1993516,
        "sent_id": 1,
        "raw": label if raw is None else raw,
        "raw_gt_box": BOX,
        "transformed_box": TOKENS,
        "drop_reason": None,
    } | changes


def dropped(reason: str, **changes: Any) -> Json:
    return row(drop_reason=reason, **{"loc_string": None, "raw_gt_box": None, "transformed_box": None} | changes)


def failure(batches: Iterator[pa.RecordBatch], part: Path) -> tuple[str, str]:
    """The error's message after the part's path, and its next step."""
    with pytest.raises(DataError) as caught:
        list(batches)
    return caught.value.message.removeprefix(f"{part}: "), caught.value.next_step


# --- The publisher's zip -----------------------------------------------------------------------------------------


def test_a_row_for_each_expression(tmp_path: Path) -> None:
    said = [sentence("Left vase", 29909), sentence("CUP, on the left", 29910), sentence("bowl", 29911)]
    part = write_zip(tmp_path, [ref(*said), ref(sentence("the other"), ref_id=7)])
    assert read(part) == [
        row("left vase", "Left vase", sent_id=29909),
        row("cup , on the left", "CUP, on the left", sent_id=29910),
        row("bowl", sent_id=29911),
        row("the other", ref_id=7),
    ]
    assert [row["label"] for row in read(part, sentence="raw")] == [
        "Left vase",
        "CUP, on the left",
        "bowl",
        "the other",
    ]


def test_the_worked_example(tmp_path: Path) -> None:
    size = {"width": 640, "height": 480}
    part = write_zip(tmp_path, [ref()], instances(bbox=[0.0, 237.35, 160.82, 160.81], image_changes=size))
    assert read(part) == [
        row(
            loc_string="<LOC_BEGIN><LOC_0><LOC_508><LOC_257><LOC_765><LOC_END>",
            raw_gt_box=[0.0, 237.35, 160.82, 237.35 + 160.81],
            transformed_box=[0.0, 508.0, 257.0, 765.0],
        )
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    part = write_zip(tmp_path, [], unc=pickle.dumps([ref()], protocol))
    assert read(part) == [row()]


def test_the_imitation_is_what_a_plain_unpickler_reads() -> None:
    refs = [ref(sentence('it\'s "Café"\n\\ tab\t'), sentence("", 2)), ref()]
    data = pickle_as_python_2(refs)
    assert data.startswith(b"(lp1\n(dp2\nS'sent_ids'\np3\n(lp4\nI1\naI2\nasS'file_name'\np5\nS'COCO_train2014_")
    assert pickle.loads(data, encoding="utf-8") == refs


def test_partitions_and_splits(tmp_path: Path) -> None:
    refs = [ref(sentence(split), split=split) for split in ("train", "val", "testA", "testB", "train")]
    part = write_zip(tmp_path, refs)
    assert read(part) == [row("train"), row("train")]
    assert read(part, splits=["testA"]) == read(part, splits="testA") == [row("testa", "testA", split="testA")]
    assert [found["split"] for found in read(part, splits=["testB", "val"])] == ["val", "testB"]
    assert read(part, partition="google") == [row("by google")]


@pytest.mark.parametrize(
    "file_name", ["COCO_train2014_000000460986_9.jpg", "COCO_train2014_000000460986_1993516.jpg", 7]
)
def test_the_file_name_of_a_ref_is_not_used(tmp_path: Path, file_name: object) -> None:
    assert read(write_zip(tmp_path, [ref(file_name=file_name)])) == [row()]


@pytest.mark.parametrize("file_name", [f"train2014/{NAME}", f"../../{NAME}", f"/{NAME}"])
def test_image_name_has_no_folder(tmp_path: Path, file_name: str) -> None:
    assert read(write_zip(tmp_path, [ref()], instances(image_changes={"file_name": file_name}))) == [row()]


def test_the_annotated_size_goes_before_that_of_the_stored_file(tmp_path: Path) -> None:
    part = write_zip(tmp_path, [ref()])
    assert read(part, lambda name: (64, 32)) == [row()]


@pytest.mark.parametrize(
    "size",
    [
        pytest.param({"width": "128", "height": " 64.0 "}, id="in strings"),
        pytest.param({"width": None, "height": None}, id="null"),
        pytest.param({"width": 128, "height": None}, id="half"),
        pytest.param({"width": "nan", "height": "wide"}, id="no numbers"),
        pytest.param({"width": [128], "height": {}}, id="lists"),
        pytest.param({"width": 0, "height": -64}, id="not above 0"),
        pytest.param({"width": 10**9, "height": 1e300}, id="beyond all pictures"),
    ],
)
def test_sizes_that_are_read_otherwise(tmp_path: Path, size: Json) -> None:
    part = write_zip(tmp_path, [ref()], instances(image_changes=size))
    assert read(part, {NAME: (128, 64)}.get) == [row()]
    if size["width"] != "128":
        assert read(part) == [dropped("no_size", raw_gt_box=BOX)]


@pytest.mark.parametrize(
    ("bbox", "answer", "box", "tokens"),
    [
        ([118, 0, 10, 64], (944, 256, 1024, 768), [118, 0, 128, 64], "touching the right edge"),
        ([-9, -9, 200, 200], (0, 184, 1024, 1024), [-9, -9, 191, 191], "around the picture"),
        ([0.5, 0.5, 0.1, 0.1], (4, 260, 5, 261), [0.5, 0.5, 0.6, 0.6], "smaller than a pixel"),
    ],
)
def test_boxes(tmp_path: Path, bbox: list[float], answer: tuple[int, ...], box: list[float], tokens: str) -> None:
    text = "".join(f"<LOC_{token}>" for token in answer)
    assert read(write_zip(tmp_path, [ref()], instances(bbox=bbox))) == [
        row(loc_string=f"<LOC_BEGIN>{text}<LOC_END>", raw_gt_box=box, transformed_box=[float(n) for n in answer])
    ]


@pytest.mark.parametrize(
    ("bbox", "reason", "box"),
    [
        ([10, 10, 0, 10], "empty_box", [10, 10, 10, 20]),
        ([10, 10, 10, 0], "empty_box", [10, 10, 20, 10]),
        ([10, 10, -5, 10], "empty_box", [10, 10, 5, 20]),
        ([128, 0, 10, 10], "empty_box", [128, 0, 138, 10]),
        ([-20, 0, 20, 10], "empty_box", [-20, 0, 0, 10]),
        ([1, 2, 3], "bad_box", None),
        ([1, 2, 3, 4, 5], "bad_box", None),
        ([1, 2, 3, 4] * 1000, "bad_box", None),
        ([1, 2, None, 4], "bad_box", None),
        (["1", "2", "3", "4"], "bad_box", None),
        ([[1], 2, 3, 4], "bad_box", None),
        ([{"x": 1}, 2, 3, 4], "bad_box", None),
        ([], "bad_box", None),
        ({"x": 1, "y": 2, "w": 3, "h": 4}, "bad_box", None),
        ([[1], 2, 3, 4, 5], "bad_box", None),
        (None, "bad_box", None),
    ],
)
def test_boxes_that_show_nothing(tmp_path: Path, bbox: object, reason: str, box: list[float] | None) -> None:
    part = write_zip(tmp_path, [ref(), ref()], instances(bbox=bbox))
    assert read(part) == [dropped(reason, raw_gt_box=box)] * 2


def test_a_ref_that_leads_nowhere(tmp_path: Path) -> None:
    more = annotation(id=5, image_id=1)
    refs = [ref(ann_id=4), ref(ann_id=5), ref(image_id=3), ref(image_id=1, ann_id=5), ref()]
    assert read(write_zip(tmp_path, refs, instances(more))) == [
        dropped("no_annotation", ann_id=4),
        dropped("no_annotation", ann_id=5),
        dropped("no_picture", image_name=None),
        row(ann_id=5, image_name="other.jpg"),
        row(),
    ]


def test_a_picture_without_a_name(tmp_path: Path) -> None:
    for name in (None, "", "train2014/", 7):
        part = write_zip(tmp_path, [ref()], instances(image_changes={"file_name": name}))
        assert read(part) == [dropped("no_picture", image_name=None)]


@pytest.mark.parametrize(
    ("refs", "expected"),
    [
        ([ref(sentence(""))], [row(None, "", drop_reason="no_expression")]),
        ([ref(sentence(" \t"))], [row(None, " \t", drop_reason="no_expression")]),
        (
            [ref(sentence(""), sentence("the one with words", 2))],
            [row(None, "", drop_reason="no_expression"), row("the one with words", sent_id=2)],
        ),
        ([ref(sentence("a", sent=7))], [row(None, "a", drop_reason="no_expression")]),
        ([ref(sentence("a", sent_id="x"))], [row("a", sent_id=None)]),
        ([ref(sentence("a", sent_id=2**70))], [row("a", sent_id=None)]),
        ([ref(sentences=[])], [row(None, drop_reason="no_expression", sent_id=None, raw=None)]),
        ([ref(sentences="left vase")], [row(None, drop_reason="no_expression", sent_id=None, raw=None)]),
        ([ref(sentences=["left vase"])], [row(None, drop_reason="no_expression", sent_id=None, raw=None)]),
        ([ref(sentence("  wide   open "))], [row("wide   open", "  wide   open ")]),
        ([ref(ref_id=None, ann_id=[1])], [dropped("no_annotation", ref_id=None, ann_id=None)]),
        ([ref(image_id="460986")], [dropped("no_picture", image_name=None)]),
        ([ref(split=None)], [dropped("bad_record", image_name=None, split=None)]),
        (
            ["a string", [], None],
            [
                dropped(
                    "bad_record",
                    **dict.fromkeys(("image_name", "label", "split", "ref_id", "ann_id", "sent_id", "raw")),
                )
            ]
            * 3,
        ),
    ],
)
def test_bad_records_keep_their_rows(tmp_path: Path, refs: list[object], expected: list[Json]) -> None:
    part = write_zip(tmp_path, [], unc=pickle.dumps([*refs, ref()], 2))
    assert read(part) == [*expected, row()]


def test_text_that_no_file_can_hold(tmp_path: Path) -> None:
    part = write_zip(tmp_path, [], unc=pickle.dumps([ref(sentence("half \ud83d"))], 0))
    assert read(part) == [row("half ?")]


def test_many_rows_come_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = write_zip(tmp_path, [ref(*[sentence("x", n) for n in range(1500)])] * 2)
    batches = list(refcoco.expressions(part, missing, partition="unc"))
    assert [batch.num_rows for batch in batches] == [1000, 1000, 1000]
    monkeypatch.setattr(refcoco, "MAX_ROWS", 2000)
    assert failure(refcoco.expressions(part, missing, partition="unc"), part) == ("more than 2,000 expressions", AGAIN)


@given(
    st.tuples(*[st.floats(-2000, 2000) for _ in range(4)]),
    st.integers(1, 1000),
    st.integers(1, 1000),
)
def test_answers_lie_in_the_picture(tmp_path_factory: Any, xywh: tuple[float, ...], width: int, height: int) -> None:
    found = instances(bbox=list(xywh), image_changes={"width": width, "height": height})
    [got] = read(write_zip(tmp_path_factory.mktemp("zip"), [ref()], found))
    x, y, w, h = xywh
    assert got["raw_gt_box"] == [x, y, x + w, y + h]
    assert got["loc_string"] == location_text((x, y, x + w, y + h), width, height)
    if got["drop_reason"] is None:
        left, top, right, bottom = got["transformed_box"]
        assert 0 <= left <= right <= 1024 and 0 <= top <= bottom <= 1024
        assert (
            got["loc_string"]
            == f"<LOC_BEGIN><LOC_{left:.0f}><LOC_{top:.0f}><LOC_{right:.0f}><LOC_{bottom:.0f}><LOC_END>"
        )
    else:
        assert got["drop_reason"] == "empty_box"
        assert x + w <= max(x, 0) or y + h <= max(y, 0) or x >= width or y >= height


# --- Zips that are not what they should be -----------------------------------------------------------------------


CHECK = "Is it another of the publisher's files? Check `parts` and `arguments` in the dataset's YAML."


def test_members_that_are_missing_or_twice_there(tmp_path: Path) -> None:
    part = write_zip(tmp_path, [ref()], unc=None)
    there = "refcoco/, refcoco/instances.json, refcoco/refs(google).p"
    assert failure(refcoco.expressions(part, missing, partition="unc"), part) == (
        f"no members are called 'refs(unc).p'; it has: {there}",
        CHECK,
    )
    assert failure(refcoco.expressions(part, missing, partition="umd"), part)[0] == (
        f"no members are called 'refs(umd).p'; it has: {there}"
    )
    part = write_zip(tmp_path, [ref()], instances=None)
    assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == (
        "no members are called 'instances.json'; it has: refcoco/, refcoco/refs(unc).p, refcoco/refs(google).p"
    )
    with zipfile.ZipFile(part, "a") as archive:
        archive.writestr("refcoco+/refs(unc).p", b"")
    assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == (
        "2 members are called 'refs(unc).p'; it has: "
        "refcoco/, refcoco/refs(unc).p, refcoco/refs(google).p, refcoco+/refs(unc).p"
    )


def test_a_zip_of_nothing(tmp_path: Path) -> None:
    part = tmp_path / "refcoco.zip"
    zipfile.ZipFile(part, "w").close()
    assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == (
        "no members are called 'refs(unc).p'; it has: nothing"
    )


def test_members_in_other_folders(tmp_path: Path) -> None:
    part = tmp_path / "again.zip"
    with zipfile.ZipFile(part, "w") as archive:
        archive.writestr("instances.json", json.dumps(instances()))
        archive.writestr("a/b/refs(unc).p", pickle_as_python_2([ref()]))
        archive.writestr("__MACOSX/a/b/._refs(unc).p", b"")
    assert read(part) == [row()]


def test_no_zip(tmp_path: Path) -> None:
    part = tmp_path / "refcoco.zip"
    part.write_bytes(b"<html>not found</html>")
    assert failure(refcoco.expressions(part, missing, partition="unc"), part) == (
        "not a whole zip (File is not a zip file)",
        AGAIN,
    )
    whole = write_zip(tmp_path, [ref()]).read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == (
        "not a whole zip (File is not a zip file)"
    )


def test_members_whose_bytes_are_damaged(tmp_path: Path) -> None:
    part = write_zip(tmp_path, [ref()])
    whole = part.read_bytes()
    for name in (b"instances.json", b"refs(unc).p"):
        at = whole.index(name) + len(name) + 20
        part.write_bytes(whole[:at] + b"\0\1\2\3" + whole[at + 4 :])
        message, next_step = failure(refcoco.expressions(part, missing, partition="unc"), part)
        assert message.startswith(f"refcoco/{name.decode()} is not whole (") and next_step == AGAIN


def test_members_that_would_not_fit_or_unpack_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = write_zip(tmp_path, [ref()], unc=bytes(1_000_000))
    monkeypatch.setattr(refcoco, "MAX_PICKLE_BYTES", 999_999)
    assert failure(refcoco.expressions(part, missing, partition="unc"), part) == (
        "refcoco/refs(unc).p has 1,000,000 bytes, more than 999,999",
        AGAIN,
    )
    part = write_zip(tmp_path, [ref()])
    monkeypatch.setattr(refcoco, "MAX_JSON_BYTES", 9)
    assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == (
        f"refcoco/instances.json has {len(json.dumps(instances()))} bytes, more than 9"
    )
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(part, "w", method) as archive:
            archive.writestr("refs(unc).p", b"N.")
        assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == (
            "refs(unc).p is encrypted, or packed in an unusual way"
        )


def test_an_encrypted_member(tmp_path: Path) -> None:
    part = write_zip(tmp_path, [ref()])
    whole = bytearray(part.read_bytes())
    whole[whole.index(b"refcoco/refs(unc).p", len(whole) // 2) - 46 + 8] |= 1
    part.write_bytes(whole)
    assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == (
        "refcoco/refs(unc).p is encrypted, or packed in an unusual way"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cposix\nsystem\n(S'true'\ntR.", "refused, its pickle asks to import 'posix.system'; plain data does not"),
        (pickle_as_python_2([ref()])[:-1], "not a whole pickle (EOFError)"),
    ],
)
def test_pickles_that_are_not_plain_or_not_whole(tmp_path: Path, data: bytes, message: str) -> None:
    part = write_zip(tmp_path, [], unc=data)
    assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == f"refs(unc).p: {message}"


def test_pickles_of_something_else(tmp_path: Path) -> None:
    part = write_zip(tmp_path, {"refs": []})
    assert failure(refcoco.expressions(part, missing, partition="unc"), part) == (
        "refs(unc).p holds a dict, not a list of refs",
        "Is it the publisher's file?",
    )


def test_a_split_that_no_ref_has(tmp_path: Path) -> None:
    part = write_zip(tmp_path, [ref(), ref(split="testA"), ref(split="testA")])
    assert failure(refcoco.expressions(part, missing, partition="unc", splits=["test", "val"]), part) == (
        "refs(unc).p has no ref of split test or val; it has: train, testA",
        "Mend `arguments` in the dataset's YAML.",
    )


def test_a_sentence_that_does_not_exist(tmp_path: Path) -> None:
    part = write_zip(tmp_path, [ref()])
    for batches in (
        refcoco.expressions(part, missing, partition="unc", sentence="sents"),  # type: ignore[arg-type]
        refcoco.parquet(part, missing, sentence="sents"),  # type: ignore[arg-type]
    ):
        assert failure(batches, part) == ("sentence 'sents' is none of sent, raw", "Mend the dataset's YAML.")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"images": [{"id": 460986', "refcoco/instances.json is not whole (parse error: premature EOF)"),
        (b"<html>", "refcoco/instances.json is not whole (lexical error: invalid char in json text.)"),
        (b"[" * 1_000_000, "refcoco/instances.json is not whole (parse error: premature EOF)"),
        (b'{"a":' * 1_000_000, "refcoco/instances.json is not whole (parse error: premature EOF)"),
        (b"{}", "no list of annotations or images in its instances.json"),
        (b'{"images": [{"id": 1}], "annotations": []}', "no list of annotations in its instances.json"),
        (b'[{"images": [{"id": 1}]}]', "no list of annotations or images in its instances.json"),
    ],
)
def test_instances_that_are_not_what_they_should_be(tmp_path: Path, data: bytes, message: str) -> None:
    part = write_zip(tmp_path, [ref()], instances=data)
    assert failure(refcoco.expressions(part, missing, partition="unc"), part)[0] == message


# --- The hub's parquet -------------------------------------------------------------------------------------------


HUB_STRUCT = pa.struct(
    {"raw": pa.string(), "sent": pa.string(), "sent_id": pa.int64(), "tokens": pa.list_(pa.string())}
)


def hub_row(said: Json, picture: object, found: object) -> Json:
    """A record of jxu124's parquet; `bbox` and `file_name` say something else."""
    texts = {"raw_anns": found, "raw_image_info": picture}
    return said | {
        **{name: value if isinstance(value, str | None) else json.dumps(value) for name, value in texts.items()},
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "image_path": "coco/train2014/elsewhere.jpg",
    }


def write_parquet(folder: Path, records: list[Json], *without: str) -> Path:
    part = folder / "train-00000-of-00001.parquet"
    columns = {name: [record[name] for record in records] for name in records[0] if name not in without}
    types = {"sentences": pa.list_(HUB_STRUCT), "ref_id": pa.int64(), "ann_id": pa.int64()}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), part, row_group_size=700)
    return part


def test_hub_rows(tmp_path: Path) -> None:
    said = ref(sentence("Left vase"), sentence("bowl", 2))
    records = [hub_row(said, image(), annotation())] * 800
    assert (
        rows(refcoco.parquet(write_parquet(tmp_path, records), missing))
        == [
            row("left vase", "Left vase"),
            row("bowl", sent_id=2),
        ]
        * 800
    )
    [first, *_] = rows(refcoco.parquet(write_parquet(tmp_path, records), missing, sentence="raw"))
    assert first == row("Left vase")


@pytest.mark.parametrize(
    ("picture", "found", "expected"),
    [
        (image(width="128"), annotation(bbox=[0, 10, 10, 10]), row()),
        (image(width=None), annotation(), dropped("no_size", raw_gt_box=BOX)),
        (image(id=None), annotation(), row()),
        (image(), annotation(image_id=None), row()),
        (image(), annotation(image_id=1), dropped("no_annotation")),
        (image(id=[1]), annotation(image_id={}), dropped("no_annotation")),
        (image(), annotation(bbox=None), dropped("bad_box")),
        (image(), annotation(bbox=[1, 2, 3]), dropped("bad_box")),
        (image(), annotation(bbox=[0, 0, 10**400, float("nan")]), dropped("empty_box", raw_gt_box=...)),
        (image(), "[1, 2]", dropped("no_annotation")),
        (image(), '{"bbox": [1, 2', dropped("no_annotation")),
        (image(), "[" * 100_000, dropped("no_annotation")),
        (image(), None, dropped("no_annotation")),
        (None, annotation(), dropped("no_picture", image_name=None)),
        ("", annotation(), dropped("no_picture", image_name=None)),
        (image(file_name=None), annotation(), dropped("no_picture", image_name=None)),
    ],
)
def test_hub_rows_that_are_off(tmp_path: Path, picture: object, found: object, expected: Json) -> None:
    part = write_parquet(tmp_path, [hub_row(ref(), picture, found)])
    [got] = rows(refcoco.parquet(part, missing))
    if expected["raw_gt_box"] is ...:
        assert got.pop("raw_gt_box")[:3] == [0.0, 0.0, float("inf")]
        del expected["raw_gt_box"]
    assert got == expected


def test_hub_parts_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    records = [hub_row(ref(), image(), annotation())]
    part = write_parquet(tmp_path, records, "raw_anns", "sentences", "sent_ids", "category_id", "image_path")
    assert failure(refcoco.parquet(part, missing), part) == (
        "no column sentences or raw_anns; it has: file_name, ann_id, ref_id, image_id, split, raw_image_info, bbox",
        "Is it another of the publisher's files? Check `parts` in the dataset's YAML.",
    )
    part.write_bytes(b"<html>")
    message, next_step = failure(refcoco.parquet(part, missing), part)
    assert message.startswith("not a whole parquet file (") and next_step == AGAIN
