"""emit-yaml: the YAML that the trainer reads, with the numbers that filter applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prep import sql
from prep.config import Entry, GivenImages
from prep.errors import ConfigError, UsageError
from prep.files import write_text
from prep.manifest import Manifest, fingerprint
from prep.schema import HEIGHT, KINDS, WIDTH, Column
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
from prep.stages.shards import ShardTask, build_shards
from prep.trainers import lavida_o
from prep.workspace import Workspace
from prep.yaml_edit import add_keys, append_items, read_exact
from prep.yaml_file import parse_yaml

Remap = tuple[str, str]

_INSTEAD = "`prep emit-yaml --force` replaces it, `-o FILE` writes another, `--append FILE` adds to one."


def emit_yaml(
    workspace: Workspace,
    *,
    output: Path | None = None,
    append: Path | None = None,
    remap: Sequence[Remap] = (),
    stale: Mapping[str, str] = {},
    partial: bool = False,
    force: bool = False,
    replace_own: bool = False,
    dry_run: bool = False,
) -> Emission:
    """Write the training YAML of the workspace's recipe.

    Args:
        output: where to; by default `training/<recipe>.yaml`.
        append: add the entries to this YAML instead, keeping everything in it.
        remap: (old, new) path prefixes for a trainer on another machine; the tables are then written once more, in a
            folder beside the YAML, with the images' paths rewritten too.
        stale: tables that are not what the configuration says now -> what to say of them.
        partial: leave out entries whose tables are not ready, instead of failing.
        force: replace a YAML that is there and differs.
        replace_own: replace it if it is still as `prep` wrote it.

    Raises:
        DataError: a table is not ready, or the filter left no row of it.
        UsageError: the YAML is there and differs, or is a file of the workspace's own.
        ConfigError: the recipe asks for what its tables do not have.
    """
    path = append or output or workspace.training_yaml
    for place in (path, path.with_suffix("")) if remap else (path,):  # copies go into a folder beside it
        check_place(workspace, place)
    _check_remap(workspace, remap)
    ready, left_out = ready_entries(workspace, stale, partial)
    entries, copies = _entries(workspace, ready, path, remap)
    if append is not None:
        text, fresh = _appended(workspace, path, entries)
    else:
        text, fresh = _text(workspace, entries, left_out, is_for_here=not remap), entries
    is_there = path.is_file() and path.read_bytes() == text.encode()
    state = "up to date" if is_there else "planned" if dry_run else "done"
    if state == "done" and append is None:
        refuse_to_clobber(path, force, replace_own, _INSTEAD)
    if not dry_run:
        for copy in copies:
            _remap_table(workspace, copy, remap)
    if state == "done":
        write_text(path, text, follow_links=append is not None)
    return Emission(path, text, state, tuple(fresh), left_out, not_fetched_notes(ready))


class _Copy(NamedTuple):
    """A folder of a table that is written once more, with other paths in it."""

    table: str
    manifest: Manifest
    source: Path
    folder: Path


def _entries(
    workspace: Workspace, ready: Sequence[Ready], path: Path, remap: Sequence[Remap]
) -> tuple[list[dict[str, Any]], list[_Copy]]:
    """Entries of the YAML at `path`, and the copies that they name."""
    entries, copies = [], []
    for entry, manifest in ready:
        for source, rows, label in _folders(workspace, entry, manifest):
            folder = source
            if remap:
                folder = path.absolute().with_suffix("") / folder.name
                copies.append(_Copy(entry.table, manifest, source, folder))
            json_path = Path(_remapped(str(folder), remap))
            entries.append(_entry(workspace, entry, manifest, json_path, rows, label))
    return entries, copies


def _folders(workspace: Workspace, entry: Entry, manifest: Manifest) -> list[tuple[Path, int, str]]:
    """The entry's folders that have rows, how many, and a name for each: rows without an image are on their own."""
    text = text_only_rows(manifest)
    folders = [
        (workspace.filtered(entry.table), manifest.rows, entry.label),
        (workspace.text_only(entry.table), text, f"{entry.label}-text"),
    ]
    return [folder for folder in folders if folder[1]]


def _sampling(entry: Entry, manifest: Manifest, rows: int) -> str:
    """The entry's sampling for a folder with `rows` of its rows: a number of rows is shared out between its two.

    Raises:
        ConfigError: more rows are asked for than there are, where the loader would stop.
    """
    total = rows_of(manifest)
    sampling = sampling_of(entry, total)
    if rows == total or sampling.number is None or sampling.is_percent or sampling.word == "dup":
        return entry.sampling
    share = min(rows, max(1, round(sampling.number * rows / total)))
    return f"{sampling.word}:{share}"


def _entry(
    workspace: Workspace, entry: Entry, manifest: Manifest, json_path: Path, rows: int, label: str
) -> dict[str, Any]:
    kind = manifest.facts["kind"]
    rules = manifest.facts["rules"]
    sizes = {HEIGHT, WIDTH}
    has_size_rule = "min_size" in rules
    columns = [name for name in manifest.facts["columns"] if name not in sizes or has_size_rule]
    return lavida_o.training_entry(
        name=label,
        json_path=json_path,
        function=lavida_o.FUNCTION_OF_KIND[kind],
        columns=columns,
        sampling=_sampling(entry, manifest, rows),
        arguments=entry.arguments | lavida_o.prefixes(kind, columns, _image_root(workspace, entry, kind, columns)),
        aes_cutoff=rules.get("aes_cutoff"),
        min_size=rules.get("min_size"),
        group=entry.group,
    )


def _image_root(workspace: Workspace, entry: Entry, kind: str, columns: Sequence[str]) -> str:
    """Where the table's images are, on S3 or not; where its own file says it, one on S3 decides."""
    dataset, _ = workspace.table(entry.table)
    prefixed = [
        column
        for column in KINDS[kind].image_columns
        if column.name in columns and lavida_o.stored_path(column.name, kind, lavida_o.S3_SCHEME) == ""
    ]
    if not isinstance(dataset.images, GivenImages) or not prefixed:
        return workspace.image_root
    shards = sorted(workspace.filtered(entry.table).glob("*.parquet"))
    with sql.connect() as connection, sql.data_errors(entry.table, "Run `prep filter --force`."):
        rows = sql.parquet_files(shards)
        listed = {"one": "[{0}]", "list": "{0}", "joined": "string_split({0}, ';')"}
        paths = " UNION ALL ".join(
            f"SELECT unnest({listed[column.images or 'one'].format(sql.name(column.name))}) AS path FROM {rows}"
            for column in prefixed
        )
        [[is_local]] = connection.execute(f"SELECT bool_and(starts_with(path, '/')) FROM ({paths})").fetchall()
    return "/" if is_local in (True, None) else lavida_o.S3_SCHEME


def _text(
    workspace: Workspace, entries: Sequence[dict[str, Any]], left_out: dict[str, str], *, is_for_here: bool
) -> str:
    """The YAML; one for another machine is not marked as ours, so that `prep run` does not write over it."""
    recipe = workspace.recipe
    groups = {entry.get(lavida_o.GROUP, lavida_o.DEFAULT_GROUP) for entry in entries}
    header = [
        f"{recipe.name}: {recipe.title}".removesuffix(": "),
        "Written by `prep emit-yaml`; cutoffs and sizes are those `prep filter` applied to the files.",
    ]
    header += [f"Left out: {name} ({reason})" for name, reason in left_out.items()]
    body = lavida_o.training_yaml(
        entries,
        {group: weight for group, weight in recipe.weights.items() if group in groups},
        {group: factor for group, factor in recipe.batch_sizes.items() if group in groups},
        header,
    )
    return marked(body) if is_for_here else body


def _appended(workspace: Workspace, path: Path, entries: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The YAML with what it does not have yet, and those entries; its own weights stay as they are."""
    parsed = read_exact(path)
    data = parsed.data if isinstance(parsed.data, dict) else {}
    present = data.get(lavida_o.DATASETS) or []
    if not isinstance(present, list):
        raise ConfigError(f"{path} is not a training YAML", "Name the trainer's; `-o FILE` writes a new one.")
    fresh = [entry for entry in entries if entry not in present]
    tables = {entry.get(lavida_o.DATA_PATH) for entry in present if isinstance(entry, dict)}
    double = [entry[lavida_o.NAME] for entry in fresh if entry[lavida_o.DATA_PATH] in tables]
    if double:
        raise UsageError(
            f"{path} has the table of {', '.join(double)} already, with other settings",
            "Training would draw its rows twice: take the old entry out first.",
        )
    text = parsed.text
    if fresh:
        text = append_items(parsed, lavida_o.DATASETS, fresh)
    groups = {entry.get(lavida_o.GROUP, lavida_o.DEFAULT_GROUP) for entry in fresh}
    recipe = workspace.recipe
    for key, numbers in ((lavida_o.WEIGHTS, recipe.weights), (lavida_o.BATCH_SIZES, recipe.batch_sizes)):
        there = data.get(key) or {}
        new = {group: number for group, number in numbers.items() if group in groups and group not in there}
        if new:
            text = add_keys(parse_yaml(text, path), key, new)
    return text, fresh


# -- another machine's paths ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemapTask(ShardTask):
    """One shard with its images' paths rewritten."""

    source: Path
    source_sha256: str
    kind: str
    remap: tuple[Remap, ...]
    output: Path

    @property
    def fingerprint(self) -> str:
        """What it is made from."""
        return fingerprint([self.source_sha256, self.kind, self.remap])


def _remapped(path: str, remap: Sequence[Remap]) -> str:
    """`path` with the first matching prefix replaced."""
    for old, new in remap:
        if _is_in(path, old):
            return new.rstrip("/") + path[len(old.rstrip("/")) :]
    return path


def _is_in(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or below it, step by step; either may be an address."""
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _check_remap(workspace: Workspace, remap: Sequence[Remap]) -> None:
    for old, new in remap:
        if not (old.startswith(("/", "s3://")) and new.startswith("/")):
            raise UsageError(
                f"--remap {old}={new}: must be absolute paths (the old one may be s3://)",
                "The trainer opens files by absolute path; mount a bucket to remap to it.",
            )
        ours = (str(workspace.root), workspace.image_root)
        is_ours = any(_is_in(place, old) or _is_in(old, place) for place in ours)
        if not is_ours and not _has_given_images(workspace):
            raise UsageError(f"--remap {old}={new}: no path here is below {old}", f"Here is {workspace.root}.")


def _has_given_images(workspace: Workspace) -> bool:
    """Whether some table's images lie wherever its own file says."""
    return any(isinstance(workspace.table(table)[0].images, GivenImages) for table in workspace.table_names)


def _remap_table(workspace: Workspace, copy: _Copy, remap: Sequence[Remap]) -> None:
    """Write the shards of one folder of a table once more, with rewritten image paths."""
    kind = copy.manifest.facts["kind"]
    tasks = [
        RemapTask(copy.source / shard.name, shard.sha256, kind, tuple(remap), copy.folder / shard.name)
        for shard in copy.manifest.shards
    ]
    make = write_remapped if copy.source == workspace.filtered(copy.table) else copy_shard
    build_shards("emit-yaml", copy.table, copy.folder, tasks, make, facts={}, workers=workspace.workers)


def copy_shard(task: RemapTask) -> None:
    """Write one shard of rows without images as it is."""
    with sql.connect(task.output) as connection, sql.data_errors(str(task.source), "Run `prep filter --force`."):
        query = f"SELECT * FROM {sql.parquet_files([task.source])}"
        images = ", ".join(f"NULL AS {sql.name(column.name)}" for column in KINDS[task.kind].image_columns)
        sql.write_with_nulls(
            connection, f"SELECT * REPLACE ({images}) FROM ({query})", task.output, {sql.TASK_KEY: task.fingerprint}
        )


def write_remapped(task: RemapTask) -> None:
    """Write one shard with rewritten image paths."""
    with sql.connect(task.output) as connection, sql.data_errors(str(task.source), "Run `prep filter --force`."):
        rows = sql.parquet_files([task.source])
        there = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()}
        new = ", ".join(
            f"{_remapped_column(column, task)} AS {sql.name(column.name)}"
            for column in KINDS[task.kind].image_columns
            if column.name in there
        )
        query = f"SELECT * REPLACE ({new}) FROM {rows}"
        sql.copy_to_parquet(connection, query, task.output, {sql.TASK_KEY: task.fingerprint})


def _remapped_column(column: Column, task: RemapTask) -> str:
    """SQL of a column of images with rewritten paths."""
    remap = [(lavida_o.stored_path(column.name, task.kind, old), new) for old, new in task.remap]

    def rewritten(path: str) -> str:
        branches = " ".join(
            f"WHEN starts_with({path}, {sql.text(old.rstrip('/') + '/')}) "
            f"THEN {sql.text(new.rstrip('/'))} || substr({path}, {len(old.rstrip('/')) + 1})"
            for old, new in remap
        )
        return f"CASE {branches} ELSE {path} END"

    name = sql.name(column.name)
    if column.images == "one":
        return rewritten(name)
    texts = f"string_split({name}, ';')" if column.images == "joined" else name
    several = f"list_transform({texts}, lambda path: {rewritten('path')})"
    return f"array_to_string({several}, ';')" if column.images == "joined" else several
