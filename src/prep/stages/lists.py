"""JSON lists of rows, as the LLaVA family reads them.

A list has a row on each line, in the publisher's order, rows of text alone among them; the same inputs give the same
bytes. It is made once: a manifest beside the lists says what each was made from.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt

from prep import sql
from prep.engine import run_tasks
from prep.errors import DataError, UsageError
from prep.files import atomic_path, hash_file
from prep.manifest import Manifest, Shard, fingerprint, read_manifest, write_manifest
from prep.progress import bar
from prep.schema import CONVERSATION, IMAGE_KEY, KEY, ROW, TURNS
from prep.trainers import convllava
from prep.trainers.lavida_o import parse_sampling

STAGE = "emit"
VERSION = 1  # raise when the same inputs give other bytes
SEED = 42  # of random sampling, by NumPy's first generator, whose order never changes

_BATCH_ROWS = 1_000
_INSTEAD = "`--force` replaces it, `-o FILE` writes another."

Copies: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ListTask:
    """The rows of one entry.

    Attributes:
        name: the entry's.
        shards: of its table, each the rows with an image and those of text alone.
        made_from: what is in them.
        rows: in them all.
        sampling: what is done here, as the recipe says it.
        folder: what image paths are made relative to.
        place: where below it a row's image is, before its key; None where the row's own path says it.
        output: the list, where it is not a part of one.
    """

    name: str
    table: str
    shards: tuple[tuple[Path, Path], ...]
    made_from: tuple[str, ...]
    rows: int
    sampling: str
    folder: str
    place: str | None
    output: Path

    @property
    def fingerprint(self) -> str:
        """Name of everything the list is made from."""
        return fingerprint([VERSION, self.made_from, self.sampling, self.folder, self.place])

    def __str__(self) -> str:
        return str(self.output)


def missing_lists(folder: Path, tasks: Sequence[ListTask]) -> list[ListTask]:
    """Tasks whose list is not there as they would make it."""
    manifest = read_manifest(folder)
    known = {shard.name: shard for shard in manifest.shards if shard.is_in(folder)} if manifest else {}
    return [task for task in tasks if (shard := known.get(task.output.name)) is None or shard.task != task.fingerprint]


def make_lists(folder: Path, tasks: Sequence[ListTask], force: bool, workers: int) -> None:
    """Make lists; the manifest says first which of them are being made, so that what a killed run left is ours.

    Raises:
        UsageError: a list is in the way that we did not write, or that was edited; or the folder is another's.
    """
    manifest = read_manifest(folder)
    if (manifest.stage if manifest else STAGE) != STAGE or (manifest is None and not force and _holds(folder)):
        raise UsageError(f"{folder}, where the lists would go, holds other things", "`-o FILE` writes elsewhere.")
    shards = {shard.name: shard for shard in manifest.shards} if manifest else {}
    for task in tasks:
        shard = shards.get(task.output.name)
        is_whole = shard is not None and shard.is_in(folder) and hash_file(task.output) == shard.sha256
        is_ours = shard is not None and (not shard.task or is_whole)
        if task.output.exists() and not is_ours and not force:
            raise UsageError(f"{task.output} is there, and is edited or not prep's", _INSTEAD)
    if not tasks:
        return
    shards |= {task.output.name: Shard(task.output.name, "", None, 0, "") for task in tasks}
    write_manifest(folder, Manifest(STAGE, tuple(shards.values())))
    with bar("emit", sum(task.rows for task in tasks), "rows", len(tasks)) as advance:
        for shard in run_tasks(_make_list, tasks, workers=workers):
            shards[shard.name] = shard
            advance(shard.rows or 0, items=1)
            write_manifest(folder, Manifest(STAGE, tuple(shards.values())))


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _make_list(task: ListTask) -> Shard:
    """Write one list."""
    with atomic_path(task.output) as temporary:
        rows = _write(temporary, [task])
    size_bytes = task.output.stat().st_size
    return Shard(task.output.name, task.fingerprint, rows, size_bytes, hash_file(task.output))


def write_one(path: Path, tasks: Sequence[ListTask], *, force: bool, dry_run: bool) -> str:
    """Write the rows of all entries as one list; the state.

    Raises:
        UsageError: another list is there.
    """
    if dry_run:
        return "planned"
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "Name the JSON file to write.")
    with bar("emit", sum(task.rows for task in tasks), "rows") as advance:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        try:
            advance(_write(temporary, tasks))
            if path.exists() and cmp(temporary, path, shallow=False):
                return "up to date"
            if path.exists() and not force:
                raise UsageError(f"{path} is there and differs", _INSTEAD)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return "done"


def _write(path: Path, tasks: Iterable[ListTask]) -> int:
    """Write rows as one JSON list, in ASCII; how many."""
    rows = 0
    with path.open("w", encoding="ascii") as file:
        file.write("[")
        for task in tasks:
            rows += _write_rows(file, task, is_first=rows == 0)
        file.write("\n]\n")
    return rows


def _write_rows(file: IO[str], task: ListTask, *, is_first: bool) -> int:
    written, separator = 0, "\n" if is_first else ",\n"
    times = copies(task.sampling, task.rows)
    place = 0
    for row in _rows(task):
        for _ in range(times[place]):
            file.write(separator + row)
            separator = ",\n"
            written += 1
        place += 1
    if place != task.rows:
        raise DataError(f"table {task.table} has {place} rows, not {task.rows}", "Run `prep filter --force`.")
    return written


def copies(strategy: str, rows: int) -> Copies:
    """How often each of `rows` rows is taken, in their order."""
    sampling = parse_sampling(strategy)
    number = sampling.number_for(rows)
    times: Copies = np.zeros(rows, np.int32)
    if sampling.word == "first":
        times[:number] = 1
    elif sampling.word == "end":
        times[max(rows - number, 0) :] = 1
    elif sampling.word == "random":
        times[np.random.RandomState(SEED).permutation(rows)[:number]] = 1
    else:
        times[:] = number if sampling.word == "dup" else 1
    return times


def _rows(task: ListTask) -> Iterator[str]:
    """The rows of an entry as JSON text, in the publisher's order."""
    image = sql.name(CONVERSATION.image_path or "")
    with sql.connect(task.output) as connection, sql.data_errors(f"table {task.table}", "Run `prep filter --force`."):
        for kept, text in task.shards:
            both = (
                f"SELECT {ROW}, {KEY}, {image}, {IMAGE_KEY}, {TURNS} FROM {sql.parquet_files([kept])} UNION ALL"
                f" SELECT {ROW}, {KEY}, NULL, NULL, {TURNS} FROM {sql.parquet_files([text])}"
            )
            found = connection.execute(f"SELECT {KEY}, {image}, {IMAGE_KEY}, {TURNS} FROM ({both}) ORDER BY {ROW}")
            while batch := found.fetchmany(_BATCH_ROWS):
                for key, path, image_key, turns in batch:
                    shown = {} if path is None else {convllava.IMAGE: _relative(task, path, image_key)}
                    yield json.dumps({"id": key, **shown, convllava.TURNS: json.loads(turns)})


def _relative(task: ListTask, path: str, image_key: str | None) -> str:
    """An image's path below the task's folder.

    Raises:
        DataError: it is not below it.
    """
    if task.place is not None and image_key is not None and not image_key.startswith("/"):
        return task.place + image_key
    start = task.folder.rstrip("/") + "/"
    plain = posixpath.normpath(path) if "/." in path or "//" in path else path
    if not plain.startswith(start):
        raise DataError(f"{task.name}: {path} is not below {task.folder}", "Leave --root out, or lay it into the tree.")
    return plain.removeprefix(start)
