"""The Hugging Face hub's endpoints for datasets and models, over folders `<org>/<name>/`, and the CDN behind them.

Endpoints, fields and error codes are the ones that huggingface_hub 2.4 asks for and reads; the quotas and the headers
that tell them are those of https://huggingface.co/docs/hub/rate-limits.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from prep.publishers.replies import Reply, error_reply, file_headers, json_reply

TOKEN = "hf_reader_of_the_small_world"
LFS_SUFFIXES = (".parquet", ".tar", ".gz", ".zip", ".jpg", ".png")
LFS_SIZE_BYTES = 64 * 1024
PUBLISHED = "2026-01-01T00:00:00.000Z"
ANONYMOUS_QUOTAS = {"api": 500, "resolvers": 3000}  # requests in one window
WINDOW_SECONDS = 300
MODELS = "models/"
DENIED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>No valid signature, or one that has run out</Message></Error>"""


@dataclass(frozen=True)
class Blob:
    """One file of a repository: its git id and, for a file in large-file storage, its SHA-256."""

    path: str
    size: int
    oid: str
    sha256: str | None
    pointer_size: int


@dataclass
class _Window:
    """What a quota of `quota` requests in `seconds` has left, from the moment `start` on."""

    quota: int
    seconds: float
    start: float
    used: int = 0


class Hub:
    """Dataset repositories below `folder`, model repositories below `models`.

    A model repository is called `models/<org>/<name>` here, and in addresses of the CDN. Ids that differ in case alone
    are different ones.

    Args:
        gated: repositories whose files' contents need TOKEN.

    Attributes:
        page_size: entries of a listing in one reply.
        signature_uses: how many requests a signed address of the CDN is good for; None for any number.
        quota: requests that a window allows, by "api" and "resolvers"; what is not named here is counted, and told,
            as for an anonymous user but never refused: a window that is used up starts anew.
        window_seconds: how long a window lasts from its first request. Another quota or length starts a new one.
    """

    def __init__(self, folder: Path, gated: Collection[str] = (), models: Path | None = None) -> None:
        self.folder = folder
        self.models = models
        self.gated = frozenset(gated)
        self.page_size = 1000
        self.signature_uses: int | None = None
        self.quota: dict[str, int] = {}
        self.window_seconds: float = WINDOW_SECONDS
        self._blobs: dict[tuple[Path, int, int], Blob] = {}
        self._signed: dict[str, tuple[str, int]] = {}
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()

    def api(self, url: str, path: str, query: Mapping[str, str], token: str | None) -> Reply:
        """Answer `/api/<path>`; `url` is the server's, for links to the next page."""
        refusal, limits = self._count("api")
        return _with(limits, refusal or self._api(url, path, query, token))

    def resolve(self, cdn_url: str, path: str, token: str | None) -> Reply:
        """Answer `<repository>/resolve/<revision>/<file>` with the file, or where the CDN has it."""
        refusal, limits = self._count("resolvers")
        return _with(limits, refusal or self._resolve(cdn_url, path, token))

    def cdn(self, path: str, query: Mapping[str, str]) -> Reply:
        """Answer `/cdn/<repository>/<sha256>` with the file, if the address is signed and has not run out."""
        signature = query.get("X-Amz-Signature", "")
        repo, _, sha256 = path.rpartition("/")
        with self._lock:
            signed_path, uses = self._signed.get(signature, ("", 0))
            is_good = signed_path == path and (self.signature_uses is None or uses < self.signature_uses)
            if is_good:
                self._signed[signature] = (path, uses + 1)
        blob = next((blob for blob in self.blobs(repo) if blob.sha256 == sha256), None) if is_good else None
        if blob is None:
            return Reply(403, DENIED, {"Content-Type": "application/xml"})
        file = self._root(repo) / blob.path
        etag = hashlib.md5(sha256.encode(), usedforsecurity=False).hexdigest()
        return Reply(200, file, {**file_headers(file), "ETag": f'"{etag}"', "Content-Type": "binary/octet-stream"})

    def blobs(self, repo: str) -> list[Blob]:
        """Every file of `repo`, by path."""
        root = self._root(repo)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return [self._blob(path, path.relative_to(root).as_posix()) for path in files]

    def _count(self, bucket: str) -> tuple[Reply | None, dict[str, str]]:
        """Count a request: the refusal (the hub's has no Retry-After) if it is one too many, and what is left."""
        quota, seconds, refusal = self.quota.get(bucket, ANONYMOUS_QUOTAS[bucket]), self.window_seconds, None
        with self._lock:
            now, window = time.monotonic(), self._windows.get(bucket)
            is_same = window is not None and (window.quota, window.seconds) == (quota, seconds)
            is_used_up = window is not None and window.used == quota and bucket not in self.quota
            if window is None or not is_same or is_used_up or now >= window.start + seconds:
                window = self._windows[bucket] = _Window(quota, seconds, now)
            if window.used == quota:
                refusal = error_reply(429, f"Too many requests: {quota} in {seconds:g} seconds are allowed")
            else:
                window.used += 1
            left, ends = quota - window.used, math.ceil(window.start + seconds - now)
        policy = f'"fixed window";"{bucket}";q={quota};w={math.ceil(seconds)}'
        return refusal, {"RateLimit": f'"{bucket}";r={left};t={ends}', "RateLimit-Policy": policy}

    def _sign(self, path: str) -> str:
        """`path` with a signature of its own, good for it alone."""
        with self._lock:
            signature = hashlib.sha256(f"{len(self._signed)} {path}".encode()).hexdigest()
            self._signed[signature] = (path, 0)
        return f"{path}?{urlencode({'X-Amz-Expires': 3600, 'X-Amz-Signature': signature})}"

    def _api(self, url: str, path: str, query: Mapping[str, str], token: str | None) -> Reply:
        if path == "whoami-v2":
            return _whoami(token)
        repo, parts = self._split(path.removeprefix("datasets/"))
        if repo is None or not path.startswith(("datasets/", MODELS)):
            return error_reply(404, "Repository not found", "RepoNotFound")
        action, revision, folder = [*parts, "", "", ""][:3]
        blobs = self.blobs(repo)
        if revision and revision not in ("main", _commit(blobs)):
            return error_reply(404, "Invalid rev id", "RevisionNotFound")
        if action in ("", "revision"):
            return json_reply(self._info(repo, blobs, with_blobs=query.get("blobs") == "true"))
        if action == "tree":
            return self._tree(f"{url}/api/{quote(path)}", blobs, folder, query)
        return error_reply(404, "Not found")

    def _resolve(self, cdn_url: str, path: str, token: str | None) -> Reply:
        repo, parts = self._split(path)
        if repo is None:
            return error_reply(404, "Repository not found", "RepoNotFound")
        action, revision, name = [*parts, "", "", ""][:3]
        blobs = self.blobs(repo)
        commit = _commit(blobs)
        if action != "resolve" or revision not in ("main", commit):
            return error_reply(404, "Invalid rev id", "RevisionNotFound")
        if repo in self.gated and token != TOKEN:
            message = f"Access to {repo} is restricted."
            return error_reply(403 if token else 401, message, "GatedRepo")
        blob = next((blob for blob in blobs if blob.path == name), None)
        if blob is None:
            return error_reply(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if blob.sha256 is None:
            headers |= {"ETag": f'"{blob.oid}"', "Content-Type": "binary/octet-stream"}
            return Reply(200, self._root(repo) / name, headers)
        location = f"{cdn_url}/cdn/{self._sign(f'{repo}/{blob.sha256}')}"
        linked = {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.sha256}"'}
        text = {"Location": location, "Content-Type": "text/plain; charset=utf-8"}
        return Reply(302, f"Found. Redirecting to {location}".encode(), headers | linked | text)

    def _split(self, path: str) -> tuple[str | None, list[str]]:
        """The repository that `path` starts with (None if there is none), then action, revision and the rest."""
        prefix = MODELS if path.startswith(MODELS) else ""
        parts = path.removeprefix(prefix).split("/", 4)
        repo = prefix + "/".join(parts[:2])
        is_repo = len(parts) >= 2 and ".." not in parts[:2] and all(parts[:2]) and self._root(repo).is_dir()
        return (repo if is_repo else None), parts[2:]

    def _root(self, repo: str) -> Path:
        """The folder of a repository, whether it is there or not."""
        if repo.startswith(MODELS) and self.models:
            return self.models / repo.removeprefix(MODELS)
        return self.folder / repo

    def _blob(self, path: Path, name: str) -> Blob:
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._blobs:
            sha256, pointer = None, b""
            if path.suffix in LFS_SUFFIXES or stat.st_size >= LFS_SIZE_BYTES:
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                spec = "https://git-lfs.github.com/spec/v1"
                pointer = f"version {spec}\noid sha256:{sha256}\nsize {stat.st_size}\n".encode()
            stored = pointer or path.read_bytes()
            oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
            self._blobs[key] = Blob(name, stat.st_size, oid, sha256, len(pointer))
        return self._blobs[key]

    def _info(self, repo: str, blobs: list[Blob], with_blobs: bool) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = [{"rfilename": blob.path} for blob in blobs]
        if with_blobs:
            for sibling, blob in zip(siblings, blobs, strict=True):
                sibling |= {"size": blob.size, "blobId": blob.oid}
                if blob.sha256:
                    sizes = {"size": blob.size, "pointerSize": blob.pointer_size}
                    sibling["lfs"] = {"sha256": blob.sha256, **sizes}
        name = repo.removeprefix(MODELS)
        return {
            "id": name,
            "author": name.split("/")[0],
            "sha": _commit(blobs),
            "createdAt": PUBLISHED,
            "lastModified": PUBLISHED,
            "private": False,
            "gated": "auto" if repo in self.gated else False,
            "disabled": False,
            "tags": [],
            "siblings": siblings,
        }

    def _tree(self, url: str, blobs: list[Blob], folder: str, query: Mapping[str, str]) -> Reply:
        entries = _entries(blobs, folder, recursive=query.get("recursive", "").lower() == "true")
        if folder and not entries:
            return error_reply(404, "Folder not found", "EntryNotFound")
        start = int(query.get("cursor", 0))
        page = entries[start : start + self.page_size]
        if start + self.page_size >= len(entries):
            return json_reply(page)
        following = urlencode({**query, "cursor": start + self.page_size})
        return json_reply(page, {"Link": f'<{url}?{following}>; rel="next"'})


def _entries(blobs: list[Blob], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """A listing as the hub gives it: folders and files below `folder`, in order of path."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for blob in blobs:
        if not blob.path.startswith(prefix):
            continue
        for parent in reversed(Path(blob.path).parents):
            name = parent.as_posix()
            if name.startswith(prefix) and name != ".":
                oid = hashlib.sha1(name.encode()).hexdigest()
                entries[name] = {"type": "directory", "oid": oid, "size": 0, "path": name}
        entry = {"type": "file", "oid": blob.oid, "size": blob.size, "path": blob.path}
        if blob.sha256:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
        entries[blob.path] = entry
    return [entry for name, entry in entries.items() if recursive or "/" not in name[len(prefix) :]]


def _commit(blobs: list[Blob]) -> str:
    """A stable commit id: a digest of every path and content."""
    return hashlib.sha1("\n".join(f"{blob.path}\t{blob.oid}" for blob in blobs).encode()).hexdigest()


def _with(headers: Mapping[str, str], reply: Reply) -> Reply:
    return replace(reply, headers={**reply.headers, **headers})


def _whoami(token: str | None) -> Reply:
    if token != TOKEN:
        return error_reply(401, "Invalid user token.")
    access = {"type": "access_token", "accessToken": {"displayName": "demo", "role": "read"}}
    return json_reply({"type": "user", "id": "1", "name": "reader", "orgs": [], "auth": access})
