"""LAION's files of 2022, put in place by hand: told apart by the id in their names."""

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
from worlds import make_workspace, prep

SIZES = ((640, 512), (512, 768), (800, 600), (1024, 768), (600, 600))  # of laion-000.jpg and so on, again and again
JOINED = "laion2B-en-joined/part-00000-4cfd6e30-f032-46ee-9105-8696034a8373-c000.snappy.parquet"
TABLES = ("laion-2b-en", "laion-2b-en-joined", "laion-high-resolution", "laion-art")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, running_world: World) -> Finished:
    folder = tmp_path_factory.mktemp("laion")
    return finish(folder, [{"table": table} for table in TABLES], running_world)


def picture(number: int) -> Picture:
    return Picture.named(f"laion-{number:03}.jpg", *SIZES[number % 5])


def sample(picture: Picture, caption: str, scores: str = "") -> dict[str, Any]:
    image = Image.open(io.BytesIO(picture.encode())).convert("RGB")
    return {"images": [image], "text": [caption], "scores": scores}


def test_swapped_sizes_are_put_right(line: Finished) -> None:
    says = "(WIDTH and HEIGHT are swapped)"
    assert line.samples("laion-2b-en") == [sample(picture(n), f"{picture(n).caption} {says}") for n in range(8)]
    assert line.dropped("laion-2b-en") == {}
    before = pq.read_table(line.root / "normalized/laion-2b-en.parquet").to_pylist()
    assert [(row["intWidth"], row["intHeight"]) for row in before] == [SIZES[n % 5] for n in range(8)]
    assert {(row["nsfw"], row["language"]) for row in before} == {("UNLIKELY", None)}


def test_joined_with_null_captions_and_dead_addresses(line: Finished) -> None:
    captions = {
        **{n: picture(n).caption for n in range(3)},
        5: "A caption that two rows have",
        6: "A caption that two rows have",
        7: "A row without punsafe and pwatermark",
    }
    assert line.samples("laion-2b-en-joined") == [sample(picture(n), caption) for n, caption in captions.items()]
    assert line.dropped("laion-2b-en-joined") == {
        f"{JOINED}#3": "no_caption",
        f"{JOINED}#4": "no_caption",
        f"{JOINED}#8": "image_http_404",
    }
    before = pq.read_table(line.root / "normalized/laion-2b-en-joined.parquet").to_pylist()
    assert [(row["intWidth"], row["intHeight"]) for row in before[:8]] == [SIZES[n % 5] for n in range(8)]
    assert [row["punsafe"] is None for row in before] == [n == 7 for n in range(9)]
    assert min(row["hash"] for row in before) < 0 < max(row["hash"] for row in before)


def test_high_resolution(line: Finished) -> None:
    large = Picture.named("laion-large.jpg", 1200, 1024)
    assert line.samples("laion-high-resolution") == [sample(large, "A picture of 1200 by 1024 pixels")]


def test_art_has_scores(line: Finished) -> None:
    assert line.samples("laion-art") == [
        sample(picture(8), picture(8).caption, "SCORE : 8.200"),
        sample(picture(9), picture(9).caption, "SCORE : 9.100"),
    ]
    assert line.dropped("laion-art") == {"laion-art/laion-art.parquet#2": "no_score"}


def test_without_files_it_says_which_are_wanted(tmp_path: Path, world: World) -> None:
    recipe = {"name": "tried", "entries": [{"table": "laion-2b-en"}]}
    root = make_workspace(tmp_path / "workspace", recipe, world, sources={})
    done = prep(root, "download", world=world)
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert "laion2B-en part-NNNNN-5114fd87-297e-42b0-9d11-50f1df323dfa-c000.snappy.parquet" in told
    assert "raw/laion-2b-2022" in told
