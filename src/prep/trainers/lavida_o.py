"""LaViDa-O's training YAML: its keys, its preprocess functions, its sampling, and how to write one.

The spellings are the trainer's (eight function names have one `s` in `preproces_`). What the loader does with a table
is in `lavida_o_table`, what a function makes of a row in `lavida_o_sample`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from prep import schema
from prep.config import nearest
from prep.errors import ConfigError
from prep.yaml_edit import render_items, render_keys

# Top level of the YAML.
DATASETS = "datasets"
WEIGHTS = "weights"
BATCH_SIZES = "batch_sizes"
TOP_LEVEL_KEYS = (DATASETS, WEIGHTS, BATCH_SIZES)

# Keys of an entry.
NAME = "name"
DATA_PATH = "json_path"
COLUMNS = "columns"
SAMPLING = "sampling_strategy"
FUNCTION = "preprocess_fn"
ARGUMENTS = "process_fn_kwargs"
AES_CUTOFF = "aes_cutoff"
MIN_SIZE = "min_size"
MAX_IMAGES = "max_enc_images"
GROUP = "length_group"
IMAGE_ROOT = "image_root"
ENTRY_KEYS = (
    NAME, DATA_PATH, COLUMNS, SAMPLING, FUNCTION, ARGUMENTS, AES_CUTOFF, MIN_SIZE, MAX_IMAGES, GROUP, IMAGE_ROOT,
)  # fmt: skip

# What the loader takes where the YAML says nothing.
DEFAULT_NAME = "none"
DEFAULT_SAMPLING = "all"
DEFAULT_GROUP = "default"
DEFAULT_AES_CUTOFF = 5.0
DEFAULT_WEIGHT = 100
DEFAULT_BATCH_FACTOR = 1

SUFFIXES = (".parquet", ".json", ".jsonl")
MAX_CAPTION_LENGTH = 800  # characters
NO_AES_CUTOFF = -100.0  # below every score: how to write "no cutoff", since leaving the key out means 5

S3_SCHEME = "s3://"
PRIVATE_SCHEME = "piat://"
PRIVATE_READER = "piat"  # the module that opens both


class Holds(Enum):
    """What a function expects in a column; the value says it in words."""

    TEXT = "a string"
    PATH = "an image path"
    PATHS = "a list of image paths"
    PATH_OR_PATHS = "an image path or a list of them"
    JOINED_PATHS = "image paths joined by ';'"
    JOINED_TEXTS = "texts joined by ';'"
    PRIVATE_HASH = "a key of the private image store"
    TURNS_AS_JSON = "a JSON string of conversation turns"
    TURNS = "a native list of conversation turns"
    ANYTHING = "any value"

    @property
    def is_image(self) -> bool:
        """Whether the column names images."""
        return self in _IMAGES

    @property
    def is_string(self) -> bool:
        """Whether every value must be a string."""
        return self in _STRINGS


_IMAGES = {Holds.PATH, Holds.PATHS, Holds.PATH_OR_PATHS, Holds.JOINED_PATHS, Holds.PRIVATE_HASH}
_STRINGS = {
    Holds.TEXT, Holds.PATH, Holds.JOINED_PATHS, Holds.JOINED_TEXTS, Holds.PRIVATE_HASH, Holds.TURNS_AS_JSON,
}  # fmt: skip


@dataclass(frozen=True)
class Read:
    """One column that a function reads.

    Attributes:
        column: its name.
        holds: what must be in it.
        nullable: rows without a value are meant to work (text-only rows).
        prefix: argument whose value is joined in front of its paths.
        folder: column whose value is joined in front of its paths, behind the prefix.
        only_with: argument that must be true for the column to be read.
        renamed_by: argument that names another column to read instead.
        is_caption: its text is cut at MAX_CAPTION_LENGTH.
    """

    column: str
    holds: Holds
    nullable: bool = False
    prefix: str | None = None
    folder: str | None = None
    only_with: str | None = None
    renamed_by: str | None = None
    is_caption: bool = False


@dataclass(frozen=True)
class Function:
    """One preprocess function: the columns it reads and the arguments it takes.

    Attributes:
        name: its spelling in the YAML.
        reads: columns that must be loaded.
        uses_when_present: columns that change the prompt where they are loaded.
        arguments: names worth giving in `process_fn_kwargs`.
        choices: argument -> the only values it knows.
    """

    name: str
    reads: tuple[Read, ...]
    uses_when_present: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def image_columns(self) -> tuple[str, ...]:
        """Columns that name images."""
        return tuple(read.column for read in self.reads if read.holds.is_image)

    @property
    def prefix_arguments(self) -> tuple[str, ...]:
        """Arguments that are joined in front of image paths."""
        return tuple(dict.fromkeys(read.prefix for read in self.reads if read.prefix))

    def reads_with(self, arguments: Mapping[str, Any]) -> tuple[Read, ...]:
        """What it reads when called with `arguments`."""
        return tuple(
            replace(read, column=str(arguments.get(read.renamed_by or "", read.column)))
            for read in self.reads
            if read.only_with is None or arguments.get(read.only_with)
        )


_SCORES = (schema.AESTHETIC_SCORE, schema.PREFERENCE_SCORE)
_IMAGE = Read(schema.IMAGE_PATH, Holds.PATH)
_CAPTION = Read(schema.CAPTION, Holds.TEXT, is_caption=True)
_GROUNDING = Read("grounding_text", Holds.TEXT)
_INSTRUCTION = Read("instruction", Holds.TEXT)
_EDIT_IMAGES = (
    Read("input_paths", Holds.PATH_OR_PATHS, prefix="s3_prefix"),
    Read("output_paths", Holds.PATH, prefix="s3_prefix"),
)

_FUNCTIONS = (
    Function(
        "preproces_text_to_image_generation_s3",
        (_IMAGE, replace(_CAPTION, renamed_by="caption_key")),
        _SCORES,
        ("caption_key", "random_truncate", "no_drop_keys", "random_caption_keys"),
    ),
    Function(
        "preproces_text_to_image_generation_piat_hash",
        (
            Read("strImagehash", Holds.PRIVATE_HASH),
            Read("longLLA_captions", Holds.TEXT, renamed_by="caption_key", is_caption=True),
        ),
        _SCORES,
        ("caption_key",),
    ),
    Function(
        "preproces_text_to_image_generation_s3_loc",
        (
            _IMAGE,
            _CAPTION,
            _GROUNDING,
            Read("negatives", Holds.JOINED_PATHS, prefix="s3_prefix_enc", only_with="add_feedback"),
            Read("negative_reasons", Holds.JOINED_TEXTS, only_with="add_feedback"),
        ),
        _SCORES,
        ("plan_only", "no_plan", "add_feedback", "s3_prefix_enc", "max_reflection"),
    ),
    Function(
        "preproces_text_to_image_generation_layout_sam",
        (
            replace(_IMAGE, prefix="s3_prefix"),
            _CAPTION,
            Read("cap_short", Holds.TEXT, is_caption=True),
            Read("cap_detail", Holds.TEXT, is_caption=True),
            Read("crop_parms", Holds.ANYTHING),
        ),
        _SCORES,
        ("plan_only", "no_plan", "caption_drop", "s3_prefix"),
    ),
    Function(
        "preproces_und_mammoth_si_10M",
        (
            Read("image", Holds.PATH, nullable=True, prefix="s3_prefix"),
            Read("conversations", Holds.TURNS_AS_JSON),
        ),
        arguments=("s3_prefix",),
    ),
    Function(
        "preproces_vw_instruct",
        (
            Read("image", Holds.PATHS, nullable=True, prefix="s3_prefix"),
            Read("conversations", Holds.TURNS),
        ),
        arguments=("s3_prefix",),
    ),
    Function("preproces_grandf", (_IMAGE, Read(schema.GROUNDED_CAPTION, Holds.TEXT))),
    Function("preproces_refcoco_rec", (_IMAGE, Read("label", Holds.TEXT), Read("loc_string", Holds.TEXT))),
    Function(
        "preprocess_reflection_und",
        (
            Read("image", Holds.PATH, prefix="s3_prefix"),
            Read("prompts", Holds.ANYTHING),
            Read("results", Holds.ANYTHING),
        ),
        arguments=("s3_prefix",),
    ),
    Function(
        "process_sharegpt_4o_edit",
        (
            Read("input_image", Holds.PATH_OR_PATHS, prefix="s3_prefix"),
            Read("output_image", Holds.PATH, prefix="s3_prefix"),
            Read("input_prompt", Holds.TEXT),
        ),
        arguments=("s3_prefix", "t2i", "no_template", "reweight"),
    ),
    Function(
        "process_gpt_edit",
        (*_EDIT_IMAGES, _INSTRUCTION),
        (schema.PREFERENCE_SCORE,),
        ("s3_prefix", "t2i", "pixel_diff", "reweight"),
    ),
    Function(
        "process_gpt_edit_loc_gnd",
        (*_EDIT_IMAGES, _INSTRUCTION, _GROUNDING),
        ("edit_type", schema.PREFERENCE_SCORE),
        ("task", "plan_only", "s3_prefix"),
        {"task": ("add", "remove", "swap", "replace", "adjust")},
    ),
    Function(
        "process_pica_banana",
        (
            Read("local_input_image", Holds.PATH_OR_PATHS, prefix="s3_prefix"),
            Read("local_output_image", Holds.PATH, prefix="s3_prefix"),
            Read("text", Holds.TEXT),
        ),
        (schema.PREFERENCE_SCORE,),
        ("s3_prefix",),
    ),
    Function(
        "process_metaquery",
        (
            Read("source_images_paths", Holds.PATHS, prefix="s3_prefix", folder="dir_name"),
            Read("tgt_path", Holds.PATH, prefix="s3_prefix", folder="dir_name"),
            Read("dir_name", Holds.TEXT),
            Read("prompt", Holds.TEXT),
        ),
        arguments=("s3_prefix",),
    ),
    Function(
        "process_uniworld",
        (
            Read("image", Holds.PATHS, folder="folder"),
            Read("image_gen", Holds.PATHS, folder="folder"),
            Read("image_gen_enc", Holds.PATHS, folder="folder"),
            Read("folder", Holds.TEXT),
            Read("is_edit", Holds.ANYTHING),
            Read("conversations", Holds.ANYTHING),
        ),
        arguments=("pixel_diff", "do_reweight"),
    ),
)
# Rows without a preprocess function must be LLaVA samples already.
LLAVA_SAMPLE = Function(
    "",
    (
        Read("image", Holds.PATH_OR_PATHS, nullable=True, prefix=IMAGE_ROOT),
        Read("conversations", Holds.TURNS),
    ),
    arguments=(IMAGE_ROOT,),
)
FUNCTIONS = {function.name: function for function in _FUNCTIONS}
FUNCTION_OF_KIND = {
    schema.TEXT_TO_IMAGE.name: "preproces_text_to_image_generation_s3",
    schema.TEXT_TO_IMAGE_HASH.name: "preproces_text_to_image_generation_piat_hash",
    schema.TEXT_TO_IMAGE_PLAN.name: "preproces_text_to_image_generation_s3_loc",
    schema.TEXT_TO_IMAGE_LAYOUT.name: "preproces_text_to_image_generation_layout_sam",
    schema.CONVERSATION.name: "preproces_und_mammoth_si_10M",
    schema.CONVERSATION_IMAGES.name: "preproces_vw_instruct",
    schema.GROUNDED_CAPTION_KIND.name: "preproces_grandf",
    schema.REFERRING_EXPRESSION.name: "preproces_refcoco_rec",
    schema.REFLECTION_JUDGE.name: "preprocess_reflection_und",
    schema.EDIT_PROMPT.name: "process_sharegpt_4o_edit",
    schema.EDIT.name: "process_gpt_edit",
    schema.EDIT_PLAN.name: "process_gpt_edit_loc_gnd",
    schema.EDIT_LOCAL.name: "process_pica_banana",
    schema.METAQUERY.name: "process_metaquery",
    schema.UNIWORLD.name: "process_uniworld",
}


def _reads_of(kind: str) -> tuple[Read, ...]:
    return FUNCTIONS[FUNCTION_OF_KIND[kind]].reads


def prefixes(kind: str, columns: Collection[str], image_root: str) -> dict[str, str]:
    """Arguments that a kind's function puts in front of its images' paths, as they suit paths from `stored_path`.

    A path that begins at `/` wins over any prefix. An address on S3 would not; so what its table holds begins at the
    bucket, and the prefix is the rest.
    """
    before = _before_images(image_root)
    return {read.prefix: before for read in _reads_of(kind) if read.prefix and read.column in columns}


def stored_path(column: str, kind: str, path: str) -> str:
    """An image's whole path or address as a table of this kind holds it in `column`."""
    is_joined = any(read.column == column and (read.prefix or read.folder) for read in _reads_of(kind))
    return path.removeprefix(S3_SCHEME) if is_joined else path


def place_of_images(kind: str, image_root: str) -> str:
    """What a table of this kind holds in its column for the images' folder, where their paths are whole already."""
    has_prefix = any(read.prefix and read.folder for read in _reads_of(kind))
    return "" if has_prefix else _before_images(image_root)


def _before_images(image_root: str) -> str:
    return S3_SCHEME if image_root.startswith(S3_SCHEME) else "/"


@dataclass(frozen=True)
class Sampling:
    """A sampling strategy, understood.

    Attributes:
        word: `all`, `first`, `end`, `random` or `dup`.
        number: N; None for `all`.
        is_percent: N is a percentage of the rows.
        is_understood: False for a word the loader does not know, which it passes over: all rows.
    """

    word: str
    number: int | None = None
    is_percent: bool = False
    is_understood: bool = True

    def number_for(self, rows: int) -> int:
        """N for a table of `rows` rows; a percentage is rounded up."""
        number = self.number or 0
        return -(-number * rows // 100) if self.is_percent else number

    def rows(self, rows: int) -> int:
        """Rows taken of `rows`, copies counted.

        For `random` that is what it asks for: where it is more than there are, the loader fails.
        """
        number = self.number_for(rows)
        if self.word == "all":
            return rows
        if self.word == "dup":
            return rows * number
        return number if self.word == "random" else min(number, rows)


def parse_sampling(strategy: str) -> Sampling:
    """Understand a `sampling_strategy`.

    A word without a number, and a word the loader does not know, mean all rows.

    Raises:
        ConfigError: the part after the colon is not a whole number or percentage of at least 1 (a percentage of
            copies has no meaning either).
    """
    word, colon, amount = strategy.partition(":")
    if not colon:
        return Sampling("all", is_understood=word in ("all", "full"))
    digits = amount.removesuffix("%")
    if not (digits.isascii() and digits.isdigit()) or int(digits) == 0:
        raise ConfigError(
            f"sampling_strategy {strategy!r}: {amount!r} is not a whole number or whole percentage above 0",
            "Write all, first:N, end:N, random:N or dup:N.",
        )
    if word == "dup" and amount.endswith("%"):
        raise ConfigError(f"sampling_strategy {strategy!r}: dup takes a whole number", "Write dup:2.")
    if word not in ("first", "end", "random", "dup"):
        return Sampling("all", is_understood=False)
    return Sampling(word, int(digits), amount.endswith("%"))


def sampled_rows(strategy: str, rows: int) -> int:
    """Rows that `strategy` takes of a table of `rows` rows, copies counted; more than `rows` of `random` fails.

    Raises:
        ConfigError: the strategy's number cannot be read.
    """
    return parse_sampling(strategy).rows(rows)


def cut_batch(batch: int, factor: float) -> int:
    """Samples of a batch of `batch` that a group with this batch factor trains on: at least 1."""
    return max(int(batch * factor), 1)


def training_entry(
    *,
    name: str,
    json_path: Path,
    function: str,
    columns: Collection[str],
    sampling: str = DEFAULT_SAMPLING,
    arguments: Mapping[str, Any] | None = None,
    aes_cutoff: float | None = None,
    min_size: int | None = None,
    group: str | None = None,
) -> dict[str, Any]:
    """One entry of the training YAML, its keys in reading order.

    Where the score is among the columns a cutoff is always written, since the loader would else apply its own; None
    writes one below every score. `min_size` is written only beside both size columns: without them the loader stops.

    Raises:
        ConfigError: an unknown function, or a column it reads is not among `columns`.
    """
    if function not in FUNCTIONS:
        raise ConfigError(
            f"entry {name!r}: no preprocess function is called {function!r}{nearest(function, FUNCTIONS)}",
            f"LaViDa-O knows: {', '.join(FUNCTIONS)}.",
        )
    missing = [read.column for read in FUNCTIONS[function].reads_with(arguments or {}) if read.column not in columns]
    if missing:
        raise ConfigError(
            f"entry {name!r}: {function} reads {', '.join(missing)}, which the table does not have",
            "Choose a function for the columns that are there.",
        )
    parse_sampling(sampling)
    entry: dict[str, Any] = {
        NAME: name,
        DATA_PATH: str(json_path.absolute()),
        COLUMNS: list(columns),
        SAMPLING: sampling,
        FUNCTION: function,
    }
    if arguments:
        entry[ARGUMENTS] = dict(arguments)
    if schema.AESTHETIC_SCORE in columns:
        entry[AES_CUTOFF] = NO_AES_CUTOFF if aes_cutoff is None else aes_cutoff
    if min_size is not None and {schema.HEIGHT, schema.WIDTH} <= set(columns):
        entry[MIN_SIZE] = min_size
    if group is not None:
        entry[GROUP] = group
    return entry


def training_yaml(
    entries: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
    batch_sizes: Mapping[str, float],
    header: Sequence[str] = (),
) -> str:
    """The text of a training YAML.

    Args:
        entries: from `training_entry`.
        weights: length group -> weight; left out when empty.
        batch_sizes: length group -> batch factor; left out when empty.
        header: comment lines for the top, without `#`.
    """
    comments = [f"# {_printable(line)}".rstrip() for text in header for line in text.splitlines() or [""]]
    blocks = ["\n".join(comments)] if comments else []
    items = [render_items([entry], indent=2).rstrip("\n") for entry in entries]
    blocks.append(f"{DATASETS}:\n" + "\n\n".join(items) if items else f"{DATASETS}: []")
    for key, numbers in ((WEIGHTS, weights), (BATCH_SIZES, batch_sizes)):
        if numbers:
            blocks.append(f"{key}:\n" + render_keys(_whole(numbers), indent=2).rstrip("\n"))
    return "\n\n".join(blocks) + "\n"


def _printable(line: str) -> str:
    """`line` without the characters that YAML does not allow, or that would end a comment."""
    return "".join(character if character.isprintable() else " " for character in line)


def _whole(numbers: Mapping[str, float]) -> dict[str, float]:
    """`numbers` with 250.0 as 250, the way a person writes it."""
    return {name: int(n) if float(n).is_integer() else n for name, n in numbers.items()}
