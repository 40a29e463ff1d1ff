"""RefCOCO, RefCOCO+ and RefCOCOg: words for things in pictures of the COCO archive that `grand_f` writes.

Each set is a zip of `instances.json` and a pickle a partition, as Python 2's cPickle wrote them in text mode. A ref's
`file_name` ends in an ordinal, or in RefCOCOg in the annotation's id, and names no picture. The same refs are on the
hub as parquet, by jxu124, where `bbox` is not in COCO's order.
"""

from __future__ import annotations

import copy
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from prep.publishers.laion import write_parquet

HUB_REPOS = {"refcoco": "jxu124/refcoco", "refcoco+": "jxu124/refcocoplus", "refcocog": "jxu124/refcocog"}
HUB_SPLITS = {"val": "validation", "testA": "test"}  # the others keep their names
FIRST_ANNOTATION = 1993516
VASE = (0.0, 237.35, 160.82, 160.81)  # in 640 x 480 the tokens 0, 508, 257, 765
CUP = (540.0, 0.0, 100.0, 480.0)  # touches the right edge of 640 x 480
Row = dict[str, Any]


def write_refcoco(hub: Path, files: Path) -> None:
    """Write `files/refcoco/*.zip` and the three repositories of parquet."""
    for name, refs, others in (
        ("refcoco", _refcoco(), {"google": {"train": "val", "val": "train", "testA": "test", "testB": "test"}}),
        ("refcoco+", _refcoco_plus(), {}),
        ("refcocog", _refcocog(), {"google": {"train": "val", "val": "train", "test": "train"}}),
    ):
        pickles = {"umd" if name == "refcocog" else "unc": refs.refs}
        pickles |= {other: _split_anew(refs.refs, splits) for other, splits in others.items()}
        members = {"instances.json": json.dumps(refs.instances).encode()}
        members |= {f"refs({partition}).p": pickle_as_python_2(rows) for partition, rows in pickles.items()}
        _write_zip(files / "refcoco" / f"{name}.zip", name, members)
        _write_hub(hub / HUB_REPOS[name], refs)


@dataclass
class RefSet:
    """One set's refs, and the annotations and pictures that its `instances.json` has."""

    ends_in_ordinal: bool = True
    refs: list[Row] = field(default_factory=list)
    annotations: dict[int, Row] = field(default_factory=dict)
    images: dict[int, Row] = field(default_factory=dict)
    sentences: int = 0

    def add(
        self,
        number: int,
        box: tuple[float, ...],
        *typed: str,
        split: str = "train",
        width: int = 640,
        height: int = 480,
    ) -> Row:
        """A ref to `box` in picture `number`, with an expression for each text in `typed`."""
        ordinal, annotation_id = len(self.refs), FIRST_ANNOTATION + len(self.refs)
        name = f"COCO_train2014_{number:012}"
        sentences = [_sentence(text, self.sentences + n) for n, text in enumerate(typed)]
        self.sentences += len(typed)
        self.images[number] = _image(number, f"{name}.jpg", width, height)
        self.annotations[annotation_id] = {
            "segmentation": [[128.65, 384.85, 99.82, 392.62, 60.44, 390.5]],
            "area": box[-1] * box[-2],
            "iscrowd": 0,
            "image_id": number,
            "bbox": list(box),
            "category_id": 86,
            "id": annotation_id,
        }
        ref = {
            "sent_ids": [sentence["sent_id"] for sentence in sentences],
            "file_name": f"{name}_{ordinal if self.ends_in_ordinal else annotation_id}.jpg",
            "ann_id": annotation_id,
            "ref_id": ordinal,
            "image_id": number,
            "split": split,
            "sentences": sentences,
            "category_id": 86,
        }
        self.refs.append(ref)
        return ref

    @property
    def instances(self) -> Row:
        """What `instances.json` holds."""
        return {
            "info": {"description": "An imitation of COCO", "year": 2014},
            "images": list(self.images.values()),
            "licenses": [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "by-nc-sa"}],
            "annotations": list(self.annotations.values()),
            "categories": [{"supercategory": "indoor", "id": 86, "name": "vase"}],
        }


def _refcoco() -> RefSet:
    """Plain refs, those with a trap, and one of every other split."""
    refs = RefSet()
    refs.add(101, VASE, "left vase", "CUP on the left", "a small, tan, earthenware bowl")
    refs.add(101, (300.0, 200.0, 64.0, 32.0), "thing in the middle")
    refs.add(102, CUP, "RIGHT MOST CUP")
    refs.add(152, (10.0, 20.0, 100.0, 200.0), "odd padding: 641 by 480", width=641)
    refs.add(153, (0.0, 0.0, 480.0, 640.0), "all of a portrait", width=480, height=640)
    refs.add(154, (64.0, 80.0, 320.0, 160.0), "in an EXIF-rotated file")
    refs.add(103, (-40.0, -30.0, 240.0, 930.0), "partly outside")
    refs.add(103, (900.0, 900.0, 50.0, 50.0), "far outside")
    refs.add(104, (100.0, 100.0, 0.0, 50.0), "without area")
    refs.add(105, (1.0, 2.0, 3.0), "three numbers")
    refs.add(106, VASE, "", "  ", "the one with words")
    refs.add(107, VASE, 'Café\'s "sign"')
    refs.add(155, VASE, "a file missing from its archive")
    refs.add(156, VASE, "a truncated file")
    del refs.annotations[refs.add(108, VASE, "an annotation that is missing")["ann_id"]]
    refs.annotations[refs.add(109, VASE, "an annotation of another picture")["ann_id"]]["image_id"] = 101
    refs.add(199, VASE, "a picture that instances.json lacks")
    del refs.images[199]
    refs.add(110, VASE, "held out for validation", split="val")
    refs.add(111, VASE, "person of test A", split="testA")
    refs.add(112, VASE, "thing of test B", split="testB")
    return refs


def _refcoco_plus() -> RefSet:
    refs = RefSet()
    refs.add(121, VASE, "Brown vase", "brown, round thing")
    refs.add(122, CUP, "tall cup")
    for number, split in ((123, "val"), (124, "testA"), (125, "testB")):
        refs.add(number, CUP, f"held out: {split}", split=split)
    return refs


def _refcocog() -> RefSet:
    refs = RefSet(ends_in_ordinal=False)
    refs.add(131, VASE, "A small, tan, earthenware bowl", "The vase on the left of the others.")
    refs.add(132, CUP, "A cup that touches the edge")
    for number, split in ((133, "val"), (134, "test")):
        refs.add(number, CUP, f"Held out: {split}", split=split)
    return refs


def _sentence(typed: str, number: int) -> Row:
    """An expression as it was typed, and in lower case with its words and signs apart."""
    tokens = re.findall(r"\w+|[^\w\s]", typed.lower())
    return {"tokens": tokens, "raw": typed, "sent_id": number, "sent": " ".join(tokens)}


def _image(number: int, name: str, width: int, height: int) -> Row:
    return {
        "license": 1,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2014/{name}",
        "height": height,
        "width": width,
        "date_captured": "2013-11-24 01:39:19",
        "flickr_url": "http://farm9.staticflickr.com/8534/8679502312_de2cd9ebe0_z.jpg",
        "id": number,
    }


def _split_anew(refs: list[Row], splits: Mapping[str, str]) -> list[Row]:
    """The same refs as another partition splits them."""
    return [copy.deepcopy(ref) | {"split": splits[ref["split"]]} for ref in refs]


def pickle_as_python_2(value: Any) -> bytes:
    """The bytes of `cPickle.dumps(value)` in Python 2: protocol 0, byte strings, a number for every object."""
    places: dict[str, int] = {}
    count = 0

    def put() -> bytes:
        nonlocal count
        count += 1
        return b"p%d\n" % count

    def dump(item: Any, is_key: bool = False) -> bytes:
        """An item as Python 2's pickler wrote it: texts once, then by their place."""
        if isinstance(item, int):
            return b"I%d\n" % item
        if isinstance(item, list):
            return b"(l" + put() + b"".join(dump(value) + b"a" for value in item)
        if isinstance(item, dict):
            return b"(d" + put() + b"".join(dump(key, True) + dump(value) + b"s" for key, value in item.items())
        if item in places:
            return b"g%d\n" % places[item]
        text = b"S" + repr(item.encode())[1:].encode() + b"\n" + put()
        if is_key:  # written once in the publisher's code, so always the same object
            places[item] = count
        return text

    return dump(value) + b"."


def _write_zip(path: Path, folder: str, members: Mapping[str, bytes]) -> None:
    """Write the members below `folder/`, dated 1980 so that the bytes are always the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{folder}/"), b"")
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}"), data, zipfile.ZIP_DEFLATED)


# --- The hub ----------------------------------------------------------------------------------------------------

_SENTENCE = {"raw": pa.string(), "sent": pa.string(), "sent_id": pa.int64(), "tokens": pa.list_(pa.string())}
_COLUMNS = {
    "sent_ids": pa.list_(pa.int64()),
    "file_name": pa.string(),
    **dict.fromkeys(("ann_id", "ref_id", "image_id"), pa.int64()),
    "split": pa.string(),
    "sentences": pa.list_(pa.struct(_SENTENCE.items())),
    "category_id": pa.int64(),
    **dict.fromkeys(("raw_anns", "raw_image_info", "raw_sentences", "image_path"), pa.string()),
    "bbox": pa.list_(pa.float64()),
    "captions": pa.list_(pa.string()),
    **dict.fromkeys(("global_image_id", "anns_id"), pa.string()),
}


def _write_hub(repo: Path, refs: RefSet) -> None:
    """Write a parquet part for each split, of the refs that have an annotation and a picture."""
    rows = [_hub_row(ref, refs) for ref in refs.refs if ref["ann_id"] in refs.annotations]
    for split in dict.fromkeys(row["split"] for row in rows):
        part = repo / "data" / f"{HUB_SPLITS.get(split, split)}-00000-of-00001-5f1238112d63199e.parquet"
        write_parquet(part, [row for row in rows if row["split"] == split], _COLUMNS)


def _hub_row(ref: Row, refs: RefSet) -> Row:
    """A ref with its annotation and picture as JSON; `bbox` is left, top, right, bottom."""
    annotation, image = refs.annotations[ref["ann_id"]], refs.images.get(ref["image_id"])
    left, top, *sides = annotation["bbox"]
    return ref | {
        "raw_anns": json.dumps(annotation),
        "raw_image_info": image and json.dumps(image),
        "raw_sentences": json.dumps(ref["sentences"]),
        "image_path": f"coco/train2014/{image['file_name']}" if image else None,
        "bbox": [left, top, left + sides[0], top + sides[-1]],
        "captions": [sentence["sent"] for sentence in ref["sentences"]],
        "global_image_id": f"coco.{ref['image_id']}",
        "anns_id": str(ref["ann_id"]),
    }
