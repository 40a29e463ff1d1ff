"""Images out of columns of parquet parts."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import DataError
from prep.images import embedded
from prep.images.embedded import embedded_images

BYTES = [b"one", b"two", None, b"four"]
HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMED = [{"bytes": data, "path": f"{row}.jpg"} for row, data in enumerate(BYTES)]


def part(folder: Path, row_group_size: int = 3, **columns: pa.Array) -> Path:
    path = folder / "part.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def images(path: Path, column: str = "image", key: str | None = None, skip: int = 0) -> list[embedded.Image]:
    return list(embedded_images(path, column, key, "stem", skip=skip))


PLAIN = [
    ("stem/0", "row 0", b"one", None),
    ("stem/1", "row 1", b"two", None),
    ("stem/2", "row 2", None, "empty"),
    ("stem/3", "row 3", b"four", None),
]
WITH_PATHS = [(key, f"{source}: {row}.jpg", *rest) for row, (key, source, *rest) in enumerate(PLAIN)]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(BYTES, pa.binary()), PLAIN),
        (pa.array(BYTES, pa.large_binary()), PLAIN),
        (pa.array(BYTES, pa.binary_view()), PLAIN),
        (pa.array(NAMED, HUB), WITH_PATHS),
        (pa.array(NAMED, pa.struct([*reversed(HUB)])), WITH_PATHS),
        (pa.array(NAMED, pa.struct([("size", pa.int64()), *HUB, ("more", HUB)])), WITH_PATHS),
        (pa.array(NAMED, pa.struct([("bytes", pa.large_binary())])), PLAIN),
    ],
    ids=["binary", "large", "view", "hub", "the other way round", "with more", "without path"],
)
def test_every_row_gives_its_image(column: pa.Array, expected: list[embedded.Image], tmp_path: Path) -> None:
    path = part(tmp_path, image=column)
    assert images(path) == expected
    for skip in range(6):
        assert images(path, skip=skip) == expected[skip:]


def test_what_has_no_bytes_is_empty(tmp_path: Path) -> None:
    column = [None, {"bytes": None, "path": "http://h/a.jpg"}, {"bytes": b"", "path": None}]
    assert images(part(tmp_path, image=pa.array(column, HUB))) == [
        ("stem/0", "row 0", None, "empty"),
        ("stem/1", "row 1: http://h/a.jpg", None, "empty"),
        ("stem/2", "row 2", None, "empty"),
    ]
    nowhere = pa.array([{"bytes": None, "path": "a.jpg"}], pa.struct([("bytes", pa.null()), ("path", pa.string())]))
    assert images(part(tmp_path, image=nowhere)) == [("stem/0", "row 0: a.jpg", None, "empty")]


def test_too_many_bytes_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MAX_IMAGE_BYTES", 3)
    assert [image[2:] for image in images(part(tmp_path, image=pa.array(NAMED, HUB)))] == [
        (b"one", None),
        (b"two", None),
        (None, "empty"),
        (None, "too_large"),
    ]


@pytest.mark.parametrize("list_of", [pa.list_, pa.large_list, lambda held: pa.list_(held, 2)])
def test_the_images_of_a_list_are_told_apart(list_of: Any, tmp_path: Path) -> None:
    two = [NAMED[0], NAMED[2]], [NAMED[3], NAMED[1]]
    path = part(tmp_path, image=pa.array(two, list_of(HUB)), id=pa.array(["a", None]))
    expected = [
        ("a/0", "row 0, image 0: 0.jpg", b"one", None),
        ("a/1", "row 0, image 1: 2.jpg", None, "empty"),
        ("stem/1/0", "row 1, image 0: 3.jpg", b"four", None),
        ("stem/1/1", "row 1, image 1: 1.jpg", b"two", None),
    ]
    assert images(path, key="id") == expected
    for skip in range(6):
        assert images(path, key="id", skip=skip) == expected[skip:]


def test_lists_may_be_empty_or_missing(tmp_path: Path) -> None:
    column = pa.array([[], None, [b"one"], [None, b"two"]], pa.list_(pa.binary()))
    path = part(tmp_path, row_group_size=1, image=column)
    assert [image[0] for image in images(path)] == ["stem/2/0", "stem/3/0", "stem/3/1"]
    assert [image[0] for image in images(path, skip=2)] == ["stem/3/1"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["761183272", "0006", "12345X", "a/b.jpg"]), ["761183272", "0006", "12345X", "a/b.jpg"]),
        (pa.array(["ü 图", None, "", "ü 图"], pa.large_string()), ["ü 图", "stem/1", "stem/2", "ü 图"]),
        (pa.array([7, None, -1, 2**62]), ["7", "stem/1", "-1", str(2**62)]),
        (pa.array([7.0, float("nan"), None, 1e15]), ["7", "stem/1", "stem/2", "1000000000000000"]),
        (pa.array(["a", "b", "a", None]).dictionary_encode(), ["a", "b", "a", "stem/3"]),
        (pa.nulls(4), [f"stem/{row}" for row in range(4)]),
    ],
    ids=["text", "gaps", "numbers", "numbers with gaps", "categories", "nothing"],
)
def test_keys_are_text_as_it_stands(column: pa.Array, expected: list[str], tmp_path: Path) -> None:
    path = part(tmp_path, image=pa.array(NAMED, HUB), id=column)
    assert [image[0] for image in images(path, key="id")] == expected
    assert [image[1:] for image in images(path, key="id")] == [tuple(image[1:]) for image in WITH_PATHS]


@given(st.lists(st.integers(-(2**53), 2**53) | st.none(), min_size=1, max_size=9), st.integers(0, 9), st.integers(1, 4))
def test_numbers_are_the_same_keys_whatever_holds_them(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int | None], skip: int, row_group_size: int
) -> None:
    expected = [f"stem/{row}" if number is None else str(number) for row, number in enumerate(numbers)]
    for held in (pa.int64(), pa.float64(), pa.string()):
        ids = pa.array([None if number is None else str(number) for number in numbers]).cast(held)
        image = pa.array([b"data"] * len(numbers))
        path = part(tmp_path_factory.getbasetemp(), row_group_size, image=image, id=ids)
        assert [image[0] for image in images(path, key="id", skip=skip)] == expected[skip:]


def test_a_key_that_is_no_whole_number_is_said(tmp_path: Path) -> None:
    path = part(tmp_path, image=pa.array(BYTES, pa.binary()), id=pa.array([1.0, 2.0, 3.0, 3.5]))
    found = embedded_images(path, "image", "id", "stem")
    assert [image[0] for image in islice(found, 3)] == ["1", "2", "3"]
    with pytest.raises(DataError, match=r"row 3: the image key is 3\.5, which is no whole number"):
        next(found)


def test_names_with_dots_lead_into_structs(tmp_path: Path) -> None:
    sample = pa.struct([("image", HUB), ("of", pa.struct([("id", pa.int64())])), ("other", pa.string())])
    rows = [{"image": image, "of": {"id": 10 + row}, "other": "x"} for row, image in enumerate(NAMED)]
    rows[1] = None  # type: ignore[call-overload]
    path = part(tmp_path, **{"sample": pa.array(rows, sample), "a.b": pa.array(BYTES, pa.binary())})
    assert images(path, "sample.image", "sample.of.id") == [
        ("10", "row 0: 0.jpg", b"one", None),
        ("stem/1", "row 1", None, "empty"),
        ("12", "row 2: 2.jpg", None, "empty"),
        ("13", "row 3: 3.jpg", b"four", None),
    ]
    assert images(path, "sample.image.bytes") == [*PLAIN[:1], ("stem/1", "row 1", None, "empty"), *PLAIN[2:]]
    assert images(path, "a.b") == PLAIN, "a dot in the column's own name"


def test_the_parquet_mirror_of_ocr_vqa(tmp_path: Path) -> None:
    columns: dict[str, Any] = {name: pa.array(["x"] * 4) for name in ("ocr_info", "title", "image_url", "set_name")}
    ids = pa.array(["761183272", "0761183272", "076118327X", "1"])
    path = part(tmp_path, image=pa.array(NAMED, HUB), image_id=ids, questions=pa.array([["?"]] * 4), **columns)
    assert [image[0] for image in images(path, key="image_id")] == ids.to_pylist()


# -- what can be wrong -------------------------------------------------------------------------------------------------


COLUMNS = {
    "text": pa.array(["a"]),
    "number": pa.array([1]),
    "path": pa.array([{"path": "a", "bytes": "text"}]),
    "lists": pa.array([[1]]),
    "image": pa.array([b"data"]),
    "when": pa.array([1]).cast(pa.timestamp("ms")),
}
THERE = (
    r"; it has: text \(string\), number \(int64\), path \(struct<.*>\), lists \(list<.*>\), image \(binary\), "
    r"when \(timestamp\[ms\]\)"
)


@pytest.mark.parametrize(
    ("column", "key", "problem", "option"),
    [
        ("picture", None, "no column 'picture'", "images.column"),
        ("image.bytes", None, "no column 'image.bytes'", "images.column"),
        ("path.data", None, "no column 'path.data'", "images.column"),
        ("text", None, "'text' is string, neither images nor lists of them", "images.column"),
        ("path", None, r"'path' is struct<.*>, neither images", "images.column"),
        ("lists", None, "'lists' is list<.*>, neither images", "images.column"),
        ("image", "id", "no column 'id'", "images.key"),
        ("image", "when", "'when' is neither text nor numbers", "images.key"),
        ("image", "image", "'image' is neither text nor numbers", "images.key"),
    ],
)
def test_a_column_that_does_not_fit_is_said_with_those_there_are(
    column: str, key: str | None, problem: str, option: str, tmp_path: Path
) -> None:
    path = part(tmp_path, **COLUMNS)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: {problem}.*{THERE}") as caught:
        images(path, column, key)
    assert caught.value.next_step == f"Mend {option} in the dataset's YAML."


def test_broken_parquet_is_said(tmp_path: Path) -> None:
    path = part(tmp_path, image=pa.array([bytes([n % 256]) * 5_000 for n in range(500)]))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[20:90] = bytes(70)
    for data in (b"", b"<html>", whole[:-9], whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(data)
        with pytest.raises(
            DataError, match=f"^{re.escape(str(path))} cannot be read as parquet to its end: "
        ) as caught:
            images(path)
        assert "prep download" in caught.value.next_step


def test_a_part_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        images(tmp_path / "nothing.parquet")


def test_a_large_row_group_is_not_in_memory_at_once(tmp_path: Path) -> None:
    # A page, the least that can be read, holds about a thousand images here.
    count, size_bytes = 20_000, 20_000
    data = pa.array([number.to_bytes(4) * (size_bytes // 4) for number in range(count)])
    path = part(tmp_path, count, image=data)
    script = """
import resource, sys
from pathlib import Path
from prep.images.embedded import embedded_images
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(len(data) for _, _, data, _ in embedded_images(Path(sys.argv[1]), "image", None, "stem"))
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    total, kilobytes = map(int, done.stdout.split())
    assert total == count * size_bytes
    assert kilobytes << 10 < total * 3 // 4
