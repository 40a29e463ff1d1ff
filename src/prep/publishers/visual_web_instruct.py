"""VisualWebInstruct: dialogues as JSON lines, the same again as parquet, and one zip of the pictures they name.

`image` is a list or null. Beside the mixed dialogues are those of the set alone and its questions and answers, which
nothing needs; earlier revisions call the same files otherwise (OLDER_DIALOGUES).
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prep.publishers.packs import write
from prep.publishers.pictures import Picture

REPO = "TIGER-Lab/VisualWebInstruct"
DIALOGUES, OLDER_DIALOGUES = "mixed_conversation.jsonl", "conversation_mixed.jsonl"
PICTURES = {
    "visualwebinstruct/0b1c.png": (96, 64),
    "visualwebinstruct/4f2e.png": (64, 96),
    "geoqa+/images/12.png": (96, 96),
    "vg/VG_100K/2.jpg": (128, 96),
}
ZERO_BYTES = "vg/VG_100K_2/3.jpg"
Row = dict[str, Any]


def write_visual_web_instruct(hub: Path) -> None:
    """Write the repository."""
    root, rows = hub / REPO, _rows()
    write(root / "images.zip", _zip())
    write(root / DIALOGUES, _lines(rows))
    write(root / "visualwebinstruct_conversation.jsonl", _lines(rows[:2]))
    write(root / "visualwebinstruct_qa.jsonl", _lines([{"question": "What is the area?", "answer": "12"}]))
    pq.write_table(pa.Table.from_pylist(rows), root / DIALOGUES.replace(".jsonl", ".parquet"))
    write(root / "README.md", "# VisualWebInstruct\n")


def _rows() -> list[Row]:
    """Dialogues; 9z9z.png is not in the zip."""
    first, second = "visualwebinstruct/0b1c.png", "visualwebinstruct/4f2e.png"
    return [
        _row([first], "<image>\nWhat is the area?", "Half of base times height. Answer: 12"),
        _row(None, "What is the speed of light?", "About 300,000 km/s."),
        _row([second], "Was ist das?", "Ein Quadrat — größer als der Kreis."),
        _row(["visualwebinstruct/9z9z.png"], "<image>\nWhat is missing?", "The picture."),
        _row([ZERO_BYTES], "<image>\nWhat is there?", "No bytes at all."),
        _row(["geoqa+/images/12.png"], "<image>\nFind the angle.", _words(150)),
        _row(["geoqa+/images/12.png"], "<image>\nFind the angle again.", _words(151)),
        _row([first, second], "<image>\n<image>\nWhich is larger?", "The second."),
        _row([second], "<image>\nWhat is the answer?", ""),
        _row(None, "<image>\nWhat is the answer?", "There is no picture."),
        _row(["vg/VG_100K/2.jpg"], "What is there? <image>", "A circle.", "And behind it?", "A square.", "Why?"),
        _row(None, "Name a prime.", "7", "And another.", "11"),
    ]


def _row(image: list[str] | None, *values: str) -> Row:
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"image": image, "conversations": turns}


def _words(count: int) -> str:
    return " ".join(f"word{number}" for number in range(count))


def _lines(rows: list[Row]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _zip() -> bytes:
    """The pictures, dated 1980 so that the bytes are always the same."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, size in PICTURES.items():
            picture = Picture.named(f"vwi {name}", *size)
            archive.writestr(zipfile.ZipInfo(name), picture.encode("PNG" if name.endswith(".png") else "JPEG"))
        archive.writestr(zipfile.ZipInfo(ZERO_BYTES), b"")
    return target.getvalue()
