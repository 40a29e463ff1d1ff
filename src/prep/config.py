"""Datasets, recipes and prep.yaml as typed, frozen models.

What a YAML file may say is exactly what these models hold: an unknown key, a repeated key or a wrong type is a
ConfigError that names the file, the line and, for a misspelt key, the nearest right one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prep.errors import ConfigError
from prep.schema import KINDS, RESERVED, Kind
from prep.yaml_file import YamlFile, read_yaml

# Folders of a workspace that hold what stages write.
STAGE_FOLDERS = ("raw", "index", "scores", "normalized", "filtered", "dropped", "training", "datasets")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
ModelT = TypeVar("ModelT", bound=BaseModel)


class Model(BaseModel):
    """Base of all configuration: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HuggingFaceSource(Model):
    """A repository of datasets on the Hugging Face hub; `include` and `exclude` are globs over its files."""

    kind: Literal["huggingface"]
    repo: str
    revision: str = "main"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


class HttpFile(Model):
    """One file at an address, with whatever the publisher says of its bytes."""

    url: str
    path: str = ""
    size_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None


class HttpSource(Model):
    """Files at plain http(s) addresses."""

    kind: Literal["http"]
    files: tuple[HttpFile, ...] = Field(min_length=1)


class LocalSource(Model):
    """A file or folder on this machine; its files are linked into `raw/`, not copied."""

    kind: Literal["local"]
    path: str
    include: tuple[str, ...] = ("*",)


class ManualSource(Model):
    """Files that only a person can get (a form, a licence click); `instructions` say how."""

    kind: Literal["manual"]
    instructions: str
    include: tuple[str, ...] = ("*",)


Source = Annotated[HuggingFaceSource | HttpSource | LocalSource | ManualSource, Field(discriminator="kind")]


class Expected(Model):
    """What the publisher says the dataset holds: another number of parts is reported; records are for planning."""

    parts: int | None = None
    records: int | None = None


class UrlImages(Model):
    """Images behind addresses: the samples' `url` column."""

    kind: Literal["url"]


class ArchiveImages(Model):
    """Images inside tar or zip parts.

    `key` names an image by its `member` path, by its file `name` alone, or by `part-member`: the part's stem, a
    slash and the member without its extension (for WebDataset shards whose member names repeat).
    """

    kind: Literal["archive"]
    parts: str
    key: Literal["member", "name", "part-member"] = "member"


class GivenImages(Model):
    """Images that the samples already point at: absolute paths, or paths beside the data file."""

    kind: Literal["given"]


Images = Annotated[UrlImages | ArchiveImages | GivenImages, Field(discriminator="kind")]


class Records(Model):
    """How records come out of a dataset's parts.

    Attributes:
        parts: glob over the parts' paths; each matching part becomes one shard.
        format: a reader in `prep.readers`, or `function` for a dataset of its own shape.
        function: with format `function`, `module.name` in `prep.datasets`.
        columns: canonical column -> the names publishers have used for it; case never matters. Columns not listed
            keep their own name.
        optional: canonical columns that may be missing; they read as null.
    """

    parts: str
    format: Literal["parquet", "csv", "webdataset", "function"]
    function: str | None = None
    columns: dict[str, tuple[str, ...]] = {}
    optional: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _function_goes_with_its_format(self) -> Records:
        if (self.format == "function") != (self.function is not None):
            raise ValueError("format: function and function: module.name go together")
        return self


class Rules(Model):
    """What `filter` applies; a rule left out does not run.

    Attributes:
        aes_cutoff: keep rows whose aesthetic score is strictly greater.
        min_size: keep rows whose height and width in pixels are both at least this.
        where: a DuckDB predicate over the sample's columns; keep rows for which it is true.
    """

    aes_cutoff: float | None = Field(default=None, allow_inf_nan=False)
    min_size: int | None = Field(default=None, ge=0)
    where: str | None = Field(default=None, pattern=r"\S")

    def over(self, weaker: Rules) -> Rules:
        """These rules, and where one is left out, the one of `weaker`."""
        return Rules(**{**weaker.model_dump(exclude_none=True), **self.model_dump(exclude_none=True)})


class Table(Model):
    """A named set of samples made from a dataset, all of one kind.

    Attributes:
        kind: a name in `prep.schema.KINDS`.
        records: where its records come from.
        images_from: the dataset whose image index it joins; by default its own.
        image: SQL for the image key, where images come out of archives; addresses and given paths need none.
        select: the kind's columns, each an SQL expression over the records.
        extra: more columns kept for `where`; not written for the trainer.
        drop: reason -> SQL predicate; rows for which it is true are dropped with that reason.
        filter: rules that always suit this table; recipes and the command line go over them.
    """

    kind: str
    records: Records
    images_from: str | None = None
    image: str | None = None
    select: dict[str, str]
    extra: dict[str, str] = {}
    drop: dict[str, str] = {}
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
        for column in self.extra:
            if column in RESERVED or kind.column(column):
                raise ValueError(f"extra has {column!r}, which samples have anyway; give it another name")
        return self

    @property
    def shape(self) -> Kind:
        """The table's kind, with its columns."""
        return KINDS[self.kind]


class Dataset(Model):
    """A published collection: where it is, where its images are, and the tables made from it."""

    name: Name
    title: str = ""
    homepage: str = ""
    license: str = "unknown"
    gated: bool = False
    source: Source
    expected: Expected = Expected()
    images: Images | None = None
    tables: dict[Name, Table] = {}
    notes: str = ""

    @model_validator(mode="after")
    def _tables_name_their_images(self) -> Dataset:
        for name, table in self.tables.items():
            own = self.images if table.images_from is None else None
            path = table.shape.image_path
            if isinstance(own, GivenImages) and path not in table.select:
                raise ValueError(f"table {name}: images are given, so select needs {path!r}")
            if not isinstance(own, GivenImages | UrlImages) and table.image is None:
                raise ValueError(f"table {name}: `image` has to say which image a record belongs to")
        return self


class Entry(Model):
    """One item of a recipe: a table, how much of it, and its place in the mixture.

    Attributes:
        sampling: `all`, `first:N`, `end:N`, `random:N`, `dup:N`; N a whole number or a whole percentage.
        group: the batching group whose weight it shares.
        arguments: keyword arguments of the preprocess function.
    """

    table: Name
    name: str = ""
    sampling: str = Field(default="all", pattern=r"^(all|full|(first|end|random):\d+%?|dup:\d+)$")
    group: str | None = None
    arguments: dict[str, Any] = {}
    aes_cutoff: float | None = Field(default=None, allow_inf_nan=False)
    min_size: int | None = Field(default=None, ge=0)
    where: str | None = None

    @property
    def label(self) -> str:
        """Its name in the training YAML."""
        return self.name or self.table

    @property
    def rules(self) -> Rules:
        """The entry's own filter rules."""
        return Rules(aes_cutoff=self.aes_cutoff, min_size=self.min_size, where=self.where)


class Recipe(Model):
    """A mixture: chosen tables, how much of each, weights."""

    name: Name
    title: str = ""
    trainer: Literal["lavida-o"] = "lavida-o"
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


class WorkspaceConfig(Model):
    """prep.yaml: what holds for one workspace.

    Attributes:
        recipe: path of the recipe, relative to prep.yaml.
        images: folder (relative to prep.yaml) or `s3://bucket/prefix` for image bytes.
        s3_endpoint: endpoint of an S3 service other than AWS.
        workers: processes at work at once; by default one per core.
        allow_private_hosts: fetch images from private and loopback addresses too.
        sources: dataset -> a source to use instead of the catalogue's.
    """

    recipe: str = "recipe.yaml"
    images: str = "images"
    s3_endpoint: str | None = None
    workers: int | None = Field(default=None, ge=1)
    allow_private_hosts: bool = False
    sources: dict[str, Source] = {}

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
