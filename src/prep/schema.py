"""Table kinds: which columns a sample has, and which of them name its images.

Column names are the trainer's own (`fltLaionAesthScore`, `s3_path`), because a sample is what the trainer reads;
the rest of the code uses the constants here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IMAGE_PATH = "s3_path"
CAPTION = "caption"
AESTHETIC_SCORE = "fltLaionAesthScore"
PREFERENCE_SCORE = "hpsv2"
HEIGHT = "intHeight"
WIDTH = "intWidth"
GROUNDED_CAPTION = "loc_caption"
GROUNDING_TEXT = "grounding_text"
TURNS = "conversations"

# Columns every normalized table has besides its kind's; they are not read by any trainer.
KEY = "key"  # names the sample: "<part>#<row>"
ROW = "row"  # the record's place in its part, from 0; shards are in this order
IMAGE_KEY = "image_key"  # joins a sample to the image index
URL = "url"  # where the image is, for datasets of addresses
DROP_REASON = "drop_reason"  # why normalize found the row unusable; null for a good row
REASON = "reason"  # of a dropped row: why
IMAGE_STATUS = "image_status"  # of a row's image, while filter judges it
# What `where` may ask of a row's image besides, each with its column of the image index; a table's own column of that
# name goes before it.
IMAGE_FACTS = {
    "image_format": "format",
    "image_size_bytes": "size_bytes",
    "image_sha256": "sha256",
    "image_displayed_width": "displayed_width",
    "image_displayed_height": "displayed_height",
}
# What `filter` says of a row, or counts beside its reasons, so that no dataset can say it of its own; and with `image_`
# before it every status of an image, so of those words only what `normalize` and the catalogue say otherwise.
FILTER_REASONS = frozenset(
    {
        *("aes_cutoff", "no_recaption", "no_size", "min_size", "where", "no_score", "sample", "text_only"),
        *("duplicate_url", "duplicate_caption", "duplicate_image", "near_duplicate"),
    }
)
NO_STATUSES = frozenset({"image_outside", "image_tokens", "image_in_answer"})
_MEANWHILE = ("_declared", "_reason", "_normal")  # columns that `normalize` has while it works
RESERVED = (KEY, ROW, IMAGE_KEY, URL, DROP_REASON, REASON, IMAGE_STATUS, *_MEANWHILE)

# DuckDB types of columns.
TEXT = "VARCHAR"
TEXTS = "VARCHAR[]"
NATIVE_TURNS = 'STRUCT("from" VARCHAR, "value" VARCHAR)[]'
ANY = "ANY"  # whatever type the publisher gave it
TURNS_TEXT = "TURNS_TEXT"  # VARCHAR: conversation turns as JSON
OTHER_TURNS = "OTHER_TURNS"  # native turns of a dialect of its own, which are not put in order

# What a column says of images: the path of one, a list of paths, or paths joined by ';'.
ImageShape = Literal["one", "list", "joined"]


@dataclass(frozen=True)
class Column:
    """One column of a sample.

    Attributes:
        type: its DuckDB type, or one of the words above.
        required: a row without a value is dropped, and the column is written even if every row is.
        images: how it names images; None where it names none.
    """

    name: str
    type: str = TEXT
    required: bool = False
    images: ImageShape | None = None


@dataclass(frozen=True)
class Kind:
    """A table kind: what one row of it holds.

    Attributes:
        about: what it is for, in a few words.
        columns: in the order they are written.
        image_path: the column of its one image, or of the one that training makes; None where all are in lists.
        place: a column that names the folder of its images, where the trainer joins one to every path.
        may_lack_images: rows without images are good rows: text alone.
        prompt: the column of the text that the image is of, where one says it all.
    """

    name: str
    about: str
    columns: tuple[Column, ...]
    image_path: str | None = IMAGE_PATH
    place: str | None = None
    may_lack_images: bool = False
    prompt: str | None = None

    def column(self, name: str) -> Column | None:
        """The column called `name`, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in the order they are written."""
        return tuple(column.name for column in self.columns)

    @property
    def image_columns(self) -> tuple[Column, ...]:
        """Columns that name images, the one of `image_path` first."""
        named = [column for column in self.columns if column.images]
        return tuple(sorted(named, key=lambda column: column.name != self.image_path))


def _image(name: str = IMAGE_PATH) -> Column:
    return Column(name, TEXT, required=True, images="one")


def _images(name: str) -> Column:
    return Column(name, TEXTS, required=True, images="list")


def _text(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, TEXT, required=True) for name in names)


# Scores are DOUBLE: a float32 score compared with 5.67 differs from the same comparison in float64.
_HPS = Column(PREFERENCE_SCORE, "DOUBLE")
_FACTS = (Column(AESTHETIC_SCORE, "DOUBLE"), Column(HEIGHT, "INTEGER"), Column(WIDTH, "INTEGER"), _HPS)
_EDIT = (_images("input_paths"), _image("output_paths"), *_text("instruction"))
_OPTIONAL_IMAGE = Column("image", TEXT, images="one")
_OPTIONAL_IMAGES = Column("image", TEXTS, images="list")

TEXT_TO_IMAGE = Kind("text-to-image", "an image and its caption", (_image(), *_text(CAPTION), *_FACTS), prompt=CAPTION)
TEXT_TO_IMAGE_HASH = Kind(
    "text-to-image-hash",
    "a caption, and an image by its key in the authors' private store",
    (Column("strImagehash", TEXT, required=True), *_text("longLLA_captions"), *_FACTS),
    image_path=None,
    prompt="longLLA_captions",
)
TEXT_TO_IMAGE_PLAN = Kind(
    "text-to-image-plan",
    "an image, its caption and a plan of where things stand; with `negatives`, worse images and why they are",
    (
        _image(),
        *_text(CAPTION, GROUNDING_TEXT),
        *_FACTS,
        Column("negatives", TEXT, images="joined"),
        Column("negative_reasons"),
    ),
    prompt=CAPTION,
)
TEXT_TO_IMAGE_LAYOUT = Kind(
    "text-to-image-layout",
    "an image with a caption of three lengths and how it was cropped",
    (_image(), *_text(CAPTION, "cap_short", "cap_detail"), Column("crop_parms", ANY, required=True), *_FACTS),
    prompt=CAPTION,
)
CONVERSATION = Kind(
    "conversation",
    "a dialogue about one image, or text alone",
    (_OPTIONAL_IMAGE, Column(TURNS, TURNS_TEXT, required=True)),
    image_path="image",
    may_lack_images=True,
)
CONVERSATION_IMAGES = Kind(
    "conversation-images",
    "a dialogue about any number of images, or text alone",
    (_OPTIONAL_IMAGES, Column(TURNS, NATIVE_TURNS, required=True)),
    image_path=None,
    may_lack_images=True,
)
GROUNDED_CAPTION_KIND = Kind(
    "grounded-caption", "an image and a caption with boxes", (_image(), *_text(GROUNDED_CAPTION))
)
REFERRING_EXPRESSION = Kind(
    "referring-expression", "an image, words for a thing in it, and its box", (_image(), *_text("label", "loc_string"))
)
REFLECTION_JUDGE = Kind(
    "reflection-judge",
    "an image, what was asked for, and a judgement of it",
    (_image("image"), *_text("prompts", "results")),
    image_path="image",
)
EDIT_PROMPT = Kind(
    "edit-prompt",
    "an edit in ShareGPT-4o-Image's columns: images, a request, the image it leads to",
    (_images("input_image"), _image("output_image"), *_text("input_prompt")),
    image_path="output_image",
    prompt="input_prompt",
)
EDIT = Kind(
    "edit",
    "an edit: images, an instruction, the image it leads to",
    (*_EDIT, _HPS),
    image_path="output_paths",
    prompt="instruction",
)
EDIT_PLAN = Kind(
    "edit-plan",
    "an edit with a plan of where things stand",
    (*_EDIT, *_text(GROUNDING_TEXT), Column("edit_type"), _HPS),
    image_path="output_paths",
    prompt="instruction",
)
EDIT_LOCAL = Kind(
    "edit-local",
    "an edit in PicaBanana's columns",
    (_images("local_input_image"), _image("local_output_image"), *_text("text"), _HPS),
    image_path="local_output_image",
    prompt="text",
)
METAQUERY = Kind(
    "metaquery",
    "an image made from several others and a prompt",
    (_images("source_images_paths"), _image("tgt_path"), Column("dir_name"), *_text("prompt")),
    image_path="tgt_path",
    place="dir_name",
    prompt="prompt",
)
UNIWORLD = Kind(
    "uniworld",
    "a dialogue with images seen, made and made from",
    (
        _images("image"),
        _images("image_gen"),
        _images("image_gen_enc"),
        Column("folder"),
        Column("is_edit", "BOOLEAN", required=True),
        Column(TURNS, OTHER_TURNS, required=True),
    ),
    image_path=None,
    place="folder",
)
KINDS = {
    kind.name: kind
    for kind in (
        TEXT_TO_IMAGE,
        TEXT_TO_IMAGE_HASH,
        TEXT_TO_IMAGE_PLAN,
        TEXT_TO_IMAGE_LAYOUT,
        CONVERSATION,
        CONVERSATION_IMAGES,
        GROUNDED_CAPTION_KIND,
        REFERRING_EXPRESSION,
        REFLECTION_JUDGE,
        EDIT_PROMPT,
        EDIT,
        EDIT_PLAN,
        EDIT_LOCAL,
        METAQUERY,
        UNIWORLD,
    )
}
