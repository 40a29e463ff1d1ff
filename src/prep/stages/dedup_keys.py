"""The keys of one shard's rows that may be duplicates: hashed, in sorted runs, with what decides which row stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np

from prep import sql
from prep.errors import DataError
from prep.files import write_text
from prep.schema import AESTHETIC_SCORE, CAPTION, HEIGHT, KINDS, REASON, ROW, URL, WIDTH
from prep.stages.dedup_facts import JUDGED_LATER, PHASH
from prep.stages.dedup_groups import (
    ABSENT,
    KEYS,
    LOST,
    PROTECTED,
    THERE,
    Numbers,
    Rows,
    is_in,
    lost_in_shard,
    mixed,
    place_of,
    runs_of,
    save,
    split_best,
    winners_of,
)
from prep.stages.scored import below_store

if TYPE_CHECKING:
    import pyarrow as pa

RUN_ROWS = 2_000_000  # sorted in memory at once
BATCH_ROWS = 65_536
DONE = "done"  # a file in a folder of runs: all of them are there

# What a row's key is made of, as SQL over `value`. Spaces of any sort count as one, and not at the ends. DuckDB ends
# a text at a NUL where it normalises it; U+FFFF is no character, so no text has it.
_TEXT = r"nullif(trim(regexp_replace({}, '[\s\p{{Z}}]+', ' ', 'g')), '')"
_ADDRESS = r"nullif(regexp_replace(value, '^[\s\p{Z}]+|[\s\p{Z}]+$', '', 'g'), '')"
_KEY_OF = {
    "url": f"unhex(substr(sha256({_ADDRESS}), 1, 32))",
    "caption": f"unhex(substr(sha256({_TEXT.format('nfc_normalize(replace(value, chr(0), chr(65535)))')}), 1, 32))",
    "sha256": "CASE WHEN regexp_full_match(value, '[0-9a-fA-F]{64}') THEN unhex(substr(value, 1, 32)) END",
    "phash": "CASE WHEN regexp_full_match(value, '[0-9a-fA-F]{16}') THEN unhex(value) END",
}
_DIGITS = {"sha256": 64, "phash": 16}
ENOUGH = 8  # hashes of 16 hexadecimal digits that are all decimal by chance: one in 10^26
_TEXTS, _BYTES = ("VARCHAR", "ENUM"), "BLOB"  # columns of files: DuckDB's types


@dataclass(frozen=True)
class Images:
    """What is known of the images of one dataset.

    Attributes:
        index: shards of its index that may have those of one shard of samples.
        phash: the shards of perceptual hashes beside those; none where they do not count.
    """

    dataset: str
    index: tuple[Path, ...]
    phash: tuple[Path, ...]


@dataclass(frozen=True)
class Source:
    """One shard of a table, or one parquet file, as plain data for a worker.

    Attributes:
        name: the table's, or the file's path.
        part: what the rows' keys begin with.
        number: of the shard among all that are looked at together; it tells which is first.
        keys: what its rows have to be told by.
        is_protected: none of its rows is taken out.
        columns: of the kept rows; of a file, each with its type.
        paths: the shard's samples, kept and dropped rows; or the file alone.
        has_phash: the samples have perceptual hashes of their publisher's, which count.
        rows: that pass all that is judged before duplicates are; of a file all.
    """

    name: str
    part: str
    number: int
    keys: tuple[str, ...]
    is_protected: bool
    kind: str
    columns: Mapping[str, str]
    is_url: bool
    paths: tuple[Path, ...]
    images: tuple[Images, ...]
    image_root: str
    has_phash: bool
    rows: int


@dataclass(frozen=True)
class KeyTask:
    """The keys of one sort of one shard.

    Attributes:
        keep: which of several rows stays.
        earlier: folders of the sorts that were looked for before; what they took out is passed over.
        output: the folder of runs.
    """

    source: Source
    key: str
    keep: str
    within: bool
    earlier: tuple[Path, ...]
    memory: int
    output: Path

    def __str__(self) -> str:
        return f"{self.source.name}, {self.source.part}, by {self.key}"


def make_keys(task: KeyTask) -> None:
    """Write the runs of one shard and, beside each, which of its rows are others of it once more.

    Raises:
        DataError: a file is damaged, or its hashes are not of the form that is compared.
    """
    source = task.source
    shutil.rmtree(task.output, ignore_errors=True)
    task.output.mkdir(parents=True)
    gone = [lost_of(folder, source, within=task.within)["place"] for folder in task.earlier]
    passed = np.sort(np.concatenate([np.empty(0, dtype=np.uint64), *gone]))
    mend = "`prep filter --force` writes it anew; of a file, mend it."
    with sql.connect(task.output / "keys", task.memory) as connection, sql.data_errors(str(task), mend):
        if not source.kind and task.key in _DIGITS:
            _check_hashes(connection, task)
        reader = connection.sql(_query(task)).to_arrow_reader(BATCH_ROWS)
        batches = (_rows(batch, task, passed) for batch in reader)
        rows = 0
        for number, run in enumerate(runs_of(batches, RUN_ROWS)):
            rows += len(run)
            _save_run(task, number, run)
    write_text(task.output / DONE, str(rows))


def _save_run(task: KeyTask, number: int, run: Rows) -> None:
    best, lost = split_best(run)
    save(task.output / f"run-{number:05d}.npy", best)
    if not task.source.is_protected:
        save(task.output / f"once-more-{number:05d}.npy", lost)


def keys_made(folder: Path, source: Source) -> int:
    """How many rows of a shard have a key, and were not taken out by an earlier one.

    Args:
        folder: of that sort of key.
    """
    return int((folder / "keys" / str(source.number) / DONE).read_text())


def _check_hashes(connection: duckdb.DuckDBPyConnection, task: KeyTask) -> None:
    """Raise DataError unless a file's hashes are hexadecimal digits, as the tables' are."""
    digits = _DIGITS[task.key]
    [(given, fitting, decimal)] = connection.execute(
        f"SELECT count(value), count(*) FILTER (regexp_full_match(value, '[0-9a-fA-F]{{{digits}}}')), "
        f"count(*) FILTER (regexp_full_match(value, '[0-9]+')) FROM ({_of_file(task)})"
    ).fetchall()
    where, form = task.source.paths[0], f"Write it as {digits} hexadecimal digits: in Python f'{{number:0{digits}x}}'."
    if given and not fitting:
        raise DataError(
            f"{where}: {task.key} is {digits} hexadecimal digits in none of its {given:,} rows with one", form
        )
    if given >= ENOUGH and decimal == given:
        raise DataError(f"{where}: {task.key} looks like decimal numbers in all of its {given:,} rows with one", form)


def _rows(batch: pa.RecordBatch, task: KeyTask, passed: Numbers) -> Rows:
    """The rows of a batch that were not taken out before."""
    rows = np.empty(batch.num_rows, dtype=KEYS)
    if task.key == "phash":
        rows["low"] = _numbers(batch["key"], 1)[:, 0]
        rows["high"] = mixed(rows["low"])
    else:
        halves = _numbers(batch["key"], 2)
        rows["high"], rows["low"] = halves[:, 0], halves[:, 1]
    rows["rank"] = PROTECTED if task.source.is_protected else np.where(batch["absent"], ABSENT, THERE)
    rows["first"], rows["second"] = batch["first"], batch["second"]
    rows["place"] = place_of(task.source.number, batch[ROW].to_numpy())
    return rows[~is_in(rows["place"], passed)]


def _numbers(column: pa.Array, words: int) -> Numbers:
    """A column of bytes as unsigned numbers of 64 bits, [rows, words]."""
    import pyarrow as pa

    fixed = column.cast(pa.binary(8 * words))
    data = np.frombuffer(fixed.buffers()[1], dtype=">u8")
    return data[fixed.offset * words : (fixed.offset + len(fixed)) * words].reshape(-1, words)


def _query(task: KeyTask) -> str:
    """SQL of the rows with a key: `row`, `absent`, `first` and `second` (larger ones stay), `key`."""
    nothing, score, pixels = ("CAST('-infinity' AS DOUBLE)", _finite("score"), _finite("pixels"))
    orders = {"score": (score, pixels), "largest": (pixels, score), "first": (nothing, nothing)}
    first, second = orders[task.keep]
    rows = _candidates(task) if task.source.kind else _of_file(task)
    return (
        f"SELECT * FROM (SELECT {ROW}, absent, {first} AS first, {second} AS second, {_KEY_OF[task.key]} AS key "
        f"FROM ({rows})) WHERE key IS NOT NULL"
    )


def _finite(column: str) -> str:
    return f"CASE WHEN isfinite({column}) THEN {column} ELSE CAST('-infinity' AS DOUBLE) END"


def _candidates(task: KeyTask) -> str:
    """SQL of the rows that pass all that is judged before duplicates, with what they may be duplicates by."""
    source = task.source
    samples, kept, dropped = source.paths
    kind = KINDS[source.kind]
    path = f"CAST({sql.name(kind.image_path)} AS VARCHAR)" if kind.image_path else "NULL"
    score = f"CAST({AESTHETIC_SCORE} AS DOUBLE)" if AESTHETIC_SCORE in source.columns else "CAST(NULL AS DOUBLE)"
    has_size = {HEIGHT, WIDTH} <= set(source.columns)
    pixels = f"CAST({HEIGHT} AS DOUBLE) * {WIDTH}" if has_size else "CAST(NULL AS DOUBLE)"
    absent = f"{path} IS NULL" if source.is_url else "false"
    value = {"url": URL, "caption": CAPTION}.get(task.key, "NULL")
    columns = (
        f"{ROW}, {path} AS path, {score} AS score, {pixels} AS pixels, {absent} AS absent, "
        f"CAST({value} AS VARCHAR) AS value"
    )
    later = ", ".join(map(sql.text, JUDGED_LATER))
    rows = (
        f"SELECT {columns} FROM {sql.parquet_files([kept])} UNION ALL "
        f"SELECT {columns} FROM {sql.completed(dropped, samples, ROW)} WHERE {REASON} IN ({later})"
    )
    if task.key in ("url", "caption"):
        return rows
    if task.key == "phash" and source.has_phash:
        joined = f"SELECT {ROW}, {PHASH} AS value FROM {sql.parquet_files([samples])}"
        return f"SELECT c.* REPLACE (s.value AS value) FROM ({rows}) c JOIN ({joined}) s ON s.{ROW} = c.{ROW}"
    stored = below_store("c.path", source.image_root)  # an adopted folder may lie below the store
    return f"SELECT c.* REPLACE (i.value AS value) FROM ({rows}) c JOIN ({_images(task)}) i ON i.path = {stored}"


def _images(task: KeyTask) -> str:
    """SQL of the images: their paths from the image store on, and the wanted hash."""
    known = []
    for images in task.source.images:
        shards = images.phash if task.key == "phash" else images.index
        if shards:
            whole = below_store("path", task.source.image_root)
            path = f"if(starts_with(path, '/'), {whole}, {sql.text(images.dataset + '/')} || path)"
            rows = f"SELECT {path} AS path, {task.key} AS value FROM {sql.parquet_files(shards)}"
            known.append(f"{rows} WHERE path IS NOT NULL AND {task.key} IS NOT NULL")
    # Two keys of an index may lead to one image.
    return f"SELECT path, any_value(value) AS value FROM ({' UNION ALL '.join(known)}) GROUP BY path"


def _of_file(task: KeyTask) -> str:
    """SQL of the rows of a parquet file that is no table of the workspace."""
    (path,) = task.source.paths
    column = keys_of_file(task.source.columns)[task.key]
    value = sql.name(column)
    if task.source.columns[column] == _BYTES:  # texts that nobody has called texts; of SHA-256 also its 32 bytes
        value = (
            f"decode({value})"
            if task.key != "sha256"
            else f"if(octet_length({value}) = 32, hex({value}), decode({value}))"
        )
    nothing = "CAST(NULL AS DOUBLE)"
    return (
        f"SELECT row_number() OVER () - 1 AS {ROW}, {nothing} AS score, {nothing} AS pixels, false AS absent, "
        f"CAST({value} AS VARCHAR) AS value FROM {sql.parquet_files([path])}"
    )


def columns_of_file(path: Path) -> dict[str, str]:
    """Every column of a parquet file, with its type as DuckDB names it.

    Raises:
        DataError: it is none, or damaged.
    """
    with sql.connect() as connection:
        try:
            columns = connection.execute(f"DESCRIBE SELECT * FROM {sql.parquet_files([path])}").fetchall()
        except duckdb.Error as error:
            raise DataError(f"{path}: {str(error).splitlines()[0]}", "--against takes parquet files.") from error
    return {name: type_ for name, type_, *_ in columns}


def keys_of_file(columns: Iterable[str]) -> dict[str, str]:
    """What rows of a file with these columns can be told by, each with its column."""
    names = {column.lower(): column for column in columns}
    if PHASH in names:
        names.setdefault("phash", names[PHASH])
    return {key: names[key] for key in _KEY_OF if key in names}


def is_text(type_: str) -> bool:
    """Whether values of a DuckDB type are texts, or bytes that may be."""
    return type_ in (_BYTES, '"NULL"') or (type_.startswith(_TEXTS) and not type_.endswith("]"))


# -- what was taken out ------------------------------------------------------------------------------------------------


def lost_of(folder: Path, source: Source, *, within: bool) -> Rows:
    """The rows of one shard that are taken out for one sort of key, sorted by place.

    Args:
        folder: of that sort: `lost/` over all shards, and `keys/` with what each run said of its own rows.
        within: rows are taken out for others of their own tables too.
    """
    lost = lost_in_shard(sorted((folder / "lost").glob("*.npy")), source.number)
    found = [lost]
    for file in _own(folder, source):
        own = np.load(file)
        moved, winners = winners_of(lost, own["winner"])
        own["winner"][moved] = winners
        found.append(own if within else own[moved])
    every = np.concatenate([np.empty(0, dtype=LOST), *found])
    return every[np.argsort(every["place"])]


def _own(folder: Path, source: Source) -> Iterator[Path]:
    return iter(sorted((folder / "keys" / str(source.number)).glob("once-more-*.npy")))
