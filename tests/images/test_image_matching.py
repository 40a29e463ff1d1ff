"""How samples find their images: against a plain statement of the rule."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.images.index import SCHEMA
from prep.images.matching import Indexed, image_facts

EMPTY = dict.fromkeys(SCHEMA.names)


def write_index(path: Path, rows: dict[str, str]) -> Path:
    """An index of keys and their statuses; an image's path is its key."""
    table = [
        EMPTY | {"image_key": key, "status": status, "path": key if status == "ok" else None, "width": 9}
        for key, status in rows.items()
    ]
    pq.write_table(pa.Table.from_pylist(table, schema=SCHEMA), path)
    return path


def found(keys: list[str | None], index: list[Path], match: str) -> list[tuple[str | None, str | None]]:
    """(path, status) for each sample's key."""
    rows = ", ".join(f"({n}, {'NULL' if key is None else repr(key)})" for n, key in enumerate(keys))
    samples = f"(SELECT * FROM (VALUES {rows}) AS s(row, image_key))"
    tables = image_facts(samples, [], [Indexed("", tuple(index), "/r")], match).tables
    with duckdb.connect() as connection:
        found = connection.execute(
            f"WITH {tables} SELECT i.path, i.status FROM {samples} s LEFT JOIN images i USING (image_key) ORDER BY row"
        ).fetchall()
    return [(path and path.removeprefix("/r/"), status) for path, status in found]


def test_an_exact_key_is_the_whole_key(tmp_path: Path) -> None:
    index = [write_index(tmp_path / "i.parquet", {"a/b.png": "ok", "a/c.png": "damaged"})]
    assert found(["a/b.png", "b.png", "a/c.png", None], index, "exact") == [
        ("a/b.png", "ok"),
        (None, None),
        (None, "damaged"),
        (None, None),
    ]
    assert found(["a/b.png"], [], "exact") == found(["a/b.png"], [], "suffix") == [(None, None)]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("/Echo-4o-Image/Surrel-Fantasy-Image/images/00000.jpg", ("images/00000.jpg", "ok")),
        ("elsewhere/images/00001.jpg", ("./images/00001.png", "ok")),  # another extension
        ("00001.jpg", ("./images/00001.png", "ok")),
        ("elsewhere/00001.jpg", (None, None)),  # of another folder
        ("twins/x.jpg", ("twins/x.jpg", "ok")),  # the extension decides between twins
        ("twins/x.webp", (None, "ambiguous")),
        ("one/same.png", ("one/same.png", "ok")),
        ("same.png", (None, "ambiguous")),
        ("gone.png", (None, "damaged")),
        ("v1.5_0001", (None, None)),  # no extension
        ("n/a.b.c", ("n/a.b.c.png", "ok")),
        ("nowhere.png", (None, None)),
    ],
)
def test_a_suffix_is_as_many_steps_as_agree_with_one_image(
    key: str, expected: tuple[str | None, str | None], tmp_path: Path
) -> None:
    images = ["images/00000.jpg", "./images/00001.png", "twins/x.jpg", "twins/x.png", "one/same.png", "two/same.png"]
    images += ["v1.png", "n/a.b.c.png"]
    index = [write_index(tmp_path / "i.parquet", dict.fromkeys(images, "ok") | {"deep/gone.png": "damaged"})]
    assert found([key], index, "suffix") == [expected]


names = st.sampled_from(["a", "b.png", "b.jpg", "c", "b", "b.tar.gz"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


def agreeing_steps(wanted: str, image: str) -> tuple[int, bool]:
    """Last steps that two paths share, and whether the extension is among what they share."""
    first, second = PurePosixPath(wanted).parts[::-1], PurePosixPath(image).parts[::-1]
    stem = [path.removesuffix(".png").removesuffix(".jpg") for path in (first[0], second[0])]
    if stem[0] != stem[1]:
        return 0, False
    shared = 1
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    if shared == 1 and len(first) > 1 and len(second) > 1:
        return 0, False
    return shared, first[0] == second[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(paths, min_size=1, max_size=6, unique=True), st.lists(paths, min_size=1, max_size=4))
def test_any_suffix(tmp_path_factory: pytest.TempPathFactory, images: list[str], wanted: list[str]) -> None:
    index = [write_index(tmp_path_factory.mktemp("index") / "i.parquet", dict.fromkeys(images, "ok"))]
    expected = []
    for key in wanted:
        ranks = {image: agreeing_steps(key, image) for image in images}
        best = max(ranks.values())
        fits = [image for image, rank in ranks.items() if rank == best and rank[0]]
        if key in images:
            fits = [key]
        expected.append((fits[0], "ok") if len(fits) == 1 else (None, "ambiguous") if fits else (None, None))
    assert found(list(wanted), index, "suffix") == expected


def test_lists_keep_their_order_and_tell_the_first_failure(tmp_path: Path) -> None:
    index = [write_index(tmp_path / "i.parquet", {"a": "ok", "b": "ok", "x": "empty", "y": "damaged"})]
    lists = "(0, ['b', 'a']), (1, ['a', 'y', 'x']), (2, ['a', 'q']), (3, NULL), (4, ['a', 'a'])"
    samples = f"(SELECT * FROM (VALUES {lists}) AS s(row, shown))"
    facts = image_facts(
        f"(SELECT *, NULL::VARCHAR AS image_key FROM {samples})", ["shown"], [Indexed("", tuple(index), "/r")], "exact"
    )
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"WITH {facts.tables} SELECT row, paths, status FROM {facts.alias('shown')} ORDER BY row"
        ).fetchall()
    assert rows == [
        (0, ["/r/b", "/r/a"], "ok"),
        (1, ["/r/a", None, None], "damaged"),
        (2, ["/r/a", None], "missing"),
        (4, ["/r/a", "/r/a"], "ok"),
    ]


def test_several_datasets_by_how_references_begin(tmp_path: Path) -> None:
    first = write_index(tmp_path / "1.parquet", {"1.jpg": "ok", "2.gif": "ok", "3.png": "ok", "3.gif": "ok"})
    other = write_index(tmp_path / "2.parquet", {"VG_100K/1.jpg": "ok", "/out/of/it.jpg": "ok"})
    twice = write_index(tmp_path / "3.parquet", {"vg/VG_100K/9.jpg": "ok"})
    nine = write_index(tmp_path / "4.parquet", {"VG_100K/9.jpg": "ok"})
    index = [
        Indexed("", (twice,), "/s/t"),
        Indexed("vg", (nine,), "/s/n"),
        Indexed("ocr_vqa/images", (first,), "/s/ocr"),
        Indexed("vg/", (other,), "s3://b/vg"),
        Indexed("no", (), ""),
    ]
    keys = [
        "ocr_vqa/images/1.jpg",
        "ocr_vqa/images/2.jpg",
        "ocr_vqa/images/3.jpg",
        "vg/VG_100K/1.jpg",
        "1.jpg",
        "no/1.jpg",
        "vg/VG_100K/9.jpg",
    ]
    rows = ", ".join(f"({n}, {key!r})" for n, key in enumerate(keys))
    samples = f"(SELECT * FROM (VALUES {rows}) AS s(row, image_key))"
    with duckdb.connect() as connection:
        found = connection.execute(
            f"WITH {image_facts(samples, [], index, 'stem').tables} SELECT i.path, i.status "
            f"FROM {samples} s LEFT JOIN images i USING (image_key) ORDER BY row"
        ).fetchall()
    assert found == [
        ("/s/ocr/1.jpg", "ok"),
        ("/s/ocr/2.gif", "ok"),
        (None, "ambiguous"),
        ("s3://b/vg/VG_100K/1.jpg", "ok"),
        (None, None),
        (None, None),
        (None, "ambiguous"),  # two datasets have it
    ]
