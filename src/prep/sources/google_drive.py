"""Files on Google Drive that are shared with anyone who has the link.

With GOOGLE_API_KEY in the environment, Drive's API v3 lists folders with sizes and hashes and gives the bytes
(https://developers.google.com/workspace/drive/api/reference/rest/v3/files). Without a key there is no interface meant
for programs: a folder is read from the page that Drive offers for embedding, which tells names alone, and the bytes
come from the address behind Drive's own button. Where Drive puts a page before the bytes (a file too large to be
scanned for viruses), the form on that page says where to go on.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode, urljoin, urlsplit

from prep.config import GOOGLE_DRIVE, GoogleDriveSource
from prep.errors import ConfigError, SourceError
from prep.sources import Listing, Part, is_web_address, matching
from prep.sources.paths import checked
from prep.sources.transfer import Answer, Refused, Session, WebPage

DOWNLOADS = "https://drive.usercontent.google.com/download"
API = "https://www.googleapis.com/drive/v3"
KEY = "GOOGLE_API_KEY"

PAGE_BYTES = 16 << 20
SHOWN_BYTES = 64 << 10  # of a page in place of a file
MAX_DEPTH = 32
MAX_FILES = 500_000
MAX_PAGES = 5_000  # of all folders together
PAUSES_SECONDS = (2, 8, 30)  # when Drive has had enough of us, or is not well
_BUSY = (429, 500, 502, 503, 504)
_RATE_LIMITS = ("rateLimitExceeded", "userRateLimitExceeded")
_FIELDS = "id,name,mimeType,size,md5Checksum,sha256Checksum"
_SHARE = "Its owner has to share it with anyone who has the link; check its id."


@dataclass
class _Entry:
    """One item of a folder; a `document` is one of Google's own, which has no bytes to download."""

    id: str
    name: str
    kind: Literal["file", "folder", "document"]
    size_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None


def list_parts(source: GoogleDriveSource, folder: Path, revision: str | None) -> Listing:
    """The named files, and the matching ones of the folder; Google's own documents are left out and counted.

    A part's version is its id. Drive keeps that when the bytes are replaced; then only the hash tells, with a key.

    Raises:
        SourceError: the folder is not shared, empty or too large, Drive refuses, or two files have one path.
        ConfigError: `files` has paths that the dataset's folder cannot hold, or `endpoint` is no address.
    """
    if not is_web_address(source.endpoint):
        raise ConfigError(f"{source.endpoint} is not an http(s) address", "Mend `endpoint` in the dataset's YAML.")
    named = [Part(f.path, _address(source, f.id), f.size_bytes, f.sha256, f.md5, f.id) for f in source.files]
    parts = checked(named, ConfigError, "Give the file another `path` in the dataset's YAML.")
    if source.folder is None:
        return Listing(parts)
    with Session() as session:
        entries, documents = _walk(source.folder, _lister(source, session))
    taken = {part.path for part in parts} | {part.version for part in parts}
    entries = [(path, entry) for path, entry in entries if path not in taken and entry.id not in taken]
    wanted = set(matching((path for path, _ in entries), source.include, source.exclude))
    listed = [
        Part(path, _address(source, entry.id), entry.size_bytes, entry.sha256, entry.md5, entry.id)
        for path, entry in entries
        if path in wanted
    ]
    mend = "Name the one to take under `files` (id and path), or leave out what has that path with `exclude`."
    resolved = {"folder": source.folder, "documents_left_out": documents}
    return Listing(checked([*parts, *listed], SourceError, mend), resolved)


def fetch(source: GoogleDriveSource, part: Part, target: Path, session: Session) -> str:
    """Bring one file.

    Raises:
        SourceError: it is not shared, too many have asked for it today, or Drive shows another page in its place.
    """
    address = part.url
    part = replace(part, url=f"{source.endpoint}/file/d/{part.version}/view")  # what messages show, for people to open
    key = os.environ.get(KEY)
    if key:
        return _fetch_with_key(source, part, target, session, key)
    try:
        return session.bring(part, target, address=lambda: address)
    except SourceError as error:
        page = _page_instead(session, address, error)
        confirmed = _confirmed(address, page)
        if confirmed is None:
            raise _explain_page(part, target, page, error) from error
    is_named = urlsplit(confirmed).netloc == urlsplit(address).netloc
    try:
        return session.bring(part, target, address=lambda: confirmed, is_named=is_named)
    except WebPage as error:
        raise _explain_page(part, target, error.html, error) from error


def _fetch_with_key(source: GoogleDriveSource, part: Part, target: Path, session: Session, key: str) -> str:
    """Bring one file over the API, checked against the size and hash that it tells; the key stays out of `url`."""
    url = f"{_api(source)}/files/{part.version}"
    told = _entry(_ask_api(session, url, {"fields": _FIELDS, "key": key, "supportsAllDrives": "true"}, part.url))
    if told.kind != "file":
        raise SourceError(f"{part.url} is a {told.kind}, not a file", "Mend the id in the dataset's YAML.")
    size = told.size_bytes if part.size_bytes is None else part.size_bytes
    at_api = replace(part, url=url, size_bytes=size, sha256=part.sha256 or told.sha256, md5=part.md5 or told.md5)
    address = f"{url}?{urlencode({'alt': 'media', 'key': key, 'supportsAllDrives': 'true'})}"
    try:
        return session.bring(at_api, target, address=lambda: address)
    except Refused as error:
        reason = _reason(session.ask(address, limit=SHOWN_BYTES))
        if reason == "downloadQuotaExceeded":
            raise _over_quota(part, target) from error
        raise SourceError(f"{part.url}: Drive refuses it ({reason or 'no reason given'})", _SHARE) from error


def _address(source: GoogleDriveSource, file_id: str) -> str:
    """Where the bytes are for everyone; `confirm` says yes to the warning beforehand, which Drive may ignore."""
    downloads = DOWNLOADS if source.endpoint == GOOGLE_DRIVE else f"{source.endpoint}/download"
    return f"{downloads}?{urlencode({'id': file_id, 'export': 'download', 'confirm': 't'})}"


# -- folders ---------------------------------------------------------------------------------------------------

Lister = Callable[[str], Iterable[_Entry]]


def _walk(root: str, entries_of: Lister) -> tuple[list[tuple[str, _Entry]], int]:
    """Every file below `root` with its path, and how many documents there are; each folder is read once."""
    files: list[tuple[str, _Entry]] = []
    documents, seen, queue = 0, {root}, deque([(root, "", 0)])
    while queue:
        folder, prefix, depth = queue.popleft()
        for entry in entries_of(folder):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", entry.id):
                raise SourceError(f"Drive folder {folder} lists {entry.name!r} without an id", "Check `endpoint`.")
            path = prefix + _file_name(entry)
            if entry.kind == "document":
                documents += 1
            elif entry.kind == "file":
                files.append((path, entry))
            elif entry.id not in seen:
                seen.add(entry.id)
                queue.append((entry.id, f"{path}/", depth + 1))
            if depth > MAX_DEPTH or len(files) > MAX_FILES:
                raise SourceError(
                    f"Drive folder {root} has folders more than {MAX_DEPTH} deep, or more than {MAX_FILES:,} files",
                    "Name a smaller folder.",
                )
    return files, documents


def _file_name(entry: _Entry) -> str:
    """A name that a folder can hold: on Drive one may have slashes, or be `..`."""
    name = re.sub(r"[/\x00-\x1f\x7f]", "_", entry.name).strip().encode(errors="replace").decode()
    return f"_{entry.id}" if name in ("", ".", "..") else name


def _lister(source: GoogleDriveSource, session: Session) -> Lister:
    """What reads one folder: from the API if there is a key, else from Drive's page."""
    key, pages = os.environ.get(KEY), iter(range(MAX_PAGES))

    def turn_page(folder: str) -> str:
        if next(pages, None) is None:
            raise SourceError(f"Drive folder {source.folder} takes more than {MAX_PAGES} pages", "Name a smaller one.")
        return f"Drive folder {folder}"

    def from_api(folder: str) -> Iterator[_Entry]:
        query = {"q": f"'{folder}' in parents and trashed = false", "orderBy": "name", "pageSize": "1000"}
        query |= {"supportsAllDrives": "true", "includeItemsFromAllDrives": "true", "key": key or ""}
        query |= {"fields": f"nextPageToken,files({_FIELDS})"}
        token: Any = ""
        while token is not None:
            more = {"pageToken": str(token)} if token else {}
            page = _ask_api(session, f"{_api(source)}/files", query | more, turn_page(folder))
            yield from map(_entry, page.get("files", ()))
            token = page.get("nextPageToken")

    def from_page(folder: str) -> Iterable[_Entry]:
        address = f"{source.endpoint}/embeddedfolderview?{urlencode({'id': folder})}"
        return _page_entries(_ask(session, address), turn_page(folder), is_root=folder == source.folder)

    return from_api if key else from_page


def _page_entries(answer: Answer, what: str, *, is_root: bool) -> list[_Entry]:
    """The entries on a folder's page.

    Raises:
        SourceError: it is no folder's page, or that of a whole empty folder.
    """
    if answer.status != 200:
        later = "Too many have asked: run the same command later."
        raise SourceError(f"{what}: Drive answers {answer.status}", later if answer.status in _BUSY else _SHARE)
    if len(answer.body) >= PAGE_BYTES:
        raise SourceError(f"{what}: its page is too long to be read", f"Set {KEY} to an API key of Google's.")
    page = _Page.of(answer.body.decode(errors="replace"))
    if not page.is_whole:
        raise SourceError(f"{what}: its page is not HTML", f"Set {KEY} to an API key of Google's.")
    if not page.entries and (is_root or not page.is_folder):
        raise SourceError(
            f"{what}: its page shows no files (title: {page.title!r}); the folder is private or empty, or Drive has "
            "changed that page",
            f"{_SHARE} If it is shared, set {KEY} to an API key of Google's, which makes this reliable.",
        )
    return page.entries


@dataclass
class _Page(HTMLParser):
    """What is of use on a page of Drive's.

    Attributes:
        title: the page's.
        is_whole: whether it could be read to its end.
        entries: of a folder's page, in its order.
        is_folder: whether it is a folder's page at all.
        form: where the button of a warning leads; None where there is none.
    """

    title: str = ""
    entries: list[_Entry] = field(default_factory=list)
    is_folder: bool = False
    is_whole: bool = True

    def __post_init__(self) -> None:
        super().__init__()
        self._text: Callable[[str], None] | None = None  # takes the text of the element that is open
        self._action: str | None = None
        self._inputs: dict[str, str] = {}

    @classmethod
    def of(cls, html: str) -> _Page:
        """Read a page, or the beginning of one."""
        page = cls()
        try:
            page.feed(html)
        except AssertionError:  # raised by html.parser itself at a marked section that it does not know, `<![x[`
            page.is_whole = False
        return page

    @property
    def form(self) -> str | None:
        """Where the form leads; a query of its own goes before what it hides."""
        if self._action is None:
            return None
        return f"{self._action}{'&' if '?' in self._action else '?'}{urlencode(self._inputs)}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what the tag tells."""
        values = {name: value or "" for name, value in attrs}
        classes = values.get("class", "").split()
        self._text = None
        if tag == "title":
            self._text = self._add_title
        elif tag == "form" and values.get("id") == "download-form":
            self._action = values.get("action", "")
        elif tag == "input" and self._action is not None and values.get("type") == "hidden":
            self._inputs[values.get("name", "")] = values.get("value", "")
        elif "flip-entries" in classes:
            self.is_folder = True
        elif "flip-entry" in classes:
            self.entries.append(_Entry(values.get("id", "").removeprefix("entry-"), "", "file"))
        elif self.entries and tag == "a":
            _follow(self.entries[-1], values.get("href", ""))
        elif self.entries and "flip-entry-title" in classes:
            self._text = self._add_name

    def handle_endtag(self, tag: str) -> None:
        """End the text."""
        self._text = None

    def handle_data(self, data: str) -> None:
        """Take the text, if it is of use."""
        if self._text is not None:
            self._text(data)

    def _add_title(self, text: str) -> None:
        self.title += text.strip()

    def _add_name(self, text: str) -> None:
        self.entries[-1].name += text


def _follow(entry: _Entry, href: str) -> None:
    """Take an entry's id and kind from its link; an Office file opens as a document, marked with `rtpof`."""
    found = re.search(r"/(file/d|folders|\w+/d)/([A-Za-z0-9_-]+)", href)
    if found is None:
        return
    entry.id = found[2]
    if found[1] == "folders":
        entry.kind = "folder"
    elif found[1] != "file/d" and "rtpof=true" not in href:
        entry.kind = "document"


# -- the API ---------------------------------------------------------------------------------------------------


def _api(source: GoogleDriveSource) -> str:
    return API if source.endpoint == GOOGLE_DRIVE else f"{source.endpoint}/v3"


def _ask(session: Session, url: str) -> Answer:
    """What Drive answers, after some patience."""
    for seconds in PAUSES_SECONDS:
        answer = session.ask(url, limit=PAGE_BYTES)
        if answer.status not in _BUSY and _reason(answer) not in _RATE_LIMITS:
            return answer
        session.pause(seconds)
    return session.ask(url, limit=PAGE_BYTES)


def _ask_api(session: Session, url: str, query: dict[str, str], what: str) -> dict[str, Any]:
    """What the API says.

    Raises:
        SourceError: it refuses, or does not answer as an API does.
    """
    answer = _ask(session, f"{url}?{urlencode(query)}")
    reason = _reason(answer)
    if answer.status == 400 or reason in ("accessNotConfigured", "keyInvalid", "ipRefererBlocked", "forbidden"):
        raise SourceError(
            f"{what}: Drive's API does not take the key in {KEY} ({reason})",
            f"Mend the key, and enable the Drive API for its project; or unset {KEY} to go without.",
        )
    if answer.status == 404:
        raise SourceError(f"{what}: it is not there, or not shared", _SHARE)
    if answer.status != 200:
        raise SourceError(f"{what}: Drive's API answers {answer.status} {reason}", "Run the same command later.")
    data = _parsed(answer)
    if not isinstance(data, dict) or not isinstance(data.get("files", []), list):
        raise SourceError(f"{what}: what answers is not Drive's API", "Check the network and `endpoint`.")
    return data


def _reason(answer: Answer) -> str:
    """The word that the API gives for a refusal; empty where there is none."""
    try:
        reason = _parsed(answer)["error"]["errors"][0]["reason"]
    except (TypeError, KeyError, IndexError):
        return ""
    return str(reason) if re.fullmatch(r"\w+", str(reason)) else ""


def _parsed(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _entry(item: Any) -> _Entry:
    """A file as the API describes it; its types of its own are documents, and so are shortcuts."""
    kind: Literal["file", "folder", "document"] = "file"
    try:
        if item.get("mimeType", "").startswith("application/vnd.google-apps."):
            kind = "folder" if item["mimeType"].endswith(".folder") else "document"
        size = int(item["size"]) if "size" in item else None
        sha256, md5 = (str(item[name]) if name in item else None for name in ("sha256Checksum", "md5Checksum"))
        return _Entry(str(item["id"]), str(item["name"]), kind, size, sha256, md5)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SourceError("what answers is not Drive's API", "Check the network and `endpoint`.") from error


# -- pages in place of files -----------------------------------------------------------------------------------


def _page_instead(session: Session, address: str, error: SourceError) -> str:
    """The page that came in place of a file, if that is why it could not be had; else the error goes on."""
    if isinstance(error, WebPage):
        return error.html
    session.check_time()
    answer = session.ask(address, limit=SHOWN_BYTES)
    if not isinstance(error, Refused) and "text/html" not in answer.headers.get("content-type", ""):
        raise error
    return answer.body.decode(errors="replace")


def _confirmed(address: str, html: str) -> str | None:
    """Where the button of a warning on the page at `address` leads; None where there is none."""
    form = _Page.of(html).form
    try:
        return None if form is None else urlsplit(urljoin(address, form)).geturl()
    except ValueError:  # brackets that hold no IPv6 address
        return None


def _explain_page(part: Part, target: Path, html: str, error: SourceError) -> SourceError:
    """What a page that came in place of a file means."""
    title = _Page.of(html).title
    text = f"{title} {html}".lower()
    if "quota exceeded" in text or "too many users" in text:
        return _over_quota(part, target)
    if isinstance(error, Refused) or "accounts.google.com" in text or "google accounts" in text:
        return SourceError(f"{part.path}: {part.url} is not shared with everyone: Drive refuses it", _SHARE)
    return SourceError(
        f"{part.path}: Drive shows a page in place of {part.url}, titled {title!r}",
        f"Open it in a browser. An API key in {KEY} may help, or another source in prep.yaml.",
    )


def _over_quota(part: Part, target: Path) -> SourceError:
    # A file that was put there by hand is taken for the part only where it can be recognised.
    by_hand = f", or get it in a browser and put it at {target}" if part.sha256 and part.size_bytes else ""
    return SourceError(
        f"{part.path}: too many people have fetched {part.url} lately; Drive gives it to nobody for now",
        f"Wait up to 24 hours, or copy it into a Drive of your own and name the copy, or name another mirror{by_hand}.",
    )
