"""RefCOCO, RefCOCO+ and RefCOCOg: words for one thing in a COCO picture, and where it is, as grounding answers.

Every expression of the chosen splits comes back as one row: `image_name`, `label` (the words), `loc_string` (the
answer), `split`, `ref_id`, `ann_id`, `sent_id`, `raw` (the words as they were typed), `raw_gt_box` (left, top, right,
bottom, in pixels), `transformed_box` (the four numbers of the answer) and `drop_reason`: `bad_record`,
`no_expression`, `no_picture` (its id is unknown), `no_annotation`, `bad_box`, `no_size` or `empty_box` (no area, or
outside the picture). A thing without expressions has one row.

A ref's own `file_name` is never used: it ends in a number that no file has.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from prep.datasets import SizeOf
from prep.datasets.grounding import MAX_SIDE, Box, box_of_xywh, location_text
from prep.datasets.plain_pickle import load_plain
from prep.errors import DataError

_TYPES = {
    **dict.fromkeys(("image_name", "label", "loc_string", "split"), pa.string()),
    **dict.fromkeys(("ref_id", "ann_id", "sent_id"), pa.int64()),
    "raw": pa.string(),
    **dict.fromkeys(("raw_gt_box", "transformed_box"), pa.list_(pa.float64())),
    "drop_reason": pa.string(),
}
SCHEMA = pa.schema(_TYPES.items())
SENTENCES = ("sent", "raw")
BATCH_ROWS = 1000
MAX_ROWS = 1_000_000  # expressions of one part; the largest set has 142,210
MAX_PICKLE_BYTES = 1 << 27  # as many refs as RefCOCOg has take some 40 MB
MAX_JSON_BYTES = 1 << 30  # RefCOCOg's has some 150 MB
MAX_NAMED = 12  # members or splits named in a message

# What is read of instances.json.
_KEYS = {"images": ("id", "file_name", "width", "height"), "annotations": ("id", "image_id", "bbox")}
_HUB_COLUMNS = ["ref_id", "ann_id", "split", "sentences", "raw_anns", "raw_image_info"]
# zipfile raises NotImplementedError for a member that its flags call patched, or strongly encrypted.
_NOT_WHOLE = (ijson.JSONError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)

Sentence = Literal["sent", "raw"]
Row = dict[str, Any]


class _Picture(NamedTuple):
    name: str | None
    size: tuple[int, int] | None  # width, height


class _Annotation(NamedTuple):
    image_id: int | None
    xywh: Any


_Pictures = dict[int | None, _Picture]  # by id; None has none
_Annotations = dict[int | None, _Annotation]


class _Target(NamedTuple):
    """Where a thing is, or why that cannot be said."""

    image_name: str | None = None
    box: Box | None = None
    location: str | None = None
    drop_reason: str | None = None


def expressions(
    part: Path, size_of: SizeOf, *, partition: str, splits: str | Sequence[str] = "train", sentence: Sentence = "sent"
) -> Iterator[pa.RecordBatch]:
    """Rows of the publisher's zip (`instances.json` and one `refs(...).p` a partition), in batches of at most 1000.

    The pickle is read whole, by a machine that knows plain data alone: some 300 MB of memory for RefCOCOg. Of
    `instances.json`, which is streamed, stays what the chosen splits point at.

    Args:
        partition: who made the splits: `unc` or `google`; `umd` or `google` for RefCOCOg.
        splits: those to read; refs of others make no rows.
        sentence: which text is the label: `sent` (lower case, words apart) or `raw` (as typed).

    Raises:
        DataError: a member is missing, damaged, too large, or more than plain data; or no ref is of `splits`.
    """
    _check_sentence(sentence)
    with _opened(part) as archive:
        refs = _refs(part, archive, partition, [splits] if isinstance(splits, str) else splits)
        pictures, annotations = _instances(part, archive, refs)
    targets = ((ref, _target_of(ref, pictures, annotations, size_of)) for ref in refs)
    yield from _batches(part, (row for ref, target in targets for row in _rows(ref, target, sentence)))


def parquet(part: Path, size_of: SizeOf, *, sentence: Sentence = "sent") -> Iterator[pa.RecordBatch]:
    """Rows of one parquet part of the hub's copies by jxu124, a split of its own, in batches of at most 1000.

    Boxes come from `raw_anns` and pictures from `raw_image_info`; the column `bbox` does not say what its numbers are.

    Raises:
        DataError: the part is not parquet, or lacks a column.
    """
    _check_sentence(sentence)
    rows = (row for ref in _hub_refs(part) for row in _rows(ref, _hub_target(ref, size_of), sentence))
    yield from _batches(part, rows)


def _check_sentence(sentence: str) -> None:
    if sentence not in SENTENCES:
        raise DataError(f"sentence {sentence!r} is none of {', '.join(SENTENCES)}", "Mend the dataset's YAML.")


# --- The publisher's zip ----------------------------------------------------------------------------------------


@contextmanager
def _opened(part: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(part) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise DataError(f"{part}: not a whole zip ({error})", "Delete it and run `prep download` again.") from error


@contextmanager
def _member(part: Path, archive: zipfile.ZipFile, name: str, max_bytes: int) -> Iterator[IO[bytes]]:
    """The one member whose file name is `name`, in whatever folder; what goes wrong while it is read is its error."""
    found = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == name]
    if len(found) != 1:
        names = ", ".join(archive.namelist()[:MAX_NAMED]) or "nothing"
        raise DataError(
            f"{part}: {len(found) or 'no'} members are called {name!r}; it has: {names}",
            "Is it another of the publisher's files? Check `parts` and `arguments` in the dataset's YAML.",
        )
    [info] = found
    again = "Delete it and run `prep download` again."
    if info.file_size > max_bytes:
        raise DataError(f"{part}: {info.filename} has {info.file_size:,} bytes, more than {max_bytes:,}", again)
    # Other methods unpack a few bytes into any number at once.
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{part}: {info.filename} is encrypted, or packed in an unusual way", again)
    try:
        with archive.open(info) as file:
            yield file
    except _NOT_WHOLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{part}: {info.filename} is not whole ({reason})", again) from error


def _refs(part: Path, archive: zipfile.ZipFile, partition: str, splits: Sequence[str]) -> list[Row]:
    """The partition's refs of the chosen splits, and those that do not say their split."""
    name = f"refs({partition}).p"
    with _member(part, archive, name, MAX_PICKLE_BYTES) as file:
        refs = load_plain(file.read(), f"{part}: {name}")
    if not isinstance(refs, list):
        raise DataError(
            f"{part}: {name} holds a {type(refs).__name__}, not a list of refs", "Is it the publisher's file?"
        )
    by_split = [(ref, _text(ref.get("split"))) if isinstance(ref, dict) else ({}, None) for ref in refs]
    there = dict.fromkeys(split for _, split in by_split if split is not None)
    if not there.keys() & set(splits):
        raise DataError(
            f"{part}: {name} has no ref of split {' or '.join(splits)}; it has: {', '.join(list(there)[:MAX_NAMED])}",
            "Mend `arguments` in the dataset's YAML.",
        )
    return [ref for ref, split in by_split if split is None or split in splits]


def _instances(part: Path, archive: zipfile.ZipFile, refs: Sequence[Row]) -> tuple[_Pictures, _Annotations]:
    """Pictures and annotations that the refs point at, by their ids."""
    image_ids, annotation_ids = ({_integer(ref.get(key)) for ref in refs} - {None} for key in ("image_id", "ann_id"))
    pictures: _Pictures = {}
    annotations: _Annotations = {}
    seen = set()
    with _member(part, archive, "instances.json", MAX_JSON_BYTES) as file:
        for owner, item in _items(file):
            seen.add(owner)
            number = _integer(item.get("id"))
            if owner == "images" and number in image_ids:
                pictures[number] = _picture(item)
            elif owner == "annotations" and number in annotation_ids:
                annotations[number] = _Annotation(_integer(item.get("image_id")), item.get("bbox") or [])
    if missing := {"images", "annotations"} - seen:
        raise DataError(
            f"{part}: no list of {' or '.join(sorted(missing))} in its instances.json", "Is it the publisher's file?"
        )
    return pictures, annotations


def _items(file: IO[bytes]) -> Iterator[tuple[str, Row]]:
    """(`images` or `annotations`, what is read of one item), for every item; outlines are passed over unbuilt.

    Depth 1 is the object at the top, 2 its lists, 3 their items, 4 a list in an item. Of such a list five values are
    enough: a box has four.

    Raises:
        ijson.JSONError: it is not whole.
    """
    owner, key, depth = "", "", 0
    item: Row = {}
    # Not the parser's own paths: it copies them for every event, so nested brackets take the square of their bytes.
    for event, value in ijson.basic_parse(file, use_float=True):
        if event == "map_key":
            owner, key = (value, key) if depth == 1 else (owner, value if depth == 3 else key)
        elif event in ("end_map", "end_array"):
            depth -= 1
            if depth == 2 and owner in _KEYS:
                yield owner, item
                item, key = {}, ""
        else:
            if depth == 3 and key in _KEYS.get(owner, ()):
                item[key] = [] if event == "start_array" else value
            elif depth == 4 and isinstance(item.get(key), list) and len(item[key]) <= 4:
                item[key].append(value)
            depth += event in ("start_map", "start_array")


def _target_of(ref: Row, pictures: _Pictures, annotations: _Annotations, size_of: SizeOf) -> _Target:
    """Where a ref's thing is; an annotation that belongs to another picture is not its own."""
    if _text(ref.get("split")) is None:
        return _Target(drop_reason="bad_record")
    image_id, annotation_id = _integer(ref.get("image_id")), _integer(ref.get("ann_id"))
    annotation = annotations.get(annotation_id)
    xywh = annotation.xywh if annotation is not None and annotation.image_id == image_id else None
    return _target(pictures.get(image_id), xywh, size_of)


# --- The hub's parquet ------------------------------------------------------------------------------------------


def _hub_refs(part: Path) -> Iterator[Row]:
    """The part's records, the columns that are needed, a thousand at a time."""
    try:
        with pq.ParquetFile(part) as file:
            names = file.schema_arrow.names
            lacking = [name for name in _HUB_COLUMNS if name not in names]
            if lacking:
                raise DataError(
                    f"{part}: no column {' or '.join(lacking)}; it has: {', '.join(names)}",
                    "Is it another of the publisher's files? Check `parts` in the dataset's YAML.",
                )
            for batch in file.iter_batches(BATCH_ROWS, columns=_HUB_COLUMNS):
                yield from batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{part}: not a whole parquet file ({error})", "Delete it and run `prep download` again."
        ) from error


def _hub_target(ref: Row, size_of: SizeOf) -> _Target:
    """Where a record's thing is, as the picture and the annotation say that it carries."""
    image, annotation = (_object(ref.get(column)) for column in ("raw_image_info", "raw_anns"))
    if image is None or annotation is None:
        return _target(_picture(image) if image is not None else None, None, size_of)
    image_ids = image.get("id"), annotation.get("image_id")
    is_of_it = None in image_ids or image_ids[0] == image_ids[1]
    return _target(_picture(image), annotation.get("bbox") or [] if is_of_it else None, size_of)


def _object(text: object) -> Row | None:
    """A JSON object's text as a dict, every number a float; None for anything else."""
    try:
        value = json.loads(text, parse_int=float) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- Both -------------------------------------------------------------------------------------------------------


def _picture(image: Row) -> _Picture:
    """A record of COCO's `images`: its file's name without folders, and its size where it can be read."""
    name = (_text(image.get("file_name")) or "").rpartition("/")[2] or None
    width, height = (_pixels(image.get(side)) for side in ("width", "height"))
    return _Picture(name, (width, height) if width > 0 and height > 0 else None)


def _target(picture: _Picture | None, xywh: object, size_of: SizeOf) -> _Target:
    """Where the box `xywh` (None: there is no annotation) is in a picture.

    The annotated size goes before that of the stored file, which may have been made smaller.
    """
    if picture is None or picture.name is None:
        return _Target(drop_reason="no_picture")
    if xywh is None:
        return _Target(picture.name, drop_reason="no_annotation")
    box, size = box_of_xywh(xywh), picture.size or size_of(picture.name)
    if box is None:
        return _Target(picture.name, drop_reason="bad_box")
    if size is None:
        return _Target(picture.name, box, drop_reason="no_size")
    location = location_text(box, *size)
    return _Target(picture.name, box, location, None if location else "empty_box")


def _rows(ref: Row, target: _Target, sentence: str) -> Iterator[Row]:
    """The rows of one thing: one for each of its expressions."""
    shared = {
        "image_name": target.image_name,
        "loc_string": target.location,
        "split": _text(ref.get("split")),
        "ref_id": _integer(ref.get("ref_id")),
        "ann_id": _integer(ref.get("ann_id")),
        "raw_gt_box": target.box and [float(number) for number in target.box],
        "transformed_box": target.location and [float(token) for token in re.findall(r"\d+", target.location)],
    }
    said = ref.get("sentences")
    for words in said if isinstance(said, list) and said else [None]:
        texts = words if isinstance(words, dict) else {}
        label = (_text(texts.get(sentence)) or "").strip() or None
        yield shared | {
            "label": label,
            "sent_id": _integer(texts.get("sent_id")),
            "raw": _text(texts.get("raw")),
            "drop_reason": target.drop_reason or (None if label else "no_expression"),
        }


def _batches(part: Path, rows: Iterator[Row]) -> Iterator[pa.RecordBatch]:
    """Rows in batches; a pickle can hold one list of expressions many times over, so their number has a limit."""
    for _ in range(MAX_ROWS // BATCH_ROWS):
        chunk = list(islice(rows, BATCH_ROWS))
        if not chunk:
            return
        yield pa.RecordBatch.from_pylist(chunk, schema=SCHEMA)
    if next(rows, None) is not None:
        raise DataError(f"{part}: more than {MAX_ROWS:,} expressions", "Delete it and run `prep download` again.")


def _text(value: object) -> str | None:
    """Text without halves of characters, which no file can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, int) and abs(value) < 2**63 else None


def _pixels(value: object) -> int:
    """A side in pixels; 0 for what is none."""
    try:
        side = float(value) if isinstance(value, int | float | str) else 0
    except (ValueError, OverflowError):
        return 0
    return int(side) if 0 < side <= MAX_SIDE else 0
