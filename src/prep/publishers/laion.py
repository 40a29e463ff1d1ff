"""LAION's lists of addresses: Re-LAION research-safe, the aesthetic subset, and older parts.

Layouts: parts at the repository's root beside Hadoop's hidden `.crc` files. Research-safe has lower-case columns in
img2dataset's shape (`width` is the stored size, `original_width` the source's) and no score; the aesthetic subset has
UPPER-CASE columns and LAION's V1 score; the raw laion2B-en swaps WIDTH and HEIGHT. The older parts are no longer on the
hub: they stand in `files/`, in a folder for each set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prep.publishers.image_host import ODD_IMAGES
from prep.publishers.pictures import Picture
from prep.publishers.traps import GOOD_SIZES, ODD_CAPTIONS, SCORES, SIZES

RESEARCH_SAFE = "laion/relaion2B-en-research-safe"
AESTHETIC = "laion/laion2B-en-aesthetic"
RAW_PART = "laion2B-en/part-00000-5114fd87-297e-42b0-9d11-50f1df323dfa-c000.snappy.parquet"
RESEARCH_UUID = "339dc23d-0869-4dc0-9390-b4036fcc80c2"
JOINED_PART = "laion2B-en-joined/part-00000-4cfd6e30-f032-46ee-9105-8696034a8373-c000.snappy.parquet"
LARGE_PART = "laion-high-resolution/part-00000-5d6701c4-b238-4c0a-84e4-fe8e9daea963-c000.snappy.parquet"
ART_PART = "laion-art/laion-art.parquet"
AESTHETIC_UUID = "9230b837-b1e0-4254-8b88-ed2976e9cee9"

OLD_COLUMNS = {
    "URL": pa.string(),
    "TEXT": pa.string(),
    "WIDTH": pa.int32(),
    "HEIGHT": pa.int32(),
    "similarity": pa.float64(),
    "hash": pa.int64(),
    "punsafe": pa.float32(),
    "pwatermark": pa.float32(),
}
RESEARCH_COLUMNS = {
    "url": pa.string(),
    "caption": pa.string(),
    "similarity": pa.float64(),
    "hash": pa.int64(),
    "punsafe": pa.float32(),
    "pwatermark": pa.float32(),
    "key": pa.string(),
    "status": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
}
LANGUAGE = {"LANGUAGE": pa.string()}
OPTIONAL_COLUMNS = {"error_message": pa.string(), "exif": pa.string()}  # only the first part has them


@dataclass(frozen=True)
class Row:
    """One address with what LAION says of it; sizes in pixels are the source's, `stored` img2dataset's copy."""

    image: str
    caption: str | None
    width: int | None
    height: int | None
    score: float | None = 6.1
    stored: tuple[int, int] | None = None
    punsafe: float | None = 0.01
    pwatermark: float | None = 0.1
    status: str = "success"


def write_laion(hub: Path, files: Path, images: Path, url: str) -> None:
    """Write both repositories, the raw part (`files/laion2B-en/`) and their images; `url` is the server's."""
    rows = _ordinary(images) + _odd_rows(images)
    half = len(rows) // 2
    optional = {"error_message": None, "exif": "{}"}
    for number, part in enumerate((rows[:half], rows[half:] + _research_rows(images))):
        columns = RESEARCH_COLUMNS | ({} if number else OPTIONAL_COLUMNS)
        records = [_research_record(row, url, i) | optional for i, row in enumerate(part)]
        _write_part(hub / RESEARCH_SAFE, number, RESEARCH_UUID, records, columns)
    for number, part in enumerate((rows[:half], rows[half:])):
        score = pa.float64() if number else pa.float32()
        part = part + score_rows(images, "laion", "float64" if number else "float32")
        records = [_old_record(row, url) | {"aesthetic": row.score} for row in part]
        _write_part(hub / AESTHETIC, number, AESTHETIC_UUID, records, OLD_COLUMNS | {"aesthetic": score})
    raw = [
        replace(row, width=row.height, height=row.width, caption=f"{row.caption} (WIDTH and HEIGHT are swapped)")
        for row in rows[:8]
    ]
    records = [_old_record(row, url) | {"LICENSE": "?", "NSFW": "UNLIKELY"} for row in raw]
    write_parquet(files / RAW_PART, records, OLD_COLUMNS | {"LICENSE": pa.string(), "NSFW": pa.string()})
    _write_old_parts(files, rows, images, url)


def _write_old_parts(files: Path, rows: list[Row], images: Path, url: str) -> None:
    """Write a part of laion2B-en-joined and one of laion-high-resolution, and laion-art."""
    texts: list[str | None] = [None, "", "A caption that two rows have", "A caption that two rows have"]
    odd = [replace(row, caption=text) for row, text in zip(rows[3:7], texts, strict=True)]
    gone = Row("missing.jpg", "An address that is gone", 640, 560)
    bare = replace(rows[7], caption="A row without punsafe and pwatermark", punsafe=None, pwatermark=None)
    large = replace(picture_row(images, "laion-large.jpg", 1200, 1024), caption="A picture of 1200 by 1024 pixels")
    scored = [replace(row, score=score) for row, score in zip(rows[8:11], (8.2, 9.1, None), strict=True)]
    _write_with_crc(files / JOINED_PART, [_old_record(row, url) for row in [*rows[:3], *odd, bare, gone]], OLD_COLUMNS)
    _write_with_crc(files / LARGE_PART, [_old_record(large, url) | {"LANGUAGE": "en"}], OLD_COLUMNS | LANGUAGE)
    art = [_old_record(row, url) | {"LANGUAGE": "nolang", "aesthetic": row.score} for row in scored]
    write_parquet(files / ART_PART, art, OLD_COLUMNS | LANGUAGE | {"aesthetic": pa.float64()})


def score_rows(images: Path, prefix: str, stored_as: str) -> list[Row]:
    """One row for every score at the edge of a rule, and write their images."""
    rows = []
    for number, (says, score) in enumerate(SCORES):
        name = f"{prefix}-score-{stored_as}-{number}.jpg"
        caption = f"A row whose score is {says} (the column is {stored_as})"
        rows.append(replace(picture_row(images, name, 560, 540), caption=caption, score=score))
    return rows


def write_parquet(path: Path, records: Sequence[dict[str, Any]], columns: dict[str, pa.DataType]) -> None:
    """Write `records` with `columns` as the publishers do: snappy, several row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array([row[name] for row in records], kind) for name, kind in columns.items()}
    pq.write_table(pa.table(arrays), path, compression="snappy", row_group_size=16)


def image_address(url: str, image: str) -> str:
    """A name on the image host as an address; a whole address stays as it is."""
    return image if "://" in image else f"{url}/img/{image}"


def picture_row(images: Path, name: str, width: int, height: int) -> Row:
    """A row for a picture of that name and size, and write its file."""
    picture = Picture.named(name, width, height)
    (images / name).write_bytes(picture.encode())
    return Row(name, picture.caption, picture.width, picture.height)


def _ordinary(images: Path) -> list[Row]:
    rows = [picture_row(images, f"laion-{n:03}.jpg", *GOOD_SIZES[n % len(GOOD_SIZES)]) for n in range(20)]
    return [replace(row, score=4.6 + 0.2 * n) for n, row in enumerate(rows)]


def _odd_rows(images: Path) -> list[Row]:
    """Rows that either list can have: odd captions, sizes at the edge, odd hosts, missing numbers."""
    captions: list[str | None] = [
        *ODD_CAPTIONS,
        None,
        "",
        "A caption that two rows have",
        "A caption that two rows have",
    ]
    rows = [
        replace(picture_row(images, f"laion-caption-{n}.jpg", 600, 520), caption=caption)
        for n, caption in enumerate(captions)
    ]
    for width, height in SIZES:
        row = picture_row(images, f"laion-size-{width}x{height}.jpg", width, height)
        rows.append(replace(row, caption=f"A picture of {width} by {height} pixels"))
    rows += [Row(odd.name, odd.says, 640, 560) for odd in ODD_IMAGES]
    small = picture_row(images, "laion-shrunk.jpg", 300, 260)
    good = rows[0].image
    return [
        *rows,
        replace(small, width=1024, height=887, caption="A picture that shrank since the list was made"),
        Row(f"{good}?v=1479962684", "An address with a query", 600, 520),
        Row("http://127.0.0.1:1/closed.jpg", "A host that refuses connections", 640, 560),
        Row("file:///etc/hostname", "An address that is a file of this machine", 640, 560),
        Row(good, "A row without punsafe", 600, 520, punsafe=None),
        Row(good, "A row without pwatermark", 600, 520, pwatermark=None),
        Row(good, "A row whose pwatermark is 0.9", 600, 520, pwatermark=0.9),
    ]


def _research_rows(images: Path) -> list[Row]:
    """Rows whose two sizes disagree: a least size must be asked of `original_*`."""
    big = picture_row(images, "laion-1600x1200.jpg", 1600, 1200)
    return [
        replace(big, stored=(512, 384), caption="A picture of 1600 by 1200 pixels, stored as 512 by 384"),
        Row("laion-000.jpg", "A row without original sizes", None, None, stored=(640, 512)),
        Row("missing.jpg", "A row that failed to download", None, None, status="failed_to_download"),
    ]


def _hash(image: str, caption: str | None) -> int:
    """A signed 64-bit hash of address and text (LAION's is Murmur3; ours stands in for it)."""
    return int.from_bytes(hashlib.sha256(f"{image}{caption or ''}".encode()).digest()[:8], signed=True)


def _research_record(row: Row, url: str, number: int) -> dict[str, Any]:
    width, height = row.stored or (row.width, row.height)
    return {
        "url": image_address(url, row.image),
        "caption": row.caption,
        "similarity": 0.3164,
        "hash": _hash(row.image, row.caption),
        "punsafe": row.punsafe,
        "pwatermark": row.pwatermark,
        "key": f"{number:09}",
        "status": row.status,
        "width": width,
        "height": height,
        "original_width": row.width,
        "original_height": row.height,
    }


def _old_record(row: Row, url: str) -> dict[str, Any]:
    return {
        "URL": image_address(url, row.image),
        "TEXT": row.caption,
        "WIDTH": row.width,
        "HEIGHT": row.height,
        "similarity": 0.3164,
        "hash": _hash(row.image, row.caption),
        "punsafe": row.punsafe,
        "pwatermark": row.pwatermark,
    }


def _write_part(
    repo: Path, number: int, uuid: str, records: list[dict[str, Any]], columns: dict[str, pa.DataType]
) -> None:
    """Write a part and the hidden checksum file that Hadoop leaves beside it."""
    _write_with_crc(repo / f"part-{number:05}-{uuid}-c000.snappy.parquet", records, columns)


def _write_with_crc(path: Path, records: list[dict[str, Any]], columns: dict[str, pa.DataType]) -> None:
    """Write a parquet file and its hidden checksum file."""
    write_parquet(path, records, columns)
    (path.parent / f".{path.name}.crc").write_bytes(b"crc\0" + hashlib.md5(path.read_bytes()).digest()[:8])
