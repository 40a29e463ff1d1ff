"""The hub's large files at its CDN behind signed addresses, and its rate limits, asked by its own client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
from huggingface_hub.utils._http import RateLimitInfo, parse_ratelimit_headers

from prep.publishers import TOKEN, PublisherServer

REPO, GATED = "someone/open", "someone/gated"
LARGE, SMALL = bytes(range(256)) * 300, b"# A card\n"
LARGE_PATH = f"/datasets/{REPO}/resolve/main/part-0.parquet"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PublisherServer]:
    for repo in (REPO, GATED):
        (tmp_path / "hub" / repo).mkdir(parents=True)
        (tmp_path / "hub" / repo / "part-0.parquet").write_bytes(LARGE)
        (tmp_path / "hub" / repo / "README.md").write_bytes(SMALL)
    with PublisherServer(tmp_path / "hub", tmp_path, gated=[GATED]) as server:
        yield server


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=5) as pool:
        yield pool


def download(server: PublisherServer, folder: Path, repo: str = REPO, token: str | bool = False) -> bytes:
    path = hf_hub_download(
        repo, "part-0.parquet", repo_type="dataset", endpoint=server.url, token=token, cache_dir=folder
    )
    return Path(path).read_bytes()


def limits(reply: urllib3.BaseHTTPResponse) -> RateLimitInfo | None:
    return parse_ratelimit_headers(dict(reply.headers))


def test_a_large_file_is_at_the_cdn_and_a_small_one_is_not(server: PublisherServer, http: urllib3.PoolManager) -> None:
    blob = next(blob for blob in server.hub.blobs(REPO) if blob.sha256)
    found = http.request("GET", server.url + LARGE_PATH)
    location = urlsplit(found.headers["Location"])
    assert found.status == 302
    assert found.headers["X-Repo-Commit"] == HfApi(endpoint=server.url, token=False).dataset_info(REPO).sha
    assert found.headers["X-Linked-Size"] == str(len(LARGE))
    assert found.headers["X-Linked-Etag"] == f'"{blob.sha256}"'
    assert found.headers["Accept-Ranges"] == "bytes"
    assert f"{location.scheme}://{location.netloc}" == server.cdn_url
    assert location.path == f"/cdn/{REPO}/{blob.sha256}"
    assert parse_qs(location.query)["X-Amz-Expires"] == ["3600"]

    reply = http.request("GET", location.geturl(), headers={"Range": "bytes=100-"})
    assert (reply.status, reply.data) == (206, LARGE[100:])
    assert len(reply.headers["ETag"].strip('"')) == 32
    assert "Last-Modified" in reply.headers
    assert not [name for name in reply.headers if name.startswith(("X-Linked", "X-Repo", "RateLimit"))]

    small = http.request("GET", f"{server.url}/datasets/{REPO}/resolve/main/README.md")
    assert (small.status, small.data, small.headers.get("X-Linked-Size")) == (200, SMALL, None)


def test_the_client_downloads_from_the_cdn_without_showing_it_the_token(
    server: PublisherServer, tmp_path: Path
) -> None:
    assert download(server, tmp_path / "cache", GATED, TOKEN) == LARGE
    at_the_cdn = [
        {name.lower() for name in headers}
        for (_, path), headers in zip(server.requests, server.request_headers, strict=True)
        if path.startswith("/cdn/")
    ]
    assert at_the_cdn and not any("authorization" in names for names in at_the_cdn)
    with pytest.raises(GatedRepoError):
        download(server, tmp_path / "other", GATED, "hf_stranger")


def test_only_the_signed_address_is_served(server: PublisherServer, http: urllib3.PoolManager) -> None:
    signed = http.request("GET", server.url + LARGE_PATH).headers["Location"]
    other = http.request(
        "GET", server.url + LARGE_PATH.replace(REPO, GATED), headers={"Authorization": f"Bearer {TOKEN}"}
    )
    other_query = urlsplit(other.headers["Location"]).query
    address = signed.partition("?")[0]
    assert http.request("GET", signed).data == LARGE
    for wrong in (address, f"{address}?X-Amz-Signature=0", f"{address}?{other_query}", signed[:-1]):
        reply = http.request("GET", wrong)
        assert (reply.status, reply.headers["Content-Type"]) == (403, "application/xml")
        assert b"<Code>AccessDenied</Code>" in reply.data


def test_a_signature_runs_out_and_resolving_gives_another(server: PublisherServer, http: urllib3.PoolManager) -> None:
    server.hub.signature_uses = 2
    first, second = (http.request("HEAD", server.url + LARGE_PATH).headers["Location"] for _ in range(2))
    assert first != second
    assert [http.request("GET", first).status for _ in range(3)] == [200, 200, 403]
    assert http.request("GET", second).status == 200


def test_a_signature_for_one_request_is_enough_for_the_client(server: PublisherServer, tmp_path: Path) -> None:
    server.hub.signature_uses = 1
    assert download(server, tmp_path / "cache") == LARGE


def test_every_answer_tells_the_limits(server: PublisherServer, http: urllib3.PoolManager) -> None:
    for path, kind, quota in (
        (f"/api/datasets/{REPO}", "api", 500),
        ("/api/datasets/no/such", "api", 500),
        (LARGE_PATH, "resolvers", 3000),
        (f"/datasets/{REPO}/resolve/main/README.md", "resolvers", 3000),
        (f"/datasets/{REPO}/resolve/main/none", "resolvers", 3000),
    ):
        info = limits(http.request("GET", server.url + path))
        assert info is not None
        assert (info.resource_type, info.limit, info.window_seconds) == (kind, quota, 300)
        assert quota - 5 < info.remaining < quota and 290 < info.reset_in_seconds <= 300


def test_no_request_is_refused_unless_a_test_wants_that(server: PublisherServer, http: urllib3.PoolManager) -> None:
    url = f"{server.url}/api/datasets/no/such"
    told = [limits(http.request("HEAD", url)) for _ in range(501)]
    assert [info.remaining for info in told if info] == [*range(499, -1, -1), 499]


def test_over_the_quota_the_hub_says_when_to_come_back(server: PublisherServer, http: urllib3.PoolManager) -> None:
    url = f"{server.url}/api/datasets/{REPO}"
    http.request("GET", url)
    server.hub.quota, server.hub.window_seconds = {"api": 2}, 0.3
    start = time.monotonic()
    replies = [http.request("GET", url) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert limits(replies[2]) == RateLimitInfo("api", 0, 1, 2, 1)
    assert "Retry-After" not in replies[2].headers
    assert http.request("GET", server.url + LARGE_PATH).status == 302  # the other quota is another
    with pytest.raises(HfHubHTTPError, match="you have reached your 'api' rate limit"):
        HfApi(endpoint=server.url, token=False).dataset_info(REPO)
    time.sleep(max(0.0, start + 0.35 - time.monotonic()))
    assert http.request("GET", url).status == 200
