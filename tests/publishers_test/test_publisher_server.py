import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection
from pathlib import Path

import pytest
import urllib3
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from prep.publishers import TOKEN, Fault, PublisherServer
from prep.publishers.image_host import GOOD, ODD_IMAGES, write_odd_images

OPEN, GATED = "someone/open", "someone/gated"
BIG = bytes(range(256)) * 300
FILES = {"README.md": b"# A card\n", "data/part-0.parquet": BIG, "data/deep/note.txt": b"a note\n"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PublisherServer]:
    for repo in (OPEN, GATED):
        for name, data in FILES.items():
            path = tmp_path / "hub" / repo / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/big.bin").write_bytes(BIG)
    (tmp_path / "secret.txt").write_text("outside")
    with PublisherServer(tmp_path / "hub", tmp_path / "files", gated=[GATED]) as server:
        yield server


@pytest.fixture(scope="module")
def image_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublisherServer]:
    folder = tmp_path_factory.mktemp("img")
    write_odd_images(folder)
    with PublisherServer(folder, folder, folder) as server:
        yield server


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=5) as pool:
        yield pool


def api(server: PublisherServer, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=server.url, token=token)


def file_url(server: PublisherServer, repo: str, name: str, revision: str = "main") -> str:
    return hf_hub_url(repo, name, repo_type="dataset", revision=revision, endpoint=server.url)


@pytest.mark.parametrize(("repo", "gated"), [(OPEN, False), (GATED, "auto")])
def test_the_client_lists_a_repository_without_a_token(server: PublisherServer, repo: str, gated: bool | str) -> None:
    info = api(server).dataset_info(repo, revision="main", files_metadata=True)
    tree = list(api(server).list_repo_tree(repo, recursive=True, revision=info.sha, repo_type="dataset"))

    assert info.gated == gated
    assert info.sha is not None and len(info.sha) == 40
    assert {s.rfilename: s.size for s in info.siblings or []} == {n: len(d) for n, d in FILES.items()}
    files = [entry for entry in tree if isinstance(entry, RepoFile)]
    assert {entry.path: entry.size for entry in files} == {n: len(d) for n, d in FILES.items()}
    assert [entry.path for entry in tree if isinstance(entry, RepoFolder)] == ["data", "data/deep"]
    assert {entry.path for entry in files if entry.lfs} == {"data/part-0.parquet"}


def test_a_listing_comes_in_pages_and_by_folder(server: PublisherServer) -> None:
    server.hub.page_size = 2
    tree = list(api(server).list_repo_tree(OPEN, recursive=True, repo_type="dataset"))
    assert [entry.path for entry in tree] == ["README.md", "data", "data/deep", *sorted(FILES)[1:]]
    assert len(server.requests) == 3

    below = api(server).list_repo_tree(OPEN, "data", repo_type="dataset")
    assert [entry.path for entry in below] == ["data/deep", "data/part-0.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_metadata_and_bytes_agree_with_the_listing(server: PublisherServer, name: str, tmp_path: Path) -> None:
    tree = api(server).list_repo_tree(OPEN, recursive=True, repo_type="dataset")
    listed = next(entry for entry in tree if entry.path == name)
    assert isinstance(listed, RepoFile)
    commit = api(server).dataset_info(OPEN).sha
    metadata = get_hf_file_metadata(file_url(server, OPEN, name, str(commit)), token=False)

    assert metadata.commit_hash == commit
    assert metadata.size == len(FILES[name])
    assert metadata.etag == (listed.lfs.sha256 if listed.lfs else listed.blob_id)
    got = hf_hub_download(
        OPEN, name, repo_type="dataset", endpoint=server.url, token=False, cache_dir=tmp_path / "cache"
    )
    assert Path(got).read_bytes() == FILES[name]


def test_what_is_not_there_is_refused_as_the_hub_does(server: PublisherServer) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api(server).dataset_info("someone/else")
    with pytest.raises(RevisionNotFoundError):
        api(server).dataset_info(OPEN, revision="f" * 40)
    with pytest.raises(RevisionNotFoundError):
        get_hf_file_metadata(file_url(server, OPEN, "README.md", "v2"), token=False)
    with pytest.raises(EntryNotFoundError):
        get_hf_file_metadata(file_url(server, OPEN, "none.txt"), token=False)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api(server).whoami("hf_wrong")
    assert api(server).whoami(TOKEN)["name"] == "reader"


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_stranger", 403)])
def test_gated_contents_need_the_token(server: PublisherServer, token: str | bool, status: int) -> None:
    with pytest.raises(GatedRepoError) as refusal:
        get_hf_file_metadata(file_url(server, GATED, "README.md"), token=token)
    assert refusal.value.response.status_code == status
    assert get_hf_file_metadata(file_url(server, GATED, "README.md"), token=TOKEN).size == 9


def test_the_commit_follows_the_contents(server: PublisherServer, tmp_path: Path) -> None:
    before = api(server).dataset_info(OPEN).sha
    assert api(server).dataset_info(GATED).sha == before  # the same contents
    (tmp_path / "hub" / OPEN / "README.md").write_text("# Another card\n")
    assert api(server).dataset_info(OPEN).sha != before


@pytest.mark.parametrize("path", ["/files/big.bin", f"/datasets/{OPEN}/resolve/main/data/part-0.parquet"])
@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        (None, 200, BIG, None),
        ("bytes=0-9", 206, BIG[:10], f"bytes 0-9/{len(BIG)}"),
        ("bytes=70000-", 206, BIG[70000:], f"bytes 70000-{len(BIG) - 1}/{len(BIG)}"),
        ("bytes=-7", 206, BIG[-7:], f"bytes {len(BIG) - 7}-{len(BIG) - 1}/{len(BIG)}"),
        (f"bytes=0-{len(BIG) * 2}", 206, BIG, f"bytes 0-{len(BIG) - 1}/{len(BIG)}"),
        (f"bytes={len(BIG)}-", 416, b"", f"bytes */{len(BIG)}"),
        ("lines=1-2", 200, BIG, None),
        ("bytes=9-5", 200, BIG, None),
        ("bytes=0-3,7-9", 200, BIG, None),
    ],
)
def test_ranges(
    server: PublisherServer,
    http: urllib3.PoolManager,
    path: str,
    asked: str | None,
    status: int,
    body: bytes,
    content_range: str | None,
) -> None:
    url = server.url + path
    url = http.request("HEAD", url).headers.get("Location", url)  # the hub's is at its CDN
    reply = http.request("GET", url, headers={"Range": asked} if asked else {})
    assert (reply.status, reply.data, reply.headers.get("Content-Range")) == (status, body, content_range)
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert int(reply.headers["Content-Length"]) == len(body)
    head = http.request("HEAD", url, headers={"Range": asked} if asked else {})
    assert (head.status, head.data, {**head.headers, "Date": ""}) == (status, b"", {**reply.headers, "Date": ""})


def test_a_range_of_a_changed_file_gives_all_of_it(server: PublisherServer, http: urllib3.PoolManager) -> None:
    url = f"{server.url}/files/big.bin"
    head = http.request("HEAD", url).headers
    for value in (head["ETag"], head["Last-Modified"]):
        headers = {"Range": "bytes=5-", "If-Range": value}
        assert http.request("GET", url, headers=headers).data == BIG[5:]
    assert http.request("GET", url, headers={"Range": "bytes=5-", "If-Range": '"old"'}).data == BIG


@pytest.mark.parametrize("path", ["/files/../secret.txt", "/files/%2e%2e/secret.txt", "/files", "/", "/files/%00"])
def test_nothing_outside_the_folders_is_served(server: PublisherServer, path: str) -> None:
    connection = HTTPConnection(server.url.removeprefix("http://"))
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


def test_faults_are_switched_on_by_path(server: PublisherServer, http: urllib3.PoolManager) -> None:
    path = "/files/big.bin"
    url = server.url + path

    server.faults[path] = Fault(cut_at=1000)
    with pytest.raises(urllib3.exceptions.ProtocolError, match=r"1000 bytes read, 75800 more expected"):
        http.request("GET", url)
    server.faults[path] = Fault(content_length=100)
    assert http.request("GET", url).data == BIG[:100]
    server.faults[path] = Fault(content_length=len(BIG) + 1)
    with pytest.raises(urllib3.exceptions.ProtocolError, match="1 more expected"):
        http.request("GET", url)
    server.faults[path] = Fault(ignore_range=True)
    assert http.request("GET", url, headers={"Range": "bytes=5-"}).data == BIG
    server.faults[path] = Fault(status=503, times=2)
    assert [http.request("GET", url).status for _ in range(3)] == [503, 503, 200]
    server.faults[path] = Fault(status=500, times=1)  # another fault counts anew
    assert [http.request("GET", url).status for _ in range(2)] == [500, 200]
    server.faults[path] = Fault(headers={"ETag": '"changed"'})
    assert http.request("GET", url).headers["ETag"] == '"changed"'


def test_a_drip_takes_its_time_and_closing_does_not_wait_for_it(tmp_path: Path, http: urllib3.PoolManager) -> None:
    (tmp_path / "a.bin").write_bytes(BIG)
    with PublisherServer(tmp_path, tmp_path) as server:
        server.faults["/files/a.bin"] = Fault(drip_seconds=0.2)
        start = time.monotonic()
        assert http.request("GET", f"{server.url}/files/a.bin").data == BIG
        assert time.monotonic() - start > 0.15
        server.faults["/files/a.bin"] = Fault(drip_seconds=600)
        waiting = http.request("GET", f"{server.url}/files/a.bin", preload_content=False)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    waiting.close()


def test_requests_are_logged_with_their_headers(server: PublisherServer, http: urllib3.PoolManager) -> None:
    http.request("HEAD", f"{server.url}/files/big.bin?v=1")
    http.request("GET", f"{server.url}/files/no%20such.bin", headers={"User-Agent": "tests"})
    assert server.requests == [("HEAD", "/files/big.bin"), ("GET", "/files/no such.bin")]
    assert server.request_headers[1]["User-Agent"] == "tests"


def test_every_odd_image_does_what_it_says(image_host: PublisherServer, http: urllib3.PoolManager) -> None:
    good = GOOD.encode()
    seen: dict[str, tuple[int, bytes]] = {}
    for odd in ODD_IMAGES:
        try:
            reply = http.request("GET", f"{image_host.url}/img/{odd.name}", redirect=False)
            seen[odd.name] = (reply.status, reply.data[:6])
        except urllib3.exceptions.ProtocolError:
            seen[odd.name] = (0, b"")
    jpeg = (200, good[:6])
    assert seen == {
        "missing.jpg": (404, b'{"erro'),
        "broken-host.jpg": (500, b""),
        "forbidden.jpg": (403, b""),
        "gone.jpg": (410, b""),
        "html.jpg": (200, b"<!doct"),
        "gif.jpg": (200, b"GIF87a"),
        "webp.jpg": (200, seen["webp.jpg"][1]),
        "png.jpg": (200, b"\x89PNG\r\n"),
        "bmp.jpg": (200, seen["bmp.jpg"][1]),
        "truncated.jpg": jpeg,
        "empty.jpg": (200, b""),
        "cut.jpg": (0, b""),
        "moved.jpg": (302, b""),
        "plain.jpg": jpeg,
        "loop.jpg": (302, b""),
        "private.jpg": (302, b""),
        "slow.jpg": jpeg,
        "busy.jpg": (429, b""),
        "busy-until.jpg": (429, b""),
        "noai.jpg": jpeg,
    }
    assert seen["webp.jpg"][1].startswith(b"RIFF")
    assert seen["bmp.jpg"][1].startswith(b"BM")


def test_the_image_hosts_headers(tmp_path: Path, http: urllib3.PoolManager) -> None:
    write_odd_images(tmp_path)
    with PublisherServer(tmp_path, tmp_path, tmp_path) as server:

        def get(name: str) -> urllib3.BaseHTTPResponse:
            return http.request("GET", f"{server.url}/img/{name}", redirect=False)

        assert get("moved.jpg").headers["Location"] == "/img/plain.jpg"
        assert get("loop.jpg").headers["Location"] == "/img/loop.jpg"
        assert get("private.jpg").headers["Location"] == "http://169.254.169.254/"
        assert get("noai.jpg").headers["X-Robots-Tag"] == "noai"
        assert get("html.jpg").headers["Content-Type"] == "text/html"
        assert get("gif.jpg").headers["Content-Type"] == "image/jpeg"
        assert get("busy.jpg").headers["Retry-After"] == "1"
        until = parsedate_to_datetime(get("busy-until.jpg").headers["Retry-After"])
        assert abs(until.timestamp() - time.time()) < 5
        assert [get(name).status for name in ("busy.jpg", "busy-until.jpg")] == [200, 200]
