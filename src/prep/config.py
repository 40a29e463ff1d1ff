"""Datasets, recipes and prep.yaml as typed, frozen models.

What a YAML file may say is exactly what these models hold: an unknown key, a repeated key or a wrong type is a
ConfigError that names the file, the line and, for a misspelt key, the nearest right one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fractions import Fraction
from functools import cache, partial
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from prep.errors import ConfigError
from prep.schema import CAPTION, DROP_REASON, FILTER_REASONS, KINDS, NO_STATUSES, RESERVED, URL, Kind
from prep.yaml_file import YamlFile, read_yaml

# Folders of a workspace that hold what stages write.
STAGE_FOLDERS = (
    "raw",
    "index",
    "scores",
    "normalized",
    "sampled",
    "phash",
    "dedup",
    "filtered",
    "dropped",
    "training",
    "preview",
    "datasets",
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$", to_lower=True)]
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{32}$", to_lower=True)]
ModelT = TypeVar("ModelT", bound=BaseModel)

# Bits of 64 in which near duplicates may differ: pictures that have nothing in common differ in some 32.
MAX_DISTANCE = 12
GOOGLE_DRIVE = "https://drive.google.com"
LEAST_MEMORY = 100_000_000  # bytes with which a query can do anything at all
MOST_MEMORY = 10**15  # bytes; there is no such machine, and DuckDB counts in 64 bits
MOST_ROWS = 10**15  # of a sample, for the same reason
AestheticScorer = Literal["aesthetic-v1", "aesthetic-v2", "published"]


def _drive_id(address: str, other: str) -> str:
    """The id in any of Drive's addresses, or an id itself; one of the `other` kind (file, folder) is refused."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", address):
        return address
    host = r"(?:https?://)?(?:drive|docs|drive\.usercontent)\.google\.com/"
    found = re.match(host + r"(?:\S*?(file/(?:u/\d+/)?d/|folders/)|\S*?[?&]id=)([A-Za-z0-9_-]+)", address)
    if found is None:
        raise ValueError(f"{address!r} is neither an id nor an address of Google Drive")
    if (found[1] or "").startswith(other):
        raise ValueError(f"{address!r} is a {other}, which has a key of its own")
    return found[2]


def _sample(text: str) -> str:
    """How much of a table: a percentage above 0 up to 100, or a number of rows; YAML's numbers are its text already."""
    if not re.fullmatch(r"[0-9]+|[0-9]+(\.[0-9]+)?%", text):
        raise ValueError(f"{text!r} is neither a percentage such as 0.1% nor a number of rows")
    share = Fraction(text.removesuffix("%"))
    if not share or ("%" in text and share > 100):
        raise ValueError(f"{text!r} must be above 0" + (" and at most 100%" if "%" in text else ""))
    if "%" not in text and share > MOST_ROWS:
        raise ValueError(f"{text!r} is more rows than any table has; 100% keeps all of them")
    return text


Sample = Annotated[
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value), AfterValidator(_sample)
]


def _expression(text: str) -> str:
    """SQL that is one value and nothing else: pasted into a query it can neither end it nor begin another."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        return text
    text.encode()  # what cannot be, DuckDB does not take for text
    import duckdb  # takes a tenth of a second, and no column's name needs it

    try:
        for written in (text, f"({text}\n)"):  # as it stands, and as it is pasted
            duckdb.SQLExpression(written)
    except duckdb.Error as error:
        raise ValueError(f"{text!r} is not one SQL expression: {str(error).splitlines()[0]}") from error
    return text


Expression = Annotated[str, AfterValidator(_expression)]


# Left out of a source's dump where there is none: what was downloaded before there was such a key stays valid.
FilesFrom = Annotated[str | None, Field(min_length=1, exclude_if=lambda path: path is None)]


def _as_text(amount: object) -> object:
    return str(amount) if isinstance(amount, int) and not isinstance(amount, bool) else amount


def _check_files_from(files_from: str | None, include: Iterable[str], exclude: Iterable[str] = ()) -> None:
    if files_from is not None and (tuple(include) != ("*",) or tuple(exclude)):
        raise ValueError("files_from names every file, so there is nothing to include or exclude")


class Model(BaseModel):
    """Base of all configuration: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HuggingFaceSource(Model):
    """A repository of datasets on the Hugging Face hub.

    Attributes:
        repo: `owner/name`.
        repo_type: `dataset`, or `model` where a publisher put its files beside a model's.
        revision: a branch, tag or commit; what it points at is resolved once and pinned in prep.lock.
        include, exclude: globs over its files; a file is taken if one of `include` and none of `exclude` matches.
    """

    kind: Literal["huggingface"]
    repo: str
    repo_type: Literal["dataset", "model"] = "dataset"
    revision: str = "main"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


class File(Model):
    """One file, with whatever its publisher says of its bytes; what is said is checked.

    Attributes:
        path: its path below `raw/<dataset>/`.
        size_bytes: its length.
        sha256, md5: in hex.
    """

    path: str = Field(min_length=1)
    size_bytes: int | None = Field(default=None, ge=0)
    sha256: Sha256 | None = None
    md5: Md5 | None = None


class HttpFile(File):
    """One file at an address.

    Attributes:
        url: an http(s) address.
        path: by default the last step of the address.
        mirrors: more addresses of the same bytes, tried in order when `url` does not give them.
        size_bytes, sha256, md5: as for any file.
    """

    url: str
    path: str = ""
    mirrors: tuple[str, ...] = ()


class HttpSource(Model):
    """Files at plain http(s) addresses.

    Attributes:
        files: every file; addresses are not followed to others.
    """

    kind: Literal["http"]
    files: tuple[HttpFile, ...] = Field(min_length=1)


class S3Source(Model):
    """Objects of an S3 service; credentials are found as boto3 finds them (environment, profile, role).

    Attributes:
        path: `s3://bucket/prefix/`, and everything below it is taken; or the key of one object.
        endpoint: address of a service other than AWS.
        region: the bucket's, where neither AWS nor the profile says it.
        anonymous: send no credentials; for public buckets.
        include, exclude: globs over the keys below the prefix.
        files_from: a text file that names the objects, one `s3://` address a line, in place of globs.
        in_place: parquet is read where it lies, and never copied; for records alone, not for images.
    """

    kind: Literal["s3"]
    path: str
    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    files_from: FilesFrom = None
    in_place: bool = Field(default=False, exclude_if=lambda is_so: not is_so)

    @model_validator(mode="after")
    def _addresses_are_whole(self) -> S3Source:
        _check_files_from(self.files_from, self.include, self.exclude)
        if not re.match(r"s3://[A-Za-z0-9][A-Za-z0-9._-]*(/|$)", self.path):
            raise ValueError(f"path {self.path!r}: write s3://bucket/prefix/")
        if self.endpoint is not None and not re.match(r"https?://[^/]", self.endpoint):
            raise ValueError(f"endpoint {self.endpoint!r}: write a whole address, https://host")
        return self


class GoogleDriveFile(File):
    """One file on Google Drive.

    Attributes:
        id: its id, or any address of it on Drive.
        path: its path below `raw/<dataset>/`; Drive is not asked for its name.
        size_bytes, sha256, md5: as for any file.
    """

    id: Annotated[str, AfterValidator(partial(_drive_id, other="folder"))]


class GoogleDriveSource(Model):
    """Files on Google Drive that are shared with anyone who has the link.

    Attributes:
        folder: id or address of a folder; it and its folders are listed, by Drive's API if GOOGLE_API_KEY is set,
            else from the page that Drive shows to everyone.
        files: files by id; they go before those of the folder that have their id or path.
        include, exclude: globs over the paths below the folder.
        endpoint: address of a service that answers as Drive does.
    """

    kind: Literal["google-drive"]
    folder: Annotated[str, AfterValidator(partial(_drive_id, other="file"))] | None = None
    files: tuple[GoogleDriveFile, ...] = ()
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    endpoint: str = Field(default=GOOGLE_DRIVE, pattern=r"^https?://[^/]")

    @model_validator(mode="after")
    def _names_something(self) -> GoogleDriveSource:
        if self.folder is None and not self.files:
            raise ValueError("name a `folder`, or `files` by their ids, or both")
        return self


class LocalSource(Model):
    """A file or folder on this machine.

    Attributes:
        path: the file or folder; a relative one is taken from the workspace.
        include: globs over the folder's files.
        copied: (`copy` in YAML) copy the files into `raw/`; by default they are linked.
        files_from: a text file that names the files, one a line, in place of globs.
    """

    kind: Literal["local"]
    path: str
    include: tuple[str, ...] = ("*",)
    copied: bool = Field(default=False, alias="copy")  # pydantic's models have a method `copy`
    files_from: FilesFrom = None

    @model_validator(mode="after")
    def _one_way_to_name_files(self) -> LocalSource:
        _check_files_from(self.files_from, self.include)
        return self


class LinksTable(Model):
    """A table of links that a publisher hands to one person: csv or tab-separated, with a header line.

    Attributes:
        file: glob for the table's own name below `raw/<dataset>/`.
        name: the column of file names.
        url: the column of addresses.
    """

    file: str
    name: str = "file_name"
    url: str = "cdn_link"


class ManualSource(Model):
    """Files that only a person can get (a form, a licence click).

    Attributes:
        instructions: how to get them, step by step.
        include: globs over what was put into `raw/<dataset>/`; with `links`, over the names in the table.
        files: files that have to be there, and what is known of their bytes.
        links: what the person gets is a table of links, and `prep` brings the files.
    """

    kind: Literal["manual"]
    instructions: str
    include: tuple[str, ...] = ("*",)
    files: tuple[File, ...] = ()
    links: LinksTable | None = None


Source = Annotated[
    HuggingFaceSource | HttpSource | S3Source | GoogleDriveSource | LocalSource | ManualSource,
    Field(discriminator="kind"),
]


class Expected(Model):
    """What the publisher says the dataset holds: another number of parts is reported; the rest is for planning."""

    parts: int | None = None
    records: int | None = None
    size_bytes: int | None = None


class Encode(Model):
    """How images are stored where it is not as they came; what is so already keeps its bytes.

    Attributes:
        max_side: longest side in pixels; a larger image is made smaller, none is ever enlarged.
        format: by default an image keeps its own; what is neither JPEG, PNG nor WebP becomes JPEG.
        quality: 1 to 100, of what is encoded anew; 95 by default.
    """

    max_side: int | None = Field(default=None, ge=16)
    format: Literal["jpeg", "webp"] | None = None
    quality: int | None = Field(default=None, ge=1, le=100)

    def over(self, weaker: Encode) -> Encode:
        """This, and where something is left out, the word of `weaker`."""
        return Encode(**{**weaker.model_dump(exclude_none=True), **self.model_dump(exclude_none=True)})


class UrlImages(Model):
    """Images behind addresses: the samples' `url` column.

    Attributes:
        encode: what the trainer needs of all of them.
    """

    kind: Literal["url"]
    encode: Encode = Encode()


class ArchiveImages(Model):
    """Images inside tar or zip parts, compressed or not, each one archive or cut by bytes into `.part001`, `.part002`.

    Attributes:
        parts: glob over the parts' paths.
        key: names an image by its `member` path, by its file `name` alone, or by `part-member`: the part's stem, a
            slash and the member without its extension (for WebDataset shards whose member names repeat).
        encode: what the trainer needs of all of them.
    """

    kind: Literal["archive"]
    parts: str
    key: Literal["member", "name", "part-member"] = "member"
    encode: Encode = Encode()


class ParquetImages(Model):
    """Images inside parquet parts: a column of bytes, of `{bytes, path}`, or of lists of either.

    Attributes:
        parts: glob over the parts' paths.
        column: where the bytes are.
        key: the column that names an image; by default it is the part's stem, a slash and the row's number from 0.
            Images of a list are told apart by a slash and their place in it, from 0.
        encode: what the trainer needs of all of them.
    """

    kind: Literal["parquet"]
    parts: str
    column: str = "image"
    key: str | None = None
    encode: Encode = Encode()


class FolderImages(Model):
    """Image files that are there already, below a folder on this machine; they are indexed where they are.

    Attributes:
        path: the folder; a relative one is taken from the workspace.
        key: names an image by its path below the folder (`member`), by its file `name` alone, or by `part-member`:
            the path below the folder without its extension.
        encode: what the trainer needs of all of them; what has to be encoded anew is stored as a copy.
    """

    kind: Literal["folder"]
    path: str = Field(min_length=1)
    key: Literal["member", "name", "part-member"] = "member"
    encode: Encode = Encode()


class GivenImages(Model):
    """Images that the samples already point at: absolute paths, or paths beside the data file."""

    kind: Literal["given"]


Images = Annotated[UrlImages | ArchiveImages | ParquetImages | FolderImages | GivenImages, Field(discriminator="kind")]


class Records(Model):
    """How records come out of a dataset's parts.

    Attributes:
        parts: glob over the parts' paths; each matching part becomes one shard.
        format: how a part is read: `json` is a list, or objects one after the other, on lines or not; `function` is
            for a dataset of its own shape.
        fields: with format `json`, the keys of an object that are read, each as `text` (what is not text as the JSON
            it is) or as `json`; a missing key reads as null.
        function: with format `function`, `module.name` in `prep.datasets`.
        arguments: keyword arguments of that function.
        columns: canonical column -> the names publishers have used for it; case never matters. Columns not listed
            keep their own name.
        optional: canonical columns that may be missing; they read as null.
    """

    parts: str
    format: Literal["parquet", "csv", "json", "webdataset", "function"]
    fields: dict[str, Literal["text", "json"]] = {}
    function: str | None = None
    arguments: dict[str, Any] = {}
    columns: dict[str, tuple[str, ...]] = {}
    optional: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _function_goes_with_its_format(self) -> Records:
        if (self.format == "function") != (self.function is not None):
            raise ValueError("format: function and function: module.name go together")
        if self.arguments and self.function is None:
            raise ValueError("arguments are those of a function")
        if (self.format == "json") != bool(self.fields):
            raise ValueError("format: json and fields go together")
        names = [field.lower() for field in self.fields]
        for field in self.fields:
            if not field or field.lower() == DROP_REASON or names.count(field.lower()) > 1:
                raise ValueError(f"fields has {field!r}, which cannot be told from others; read it under another name")
        return self

    @property
    def gives_reasons(self) -> bool:
        """Whether reading the records already says of some why they cannot be used."""
        return self.format in ("json", "function")


class Rules(Model):
    """What `filter` applies; a rule left out does not run.

    Attributes:
        aes_cutoff: keep rows whose aesthetic score is strictly greater.
        min_size: keep rows whose height and width in pixels are both at least this.
        where: a DuckDB predicate over the sample's columns and the facts of its image; keep rows for which it is true.
        sample: keep so much of what passes every other rule: a percentage (`0.1%`), or a number of rows; the same rows
            on every machine, and those of a smaller sample among those of a larger one.
        seed: another number gives another sample; 0 by default.
        scorer: whose aesthetic scores count: those of one scorer alone, or the publisher's alone. By default the
            publisher's, and where it gives none computed ones, if both are of one scale.
    """

    aes_cutoff: float | None = Field(default=None, allow_inf_nan=False)
    min_size: int | None = Field(default=None, ge=0)
    where: Expression | None = None
    sample: Sample | None = None
    seed: int | None = Field(default=None, ge=0)
    scorer: AestheticScorer | None = None

    def over(self, weaker: Rules) -> Rules:
        """These rules, and where one is left out, the one of `weaker`."""
        return Rules(**{**weaker.model_dump(exclude_none=True), **self.model_dump(exclude_none=True)})


class Dedup(Model):
    """What `prep dedup` was asked; what is left out is as its default says.

    Attributes:
        by: what two rows have in common to be duplicates, any of it: the address, the caption, the image's bytes, or
            (nearly) its perceptual hash.
        distance: bits in which two perceptual hashes of 64 may differ; 4 by default.
        keep: which of several rows stays: of the highest score (the default), with the largest image, or the first.
        tables: where duplicates are removed; by default from all text-to-image tables of the recipe.
        against: tables, or parquet files, whose rows take others out and are never taken out themselves.
        within: with `against`, also remove what the tables have twice themselves; without it they always are.
    """

    by: tuple[Literal["url", "caption", "sha256", "phash"], ...] | None = None
    distance: int | None = Field(default=None, ge=0, le=MAX_DISTANCE)
    keep: Literal["score", "largest", "first"] | None = None
    tables: tuple[Name, ...] | None = None
    against: tuple[str, ...] | None = None
    within: bool | None = None

    def over(self, weaker: Dedup) -> Dedup:
        """This, and where something is left out, the word of `weaker`."""
        return Dedup(**{**weaker.model_dump(exclude_none=True), **self.model_dump(exclude_none=True)})


class Captions(Model):
    """Captions from another table, in the place of the table's own; rows that it has none for are dropped.

    Attributes:
        table: where they are: a table with captions.
        by: the column that is the same in both, such as `url`, or one of each table's `extra`.
    """

    table: Name
    by: str = URL


class Table(Model):
    """A named set of samples made from a dataset, all of one kind.

    Attributes:
        kind: a name in `prep.schema.KINDS`.
        records: where its records come from.
        images_from: the dataset whose images it shows; by default its own. Or how references begin -> the dataset that
            has these, its image key being the rest.
        image: SQL for the key of the sample's image, where images come out of archives (addresses and given paths need
            none); or, for samples of several images, column -> SQL for its key or list of keys.
        match: an image is found by its `exact` key; by its key, whatever its extension (`stem`); or (`suffix`) by as
            many of its path's last steps as agree with one image alone, where extensions need not agree either.
        select: the kind's columns, each an SQL expression over the records.
        extra: more columns kept for `where`; not written for the trainer.
        drop: reason -> SQL predicate; rows for which it is true are dropped with that reason.
        captions: another table whose captions are taken in the place of its own.
        scores: column of the publisher's scores -> their scale, `aesthetic-v1` or the like; one that is not named is
            of a scale that nobody knows.
        filter: rules that always suit this table; recipes and the command line go over them.
    """

    kind: str
    records: Records
    images_from: Name | dict[str, Name] | None = None
    image: Expression | dict[str, Expression] | None = None
    match: Literal["exact", "stem", "suffix"] = "exact"
    select: dict[str, Expression]
    extra: dict[str, Expression] = {}
    drop: dict[str, Expression] = {}
    captions: Captions | None = None
    scores: dict[str, str] = {}
    filter: Rules = Rules()

    @model_validator(mode="after")
    def _columns_exist(self) -> Table:
        kind = KINDS.get(self.kind)
        if kind is None:
            raise ValueError(f"kind {self.kind!r} is unknown{nearest(self.kind, KINDS)}")
        for column in self.select:
            if kind.column(column) is None and column != "url":
                raise ValueError(
                    f"select has {column!r}, which {self.kind} samples do not have"
                    f"{nearest(column, kind.column_names)}; columns for `where` alone go under `extra`"
                )
        self._check_names(kind)
        named = [column.name for column in kind.image_columns]
        for column in self.image if isinstance(self.image, dict) else ():
            if column not in named:
                raise ValueError(
                    f"image has {column!r}, no column of images of {self.kind} samples{nearest(column, named)}"
                )
        for column in self.scores:
            if column not in self.select:
                raise ValueError(f"scores has {column!r}, which select does not fill{nearest(column, self.select)}")
        if self.captions is not None and kind.column(CAPTION) is None:
            raise ValueError(f"{self.kind} samples have no captions that others could replace")
        if isinstance(self.images_from, dict) and self.records.function is not None:
            raise ValueError("images_from names several datasets, and a function's sizes come from one")
        if isinstance(self.image, str) and kind.image_path is None:
            raise ValueError(f"image has to say for each of {', '.join(named)} which images a record has")
        return self

    def _check_names(self, kind: Kind) -> None:
        """Raise ValueError for a column or reason that could not be told from another."""
        taken = {name.lower() for name in (*RESERVED, *kind.column_names)}  # DuckDB takes `A` and `a` for one column
        for column in self.extra:
            if column.lower() in taken:
                raise ValueError(f"extra has {column!r}, which samples have anyway; give it another name")
        if len({column.lower() for column in self.extra}) < len(self.extra):
            raise ValueError("extra has two columns that only capital letters tell apart; give one another name")
        for reason in self.drop:
            if reason in FILTER_REASONS or (reason.startswith("image_") and reason not in NO_STATUSES):
                raise ValueError(f"drop has {reason!r}, which `prep filter` says itself; give it another name")

    def image_datasets(self, own: str) -> dict[str, str]:
        """How references to its images begin -> the dataset that has them; `own` is the table's."""
        if isinstance(self.images_from, dict):
            return self.images_from
        return {"": self.images_from or own}

    @property
    def image_keys(self) -> dict[str, str]:
        """Column of images -> SQL for its key or keys."""
        if isinstance(self.image, str):
            return {self.shape.image_path or "": self.image}
        return self.image or {}

    @property
    def shape(self) -> Kind:
        """The table's kind, with its columns."""
        return KINDS[self.kind]


class Dataset(Model):
    """A published collection: where it is, where its images are, and the tables made from it.

    Attributes:
        name: like its file.
        title, homepage, license, notes: for people.
        gated: terms have to be accepted before its files can be had.
        source: where its files come from.
        mirrors: other sources of the same files, tried in order when `source` cannot give them.
        expected: what the publisher says there is.
        images: where its images are; None where it has none of its own.
        tables: the sets of samples made from it.
    """

    name: Name
    title: str = ""
    homepage: str = ""
    license: str = "unknown"
    gated: bool = False
    source: Source
    mirrors: tuple[Source, ...] = ()
    expected: Expected = Expected()
    images: Images | None = None
    tables: dict[Name, Table] = {}
    notes: str = ""

    @model_validator(mode="after")
    def _tables_name_their_images(self) -> Dataset:
        for name, table in self.tables.items():
            own = self.images if table.images_from is None else None
            path = table.shape.image_path
            is_needed = path is not None and not table.shape.may_lack_images
            if isinstance(own, GivenImages) and is_needed and path not in table.select:
                raise ValueError(f"table {name}: images are given, so select needs {path!r}")
            if isinstance(own, UrlImages) and path is None:
                raise ValueError(f"table {name}: images of {table.kind} samples cannot be behind addresses")
            if not isinstance(own, GivenImages | UrlImages) and table.image is None:
                raise ValueError(f"table {name}: `image` has to say which image a record belongs to")
        return self


class Entry(Model):
    """One item of a recipe: a table, how much of it, and its place in the mixture.

    Attributes:
        sampling: `all`, `first:N`, `end:N`, `random:N`, `dup:N`; N a whole number or a whole percentage.
        group: the batching group whose weight it shares.
        arguments: keyword arguments of the preprocess function.
        not_public: why nobody but the authors has its data. The entry is passed over, until a table of that name is
            added (`prep add --name`).
        note: how it differs from the published mixture's.
    """

    table: Name
    name: str = ""
    not_public: str = ""
    note: str = ""
    sampling: str = Field(default="all", pattern=r"^(all|full|(first|end|random):\d+%?|dup:\d+)$")
    group: str | None = None
    arguments: dict[str, Any] = {}
    aes_cutoff: float | None = Field(default=None, allow_inf_nan=False)
    min_size: int | None = Field(default=None, ge=0)
    where: Expression | None = None
    sample: Sample | None = None
    seed: int | None = Field(default=None, ge=0)
    scorer: AestheticScorer | None = None

    @property
    def label(self) -> str:
        """Its name in the training YAML."""
        return self.name or self.table

    @property
    def rules(self) -> Rules:
        """The entry's own filter rules."""
        return Rules(**{name: getattr(self, name) for name in Rules.model_fields})


class Recipe(Model):
    """A mixture: chosen tables, how much of each, weights."""

    name: Name
    title: str = ""
    trainer: Literal["lavida-o", "convllava"] = "lavida-o"
    entries: tuple[Entry, ...] = ()
    weights: dict[str, float] = {}
    batch_sizes: dict[str, float] = {}
    notes: str = ""

    @model_validator(mode="after")
    def _one_set_of_rules_per_table(self) -> Recipe:
        seen: dict[str, Rules] = {}
        for entry in self.entries:
            if seen.setdefault(entry.table, entry.rules) != entry.rules:
                raise ValueError(
                    f"entries of table {entry.table!r} have different filter rules; "
                    "a table is filtered once, so give them the same"
                )
        return self


class Fetch(Model):
    """How images are fetched from addresses.

    Attributes:
        connections: at once in all, shared out between the workers.
        per_host: at once to one host, shared out between the workers.
        seconds: for one attempt at one image, from connecting to its last byte; a name has at most ten besides.
        bytes_per_second: an image that comes more slowly for ten seconds is given up.
        attempts: at one image, where a failure may pass.
        max_bytes: of one image.
        min_side: in pixels; smaller images (spacers, counters) are not stored.
        opt_out: honour X-Robots-Tag.
    """

    connections: int = Field(default=256, ge=1, le=10_000)
    per_host: int = Field(default=8, ge=1)
    seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    bytes_per_second: int = Field(default=1_000, ge=0)
    attempts: int = Field(default=3, ge=1, le=20)
    max_bytes: int = Field(default=100 << 20, ge=1, le=100 << 20)
    min_side: int = Field(default=16, ge=1)
    opt_out: bool = True


class WorkspaceConfig(Model):
    """prep.yaml: what holds for one workspace.

    Attributes:
        recipe: path of the recipe, relative to prep.yaml.
        images: folder (relative to prep.yaml) or `s3://bucket/prefix` for image bytes.
        s3_endpoint: endpoint of an S3 service other than AWS.
        workers: processes at work at once; by default one per core.
        memory: that all workers of a query may have together, `8GB`; by default half of what is free.
        allow_private_hosts: fetch images from private and loopback addresses too.
        fetch: how images are fetched from addresses.
        sources: dataset -> a source to use instead of the catalogue's.
        image_folders: dataset -> a folder that has its images already, instead of its archives.
    """

    recipe: str = "recipe.yaml"
    images: str = "images"
    s3_endpoint: str | None = None
    workers: int | None = Field(default=None, ge=1)
    memory: Annotated[str, BeforeValidator(_as_text)] | None = None
    allow_private_hosts: bool = False
    fetch: Fetch = Fetch()
    sources: dict[str, Source] = {}
    image_folders: dict[str, str] = {}

    @field_validator("memory")
    @classmethod
    def _memory_is_an_amount(cls, memory: str | None) -> str | None:
        if memory is not None:
            memory_bytes(memory)
        return memory

    @model_validator(mode="after")
    def _images_have_a_place(self) -> WorkspaceConfig:
        is_address = "://" in self.images or re.match(r"(?i)s3:", self.images)
        if is_address and not re.match(r"s3://[^/]", self.images):
            raise ValueError(f"images {self.images!r}: write s3://bucket/prefix, or a folder")
        if self.images.startswith("~"):
            raise ValueError(f"images {self.images!r}: write the whole path, ~ is not understood here")
        if PurePath(self.images).parts in ((), *((folder,) for folder in STAGE_FOLDERS)):
            raise ValueError(f"images {self.images!r}: name a folder of their own")
        return self


def memory_bytes(amount: str) -> int:
    """Bytes that an amount such as `8GB` or `512MiB` says.

    Raises:
        ValueError: it is none, or less than a query needs.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", amount.strip().lower())
    if found is None or (found[3] and not found[2]):
        raise ValueError(f"{amount!r} is no amount of memory; write 8GB, or 512MB")
    unit = (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ")
    value = float(found[1]) * unit
    if value > MOST_MEMORY:
        raise ValueError(f"{amount!r} is more than any machine has; left out, it is half of what is free")
    if value < LEAST_MEMORY:
        raise ValueError(f"{amount!r} is less than a query needs; at least 100MB, and 1GB is better")
    return int(value)


def nearest(word: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice nearest to `word`, or an empty string."""
    close = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def load(model: type[ModelT], path: Path) -> ModelT:
    """Read `path` as `model`.

    Raises:
        ConfigError: with file and line, for anything the model does not allow.
    """
    parsed = read_yaml(path)
    if not isinstance(parsed.data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values", "See docs/data-format.md.")
    try:
        return model.model_validate(parsed.data)
    except ValidationError as error:
        raise _config_error(model, parsed, error) from error


def _config_error(model: type[BaseModel], parsed: YamlFile, error: ValidationError) -> ConfigError:
    problems = []
    for problem in error.errors():
        location = tuple(step for step in problem["loc"] if step != "[key]")
        where = f"{parsed.path}:{parsed.line_of(location)}"
        key = ".".join(str(step) for step in location)
        if problem["type"] == "extra_forbidden":
            hint = nearest(str(location[-1]), _field_names(model) - {location[-1]})  # known, but elsewhere
            problems.append(f"{where}: unknown key {str(location[-1])!r}{hint}")
        elif problem["type"] == "missing":
            problems.append(f"{where}: {key!r} is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {key + ': ' if key else ''}{message}")
    return ConfigError("\n".join(problems), "Mend the file; docs/data-format.md lists every key.")


def _field_names(model: type[BaseModel]) -> set[str]:
    """Every key that `model` or a model inside it knows: close enough to suggest from."""
    names: set[str] = set()
    for definition in model.model_json_schema().get("$defs", {}).values():
        names |= set(definition.get("properties", {}))
    return names | set(model.model_fields)


@cache
def packaged_configs() -> Path:
    """The folder of datasets and recipes that come with `prep`."""
    installed = Path(str(files("prep"))) / "configs"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "configs"


class Catalogue:
    """The datasets and recipes that can be named: those of a workspace, then those that come with `prep`.

    Args:
        workspace: its `datasets/` folder goes first, so that a workspace can add datasets or replace one.
    """

    def __init__(self, workspace: Path | None = None) -> None:
        configs = packaged_configs()
        self._dataset_folders = [configs / "datasets"]
        if workspace is not None:
            self._dataset_folders.insert(0, workspace / "datasets")
        self._recipe_folder = configs / "recipes"
        self._loaded: dict[str, Dataset] = {}

    def dataset_names(self) -> list[str]:
        """Names of all datasets, sorted."""
        return sorted({path.stem for folder in self._dataset_folders for path in folder.glob("*.yaml")})

    def recipe_names(self) -> list[str]:
        """Names of all recipes that come with `prep`, sorted."""
        return sorted(path.stem for path in self._recipe_folder.glob("*.yaml"))

    def dataset(self, name: str) -> Dataset:
        """The dataset called `name`.

        Raises:
            ConfigError: no such dataset (the nearest name is suggested), or its YAML is wrong.
        """
        if name not in self._loaded:
            path = self.dataset_path(name)
            dataset = load(Dataset, path)
            if dataset.name != name:
                raise ConfigError(
                    f"{path}: the dataset is named {dataset.name!r}, its file {name!r}",
                    "Give both the same name.",
                )
            self._loaded[name] = dataset
        return self._loaded[name]

    def dataset_path(self, name: str) -> Path:
        """The YAML of the dataset called `name`.

        Raises:
            ConfigError: no such dataset (the nearest name is suggested).
        """
        path = next((p for folder in self._dataset_folders if (p := folder / f"{name}.yaml").is_file()), None)
        if path is None or "/" in name:
            raise ConfigError(
                f"no dataset is called {name!r}{nearest(name, self.dataset_names())}",
                "`prep datasets` lists them all.",
            )
        return path

    def datasets(self) -> list[Dataset]:
        """All datasets, by name."""
        return [self.dataset(name) for name in self.dataset_names()]

    def has_table(self, table: str) -> bool:
        """Whether a dataset has a table called `table`.

        Raises:
            ConfigError: the YAML of a dataset is wrong.
        """
        return any(table in dataset.tables for dataset in self.datasets())

    def dataset_of_table(self, table: str) -> Dataset:
        """The dataset that `table` is made from.

        Raises:
            ConfigError: no dataset has such a table, or two have.
        """
        tables: dict[str, Dataset] = {}
        for dataset in self.datasets():
            for name in dataset.tables:
                if tables.setdefault(name, dataset) is not dataset:
                    raise ConfigError(
                        f"datasets {tables[name].name!r} and {dataset.name!r} both have a table {name!r}",
                        "Give one of the tables another name.",
                    )
        if table not in tables:
            raise ConfigError(
                f"no dataset has a table {table!r}{nearest(table, tables)}",
                "`prep datasets` lists datasets and their tables.",
            )
        return tables[table]

    def recipe_path(self, name: str) -> Path:
        """The file of the recipe called `name`.

        Raises:
            ConfigError: no such recipe.
        """
        path = self._recipe_folder / f"{name}.yaml"
        if "/" in name or not path.is_file():
            names = self.recipe_names()
            raise ConfigError(
                f"no recipe is called {name!r}{nearest(name, names)}",
                f"There are: {', '.join(names)}. `prep init` without a name starts an empty one.",
            )
        return path
