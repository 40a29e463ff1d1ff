from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocotools import mask

from prep.datasets.grounding import (
    Box,
    Located,
    Span,
    box_of_location,
    box_of_polygons,
    box_of_rle,
    box_of_xywh,
    grounded_caption,
    located_phrases,
    location_text,
    object_list,
    phrase_text,
    rle_size,
    union_box,
)

HERE = "<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_4><LOC_END>"
THERE = "<LOC_BEGIN><LOC_5><LOC_6><LOC_7><LOC_8><LOC_END>"


def tokens(text: str | None) -> list[int]:
    assert text is not None
    return [int(number) for number in re.findall(r"<LOC_(\d+)>", text)]


def untagged(text: str) -> str:
    return re.sub(r"<box_p> (.*?) </box_p><LOC_BEGIN>(?:<LOC_\d+>){4}<LOC_END>", r"\1", text, flags=re.DOTALL)


SIDES = st.integers(1, 5000)
EDGES = st.floats(-1e4, 1e4)


# --- Locations ---------------------------------------------------------------------------------------------------


def test_worked_example() -> None:
    box = box_of_xywh([0.0, 237.35, 160.82, 160.81])
    assert box is not None
    assert location_text(box, 640, 480) == "<LOC_BEGIN><LOC_0><LOC_508><LOC_257><LOC_765><LOC_END>"


@pytest.mark.parametrize(
    ("box", "width", "height", "expected"),
    [
        pytest.param((0, 0, 641, 480), 641, 480, [0, 128, 1024, 895], id="odd top padding is 80, not 80.5 or 81"),
        pytest.param((0, 0, 480, 641), 480, 641, [128, 0, 895, 1024], id="odd left padding is 80"),
        pytest.param((128, 128, 256, 384), 512, 512, [256, 256, 512, 768], id="a square has no padding"),
        pytest.param((0, 0, 480, 640), 480, 640, [128, 0, 896, 1024], id="a portrait is padded left and right"),
        pytest.param((600, 0, 640, 10), 640, 480, [960, 128, 1024, 144], id="the right edge is token 1024"),
        pytest.param((1, 1, 3, 5), 2048, 2048, [1, 1, 2, 3], id="halves round up, even or odd"),
        pytest.param((-50, -60, 30, 700), 64, 64, [0, 0, 480, 1024], id="outside is clamped"),
        pytest.param((-10, -10, 20, 20), 128, 64, [0, 176, 160, 416], id="clamped to the square, not the picture"),
        pytest.param((-math.inf, 0, math.inf, 64), 64, 64, [0, 0, 1024, 1024], id="an endless box"),
        pytest.param((0, 0, 1, 1), 1, 1, [0, 0, 1024, 1024], id="a picture of one pixel"),
    ],
)
def test_location(box: Box, width: int, height: int, expected: list[int]) -> None:
    assert tokens(location_text(box, width, height)) == expected


@st.composite
def boxes_in_pictures(draw: st.DrawFn) -> tuple[Box, int, int]:
    """A box with an area inside a picture, and the picture's size."""
    width, height = draw(SIDES), draw(SIDES)
    x1, y1 = draw(st.floats(0, width, exclude_max=True)), draw(st.floats(0, height, exclude_max=True))
    x2 = draw(st.floats(x1, width, exclude_min=True))
    y2 = draw(st.floats(y1, height, exclude_min=True))
    return (x1, y1, x2, y2), width, height


@given(boxes_in_pictures())
def test_a_box_comes_back_within_one_token(drawn: tuple[Box, int, int]) -> None:
    box, width, height = drawn
    text = location_text(box, width, height)
    assert text is not None
    back = box_of_location(text, width, height)
    assert back is not None
    assert max(abs(one - other) for one, other in zip(box, back, strict=True)) <= max(width, height) / 2048 + 1e-6
    assert location_text(back, width, height) in (text, None)  # None: narrower than a token, it has lost its area


@given(data=st.data(), width=SIDES, height=SIDES)
def test_a_location_comes_back_as_it_was(data: st.DataObject, width: int, height: int) -> None:
    x1, y1 = data.draw(st.integers(0, 1024)), data.draw(st.integers(0, 1024))
    x2, y2 = data.draw(st.integers(x1, 1024)), data.draw(st.integers(y1, 1024))
    text = f"<LOC_BEGIN><LOC_{x1}><LOC_{y1}><LOC_{x2}><LOC_{y2}><LOC_END>"
    box = box_of_location(text, width, height)
    assert box is not None
    is_seen = max(box[0], 0) < min(box[2], width) and max(box[1], 0) < min(box[3], height)
    assert location_text(box, width, height) == (text if is_seen else None)


def test_the_worked_example_and_back() -> None:
    box = box_of_location("<LOC_BEGIN><LOC_0><LOC_508><LOC_257><LOC_765><LOC_END>", 640, 480)
    assert box == (0, 237.5, 160.625, 398.125)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<LOC_1><LOC_2><LOC_3><LOC_4>",
        "<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_END>",
        "<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_4><LOC_5><LOC_END>",
        "<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_1025><LOC_END>",
        "<LOC_BEGIN><LOC_9><LOC_2><LOC_3><LOC_4><LOC_END>",
        f"{HERE} ",
        f"{HERE}{THERE}",
    ],
)
def test_no_box_of_what_is_no_location(text: str) -> None:
    assert box_of_location(text, 640, 480) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("A dog.", [], id="no location"),
        pytest.param(HERE, [Located("", (HERE,))], id="a location alone, as in loc_string"),
        pytest.param(
            f"A <box_p> big\n dog </box_p>{HERE} near <box_p> a tree </box_p>{THERE}.",
            [Located("big dog", (HERE,)), Located("a tree", (THERE,))],
            id="in the caption",
        ),
        pytest.param(
            f"There are following objects in the scene. {phrase_text('A', HERE)}, {phrase_text('B', THERE)}",
            [Located("A", (HERE,)), Located("B", (THERE,))],
            id="as a list",
        ),
        pytest.param(f"<box_p> a </box_p> <box_p> b </box_p>{HERE}", [Located("b", (HERE,))], id="two tagged phrases"),
        pytest.param(f"{phrase_text('dogs', HERE)} {THERE}", [Located("dogs", (HERE, THERE))], id="two of one phrase"),
        pytest.param(
            f"a dog: {HERE}, a tree {THERE}; {HERE}",
            [Located("a dog", (HERE,)), Located("a tree", (THERE,)), Located("", (HERE,))],
            id="phrases without tags",
        ),
    ],
)
def test_located_phrases(text: str, expected: list[Located]) -> None:
    assert located_phrases(text) == expected


@given(st.lists(st.sampled_from(["<box_p>", "</box_p>", HERE, "<LOC_BEGIN>", "<LOC_7>", " ", "a", ","])))
def test_located_phrases_finds_every_location(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert [location for item in located_phrases(text) for location in item.locations] == re.findall(
        r"<LOC_BEGIN>(?:<LOC_\d+>){4}<LOC_END>", text
    )


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((10, 10, 10, 20), id="no width"),
        pytest.param((10, 10, 20, 10), id="no height"),
        pytest.param((20, 10, 10, 20), id="edges the wrong way round"),
        pytest.param((64, 0, 80, 20), id="right of the picture, touching it"),
        pytest.param((-20, 0, 0, 20), id="left of the picture, touching it"),
        pytest.param((0, -30, 20, -5), id="above the picture, in its padding"),
        pytest.param((0, 40, 20, 60), id="below the picture, in its padding"),
        pytest.param((math.nan, 0, 20, 20), id="not a number"),
    ],
)
def test_no_location(box: Box) -> None:
    assert location_text(box, 64, 32) is None


def test_no_location_in_a_picture_without_size() -> None:
    assert location_text((0, 0, 10, 10), 0, 0) is None


@given(xs=st.tuples(EDGES, EDGES), ys=st.tuples(EDGES, EDGES), width=SIDES, height=SIDES)
def test_tokens_are_ordered_and_in_range(
    xs: tuple[float, float], ys: tuple[float, float], width: int, height: int
) -> None:
    (x1, x2), (y1, y2) = sorted(xs), sorted(ys)
    text = location_text((x1, y1, x2, y2), width, height)
    is_seen = x1 < x2 and y1 < y2 and x1 < width and y1 < height and x2 > 0 and y2 > 0
    assert (text is not None) == is_seen
    if text is not None:
        first, second, third, fourth = tokens(text)
        assert 0 <= first <= third <= 1024
        assert 0 <= second <= fourth <= 1024


@given(data=st.data(), width=SIDES, height=SIDES, factor=st.integers(2, 9))
def test_scaling_picture_and_box_changes_nothing(data: st.DataObject, width: int, height: int, factor: int) -> None:
    assume((width - height) % 2 == 0)  # an odd padding loses half a pixel, which a larger picture keeps
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    larger = (x1 * factor, y1 * factor, x2 * factor, y2 * factor)
    expected = location_text((x1, y1, x2, y2), width, height)
    assert location_text(larger, width * factor, height * factor) == expected


@given(data=st.data(), width=SIDES, height=SIDES)
def test_tokens_lead_back_to_the_box(data: st.DataObject, width: int, height: int) -> None:
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height)))
    side = max(width, height)
    padding = ((side - width) // 2, (side - height) // 2) * 2
    found = tokens(location_text(box, width, height))
    for edge, pad, token in zip(box, padding, found, strict=True):
        assert abs(token * side / 1024 - pad - edge) <= side / 2048 + 1e-6


# --- Boxes -------------------------------------------------------------------------------------------------------


def pixels(
    height: int, width: int, *boxes: tuple[int, int, int, int]
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    array = np.zeros((height, width), np.uint8, order="F")
    for x1, y1, x2, y2 in boxes:
        array[y1:y2, x1:x2] = 1
    return array


def runs(array: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> list[int]:
    """Uncompressed counts: lengths of runs down the columns, the first of background."""
    counts, value = [0], 0
    for pixel in array.flatten(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_box_of_rle_ends_after_the_last_pixel() -> None:
    array = pixels(48, 64, (10, 20, 30, 40))
    compressed = mask.encode(array)
    assert box_of_rle({"size": [48, 64], "counts": compressed["counts"].decode()}) == (10, 20, 30, 40)
    assert box_of_rle({"size": [48, 64], "counts": compressed["counts"]}) == (10, 20, 30, 40)
    assert box_of_rle({"size": [48, 64], "counts": runs(array)}) == (10, 20, 30, 40)


@given(data=st.data(), height=st.integers(1, 12), width=st.integers(1, 12))
def test_box_of_rle_is_the_box_of_its_pixels(data: st.DataObject, height: int, width: int) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    array = np.asfortranarray(np.array(bits, np.uint8).reshape(height, width))
    ys, xs = np.nonzero(array)
    expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
    assert box_of_rle({"size": [height, width], "counts": mask.encode(array)["counts"].decode()}) == expected
    assert box_of_rle({"size": [height, width], "counts": runs(array)}) == expected


@pytest.mark.parametrize(
    "rle",
    [
        pytest.param(None, id="null"),
        pytest.param([[1, 2]], id="a list"),
        pytest.param({"counts": "04"}, id="no size"),
        pytest.param({"size": [2, 2]}, id="no counts"),
        pytest.param({"size": [0, 4], "counts": "04"}, id="no height"),
        pytest.param({"size": [2, -2], "counts": "04"}, id="negative width"),
        pytest.param({"size": [2, 10**6], "counts": "04"}, id="wider than any picture"),
        pytest.param({"size": ["2", "2"], "counts": "04"}, id="size in strings"),
        pytest.param({"size": [2, 2], "counts": ""}, id="empty string"),
        pytest.param({"size": [2, 2], "counts": []}, id="empty list"),
        pytest.param({"size": [2, 2], "counts": "0P"}, id="the last number does not end"),
        pytest.param({"size": [2, 2], "counts": "PPPPPP4"}, id="a number too long"),
        pytest.param({"size": [2, 2], "counts": "0 4"}, id="a character that is no count"),
        pytest.param({"size": [2, 2], "counts": "0é"}, id="a character outside ASCII"),
        pytest.param({"size": [2, 2], "counts": "09"}, id="more counts than pixels"),
        pytest.param({"size": [7, 9], "counts": "2O"}, id="a run of negative length"),
        pytest.param({"size": [2, 2], "counts": [0, 9]}, id="more counts than pixels, plain"),
        pytest.param({"size": [2, 2], "counts": [-1, 4]}, id="a negative count"),
        pytest.param({"size": [2, 2], "counts": [2**24, 4]}, id="a count too large"),
        pytest.param({"size": [2, 2], "counts": [0, 2.5]}, id="a count that is no integer"),
        pytest.param({"size": [2, 2], "counts": [[0, 4]]}, id="nested counts"),
    ],
)
def test_unreadable_rle(rle: object) -> None:
    assert box_of_rle(rle) is None


@given(st.one_of(st.text("0123OPQo", max_size=60), st.text(max_size=20), st.lists(st.integers(-5, 2**33))))
def test_hostile_counts_give_a_box_in_the_mask_or_none(counts: str | list[int]) -> None:
    box = box_of_rle({"size": [7, 9], "counts": counts})
    assert box is None or (0 <= box[0] <= box[2] <= 9 and 0 <= box[1] <= box[3] <= 7)


def test_rle_size_is_width_and_height() -> None:
    assert rle_size({"size": [480, 640], "counts": "0"}) == (640, 480)
    assert rle_size({"size": [480]}) is None
    assert rle_size("480x640") is None


@pytest.mark.parametrize(
    ("polygons", "expected"),
    [
        ([[331.0, 381.9, 328.2, 326.3, 338.7, 304.2]], (328.2, 304.2, 338.7, 381.9)),
        ([[1, 2, 3, 4, 5, 0], [10, 20, 30, 5, 2, 2]], (1, 0, 30, 20)),
        ([], None),
        ([[]], None),
        ([[1, 2, 3]], None),
        ([1, 2, 3, 4], None),
        ([["1", "2", "3", "4"]], None),
        ({"size": [2, 2]}, None),
        (None, None),
    ],
)
def test_box_of_polygons(polygons: object, expected: Box | None) -> None:
    assert box_of_polygons(polygons) == expected


@pytest.mark.parametrize(
    ("xywh", "expected"),
    [([10.0, 20.0, 100, 200], (10, 20, 110, 220)), ([1, 2, 3], None), (["1", 2, 3, 4], None), (None, None)],
)
def test_box_of_xywh(xywh: object, expected: Box | None) -> None:
    assert box_of_xywh(xywh) == expected


def test_union_box() -> None:
    assert union_box([(10, 20, 30, 40), (5, 25, 15, 60)]) == (5, 20, 30, 60)
    assert union_box([(10, 20, 30, 40), (0, 0, 0, 0)]) == (10, 20, 30, 40), "an empty mask adds nothing"
    assert union_box([(10, 20, 30, 40), None]) is None, "a mask that cannot be read makes the union unknown"
    assert union_box([(0, 0, 0, 0), (5, 5, 5, 9), (5, 5, 9, 5)]) is None
    assert union_box([]) is None


# --- Captions ----------------------------------------------------------------------------------------------------

GIRAFFE = "A giraffe stands near a tree."


def test_phrase_text() -> None:
    assert phrase_text("a tree", HERE) == f"<box_p> a tree </box_p>{HERE}"


def test_both_forms() -> None:
    spans = [Span(22, 28, THERE), Span(0, 9, HERE)]
    assert grounded_caption(GIRAFFE, spans) == (
        f"<box_p> A giraffe </box_p>{HERE} stands near <box_p> a tree </box_p>{THERE}."
    )
    assert object_list(GIRAFFE, spans) == (
        f"There are following objects in the scene. <box_p> A giraffe </box_p>{HERE}, <box_p> a tree </box_p>{THERE}"
    )


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([(0, 16), (10, 28)], "[A giraffe]1 [stands near a tree]2.", id="the first is trimmed"),
        pytest.param([(0, 28), (10, 16)], "[A giraffe]1 [stands]2 near a tree.", id="around another"),
        pytest.param([(0, 9), (0, 16)], "[A giraffe stands]2 near a tree.", id="same start: the longest"),
        pytest.param([(0, 16), (0, 9)], "[A giraffe stands]1 near a tree.", id="same start, other order"),
        pytest.param([(0, 9), (9, 16)], "[A giraffe]1 [stands]2 near a tree.", id="touching, white space outside"),
        pytest.param([(21, 99)], "A giraffe stands near [a tree.]1", id="past the end"),
        pytest.param([(-5, 9)], "[A giraffe]1 stands near a tree.", id="before the start"),
        pytest.param([(0, 9), (5, 5)], "[A giraffe]1 stands near a tree.", id="an empty one trims nothing"),
        pytest.param([(0, 9), (9, 10)], "[A giraffe]1 stands near a tree.", id="white space alone"),
        pytest.param([(9, 2), (0, 9)], "[A giraffe]2 stands near a tree.", id="the wrong way round"),
    ],
)
def test_spans_that_are_off(spans: list[tuple[int, int]], expected: str) -> None:
    locations = [HERE, THERE]
    text = grounded_caption(GIRAFFE, [Span(*span, location) for span, location in zip(spans, locations, strict=False)])
    for number, location in enumerate(locations, start=1):
        expected = expected.replace(f"]{number}", f" </box_p>{location}")
    assert text == expected.replace("[", "<box_p> ")


@pytest.mark.parametrize("spans", [[], [(5, 5)], [(9, 10)], [(-9, -2)], [(40, 50)]])
def test_no_span_left(spans: list[tuple[int, int]]) -> None:
    assert grounded_caption(GIRAFFE, [Span(*span, HERE) for span in spans]) is None
    assert object_list(GIRAFFE, [Span(*span, HERE) for span in spans]) is None


PLACES = st.integers(-3, 30)


@given(
    caption=st.text(st.sampled_from("ab \n\"'.éı😀"), max_size=25),
    spans=st.lists(st.builds(Span, PLACES, PLACES, st.sampled_from([HERE, THERE])), max_size=6),
)
def test_caption_is_kept_when_tags_are_removed(caption: str, spans: list[Span]) -> None:
    text = grounded_caption(caption, spans)
    readable = [span for span in spans if caption[max(span.start, 0) : max(span.end, 0)].strip()]
    assert (text is None) == (not readable)
    assert text is None or untagged(text) == caption
