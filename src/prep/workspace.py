"""A workspace: the folder of one recipe, and the only place that knows its folder and file names."""

from __future__ import annotations

import json
import keyword
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prep.config import (
    ArchiveImages,
    Catalogue,
    Dataset,
    Dedup,
    Encode,
    Entry,
    FolderImages,
    GivenImages,
    Images,
    LocalSource,
    Model,
    ParquetImages,
    Recipe,
    Rules,
    S3Source,
    Source,
    Table,
    UrlImages,
    WorkspaceConfig,
    load,
    memory_bytes,
    nearest,
)
from prep.engine import Share, default_workers, share
from prep.errors import ConfigError, UsageError, WorkspaceError
from prep.files import open_own, try_lock, write_text
from prep.lock_file import LOCK_VERSION, read_lock
from prep.manifest import Manifest, fingerprint, read_finished, read_manifest
from prep.yaml_file import parse_yaml

CONFIG_NAME = "prep.yaml"
RULES_NAME = "rules.yaml"
LOCK_NAME = "prep.lock"
OWN_FILES = ".prep-"  # how names of files begin by which a workspace knows who is at work, or what was done
_BUSY = ".prep-busy"
_RANK = ".prep-rank-"
MARK_TRIES, MARK_PAUSE_SECONDS = 10, 0.05

# What prep.lock says of a download that does not say what was asked for: the rest of a dataset's keys pin it.
_UNPINNED = frozenset(("asked", "from", "source", "missing", "parts", "size_bytes"))

_CONFIG_TEXT = """\
# One workspace of prep. Every key but `recipe` may be left out; docs/data-format.md describes them all.
recipe: recipe.yaml
images: {images}            # a folder, or s3://bucket/prefix
"""
_RULES_TEXT = """\
# Rules given to `prep filter` on the command line, kept so that later runs apply them too.
# They go over the recipe's. `prep filter --reset` forgets them; `prep images --as-published` what images are stored as;
# `prep dedup --reset` which duplicates are removed.
"""


class ImageRules(Model):
    """How images are stored, as the command line said: for all datasets, or for one."""

    all: Encode = Encode()
    datasets: dict[str, Encode] = {}


class RulesFile(Model):
    """rules.yaml: what was given on the command line.

    Rules for all tables or for one, how images are stored, and which duplicates are removed.
    """

    all: Rules = Rules()
    tables: dict[str, Rules] = {}
    images: ImageRules = ImageRules()
    dedup: Dedup | None = None

    def with_rules(self, rules: Rules, tables: Sequence[str], *, reset: bool = False) -> RulesFile:
        """These, with `rules` added for `tables`, or (where none is named) for all.

        Args:
            reset: forget first what was remembered for those.
        """
        if not tables:
            before = RulesFile() if reset else self
            return self.model_copy(update={"all": rules.over(before.all), "tables": before.tables})
        kept = {table: old for table, old in self.tables.items() if not (reset and table in tables)}
        if rules != Rules():
            kept |= {table: rules.over(kept.get(table, Rules())) for table in tables}
        return self.model_copy(update={"tables": kept})

    def with_dedup(self, asked: Dedup, *, reset: bool = False) -> RulesFile:
        """These, with what `prep dedup` is asked.

        Args:
            reset: forget first what it was asked before.
        """
        before = None if reset else self.dedup
        both = asked.over(before or Dedup())
        return self.model_copy(update={"dedup": None if both == Dedup() else both})

    def with_encode(self, encode: Encode, datasets: Sequence[str], *, reset: bool = False) -> RulesFile:
        """These, with `encode` for `datasets`, or (where none is named) for all.

        Args:
            reset: forget first what was remembered for those.
        """
        before = self.images
        if not datasets:
            everywhere = encode if reset else encode.over(before.all)
            images = ImageRules(all=everywhere, datasets={} if reset else before.datasets)
        else:
            kept = {name: old for name, old in before.datasets.items() if not (reset and name in datasets)}
            if encode != Encode():
                kept |= {name: encode.over(kept.get(name, Encode())) for name in datasets}
            images = ImageRules(all=before.all, datasets=kept)
        return self.model_copy(update={"images": images})


def name_of_samples(normalized: Manifest) -> str:
    """Fingerprint of a table's samples."""
    return fingerprint([shard.sha256 for shard in normalized.shards])


class Workspace:
    """One workspace, opened.

    Args:
        root: the folder that holds prep.yaml.

    Raises:
        ConfigError: prep.yaml says something impossible.
    """

    def __init__(self, root: Path) -> None:
        self._given: RulesFile | None = None
        self._has_turn = False
        self.is_held = False  # `prep run --locked`: prep.lock is obeyed and not written
        self.root = root.resolve()
        self.config = load(WorkspaceConfig, self.root / CONFIG_NAME)
        self.catalogue = Catalogue(self.root)
        for key in ("sources", "image_folders"):
            unknown = set(getattr(self.config, key)) - set(self.catalogue.dataset_names())
            if unknown:
                name = min(unknown)
                raise ConfigError(
                    f"{self.root / CONFIG_NAME}: {key} names {name!r}, which is no dataset"
                    f"{nearest(name, self.catalogue.dataset_names())}",
                    "`prep datasets` lists them all.",
                )
        self.given_rules()  # a mistake in rules.yaml is better told now than after a download

    @classmethod
    def find(cls, start: Path) -> Workspace:
        """The workspace that `start` lies in.

        Raises:
            WorkspaceError: neither `start` nor a folder above it has a prep.yaml.
        """
        start = start.resolve()
        for folder in (start, *start.parents):
            if (folder / CONFIG_NAME).is_file():
                return cls(folder)
        raise WorkspaceError(
            f"{start} is not in a workspace (no {CONFIG_NAME} here or above)",
            "`prep init RECIPE` makes one here; `prep -C FOLDER ...` works in another.",
        )

    @classmethod
    def create(cls, root: Path, recipe_text: str, images: str = "images") -> Workspace:
        """Make a workspace in `root` around a recipe's text.

        Raises:
            WorkspaceError: there is one already, or a recipe.yaml of the user's own.
            UsageError, ConfigError: images cannot go there, or the recipe is none; nothing is written.
        """
        config, recipe = root / CONFIG_NAME, root / "recipe.yaml"
        others = recipe.exists() and recipe.read_bytes() != recipe_text.encode()  # the same: an `init` that was killed
        if config.exists() or others:
            raise WorkspaceError(
                f"{config if config.exists() else recipe} is there already",
                "Work in it as it is, or start in another folder.",
            )
        config_text = _CONFIG_TEXT.format(images=json.dumps(images, ensure_ascii=False))  # JSON is YAML
        try:
            WorkspaceConfig.model_validate(parse_yaml(config_text, config).data)
            Recipe.model_validate(parse_yaml(recipe_text, recipe).data)
        except ValidationError as error:
            first = error.errors()[0]
            message = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
            raise UsageError(
                f"no workspace can be made in {root}: {message}", "Mend that; nothing was written."
            ) from error
        write_text(recipe, recipe_text, follow_links=True)
        write_text(config, config_text, follow_links=True)
        return cls(root)

    # -- what is in it ---------------------------------------------------------------------------------------

    @property
    def recipe_path(self) -> Path:
        """The recipe's file."""
        return self.root / self.config.recipe

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of this workspace."""
        return load(Recipe, self.recipe_path)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Entries of the recipe that can be made: all but those of `not_public`."""
        return tuple(entry for entry in self.recipe.entries if entry not in self.not_public)

    @cached_property
    def not_public(self) -> tuple[Entry, ...]:
        """Entries passed over: their data is not public, and nobody has added a table of their name."""
        return tuple(
            entry for entry in self.recipe.entries if entry.not_public and not self.catalogue.has_table(entry.table)
        )

    @cached_property
    def table_names(self) -> tuple[str, ...]:
        """Tables of the entries that can be made, each once, in the recipe's order.

        Raises:
            ConfigError: two of them would write to one place.
        """
        names = tuple(dict.fromkeys(entry.table for entry in self.entries))
        for name in names:
            if self.text_only(name).stem in names:
                raise ConfigError(
                    f"{self.recipe_path}: rows of {name!r} without an image go where table {name + '-text'!r} goes",
                    "Give one of the two another name.",
                )
        return names

    @cached_property
    def normalized_names(self) -> tuple[str, ...]:
        """Those tables, and the tables whose captions they take."""
        names: dict[str, None] = {}
        for table in self.table_names:
            if captions := self.table(table)[1].captions:
                names[captions.table] = None
            names[table] = None
        return tuple(names)

    @cached_property
    def datasets(self) -> tuple[Dataset, ...]:
        """Datasets of those tables, those whose images others use first."""
        found: dict[str, Dataset] = {}
        for table in self.normalized_names:
            dataset = self.catalogue.dataset_of_table(table)
            if table in self.table_names:
                for name in dataset.tables[table].image_datasets(dataset.name).values():
                    found.setdefault(name, self.catalogue.dataset(name))
            found.setdefault(dataset.name, dataset)
        return tuple(found.values())

    def needs_images(self, dataset: Dataset) -> bool:
        """Whether a table of the recipe shows the dataset's images; some datasets give captions alone."""
        tables = (self.table(name) for name in self.table_names)
        return any(dataset.name in table.image_datasets(own.name).values() for own, table in tables)

    def select_datasets(self, names: Sequence[str]) -> tuple[Dataset, ...]:
        """The datasets that `names` (datasets or tables) mean; all of the recipe for no names.

        Raises:
            UsageError: a name that is neither, or a recipe without entries.
        """
        self._need_entries()
        by_name = {dataset.name: dataset for dataset in self.datasets}
        by_table = {table: self.catalogue.dataset_of_table(table) for table in self.normalized_names}
        chosen = {}
        for name in names or by_name:
            dataset = by_name.get(name) or by_table.get(name)
            if dataset is None:
                raise self._unknown(name, [*by_name, *by_table])
            chosen[dataset.name] = dataset
        return tuple(chosen.values())

    def select_tables(self, names: Sequence[str], *, to_normalize: bool = False) -> tuple[str, ...]:
        """The tables that `names` (tables or datasets) mean; all of the recipe for no names.

        Args:
            to_normalize: tables that only give captions are among them.

        Raises:
            UsageError: a name that is neither, or a recipe without entries.
        """
        self._need_entries()
        tables = self.normalized_names if to_normalize else self.table_names
        by_dataset = {dataset.name: dataset for dataset in self.datasets}
        chosen: dict[str, None] = {}
        for name in names or tables:
            if name in tables:
                chosen[name] = None
            elif name in by_dataset:
                chosen |= dict.fromkeys(t for t in by_dataset[name].tables if t in tables)
            else:
                raise self._unknown(name, [*by_dataset, *tables])
        return tuple(chosen)

    def table(self, name: str) -> tuple[Dataset, Table]:
        """The table called `name` and its dataset."""
        dataset = self.catalogue.dataset_of_table(name)
        return dataset, dataset.tables[name]

    def source(self, dataset: Dataset) -> Source:
        """Where the dataset's files come from here: prep.yaml's word goes before the catalogue's.

        A local path that is relative is taken from the workspace, wherever a command is run.
        """
        return self.sources(dataset)[0]

    def sources(self, dataset: Dataset) -> tuple[Source, ...]:
        """The same, and then its mirrors; prep.yaml's word replaces them all.

        Raises:
            ConfigError: a local path begins with the home of a user who is none; or parts are to be read in place,
                and cannot be.
        """
        given = self.config.sources.get(dataset.name)
        sources = (dataset.source, *dataset.mirrors) if given is None else (given,)
        if any(isinstance(source, S3Source) and source.in_place for source in sources):
            self._check_in_place(dataset, sources)
        return tuple(self._with_whole_paths(source, dataset.name) for source in sources)

    def _check_in_place(self, dataset: Dataset, sources: Sequence[Source]) -> None:
        """Make sure that nothing but records of parquet is wanted of parts that stay on S3."""
        others = sorted({table.records.format for table in dataset.tables.values()} - {"parquet"})
        wrong = ""
        if len(sources) > 1:
            wrong = "it has mirrors, and what is read in place has one place"
        elif isinstance(dataset.images, ArchiveImages | ParquetImages):
            wrong = "its images are in its parts"
        elif others or not dataset.tables:
            wrong = f"its records are {', '.join(others) or 'none'}, and only parquet can be"
        if wrong:
            raise ConfigError(
                f"{dataset.name} cannot be read in place: {wrong}",
                "Remove `in_place: true` from its source; its parts are then downloaded.",
            )

    def _with_whole_paths(self, source: Source, dataset: str) -> Source:
        """A source whose paths of this machine start from the workspace where they are relative."""
        keys = {"path": isinstance(source, LocalSource), "files_from": isinstance(source, LocalSource | S3Source)}
        given = {key: getattr(source, key) for key, is_path in keys.items() if is_path}
        return source.model_copy(
            update={key: str(self.path(path, dataset)) for key, path in given.items() if path is not None}
        )

    def path(self, path: str, dataset: str) -> Path:
        """A path that a configuration names for a dataset, from the workspace on.

        Raises:
            ConfigError: it begins with the home of a user who is none.
        """
        try:
            return self.root / Path(path).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"{dataset}: there is no home folder for {path}", "Write the whole path.") from error

    def images(self, dataset: Dataset) -> Images | None:
        """Where the dataset's images are here: prep.yaml's word goes before the catalogue's.

        Raises:
            ConfigError: images behind addresses, or none at all, cannot be in a folder.
        """
        kind = dataset.images
        folder = self.config.image_folders.get(dataset.name)
        if folder is None:
            return kind
        if kind is None or isinstance(kind, UrlImages | GivenImages):
            raise ConfigError(
                f"{self.root / CONFIG_NAME}: image_folders names {dataset.name!r}, whose images are in no archives",
                "A table of your own with a column of paths is for `prep add`.",
            )
        key = "member" if isinstance(kind, ParquetImages) else kind.key
        return FolderImages(kind="folder", path=folder, key=key, encode=kind.encode)

    def check_adopted(self, dataset: Dataset, folder: Path) -> None:
        """Make sure that a folder of a person's own images and what is written here do not lie in each other.

        Raises:
            ConfigError: they do.
        """
        here, store = folder.resolve(), Path(self.image_root, dataset.name).resolve()
        ours = [self.root] if self.image_root.startswith("s3://") else [self.root, store]
        if any(here == place or here in place.parents for place in ours) or store == here or store in here.parents:
            raise ConfigError(
                f"{dataset.name}: images cannot be adopted from {folder}: what is written here lies in or around it",
                "Name a folder outside the workspace's image store that does not hold the workspace.",
            )

    def adopted_parts(self, dataset: Dataset) -> str | None:
        """Glob of the dataset's parts that need not be here, because a folder has their images already."""
        kind = dataset.images
        is_adopted = isinstance(self.images(dataset), FolderImages)
        return kind.parts if is_adopted and isinstance(kind, ArchiveImages | ParquetImages) else None

    def encode(self, dataset: Dataset) -> Encode:
        """What the dataset's stored images have to be: the command line's word over the dataset's."""
        given = self.given_rules().images
        own = Encode() if dataset.images is None or isinstance(dataset.images, GivenImages) else dataset.images.encode
        return given.datasets.get(dataset.name, Encode()).over(given.all).over(own)

    @property
    def workers(self) -> int:
        """Tasks at work at once."""
        return self.config.workers or default_workers()

    @property
    def memory(self) -> int | None:
        """Bytes that all workers of a query may have together; None for half of what is free."""
        return None if self.config.memory is None else memory_bytes(self.config.memory)

    # -- rules -------------------------------------------------------------------------------------------------

    def rules(self, table: str, given: RulesFile | None = None) -> Rules:
        """The filter rules of `table`: the dataset's, under the recipe's, under the command line's.

        Args:
            given: the command line's; by default those remembered.
        """
        given = self.given_rules() if given is None else given
        _, definition = self.table(table)
        entry = next((entry.rules for entry in self.entries if entry.table == table), Rules())
        return given.tables.get(table, Rules()).over(given.all).over(entry).over(definition.filter)

    def with_given(self, given: RulesFile) -> Workspace:
        """The same workspace, as if `given` were what the command line has said; nothing is written."""
        other = Workspace(self.root)
        other._given = given
        return other

    def given_rules(self) -> RulesFile:
        """Rules from the command line that are remembered."""
        if self._given is not None:
            return self._given
        path = self.root / RULES_NAME
        return load(RulesFile, path) if path.exists() else RulesFile()

    def remember_rules(self, given: RulesFile) -> None:
        """Apply `given` in later runs too."""
        data = given.model_dump(exclude_none=True, exclude_defaults=True)
        if data:
            write_text(self.root / RULES_NAME, _RULES_TEXT + yaml.safe_dump(data, allow_unicode=True))
        else:
            (self.root / RULES_NAME).unlink(missing_ok=True)

    # -- where things are --------------------------------------------------------------------------------------

    def raw(self, dataset: str) -> Path:
        """Folder of a dataset's parts."""
        return self.root / "raw" / dataset

    @property
    def image_root(self) -> str:
        """Absolute folder, or `s3://bucket/prefix`, that holds every dataset's images."""
        images = self.config.images
        return images.rstrip("/") if images.startswith("s3://") else str(self.root / images)

    def index(self, dataset: str) -> Path:
        """Folder of a dataset's image index."""
        return self.root / "index" / f"{dataset}.parquet"

    def scores(self, scorer: str, table: str) -> Path:
        """Folder of a table's scores by one scorer."""
        return self.root / "scores" / scorer / f"{table}.parquet"

    def normalized(self, table: str) -> Path:
        """Folder of a table's samples."""
        return self.root / "normalized" / f"{table}.parquet"

    def sampled(self, table: str) -> Path:
        """Folder of the hashes from which a number of a table's samples is drawn."""
        return self.root / "sampled" / f"{table}.parquet"

    def phash(self, dataset: str) -> Path:
        """Folder of the perceptual hashes of a dataset's images."""
        return self.root / "phash" / f"{dataset}.parquet"

    def dedup(self, table: str) -> Path:
        """Folder of what is known of a table's duplicates."""
        return self.root / "dedup" / f"{table}.parquet"

    @property
    def dedup_work(self) -> Path:
        """Folder of what `prep dedup` has sorted so far; gone when it is through."""
        return self.root / "dedup" / ".work"

    @property
    def dedup_files(self) -> Path:
        """Hashes of the files that `prep dedup --against` named, so that they are read once."""
        return self.root / "dedup" / ".files.json"

    def filtered(self, table: str) -> Path:
        """Folder of a table's kept samples."""
        return self.root / "filtered" / f"{table}.parquet"

    def read_filtered(self, table: str) -> Manifest | None:
        """What `filter` made of the samples that are there; None too where they were normalized anew since.

        Dropped rows are read together with their samples: beside others they would show those.
        """
        filtered, samples = read_finished(self.filtered(table)), read_manifest(self.normalized(table))
        if filtered is None or samples is None:
            return None
        name = name_of_samples(samples)
        return filtered if filtered.facts.get("samples", name) == name else None

    def text_only(self, table: str) -> Path:
        """Folder of a table's kept samples without an image, of a kind that may have some."""
        return self.root / "filtered" / f"{table}-text.parquet"

    @property
    def known_rows(self) -> Path:
        """Fingerprints of the rows of filtered tables, so that `prep lock` reads them once."""
        return self.root / ".prep-rows.json"

    def dropped(self, table: str) -> Path:
        """Folder of a table's dropped samples, each with its reason."""
        return self.root / "dropped" / f"{table}.parquet"

    def preview(self, name: str) -> Path:
        """Folder of a page that shows some samples."""
        return self.root / "preview" / name

    @property
    def training_yaml(self) -> Path:
        """The YAML that the trainer reads."""
        return self.root / "training" / f"{self.recipe.name}.yaml"

    @property
    def training_module(self) -> Path:
        """The Python module with the datasets of ConvLLaVA; its name can be imported, and is none of Python's own."""
        name = re.sub(r"\W", "_", self.recipe.name, flags=re.ASCII)
        is_taken = not name.isidentifier() or keyword.iskeyword(name) or name in sys.stdlib_module_names
        return self.root / "training" / f"{'_' if is_taken else ''}{name}.py"

    @property
    def training_file(self) -> Path:
        """What the recipe's trainer is given."""
        return self.training_module if self.recipe.trainer == "convllava" else self.training_yaml

    @property
    def training_lists(self) -> Path:
        """Folder of the JSON lists that the trainer reads."""
        return self.root / "training" / self.recipe.name

    # -- prep.lock ---------------------------------------------------------------------------------------------

    def locked(self, dataset: str) -> dict[str, Any]:
        """What prep.lock says of a dataset: its resolved revision, slice, parts, bytes; empty when it says nothing."""
        return dict(self.lock_data()["datasets"].get(dataset, {}))

    def lock(self, dataset: str, resolved: dict[str, Any]) -> None:
        """Write what a dataset was resolved to into prep.lock.

        What the file said of the dataset's bytes and tables is taken out where it is resolved to something else.

        Raises:
            WorkspaceError: `prep run --locked` holds the file, and it says something else.
        """
        with self.turn():
            self._lock(dataset, json.loads(json.dumps(resolved)))  # tuples are lists there

    def _lock(self, dataset: str, resolved: dict[str, Any]) -> None:
        data = self.lock_data()
        before = data["datasets"].get(dataset, {})
        differing = [key for key in sorted({*before, *resolved} - _UNPINNED) if before.get(key) != resolved.get(key)]
        if self.is_held:
            if differing:
                raise _unlike_lock(dataset, differing[0], before, resolved)
            return
        if differing:
            data.get("contents", {}).pop(dataset, None)
            tables = data.get("tables", {})
            for table in [name for name, facts in tables.items() if facts["dataset"] == dataset]:
                del tables[table]
        is_asked_again = "source" in before and before.get("asked") == resolved.get("asked")
        data["datasets"][dataset] = {**resolved, "source": before["source"]} if is_asked_again else resolved
        self.write_lock(data)

    def lock_data(self) -> dict[str, Any]:
        """Everything that prep.lock says; of none an empty one."""
        path = self.root / LOCK_NAME
        return read_lock(path) if path.exists() else {"version": LOCK_VERSION, "datasets": {}}

    def write_lock(self, data: dict[str, Any]) -> bool:
        """Let prep.lock say `data`; whether that is something new."""
        text = json.dumps(data | {"version": LOCK_VERSION}, indent=1, sort_keys=True) + "\n"
        path = self.root / LOCK_NAME
        if path.is_file() and not path.is_symlink() and path.read_bytes() == text.encode():
            return False
        write_text(path, text)
        return True

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the workspace for writing; the hold ends with the process, however it ends.

        Raises:
            WorkspaceError: another `prep` is writing here.
        """
        with open_own(self.root / _BUSY, "a+") as file:
            if not try_lock(file.fileno()):
                file.seek(0)
                process = file.read().strip() or "unknown process"
                raise self._busy(next((str(rank) for rank in self._ranks_at_work()), process))
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            for path in self.root.glob(f"{_RANK}*"):  # of ranks that have ended
                path.unlink(missing_ok=True)
            yield

    @contextmanager
    def shared(self, own: Share) -> Iterator[None]:
        """Hold the workspace for writing, together with the other ranks.

        Raises:
            WorkspaceError: a `prep` that is no rank is writing here, the same rank, or one of another number of them.
        """
        with open_own(self.root / _BUSY, "a+") as file:
            if not try_lock(file.fileno(), shared=True):
                file.seek(0)
                raise self._busy(file.read().strip() or "unknown process")
            with self._marked(own):
                for rank in self._ranks_at_work(own.world_size):
                    raise self._busy(str(rank))
                yield

    @contextmanager
    def _marked(self, own: Share) -> Iterator[None]:
        """Hold a rank's mark, by which others see that it is at work."""
        with open_own(self._rank_path(own), "a+") as mark:
            for _ in range(MARK_TRIES):  # who asks whether a rank is at work has its mark for a moment
                if try_lock(mark.fileno()):
                    break
                time.sleep(MARK_PAUSE_SECONDS)
            else:
                mark.seek(0)
                raise self._busy(f"{own}, {mark.read().strip() or 'unknown process'}")
            mark.truncate(0)
            mark.write(f"process {os.getpid()} on {socket.gethostname()}")
            mark.flush()
            yield

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Do what one rank at a time does, such as asking a publisher for a revision; others wait."""
        if self._has_turn or share().is_whole:
            yield
            return
        with open_own(self.root / f"{_RANK}turn", "a+") as file:
            try_lock(file.fileno(), wait=True)
            self._has_turn = True
            try:
                yield
            finally:
                self._has_turn = False

    def _rank_path(self, own: Share) -> Path:
        return self.root / f"{_RANK}{own.rank}-of-{own.world_size}"

    def _ranks_at_work(self, but_of: int = 0) -> Iterator[Share]:
        """Ranks that other processes are, but for those of one number of ranks."""
        for path in self.root.glob(f"{_RANK}*-of-*"):
            rank = Share(*map(int, path.name.removeprefix(_RANK).split("-of-")))
            with suppress(FileNotFoundError), path.open() as file:
                if rank.world_size != but_of and not try_lock(file.fileno(), shared=True):  # several may ask at once
                    yield rank

    def _busy(self, who: str) -> WorkspaceError:
        return WorkspaceError(
            f"another prep ({who}) is at work in {self.root}",
            "Wait for it to end, or stop it; then run the same command.",
        )

    def _need_entries(self) -> None:
        if not self.recipe.entries:
            raise UsageError(
                f"{self.recipe_path} has no entries yet",
                "`prep add FILE` adds your own data; `prep datasets` lists public tables to write into it.",
            )
        if not self.entries:
            raise UsageError(
                f"{self.recipe_path} has no entry whose data is public",
                "`prep recipe show` says what is missing; `prep add --name TABLE` supplies it.",
            )

    def _unknown(self, name: str, known: list[str]) -> UsageError:
        return UsageError(
            f"{name!r} is neither a dataset nor a table of this workspace{nearest(name, known)}",
            f"There are: {', '.join(dict.fromkeys(known))}.",
        )


def shard_name(index: int, share: int | None = None) -> str:
    """File name of shard `index`, or of one of several that are made of the same part."""
    return f"shard-{index:05d}.parquet" if share is None else f"shard-{index:05d}-{share:03d}.parquet"


def _unlike_lock(dataset: str, key: str, locked: Mapping[str, Any], resolved: Mapping[str, Any]) -> WorkspaceError:
    place = resolved.get("from", "its source")
    return WorkspaceError(
        f"{dataset}: prep.lock has {key} {locked.get(key)}, and {place} gives {resolved.get(key)}",
        "Nothing was brought. `prep run` without --locked takes it, and writes a new prep.lock.",
    )
