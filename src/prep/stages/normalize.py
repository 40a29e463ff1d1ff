"""normalize: every dataset's records as samples of one schema a kind.

A sample has its kind's columns, `key` and `image_key`, whatever the dataset keeps for `where`, and `drop_reason`. Rows
that cannot be used are kept here with their reason; filter takes them out, so that nothing vanishes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb

from prep import sql
from prep.config import Dataset, GivenImages, Table, UrlImages
from prep.datasets import SizeOf
from prep.errors import DataError
from prep.images.archives import archive_stem
from prep.manifest import Shard, fingerprint, read_finished
from prep.readers import open_records
from prep.schema import DROP_REASON, IMAGE_KEY, KEY, ROW, URL, Column
from prep.stages.shards import Outcome, ShardTask, build_shards
from prep.workspace import Workspace, shard_name

_BLANK = r"'[\s\p{Z}\p{C}]*'"  # nothing that can be seen

VERSION = 1  # raise when the same inputs give other bytes


@dataclass(frozen=True)
class NormalizeTask(ShardTask):
    """The samples of one part.

    Attributes:
        images: how the table's images are addressed: `url`, `given` or `archive`.
        base: folder of the data file, for relative paths of given images.
        index: shards of the image index, for a table whose reader asks for image sizes.
        index_sha256: what is in them.
    """

    part: Path
    part_name: str
    part_sha256: str
    table: Table
    images: str
    base: str
    index: tuple[Path, ...]
    index_sha256: tuple[str, ...]
    output: Path

    @property
    def fingerprint(self) -> str:
        """Everything the shard is made from; the rules of filter are not part of it."""
        table = self.table.model_dump(mode="json", exclude={"filter"})
        inputs = [self.part_name, self.part_sha256, self.images, self.base, self.index_sha256]
        return fingerprint([VERSION, *inputs, table])


def normalize(workspace: Workspace, name: str, *, force: bool = False, dry_run: bool = False) -> Outcome:
    """Write the samples of table `name`, one shard a part.

    Needs the dataset's parts; a table whose annotations lack image sizes also needs its images' index. Until then
    the outcome is `waiting`.

    Raises:
        DataError: a part is not what the dataset's YAML says.
    """
    dataset, table = workspace.table(name)
    raw = read_finished(workspace.raw(dataset.name))
    if raw is None:
        return Outcome("normalize", name, "waiting", note="download first")
    index: tuple[Shard, ...] = ()
    index_folder = workspace.index(table.images_from or dataset.name)
    if table.records.function is not None:
        manifest = read_finished(index_folder)
        if manifest is None:
            return Outcome("normalize", name, "waiting", note=f"images of {table.images_from or dataset.name} first")
        index = manifest.shards
    tasks = [
        NormalizeTask(
            workspace.raw(dataset.name) / part.name,
            part.name,
            part.sha256,
            table,
            _images_kind(dataset, table),
            str((workspace.raw(dataset.name) / part.name).resolve().parent),
            tuple(index_folder / shard.name for shard in index),
            tuple(shard.sha256 for shard in index),
            workspace.normalized(name) / shard_name(number),
        )
        for number, part in enumerate(_matching_parts(raw.shards, table, name))
    ]
    return build_shards(
        "normalize",
        name,
        workspace.normalized(name),
        tasks,
        make_samples,
        count_values,
        facts={"dataset": dataset.name, "kind": table.kind, "parts": [task.part_name for task in tasks]},
        workers=workspace.workers,
        force=force,
        dry_run=dry_run,
    )


def _images_kind(dataset: Dataset, table: Table) -> str:
    if table.images_from is None and isinstance(dataset.images, UrlImages | GivenImages):
        return dataset.images.kind
    return "archive"


def _matching_parts(parts: tuple[Shard, ...], table: Table, name: str) -> list[Shard]:
    matching = [part for part in parts if fnmatch.fnmatchcase(part.name, table.records.parts)]
    if not matching:
        raise DataError(
            f"table {name}: none of its dataset's {len(parts)} parts matches records.parts {table.records.parts!r}",
            f"Mend the dataset's YAML; the first part is {parts[0].name!r}." if parts else "Download it again.",
        )
    return matching


def make_samples(task: NormalizeTask) -> None:
    """Write the samples of one part."""
    with sql.connect(task.output) as connection, open_records_of(task, connection):
        query = samples_query(connection, task)
        sql.copy_to_parquet(connection, query, task.output, {sql.TASK_KEY: task.fingerprint})


def count_values(task: NormalizeTask) -> dict[str, int]:
    """Values that are not null, by column, of the finished shard."""
    import pyarrow.parquet as pq

    footer = pq.read_metadata(task.output)
    counts: dict[str, int] = {}
    for group in range(footer.num_row_groups):
        for number in range(footer.num_columns):
            column = footer.row_group(group).column(number)
            name = column.path_in_schema
            counts[name] = counts.get(name, 0) + column.num_values - column.statistics.null_count
    return counts


@contextmanager
def open_records_of(task: NormalizeTask, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """The task's records as the view `records`; errors in its SQL name the table and the part."""
    mend = f"Mend the YAML of the dataset (`prep datasets NAME` says where), or fetch {task.part_name} again."
    with (
        sql.data_errors(f"table {task.output.parent.stem}, part {task.part_name}", mend),
        open_records(connection, task.table.records, task.part, _image_sizes(task)),
    ):
        yield


def _image_sizes(task: NormalizeTask) -> SizeOf:
    """Width and height by image key, read from the index when first asked for."""

    @cache
    def sizes() -> dict[str, tuple[int, int]]:
        from prep.images.index import OK, read_index

        columns = read_index(task.index).select([IMAGE_KEY, "status", "width", "height"]).to_pydict()
        rows = zip(columns[IMAGE_KEY], columns["status"], columns["width"], columns["height"], strict=True)
        return {key: (width, height) for key, status, width, height in rows if status == OK}

    return lambda image_key: sizes().get(image_key)


def samples_query(connection: duckdb.DuckDBPyConnection, task: NormalizeTask) -> str:
    """SQL of the task's samples over the view `records`.

    Beside the publisher's columns the YAML's expressions may use `_part` (the part's path), `_stem` (without its
    ending) and `_row` (counted from 0).
    """
    rows = (
        f"(SELECT *, row_number() OVER () - 1 AS _row, {sql.text(task.part_name)} AS _part, "
        f"{sql.text(archive_stem(task.part_name))} AS _stem FROM records)"
    )
    published = _published_values(task)
    listed = ", ".join(f"({expression}) AS {sql.name(name)}" for name, expression in published.items())
    described = connection.execute(f"DESCRIBE SELECT {listed} FROM {rows}").fetchall()
    types = {row[0]: row[1] for row in described}
    columns = {name: _typed(name, types[name], task.table.shape.column(name)) for name in published}

    declared = [f"WHEN ({predicate}) THEN {sql.text(reason)}" for reason, predicate in task.table.drop.items()]
    own = f"{DROP_REASON}, " if task.table.records.function else ""  # a dataset's own function gives reasons too
    declared_case = f"coalesce({own}{_case(declared)}) AS _declared"
    inner = f"SELECT _part || '#' || _row AS {KEY}, _row AS {ROW}, {declared_case}, {listed} FROM {rows}"
    unusable = [
        f"WHEN {sql.name(name)} IS NOT NULL AND {value} IS NULL THEN {sql.text('bad_' + name)}"
        for name, value in columns.items()
        if task.table.shape.column(name) and types[name] not in ("FLOAT", "DOUBLE")
    ]
    missing = [
        f"WHEN coalesce(CAST({columns[name]} AS VARCHAR), '') SIMILAR TO {_BLANK} THEN {sql.text('no_' + word)}"
        for name, word in _needed(task).items()
    ]
    values = ", ".join(f"{value} AS {sql.name(name)}" for name, value in columns.items())
    reason = f"coalesce(_declared, {_case(missing + unusable)})"
    return f"SELECT {KEY}, {ROW}, {values}, {reason} AS {DROP_REASON} FROM ({inner})"


def _published_values(task: NormalizeTask) -> dict[str, str]:
    """SQL over the records for every column of the samples but `key` and `drop_reason`."""
    table = task.table
    select = dict(table.select)
    values: dict[str, str] = {}
    if task.images == "url":
        values[URL] = select.pop(URL, URL)
        values[IMAGE_KEY] = f"substr(sha256({values[URL]}), 1, 32)"
    elif task.images == "given":
        path = f"CAST({select.pop(table.shape.image_path)} AS VARCHAR)"
        absolute = f"regexp_matches({path}, '^(/|[a-z0-9]+://)')"
        beside = f"WHEN NOT {path} SIMILAR TO {_BLANK} THEN {sql.text(task.base + '/')} || {path}"
        values[table.shape.image_path] = f"CASE WHEN {absolute} THEN {path} {beside} END"
        values[IMAGE_KEY] = values[table.shape.image_path]
    else:
        values[IMAGE_KEY] = table.image or "NULL"
    for column in table.shape.columns:
        if column.name != table.shape.image_path:
            values[column.name] = select.get(column.name, f"CAST(NULL AS {column.type})")
    return values | table.extra


def _typed(name: str, type_: str, column: Column | None) -> str:
    """SQL that gives a published value its column's type; what does not fit, and NaN, is null.

    A float32 score goes to float64 through its shortest decimal, so that a published 5.67 is 5.67 and not
    5.670000076: the strict cutoff then takes the same rows as a comparison in float32 would.
    """
    value = sql.name(name)
    if column is None:
        return value
    if column.type == "DOUBLE" and type_ == "FLOAT":
        value = f"CAST({value} AS VARCHAR)"
    value = f"TRY_CAST({value} AS {column.type})"
    return f"CASE WHEN isfinite({value}) THEN {value} END" if column.type == "DOUBLE" else value


def _needed(task: NormalizeTask) -> dict[str, str]:
    """Columns that a sample cannot do without, and the word for each in its reason."""
    image = {URL: "url"} if task.images == "url" else {IMAGE_KEY: "image"}
    kind = task.table.shape
    texts = [column.name for column in kind.columns if column.required and column.name != kind.image_path]
    return image | {name: name for name in texts}


def _case(branches: list[str]) -> str:
    return f"CASE {' '.join(branches)} END" if branches else "CAST(NULL AS VARCHAR)"
