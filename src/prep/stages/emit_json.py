"""emit: JSON lists of a recipe's rows, and the Python module or YAML that names them for a trainer."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from prep import sql
from prep.errors import ConfigError, DataError, UsageError
from prep.files import write_text
from prep.schema import CONVERSATION, IMAGE_KEY
from prep.stages.emission import (
    Emission,
    Ready,
    check_place,
    marked,
    not_fetched_notes,
    ready_entries,
    refuse_to_clobber,
    rows_of,
    sampling_of,
    text_only_rows,
)
from prep.stages.lists import SEED, ListTask, copies, make_lists, missing_lists, write_one
from prep.trainers import convllava
from prep.trainers.lavida_o import DATA_PATH, SAMPLING, Sampling, parse_sampling, training_yaml
from prep.workspace import Workspace

Format = Literal["convllava", "llava-json", "llava-next"]
FORMATS: dict[Format, str] = {"convllava": ".py", "llava-json": ".json", "llava-next": ".yaml"}
IN_YAML = ("all", "first", "end", "random")  # sampling that the LLaVA-NeXT family's loader knows

_INSTEAD = "`--force` replaces it, `-o FILE` writes another."


def emit_json(
    workspace: Workspace,
    *,
    format_: Format = "convllava",
    output: Path | None = None,
    root: Path | None = None,
    stale: Mapping[str, str] = {},
    partial: bool = False,
    force: bool = False,
    replace_own: bool = False,
    dry_run: bool = False,
) -> Emission:
    """Write the JSON lists of the workspace's recipe, and what names them.

    Args:
        format_: `convllava`, a Python module over a list an entry; `llava-next`, a YAML over the same; `llava-json`,
            one list of all entries.
        output: the module, YAML or list; by default in `training/`, where the lists are in a folder of the recipe's
            name. Beside a file named here they are in a folder of its name.
        root: a tree as ConvLLaVA's guide wants it, which has the images; by default they are in the image store.
        stale, partial, force, replace_own: as of `emit_yaml`.

    Raises:
        DataError: a table is not ready, or the filter left no row of it; an image is in no folder.
        UsageError: the file is there and differs; the tree is none.
        ConfigError: the recipe asks for what its tables do not have.
    """
    path = _output(workspace, format_, output, is_tree=root is not None)
    for place in (path, path.with_suffix("")):  # the lists' folder, where it is beside the file
        check_place(workspace, place)
    ready, left_out = ready_entries(workspace, stale, partial)
    _check_entries(ready, format_)
    folder = _image_folder(workspace, ready) if root is None else _tree(root, ready)
    lists = _lists(workspace, format_, path, is_default=output is None, is_tree=root is not None)
    tasks = [_task(workspace, each, format_, folder, root is not None, lists) for each in ready]
    if root is not None:
        _check_tree(tasks)
    one = path if format_ == "llava-json" else None
    entries = tuple(_entry(each, task, one) for each, task in zip(ready, tasks, strict=True))
    notes = (*not_fetched_notes(ready), *_sampling_notes(tasks))
    text = _text(workspace, format_, path, tasks, left_out)
    if format_ == "llava-json":
        state = write_one(path, tasks, force=force, dry_run=dry_run)
    else:
        state = _write_named(path, text, lists, tasks, force, replace_own, dry_run, workspace.workers)
    return Emission(path, text, state, entries, left_out, notes, "emit", format_, folder)


def _output(workspace: Workspace, format_: Format, output: Path | None, *, is_tree: bool) -> Path:
    """The file to write, by an absolute path; with a tree's paths it is another one than with the store's.

    Raises:
        UsageError: its name does not suit the format.
    """
    if output is None:
        places = {"convllava": workspace.training_module, "llava-next": workspace.training_yaml}
        place = places.get(format_, workspace.training_lists.with_name(f"{workspace.recipe.name}.json"))
        return (
            place.with_name(f"{place.stem}{'_' if format_ == 'convllava' else '-'}tree{place.suffix}")
            if is_tree
            else place
        )
    suffix = FORMATS[format_]
    if output.suffix != suffix:
        raise UsageError(
            f"-o {output}: --format {format_} writes a {suffix} file", f"Name a file that ends in {suffix}."
        )
    if format_ == "convllava" and not convllava.is_module_name(output.stem):
        raise UsageError(
            f"-o {output}: Python cannot import a module of this name",
            "Use letters, digits and _, such as prep_datasets.py.",
        )
    return output.absolute()


def _lists(workspace: Workspace, format_: Format, path: Path, *, is_default: bool, is_tree: bool) -> Path:
    """The folder of the lists; those with a tree's paths are not written over those with the store's."""
    if format_ == "llava-json":
        return path.parent
    lists = workspace.training_lists
    return path.with_suffix("") if not is_default else lists.with_name(f"{lists.name}-tree") if is_tree else lists


def _check_entries(ready: Sequence[Ready], format_: Format) -> None:
    """Make sure that the trainer can have these entries under their names.

    Raises:
        ConfigError: it cannot.
    """
    seen = set()
    for entry, manifest in ready:
        label, kind = entry.label, manifest.facts["kind"]
        if kind != CONVERSATION.name:
            raise ConfigError(
                f"entry {label}: a JSON list holds rows of {CONVERSATION.name}, and table {entry.table} is of {kind}",
                "`prep emit-yaml` writes such tables for LaViDa-O; or take the entry out of the recipe.",
            )
        if format_ == "convllava" and label not in convllava.NAMES:
            raise ConfigError(
                f"entry {label}: ConvLLaVA has no dataset of this name{convllava.nearest_name(label)}",
                f"Give the entry a `name` of these: {', '.join(convllava.NAMES)}; "
                "or `--format llava-json`, which is one list.",
            )
        if label in seen or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", label):
            why = "two entries are called so" if label in seen else "a file cannot be called so"
            raise ConfigError(f"entry {label}: {why}", "Give the entry another `name` in the recipe.")
        seen.add(label)


# -- where images are ----------------------------------------------------------------------------------------


def _image_folder(workspace: Workspace, ready: Sequence[Ready]) -> str:
    """The folder that holds the images of all entries: the image store, or else the deepest that does.

    Raises:
        DataError: some are on S3.
    """
    shards = [workspace.filtered(entry.table) / shard.name for entry, manifest in ready for shard in manifest.shards]
    image = sql.name(CONVERSATION.image_path or "")
    with sql.connect() as connection, sql.data_errors("the filtered tables", "Run `prep filter --force`."):
        query = f"SELECT DISTINCT regexp_extract({image}, '^(.*/)', 1) FROM {sql.parquet_files(shards)}"
        folders = [row[0] for row in connection.execute(query).fetchall() if row[0] is not None]
    if not all(folder.startswith("/") for folder in folders):
        raise DataError(
            f"images of this workspace are on S3 ({workspace.image_root}), and this trainer opens them from a disk",
            "Set `images` in prep.yaml to a folder; or mount the bucket and name a tree with --root.",
        )
    store = workspace.image_root
    if all(folder.startswith(f"{store}/") for folder in folders):
        return store
    common: str = posixpath.commonpath([posixpath.normpath(folder) for folder in folders])
    return common


def _tree(root: Path, ready: Sequence[Ready]) -> str:
    """A tree of the guide's, by its absolute path.

    Raises:
        UsageError: there is no such folder.
        ConfigError: nobody says where in it an entry's images are.
    """
    if not root.is_dir():
        raise UsageError(f"--root {root}: there is no such folder", "`prep layout convllava` makes the tree.")
    for entry, _ in ready:
        if entry.label not in convllava.NAMES:
            raise ConfigError(
                f"entry {entry.label}: the guide's tree has no place for a dataset of this name",
                f"Give the entry a `name` of these: {', '.join(convllava.NAMES)}; or leave --root out.",
            )
    return str(root.absolute())


def _check_tree(tasks: Sequence[ListTask]) -> None:
    """Make sure that the tree has the first and the last image of every entry; `prep check` looks for all."""
    for task in tasks:
        shards = sql.parquet_files(kept for kept, _ in task.shards)
        with sql.connect() as connection, sql.data_errors(f"table {task.table}", "Run `prep filter --force`."):
            [keys] = connection.execute(f"SELECT min({IMAGE_KEY}), max({IMAGE_KEY}) FROM {shards}").fetchall()
        for path in (Path(task.folder, task.place or "", key) for key in keys if key is not None):
            if path.is_relative_to(task.folder) and not path.is_file():
                raise UsageError(
                    f"--root {task.folder}: the tree lacks {path.relative_to(task.folder)}, which {task.name} shows",
                    "`prep layout convllava` fills the tree, and `prep heal` says what it lacks.",
                )


# -- entries -------------------------------------------------------------------------------------------------


def _task(workspace: Workspace, ready: Ready, format_: Format, folder: str, is_tree: bool, lists: Path) -> ListTask:
    entry, manifest = ready
    sampling = sampling_of(entry, rows_of(manifest))
    is_here = format_ != "llava-next" or sampling.word not in IN_YAML
    strategy = entry.sampling if is_here and sampling.word != "all" else "all"
    kept, text = workspace.filtered(entry.table), workspace.text_only(entry.table)
    below = convllava.NAMES[entry.label].image_folder if is_tree else None
    return ListTask(
        name=entry.label,
        table=entry.table,
        shards=tuple((kept / shard.name, text / shard.name) for shard in manifest.shards),
        made_from=tuple(f"{shard.task} {shard.sha256}" for shard in manifest.shards),
        rows=rows_of(manifest),
        sampling=strategy,
        folder=folder,
        place=None if below is None else "" if below == "." else f"{below}/",
        output=lists / f"{_list_name(entry.label, parse_sampling(strategy))}.json",
    )


def _list_name(label: str, sampling: Sampling) -> str:
    """A file's name that tells apart lists of one entry by what is taken of it."""
    if sampling.word == "all":
        return label
    return f"{label}-{sampling.word}-{sampling.number}{'-percent' if sampling.is_percent else ''}"


def _entry(ready: Ready, task: ListTask, one: Path | None) -> dict[str, Any]:
    """What is told of an entry; `one` is the list that all are in."""
    entry, manifest = ready
    return {
        "name": task.name,
        "table": task.table,
        "json_path": str(one or task.output),
        "image_folder": task.folder,
        "rows": int(copies(task.sampling, task.rows).sum()),
        "rows_in_table": task.rows,
        "text_only_in_table": text_only_rows(manifest),
        "sampling": entry.sampling,
    }


def _sampling_notes(tasks: Iterable[ListTask]) -> Iterator[str]:
    for task in tasks:
        if task.sampling != "all":
            rows = int(copies(task.sampling, task.rows).sum())
            drawn = f", drawn with the seed {SEED}" if task.sampling.startswith("random") else ""
            yield f"{task.name}: its list has {task.sampling} of {task.rows:,} rows, which makes {rows:,}{drawn}"


def _text(
    workspace: Workspace, format_: Format, path: Path, tasks: Sequence[ListTask], left_out: Mapping[str, str]
) -> str:
    """The module or YAML; empty for a list, which names nothing."""
    reasons = [f"{name} ({reason})" for name, reason in left_out.items()]
    recipe = workspace.recipe
    if format_ == "convllava":
        pairs = {task.name: (str(task.output), task.folder) for task in tasks}
        return marked(convllava.module_text(recipe.name, path.stem, pairs, reasons))
    if format_ == "llava-json":
        return ""
    by_label = {entry.label: entry.sampling for entry in workspace.entries}
    entries = [
        {DATA_PATH: str(task.output), SAMPLING: by_label[task.name] if task.sampling == "all" else "all"}
        for task in tasks
    ]
    header = [
        f"{recipe.name}: {recipe.title}".removesuffix(": "),
        "Written by `prep emit-yaml` for loaders of the LLaVA-NeXT family.",
        f"{convllava.FOLDER_LINE}{tasks[0].folder}",
        *(f"Left out: {reason}" for reason in reasons),
    ]
    return marked(training_yaml(entries, {}, {}, header))


# -- writing -------------------------------------------------------------------------------------------------


def _write_named(
    path: Path,
    text: str,
    lists: Path,
    tasks: Sequence[ListTask],
    force: bool,
    replace_own: bool,
    dry_run: bool,
    workers: int,
) -> str:
    """Write the lists, and at last what names them; the state."""
    missing = missing_lists(lists, tasks)
    is_there = path.is_file() and path.read_bytes() == text.encode()
    if dry_run:
        return "planned" if missing or not is_there else "up to date"
    if not is_there:
        refuse_to_clobber(path, force, replace_own, _INSTEAD)
    make_lists(lists, missing, force, workers)
    if not is_there:
        write_text(path, text)
    return "up to date" if is_there and not missing else "done"
