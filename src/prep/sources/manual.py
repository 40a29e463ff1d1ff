"""Files that only a person can get: the instructions are data, what was put in place is taken as it is.

Where a person gets a table of signed links, the table is put in place and the files are brought from there. A link is a
secret: no message and no manifest holds what stands after its `?`.
"""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prep.config import LinksTable, ManualSource
from prep.errors import ConfigError, SourceError
from prep.sources import Listing, Part, is_web_address, matching
from prep.sources.local import part_of, read_through
from prep.sources.paths import checked
from prep.sources.transfer import Refused, Session

SHOWN = 10  # names in one message
MEND_LINE = "Get the table anew, or mend that line."


def list_parts(source: ManualSource, folder: Path, revision: str | None) -> Listing:
    """The matching and the named files that a person has put into `folder`; or those of the table of links there.

    Raises:
        SourceError: some are not there yet (the message holds the publisher's instructions), one has another size than
            the publisher says, one has a name that is too long or ours, or the table cannot be read.
        ConfigError: `files` has paths that the folder cannot hold.
    """
    named = [Part(file.path, file.path, file.size_bytes, file.sha256, file.md5) for file in source.files]
    known = {part.path: part for part in checked(named, ConfigError, "Mend `files` in the dataset's YAML.")}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []
    found = [path.relative_to(folder).as_posix() for path in paths]
    if source.links is None:
        names = {*matching(found, source.include), *known}
        missing = sorted(names.difference(found)) or ([] if names else source.include)
        if missing:
            raise _by_hand(source, folder, missing)
        placed = (_placed(folder / name, name, known.get(name)) for name in sorted(names))
        return Listing(checked(placed, SourceError, "Rename it, or choose others with `include`."))

    tables = matching(found, [source.links.file])
    if not tables:
        raise _by_hand(source, folder, [source.links.file])
    if len(tables) > 1:
        raise SourceError(f"{folder} has several tables of links: {_some(tables)}", "Leave only the newest there.")
    links = _read_links(folder / tables[0], source.links)
    missing = sorted(known.keys() - links)
    if missing:
        raise SourceError(f"{folder / tables[0]} has no link for {_some(missing)}", "Get the whole table.")
    names = {*matching(links, source.include), *known}
    return Listing(tuple(_linked(name, links[name], known.get(name)) for name in sorted(names)))


def fetch(source: ManualSource, part: Part, target: Path, session: Session) -> str:
    """Check the file that is in its place; or bring it, where it has a link.

    Raises:
        SourceError: size or hash is not the publisher's, or the link has run out.
    """
    if source.links is None:
        return read_through(part, Path(part.url), session)
    try:
        open_part = replace(part, url=_without_signature(part.url))
        return session.bring(open_part, target, address=lambda: part.url, is_named=False)
    except Refused as error:
        raise SourceError(
            f"{part.path}: its link is refused; the links have probably run out\n{source.instructions.strip()}",
            f"Get a fresh table of links ({source.links.file}), put it in place of the old one, and run the same "
            "command; finished parts, and what has come of others, are kept.",
        ) from error


def _by_hand(source: ManualSource, folder: Path, wanted: Iterable[str]) -> SourceError:
    here = f"prep.yaml (sources: {{{folder.name}: {{kind: local, path: ...}}}})"
    elsewhere = "" if source.links else f", or name a folder that has them in {here}"
    return SourceError(
        f"{folder.name} has to be fetched by hand:\n{source.instructions.strip()}",
        f"Put the files ({_some(wanted)}) into {folder}{elsewhere}; then run the same command.",
    )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _placed(path: Path, name: str, known: Part | None) -> Part:
    """The part for a file in its place; its hashes are compared when it is fetched."""
    part = part_of(path, name)
    if known is None:
        return part
    if known.size_bytes not in (None, part.size_bytes):
        raise SourceError(
            f"{path} has {part.size_bytes} bytes, {known.size_bytes} are expected",
            "It is cut off, or another file: get it again, then run the same command.",
        )
    return replace(part, sha256=known.sha256, md5=known.md5)


def _linked(name: str, link: str, known: Part | None) -> Part:
    """The part for a row; a link that was signed anew is the same version."""
    part = known or Part(name, link)
    return replace(part, url=link, version=_without_signature(link))


def _without_signature(link: str) -> str:
    return link.partition("?")[0]


def _read_links(table: Path, links: LinksTable) -> dict[str, str]:
    """Name -> address of every row.

    Raises:
        SourceError: with the line, where a column is missing, names cannot be those of files in one folder, one would
            be taken for a table of links, or a row has no http(s) address; or there is no row.
    """
    found: dict[str, str] = {}
    named: list[Part] = []  # with the line in the place of an address, for messages
    for line, name, address in _rows(table, links):
        wrong, mend = "", MEND_LINE
        if name in found:
            wrong = f"{name!r} stands here a second time"
        elif not is_web_address(address):
            wrong = f"{name!r} has no http(s) address"
        elif matching([name], [links.file]):
            wrong = f"{name!r} would be taken for a table of links itself ({links.file})"
            mend = "Let the dataset's YAML name the table more closely (links: {file: ...}), or mend that line."
        if wrong:
            raise SourceError(f"{table}:{line}: {wrong}", mend)
        found[name] = address
        named.append(Part(name, f"{table}:{line}"))
    if not found:
        raise SourceError(f"{table} has no rows", "Get the table anew.")
    checked(named, SourceError, MEND_LINE)
    return found


def _rows(table: Path, links: LinksTable) -> Iterator[tuple[int, str, str]]:
    """Line, name and address of each row of a csv or tab-separated table; blank lines are passed over.

    Publishers have changed the names of columns: where one is not there, the first row that has an address tells which
    two are meant. The first line may be such a row itself.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{table} is not text in UTF-8", "Get it anew, or save it as UTF-8.") from error
    reader = csv.reader(StringIO(text), delimiter="\t" if "\t" in text else ",")
    header: list[str] | None = None
    header_line = 0
    places: tuple[int, int] | None = None
    for cells in _cells(table, reader):
        if not any(cells):
            continue
        if header is None:
            header, header_line = cells, reader.line_num
            if {links.name, links.url} <= set(cells):
                places = cells.index(links.name), cells.index(links.url)
                continue
        if places is None:
            places = _places(cells)
            if places is None and cells is header:
                continue
        if places is None:
            raise _no_columns(f"{table}:{header_line}", header, links)
        name, address = (cells[place] if place < len(cells) else "" for place in places)
        yield reader.line_num, name, address
    if header is not None and places is None:
        raise _no_columns(f"{table}:{header_line}", header, links)


def _places(cells: Sequence[str]) -> tuple[int, int] | None:
    """Which cell of a row is a file's name and which its address; None where that cannot be told."""
    addresses = [place for place, cell in enumerate(cells) if is_web_address(cell)]
    others = [place for place, cell in enumerate(cells) if cell and place not in addresses]
    if len(addresses) != 1:
        return None
    last_step = posixpath.basename(urlsplit(cells[addresses[0]]).path)
    named = [place for place in others if cells[place] == last_step] or others
    return (named[0], addresses[0]) if len(named) == 1 else None


def _no_columns(where: str, header: Sequence[str], links: LinksTable) -> SourceError:
    missing = next(column for column in (links.name, links.url) if column not in header)
    there = _some(name for name in header if "://" not in name)  # a link would show its signature
    return SourceError(
        f"{where}: there is no column {missing!r}, only: {there}",
        "Get the table anew, or name its columns in the dataset's YAML (links: {name: ..., url: ...}).",
    )


def _cells(table: Path, reader: Any) -> Iterator[list[str]]:
    """The cells of each row of a `csv.reader`."""
    try:
        for row in reader:
            yield [cell.strip() for cell in row]
    except csv.Error as error:
        raise SourceError(f"{table}:{reader.line_num}: {error}; is a quote left open?", MEND_LINE) from error
