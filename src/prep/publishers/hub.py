"""The Hugging Face hub's endpoints for datasets, over folders `<org>/<name>/`.

Endpoints, fields and error codes are the ones that huggingface_hub 2.4 asks for and reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from prep.publishers.replies import Reply, error_reply, json_reply

TOKEN = "hf_reader_of_the_small_world"
LFS_SUFFIXES = (".parquet", ".tar", ".gz", ".zip", ".jpg", ".png")
LFS_SIZE_BYTES = 64 * 1024
PUBLISHED = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Blob:
    """One file of a repository: its git id and, for a file in large-file storage, its SHA-256."""

    path: str
    size: int
    oid: str
    sha256: str | None
    pointer_size: int

    @property
    def etag(self) -> str:
        """What the hub gives as ETag: the SHA-256 in large-file storage, the git id otherwise."""
        return self.sha256 or self.oid


class Hub:
    """Dataset repositories below `folder`; those in `gated` need TOKEN for their files' contents.

    Attributes:
        page_size: entries of a listing in one reply.
    """

    def __init__(self, folder: Path, gated: Collection[str] = ()) -> None:
        self.folder = folder
        self.gated = frozenset(gated)
        self.page_size = 1000
        self._blobs: dict[tuple[Path, int, int], Blob] = {}

    def api(self, url: str, path: str, query: Mapping[str, str], token: str | None) -> Reply:
        """Answer `/api/<path>`; `url` is the server's, for links to the next page."""
        if path == "whoami-v2":
            return _whoami(token)
        kind, _, rest = path.partition("/")
        repo, parts = self._split(rest)
        if kind != "datasets" or repo is None:
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

    def resolve(self, path: str, token: str | None) -> Reply:
        """Answer `/datasets/<org>/<name>/resolve/<revision>/<file>` with the file."""
        repo, parts = self._split(path)
        if repo is None:
            return error_reply(404, "Repository not found", "RepoNotFound")
        action, revision, name = [*parts, "", "", ""][:3]
        blobs = self.blobs(repo)
        commit = _commit(blobs)
        if action != "resolve" or revision not in ("main", commit):
            return error_reply(404, "Invalid rev id", "RevisionNotFound")
        if repo in self.gated and token != TOKEN:
            message = f"Access to dataset {repo} is restricted."
            return error_reply(403 if token else 401, message, "GatedRepo")
        blob = next((blob for blob in blobs if blob.path == name), None)
        if blob is None:
            return error_reply(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob.etag}"', "Content-Type": "binary/octet-stream"}
        if blob.sha256:
            headers |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.etag}"'}
        return Reply(200, self.folder / repo / name, headers)

    def blobs(self, repo: str) -> list[Blob]:
        """Every file of `repo`, by path."""
        root = self.folder / repo
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return [self._blob(path, path.relative_to(root).as_posix()) for path in files]

    def _split(self, path: str) -> tuple[str | None, list[str]]:
        """The repository that `path` starts with (None if there is none), then action, revision and the rest."""
        parts = path.split("/", 4)
        repo = "/".join(parts[:2])
        is_repo = len(parts) >= 2 and ".." not in parts[:2] and all(parts[:2]) and (self.folder / repo).is_dir()
        return (repo if is_repo else None), parts[2:]

    def _blob(self, path: Path, name: str) -> Blob:
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._blobs:
            data, sha256, pointer = path.read_bytes(), None, b""
            if path.suffix in LFS_SUFFIXES or len(data) >= LFS_SIZE_BYTES:
                sha256 = hashlib.sha256(data).hexdigest()
                spec = "https://git-lfs.github.com/spec/v1"
                pointer = f"version {spec}\noid sha256:{sha256}\nsize {len(data)}\n".encode()
            stored = pointer or data
            oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
            self._blobs[key] = Blob(name, len(data), oid, sha256, len(pointer))
        return self._blobs[key]

    def _info(self, repo: str, blobs: list[Blob], with_blobs: bool) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = [{"rfilename": blob.path} for blob in blobs]
        if with_blobs:
            for sibling, blob in zip(siblings, blobs, strict=True):
                sibling |= {"size": blob.size, "blobId": blob.oid}
                if blob.sha256:
                    sizes = {"size": blob.size, "pointerSize": blob.pointer_size}
                    sibling["lfs"] = {"sha256": blob.sha256, **sizes}
        return {
            "id": repo,
            "author": repo.split("/")[0],
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


def _whoami(token: str | None) -> Reply:
    if token != TOKEN:
        return error_reply(401, "Invalid user token.")
    access = {"type": "access_token", "accessToken": {"displayName": "demo", "role": "read"}}
    return json_reply({"type": "user", "id": "1", "name": "reader", "orgs": [], "auth": access})
