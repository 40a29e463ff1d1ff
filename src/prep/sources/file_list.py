"""A text file that names data files one by one: paths of this machine, or addresses of one S3 bucket."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prep.errors import SourceError
from prep.sources import Listing, Part
from prep.sources.paths import checked

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 8  # files that are asked about at the same time
S3_SCHEME = "s3://"
_BOM = b"\xef\xbb\xbf"
_MEND = "Mend that line, or put a # before it."


@dataclass(frozen=True)
class Listed:
    """One file that a list names.

    Attributes:
        line: its number, from 1.
        address: an absolute path, or `s3://bucket/key`.
    """

    line: int
    address: str


def read_list(path: Path) -> list[Listed]:
    """The files of a list, in its order: one a line, but for blank lines and those that begin with `#`.

    A relative path starts from the list's folder. Nothing is a pattern or an escape, and white space around a name is
    none of it.

    Raises:
        SourceError: the list cannot be read or names nothing; with the line, a file that is named twice, an address
            that is none, or files that are not all of this machine or all of one bucket.
    """
    try:
        lines = re.split(rb"\r\n|\n|\r", path.read_bytes().removeprefix(_BOM))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}", "Mend the path of the list.") from error
    folder = path.resolve().parent
    found: list[Listed] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        with_line = f"{path}:{number}"
        text = _text(line, with_line)
        if not text or text.startswith("#"):
            continue
        listed = Listed(number, _address(text, folder, with_line))
        if found:
            _check_together(listed, found[0], with_line)
        real = listed.address if is_on_s3(listed.address) else os.path.realpath(listed.address)
        if real in lines_of:
            raise SourceError(f"{with_line}: {text} is the file of line {lines_of[real]}, named twice", _MEND)
        lines_of[real] = number
        found.append(listed)
    if not found:
        raise SourceError(f"{path} names no file", "Write one path or s3:// address a line.")
    return found


def _text(line: bytes, with_line: str) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = "\0"  # as a UTF-16 list without its mark has
    if "\0" in text:
        raise SourceError(
            f"{with_line}: is not UTF-8 text",
            "A list is a text file of names; save it as UTF-8. Data has to be .csv, .parquet, .json or .jsonl.",
        )
    return text.strip(" \t")


def _address(text: str, folder: Path, with_line: str) -> str:
    """A line's absolute path or address."""
    if text.startswith(S3_SCHEME):
        if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]*/.*[^/]", text):
            raise SourceError(f"{with_line}: {text} is not the address of an object, s3://bucket/key", _MEND)
        return text
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise SourceError(f"{with_line}: {text} is neither a path nor an s3:// address", _MEND)
    path = folder / text
    return str(path.parent.resolve() / path.name)  # the name itself may be a link: its ending says what is in it


def _check_together(listed: Listed, first: Listed, with_line: str) -> None:
    """Make sure that a file is where the first one is: on this machine, or in its bucket."""
    places = [_place(other.address) for other in (listed, first)]
    if places[0] != places[1]:
        raise SourceError(
            f"{with_line}: {listed.address} is {places[0]}, and the file of line {first.line} {places[1]}",
            "Make a list for each place, and add both.",
        )


def _place(address: str) -> str:
    return f"in s3://{address.split('/')[2]}" if is_on_s3(address) else "on this machine"


def is_on_s3(address: str) -> bool:
    """Whether it is an address on S3 and no path."""
    return address.startswith(S3_SCHEME)


def common_folder(files: Sequence[Listed]) -> str:
    """The innermost folder, or prefix, that holds them all; ends with a slash."""
    folders = [listed.address.split("/")[:-1] for listed in files]
    shared = folders[0]
    for folder in folders:
        while folder[: len(shared)] != shared:
            shared = shared[:-1]
    return "/".join(shared) + "/"


def list_named(path: Path, root: str, part_of: Callable[[str, str], Part]) -> Listing:
    """The parts that the list at `path` names.

    Args:
        root: folder or prefix that parts are named from; a folder may be, or lie below, a link.
        part_of: gives an address and a name as a part.

    Raises:
        SourceError: as `read_list`; with the line, a file that is not below `root`, or what `part_of` raises.
    """
    root = (root if is_on_s3(root) else os.path.realpath(root)).rstrip("/") + "/"

    def find(listed: Listed) -> Part:
        if not listed.address.startswith(root):
            raise SourceError(
                f"{path}:{listed.line}: {listed.address} is not below {root}",
                f"Mend `path` in the dataset's source; or `prep add {path} --force` describes the dataset anew.",
            )
        try:
            return part_of(listed.address, listed.address.removeprefix(root))
        except SourceError as error:
            raise SourceError(f"{path}:{listed.line}: {error.message}", error.next_step or _MEND) from error

    return Listing(checked(in_order(find, read_list(path)), SourceError, f"Take it out of {path}."))


def in_order(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What `function` says of every item, asked of several at once; the first failure in their order is raised."""
    threads = ThreadPoolExecutor(AT_ONCE)
    try:
        return list(threads.map(function, items))
    finally:
        threads.shutdown(cancel_futures=True)
