"""Files at plain addresses: what the YAML lists becomes parts, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prep.config import HttpFile, HttpSource
from prep.errors import ConfigError
from prep.publishers import World
from prep.sources import Part, http


def source(*files: dict[str, Any]) -> HttpSource:
    return HttpSource(kind="http", files=tuple(HttpFile(**file) for file in files))


def test_parts_are_named_by_their_address_or_path_and_sorted(tmp_path: Path) -> None:
    listing = http.list_parts(
        source(
            {"url": "https://h/b/z%20%C3%A9.zip?download=1", "size_bytes": 3, "sha256": "aa", "md5": "bb"},
            {"url": "http://h/a.zip", "path": "deep/./a.zip"},
        ),
        tmp_path,
        None,
    )
    assert listing.parts == (
        Part("deep/a.zip", "http://h/a.zip"),
        Part("z é.zip", "https://h/b/z%20%C3%A9.zip?download=1", 3, "aa", "bb"),
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


def test_two_files_of_one_name_are_refused_because_one_would_hide_the_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        http.list_parts(source({"url": "http://h/1/a.zip"}, {"url": "http://h/2/a.zip"}), tmp_path, None)
    assert caught.value.message == "http://h/2/a.zip and http://h/1/a.zip would both be 'a.zip'"


def test_a_file_comes_whole(world: World, tmp_path: Path) -> None:
    files = source({"url": f"{world.url}/files/coco/train2014.zip"})
    (part,) = http.list_parts(files, tmp_path, None).parts
    told: list[int] = []
    http.fetch(files, part, tmp_path / "raw" / part.path, told.append)

    published = (world.folder / "files/coco/train2014.zip").read_bytes()
    assert (tmp_path / "raw/train2014.zip").read_bytes() == published
    assert sum(told) == len(published)
    assert world.requests == [("GET", "/files/coco/train2014.zip")]
    sent = {name.lower(): value for name, value in world.server.request_headers[0].items()}
    assert sent["user-agent"].startswith("prep/")
    assert "authorization" not in sent
