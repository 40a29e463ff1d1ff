"""COYO-700M: a list of addresses with alt-texts and scores, one part in float32 and one in float64.

Layout and columns: the README of kakaobrain/coyo-700m. `id >> 33` is the Spark partition, not the part's number.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from prep.publishers.image_host import ODD_IMAGES
from prep.publishers.laion import Row, image_address, picture_row, score_rows, write_parquet
from prep.publishers.traps import GOOD_SIZES, ODD_CAPTIONS, SIZES

REPO = "kakaobrain/coyo-700m"
PART = "data/part-{:05}-17da4908-939c-46e5-91d0-15f256041956-c000.snappy.parquet"
SPARK_PARTITIONS = (570, 868)


def write_coyo(hub: Path, images: Path, url: str) -> None:
    """Write both parts, the empty `_SUCCESS` and the images; `url` is the server's."""
    rows = _ordinary(images) + _odd_rows(images)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        part = part + score_rows(images, "coyo", "float64" if number else "float32")
        first_id = SPARK_PARTITIONS[number] << 33
        records = [_record(row, url, first_id + i) for i, row in enumerate(part)]
        write_parquet(hub / REPO / PART.format(number), records, _columns(pa.float64() if number else pa.float32()))
    (hub / REPO / "data/_SUCCESS").touch()


def _columns(number: pa.DataType) -> dict[str, pa.DataType]:
    """COYO's columns, its real numbers as `number` (the width on disk is not documented)."""
    return {
        "id": pa.int64(),
        "url": pa.string(),
        "text": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "image_phash": pa.string(),
        "text_length": pa.int32(),
        "word_count": pa.int32(),
        "num_tokens_bert": pa.int32(),
        "num_tokens_gpt": pa.int32(),
        "num_faces": pa.int32(),
        "clip_similarity_vitb32": number,
        "clip_similarity_vitl14": number,
        "nsfw_score_opennsfw2": number,
        "nsfw_score_gantman": number,
        "watermark_score": number,
        "aesthetic_score_laion_v2": number,
    }


def _ordinary(images: Path) -> list[Row]:
    rows = [picture_row(images, f"coyo-{n:03}.jpg", *GOOD_SIZES[n % len(GOOD_SIZES)]) for n in range(24)]
    return [replace(row, score=4.4 + 0.15 * n) for n, row in enumerate(rows)]


def _odd_rows(images: Path) -> list[Row]:
    rows = [Row(f"coyo-{n:03}.jpg", caption, *GOOD_SIZES[n % 5]) for n, caption in enumerate(ODD_CAPTIONS)]
    for width, height in SIZES:
        row = picture_row(images, f"coyo-size-{width}x{height}.jpg", width, height)
        rows.append(replace(row, caption=f"A picture of {width} by {height} pixels"))
    small = picture_row(images, "coyo-shrunk.jpg", 320, 240)
    (images / "coyo-copy.jpg").write_bytes((images / "coyo-000.jpg").read_bytes())
    rows += [Row(odd.name, odd.says, 640, 560) for odd in ODD_IMAGES]
    good = rows[0]
    return [
        *rows,
        replace(small, width=1280, height=960, caption="A picture that shrank since the crawl of 2021"),
        replace(good, caption="The same address with another text"),
        replace(good, image="coyo-copy.jpg", caption="The same picture under another address"),
        replace(good, caption="A row whose watermark_score is exactly 0.8", pwatermark=0.8),
        replace(good, caption="A row whose watermark_score is 0.95", pwatermark=0.95),
    ]


def _record(row: Row, url: str, record_id: int) -> dict[str, Any]:
    text = row.caption or ""
    words = len(text.split())
    # A perceptual hash stands for the picture, so a copy under another address has the same.
    picture = row.image.replace("coyo-copy", "coyo-000")
    return {
        "id": record_id,
        "url": image_address(url, row.image),
        "text": row.caption,
        "width": row.width,
        "height": row.height,
        "image_phash": hashlib.sha256(picture.encode()).hexdigest()[:16],
        "text_length": len(text),
        "word_count": words,
        "num_tokens_bert": words + 2,
        "num_tokens_gpt": words + 1,
        "num_faces": 0,
        "clip_similarity_vitb32": 0.319336,
        "clip_similarity_vitl14": 0.248169,
        "nsfw_score_opennsfw2": 2.54512e-05,
        "nsfw_score_gantman": 0.0293861,
        "watermark_score": row.pwatermark,
        "aesthetic_score_laion_v2": row.score,
    }
