"""Table kinds: which columns a sample has, and which of them name its images.

Column names are the trainer's own (`fltLaionAesthScore`, `s3_path`), because a sample is what the trainer reads;
the rest of the code uses the constants here.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_PATH = "s3_path"
CAPTION = "caption"
AESTHETIC_SCORE = "fltLaionAesthScore"
PREFERENCE_SCORE = "hpsv2"
HEIGHT = "intHeight"
WIDTH = "intWidth"
GROUNDED_CAPTION = "loc_caption"

# Columns every normalized table has besides its kind's; they are not read by any trainer.
KEY = "key"  # names the sample: "<part>#<row>"
ROW = "row"  # the record's place in its part, from 0; shards are in this order
IMAGE_KEY = "image_key"  # joins a sample to the image index
URL = "url"  # where the image is, for datasets of addresses
DROP_REASON = "drop_reason"  # why normalize found the row unusable; null for a good row
REASON = "reason"  # of a dropped row: why
IMAGE_STATUS = "image_status"  # of a row's image, while filter judges it
RESERVED = (KEY, ROW, IMAGE_KEY, URL, DROP_REASON, REASON, IMAGE_STATUS)


@dataclass(frozen=True)
class Column:
    """One column of a sample: its name, its DuckDB type, and whether a row without it is dropped."""

    name: str
    type: str
    required: bool = False


@dataclass(frozen=True)
class Kind:
    """A table kind: what one row of it holds."""

    name: str
    columns: tuple[Column, ...]
    image_path: str

    def column(self, name: str) -> Column | None:
        """The column called `name`, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in the order they are written."""
        return tuple(column.name for column in self.columns)


# Scores are DOUBLE: a float32 score compared with 5.67 differs from the same comparison in float64.
TEXT_TO_IMAGE = Kind(
    "text-to-image",
    (
        Column(IMAGE_PATH, "VARCHAR", required=True),
        Column(CAPTION, "VARCHAR", required=True),
        Column(AESTHETIC_SCORE, "DOUBLE"),
        Column(HEIGHT, "INTEGER"),
        Column(WIDTH, "INTEGER"),
        Column(PREFERENCE_SCORE, "DOUBLE"),
    ),
    IMAGE_PATH,
)
GROUNDED_CAPTION_KIND = Kind(
    "grounded-caption",
    (
        Column(IMAGE_PATH, "VARCHAR", required=True),
        Column(GROUNDED_CAPTION, "VARCHAR", required=True),
    ),
    IMAGE_PATH,
)
KINDS = {kind.name: kind for kind in (TEXT_TO_IMAGE, GROUNDED_CAPTION_KIND)}
