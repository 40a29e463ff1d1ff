"""Files at plain addresses: what the YAML lists becomes parts, or is refused."""

from __future__ import annotations

import errno
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from prep.config import HttpFile, HttpSource
from prep.errors import ConfigError, SourceError
from prep.publishers import Fault, World
from prep.sources import Part, http
from prep.sources.transfer import Session


def source(*files: dict[str, Any]) -> HttpSource:
    return HttpSource(kind="http", files=tuple(HttpFile(**file) for file in files))


def test_parts_are_named_by_their_address_or_path_and_sorted(tmp_path: Path) -> None:
    listing = http.list_parts(
        source(
            {"url": "https://h/b/z%20%C3%A9.zip?download=1", "size_bytes": 3, "sha256": "aB" * 32, "md5": "bb" * 16},
            {"url": "http://h/a.zip", "path": "deep/./a.zip", "mirrors": ["https://m/a.zip"]},
        ),
        tmp_path,
        None,
    )
    assert listing.parts == (
        Part("deep/a.zip", "http://h/a.zip", version="http://h/a.zip", mirrors=("https://m/a.zip",)),
        Part("z é.zip", url := "https://h/b/z%20%C3%A9.zip?download=1", 3, "ab" * 32, "bb" * 16, url),
    )
    assert listing.resolved == {}


@pytest.mark.parametrize(
    "file",
    [
        {"url": "http://h/a", "path": "../a"},
        {"url": "http://h/a", "path": "/etc/passwd"},
        {"url": "http://h/a", "path": "x/../../a"},
        {"url": "http://h/a", "path": "a\0b"},
        {"url": "http://h/%2e%2e"},
        {"url": "http://h/"},
        {"url": "http://h"},
        {"url": "http://h/folder/"},
    ],
    ids=lambda file: str(file),
)
def test_a_path_that_leaves_the_folder_is_refused(file: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a path inside the dataset's folder") as caught:
        http.list_parts(source(file), tmp_path, None)
    assert caught.value.message.startswith(file["url"])
    assert "`path`" in caught.value.next_step


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/a",
        "file:///etc/passwd",
        "/etc/passwd",
        "h/a",
        "http:///a",
        "http://:80/a",
        "http://[::1/a",
        "",
        "s3://b/a",
    ],
)
def test_an_address_that_is_not_http_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        http.list_parts(source({"url": url}), tmp_path, None)
    assert str(caught.value) == f"{url} is not an http(s) address\n  Mend the dataset's YAML."
    with pytest.raises(ConfigError) as caught:
        http.list_parts(source({"url": "http://h/a", "mirrors": ["http://m/a", url]}), tmp_path, None)
    assert caught.value.message == f"{url} is not an http(s) address"


def test_two_files_of_one_name_are_refused_because_one_would_hide_the_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        http.list_parts(source({"url": "http://h/1/a.zip"}, {"url": "http://h/2/a.zip"}), tmp_path, None)
    assert caught.value.message == "http://h/2/a.zip and http://h/1/a.zip would both be 'a.zip'"


def test_a_file_is_not_another_ones_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        http.list_parts(source({"url": "http://h/a"}, {"url": "http://h/b", "path": "a/b/c"}), tmp_path, None)
    assert caught.value.message == "http://h/b: 'a/b/c' needs a folder where http://h/a is a file"


@pytest.mark.parametrize("name", ["_manifest.json", "_parts.jsonl", ".a.zip.part", "n" * 240])
def test_a_name_that_is_ours_or_too_long_needs_another_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        http.list_parts(source({"url": f"http://h/{name}"}), tmp_path, None)
    assert caught.value.message.startswith(f"http://h/{name}: {name!r} ")
    assert caught.value.next_step == "Give the file another `path` in the dataset's YAML."
    (part,) = http.list_parts(source({"url": f"http://h/{name}", "path": "a"}), tmp_path, None).parts
    assert part.path == "a"


def test_a_file_comes_whole(world: World, tmp_path: Path) -> None:
    files = source({"url": f"{world.url}/files/coco/train2014.zip"})
    (part,) = http.list_parts(files, tmp_path, None).parts
    told: list[int] = []
    with Session(told.append) as session:
        sha256 = http.fetch(files, part, tmp_path / "raw" / part.path, session)

    published = (world.folder / "files/coco/train2014.zip").read_bytes()
    assert (tmp_path / "raw/train2014.zip").read_bytes() == published
    assert sha256 == hashlib.sha256(published).hexdigest()
    assert sum(told) == len(published)
    assert world.requests == [("GET", "/files/coco/train2014.zip")]
    sent = {name.lower(): value for name, value in world.server.request_headers[0].items()}
    assert sent["user-agent"].startswith("prep/")
    assert "authorization" not in sent


# -- mirrors -------------------------------------------------------------------------------------------------

ZIP = "/files/coco/train2014.zip"


def mirrored(world: World, *paths: str, **facts: Any) -> HttpSource:
    first, *others = (f"{world.url}{path}" for path in paths)
    return source({"url": first, "mirrors": others, "path": "x.zip", **facts})


def fetch(files: HttpSource, target: Path, session: Session | None = None) -> None:
    (part,) = http.list_parts(files, target.parent, None).parts
    with session or Session() as given:
        http.fetch(files, part, target, given)


def test_a_mirror_gives_what_the_address_does_not(world: World, tmp_path: Path) -> None:
    published = (world.folder / ZIP[1:]).read_bytes()
    world.faults["/files/other.zip"] = Fault(body=b"x" * len(published))
    files = mirrored(
        world, "/files/gone.zip", "/files/other.zip", ZIP, "/files/never", sha256=hashlib.sha256(published).hexdigest()
    )
    fetch(files, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == published
    assert [path for _, path in world.requests] == ["/files/gone.zip", "/files/other.zip", ZIP]


@pytest.mark.parametrize("status", [401, 403])
def test_a_mirror_gives_what_the_address_refuses(status: int, world: World, tmp_path: Path) -> None:
    world.faults["/files/terms.zip"] = Fault(status=status)
    fetch(mirrored(world, "/files/terms.zip", ZIP), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == (world.folder / ZIP[1:]).read_bytes()
    assert [path for _, path in world.requests] == ["/files/terms.zip", ZIP]


def test_the_address_itself_goes_first(world: World, tmp_path: Path) -> None:
    fetch(mirrored(world, ZIP, "/files/never"), tmp_path / "x.zip")
    assert world.requests == [("GET", ZIP)]


def test_when_no_address_gives_it_all_are_named(world: World, tmp_path: Path) -> None:
    world.faults["/files/b.zip"] = Fault(status=403)
    with pytest.raises(SourceError) as caught:
        fetch(mirrored(world, "/files/a.zip", "/files/b.zip"), tmp_path / "x.zip")
    assert str(caught.value) == (
        "x.zip: none of its 2 addresses gives it\n"
        f"  {world.url}/files/a.zip: the server answers 404\n"
        f"  {world.url}/files/b.zip: the server answers 403, access refused\n"
        "  Has the publisher moved the file? Check its page, or give another source in prep.yaml."
    )
    with pytest.raises(SourceError) as caught:
        fetch(mirrored(world, "/files/a.zip"), tmp_path / "x.zip")
    assert caught.value.message == f"{world.url}/files/a.zip: the server answers 404"


def test_a_full_disk_is_no_reason_to_try_a_mirror(world: World, tmp_path: Path) -> None:
    class Full(Session):
        def bring(self, *given: Any, **more: Any) -> str:
            world.requests.append(("a", "try"))
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fetch(mirrored(world, ZIP, ZIP), tmp_path / "x.zip", Full())
    assert world.requests == [("a", "try")]


def test_mirrors_are_not_tried_when_the_time_is_over(world: World, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--deadline"):
        fetch(mirrored(world, "/files/a", "/files/b"), tmp_path / "x", Session(deadline=time.monotonic() - 1))
    assert world.requests == []
