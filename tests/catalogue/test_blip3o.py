"""BLIP3o's three pre-training sets, from their tars to what the loader builds."""

from __future__ import annotations

import io
from typing import Any

import pytest
from lines import Finished, finish
from PIL import Image

from prep.config import Catalogue
from prep.publishers import World
from prep.publishers.pictures import Picture

SIZES = ((640, 512), (512, 768), (800, 600))  # of the three plain pictures of every tar
ODD_FORMATS = [
    ("000000121.png", "A picture in a .png member", 520, 520),
    ("000000122.webp", "A picture in a .webp member", 560, 540),
    ("000000123.jpg.webp", "A WebP in a .jpg member", 560, 540),  # stored under an extension that does not lie
    ("000000124.jpeg", "A picture in a .jpeg member", 560, 540),
]
ODD_SIZES = [
    ("000000140.jpg", "A picture of 512 by 512 pixels", 512, 512),
    ("000000141.jpg", "A picture of 511 by 512 pixels", 511, 512),
    ("000000142.jpg", "A picture of 512 by 511 pixels", 512, 511),
    ("000000143.jpg", "A picture of 513 by 513 pixels", 513, 513),
]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, running_world: World) -> Finished:
    tables = ("blip3o-long-caption", "blip3o-short-caption", "blip3o-journeydb")
    entries: list[dict[str, Any]] = [{"table": table} for table in tables]
    entries[2] |= {"min_size": 512}
    return finish(tmp_path_factory.mktemp("blip3o"), entries, running_world)


def plain(stem: str) -> list[tuple[str, str, int, int]]:
    """The first three records of a tar: the member, its caption, width and height."""
    return [
        (f"{n:09}.jpg", f"{Picture.named(f'{stem}-{n}', *size).caption} From {stem}.", *size)
        for n, size in enumerate(SIZES)
    ]


def rows(dataset: str, tars: dict[str, list[tuple[str, str, int, int]]]) -> list[dict[str, Any]]:
    return [
        {"s3_path": f"{dataset}/{stem}/{member}", "caption": caption, "intHeight": height, "intWidth": width}
        for stem, records in tars.items()
        for member, caption, width, height in records
    ]


def test_long_captions_of_three_families(line: Finished) -> None:
    assert line.rows("blip3o-long-caption") == rows(
        "blip3o-long-caption",
        {
            "sa_000000": plain("sa_000000"),
            "sa_000002": plain("sa_000002"),
            "webdataset_JDB_000": plain("webdataset_JDB_000"),
            "webdataset_shard_000": plain("webdataset_shard_000"),
            "webdataset_shard_1520": plain("webdataset_shard_1520") + ODD_FORMATS,
        },
    )
    assert line.dropped("blip3o-long-caption") == {
        "sa_000002.tar#3": "image_truncated",
        "sa_000002.tar#4": "image_empty",
        "sa_000002.tar#5": "image_not_an_image",
        "webdataset_JDB_000.tar#3": "no_caption",  # no .txt
        "webdataset_JDB_000.tar#4": "image_missing",  # a .txt alone
        "webdataset_JDB_000.tar#5": "no_caption",  # an empty .txt
        "webdataset_JDB_000.tar#6": "no_caption",  # a blank one
    }


def test_short_captions_around_the_tar_that_was_never_published(line: Finished) -> None:
    tars = {stem: plain(stem) for stem in ("00841", "00843", "01811")}
    tars["01813"] = plain("01813") + ODD_FORMATS
    assert line.rows("blip3o-short-caption") == rows("blip3o-short-caption", tars)
    assert line.dropped("blip3o-short-caption") == {
        "00843.tar#3": "image_truncated",
        "00843.tar#4": "image_empty",
        "00843.tar#5": "image_not_an_image",
    }


def test_journeydb_from_512_pixels_on(line: Finished) -> None:
    tars = {
        "JourneyDB_001": plain("JourneyDB_001"),
        "JourneyDB_054": [*plain("JourneyDB_054"), ODD_SIZES[0], ODD_SIZES[3]],
    }
    assert line.rows("blip3o-journeydb") == rows("blip3o-journeydb", tars)
    assert line.dropped("blip3o-journeydb") == {"JourneyDB_054.tar#4": "min_size", "JourneyDB_054.tar#5": "min_size"}


def test_what_the_loader_builds(line: Finished) -> None:
    """The same numbers stand in both tars: a picture of another tar would be another picture."""
    pictures = [
        *(
            Picture.named(f"{tar}-{n}", *size)
            for tar in ("JourneyDB_001", "JourneyDB_054")
            for n, size in enumerate(SIZES)
        ),
        *(Picture(740, 512, 512), Picture(743, 513, 513)),
    ]
    captions = [row["caption"] for row in line.rows("blip3o-journeydb")]
    assert line.samples("blip3o-journeydb") == [
        {"images": [Image.open(io.BytesIO(picture.encode())).convert("RGB")], "text": [caption], "scores": ""}
        for picture, caption in zip(pictures, captions, strict=True)
    ]
    for table, count in (("blip3o-long-caption", 19), ("blip3o-short-caption", 16)):
        assert len(line.samples(table)) == count


def test_a_run_says_that_parts_are_missing(line: Finished) -> None:
    notes = {o["name"]: o.get("note") for o in line.result["outcomes"] if o["stage"] == "download"}
    assert notes == {
        "blip3o-long-caption": "the publisher has 5 parts, 2891 were expected",
        "blip3o-short-caption": "the publisher has 4 parts, 1831 were expected",
        "blip3o-journeydb": None,
    }


def test_long_caption_is_pinned() -> None:
    source = Catalogue().dataset("blip3o-long-caption").source.model_dump()
    assert source["revision"] == "e4d07091a466d1a1e35a9b0c61caddc78d14a059"
