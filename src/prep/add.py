"""A user's own csv, parquet or JSON as a dataset of the workspace: its YAML is written, the recipe gets an entry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import ValidationError

from prep import sql
from prep.config import Dataset, nearest
from prep.errors import DataError, UsageError
from prep.files import write_text
from prep.own_files import AWS, OwnFiles, S3Options, look_at
from prep.schema import KINDS, RESERVED, TEXT, TEXT_TO_IMAGE, TEXTS, URL, Column, Kind
from prep.workspace import Workspace
from prep.yaml_edit import append_items, read_exact


@dataclass(frozen=True)
class Added:
    """What `add` wrote: the dataset's name, its YAML, and which column of the file each sample column comes from."""

    name: str
    path: Path
    text: str
    columns: dict[str, str]


def add_file(
    workspace: Workspace,
    data: Path | str,
    *,
    name: str | None = None,
    mapping: Mapping[str, str] | None = None,
    kind: Kind = TEXT_TO_IMAGE,
    s3: S3Options = AWS,
    force: bool = False,
    dry_run: bool = False,
) -> Added:
    """Make `data` a dataset of the workspace and an entry of its recipe.

    Args:
        data: a csv, parquet, .json or .jsonl file, a folder of parquet files, a text file that names files, or an
            `s3://` address of parquet.
        name: of the dataset; by default the file's.
        mapping: sample column -> column of the file, where they are named otherwise. `url` in place of the image
            path makes it a dataset of addresses.
        kind: of its samples; which preprocess function reads them.
        s3: how the bucket is reached.
        force: replace a dataset of that name which the workspace added before.

    Raises:
        UsageError: no such file, a format or name that cannot be, a mapping to nothing.
        SourceError: a list is none, or names what is not there; S3 refuses.
        DataError: a file cannot be read, lacks a column, or has others than the first.
    """
    path = Path(data)
    if path.resolve() in (workspace.root, *workspace.root.parents):
        raise UsageError(f"{data} contains this workspace", "Name a file, or a folder of the data alone.")
    name = name or _name_of(str(data))
    target = workspace.root / "datasets" / f"{name}.yaml"
    _check_name(workspace, name, target, force)
    files = look_at(str(data), workspace.raw(name), s3)
    chosen = _choose(files.columns, mapping or {}, kind, files.label)
    dataset = _dataset(name, files, chosen, kind)
    try:
        Dataset.model_validate(dataset)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DataError(f"{files.label} cannot be a dataset: {reason}", "Rename the column in the file.") from error
    text = yaml.safe_dump(dataset, sort_keys=False, allow_unicode=True)
    added = Added(name, target, text, chosen)
    recipe = _with_entry(workspace, name)
    if not dry_run:
        write_text(target, text, follow_links=True)
        write_text(workspace.recipe_path, recipe, follow_links=True)
    return added


def _name_of(data: str) -> str:
    """A dataset's name, from that of its file, folder or prefix."""
    path = PurePosixPath(data)
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", path.name.removesuffix(path.suffix)).strip("-.")


def _check_name(workspace: Workspace, name: str, target: Path, force: bool) -> None:
    """Make sure that a dataset and a table can be called so.

    Args:
        target: the dataset's YAML, which `force` allows to replace.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise UsageError(f"{name!r} cannot be a dataset's name", "Give one of letters, digits, . _ + - with --name.")
    catalogue = workspace.catalogue
    is_table = any(name in dataset.tables for dataset in catalogue.datasets())
    if (is_table or name in catalogue.dataset_names()) and not (force and target.exists()):
        raise UsageError(
            f"a dataset or table called {name!r} is there already",
            "Give another name with --name" + (", or replace it with --force." if target.exists() else "."),
        )
    if {f"{name}-text", name.removesuffix("-text")} & {*workspace.table_names} - {name}:
        raise UsageError(
            f"a table {name!r} does not go with those there are: NAME-text is where rows of NAME without an image go",
            "Give another name with --name.",
        )


def _choose(columns: Iterable[str], mapping: Mapping[str, str], kind: Kind, data: str) -> dict[str, str]:
    """Sample column -> column of the file."""
    by_lower = {column.lower(): column for column in columns} | {column: column for column in columns}
    known = {name.lower(): name for name in (*kind.column_names, URL)}
    chosen: dict[str, str] = {}
    for given, theirs in mapping.items():
        target = known.get(given.lower(), "")
        if not target:
            raise UsageError(
                f"--map {given}={theirs}: {kind.name} samples have no column {given!r}{nearest(given, known.values())}",
                f"They have: {', '.join(known.values())}.",
            )
        if theirs.lower() not in by_lower:
            raise UsageError(
                f"--map {given}={theirs}: {data} has no column {theirs!r}{nearest(theirs, columns)}",
                f"It has: {', '.join(columns)}.",
            )
        chosen[target] = by_lower.get(theirs, by_lower[theirs.lower()])
    for column in kind.columns:
        if column.name not in chosen and column.name.lower() in by_lower:
            chosen[column.name] = by_lower.get(column.name, by_lower[column.name.lower()])
    if kind.image_path is None:
        chosen.pop(URL, None)
    elif URL in chosen:
        chosen.pop(kind.image_path, None)
    elif kind.image_path not in chosen and URL in by_lower:
        chosen[URL] = by_lower[URL]
    if URL in chosen and any(column.required and column.name != kind.image_path for column in kind.image_columns):
        raise UsageError(
            f"{kind.name} samples have several images, which cannot be behind addresses",
            "Fetch them first, and give paths.",
        )
    for column in kind.columns:
        if column.required and column.name not in chosen and not (column.name == kind.image_path and URL in chosen):
            raise DataError(
                f"{data} has no column {column.name!r}; it has: {', '.join(columns)}",
                f"Say which one it is: --map {column.name}=COLUMN"
                + (" (or --map url=COLUMN for addresses)." if column.name == kind.image_path else ".")
                + _other_kinds(by_lower, kind),
            )
    return chosen


def _other_kinds(columns: Iterable[str], kind: Kind) -> str:
    """Kinds that the file's columns would do for, as a hint."""
    there = {column.lower() for column in columns}
    fitting = [
        other.name
        for other in KINDS.values()
        if other is not kind and {c.name.lower() for c in other.columns if c.required} <= there
    ]
    return f" Its columns would do for --kind {' or '.join(fitting)}." if fitting else ""


def _dataset(name: str, files: OwnFiles, chosen: dict[str, str], kind: Kind) -> dict[str, Any]:
    """The dataset's YAML as plain values; columns that are nobody's are kept for `where`."""
    format_, columns = files.format, files.columns
    records: dict[str, Any] = {"format": format_, "parts": files.parts}
    if format_ == "json":
        by_column = {theirs: kind.column(target) for target, theirs in chosen.items()}
        records["fields"] = {name: _field_type(by_column.get(name)) for name in columns}
    table: dict[str, Any] = {
        "kind": kind.name,
        "records": records,
        "select": {target: _selected(kind.column(target), column, format_) for target, column in chosen.items()},
    }
    taken = {name.lower() for name in (*chosen.values(), *kind.column_names, *RESERVED)}
    table["extra"] = {column: value for column, value in columns.items() if column.lower() not in taken}
    if kind.image_path is not None and kind.image_path in chosen:
        path = f"CAST({sql.name(chosen[kind.image_path])} AS VARCHAR)"
        table["drop"] = {"path_is_an_address": f"regexp_matches({path}, '(?i)^\\W?https?://')"}
    images = {"kind": "url" if URL in chosen else "given"}
    return {
        "name": name,
        "title": f"Own data: {files.label}",
        "source": files.source.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "images": images,
        "tables": {name: table},
    }


def _field_type(column: Column | None) -> str:
    """How a key of a JSON file is read: texts as they are, everything that may have a shape of its own as JSON."""
    return "text" if column is None or (column.type == TEXT and column.images is None) else "json"


def _selected(column: Column | None, theirs: str, format_: str) -> str:
    """SQL of a sample's column; in a csv a list is written as JSON."""
    name = sql.name(theirs)
    if format_ == "csv" and column is not None and column.type == TEXTS:
        return (
            f"CASE WHEN starts_with({name}, '[') THEN json_texts(TRY_CAST({name} AS JSON)) "
            f"WHEN {name} IS NOT NULL THEN [{name}] END"
        )
    return name


def _with_entry(workspace: Workspace, name: str) -> str:
    """The recipe's text with an entry for the table, if it has none yet."""
    parsed = read_exact(workspace.recipe_path)
    named = {entry.table for entry in workspace.recipe.entries}  # also those whose data was not public until now
    return parsed.text if name in named else append_items(parsed, "entries", [{"table": name}])
