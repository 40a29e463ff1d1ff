"""Google Drive over a folder: downloads with their warning pages, folder pages, and the API's two calls for files.

What it answers, and the names in its pages that clients look for, are what public clients of Drive expect (gdown 6.2
for the pages, Google's own reference for the API); nothing of it was compared with the real service. The real one
lives on three hosts: `/uc`, `/embeddedfolderview` and `/file` on drive.google.com, `/download` on
drive.usercontent.google.com, `/v3` as /drive/v3 on www.googleapis.com.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from prep.publishers.pictures import Picture
from prep.publishers.replies import Reply, file_headers, json_reply

KEY = "AIza_key_of_the_small_world"
FOLDER_TYPE = "application/vnd.google-apps.folder"
DEFAULT_FIELDS = "nextPageToken, files(kind, id, name, mimeType)"
SCAN_LIMIT = 20_000


@dataclass(frozen=True)
class Entry:
    """A file or a folder of a drive."""

    id: str
    path: Path
    entries: tuple[Entry, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder; `entries` are what is in it."""
        return self.path.is_dir()


class Drive:
    """A shared folder on Google Drive, the files below `folder`; without one, a drive that knows no id.

    Attributes:
        scan_limit: larger files come after a warning that nobody scanned them for viruses, bytes; really 100 MB.
        page_size: entries of the API's listings in one reply, whatever the request's pageSize says.
        over_quota: ids of files that too many people fetched today.
        private: ids that are not shared.
        files: id -> file, for files that are shared and in no folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self.scan_limit = SCAN_LIMIT
        self.page_size = 100
        self.over_quota: set[str] = set()
        self.private: set[str] = set()
        self.files: dict[str, Path] = {}
        self._folder = folder

    @property
    def root(self) -> str:
        """The folder's id."""
        return make_id("")

    @property
    def entries(self) -> dict[str, Entry]:
        """Everything in the folder, the folder itself and `files`, by id."""
        found = {file_id: Entry(file_id, path) for file_id, path in self.files.items()}

        def enter(path: Path, name: str) -> Entry:
            below = sorted(path.iterdir()) if path.is_dir() else []
            entry = Entry(make_id(name), path, tuple(enter(child, f"{name}/{child.name}") for child in below))
            found[entry.id] = entry
            return entry

        if self._folder:
            enter(self._folder, "")
        return found

    def answer(self, url: str, path: str, query: Mapping[str, str]) -> Reply:
        """Answer `<url>/<path>`."""
        if path.startswith("v3/files"):
            return self._api(path.removeprefix("v3/files").lstrip("/"), query)
        if path == "signin":
            return _page("Sign in - Google Accounts", "<p>Sign in to continue to Google Drive.</p>")
        entry = self.entries.get(query.get("id", ""))
        if path == "uc":
            return _redirect(303, f"{url}/download?{urlencode({**query, 'export': 'download'})}")
        if entry is None or path not in ("download", "embeddedfolderview"):
            return _page("Error 404 (Not Found)", "<p>There is nothing at this address.</p>", 404)
        if entry.id in self.private:
            return _redirect(302, f"{url}/signin?{urlencode({'continue': f'{url}/{path}?{urlencode(query)}'})}")
        if entry.is_folder != (path == "embeddedfolderview"):
            return _page("Error 404 (Not Found)", "<p>There is nothing at this address.</p>", 404)
        return _folder_page(url, entry) if entry.is_folder else self._download(url, entry, query)

    def _download(self, url: str, entry: Entry, query: Mapping[str, str]) -> Reply:
        if entry.id in self.over_quota:
            return _page("Google Drive - Quota exceeded", _QUOTA)
        if entry.path.stat().st_size > self.scan_limit and query.get("confirm") != "t":
            token = str(uuid.uuid5(uuid.NAMESPACE_URL, entry.id))
            inputs = {"id": entry.id, "export": "download", "confirm": "t", "uuid": token}
            hidden = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in inputs.items())
            form = f'<form id="download-form" action="{escape(url)}/download" method="get">{hidden}</form>'
            caption = f'<p class="uc-warning-caption">Nobody scanned {escape(entry.path.name)} for viruses.</p>'
            return _page("Google Drive - Virus scan warning", caption + form)
        return _file(entry)

    def _api(self, file_id: str, query: Mapping[str, str]) -> Reply:
        """Answer `/v3/files` or `/v3/files/<id>`; fields that are not asked for do not come."""
        if "key" not in query:
            return _api_error(403, "forbidden", "PERMISSION_DENIED", "A request without a key.")
        if query["key"] != KEY:
            return _api_error(400, "badRequest", "INVALID_ARGUMENT", "API key not valid.")
        parent = re.search(r"'([^']*)' in parents", query.get("q", ""))
        entry = self.entries.get(file_id or (parent.group(1) if parent else ""))
        if entry is None or entry.id in self.private:
            return _api_error(404, "notFound", "NOT_FOUND", f"File not found: {file_id or '.'}.")
        fields = set(re.findall(r"\w+|\*", query.get("fields", DEFAULT_FIELDS)))
        if not file_id:
            return self._list(entry, int(query.get("pageToken", 0)), fields)
        if query.get("alt") != "media":
            return json_reply(_resource(entry, fields))
        if entry.is_folder:
            return _api_error(403, "fileNotDownloadable", "PERMISSION_DENIED", "A folder has no contents to download.")
        if entry.id in self.over_quota:
            message = "The download quota for this file has been exceeded."
            return _api_error(403, "downloadQuotaExceeded", "PERMISSION_DENIED", message)
        return _file(entry)

    def _list(self, folder: Entry, start: int, fields: set[str]) -> Reply:
        stop = start + self.page_size
        page: dict[str, Any] = {"files": [_resource(entry, fields) for entry in folder.entries[start:stop]]}
        if stop < len(folder.entries) and fields & {"nextPageToken", "*"}:
            page["nextPageToken"] = str(stop)
        return json_reply(page)


def make_id(path: str) -> str:
    """The id of what is at `path`: 33 characters, the first a 1, as Drive's are."""
    return "1" + base64.urlsafe_b64encode(hashlib.sha256(path.encode()).digest()).decode()[:32]


def write_drive(folder: Path) -> None:
    """Write two of the zips of pictures from the web that ConvLLaVA trains on, and a folder of notes.

    `web-celebrity.zip` is over the default `scan_limit`, `wikiart.zip` below it; both nest `data/<name>/images/`.
    """
    (folder / "notes & terms").mkdir(parents=True)
    (folder / "notes & terms/reader's notes.txt").write_text("Pictures for academic use only.\n", encoding="utf-8")
    for name, count, side in (("web-celebrity", 8, 320), ("wikiart", 3, 160)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for number in range(count):
                member = f"data/{name}/images/{name}-{number}.jpg"
                # Dated 1980, so that the bytes are always the same.
                archive.writestr(zipfile.ZipInfo(member), Picture.named(member, side, side).encode())


def _file(entry: Entry) -> Reply:
    """The contents of a file; Drive gives them no ETag."""
    name = entry.path.name
    plain = name.encode("ascii", "replace").decode().replace('"', "'")
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"
    headers = {"Content-Type": "application/octet-stream", "Content-Disposition": disposition}
    return Reply(200, entry.path, file_headers(entry.path) | headers)


def _resource(entry: Entry, fields: set[str]) -> dict[str, str]:
    """A file as the API describes it, in the fields asked for."""
    kind = FOLDER_TYPE if entry.is_folder else file_headers(entry.path)["Content-Type"]
    resource = {"kind": "drive#file", "id": entry.id, "name": entry.path.name, "mimeType": kind}
    if not entry.is_folder:
        with entry.path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        resource |= {"size": str(entry.path.stat().st_size), "md5Checksum": md5}
    return {name: value for name, value in resource.items() if name in fields or "*" in fields}


def _folder_page(url: str, folder: Entry) -> Reply:
    entries = []
    for entry in folder.entries:
        kind, end = ("drive/folders", "") if entry.is_folder else ("file/d", "/view?usp=drive_web")
        link = f'<a href="{escape(url)}/{kind}/{entry.id}{end}" target="_blank">'
        title = f'<div class="flip-entry-title">{escape(entry.path.name)}</div>'
        entries.append(f'<div class="flip-entry" id="entry-{entry.id}" role="link">{link}{title}</a></div>\n')
    return _page(folder.path.name, f'<div class="flip-entries">\n{"".join(entries)}</div>')


_QUOTA = """<p class="uc-error-caption">This file cannot be downloaded now.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently. Try again later; it may
take until tomorrow.</p>"""


def _page(title: str, body: str, status: int = 200) -> Reply:
    html = f'<!doctype html>\n<html lang="en"><head><title>{escape(title)}</title></head>\n<body>{body}</body></html>\n'
    return Reply(status, html.encode(), {"Content-Type": "text/html; charset=utf-8"})


def _redirect(status: int, location: str) -> Reply:
    page = _page("Moved", f'<a href="{escape(location)}">Here</a>', status)
    return replace(page, headers={**page.headers, "Location": location})


def _api_error(code: int, reason: str, status: str, message: str) -> Reply:
    """An error as Google's APIs say it."""
    errors = [{"message": message, "domain": "global", "reason": reason}]
    error = {"code": code, "message": message, "errors": errors, "status": status}
    return replace(json_reply({"error": error}), status=code)
