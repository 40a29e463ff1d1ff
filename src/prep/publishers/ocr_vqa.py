"""OCR-VQA: book covers in a zip on the hub, with a copy of it, and in parquet.

Names end as the addresses did; two covers cannot be decoded, and a GIF is called .jpg.
"""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from prep.publishers.packs import write, zipped
from prep.publishers.pictures import Picture, truncate

REPO, COPY, PARQUET = "weizhiwang/llava_v15_instruction_images", "BoyangZ/OCR_VQA", "howard-hou/OCR-VQA"
ARCHIVE = "ocr_vqa_images_llava_v15.zip"
CUT, BROKEN = "1437717772.jpg", "0007179677.jpg"  # the second has its header and its end
IN_PARQUET = ("761183272", "014028329X")
_SCAN = b"\xff\xda\0\x0c\x03"  # of a JPEG: its marker, length and number of components, whose ids follow


def write_ocr_vqa(hub: Path) -> None:
    """Write the three repositories."""
    archive = zipped({"images/": b"", **{f"images/{name}": data for name, data in covers().items()}})
    for repo in (REPO, COPY):
        write(hub / repo / ARCHIVE, archive)
    rows = [_row(key, covers()[f"{key}.jpg"]) for key in IN_PARQUET]
    path = hub / PARQUET / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def cover(key: str) -> Picture:
    """The cover of the book with that key."""
    return Picture.named(f"ocr-vqa {key}", 64, 96)


def covers() -> dict[str, bytes]:
    """File name -> bytes. Keys may begin with a zero, have lost one, or end in X."""
    return {
        "761183272.jpg": _film(cover("761183272")),
        "0123456789.jpg": cover("0123456789").encode(),
        "014028329X.jpg": cover("014028329X").encode(),
        "1565928555.png": _clear(cover("1565928555")),
        "B000234N7K.GIF": cover("B000234N7K").encode("GIF"),
        CUT: truncate(cover("1437717772").encode()),
        BROKEN: cover("0007179677").encode().replace(_SCAN + b"\1", _SCAN + b"\x99"),
    }


def _film(picture: Picture) -> bytes:
    """A GIF whose second frame is black."""
    target = io.BytesIO()
    frame = picture.draw().convert("P")
    frame.save(target, "GIF", save_all=True, append_images=[Image.new("P", frame.size)], duration=100)
    return target.getvalue()


def _clear(picture: Picture) -> bytes:
    """A PNG whose upper half is transparent."""
    image = picture.draw().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((0, 0, 0, 0), (0, 0, image.width, image.height // 2))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def _row(key: str, data: bytes) -> dict[str, object]:
    """The thirteen columns."""
    return {
        "image": {"bytes": data, "path": None},
        "image_id": key,
        "questions": ["Who wrote this book?"],
        "answers": ["A. Author"],
        "ocr_tokens": ["RED", "CIRCLE"],
        "ocr_info": [{"word": "RED", "bounding_box": {"width": 0.1, "height": 0.1}}],
        "title": cover(key).caption,
        "authorName": "A. Author",
        "genre": "Calendars",
        "image_width": 64,
        "image_height": 96,
        "image_url": f"http://ecx.images-amazon.com/images/I/{key}.jpg",
        "set_name": "train",
    }
