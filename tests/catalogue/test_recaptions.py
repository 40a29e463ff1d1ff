"""Recap-Long-Coyo, Recap-Long-Laion and Re-LAION-Caption19M: captions that others wrote, by address."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lines import Finished, finish
from PIL import Image

from prep.publishers import World
from prep.publishers.pictures import Picture
from prep.publishers.traps import LONG_CAPTION

SIZES = ((640, 512), (512, 768), (800, 600), (1024, 768), (600, 600))  # of <name>-000.jpg and so on, again and again


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, running_world: World) -> Finished:
    tables = ("recap-long-coyo", "recap-long-laion", "re-laion-caption19m")
    return finish(tmp_path_factory.mktemp("recaptions"), [{"table": table} for table in tables], running_world)


def sample(name: str, size: tuple[int, int], caption: str, scores: str = "") -> dict[str, Any]:
    image = Image.open(io.BytesIO(Picture.named(f"{name}.jpg", *size).encode())).convert("RGB")
    return {"images": [image], "text": [caption], "scores": scores}


@pytest.mark.parametrize(
    ("name", "second"), [("coyo", "coyo_2_3long_captions.csv"), ("laion", "laion_3long_captions.csv")]
)
def test_long_captions_under_either_name_of_the_address(line: Finished, name: str, second: str) -> None:
    captions = [(n, f"The image shows two shapes. It is number {n} of {name}.") for n in range(4)]
    quoted = 'The image says "Open",\nin a caption of quotes and two lines, with a comma.'
    expected = [sample(f"{name}-{n:03}", SIZES[n], caption) for n, caption in captions]
    expected += [
        sample(f"{name}-000", SIZES[0], "The same address as the first, described in other words."),
        sample(f"recap-{name}", (560, 540), f"The image shows a picture that {name} does not have."),
        sample(f"{name}-004", SIZES[4], quoted),
        sample(f"{name}-005", SIZES[0], LONG_CAPTION[:800]),
        sample(f"{name}-006", SIZES[1], "The image shows two shapes, in the second part."),
        sample(f"{name}-001", SIZES[1], captions[1][1]),
    ]
    assert line.samples(f"recap-long-{name}") == expected
    assert line.dropped(f"recap-long-{name}") == {
        f"{second}#2": "no_caption",
        f"{second}#3": "image_http_404",
        f"{second}#4": "image_not_an_image",
        f"{second}#5": f"path_to_join_with_{name}",
        f"{second}#6": "no_url",
    }


def test_what_other_captioners_wrote_is_kept(line: Finished) -> None:
    table = pq.read_table(line.root / "normalized/recap-long-coyo.parquet")
    rows = table.select(["raw_caption", "longIB_captions", "longSV_captions"]).to_pylist()
    others = {name: f"{name} of another captioner, a long text." for name in rows[0]}
    assert rows == [others] * 8 + [others | {"raw_caption": None}] * 7


def addresses(world: World, repo: str, part: str, column: str) -> set[str]:
    return {str(url) for url in pq.read_table(world.folder / "hub" / repo / part)[column].to_pylist()}


def test_some_addresses_are_those_of_coyo_and_of_laion(line: Finished, running_world: World) -> None:
    coyo = addresses(running_world, "kakaobrain/coyo-700m", "data", "url")
    laion = {
        str(row["url"])
        for part in Path(running_world.folder / "hub/laion/relaion2B-en-research-safe").glob("part-*.parquet")
        for row in pq.read_table(part, columns=["url"]).to_pylist()
    }
    for table, known in (("recap-long-coyo", coyo), ("recap-long-laion", laion), ("re-laion-caption19m", laion)):
        urls = [row["url"] for row in pq.read_table(line.root / f"filtered/{table}.parquet").to_pylist()]
        assert 0 < len(set(urls) - known) < len(set(urls)) < len(urls), table


def test_re_laion_with_scores_and_captions_of_llava_next(line: Finished) -> None:
    expected = [
        sample(f"laion-{n:03}", SIZES[n], f"The image features two shapes. It is number {n}.", f"SCORE : {score}")
        for n, score in enumerate(("5.600", "5.800", "6.000", "6.200"))
    ]
    expected += [
        sample("laion-000", SIZES[0], "The address of the first, described in other words.", "SCORE : 6.500"),
        sample(
            "relaion-caption", (1024, 700), "The image features a picture that LAION-2B does not have.", "SCORE : 6.500"
        ),
        sample("laion-004", SIZES[4], LONG_CAPTION[:800], "SCORE : 6.500"),
    ]
    assert line.samples("re-laion-caption19m") == expected
    assert line.dropped("re-laion-caption19m") == {
        "laion_19m.parquet#7": "no_caption",
        "laion_19m.parquet#8": "aes_cutoff",
        "laion_19m.parquet#9": "no_score",
        "laion_19m.parquet#10": "no_score",
        "laion_19m.parquet#11": "image_http_404",
    }
    before = pq.read_table(line.root / "normalized/re-laion-caption19m.parquet").to_pylist()
    assert before[0]["alt_text"] == "alt text of laion-000.jpg"
