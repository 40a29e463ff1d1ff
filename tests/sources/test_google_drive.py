"""Files on Google Drive: by id, by folder, with a key and without; every page that comes in place of a file."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.config import GoogleDriveSource
from prep.errors import ConfigError, SourceError
from prep.publishers import Fault, World
from prep.publishers.drive import KEY, make_id
from prep.sources import Listing, Part, google_drive, is_inside
from prep.sources.transfer import Session

CELEBRITY, WIKIART, NOTES = "web-celebrity.zip", "wikiart.zip", "notes & terms/reader's notes.txt"
DOWNLOAD, FOLDER_PAGE, API = "/drive/download", "/drive/embeddedfolderview", "/drive/v3/files"


@pytest.fixture(autouse=True)
def no_key_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def with_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)


def id_of(path: str) -> str:
    return make_id(f"/{path}")


def source(world: World, **given: Any) -> GoogleDriveSource:
    endpoint = f"{world.url}/drive"
    return GoogleDriveSource.model_validate({"kind": "google-drive", "endpoint": endpoint, **given})


def one_file(world: World, path: str = CELEBRITY, **facts: Any) -> GoogleDriveSource:
    return source(world, files=[{"id": id_of(path), "path": path, **facts}])


def listing(given: GoogleDriveSource) -> Listing:
    return google_drive.list_parts(given, Path(), None)


def fetch(given: GoogleDriveSource, target: Path) -> str:
    """Bring the first part."""
    with Session() as session:
        return google_drive.fetch(given, listing(given).parts[0], target, session)


def error_of(call: Callable[[], object]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        call()
    assert caught.value.next_step
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return caught.value


def published(world: World, path: str) -> bytes:
    return (world.folder / "drive" / path).read_bytes()


def facts(data: bytes) -> dict[str, Any]:
    return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def seen_at(world: World, path: str) -> str:
    return f"{world.url}/drive/file/d/{id_of(path)}/view"


def address(world: World, path: str) -> str:
    return f"{world.url}/drive/download?id={id_of(path)}&export=download&confirm=t"


# -- listing -------------------------------------------------------------------------------------------------


def test_files_by_id_are_taken_as_they_are_named(world: World) -> None:
    given = source(
        world,
        files=[
            {"id": f"https://drive.google.com/file/d/{id_of(WIKIART)}/view?usp=sharing", "path": "b/w.zip"},
            {"id": id_of(CELEBRITY), "path": "a.zip", "size_bytes": 3, "md5": "AB" * 16},
        ],
    )
    assert listing(given) == Listing(
        (
            Part("a.zip", address(world, CELEBRITY), 3, None, "ab" * 16, id_of(CELEBRITY)),
            Part("b/w.zip", address(world, WIKIART), version=id_of(WIKIART)),
        )
    )
    assert world.requests == []


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a//b", "."])
def test_a_named_path_stays_inside(path: str, world: World) -> None:
    with pytest.raises(ConfigError, match="is not a path inside the dataset's folder"):
        listing(one_file(world, path))


@pytest.mark.parametrize("path", ["_manifest.json", ".a.zip.part"])
def test_a_named_path_is_none_of_our_own_files(path: str, world: World) -> None:
    with pytest.raises(ConfigError, match="is a name that `prep` keeps for files of its own") as caught:
        listing(one_file(world, path))
    assert caught.value.next_step == "Give the file another `path` in the dataset's YAML."


def test_an_endpoint_that_is_no_address(world: World) -> None:
    with pytest.raises(ConfigError) as caught:
        listing(source(world, files=[{"id": "1a", "path": "x"}]).model_copy(update={"endpoint": "http://["}))
    assert str(caught.value) == "http://[ is not an http(s) address\n  Mend `endpoint` in the dataset's YAML."


def test_a_name_too_long_for_a_disk_may_be_named_shorter(world: World) -> None:
    world.faults[FOLDER_PAGE] = page(file_entry("1a", "n" * 240), file_entry("1b", "b"))
    error = error_of(lambda: listing(source(world, folder="1x")))
    assert error.message.endswith(f"{'n' * 240!r} has a name of 240 bytes, at most 239 can be brought")
    given = source(world, folder="1x", files=[{"id": "1a", "path": "a"}])
    assert [part.path for part in listing(given).parts] == ["a", "b"]


def test_two_named_files_of_one_path_are_refused(world: World) -> None:
    files = [{"id": "1a", "path": "x"}, {"id": "1b", "path": "x"}]
    with pytest.raises(ConfigError, match="would both be 'x'"):
        listing(source(world, files=files))


def test_a_folder_is_read_from_its_page_with_its_folders(world: World) -> None:
    found = listing(source(world, folder=world.drive_folder))
    assert found == Listing(
        tuple(Part(path, address(world, path), version=id_of(path)) for path in (NOTES, CELEBRITY, WIKIART)),
        {"folder": world.drive_folder, "documents_left_out": 0},
    )
    assert world.requests == [("GET", FOLDER_PAGE)] * 2


def test_a_folder_is_read_with_a_key_with_sizes_and_hashes(
    world: World, with_key: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.server.drive, "page_size", 1)
    found = listing(source(world, folder=world.drive_folder))
    assert [part.path for part in found.parts] == [NOTES, CELEBRITY, WIKIART]
    for part in found.parts:
        data = published(world, part.path)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        assert part == Part(part.path, address(world, part.path), len(data), None, md5, id_of(part.path))
    assert world.requests == [("GET", API)] * 4  # three pages, and the folder in it
    assert KEY not in repr(found)


def test_globs_choose_from_the_folder_and_named_files_go_first(world: World) -> None:
    given = source(
        world,
        folder=world.drive_folder,
        include=["*.zip"],
        exclude=["wiki*"],
        files=[{"id": id_of(CELEBRITY), "path": "celebrity.zip"}, {"id": "1other", "path": "more.txt"}],
    )
    assert [(part.path, part.version) for part in listing(given).parts] == [
        ("celebrity.zip", id_of(CELEBRITY)),
        ("more.txt", "1other"),
    ]


def page(*entries: tuple[str, str, str]) -> Fault:
    """A folder's page: (id, link, name) of each entry."""
    rows = "".join(
        f'<div class="flip-entry" id="entry-{key}"><div class="flip-entry-info"><a href="{escape(link)}">'
        f'<div class="flip-entry-title">{escape(name)}</div></a></div></div>'
        for key, link, name in entries
    )
    html = f'<title>A folder</title><body><div class="flip-entries">{rows}</div></body>'
    return Fault(body=html.encode())


def file_entry(key: str, name: str) -> tuple[str, str, str]:
    return key, f"https://drive.google.com/file/d/{key}/view?usp=drive_web", name


def test_documents_of_googles_are_left_out_and_counted(world: World) -> None:
    docs = "https://docs.google.com"
    world.faults[FOLDER_PAGE] = page(
        ("1a", f"{docs}/document/d/1a/edit?usp=drive_web", "Notes"),
        ("1b", f"{docs}/spreadsheets/d/1b/edit?usp=drive_web", "Table"),
        ("1c", f"{docs}/spreadsheets/d/1c/edit?usp=drive_web&rtpof=true", "table.xlsx"),
        file_entry("1d", "a.zip"),
    )
    found = listing(source(world, folder="1x"))
    assert [part.path for part in found.parts] == ["a.zip", "table.xlsx"]
    assert found.resolved == {"folder": "1x", "documents_left_out": 2}


def test_documents_are_known_to_the_api_by_their_type(world: World, with_key: None) -> None:
    types = ["application/zip", "application/vnd.google-apps.document", "application/vnd.google-apps.shortcut"]
    files = [{"id": f"1{n}", "name": f"{n}", "mimeType": kind} for n, kind in enumerate(types)]
    world.faults[API] = Fault(body=json.dumps({"files": files}).encode())
    found = listing(source(world, folder="1x"))
    assert ([part.path for part in found.parts], found.resolved["documents_left_out"]) == (["0"], 2)


def test_folders_that_hold_each_other_end(world: World) -> None:
    inside = ("1x", "https://drive.google.com/drive/folders/1x", "again")
    other = ("1y", "https://drive.google.com/drive/folders/1y", "other")
    world.faults[FOLDER_PAGE] = page(inside, other, file_entry("1a", "a.zip"))
    given = source(world, folder="1x", files=[{"id": "1z", "path": "z"}])
    assert [part.path for part in listing(given).parts] == ["a.zip", "other/a.zip", "z"]
    assert len(world.requests) == 2


def test_more_than_anyone_means_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.faults[FOLDER_PAGE] = page(*(file_entry(f"1{n}", f"{n}") for n in range(5)))
    monkeypatch.setattr(google_drive, "MAX_FILES", 4)
    error = error_of(lambda: listing(source(world, folder="1x")))
    assert error.message == "Drive folder 1x has folders more than 32 deep, or more than 4 files"


def test_pages_without_end_end(world: World, with_key: None, monkeypatch: pytest.MonkeyPatch) -> None:
    world.faults[API] = Fault(body=b'{"nextPageToken": "again", "files": []}')
    monkeypatch.setattr(google_drive, "MAX_PAGES", 7)
    error = error_of(lambda: listing(source(world, folder="1x")))
    assert error.message == "Drive folder 1x takes more than 7 pages"
    assert len(world.requests) == 7


@pytest.mark.parametrize(
    ("name", "path"),
    [("a/b.zip", "a_b.zip"), ("../../etc/x", None), ("..", "_1a"), (" ", "_1a"), ("a\0b\nc", None), ("é.zip", "é.zip")],
)
def test_names_are_made_ones_that_a_folder_can_hold(name: str, path: str | None, world: World) -> None:
    entry = google_drive._Entry("1a", name, "file")
    made = google_drive._file_name(entry)
    assert path is None or made == path
    assert is_inside(made) and "/" not in made


@given(st.text())
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    made = google_drive._file_name(google_drive._Entry("1a", name, "file"))
    assert is_inside(made) and "/" not in made and made.encode()


@pytest.mark.parametrize("others", [[file_entry("1b", "a.zip")], [file_entry("1b", "x/y"), file_entry("1c", "x_y")]])
def test_two_files_of_one_name_are_refused_until_one_is_named(others: list[tuple[str, str, str]], world: World) -> None:
    world.faults[FOLDER_PAGE] = page(file_entry("1a", "a.zip"), *others)
    error = error_of(lambda: listing(source(world, folder="1x")))
    assert "would both be" in error.message and "id=1b" in error.message
    assert error.next_step == (
        "Name the one to take under `files` (id and path), or leave out what has that path with `exclude`."
    )
    path = "a.zip" if len(others) == 1 else "x_y"
    given = source(world, folder="1x", files=[{"id": "1b", "path": path}])
    assert {(part.path, part.version) for part in listing(given).parts} == {
        (path, "1b"),
        ("a.zip", "1b" if path == "a.zip" else "1a"),
    }


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(body=b"<title>Sign in</title>"), "its page shows no files (title: 'Sign in')"),
        (page(), "its page shows no files (title: 'A folder')"),
        (Fault(body=b""), "its page shows no files (title: '')"),
        (Fault(status=404), "Drive answers 404"),
        (Fault(status=429), "Drive answers 429"),
        (Fault(body=(page(file_entry("1a", "a")).body or b"") + b"<![foo["), "its page is not HTML"),
    ],
    ids=["sign in", "empty", "nothing", "404", "429", "a mark"],
)
def test_a_folder_that_shows_no_files(fault: Fault, reason: str, world: World) -> None:
    world.faults[FOLDER_PAGE] = fault
    error = error_of(lambda: listing(source(world, folder="1x")))
    assert error.message.startswith(f"Drive folder 1x: {reason}")


def test_a_private_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.server.drive, "private", {world.drive_folder})
    error = error_of(lambda: listing(source(world, folder=world.drive_folder)))
    assert error.message == (
        f"Drive folder {world.drive_folder}: its page shows no files (title: 'Sign in - Google Accounts'); the folder "
        "is private or empty, or Drive has changed that page"
    )
    assert error.next_step == (
        "Its owner has to share it with anyone who has the link; check its id. If it is shared, set GOOGLE_API_KEY to "
        "an API key of Google's, which makes this reliable."
    )
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    error = error_of(lambda: listing(source(world, folder=world.drive_folder)))
    assert error.message == f"Drive folder {world.drive_folder}: it is not there, or not shared"


def test_a_folder_in_a_folder_may_be_empty(world: World) -> None:
    (empty := world.folder / "drive" / "empty").mkdir()
    try:
        assert len(listing(source(world, folder=world.drive_folder)).parts) == 3
    finally:
        empty.rmdir()


def test_drive_that_is_busy_for_a_moment_is_asked_again(world: World) -> None:
    world.faults[FOLDER_PAGE] = Fault(status=429, times=2)
    assert len(listing(source(world, folder=world.drive_folder)).parts) == 3


# -- bringing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CELEBRITY, WIKIART, NOTES])
def test_a_file_comes_whole(path: str, world: World, tmp_path: Path) -> None:
    sha256 = fetch(one_file(world, path), tmp_path / "raw" / path)
    assert (tmp_path / "raw" / path).read_bytes() == published(world, path)
    assert sha256 == hashlib.sha256(published(world, path)).hexdigest()
    assert world.requests == [("GET", DOWNLOAD)]


def warning(action: str, **inputs: str) -> bytes:
    hidden = "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in inputs.items())
    form = f'<form id="download-form" action="{action}" method="get">{hidden}<input type="submit" name="no"></form>'
    return f"<!DOCTYPE html><html><head><title>Virus scan warning</title></head><body>{form}</body></html>".encode()


@pytest.mark.parametrize("action", ["{url}/drive/download", "download", "/drive/download?x=1"])
def test_a_warning_is_confirmed_once(action: str, world: World, tmp_path: Path) -> None:
    body = warning(action.format(url=world.url), id=id_of(CELEBRITY), export="download", confirm="t", uuid="a&b")
    world.faults[DOWNLOAD] = Fault(body=body, times=1)
    fetch(one_file(world), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == published(world, CELEBRITY)
    assert world.requests == [("GET", DOWNLOAD)] * 2


def test_a_warning_that_comes_again_is_an_error(world: World, tmp_path: Path) -> None:
    world.faults[DOWNLOAD] = Fault(body=warning("download", id="1"))
    error = error_of(lambda: fetch(one_file(world), tmp_path / "x.zip"))
    assert error.message == (
        f"{CELEBRITY}: Drive shows a page in place of {seen_at(world, CELEBRITY)}, titled 'Virus scan warning'"
    )
    assert len(world.requests) == 2


def test_a_form_does_not_lead_to_private_hosts(world: World, tmp_path: Path) -> None:
    world.faults[DOWNLOAD] = Fault(body=warning("http://127.0.0.2:1/x"))
    error = error_of(lambda: fetch(one_file(world), tmp_path / "x.zip"))
    assert "127.0.0.2" in error.message and "not a public address" in error.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("key", [None, KEY])
def test_a_file_that_too_many_want(
    known: bool, key: str | None, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.server.drive, "over_quota", {id_of(CELEBRITY)})
    if key:
        monkeypatch.setenv("GOOGLE_API_KEY", key)
    given = one_file(world, **(facts(published(world, CELEBRITY)) if known else {}))
    target = tmp_path / CELEBRITY
    error = error_of(lambda: fetch(given, target))
    assert error.message == (
        f"{CELEBRITY}: too many people have fetched {seen_at(world, CELEBRITY)} lately; Drive gives it to nobody for "
        "now"
    )
    by_hand = f", or get it in a browser and put it at {target}" if known else ""
    assert error.next_step == (
        f"Wait up to 24 hours, or copy it into a Drive of your own and name the copy, or name another mirror{by_hand}."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_with_a_page_is_read_too(world: World, tmp_path: Path) -> None:
    world.faults[DOWNLOAD] = Fault(status=403, body=b"<title>Google Drive - Quota exceeded</title>")
    assert "too many people" in error_of(lambda: fetch(one_file(world), tmp_path / "x")).message
    world.faults[DOWNLOAD] = Fault(status=403)
    assert "is not shared with everyone" in error_of(lambda: fetch(one_file(world), tmp_path / "x")).message


def test_a_page_that_is_no_html_is_read_as_far_as_it_goes(world: World, tmp_path: Path) -> None:
    world.faults[DOWNLOAD] = Fault(body=b"<!doctype html><title>Quota exceeded</title><![foo[")
    assert "too many people" in error_of(lambda: fetch(one_file(world), tmp_path / "x")).message


def test_a_form_that_leads_nowhere(world: World, tmp_path: Path) -> None:
    world.faults[DOWNLOAD] = Fault(body=warning("http://["))
    error = error_of(lambda: fetch(one_file(world), tmp_path / "x"))
    assert error.message.endswith("titled 'Virus scan warning'")


def test_a_private_file(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.server.drive, "private", {id_of(CELEBRITY)})
    error = error_of(lambda: fetch(one_file(world), tmp_path / "x"))
    assert error.message == (f"{CELEBRITY}: {seen_at(world, CELEBRITY)} is not shared with everyone: Drive refuses it")
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    error = error_of(lambda: fetch(one_file(world), tmp_path / "x"))
    assert error.message == f"{seen_at(world, CELEBRITY)}: it is not there, or not shared"


def test_any_other_page_is_told_by_its_title(world: World, tmp_path: Path) -> None:
    world.faults[DOWNLOAD] = Fault(body=b"<!doctype html><title>We are &lt;busy&gt;</title>")
    error = error_of(lambda: fetch(one_file(world), tmp_path / "x"))
    assert error.message.endswith("titled 'We are <busy>'")


def test_a_file_that_is_gone(world: World, tmp_path: Path) -> None:
    gone = source(world, files=[{"id": "1gone", "path": "x"}])
    error = error_of(lambda: fetch(gone, tmp_path / "x"))
    assert error.message == (
        f"x: Drive shows a page in place of {world.url}/drive/file/d/1gone/view, titled 'Error 404 (Not Found)'"
    )
    world.faults[DOWNLOAD] = Fault(status=404)
    error = error_of(lambda: fetch(gone, tmp_path / "x"))
    assert error.message == f"{world.url}/drive/file/d/1gone/view: the server answers 404"


# -- with a key ----------------------------------------------------------------------------------------------


def test_a_file_comes_over_the_api_and_is_checked(world: World, tmp_path: Path, with_key: None) -> None:
    fetch(one_file(world), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == published(world, CELEBRITY)
    path = f"{API}/{id_of(CELEBRITY)}"
    assert world.requests == [("GET", path)] * 2

    told = json.dumps({"id": "1", "name": "x", "mimeType": "application/zip", "md5Checksum": "00" * 16}).encode()
    world.faults[path] = Fault(body=told, times=1)
    error = error_of(lambda: fetch(one_file(world), tmp_path / "y.zip"))
    assert error.message.startswith(f"{world.url}{path}: md5 is ")


def test_an_id_of_something_else_than_a_file(world: World, tmp_path: Path, with_key: None) -> None:
    error = error_of(lambda: fetch(one_file(world, "notes & terms"), tmp_path / "x"))
    assert error.message == f"{seen_at(world, 'notes & terms')} is a folder, not a file"


def refusal(status: int, reason: str) -> Fault:
    error = {"code": status, "message": f"{KEY} is wrong", "errors": [{"reason": reason}]}
    return Fault(status=status, body=json.dumps({"error": error}).encode())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refusal(400, "badRequest"), "Drive's API does not take the key in GOOGLE_API_KEY (badRequest)"),
        (
            refusal(403, "accessNotConfigured"),
            "Drive's API does not take the key in GOOGLE_API_KEY (accessNotConfigured)",
        ),
        (refusal(403, "userRateLimitExceeded"), "Drive's API answers 403 userRateLimitExceeded"),
        (Fault(status=503), "Drive's API answers 503 "),
        (Fault(body=b"<html>"), "what answers is not Drive's API"),
        (Fault(body=b"[]"), "what answers is not Drive's API"),
        (Fault(body=b'{"files": 3}'), "what answers is not Drive's API"),
        (Fault(body=b"[" * 100_000), "what answers is not Drive's API"),
    ],
    ids=["wrong key", "not enabled", "too fast", "down", "a page", "a list", "a number", "deep"],
)
def test_an_api_that_refuses(fault: Fault, message: str, world: World, with_key: None) -> None:
    world.faults[API] = fault
    error = error_of(lambda: listing(source(world, folder="1x")))
    assert error.message == f"Drive folder 1x: {message}"


@pytest.mark.parametrize(
    "item",
    [{"name": "x"}, {"id": "", "name": "x"}, {"id": "../x", "name": "x"}, [], {"id": "1", "name": "a", "size": "x"}],
)
def test_an_api_that_tells_nonsense(item: Any, world: World, with_key: None) -> None:
    world.faults[API] = Fault(body=json.dumps({"files": [item]}).encode())
    error = error_of(lambda: listing(source(world, folder="1x")))
    assert "`endpoint`" in error.next_step


def test_a_wrong_key(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "not-a-key")
    error = error_of(lambda: fetch(one_file(world), tmp_path / "x"))
    assert error.message == (
        f"{seen_at(world, CELEBRITY)}: Drive's API does not take the key in GOOGLE_API_KEY (badRequest)"
    )
    assert "not-a-key" not in "".join(traceback.format_exception(error))


def test_the_real_addresses() -> None:
    given = GoogleDriveSource(kind="google-drive", folder="1x")
    assert google_drive._address(given, "1a") == (
        "https://drive.usercontent.google.com/download?id=1a&export=download&confirm=t"
    )
    assert google_drive._api(given) == "https://www.googleapis.com/drive/v3"
