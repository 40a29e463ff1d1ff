"""emit-yaml --s3-reader: the module with which the trainer opens images on S3, its settings and its image index."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError

from prep import sql
from prep.config import GivenImages
from prep.errors import UsageError, WorkspaceError
from prep.files import atomic_path, write_text
from prep.manifest import Manifest, fingerprint, read_finished
from prep.trainers import s3_reader
from prep.trainers.lavida_o import PRIVATE_READER, S3_SCHEME
from prep.workspace import Workspace

SETTINGS_NAME = f"{PRIVATE_READER}.json"
INDEX_NAME = f"{PRIVATE_READER}.sqlite"
VERSION = 1  # of the index's form
_INDEX_OF = "index_of"  # in the settings: fingerprint of what the index was made from
_BATCH_ROWS = 100_000
_OURS = b"`prep emit-yaml --s3-reader FOLDER` copies this file"


@dataclass(frozen=True)
class EmittedReader:
    """What was written, or would be.

    Attributes:
        folder: what has to be on the trainer's module path; absolute.
        images: in the index; None in a dry run.
    """

    folder: Path
    images: int | None

    @property
    def module(self) -> Path:
        """The module itself."""
        return self.folder / f"{PRIVATE_READER}.py"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"folder": str(self.folder), "images": self.images}


def check_s3_reader(workspace: Workspace, folder: Path) -> None:
    """Make sure that a reader is of use, and that the folder has no module of that name that is somebody else's.

    Raises:
        UsageError: it is not, or has; or the folder is the workspace itself.
        WorkspaceError: the folder cannot be written to.
    """
    has_given = any(isinstance(dataset.images, GivenImages) for dataset in workspace.datasets)
    if not workspace.image_root.startswith(S3_SCHEME) and not has_given:
        raise UsageError(
            f"--s3-reader opens images on S3, and those of this workspace are in {workspace.image_root}",
            "Leave it out: the trainer opens local images by itself.",
        )
    module = EmittedReader(folder, None).module
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "Name a folder with --s3-reader.")
    if folder.resolve() == workspace.root:  # what an empty name comes to
        raise UsageError(f"--s3-reader {folder}: is the workspace itself", "Name a folder of its own, such as reader.")
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise WorkspaceError.of(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder)))
    if module.exists() and _OURS not in module.read_bytes():
        raise UsageError(f"{module} is there and not prep's", "Name another folder with --s3-reader.")


def emit_s3_reader(workspace: Workspace, folder: Path, *, dry_run: bool = False) -> EmittedReader:
    """Write the reader of images on S3 into `folder`: `piat.py`, `piat.json` and the index of images, `piat.sqlite`.

    Cache settings in a `piat.json` that is there stay as they are, and so does an index of the same images.

    Raises:
        UsageError, WorkspaceError: as `check_s3_reader`; the latter also for an index that cannot be written.
        DataError: an image index is damaged.
    """
    check_s3_reader(workspace, folder)
    folder = folder.absolute()
    if dry_run:
        return EmittedReader(folder, None)
    indexed = {dataset.name: read_finished(workspace.index(dataset.name)) for dataset in workspace.datasets}
    finished = {name: manifest for name, manifest in indexed.items() if manifest is not None}
    index_of = fingerprint([VERSION, {name: [s.sha256 for s in index.shards] for name, index in finished.items()}])
    before = _settings_there(folder)
    target = folder / INDEX_NAME
    if before.get(_INDEX_OF) != index_of or not target.is_file():
        try:
            _write_index(workspace, finished, target)
        except sqlite3.OperationalError as error:  # no room, or no right to write
            raise WorkspaceError(f"{target}: {error}", "Mend that, or name another folder with --s3-reader.") from error
    defaults = s3_reader.Settings()
    settings = {
        "endpoint": workspace.config.s3_endpoint,
        "region": _region(),
        "cache": before.get("cache", defaults.cache),
        "cache_bytes": before.get("cache_bytes", defaults.cache_bytes),
        "images": workspace.image_root,
        "index": INDEX_NAME,
        _INDEX_OF: index_of,
    }
    write_text(folder / SETTINGS_NAME, json.dumps(settings, indent=1) + "\n")
    with closing(sqlite3.connect(target)) as index:
        (count,) = index.execute("SELECT count(*) FROM images").fetchone()
    emitted = EmittedReader(folder, count)
    write_text(emitted.module, Path(s3_reader.__file__).read_text(encoding="utf-8"))
    return emitted


def _region() -> str | None:
    """The region of this machine's settings, which the trainer's need not have."""
    try:
        return os.environ.get("AWS_REGION") or boto3.Session().region_name
    except BotoCoreError:  # a profile that is not there; the stages that need it say so
        return None


def _settings_there(folder: Path) -> Mapping[str, Any]:
    """Settings that an earlier run wrote, or a person edited; none where there are none that can be read."""
    try:
        settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _write_index(workspace: Workspace, finished: Mapping[str, Manifest], target: Path) -> None:
    """Key -> dataset and path of every image in the store, in a file that is searched without being loaded."""
    with atomic_path(target) as temporary, closing(sqlite3.connect(temporary, isolation_level=None)) as index:
        index.execute("PRAGMA journal_mode = OFF")
        index.execute("PRAGMA synchronous = OFF")  # `atomic_path` makes it durable
        index.execute(
            "CREATE TABLE images (key TEXT, dataset TEXT, path TEXT, PRIMARY KEY (key, dataset)) WITHOUT ROWID"
        )
        index.execute("BEGIN")
        for name, manifest in finished.items():
            shards = [workspace.index(name) / shard.name for shard in manifest.shards]
            _copy(name, shards, index, target)
        index.execute("COMMIT")


def _copy(dataset: str, shards: Sequence[Path], index: sqlite3.Connection, target: Path) -> None:
    """Add one dataset's images; sorted, for a table in the order of its keys is written fastest so."""
    if not shards:
        return
    stored = "path IS NOT NULL AND NOT starts_with(path, '/')"  # those of an adopted folder are not on S3
    query = f"SELECT image_key, path FROM {sql.parquet_files(shards)} WHERE {stored} ORDER BY image_key"
    with sql.connect(target) as connection, sql.data_errors(f"the image index of {dataset}", "Run `prep images`."):
        rows = connection.execute(query)
        while batch := rows.fetchmany(_BATCH_ROWS):
            values = ((key, dataset, path) for key, path in batch)
            index.executemany("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", values)
