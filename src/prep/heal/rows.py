"""Rows of a LLaVA-format JSON: the images they name, and the list written again without rows that lost theirs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prep.errors import DataError, WorkspaceError
from prep.files import hash_file, sync
from prep.heal.unread import is_blank, mended_first, unpacked_first, with_texts
from prep.progress import Advance
from prep.readers.json import BAD_JSON, OBJECT, read_objects
from prep.schema import DROP_REASON

BAD_PATH, NO_PATH, UNSAFE_PATH = "bad_path", "no_path", "unsafe_path"
TOKEN = "<image>"  # where the trainer puts the picture into a text
TOGETHER_BYTES = 16 << 20  # of rows that one statement reads
_IMAGE_KEY = r'"image"\s*:'
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_LINE_ENDS = str.maketrans("\r\n", "  ")  # in JSON they stand between values only

TABLES = """
    CREATE TABLE rows (pair INTEGER, row BIGINT, digest UBIGINT, names VARCHAR[], problem VARCHAR, is_bare BOOLEAN,
                       is_turns BOOLEAN);
    CREATE TABLE refs (pair INTEGER, row BIGINT, base INTEGER, place BIGINT, image VARCHAR, path VARCHAR,
                       problem VARCHAR);
"""


_FACTS = f"""
    INSERT INTO rows SELECT $pair, row, hash({OBJECT}),
        CASE type WHEN 'VARCHAR' THEN [image->>'$'] WHEN 'ARRAY' THEN CAST(image->>'$[*]' AS VARCHAR[]) END,
        CASE WHEN {DROP_REASON} IS NOT NULL THEN {DROP_REASON}
             WHEN is_bare AND contains({OBJECT}, '{TOKEN}') THEN '{NO_PATH}'
             WHEN is_bare OR type IS NULL OR type = 'VARCHAR' THEN NULL
             WHEN type <> 'ARRAY' OR len(json_extract(image, '$[*]')) <>
                  len(list_filter(json_extract(image, '$[*]'), lambda x: json_type(x) = 'VARCHAR' AND x <> '""'))
             THEN '{BAD_PATH}' END,
        coalesce(is_bare, false), coalesce(is_turns, false)
    FROM (SELECT *, type = 'NULL' OR image = '""' OR (type = 'ARRAY' AND json_array_length(image) = 0) AS is_bare
          FROM (SELECT *, json_extract({OBJECT}, '$.image') AS image, json_type({OBJECT}, '$.image') AS type,
                       json_type({OBJECT}, '$.conversations') = 'ARRAY' AS is_turns FROM objects))
"""


@dataclass(frozen=True)
class Pair:
    """A list of rows and the folder that their images are relative to."""

    json: Path
    images: Path

    @property
    def healed(self) -> Path:
        """The list without the rows that cannot be used."""
        return self.json.with_name(f"{self.json.stem}.healed.json")

    @property
    def missing(self) -> Path:
        """Those rows, each with its reason."""
        return self.json.with_name(f"{self.json.stem}.missing.jsonl")


def read_rows(
    connection: duckdb.DuckDBPyConnection, number: int, pair: Pair, base: int, prefix: str, advance: Advance
) -> None:
    """Fill the tables with the rows of list `number`.

    Args:
        base: number of the folder that was listed.
        prefix: where the images' folder lies in it; empty, or with a slash at the end.

    Raises:
        DataError: the file is not whole, or no row of it is one of LLaVA's format.
    """
    for table in _tables(_numbered(pair.json)):
        connection.register("objects", _with_last_images(table))
        connection.execute(_FACTS, {"pair": number})
        connection.unregister("objects")
        advance(len(table))
    known = "bool_or(is_turns OR names IS NOT NULL)"
    count, is_llava = connection.execute(f"SELECT count(*), {known} FROM rows WHERE pair = {number}").fetchall()[0]
    if not is_llava and (count or is_blank(pair.json)):
        raise DataError(
            f"{pair.json} is no list of LLaVA's format: no row has `image` or `conversations`",
            mended_first(pair.json, count)
            or "Such a file is a JSON array of objects with `conversations` and, where there is a picture, `image`.",
        )
    steps = "list_filter(string_split(image, '/'), lambda step: step NOT IN ('', '.'))"
    unsafe = (
        r"starts_with(image, '/') OR regexp_matches(image, '^[A-Za-z]:[\\/]|(^|/)\.\.(/|$)') OR contains(image, chr(0))"
    )
    plain = "NOT regexp_matches(image, '(^|/)\\.?/|/\\.?$|^\\.$')"
    connection.execute(f"""
        INSERT INTO refs SELECT pair, row, {base}, place, image,
            $prefix || CASE WHEN {plain} THEN image ELSE array_to_string({steps}, '/') END,
            CASE WHEN {unsafe} THEN '{UNSAFE_PATH}' WHEN regexp_matches(image, '(^|/)\\.?$') THEN 'not_a_file' END
        FROM (SELECT pair, row, unnest(names) AS image, generate_subscripts(names, 1) AS place
              FROM rows WHERE pair = {number} AND problem IS NULL AND NOT is_bare)
    """, {"prefix": prefix})  # fmt: skip


def is_all_read(connection: duckdb.DuckDBPyConnection, number: int) -> bool:
    """Whether every row of list `number` could be read."""
    query = f"SELECT count(*) FROM rows WHERE pair = {number} AND problem = '{BAD_JSON}'"
    return bool(connection.execute(query).fetchall()[0][0] == 0)


def _tables(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches together, as each statement costs some milliseconds."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(each.nbytes for each in held) > TOGETHER_BYTES:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _with_last_images(table: pa.Table) -> pa.Table:
    """The objects, of which those with several keys `image` are left with the last, as Python and the trainer are."""
    column = table.column(OBJECT)
    several = pc.greater(pc.count_substring_regex(column, _IMAGE_KEY), 1).fill_null(False)
    if not pc.any(several).as_py():
        return table
    texts = [
        _with_last_keys(text) if found else text
        for text, found in zip(column.to_pylist(), several.to_pylist(), strict=True)
    ]
    return table.set_column(table.schema.get_field_index(OBJECT), OBJECT, pa.array(texts, pa.string()))


def _with_last_keys(text: str) -> str:
    try:
        return json.dumps(json.loads(text))
    except (ValueError, RecursionError):
        return text  # which the trainer cannot read at all


def _numbered(path: Path) -> Iterator[pa.RecordBatch]:
    """The objects of a file, each with its place from 0."""
    row = 0
    try:
        for batch in read_objects(path):
            yield batch.append_column("row", pa.array(np.arange(row, row + len(batch))))
            row += len(batch)
    except DataError as error:
        next_step = unpacked_first(path) or "Is it downloaded whole? Nothing was changed."
        raise DataError(error.message, next_step) from error


# -- the list written again --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aside:
    """A row that does not go into the list as it stands: `reason` is None where only its empty `image` has to go."""

    row: int
    reason: str | None
    detail: str
    image: str | None


class Hashed:
    """A text file that knows the hash of what was written into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, text: str) -> None:
        """Write ASCII text."""
        data = text.encode("ascii")
        self._hash.update(data)
        self._file.write(data)

    @property
    def sha256(self) -> str:
        """In hex, of all so far."""
        return self._hash.hexdigest()


@contextmanager
def written(pair: Pair, asides: Iterator[Aside], *, is_all_read: bool) -> Iterator[list[tuple[Path, str]]]:
    """Write both files beside the list under names for the time being; give final name and SHA-256 of what is new.

    On leaving they get these names; a file that is as it would be anyway is left alone. A row's text stays as it was,
    but for letters beyond ASCII, which become `\\u` escapes: the trainer opens the list in whatever encoding the
    machine has.

    Args:
        is_all_read: whether every row could be read; the text of others takes another look at the file.
    """
    texts = _texts(pair.json) if is_all_read else with_texts(pair.json, _texts(pair.json))
    healed, missing = room_for(pair.healed), room_for(pair.missing)
    try:
        with healed.open("wb") as kept_file, missing.open("wb") as lost_file:
            kept, lost = Hashed(kept_file), Hashed(lost_file)
            _write(texts, asides, kept, lost)
        files = [(pair.healed, healed, kept.sha256), (pair.missing, missing, lost.sha256)]
        new = [each for each in files if not each[0].is_file() or hash_file(each[0]) != each[2]]
        yield [(path, sha256) for path, _, sha256 in new]
        for path, temporary, _ in new:
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        healed.unlink(missing_ok=True)
        missing.unlink(missing_ok=True)


def room_for(path: Path) -> Path:
    """What the file `path` is called while it is written; nothing has that name.

    Raises:
        WorkspaceError: no file can be written there: the folder is read-only, say, or the name too long.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise WorkspaceError.of(error, str(path)) from error
    return temporary


def _write(rows: Iterator[tuple[int, Any]], asides: Iterator[Aside], kept: Hashed, lost: Hashed) -> None:
    aside = next(asides, None)
    between = "[\n"
    for row, text in rows:
        if aside is None or aside.row != row:
            kept.write(between + to_ascii(text))
            between = ",\n"
            continue
        if aside.reason is None:
            kept.write(between + without_image(text))
            between = ",\n"
        else:
            lost.write(_told(aside, text))
        aside = next(asides, None)
    kept.write("[]\n" if between == "[\n" else "\n]\n")


def _texts(path: Path) -> Iterator[tuple[int, str | None]]:
    for batch in _numbered(path):
        yield from zip(batch.column("row").to_pylist(), batch.column(OBJECT).to_pylist(), strict=True)


def _told(aside: Aside, text: str | None) -> str:
    """A line about a row that cannot be used, with the row as it was; null where it is no JSON."""
    facts: dict[str, Any] = {"row": aside.row, "reason": aside.reason, "detail": aside.detail, "image": aside.image}
    record = "null" if text is None else to_ascii(text).translate(_LINE_ENDS)
    return f'{json.dumps(facts)[:-1]}, "record": {record}}}\n'


def to_ascii(text: str) -> str:
    """JSON of the same meaning in ASCII."""
    return text if text.isascii() else _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def without_image(text: str) -> str:
    """A row that names no image, without the key that would say so: the trainer asks only whether it is there."""
    row = json.loads(text)
    del row["image"]
    return json.dumps(row)
