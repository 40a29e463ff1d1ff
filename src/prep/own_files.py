"""What `prep add` is given: a file, a folder or a list of files, here or on S3; where they are, and their columns."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
from pydantic import ValidationError

from prep import sql
from prep.config import LocalSource, S3Source
from prep.errors import DataError, UsageError
from prep.sources import Listing, Part, local, s3
from prep.sources.file_list import Listed, common_folder, in_order, is_on_s3, read_list

FORMATS = {".csv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}
LIST_SUFFIX = ".txt"
PARQUET = "*.parquet"
_JSON_SAMPLE = 1_000  # objects whose keys are the file's columns
_TAIL_BYTES = 1 << 16  # of an object on S3: nearly every footer is shorter
_MAX_FOOTER_BYTES = 256 << 20
_MAGIC = b"PAR1"


@dataclass(frozen=True)
class OwnFiles:
    """Files of the user's, looked at but not read.

    Attributes:
        label: what they are called.
        source: for the dataset's YAML.
        format: of every one of them: parquet, csv or json.
        parts: glob that takes them all.
        columns: each with SQL for its value; those of every file, or any key of a JSON file.
    """

    label: str
    source: LocalSource | S3Source
    format: str
    parts: str
    columns: dict[str, str]

    @property
    def stem(self) -> str:
        """Their name without its ending."""
        path = PurePosixPath(self.label)
        return path.name.removesuffix(path.suffix)


@dataclass(frozen=True)
class S3Options:
    """How a bucket is reached and read, as `prep add` is told; see `S3Source`."""

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
    in_place: bool = False


AWS = S3Options()


def look_at(data: str, raw: Path, options: S3Options) -> OwnFiles:
    """Find the files that `data` names, and their columns; of files on S3 only footers are read.

    Args:
        data: a file, a folder of parquet files, a list (`.txt`), or an `s3://` address of parquet.
        raw: where the dataset's parts will lie.

    Raises:
        UsageError: there is nothing there, it has no format that is known, or an option does not suit it.
        SourceError: a list is none, or names what is not there; S3 refuses.
        DataError: a file cannot be read, or has other columns than the first.
    """
    if is_on_s3(data):
        return _on_s3(data, options)
    path = Path(data)
    if path.suffix.lower() == LIST_SUFFIX and path.is_file():
        return _of_list(path, raw, options)
    _check_options(options, data)
    source: dict[str, Any] = {"path": str(path.resolve())}
    if path.is_dir():
        source["include"] = (PARQUET,)
    format_ = "parquet" if path.is_dir() else _format(data) if path.is_file() else None
    if format_ is None:
        raise UsageError(f"there is no file {data}", "Check the path.")
    local_source = LocalSource(kind="local", **source)
    parts = local.list_parts(local_source, raw, None).parts
    if not parts:
        raise UsageError(f"{data} has no parquet files", "Name a csv, a parquet file or a folder of them.")
    labels = {part.url: data if path.is_file() else part.url for part in parts}
    glob = PARQUET if path.is_dir() else "*"
    return OwnFiles(path.name, local_source, format_, glob, _columns(local_source, parts, format_, labels))


def _on_s3(data: str, options: S3Options) -> OwnFiles:
    """Parquet at an address: an object, or all below a prefix."""
    source = _s3_source(options, data, include=[PARQUET])
    listing = s3.find_objects(source)
    if not listing.parts:
        raise UsageError(f"{data} has no parquet files", "Check the address: s3://bucket/prefix/, or one object's.")
    is_one = [part.url for part in listing.parts] == [data]
    if is_one:
        _format(data)
        source = _s3_source(options, data)
    columns = _columns(source, listing.parts, "parquet", {})
    return OwnFiles(data.rstrip("/"), source, "parquet", "*" if is_one else PARQUET, columns)


def _of_list(path: Path, raw: Path, options: S3Options) -> OwnFiles:
    """Files that a list names."""
    files = read_list(path)
    labels = {listed.address: f"{path}:{listed.line}: {listed.address}" for listed in files}
    root, files_from = common_folder(files), str(path.resolve())
    format_ = _one_format(files, labels)
    source: LocalSource | S3Source
    if is_on_s3(root):
        source = _s3_source(options, root, files_from=files_from)
        listing = s3.find_objects(source)
    else:
        _check_options(options, f"what {path} names")
        source = LocalSource(kind="local", path=root.rstrip("/") or "/", files_from=files_from)
        listing = local.list_parts(source, raw, None)
    columns = _columns(source, _as_listed(listing, files), format_, labels)
    return OwnFiles(path.name, source, format_, "*", columns)


def _as_listed(listing: Listing, files: Iterable[Listed]) -> list[Part]:
    """The parts in the list's order: columns are held against those of its first file."""
    by_address = {part.url: part for part in listing.parts}
    return [by_address[listed.address] for listed in files]


def _s3_source(options: S3Options, path: str, **more: Any) -> S3Source:
    try:
        return S3Source.model_validate({"kind": "s3", "path": path, **asdict(options), **more})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(reason, "prep add s3://bucket/prefix/ --endpoint https://host") from error


def _check_options(options: S3Options, data: str) -> None:
    if options != AWS:
        raise UsageError(
            f"--endpoint, --region, --anonymous and --in-place are for S3, and {data} is on this machine",
            "Leave them out.",
        )


# -- formats -------------------------------------------------------------------------------------------------------


def _format(address: str, label: str = "") -> str:
    """The format that a file's ending tells; on S3 what has no known ending may be parquet, its footer will say."""
    suffix = PurePosixPath(address).suffix.lower()
    format_ = FORMATS.get(suffix)
    label = label or address
    if suffix == LIST_SUFFIX:
        raise UsageError(
            f"{label} is a list itself, and no data", "Put the files that it names into one list, on disk."
        )
    if is_on_s3(address) and format_ not in (None, "parquet"):
        raise UsageError(
            f"{label} is {format_}; on S3 only parquet is taken", "Convert it, or bring it here and `prep add` that."
        )
    if format_ is None and not is_on_s3(address):
        raise UsageError(
            f"{label} is none of {', '.join(FORMATS)}",
            "Convert it; DuckDB or pandas read most formats and write parquet.",
        )
    return format_ or "parquet"


def _one_format(files: Sequence[Listed], labels: Mapping[str, str]) -> str:
    """The format of all files of a list."""
    formats = {listed: _format(listed.address, labels[listed.address]) for listed in files}
    first = files[0]
    for listed, format_ in formats.items():
        if format_ != formats[first]:
            raise UsageError(
                f"{labels[listed.address]} is {format_}, and the file of line {first.line} {formats[first]}",
                "Make a list for each format, and add both.",
            )
    return formats[first]


# -- columns -------------------------------------------------------------------------------------------------------


def _columns(
    source: LocalSource | S3Source, parts: Sequence[Part], format_: str, labels: Mapping[str, str]
) -> dict[str, str]:
    """Columns of the files, each with SQL for its value; every file has to have those of the first."""
    empty = next((part for part in parts if part.size_bytes == 0), None)
    if empty is not None:
        raise DataError(f"{labels.get(empty.url, empty.url)} is empty", "Take it out, or write it again.")
    found: list[dict[str, str]]
    with tempfile.TemporaryDirectory() as folder, sql.connect() as connection:

        def columns_of(path: Path, part: Part) -> dict[str, str]:
            with sql.data_errors(f"{labels.get(part.url, part.url)} cannot be read as {format_}", "Mend the file."):
                return _columns_of(connection, path, format_)

        def columns_of_footer(footer: bytes, part: Part) -> dict[str, str]:
            stub = Path(folder, "footer.parquet")
            stub.write_bytes(_MAGIC + footer)  # whose columns are described without a look at the rows
            try:
                return columns_of(stub, part)
            except DataError as error:
                message = error.message.partition("\n")[0].replace(str(stub), part.url)
                raise DataError(message, error.next_step) from error

        if isinstance(source, S3Source):
            footers = in_order(lambda part: _footer(source, part, labels.get(part.url, part.url)), parts)
            found = [columns_of_footer(footer, part) for footer, part in zip(footers, parts, strict=True)]
        else:
            found = [columns_of(Path(part.url), part) for part in parts]
    if format_ == "json":  # a key that an object lacks is null
        return {name: value for columns in found for name, value in columns.items()}
    for part, columns in zip(parts, found, strict=True):
        _check_same(found[0], columns, labels.get(part.url, part.url))
    by_file = [{name.lower(): value for name, value in columns.items()} for columns in found]
    return {
        name: value if all(columns[name.lower()] == value for columns in by_file) else sql.name(name)
        for name, value in found[0].items()
    }


def _check_same(first: Mapping[str, str], columns: Mapping[str, str], label: str) -> None:
    ours, theirs = ({name.lower(): name for name in names} for names in (first, columns))
    if ours.keys() != theirs.keys():
        differences = [f"has no {ours[name]!r}" for name in ours if name not in theirs]
        differences += [f"has {theirs[name]!r}, which the first file has not" for name in theirs if name not in ours]
        raise DataError(
            f"{label} has other columns than the first file: it {', '.join(differences[:5])}",
            "Make a dataset of each: one list or folder for files of the same columns.",
        )


def _footer(source: S3Source, part: Part, label: str) -> bytes:
    """The end of a parquet object: what describes it, that part's length, and the mark.

    Raises:
        DataError: it is no parquet.
    """
    size = part.size_bytes or 0
    tail = s3.read_range(source, part, max(0, size - _TAIL_BYTES), min(size, _TAIL_BYTES))
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != _MAGIC or not 8 < length <= min(size - 4, _MAX_FOOTER_BYTES):
        raise DataError(f"{label} is no parquet file", "Name parquet files alone.")
    return tail[-length:] if length <= len(tail) else s3.read_range(source, part, size - length, length)


def _columns_of(connection: duckdb.DuckDBPyConnection, path: Path, format_: str) -> dict[str, str]:
    """One file's columns, each with SQL for its value: the numbers of a csv as numbers, where all of them are."""
    if format_ == "parquet":
        found = connection.execute(f"DESCRIBE SELECT * FROM {sql.parquet_files([path])}").fetchall()
        return {row[0]: sql.name(row[0]) for row in found}
    if format_ == "json":
        objects = f"SELECT json FROM {sql.json_objects(path)} LIMIT {_JSON_SAMPLE}"
        keys = connection.execute(
            f"SELECT DISTINCT unnest(json_keys(json)) FROM ({objects}) WHERE json_type(json) = 'OBJECT' ORDER BY 1"
        ).fetchall()
        return {row[0]: sql.name(row[0]) for row in keys}
    rows = sql.csv_file(path)
    names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()]
    numbers = {name: f"TRY_CAST({sql.name(name)} AS DOUBLE)" for name in names}
    are_numbers = ", ".join(f"count({sql.name(name)}) = count({number})" for name, number in numbers.items())
    [answers] = connection.execute(f"SELECT {are_numbers} FROM {rows}").fetchall()
    return {name: numbers[name] if answer else sql.name(name) for name, answer in zip(names, answers, strict=True)}
