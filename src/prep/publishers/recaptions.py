"""Long captions that others wrote for pictures of COYO and LAION: Recap-Long-Coyo, -Laion and Re-LAION-Caption19M.

Recap-Long-* are csv files at the root of their repositories; their cards say that they hold addresses, their columns
are not documented. DreamLIP's csv files, by the same method, have the columns DREAMLIP with an address under `Image
Path`; here one file has those, one has three captions beside `url`. Re-LAION-Caption19M is one parquet file.

Of their addresses some are those of our COYO and LAION, with the same captions or others, and some are of neither.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from prep.publishers.laion import image_address, picture_row, write_parquet
from prep.publishers.traps import LONG_CAPTION

RECAP = {
    "coyo": ("weiwu-ww/Recap-Long-Coyo", ("coyo_1_3long_captions.csv", "coyo_2_3long_captions.csv")),
    "laion": ("weiwu-ww/Recap-Long-Laion", ("laion_1_3long_captions.csv", "laion_3long_captions.csv")),
}
RE_LAION = "supermodelresearch/Re-LAION-Caption19M"
DREAMLIP = (
    *("Image Path", "raw_caption", "shortIB_captions", "longIB_captions"),
    *("shortSV_captions", "longSV_captions", "shortLLA_captions", "longLLA_captions"),
)
THREE_LONG = ("url", "longIB_captions", "longSV_captions", "longLLA_captions")
RE_LAION_COLUMNS = {
    "url": pa.string(),
    "caption": pa.string(),
    "similarity": pa.float64(),
    "punsafe": pa.float32(),
    "pwatermark": pa.float32(),
    "aesthetic_score": pa.float32(),
    "luminance_score": pa.float32(),
    "ocr_score": pa.float32(),
    "llava_next_caption": pa.string(),
    "llava_next_caption_shuffled": pa.string(),
}


def write_recaptions(hub: Path, images: Path, url: str) -> None:
    """Write the three repositories and the images that only they have; `url` is the server's."""
    for name, (repo, parts) in RECAP.items():
        own = picture_row(images, f"recap-{name}.jpg", 560, 540).image
        half, rest = _recap_rows(name, own)
        for part, columns, rows in zip(parts, (DREAMLIP, THREE_LONG), (half, rest), strict=True):
            _write_csv(hub / repo / part, columns, [(image_address(url, image), caption) for image, caption in rows])
    own = picture_row(images, "relaion-caption.jpg", 1024, 700).image
    records = [_re_laion_record(url, *row) for row in _re_laion_rows(own)]
    write_parquet(hub / RE_LAION / "laion_19m.parquet", records, RE_LAION_COLUMNS)


def _recap_rows(name: str, own: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(image, LLaVA's caption) for both parts; `name`'s own pictures are called `<name>-000.jpg` and so on."""
    plain = [(f"{name}-{n:03}.jpg", f"The image shows two shapes. It is number {n} of {name}.") for n in range(4)]
    first = [
        *plain,
        (f"{name}-000.jpg", "The same address as the first, described in other words."),
        (own, f"The image shows a picture that {name} does not have."),
        (f"{name}-004.jpg", 'The image says "Open",\nin a caption of quotes and two lines, with a comma.'),
        (f"{name}-005.jpg", LONG_CAPTION),
    ]
    second = [
        (f"{name}-006.jpg", "The image shows two shapes, in the second part."),
        (f"{name}-001.jpg", f"The image shows two shapes. It is number 1 of {name}."),
        (f"{name}-007.jpg", ""),
        ("missing.jpg", "The image is not there any more."),
        ("html.jpg", "The image is a page now."),
        (f"path://{name}_train/00012/000120034.jpg", "The image has no address."),
        ("path://", "The image has neither address nor path."),
    ]
    return first, second


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[tuple[str, str]]) -> None:
    """Write `rows`; an address that begins with `path://` stands for a path, which is what follows."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(columns)
    for address, caption in rows:
        others = [f"{column} of another captioner, a long text." for column in columns[1:-1]]
        writer.writerow([address.removeprefix("path://"), *others, caption])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(target.getvalue(), encoding="utf-8")


def _re_laion_rows(own: str) -> list[tuple[str, str | None, float | None]]:
    """(image, LLaVA-NeXT's caption, aesthetic score)."""
    plain: list[tuple[str, str | None, float | None]] = [
        (f"laion-{n:03}.jpg", f"The image features two shapes. It is number {n}.", 5.6 + 0.2 * n) for n in range(4)
    ]
    return [
        *plain,
        ("laion-000.jpg", "The address of the first, described in other words.", 6.5),
        (own, "The image features a picture that LAION-2B does not have.", 6.5),
        ("laion-004.jpg", LONG_CAPTION, 6.5),
        ("laion-005.jpg", None, 6.5),
        ("laion-006.jpg", "The image has a score of exactly 5.", 5.0),
        ("laion-007.jpg", "The image has no score.", None),
        ("laion-008.jpg", "The image has a score that is not a number.", math.nan),
        ("missing.jpg", "The image is not there any more.", 6.5),
    ]


def _re_laion_record(url: str, image: str, caption: str | None, score: float | None) -> dict[str, Any]:
    return {
        "url": image_address(url, image),
        "caption": f"alt text of {image}",
        "similarity": 0.3164,
        "punsafe": 0.01,
        "pwatermark": 0.1,
        "aesthetic_score": score,
        "luminance_score": 0.5,
        "ocr_score": 0.0,
        "llava_next_caption": caption,
        "llava_next_caption_shuffled": caption,
    }
