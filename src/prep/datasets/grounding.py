"""Boxes, and the LOC text in which the trainer's grounding answers hold them.

The trainer has the tokens `<LOC_0>` to `<LOC_1024>`. Their space is the picture put in the middle of a black square
as wide as its longer side, that square scaled to 1024. Only the coordinates are padded so; the picture stays as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeGuard

from pycocotools import mask

LOC_SIDE = 1024  # the tokens count from 0 to this, both included
MAX_SIDE = 65_535  # pixels; more than any JPEG has

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the original picture
Form = Literal["in-caption", "list"]

# pycocotools reads and writes counts in C without checking bounds, so what it is given is checked here: a string in
# which every number ends, and a list whose numbers fit the five of six characters it reserves for each.
_COUNTS = re.compile(r"(?:[P-o]{0,5}[0-O])+")
_COUNT_LIMIT = 2**24

_LOCATION = re.compile(r"<LOC_BEGIN>(?:<LOC_\d{1,4}>){4}<LOC_END>")
_LOCATIONS = re.compile(rf"{_LOCATION.pattern}(?:\s*{_LOCATION.pattern})*")


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a caption, and the location text of what they name."""

    start: int
    end: int
    location: str


class Located(NamedTuple):
    """A phrase of a grounded text, and the LOC texts that follow it."""

    phrase: str
    locations: tuple[str, ...]


def location_text(box: Box, width: int, height: int) -> str | None:
    """The LOC text of one box in a picture of `width` x `height` pixels, or None for a box that shows nothing of it.

    An odd padding is rounded down on the left and the top. Coordinates are rounded to the nearest token, a half
    upwards, after clamping to the square. The trainer's own rounding is not known; an error of one token is 1/1024.

    Returns:
        `<LOC_BEGIN><LOC_x1><LOC_y1><LOC_x2><LOC_y2><LOC_END>`; None when the box has no area or lies outside.
    """
    x1, y1, x2, y2 = box
    if not (min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)):
        return None
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    # Multiplied first: times 1024 is exact, so the same box in a picture twice as large rounds the same way.
    scaled = ((value + pad) * LOC_SIDE / side for value, pad in ((x1, left), (y1, top), (x2, left), (y2, top)))
    tokens = (math.floor(min(max(value, 0), LOC_SIDE) + 0.5) for value in scaled)
    return "<LOC_BEGIN>" + "".join(f"<LOC_{token}>" for token in tokens) + "<LOC_END>"


def box_of_location(location: str, width: int, height: int) -> Box | None:
    """The box that a LOC text means in a picture of `width` x `height` pixels: what `location_text` was given.

    Edges come back within half a token, which is half a 1024th of the picture's longer side; a box that reached out of
    the padded square comes back cut off there.

    Returns:
        The box, which may reach into the padding; None for a text that is not one LOC text with its edges in order.
    """
    if not _LOCATION.fullmatch(location):
        return None
    x1, y1, x2, y2 = (int(token) for token in re.findall(r"\d+", location))
    if not (x1 <= x2 <= LOC_SIDE and y1 <= y2 <= LOC_SIDE):
        return None
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return (
        x1 * side / LOC_SIDE - left,
        y1 * side / LOC_SIDE - top,
        x2 * side / LOC_SIDE - left,
        y2 * side / LOC_SIDE - top,
    )


def located_phrases(text: str) -> list[Located]:
    """The phrases of a grounded text that have locations, in its order.

    A phrase is what stands between the tags in front of its locations; without tags it is the words there, from the
    last punctuation on, and empty where there are none.
    """
    located, end = [], 0
    for found in _LOCATIONS.finditer(text):
        before = text[end : found.start()].rstrip()
        if before.endswith("</box_p>"):
            words = before.removesuffix("</box_p>").rpartition("<box_p>")[2]
        else:
            words = re.split(r"[\n.,;]", before.rstrip(" \t:=(["))[-1]
        located.append(Located(" ".join(words.split()), tuple(_LOCATION.findall(found[0]))))
        end = found.end()
    return located


def phrase_text(phrase: str, box_text: str) -> str:
    """A phrase followed by its location: one space inside the tags, none before the location."""
    return f"<box_p> {phrase} </box_p>{box_text}"


def grounded_caption(caption: str, spans: Iterable[Span]) -> str | None:
    """The caption with every span tagged where it stands, or None when no span is left.

    Spans are put in order, cut to the caption, freed of white space at their ends, and one that reaches into the
    next ends where that begins.
    """
    pieces, end = [], 0
    for span in _disjoint(caption, spans):
        pieces += [caption[end : span.start], phrase_text(caption[span.start : span.end], span.location)]
        end = span.end
    return "".join(pieces) + caption[end:] if pieces else None


def object_list(caption: str, spans: Iterable[Span]) -> str | None:
    """The spans alone, as a list of objects in the caption's order; the same spans `grounded_caption` tags."""
    objects = [phrase_text(caption[start:end], location) for start, end, location in _disjoint(caption, spans)]
    return f"There are following objects in the scene. {', '.join(objects)}" if objects else None


# No released table shows which form trained the model. The column's name and the loader's question ("dense image
# caption") speak for the first, so it is the default; the trainer's evaluation answers in the second.
FORMS: dict[Form, Callable[[str, Iterable[Span]], str | None]] = {
    "in-caption": grounded_caption,
    "list": object_list,
}


def rle_size(rle: object) -> tuple[int, int] | None:
    """(width, height) of a run-length mask, or None when it does not say."""
    match rle:
        case {"size": [int(height), int(width)]} if 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE:
            return width, height
    return None


def box_of_rle(rle: object) -> Box | None:
    """The box around a run-length mask, or None when it cannot be read.

    The far edges are the largest index plus one. A mask without pixels gives a box without area.

    Args:
        rle: COCO's `{"size": [height, width], "counts": ...}`; counts compressed (str, bytes) or plain (list).
    """
    size = rle_size(rle)
    match rle:
        case {"counts": str() | bytes() as counts} if size is not None:
            text = counts if isinstance(counts, str) else counts.decode("latin-1")
            if not _COUNTS.fullmatch(text):
                return None
            compressed = {"size": [size[1], size[0]], "counts": text}
        case {"counts": [_, *_] as counts} if size is not None:
            if not all(isinstance(count, int) and 0 <= count < _COUNT_LIMIT for count in counts):
                return None
            plain = {"size": [size[1], size[0]], "counts": counts}
            compressed = mask.frPyObjects(plain, size[1], size[0])
        case _:
            return None
    x, y, width, height = mask.toBbox(compressed).tolist()
    if x + width > size[0] or y + height > size[1]:
        return None  # more counts than the mask has pixels, or a run of negative length
    return x, y, x + width, y + height


def box_of_polygons(polygons: object) -> Box | None:
    """The box around COCO polygons `[[x, y, x, y, ...], ...]`, or None when they cannot be read."""
    if not isinstance(polygons, list) or not polygons:
        return None
    if not all(_is_numbers(points) and points and len(points) % 2 == 0 for points in polygons):
        return None
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def box_of_xywh(xywh: object) -> Box | None:
    """The box of COCO's `[x, y, width, height]`, or None when it cannot be read."""
    if not _is_numbers(xywh) or len(xywh) != 4:
        return None
    x, y, width, height = xywh
    return x, y, x + width, y + height


def union_box(boxes: Sequence[Box | None]) -> Box | None:
    """The box around those of `boxes` that have an area; None when there is none, or when one could not be read."""
    solid = []
    for box in boxes:
        if box is None:
            return None  # a box around the rest would be too small without saying so
        if box[0] < box[2] and box[1] < box[3]:
            solid.append(box)
    if not solid:
        return None
    lefts, tops, rights, bottoms = zip(*solid, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _is_numbers(values: object) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def _disjoint(caption: str, spans: Iterable[Span]) -> list[Span]:
    """Spans in order, none empty and none reaching into the next; of spans with one start, only the longest."""
    disjoint: list[Span] = []
    limit = len(caption)
    for span in sorted(spans, reverse=True):
        start = max(span.start, 0)
        words = caption[start : max(min(span.end, limit), 0)]
        if words.strip():
            start += len(words) - len(words.lstrip())
            disjoint.append(Span(start, start + len(words.strip()), span.location))
            limit = start
    return disjoint[::-1]
