"""normalize: every dataset's records as samples of one schema a kind.

A sample has its kind's columns, `key` and `image_key`, whatever the dataset keeps for `where`, and `drop_reason`. Rows
that cannot be used are kept here with their reason; filter takes them out, so that nothing vanishes.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import duckdb
from duckdb.func import FunctionNullHandling, PythonUDFType

from prep import sql
from prep.config import Dataset, GivenImages, S3Source, Source, Table, UrlImages
from prep.datasets import SizeOf
from prep.errors import DataError
from prep.images.archives import archive_stem
from prep.manifest import Shard, fingerprint, read_finished
from prep.readers import open_records
from prep.schema import (
    ANY,
    CAPTION,
    DROP_REASON,
    IMAGE_KEY,
    KEY,
    NATIVE_TURNS,
    OTHER_TURNS,
    ROW,
    TEXT,
    TEXTS,
    TURNS,
    TURNS_TEXT,
    URL,
    Column,
    Kind,
)
from prep.stages.freeing import check_not_needed
from prep.stages.shards import Outcome, ShardTask, build_shards, share_memory
from prep.workspace import Workspace, shard_name

ONE = "ONE"  # a text; of a list of one, that one
JOINED = "JOINED"  # texts of a column that the trainer wants joined; a list until filter knows the images' paths
_WHOLE = "'(?i)^(/|[a-z0-9]+://)'"  # how a path begins that is no relative one
_BLANK = r"'[\s\p{Z}\p{C}]*'"  # nothing that can be seen

VERSION = 3  # raise when the same inputs give other bytes

# For the YAML of a dataset whose records are JSON.
_MACROS = (
    "CREATE TEMP MACRO json_text(x) AS CASE json_type(x) WHEN 'VARCHAR' THEN x->>'$' END",
    """CREATE TEMP MACRO json_texts(x) AS CASE json_type(x) WHEN 'VARCHAR' THEN nullif([x->>'$'], [''])
       WHEN 'ARRAY' THEN nullif(x->>'$[*]', []) END""",
)


@dataclass(frozen=True)
class NormalizeTask(ShardTask):
    """The samples of one part.

    Attributes:
        images: how the table's images are addressed: `url`, `given` or `archive`.
        base: folder of the data file, which relative paths of given images start from.
        index: shards of the image index, for a table whose reader asks for image sizes.
        index_sha256: what is in them.
        memory: bytes it may have; None for a worker's share of what is free.
        in_place: how the bucket is reached, where the part stands for an object that stays on S3.
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
    memory: int | None = None
    in_place: S3Source | None = None

    @property
    def fingerprint(self) -> str:
        """Everything the shard is made from; what is for filter alone is not part of it."""
        table = self.table.model_dump(mode="json", exclude={"filter", "scores"})
        inputs = [self.part_name, self.part_sha256, self.images, self.base, self.index_sha256]
        return fingerprint([VERSION, *inputs, table])


def normalize(
    workspace: Workspace, name: str, *, memory: int | None = None, force: bool = False, dry_run: bool = False
) -> Outcome:
    """Write the samples of table `name`, one shard a part.

    Needs the dataset's parts; a table whose annotations lack image sizes also needs its images' index. Until then
    the outcome is `waiting`.

    Args:
        memory: bytes that all workers may have together; by default half of what is free.

    Raises:
        DataError: a part is not what the dataset's YAML says.
    """
    dataset, table = workspace.table(name)
    raw = read_finished(workspace.raw(dataset.name))
    if raw is None:
        return Outcome("normalize", name, "waiting", note="download first")
    index: tuple[Shard, ...] = ()
    images_of = next(iter(table.image_datasets(dataset.name).values()))
    index_folder = workspace.index(images_of)
    if table.records.function is not None:
        manifest = read_finished(index_folder)
        if manifest is None:
            return Outcome("normalize", name, "waiting", note=f"images of {images_of} first")
        index = manifest.shards
    kind_of_images = _images_kind(dataset, table)
    parts = _matching_parts(raw.shards, table, name)
    workers, share = share_memory(workspace, len(parts), memory)
    tasks = [
        NormalizeTask(
            workspace.raw(dataset.name) / part.name,
            part.name,
            part.sha256,
            table,
            kind_of_images,
            _folder_of(workspace, dataset, part) if kind_of_images == "given" else "",
            tuple(index_folder / shard.name for shard in index),
            tuple(shard.sha256 for shard in index),
            workspace.normalized(name) / shard_name(number if part.position is None else part.position),
            share,
            _read_in_place(workspace.source(dataset)),
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
        workers=workers,
        force=force,
        dry_run=dry_run,
    )


def _read_in_place(source: Source) -> S3Source | None:
    return source if isinstance(source, S3Source) and source.in_place else None


def _folder_of(workspace: Workspace, dataset: Dataset, part: Shard) -> str:
    """The folder that a part came from, or lies in where its source is elsewhere; on S3 the prefix."""
    source = workspace.source(dataset)
    if isinstance(source, S3Source):
        root = source.path.removesuffix(part.name) if source.path.endswith(f"/{part.name}") else source.path
        return f"{root.rstrip('/')}/{part.name}".rpartition("/")[0]
    return str((workspace.raw(dataset.name) / part.name).resolve().parent)


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
    with sql.connect(task.output, task.memory) as connection, open_records_of(task, connection):
        sql.confine(connection, [task.part, task.output.parent, *_named_files(task.table)])
        query = samples_query(connection, task)
        if _has_window(task.table):  # such a function leaves the rows in an order of its own
            query = f"{query} ORDER BY {ROW}"
        sql.copy_to_parquet(connection, query, task.output, {sql.TASK_KEY: task.fingerprint}, level=1)


def _has_window(table: Table) -> bool:
    return any(re.search(r"(?i)\bover\b", expression) for expression in _expressions(table))


def _expressions(table: Table) -> list[str]:
    return [*table.select.values(), *table.extra.values(), *table.drop.values(), *table.image_keys.values()]


def _named_files(table: Table) -> list[Path]:
    """Parquet files that the table's SQL names in full, to join them; nobody's password stands in such a file."""
    return [Path(name) for text in _expressions(table) for name in re.findall(r"'([^']+\.parquet)'", text)]


def count_values(task: NormalizeTask) -> dict[str, int]:
    """Values that are not null, by column, of the finished shard; those in lists count for their column."""
    import pyarrow.parquet as pq

    footer = pq.read_metadata(task.output)
    counts: dict[str, int] = {}
    for group in range(footer.num_row_groups):
        for number in range(footer.num_columns):
            column = footer.row_group(group).column(number)
            name = column.path_in_schema
            if name != footer.schema.column(number).name:
                name = name.partition(".")[0]
            nulls = column.statistics.null_count if column.statistics is not None else 0
            counts[name] = counts.get(name, 0) + column.num_values - nulls
    return counts


@contextmanager
def open_records_of(task: NormalizeTask, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """The task's records as the view `records`; errors in its SQL name the table and the part."""
    mend = f"Mend the YAML of the dataset (`prep datasets NAME` says where), or fetch {task.part_name} again."
    in_place = None if task.in_place is None else (task.in_place, partial(_may_be_needed, task.table))
    with (
        sql.data_errors(f"table {task.output.parent.stem}, part {task.part_name}", mend),
        open_records(connection, task.table.records, task.part, _image_sizes(task), in_place),
    ):
        yield


def _may_be_needed(table: Table, column: str) -> bool:
    """Whether the SQL of a table may mean a column of its records; rather one too many than one too few."""
    aliases = [alias for names in table.records.columns.values() for alias in names]
    texts = [*_expressions(table), *aliases, URL]
    says_all = any("*" in text or re.search(r"(?i)\b(columns|records)\b", text) for text in texts)
    word = column.replace('"', '""').casefold()
    return says_all or any(word in text.casefold() for text in texts)


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
    ending) and `_row` (counted from 0), `json_text` and `json_texts`.
    """
    for macro in _MACROS:
        connection.execute(macro)
    records = _numbered_records(connection, task)
    published = _published(task)
    listed = ", ".join(f"({expression}\n) AS {sql.name(name)}" for name, expression in published.items())
    described = connection.execute(f"DESCRIBE SELECT {listed} FROM {records}").fetchall()
    types = {row[0]: row[1].strip('"') for row in described}

    declared = [f"WHEN ({predicate}\n) THEN {sql.text(reason)}" for reason, predicate in task.table.drop.items()]
    own = f"{DROP_REASON}, " if task.table.records.gives_reasons else ""
    reasons = f"coalesce({own}{_case(declared)}) AS _declared"
    # NaN is how some publishers write null.
    read = ", ".join(
        f"nullif(({expression}\n), 'nan') AS {sql.name(name)}"
        if types[name] in ("FLOAT", "DOUBLE")
        else f"({expression}\n) AS {sql.name(name)}"
        for name, expression in published.items()
    )
    raw = f"SELECT _part || '#' || _row AS {KEY}, _row AS {ROW}, {reasons}, {read} FROM {records}"

    bad, values = [], []
    for name, type_ in types.items():
        value = _typed(sql.name(name), type_, _type_of(name, task.table.shape))
        values.append(f"{value} AS {sql.name(name)}")
        bad.append(f"WHEN {_has_value(sql.name(name), type_)} AND {value} IS NULL THEN {sql.text(f'bad_{name}')}")
    typed = f"SELECT {KEY}, {ROW}, coalesce(_declared, {_case(bad)}) AS _reason, {', '.join(values)} FROM ({raw})"
    if _turns_type(task) is not None:
        typed = _with_normal_turns(connection, task, typed)

    columns = {name: sql.name(name) for name in published} | _image_columns(task)
    missing = [
        f"WHEN {_is_missing(columns[name], task, name)} THEN 'no_{word}'" for name, word in needed_columns(task).items()
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
    """SQL over the records of everything the publisher says of a sample, by the sample's column.

    Images of archives are named by their keys: that of the one image under `image_key`, lists of keys under the names
    of their columns.
    """
    table, kind = task.table, task.table.shape
    keys = table.image_keys
    columns = {
        column.name: keys.get(column.name, "NULL")
        if column.images and task.images == "archive"
        else table.select.get(column.name, f"CAST(NULL AS {_nullable_type(column)})")
        for column in kind.columns
    }
    path = kind.image_path
    if path is None or task.images == "given":
        return columns | table.extra
    image = columns.pop(path)
    first = {URL: table.select.get(URL, URL)} if task.images == "url" else {IMAGE_KEY: image}
    return first | columns | table.extra


def _nullable_type(column: Column) -> str:
    return TEXT if column.type in (ANY, TURNS_TEXT, OTHER_TURNS) else column.type


def _type_of(name: str, kind: Kind) -> str | None:
    """The type a column has in a sample; None for one that is kept as it is."""
    column = kind.column(name)
    if column is None:
        return TEXT if name in (URL, IMAGE_KEY) else None
    if column.images is not None:
        return {"one": ONE, "list": TEXTS, "joined": JOINED}[column.images]
    return column.type


def _typed(value: str, type_: str, wanted: str | None) -> str:
    """SQL that gives a published value of `type_` the type it has in a sample; what does not fit is null.

    A float32 score goes to float64 through its shortest decimal, so that a published 5.67 is 5.67 and not
    5.670000076: the strict cutoff then takes the same rows as a comparison in float32 would. Numbers that are not
    whole are no sizes, infinity is no score, and lists and structs are no text.
    """
    if wanted == ANY:
        return f"({value}->>'$')" if type_ == "JSON" else value
    if wanted is None or type_ == wanted == TEXT:
        return value
    if wanted == ONE and (type_ == "JSON" or type_ == TEXTS):
        texts = f"json_texts({value})" if type_ == "JSON" else value
        return f"CASE WHEN len({texts}) = 1 THEN {texts}[1] END"
    wanted = TEXT if wanted == ONE else wanted
    if wanted in (TEXTS, JOINED):
        return _texts(value, type_, separator=";" if wanted == JOINED else None)
    if wanted in (TURNS_TEXT, NATIVE_TURNS, OTHER_TURNS):
        turns = f"CAST({value} AS {TEXT})" if type_ in (TEXT, "JSON") else f"CAST(to_json({value}) AS {TEXT})"
        return _native_turns(f"if(json_valid({turns}), {turns}, NULL)") if wanted == OTHER_TURNS else turns
    if type_ == "JSON":
        value, type_ = f"({value}->>'$')", TEXT
        if wanted == TEXT:
            return value
    if type_.endswith("]") or type_.startswith(("STRUCT", "MAP", "UNION")):
        return f"CAST(NULL AS {wanted})"
    if wanted == TEXT:
        return f"TRY(decode({value}))" if type_ == "BLOB" else f"CAST({value} AS {TEXT})"
    if wanted == "BOOLEAN":
        return f"TRY_CAST({value} AS BOOLEAN)"
    number = f"TRY_CAST({f'CAST({value} AS {TEXT})' if type_ in ('FLOAT', 'BLOB') else value} AS DOUBLE)"
    if wanted == "DOUBLE":
        return f"CASE WHEN isfinite({number}) THEN {number} END"
    return f"CASE WHEN abs({number}) < 2e9 AND {number} = trunc({number}) THEN CAST({number} AS {wanted}) END"


def _texts(value: str, type_: str, separator: str | None) -> str:
    """SQL of a list of texts: of a list, of one text alone, of either as JSON; null for none or one that is blank."""
    if separator is not None and type_ in ("JSON", TEXT):
        text = f"json_text({value})" if type_ == "JSON" else value
        texts = f"CASE WHEN NOT {text} SIMILAR TO {_BLANK} THEN string_split({text}, {sql.text(separator)}) END"
    elif type_ == "JSON":
        texts = f"json_texts({value})"
    elif type_ == TEXTS:
        texts = f"nullif({value}, [])"
    elif type_ == TEXT:
        texts = f"CASE WHEN NOT {value} SIMILAR TO {_BLANK} THEN [{value}] END"
    else:
        return f"CAST(NULL AS {TEXTS})"
    is_whole = f"len(list_filter({texts}, lambda text: text IS NOT NULL AND NOT text SIMILAR TO {_BLANK}))"
    return f"CASE WHEN {is_whole} = len({texts}) THEN {texts} END"


def _has_value(value: str, type_: str) -> str:
    """SQL of whether anything was published."""
    if type_ == "JSON":
        return f"coalesce(json_type({value}) != 'NULL' AND CAST({value} AS {TEXT}) NOT IN ('[]', '\"\"'), false)"
    if type_ == TEXTS:
        return f"coalesce(len({value}) > 0, false)"
    return f"{value} IS NOT NULL"


# -- conversations -------------------------------------------------------------------------------------------


def _turns_type(task: NormalizeTask) -> str | None:
    """The type of the kind's conversation turns; None where it has none that are put in order."""
    column = task.table.shape.column(TURNS)
    return column.type if column is not None and column.type in (TURNS_TEXT, NATIVE_TURNS) else None


def _with_normal_turns(connection: duckdb.DuckDBPyConnection, task: NormalizeTask, typed: str) -> str:
    """SQL of the typed samples with their conversations as both trainers take them, or why they cannot be."""
    from prep.datasets.turns import turns_column

    connection.create_function(
        "normal_turns",
        turns_column,
        ["VARCHAR", "INTEGER"],
        "STRUCT(turns VARCHAR, reason VARCHAR)",
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
    )
    main = task.table.shape.image_path
    if main is not None:
        image = sql.name(main if task.images == "given" else URL if task.images == "url" else IMAGE_KEY)
        images = f"CASE WHEN {image} SIMILAR TO {_BLANK} OR {image} IS NULL THEN 0 ELSE 1 END"
    else:
        images = " + ".join(f"coalesce(len({column.name}), 0)" for column in task.table.shape.image_columns)
    value = "_normal.turns"
    if _turns_type(task) == NATIVE_TURNS:
        value = _native_turns(value)
    return f"""
        SELECT * EXCLUDE (_normal) REPLACE ({value} AS {TURNS}, coalesce(_reason, _normal.reason) AS _reason)
        FROM (SELECT *, normal_turns({TURNS}, CAST({images} AS INTEGER)) AS _normal FROM ({typed}))
    """


def _native_turns(text: str) -> str:
    return f"""from_json({text}, '[{{"from": "VARCHAR", "value": "VARCHAR"}}]')"""


# -- images --------------------------------------------------------------------------------------------------


def _image_columns(task: NormalizeTask) -> dict[str, str]:
    """SQL over the typed columns of those that name images."""
    kind = task.table.shape
    path = kind.image_path
    if task.images == "url":
        return {IMAGE_KEY: f"CASE WHEN NOT {URL} SIMILAR TO {_BLANK} THEN substr(sha256({URL}), 1, 32) END"}
    if task.images == "archive":
        key = {} if path is None else {IMAGE_KEY: f"CASE WHEN NOT {IMAGE_KEY} SIMILAR TO {_BLANK} THEN {IMAGE_KEY} END"}
        return {IMAGE_KEY: f"CAST(NULL AS {TEXT})"} | key
    folder = sql.text(task.base + "/")
    if kind.place is not None:
        folder = (
            f"CASE WHEN {kind.place} IS NULL OR {kind.place} SIMILAR TO {_BLANK} THEN {folder} "
            f"WHEN regexp_matches({kind.place}, {_WHOLE}) THEN rtrim({kind.place}, '/') || '/' "
            f"ELSE {folder} || {kind.place} || '/' END"
        )
    columns = {}
    for column in kind.image_columns:
        name = sql.name(column.name)
        if column.images == "one":
            columns[column.name] = _absolute(name, folder)
        else:
            columns[column.name] = f"list_transform({name}, lambda path: {_absolute('path', folder)})"
    return columns | {IMAGE_KEY: columns.get(path or "", f"CAST(NULL AS {TEXT})")}


def _absolute(path: str, folder: str) -> str:
    """SQL of a given path, from `folder` on where it is relative; null for a blank one."""
    beside = f"WHEN NOT {path} SIMILAR TO {_BLANK} THEN ({folder}) || {path}"
    return f"CASE WHEN regexp_matches({path}, {_WHOLE}) THEN {path} {beside} END"


def needed_columns(task: NormalizeTask) -> dict[str, str]:
    """Columns that a sample cannot do without, and the word for each in its reason."""
    needed = {}
    for column in sorted(task.table.shape.columns, key=lambda column: column.images is None):
        if not column.required or (column.name == CAPTION and task.table.captions):
            continue  # nor without a caption of its own, where it takes another table's
        if column.images:
            is_main = column.name == task.table.shape.image_path
            key = URL if task.images == "url" else IMAGE_KEY
            needed[key if is_main else column.name] = key if is_main and key == URL else "image"
        else:
            needed[column.name] = column.name
    return needed


def _is_missing(value: str, task: NormalizeTask, name: str) -> str:
    column = task.table.shape.column(name)
    is_text = column is None or (column.type == TEXT and column.images in (None, "one"))
    return f"coalesce({value}, '') SIMILAR TO {_BLANK}" if is_text else f"{value} IS NULL"


def _case(branches: list[str]) -> str:
    return f"CASE {' '.join(branches)} END" if branches else f"CAST(NULL AS {TEXT})"
