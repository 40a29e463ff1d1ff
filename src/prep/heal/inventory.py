"""What is below a folder of images: every name, and no file opened."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import duckdb
import pyarrow as pa

from prep.progress import Advance

OWN_FOLDER = ".prep-heal"  # below a folder of images: journals, and originals of what was encoded anew
BATCH_NAMES = 50_000
NOT_A_FILE, BROKEN_LINK = "not_a_file", "broken_link"
_ESCAPES = re.compile(r"#U([0-9a-fA-F]{4})")  # as Info-ZIP's unzip writes what its locale does not have
_FILES = pa.schema([("base", pa.int32()), ("path", pa.string()), ("is_outside", pa.bool_())])

TABLES = """
    CREATE TABLE files (base INTEGER, path VARCHAR, is_outside BOOLEAN);
    CREATE TABLE others (base INTEGER, path VARCHAR, kind VARCHAR);
    CREATE TABLE links (base INTEGER, path VARCHAR, target VARCHAR);
    CREATE TABLE outside (base INTEGER, path VARCHAR);
"""


@dataclass
class Inventory:
    """What is not a plain file below a folder; files go by while it is filled.

    Attributes:
        others: path and kind of what is there and no file: a folder, a socket, a link to nothing.
        links: path of a link to a folder below the same one, and that folder's path.
        outside: paths of links to folders that lie elsewhere; what is in them is read and never changed.
        unreadable: folders that cannot be listed.
        bad_names: names that are not UTF-8, which no JSON can hold.
    """

    others: list[tuple[str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    bad_names: int = 0

    def add_link(self, path: str, target: str, root: str, parents: tuple[tuple[int, int], ...]) -> _Waiting | None:
        """Note a link to what is no file; the folder to be listed under its name, if there is one."""
        found = Path(target)
        self.others.append((path, NOT_A_FILE if found.exists() else BROKEN_LINK))
        if not found.is_dir():
            return None
        if _is_below(target, root):
            self.links.append((path, os.path.relpath(target, root)))
            return None
        status = found.stat()
        identity = (status.st_dev, status.st_ino)
        self.outside.append(path)
        return None if identity in parents else _Waiting(f"{path}/", True, (*parents, identity))


class _Waiting(NamedTuple):
    """A folder still to be listed.

    Attributes:
        path: from the base, with a slash at the end.
        parents: identities of the base and of the folders that links led to on the way.
    """

    path: str
    is_outside: bool
    parents: tuple[tuple[int, int], ...]


def take_inventory(connection: duckdb.DuckDBPyConnection, number: int, base: Path, advance: Advance) -> Inventory:
    """Fill the tables with what is below `base`, the folder `number`.

    Raises:
        OSError: `base` itself cannot be listed.
    """
    inventory = Inventory()
    for batch in _batches(number, base, inventory):
        connection.register("listed", pa.Table.from_batches([batch]))
        connection.execute("INSERT INTO files SELECT * FROM listed")
        connection.unregister("listed")
        advance(len(batch))
    for table, rows in (("others", inventory.others), ("links", inventory.links)):
        columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)] or [
            pa.array([], pa.string())
        ] * 2
        connection.register("listed", pa.table(columns, names=["path", "value"]))
        connection.execute(f"INSERT INTO {table} SELECT {number}, path, value FROM listed")
        connection.unregister("listed")
    for path in inventory.outside:
        connection.execute("INSERT INTO outside VALUES (?, ?)", [number, path])
    return inventory


def _batches(number: int, base: Path, inventory: Inventory) -> Iterator[pa.RecordBatch]:
    paths: list[str] = []
    flags: list[bool] = []
    for path, is_outside in list_files(base, inventory):
        paths.append(path)
        flags.append(is_outside)
        if len(paths) == BATCH_NAMES:
            yield _batch(number, paths, flags)
            paths, flags = [], []
    yield _batch(number, paths, flags)


def _batch(number: int, paths: list[str], flags: list[bool]) -> pa.RecordBatch:
    numbers = pa.array([number] * len(paths), pa.int32())
    return pa.record_batch([numbers, pa.array(paths, pa.string()), pa.array(flags, pa.bool_())], schema=_FILES)


def list_files(base: Path, inventory: Inventory) -> Iterator[tuple[str, bool]]:
    """Path of every file below `base`, and whether it really lies elsewhere; what else there is goes to `inventory`.

    A link to a folder below `base` is not entered, as what it shows is listed already. One that leads out is, but
    none to a folder it stands in.
    """
    root = os.path.realpath(base)
    status = base.stat()
    waiting = [_Waiting("", False, ((status.st_dev, status.st_ino),))]
    while waiting:
        above, is_outside, parents = waiting.pop()
        try:
            # A Path for each of a million entries takes longer than listing them.
            entries = os.scandir(f"{root}/{above}")
        except OSError:
            if not above:
                raise
            inventory.unreadable.append(above.rstrip("/"))
            continue
        with entries:
            for entry in entries:
                path = above + entry.name
                if not entry.name.isascii() and not _is_text(entry.name):
                    inventory.bad_names += 1
                elif entry.is_file(follow_symlinks=False):
                    yield path, is_outside
                elif entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    leads_out = not _is_below(target, root)
                    if Path(target).is_file():
                        yield path, is_outside or leads_out
                    elif folder := inventory.add_link(path, target, root, parents):
                        waiting.append(folder)
                elif entry.name != OWN_FOLDER:
                    inventory.others.append((path, NOT_A_FILE))
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(_Waiting(f"{path}/", is_outside, parents))


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def unescape(text: str) -> str:
    """A name with its escapes undone (`#U91d1`, `%20`, `+` for a blank), in Unicode's composed form."""
    text = _ESCAPES.sub(lambda found: chr(int(found[1], 16)), text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    try:
        text = unquote(text.replace("+", " "), errors="strict")
    except UnicodeDecodeError:
        text = text.replace("+", " ")
    return unicodedata.normalize("NFC", text)
