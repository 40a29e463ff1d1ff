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
from prep.schema import DROP_REASON, IMAGE_KEY, KEY, ROW, URL, Kind
from prep.stages.freeing import check_not_needed
from prep.stages.shards import Outcome, ShardTask, build_shards
from prep.workspace import Workspace, shard_name

_BLANK = r"'[\s\p{Z}\p{C}]*'"  # nothing that can be seen

VERSION = 2  # raise when the same inputs give other bytes


@dataclass(frozen=True)
class NormalizeTask(ShardTask):
    """The samples of one part.

    Attributes:
        images: how the table's images are addressed: `url`, `given` or `archive`.
        base: folder of the data file, which relative paths of given images start from.
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
    kind_of_images = _images_kind(dataset, table)
    parts = _matching_parts(raw.shards, table, name)
    tasks = [
        NormalizeTask(
            workspace.raw(dataset.name) / part.name,
            part.name,
            part.sha256,
            table,
            kind_of_images,
            str((workspace.raw(dataset.name) / part.name).resolve().parent) if kind_of_images == "given" else "",
            tuple(index_folder / shard.name for shard in index),
            tuple(shard.sha256 for shard in index),
            workspace.normalized(name) / shard_name(number if part.position is None else part.position),
        )
        for number, part in enumerate(parts)
    ]
    freed = [(part.name, task) for part, task in zip(parts, tasks, strict=True) if part.freed_shares is not None]
    if not dry_run:
        check_not_needed(dataset, freed, force)
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
    records = _numbered_records(connection, task)
    published = _published(task)
    listed = ", ".join(f"({expression}) AS {sql.name(name)}" for name, expression in published.items())
    types = {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT {listed} FROM {records}").fetchall()}

    declared = [f"WHEN ({predicate}) THEN {sql.text(reason)}" for reason, predicate in task.table.drop.items()]
    own = f"{DROP_REASON}, " if task.table.records.function else ""  # a dataset's own function gives reasons too
    reasons = f"coalesce({own}{_case(declared)}) AS _declared"
    # NaN is how some publishers write null.
    read = ", ".join(
        f"nullif(({expression}), 'nan') AS {sql.name(name)}"
        if types[name] in ("FLOAT", "DOUBLE")
        else f"({expression}) AS {sql.name(name)}"
        for name, expression in published.items()
    )
    raw = f"SELECT _part || '#' || _row AS {KEY}, _row AS {ROW}, {reasons}, {read} FROM {records}"

    bad, values = [], []
    for name, type_ in types.items():
        value = _typed(sql.name(name), type_, _type_of(name, task.table.shape))
        values.append(f"{value} AS {sql.name(name)}")
        bad.append(f"WHEN {sql.name(name)} IS NOT NULL AND {value} IS NULL THEN 'bad_{name}'")
    typed = f"SELECT {KEY}, {ROW}, coalesce(_declared, {_case(bad)}) AS _reason, {', '.join(values)} FROM ({raw})"

    columns = {name: sql.name(name) for name in published} | _image_columns(task)
    missing = [
        f"WHEN coalesce({columns[name]}, '') SIMILAR TO {_BLANK} THEN 'no_{word}'"
        for name, word in _needed(task).items()
    ]
    final = ", ".join(f"{value} AS {sql.name(name)}" for name, value in columns.items())
    return f"SELECT {KEY}, {ROW}, {final}, coalesce(_reason, {_case(missing)}) AS {DROP_REASON} FROM ({typed})"


def _numbered_records(connection: duckdb.DuckDBPyConnection, task: NormalizeTask) -> str:
    """SQL of the records with our three columns, which go before a publisher's of the same name."""
    ours = {
        "_row": "row_number() OVER () - 1",
        "_part": sql.text(task.part_name),
        "_stem": sql.text(archive_stem(task.part_name).removesuffix(".parquet")),
    }
    theirs = [row[0] for row in connection.execute("DESCRIBE records").fetchall()]
    kept = [sql.name(name) for name in theirs if name.lower() not in ours]
    added = [f"{value} AS {name}" for name, value in ours.items()]
    return f"(SELECT {', '.join(kept + added)} FROM records)"


def _published(task: NormalizeTask) -> dict[str, str]:
    """SQL over the records of everything the publisher says of a sample, by the sample's column."""
    table = task.table
    path = table.shape.image_path
    image = {
        "url": {URL: table.select.get(URL, URL)},
        "given": {path: table.select.get(path, path)},
        "archive": {IMAGE_KEY: table.image or "NULL"},
    }[task.images]
    columns = {
        column.name: table.select.get(column.name, f"CAST(NULL AS {column.type})")
        for column in table.shape.columns
        if column.name != path
    }
    return image | columns | table.extra


def _type_of(name: str, kind: Kind) -> str | None:
    """The type a column has in a sample; None for one that is kept as it is."""
    column = kind.column(name)
    if column is not None:
        return column.type
    return "VARCHAR" if name in (URL, IMAGE_KEY) else None


def _typed(value: str, type_: str, wanted: str | None) -> str:
    """SQL that gives a published value of `type_` the type it has in a sample; what does not fit is null.

    A float32 score goes to float64 through its shortest decimal, so that a published 5.67 is 5.67 and not
    5.670000076: the strict cutoff then takes the same rows as a comparison in float32 would. Numbers that are not
    whole are no sizes, infinity is no score, and lists and structs are no text.
    """
    if wanted is None or type_ == wanted == "VARCHAR":
        return value
    if type_.endswith("]") or type_.startswith(("STRUCT", "MAP", "UNION")):
        return f"CAST(NULL AS {wanted})"
    if wanted == "VARCHAR":
        return f"TRY(decode({value}))" if type_ == "BLOB" else f"CAST({value} AS VARCHAR)"
    number = f"TRY_CAST({f'CAST({value} AS VARCHAR)' if type_ in ('FLOAT', 'BLOB') else value} AS DOUBLE)"
    if wanted == "DOUBLE":
        return f"CASE WHEN isfinite({number}) THEN {number} END"
    return f"CASE WHEN abs({number}) < 2e9 AND {number} = trunc({number}) THEN CAST({number} AS {wanted}) END"


def _image_columns(task: NormalizeTask) -> dict[str, str]:
    """SQL over the typed columns of those that name the image."""
    path = task.table.shape.image_path
    if task.images == "url":
        return {IMAGE_KEY: f"substr(sha256({URL}), 1, 32)"}
    if task.images == "given":
        beside = f"WHEN NOT {path} SIMILAR TO {_BLANK} THEN {sql.text(task.base + '/')} || {path}"
        absolute = f"CASE WHEN regexp_matches({path}, '(?i)^(/|[a-z0-9]+://)') THEN {path} {beside} END"
        return {path: absolute, IMAGE_KEY: absolute}
    return {}


def _needed(task: NormalizeTask) -> dict[str, str]:
    """Columns that a sample cannot do without, and the word for each in its reason."""
    kind = task.table.shape
    image = {URL: "url"} if task.images == "url" else {IMAGE_KEY: "image"}
    return image | {
        column.name: column.name for column in kind.columns if column.required and column.name != kind.image_path
    }


def _case(branches: list[str]) -> str:
    return f"CASE {' '.join(branches)} END" if branches else "CAST(NULL AS VARCHAR)"
