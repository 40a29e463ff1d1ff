"""GranD-f: captions whose phrases are tied to masks, polygons or boxes, and the COCO and Flickr30k images they need.

Three shapes of record: OpenPSG and HA give a list of rows with RLE masks, RefCOCOg a list of one-key rows with
polygons, Flickr one COCO object with an "image" per caption. Rows that are traps say so in their captions. HA's images
are a zip on Google Drive.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from prep.publishers.pictures import Picture, Thing, truncate

REPO = "MBZUAI/GranD-f"
ARCHIVES = ("train2014", "train2017", "val2017")
FLICKR_MEMBER = "flickr30k-images/{}.jpg"
HUMAN_IMAGES = "GranDf_HA_images.zip"
HUMAN_DRIVE_ID = "1abdxVhrbNQhjJQ8eAcuPrOUBzhGaFsF_"
ROTATED = 6  # EXIF: turn by a quarter to show; annotations are of the pixels as stored
Row = dict[str, Any]


@dataclass
class Album:
    """The image files that annotations name, by member; what is absent here is missing from its archive."""

    members: dict[str, bytes] = field(default_factory=dict)

    def add(self, member: str, width: int, height: int, how: str = "whole") -> Picture:
        """Make the picture called `member`: whole, rotated (EXIF), truncated or missing."""
        picture = Picture.named(member, width, height)
        data = picture.encode(orientation=ROTATED if how == "rotated" else 1)
        if how != "missing":
            self.members[member] = truncate(data) if how == "truncated" else data
        return picture


def write_grand_f(hub: Path, files: Path, flickr: Path) -> None:
    """Write the annotations, `files/coco/*.zip`, `files/grand-f/` and `flickr/flickr30k-images.tar.gz`."""
    album, train, held_out = Album(), hub / REPO / "train", hub / REPO / "val_test"
    _write_json(train / "OpenPsgGCG_train.json", _open_psg(album))
    _write_json(train / "OpenPsgGCG_val.json", [_psg_row(album, f"val2017/{n:012}.jpg") for n in (901, 902)])
    _write_json(train / "GranDf_HA_GCG_train.json", _human(album))
    _write_json(train / "RefCOCOg_GCG_train.json", _refcocog(album))
    _write_json(train / "RefCOCOg_GCG_val.json", [_ref_row(album, 900 + n, f"{n}") for n in range(2)])
    _write_json(train / "flickr_mergedGT_GCG_train.json", _flickr(album))
    _write_json(train / "flickr_mergedGT_GCG_val.json", _flickr_object([_flickr_picture(album, 3000000000)]))
    for split in ("val", "test"):
        for kind in ("caption", "mask"):
            _write_json(held_out / f"{split}_gcg_coco_{kind}_gt.json", {"images": [], "annotations": []})
    for name in ARCHIVES:
        _write_zip(files / "coco" / f"{name}.zip", name, album)
    _write_zip(files / "grand-f" / HUMAN_IMAGES, HUMAN_IMAGES.removesuffix(".zip"), album)
    _write_tar_gz(flickr / "flickr30k-images.tar.gz", album)


def encode_mask(picture: Picture, *things: Thing) -> dict[str, Any]:
    """The union of `things` as COCO's run-length encoding of `picture`'s pixels; of nothing, an empty mask."""
    image = Image.new("L", (picture.width, picture.height))
    for thing in things:
        thing.draw(ImageDraw.Draw(image), 1)
    encoded = coco_mask.encode(np.asfortranarray(np.asarray(image, dtype=np.uint8)))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode()}


# --- OpenPSG and HA ---------------------------------------------------------------------------------------------


def _psg_row(
    album: Album,
    file_name: str,
    trap: str = "",
    width: int = 640,
    height: int = 480,
    how: str = "whole",
    folder: str = "train2017/",
) -> Row:
    """A row with one mask for each of the two things; its image goes into the album, into `folder` if it names none."""
    folder = "" if "/" in file_name else folder
    picture = album.add(folder + file_name, width, height, how)
    caption = _caption(picture, trap)
    groundings = {
        phrase: {"token_positives": _span(caption, phrase), "rle_masks": [encode_mask(picture, thing)]}
        for phrase, thing in _phrases(picture)
    }
    image_id = file_name.rpartition("/")[2].removesuffix(".jpg").lstrip("0") or "0"
    size = {"height": picture.height, "width": picture.width}
    return {"file_name": file_name, "image_id": image_id, "caption": caption, **size, "groundings": groundings}


def _open_psg(album: Album) -> list[Row]:
    """OpenPSG's training rows: a dozen plain ones, then one for every trap."""
    plain = [_psg_row(album, f"train2017/{n:012}.jpg") for n in range(1, 13)]
    plain += [_psg_row(album, f"val2017/{n:012}.jpg", "of val2017") for n in range(21, 24)]
    odd = [
        _psg_row(album, "000000000031.jpg", "a file name without its folder"),
        _psg_row(album, f"train2017/{32:012}.jpg", "odd padding: 641 by 480", 641, 480),
        _psg_row(album, f"train2017/{33:012}.jpg", "a square picture", 512, 512),
        _psg_row(album, f"train2017/{34:012}.jpg", "a portrait", 481, 640),
        _psg_row(album, f"train2017/{35:012}.jpg", "an EXIF-rotated file", how="rotated"),
        _psg_row(album, f"train2017/{36:012}.jpg", "a file missing from its archive", how="missing"),
        _psg_row(album, f"train2017/{37:012}.jpg", "a truncated file", how="truncated"),
    ]
    return [*plain, *odd, *_odd_spans(album), *_odd_masks(album)]


def _odd_spans(album: Album) -> list[Row]:
    """Rows whose spans or captions are off: quotes, negative, empty and late spans, a phrase said twice."""
    spans = {"negative": [-1, -1], "empty": [5, 5], "reversed": [9, 2], "late": [4000, 4010]}
    rows = []
    for n, (says, span) in enumerate(spans.items()):
        row = _psg_row(album, f"train2017/{41 + n:012}.jpg", f"the first phrase has a span that is {says}")
        next(iter(row["groundings"].values()))["token_positives"] = span
        rows.append(row)
    quoted = _psg_row(album, f"train2017/{46:012}.jpg", "in double quotes, which the offsets count")
    quoted["caption"] = f'"{quoted["caption"]}"'
    spaced = _psg_row(album, f"train2017/{47:012}.jpg", "two spaces before it, which the offsets count")
    spaced["caption"] = f"  {spaced['caption']}"
    for row, shift in ((quoted, 1), (spaced, 2)):
        for grounding in row["groundings"].values():
            grounding["token_positives"] = [place + shift for place in grounding["token_positives"]]
    twice = _psg_row(album, f"train2017/{48:012}.jpg")
    twice["caption"] += f" {twice['caption']} (every phrase is said twice)"
    case = _psg_row(album, f"train2017/{49:012}.jpg", "the phrases are in another case")
    case["groundings"] = {phrase.upper(): value for phrase, value in case["groundings"].items()}
    return [*rows, quoted, spaced, twice, case]


def _odd_masks(album: Album) -> list[Row]:
    """Rows whose sizes or masks are off: no height, a string, two masks of a phrase, none, an empty one."""
    says = (
        *("no height and width", "sizes as strings", "sizes as fractions", "two masks of one phrase"),
        *("a phrase without masks", "an empty mask", "no phrase at all", "no usable phrase"),
        "a mask that touches the right edge",
    )
    rows = [_psg_row(album, f"train2017/{51 + n:012}.jpg", trap) for n, trap in enumerate(says)]
    missing, string, fraction, several, without, empty, no_phrase, none_usable, edge = rows
    del missing["height"], missing["width"]
    string |= {"height": "480", "width": "640"}
    fraction |= {"height": 480.0, "width": 640.0}
    first = [next(iter(row["groundings"].values())) for row in (several, without, empty, edge)]
    first[0]["rle_masks"] += list(several["groundings"].values())[1]["rle_masks"]
    first[1]["rle_masks"] = []
    first[2]["rle_masks"] = [encode_mask(Picture(0, 640, 480))]
    first[3]["rle_masks"] = [encode_mask(Picture(0, 640, 480), Thing("red", "square", (540, 0, 100, 480)))]
    no_phrase["groundings"] = {}
    for grounding in none_usable["groundings"].values():
        grounding["token_positives"] = [-1, -1]
    return rows


def _human(album: Album) -> list[Row]:
    """HA's rows: OpenPSG's shape over SA-1B pictures, which the rows name without their folder."""

    def row(number: int, trap: str = "", how: str = "whole") -> Row:
        folder = "GranDf_HA_images/val_test/" if number == 1 else "GranDf_HA_images/train/"
        return _psg_row(album, f"sa_{number}.jpg", trap, 320, 240, how, folder)

    plain = [row(0), row(1, "of val_test")]
    says = ("quoted", "a negative span", "an empty span", "no height", "sizes as strings", "two masks of one phrase")
    quoted, negative, empty, unsized, string, several = (row(10 + n, trap) for n, trap in enumerate(says))
    quoted["caption"] = f'"{quoted["caption"]}"'
    for grounding in quoted["groundings"].values():
        grounding["token_positives"] = [place + 1 for place in grounding["token_positives"]]
    first = [next(iter(odd["groundings"].values())) for odd in (negative, empty, several)]
    first[0]["token_positives"], first[1]["token_positives"] = [-1, -1], [5, 5]
    first[2]["rle_masks"] += list(several["groundings"].values())[1]["rle_masks"]
    del unsized["height"]
    string |= {"height": "240", "width": "320"}
    none = row(20, "no usable phrase")
    for grounding in none["groundings"].values():
        grounding["token_positives"] = [-1, -1]
    missing, truncated = row(21, "missing", "missing"), row(22, "truncated", "truncated")
    return [*plain, quoted, negative, empty, unsized, string, several, none, missing, truncated]


# --- RefCOCOg ---------------------------------------------------------------------------------------------------


def _ref_row(
    album: Album, number: int, key: str, trap: str = "", width: int = 640, height: int = 480, how: str = "whole"
) -> Row:
    """A one-key row with one polygon for each of the two things."""
    name = f"COCO_train2014_{number:012}.jpg"
    picture = album.add(f"train2014/{name}", width, height, how)
    refs = [{"sentence": phrase.lower(), "segmentation": [thing.polygon]} for phrase, thing in _phrases(picture)]
    row = {"img_file_name": name, "caption": _caption(picture, trap), "refs": refs}
    return {key: row | ({"image_id": number} if number % 2 else {})}


def _refcocog(album: Album) -> list[Row]:
    """RefCOCOg's training rows: a dozen plain ones, then one for every trap."""
    rows = [_ref_row(album, 101 + n, f"{n}") for n in range(12)]
    outside = [-40.0, -30.0, 200.0, -30.0, 200.0, 900.0, -40.0, 900.0]
    first_refs: dict[str, Row] = {
        "a phrase that the caption lacks": {"sentence": "a zebra with a hat"},
        "a polygon without area": {"segmentation": [[50.0, 60.0, 50.0, 60.0, 50.0, 60.0]]},
        "a polygon partly outside": {"segmentation": [outside]},
        "a polygon far outside": {"segmentation": [[900.0, 900.0, 950.0, 900.0, 950.0, 950.0]]},
        "no polygons for a phrase": {"segmentation": []},
        "two polygons for a phrase": {"segmentation": [[0, 0, 90, 0, 90, 90], [300, 200, 400, 200, 400, 300]]},
    }
    for n, (trap, changes) in enumerate(first_refs.items()):
        row = _ref_row(album, 121 + n, f"{121 + n}", trap)
        row[f"{121 + n}"]["refs"][0] |= changes
        rows.append(row)
    case = _ref_row(album, 131, "131", "a phrase in mixed case")
    overlap = _ref_row(album, 132, "132", "overlapping phrases")
    unsaid = _ref_row(album, 133, "133", "none of its phrases is in the caption")
    empty = _ref_row(album, 134, "134", "no phrases")
    first, second = overlap["132"]["refs"]
    second["sentence"] = first["sentence"].removeprefix("a ") + " stands left"
    case["131"]["refs"][0]["sentence"] = case["131"]["refs"][0]["sentence"].title()
    unsaid["133"]["refs"] = [ref | {"sentence": "a zebra"} for ref in unsaid["133"]["refs"]]
    empty["134"]["refs"] = []
    quoted = _ref_row(album, 151, "151", "in double quotes")
    quoted["151"]["caption"] = f'"{quoted["151"]["caption"]}"'
    return [
        *(*rows, case, overlap, unsaid, empty, quoted),
        _ref_row(album, 152, "152", "odd padding: 641 by 480", 641, 480),
        _ref_row(album, 153, "153", "a portrait", 480, 640),
        _ref_row(album, 154, "154", "an EXIF-rotated file", how="rotated"),
        _ref_row(album, 155, "155", "a file missing from its archive", how="missing"),
        _ref_row(album, 156, "156", "a truncated file", how="truncated"),
    ]


# --- Flickr -----------------------------------------------------------------------------------------------------


@dataclass
class FlickrPicture:
    """A picture with its captions; each is one "image" of the file, with annotations of its own."""

    number: int
    picture: Picture
    captions: list[tuple[str, list[Row]]]


def _flickr_picture(
    album: Album, number: int, count: int = 1, trap: str = "", width: int = 500, height: int = 375, how: str = "whole"
) -> FlickrPicture:
    """A picture with `count` captions, each with one box and mask for each thing."""
    picture = album.add(FLICKR_MEMBER.format(number), width, height, how)
    captions = []
    for n in range(count):
        says = f"caption {n + 1} of {count}" if count > 1 else trap
        caption = _caption(picture, says).replace(".", " .")
        captions.append((caption, [_box(caption, phrase, thing, picture) for phrase, thing in _phrases(picture)]))
    return FlickrPicture(number, picture, captions)


def _box(caption: str, phrase: str, thing: Thing, picture: Picture) -> Row:
    box = [float(n) for n in thing.box]
    mask = encode_mask(picture, thing)
    area = float(box[2] * box[3])
    return {"area": area, "bbox": box, "tokens_positive": [_span(caption, phrase)], "sam_mask": mask}


def _flickr(album: Album) -> Row:
    """Flickr's training file: five pictures with five captions each, then one for every trap."""
    pictures = [_flickr_picture(album, 1000092795 + n, 5) for n in range(5)]
    boxes = {
        "a box narrower than a pixel": [10.0, 20.0, 0.5, 100.0],
        "a box of no area": [10.0, 20.0, 0.0, 0.0],
        "a box off the picture": [900.0, 20.0, 50.0, 50.0],
        "a box partly off the picture": [-30.0, -20.0, 200.0, 900.0],
        "a box that touches the right edge": [400.0, 100.0, 100.0, 100.0],
        "a box whose tokens are [0, 508, 257, 765] in 640 by 480": [0.0, 237.35, 160.82, 160.81],
    }
    for n, (trap, box) in enumerate(boxes.items()):
        size = (640, 480) if "640" in trap else (500, 375)
        odd = _flickr_picture(album, 2000000000 + n, 1, trap, *size)
        odd.captions[0][1][0]["bbox"] = box
        pictures.append(odd)
    several = _flickr_picture(album, 2000000010, 1, "several spans on one annotation")
    annotations = several.captions[0][1]
    annotations[0]["tokens_positive"] += annotations.pop()["tokens_positive"]
    spanless = _flickr_picture(album, 2000000011, 1, "an annotation without spans")
    spanless.captions[0][1][0]["tokens_positive"] = []
    boxless = _flickr_picture(album, 2000000012, 1, "a caption without boxes")
    boxless.captions[0][1].clear()
    brief = _flickr_picture(album, 2000000013)
    brief.captions = [("Two shapes", [_box("Two shapes", "Two shapes", brief.picture.things[0], brief.picture)])]
    return _flickr_object(
        [
            *pictures,
            several,
            spanless,
            boxless,
            brief,
            _flickr_picture(album, 2000000014, 1, "a picture 31 pixels wide", 31, 200),
            _flickr_picture(album, 2000000015, 1, "a file missing from its archive", how="missing"),
            _flickr_picture(album, 2000000016, 1, "a truncated file", how="truncated"),
            _flickr_picture(album, 2000000017, 1, "an EXIF-rotated file", how="rotated"),
        ]
    )


def _flickr_object(pictures: list[FlickrPicture]) -> Row:
    """The whole file: sizes are strings, `info` and `licenses` empty lists, as its writer left them."""
    images: list[Row] = []
    annotations: list[Row] = []
    for entry in pictures:
        for sentence, (caption, boxes) in enumerate(entry.captions):
            spans = [box["tokens_positive"] for box in boxes]
            image = {"id": len(images), "file_name": f"{entry.number}.jpg", "caption": caption}
            image |= {"height": str(entry.picture.height), "width": str(entry.picture.width)}
            image |= {"dataset_name": "flickr", "tokens_negative": [[0, len(caption)]], "sentence_id": sentence}
            image |= {"original_img_id": entry.number, "tokens_positive_eval": spans}
            for box in boxes:
                row = {"id": len(annotations), "image_id": image["id"], "category_id": 1, "iscrowd": 0}
                annotations.append(row | box)
            images.append(image)
    categories = [{"supercategory": "object", "id": 1, "name": "object"}]
    return {"images": images, "annotations": annotations, "categories": categories, "info": [], "licenses": []}


# --- Captions and files -----------------------------------------------------------------------------------------


def _caption(picture: Picture, trap: str) -> str:
    return f"{picture.caption} ({trap})" if trap else picture.caption


def _phrases(picture: Picture) -> list[tuple[str, Thing]]:
    """The two phrases of the picture's caption as they stand there, with what they name."""
    left, right = picture.things
    return [(f"A {left.name}", left), (f"a {right.name}", right)]


def _span(caption: str, phrase: str) -> list[int]:
    """Character offsets of `phrase` in `caption`, end exclusive."""
    start = caption.index(phrase)
    return [start, start + len(phrase)]


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def _write_zip(path: Path, folder: str, album: Album) -> None:
    """Write the album's members below `folder/`, dated 1980 so that the bytes are always the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{folder}/"), b"")
        for name, data in album.members.items():
            if name.startswith(f"{folder}/"):
                archive.writestr(zipfile.ZipInfo(name), data)


def _write_tar_gz(path: Path, album: Album) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", 1, file, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
    ):
        for name, data in album.members.items():
            if name.startswith("flickr30k-images/"):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
