"""GranD-f: captions whose phrases are tied to masks or boxes, in three JSON layouts, as grounding answers.

Each public function streams one part and gives every record back as one row: `image_name` (the picture's file name),
`caption` (raw), `loc_caption` (the answer, or null) and `drop_reason` (null for a good row). What cannot be read of one
phrase costs that phrase; a record with no phrase left is dropped as `no_phrase`. The other reasons are `bad_record`,
`no_caption`, `short_caption`, `small_image` and `no_size`.

Choices the publisher leaves open: the answer is the caption with its phrases tagged (`form`), and a phrase with
several masks gets one box around them all.
"""

from __future__ import annotations

import re
import string
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import ijson
import pyarrow as pa

from prep.datasets import SizeOf
from prep.datasets.grounding import (
    FORMS,
    Box,
    Form,
    Span,
    box_of_polygons,
    box_of_rle,
    box_of_xywh,
    location_text,
    rle_size,
    union_box,
)
from prep.errors import DataError
from prep.files import JSON_BUFFER

SCHEMA = pa.schema([(name, pa.string()) for name in ("image_name", "caption", "loc_caption", "drop_reason")])
BATCH_ROWS = 1000
FLICKR_MIN_WORDS = 3
FLICKR_MIN_SIDE = 32  # pixels
FLICKR_MIN_BOX = 1  # pixels
MAX_NAMED = 12  # keys named in a message

_WRAPPING = string.whitespace + '"'
_PACKED_PHRASE = struct.Struct("<2q4d")  # start, end, box

Size = tuple[int, int]  # width, height


class _Phrase(NamedTuple):
    start: int
    end: int
    box: Box


class _Scene(NamedTuple):
    """What a record says: a caption, its text without wrapping, and phrases by their place in that text."""

    image_name: str | None
    caption: str | None
    text: str = ""
    phrases: tuple[_Phrase, ...] = ()
    size: Size | None = None
    drop_reason: str | None = None


def openpsg(part: Path, size_of: SizeOf, *, form: Form = "in-caption") -> Iterator[pa.RecordBatch]:
    """Rows of one `OpenPsgGCG_*.json`, in batches of at most 1000; no image is asked for its size, masks have one.

    Raises:
        DataError: the part is not JSON, or not a list.
    """
    scenes = (_mask_scene(record) for record in _items(part))
    yield from _batches(_row(scene, form) for scene in scenes)


def human(part: Path, size_of: SizeOf, *, form: Form = "in-caption") -> Iterator[pa.RecordBatch]:
    """Rows of one `GranDf_HA_GCG_*.json`: the layout of OpenPSG, over SA-1B pictures.

    Raises:
        DataError: the part is not JSON, or not a list.
    """
    yield from openpsg(part, size_of, form=form)


def refcocog(part: Path, size_of: SizeOf, *, form: Form = "in-caption") -> Iterator[pa.RecordBatch]:
    """Rows of one `RefCOCOg_GCG_*.json`, in batches of at most 1000; sizes come from the images.

    Raises:
        DataError: the part is not JSON, or not a list.
    """
    scenes = (_polygon_scene(record, size_of) for record in _items(part))
    yield from _batches(_row(scene, form) for scene in scenes)


def flickr(part: Path, size_of: SizeOf, *, form: Form = "in-caption") -> Iterator[pa.RecordBatch]:
    """Rows of one `flickr_mergedGT_GCG_*.json`, one a caption, in batches of at most 1000.

    The part is read twice: its boxes, which are kept packed (48 bytes each), then its captions.

    Raises:
        DataError: the part is not JSON, or not an object with lists of `images` and `annotations`.
    """
    packed = _flickr_phrases(part)
    scenes = (_flickr_scene(image, packed, size_of) for image in _items(part, "images"))
    yield from _batches(_row(scene, form) for scene in scenes)


def _mask_scene(record: object) -> _Scene:
    """A record of OpenPSG or HA: `{file_name, caption, height, width, groundings: {phrase: ...}}`."""
    name, caption = _image_name(record, "file_name"), _string(record, "caption")
    groundings = _value(record, "groundings")
    if name is None or not isinstance(groundings, dict):
        return _Scene(name, caption, drop_reason="bad_record")
    raw = caption or ""
    # Offsets count the raw caption, quotes included: phrases are found there and then moved into the text.
    shift = len(raw) - len(raw.lstrip(_WRAPPING))
    phrases = []
    size = _size(record)
    for phrase, grounding in groundings.items():
        match grounding:
            case {"token_positives": [int(start), int(end)], "rle_masks": list(masks)}:
                size = size or next(filter(None, map(rle_size, masks)), None)
                box = union_box([box_of_rle(rle) for rle in masks])
                # A span may be negative or empty, and one that holds other words than its phrase is wrong.
                is_right = 0 <= start < end and raw[start:end].strip().lower() == phrase.strip().lower()
                if is_right and box is not None:
                    phrases.append(_Phrase(start - shift, end - shift, box))
    return _Scene(name, caption, raw.strip(_WRAPPING), tuple(phrases), size)


def _polygon_scene(record: object, size_of: SizeOf) -> _Scene:
    """A record of RefCOCOg: `{key: {img_file_name, caption, refs: [{sentence, segmentation}]}}`."""
    inner = next(iter(record.values())) if isinstance(record, dict) and len(record) == 1 else None
    name, caption = _image_name(inner, "img_file_name"), _string(inner, "caption")
    refs = _value(inner, "refs")
    if name is None or not isinstance(refs, list):
        return _Scene(name, caption, drop_reason="bad_record")
    text = (caption or "").strip(_WRAPPING)
    phrases = []
    for ref in refs:
        sentence, segmentation = (_string(ref, "sentence") or "").strip(), _value(ref, "segmentation")
        read = box_of_rle if isinstance(segmentation, dict) else box_of_polygons
        box = read(segmentation)
        # Whole words only ("man" is not in "woman"), and searched without lower(), which can move offsets.
        found = re.search(rf"(?<!\w){re.escape(sentence)}(?!\w)", text, re.IGNORECASE)
        if found and box is not None:
            phrases.append(_Phrase(found.start(), found.end(), box))
    return _Scene(name, caption, text, tuple(phrases), _size(inner) or size_of(name))


def _flickr_phrases(part: Path) -> Mapping[int, bytearray]:
    """Image id -> its packed phrases, in the order of the part."""
    packed: defaultdict[int, bytearray] = defaultdict(bytearray)
    for annotation in _items(part, "annotations"):
        match annotation:
            # Boxes that almost coincide were fused, so one may carry spans of other phrases too: the first counts.
            case {"image_id": int(image), "bbox": bbox, "tokens_positive": [[int(start), int(end)], *_]}:
                box = box_of_xywh(bbox)
                if box is not None and min(bbox[2:]) >= FLICKR_MIN_BOX and 0 <= start < end:
                    packed[image] += _PACKED_PHRASE.pack(start, end, *box)
    return packed


def _flickr_scene(image: object, packed: Mapping[int, bytearray], size_of: SizeOf) -> _Scene:
    """An item of Flickr's `images`: `{id, file_name, caption, height, width}`, one for each caption of a picture."""
    name, caption, image_id = _image_name(image, "file_name"), _string(image, "caption"), _value(image, "id")
    if name is None or not isinstance(image_id, int):
        return _Scene(name, caption, drop_reason="bad_record")
    text = caption or ""
    size = _size(image) or size_of(name)
    reason = None
    if 0 < len(text.split()) < FLICKR_MIN_WORDS:
        reason = "short_caption"
    elif size is not None and min(size) < FLICKR_MIN_SIDE:
        reason = "small_image"
    unpacked = _PACKED_PHRASE.iter_unpack(packed.get(image_id, b""))
    phrases = tuple(_Phrase(start, end, tuple(box)) for start, end, *box in unpacked)
    return _Scene(name, caption, text, phrases, size, reason)


def _row(scene: _Scene, form: Form) -> dict[str, str | None]:
    """The row of one record."""
    answer, reason = None, scene.drop_reason
    if reason is None and not scene.text.strip():
        reason = "no_caption"
    elif reason is None and scene.phrases and scene.size is None:
        reason = "no_size"
    elif reason is None:
        answer = FORMS[form](scene.text, _spans(scene))
        reason = None if answer else "no_phrase"
    return {
        "image_name": scene.image_name,
        "caption": scene.caption,
        "loc_caption": answer,
        "drop_reason": reason,
    }


def _spans(scene: _Scene) -> Iterator[Span]:
    """The scene's phrases with their locations; boxes of the same words become one."""
    if scene.size is None:
        return
    boxes: defaultdict[tuple[int, int], list[Box]] = defaultdict(list)
    for start, end, box in scene.phrases:
        if location_text(box, *scene.size) is not None:
            boxes[start, end].append(box)
    for (start, end), same in boxes.items():
        whole = union_box(same)
        location = location_text(whole, *scene.size) if whole is not None else None
        if location is not None:
            yield Span(start, end, location)


def _value(record: object, key: str) -> Any:
    """The record's value, or None where it has none or is no object at all."""
    return record.get(key) if isinstance(record, dict) else None


def _string(record: object, key: str) -> str | None:
    value = _value(record, key)
    return value if isinstance(value, str) else None


def _image_name(record: object, key: str) -> str | None:
    """The file name alone: folders differ between versions of the annotations (`train2017/`, `val2017/`, none)."""
    return (_string(record, key) or "").rpartition("/")[2] or None


def _size(record: object) -> Size | None:
    """The record's own size, which may be missing, strings or fractions."""
    width, height = (_pixels(_value(record, key)) for key in ("width", "height"))
    return (width, height) if width > 0 and height > 0 else None


def _pixels(value: object) -> int:
    """A side in pixels; 0 for what is not a number."""
    try:
        return int(float(value)) if isinstance(value, int | float | str) else 0
    except (ValueError, OverflowError):
        return 0


def _batches(rows: Iterator[dict[str, str | None]]) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(rows, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(chunk, schema=SCHEMA)


def _items(part: Path, key: str = "") -> Iterator[Any]:
    """The items of the list at the top of a JSON part, or of the one at the top-level `key`, one at a time.

    Raises:
        DataError: the part is not JSON, or there is no such list.
    """
    prefix = f"{key}.item" if key else "item"
    try:
        _require_list(part, key)
        with part.open("rb") as file:
            # use_float: numbers too long for a machine are then an error of the file, and cannot crash the parser.
            yield from ijson.items(file, prefix, buf_size=JSON_BUFFER, use_float=True)
    except ijson.JSONError as error:
        raise DataError(
            f"{part}: not a whole JSON file ({str(error).splitlines()[0]})",
            "Delete it and run `prep download` again.",
        ) from error


def _require_list(part: Path, key: str) -> None:
    """Check that the list is there before its items are read: those of a missing list would read as none."""
    seen: list[str] = []
    owner: str | None = "the top"  # of the value that comes next
    with part.open("rb") as file:
        for prefix, event, value in ijson.parse(file, buf_size=JSON_BUFFER, use_float=True):
            if event == "start_array" and prefix == key:
                return
            if owner is not None and len(seen) < MAX_NAMED:
                kind = {"start_array": "a list", "start_map": "an object"}.get(event, f"a {event}")
                seen.append(f"{owner} is {kind}")
            owner = repr(value[:40]) if prefix == "" and event == "map_key" else None
    raise DataError(
        f"{part}: no list {f'under {key!r}' if key else 'at the top'}; there, {', '.join(seen)}",
        "Is it another of the publisher's files? Check `parts` and `function` in the dataset's YAML.",
    )
