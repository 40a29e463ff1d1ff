"""Google Drive's pages, downloads and API over the world's folder."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from prep.publishers import PublisherServer
from prep.publishers.drive import FOLDER_TYPE, KEY, make_id, write_drive

LARGE, SMALL, NOTES = (make_id(f"/{name}") for name in ("web-celebrity.zip", "wikiart.zip", "notes & terms"))
NOTE = make_id("/notes & terms/reader's notes.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "drive"
    write_drive(folder)
    return folder


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[PublisherServer]:
    with PublisherServer(tmp_path, tmp_path, drive=folder) as server:
        yield server


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=5) as pool:
        yield pool


class Client:
    """Asks one drive."""

    def __init__(self, server: PublisherServer, http: urllib3.PoolManager) -> None:
        self.url, self.http = f"{server.url}/drive", http

    def get(self, path: str, *, asked: str = "", **query: str) -> urllib3.BaseHTTPResponse:
        headers = {"Range": asked} if asked else {}
        return self.http.request("GET", f"{self.url}/{path}?{urlencode(query)}", headers=headers)

    def json(self, path: str, **query: str) -> Any:
        return json.loads(self.get(path, **query).data)


@pytest.fixture
def drive(server: PublisherServer, http: urllib3.PoolManager) -> Client:
    return Client(server, http)


def title(reply: urllib3.BaseHTTPResponse) -> tuple[int, str | None, str]:
    found = re.search("<title>(.*)</title>", reply.data.decode())
    return reply.status, reply.headers["Content-Type"], found.group(1) if found else ""


HTML = "text/html; charset=utf-8"


def test_ids_look_like_drives() -> None:
    for found in (LARGE, SMALL, NOTES, NOTE, make_id("")):
        assert re.fullmatch(r"1[-\w]{32}", found)


def test_a_small_file_comes_at_once(drive: Client, folder: Path) -> None:
    moved = drive.get("uc", export="download", id=SMALL)
    assert moved.status == 303
    assert moved.headers["Location"] == f"{drive.url}/download?export=download&id={SMALL}"
    reply = drive.get("download", id=SMALL, export="download")
    data = (folder / "wikiart.zip").read_bytes()
    assert (reply.status, reply.data) == (200, data)
    assert reply.headers["Content-Disposition"].startswith('attachment; filename="wikiart.zip"')
    assert (reply.headers["Content-Length"], reply.headers.get("ETag")) == (str(len(data)), None)
    modified = reply.headers["Last-Modified"]
    part = drive.get("download", id=SMALL, export="download", asked="bytes=100-199")
    assert (part.status, part.data, part.headers["Last-Modified"]) == (206, data[100:200], modified)
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() == [f"data/wikiart/images/wikiart-{n}.jpg" for n in range(3)]


def test_a_large_file_comes_after_a_warning(drive: Client, server: PublisherServer, folder: Path) -> None:
    page = drive.get("download", id=LARGE, export="download")
    assert title(page) == (200, HTML, "Google Drive - Virus scan warning")
    html = page.data.decode()
    assert f'<form id="download-form" action="{drive.url}/download" method="get">' in html
    inputs = dict(re.findall(r'<input type="hidden" name="(\w+)" value="(.*?)">', html))
    assert inputs == {"id": LARGE, "export": "download", "confirm": "t", "uuid": inputs["uuid"]}
    assert drive.get("download", **inputs).data == (folder / "web-celebrity.zip").read_bytes()
    server.drive.scan_limit = 100_000_000
    assert drive.get("download", id=LARGE, export="download").headers["Content-Type"] == "application/octet-stream"


def test_refusals_are_pages(drive: Client, server: PublisherServer) -> None:
    server.drive.over_quota.add(LARGE)
    page = drive.get("download", id=LARGE, export="download", confirm="t")
    assert title(page) == (200, HTML, "Google Drive - Quota exceeded")
    assert b'<p class="uc-error-caption">' in page.data
    assert b'<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.' in page.data

    server.drive.private |= {SMALL, NOTES}
    for path, found in (("download", SMALL), ("embeddedfolderview", NOTES)):
        moved = drive.get(path, id=found)
        assert moved.status == 302
        signin = drive.http.request("GET", moved.headers["Location"])
        assert title(signin) == (200, HTML, "Sign in - Google Accounts")

    for path, found in (
        *(("download", "1unknown"), ("embeddedfolderview", "1unknown"), ("none", LARGE)),
        *(("download", server.drive.root), ("embeddedfolderview", LARGE)),
    ):
        assert title(drive.get(path, id=found))[:2] == (404, HTML)


def test_a_folder_is_a_page_of_entries(drive: Client, server: PublisherServer) -> None:
    def entries(found: str) -> list[tuple[str, str, str]]:
        html = drive.get("embeddedfolderview", id=found).data.decode()
        pattern = (
            r'<div class="flip-entry" id="entry-(.*?)".*?<a href="(.*?)".*?<div class="flip-entry-title">(.*?)</div>'
        )
        return [(i, link.removeprefix(drive.url), unescape(name)) for i, link, name in re.findall(pattern, html)]

    assert entries(server.drive.root) == [
        (NOTES, f"/drive/folders/{NOTES}", "notes & terms"),
        (LARGE, f"/file/d/{LARGE}/view?usp=drive_web", "web-celebrity.zip"),
        (SMALL, f"/file/d/{SMALL}/view?usp=drive_web", "wikiart.zip"),
    ]
    assert entries(NOTES) == [(NOTE, f"/file/d/{NOTE}/view?usp=drive_web", "reader's notes.txt")]
    assert b"notes &amp; terms" in drive.get("embeddedfolderview", id=server.drive.root).data


def test_the_api_lists_a_folder_in_pages(drive: Client, server: PublisherServer, folder: Path) -> None:
    query = {"q": f"'{server.drive.root}' in parents and trashed = false", "key": KEY}
    fields = "nextPageToken,files(id,name,mimeType,size,md5Checksum)"
    zips = [
        {
            "id": found,
            "name": name,
            "mimeType": "application/zip",
            "size": str((folder / name).stat().st_size),
            "md5Checksum": hashlib.md5((folder / name).read_bytes()).hexdigest(),
        }
        for found, name in ((LARGE, "web-celebrity.zip"), (SMALL, "wikiart.zip"))
    ]
    everything = [{"id": NOTES, "name": "notes & terms", "mimeType": FOLDER_TYPE}, *zips]
    assert drive.json("v3/files", **query, fields=fields) == {"files": everything}

    server.drive.page_size = 2
    first = drive.json("v3/files", **query, fields=fields, pageSize="1000")
    assert first["files"] == everything[:2]
    rest = drive.json("v3/files", **query, fields=fields, pageToken=first["nextPageToken"])
    assert rest == {"files": everything[2:]}
    assert drive.json("v3/files", **query, fields="files(name)") == {
        "files": [{"name": "notes & terms"}, {"name": "web-celebrity.zip"}]
    }
    bare = drive.json("v3/files", **query)["files"][1]
    assert sorted(bare) == ["id", "kind", "mimeType", "name"]


def test_the_api_gives_bytes_without_a_warning(drive: Client, folder: Path) -> None:
    data = (folder / "web-celebrity.zip").read_bytes()
    assert drive.get(f"v3/files/{LARGE}", alt="media", key=KEY).data == data
    part = drive.get(f"v3/files/{LARGE}", alt="media", key=KEY, asked="bytes=100-")
    assert (part.status, part.data) == (206, data[100:])
    assert drive.json(f"v3/files/{LARGE}", key=KEY, fields="size") == {"size": str(len(data))}


def test_the_api_refuses_in_json(drive: Client, server: PublisherServer) -> None:
    server.drive.over_quota.add(LARGE)
    server.drive.private.add(SMALL)
    for path, query, code, reason in (
        ("v3/files", {"q": f"'{server.drive.root}' in parents", "key": "wrong"}, 400, "badRequest"),
        ("v3/files", {"q": f"'{server.drive.root}' in parents"}, 403, "forbidden"),
        ("v3/files", {"q": "'1unknown' in parents", "key": KEY}, 404, "notFound"),
        (f"v3/files/{LARGE}", {"alt": "media", "key": KEY}, 403, "downloadQuotaExceeded"),
        (f"v3/files/{SMALL}", {"alt": "media", "key": KEY}, 404, "notFound"),
        (f"v3/files/{NOTES}", {"alt": "media", "key": KEY}, 403, "fileNotDownloadable"),
    ):
        reply = drive.get(path, **query)
        error = json.loads(reply.data)["error"]
        assert (reply.status, error["code"], error["errors"][0]["reason"]) == (code, code, reason)


def test_a_server_without_a_drive_knows_no_id(tmp_path: Path, http: urllib3.PoolManager) -> None:
    with PublisherServer(tmp_path, tmp_path) as server:
        drive = Client(server, http)
        assert drive.get("embeddedfolderview", id=server.drive.root).status == 404
