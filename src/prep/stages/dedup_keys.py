"""The keys of one shard's rows that may be duplicates: hashed, in sorted runs, with what decides which row stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prep import sql
from prep.files import write_text
from prep.schema import AESTHETIC_SCORE, CAPTION, HEIGHT, KINDS, REASON, ROW, URL, WIDTH
from prep.stages.dedup_facts import JUDGED_LATER
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
PHASH = "image_phash"  # a column of samples, as COYO publishes it
DONE = "done"  # a file in a folder of runs: all of them are there

# What a row's key is made of, as SQL over `value`. Spaces of any sort count as one, and not at the ends.
_TEXT = r"nullif(trim(regexp_replace({}, '[\s\p{{Z}}]+', ' ', 'g')), '')"
_ADDRESS = r"nullif(regexp_replace(value, '^[\s\p{Z}]+|[\s\p{Z}]+$', '', 'g'), '')"
_KEY_OF = {
    "url": f"unhex(substr(sha256({_ADDRESS}), 1, 32))",
    "caption": f"unhex(substr(sha256({_TEXT.format('nfc_normalize(value)')}), 1, 32))",
    "sha256": "CASE WHEN regexp_full_match(value, '[0-9a-fA-F]{64}') THEN unhex(substr(value, 1, 32)) END",
    "phash": "CASE WHEN regexp_full_match(value, '[0-9a-fA-F]{16}') THEN unhex(value) END",
}


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
        columns: of the kept rows.
        paths: the shard's samples, kept and dropped rows; or the file alone.
        has_phash: the samples have perceptual hashes of their publisher's, which count.
    """

    name: str
    part: str
    number: int
    keys: tuple[str, ...]
    is_protected: bool
    kind: str
    columns: tuple[str, ...]
    is_url: bool
    paths: tuple[Path, ...]
    images: tuple[Images, ...]
    image_root: str
    has_phash: bool


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
    """Write the runs of one shard and, beside each, which of its rows are others of it once more."""
    source = task.source
    shutil.rmtree(task.output, ignore_errors=True)
    task.output.mkdir(parents=True)
    gone = [lost_of(folder, source, within=task.within)["place"] for folder in task.earlier]
    passed = np.sort(np.concatenate([np.empty(0, dtype=np.uint64), *gone]))
    mend = "`prep filter --force` writes it anew; of a file, mend it."
    with sql.connect(task.output / "keys", task.memory) as connection, sql.data_errors(str(task), mend):
        reader = connection.sql(_query(task)).to_arrow_reader(BATCH_ROWS)
        batches = (_rows(batch, task, passed) for batch in reader)
        for number, run in enumerate(runs_of(batches, RUN_ROWS)):
            best, lost = split_best(run)
            save(task.output / f"run-{number:05d}.npy", best)
            if not source.is_protected:
                save(task.output / f"once-more-{number:05d}.npy", lost)
    write_text(task.output / DONE, "")


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
    stored = below_store("c.path", source.image_root)
    return f"SELECT c.* REPLACE (i.value AS value) FROM ({rows}) c JOIN ({_images(task)}) i ON i.path = {stored}"


def _images(task: KeyTask) -> str:
    """SQL of the images: their paths from the image store on, and the wanted hash."""
    known = []
    for images in task.source.images:
        shards = images.phash if task.key == "phash" else images.index
        if shards:
            path = f"if(starts_with(path, '/'), path, {sql.text(images.dataset + '/')} || path)"
            rows = f"SELECT {path} AS path, {task.key} AS value FROM {sql.parquet_files(shards)}"
            known.append(f"{rows} WHERE path IS NOT NULL AND {task.key} IS NOT NULL")
    # Two keys of an index may lead to one image.
    return f"SELECT path, any_value(value) AS value FROM ({' UNION ALL '.join(known)}) GROUP BY path"


def _of_file(task: KeyTask) -> str:
    """SQL of the rows of a parquet file that is no table of the workspace."""
    (path,) = task.source.paths
    names = {column.lower(): column for column in task.source.columns}
    value = names.get(task.key) or names[PHASH]
    nothing = "CAST(NULL AS DOUBLE)"
    return (
        f"SELECT row_number() OVER () - 1 AS {ROW}, {nothing} AS score, {nothing} AS pixels, false AS absent, "
        f"CAST({sql.name(value)} AS VARCHAR) AS value FROM {sql.parquet_files([path])}"
    )


def keys_of_file(columns: Sequence[str]) -> tuple[str, ...]:
    """What rows of a file with these columns can be told by."""
    names = {column.lower() for column in columns}
    return tuple(key for key in _KEY_OF if key in names or (key == "phash" and PHASH in names))


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
