"""Where image bytes are kept: a folder, or S3. Nothing stands under a final name before it is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from prep.errors import ConfigError, WorkspaceError


class Store(Protocol):
    """Keeps bytes by path."""

    def put(self, path: str, data: bytes) -> None:
        """Store `data` at `path`, replacing what was there."""

    def get(self, path: str) -> bytes:
        """The bytes at `path`; FileNotFoundError where there are none."""

    def sync(self) -> None:
        """Return when all that was put survives a power cut."""


def open_store(root: str, dataset: str, s3_endpoint: str | None, *, writer: str = "") -> Store:
    """The store for a dataset's images below `root` (an absolute folder or `s3://bucket/prefix`).

    Args:
        writer: names the task that writes; two tasks may store the same image at the same time.
    """
    if root.startswith("s3://"):
        return S3Store(f"{root}/{dataset}", s3_endpoint)
    return DiskStore(Path(root) / dataset, writer)


class DiskStore:
    """Bytes as files below a folder."""

    def __init__(self, root: Path, writer: str = "") -> None:
        self.root = root
        self._writer = writer

    def put(self, path: str, data: bytes) -> None:
        """Write beside the target, then rename; `sync` makes it durable, once for many files."""
        target = self.root / path
        temporary = target.with_name(f".{target.name}.{self._writer}.tmp")
        try:
            file = temporary.open("wb")
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb")
        with file:
            file.write(data)
        temporary.replace(target)

    def get(self, path: str) -> bytes:
        """Read the file."""
        return (self.root / path).read_bytes()

    def sync(self) -> None:
        """Flush everything once: cheaper than a flush for each of many thousand images."""
        os.sync()


class S3Store:
    """Bytes as objects below `s3://bucket/prefix`; boto3 finds the credentials, obstore moves the bytes."""

    def __init__(self, root: str, endpoint: str | None) -> None:
        from obstore.auth.boto3 import Boto3CredentialProvider
        from obstore.store import S3Store as ObjectStore

        address = urlsplit(root)
        if not address.netloc:
            raise ConfigError(f"{root} names no bucket", "Write `images: s3://bucket/prefix` in prep.yaml.")
        try:
            credentials = Boto3CredentialProvider()
        except ValueError as error:
            raise WorkspaceError(
                f"no S3 credentials for {root}",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`.",
            ) from error
        options = {} if endpoint is None else {"endpoint": endpoint}
        self._store = ObjectStore(
            address.netloc,
            prefix=address.path.strip("/") or None,
            credential_provider=credentials,
            client_options={"allow_http": bool(endpoint and endpoint.startswith("http://"))},
            **options,  # type: ignore[arg-type]
        )
        self._root = root

    def put(self, path: str, data: bytes) -> None:
        """Put the object; S3 shows it only when it is whole."""
        from obstore.exceptions import BaseError

        try:
            self._store.put(path, data)
        except (BaseError, FileNotFoundError, ValueError) as error:  # no right, no bucket, no such key possible
            raise self._failed("write", path, error) from error

    def get(self, path: str) -> bytes:
        """Get the object."""
        from obstore.exceptions import BaseError

        try:
            return bytes(self._store.get(path).bytes())
        except BaseError as error:
            raise self._failed("read", path, error) from error

    def _failed(self, verb: str, path: str, error: Exception) -> WorkspaceError:
        reason = str(error).splitlines()[0].split(": <?xml")[0]
        return WorkspaceError(
            f"cannot {verb} {self._root}/{path}: {reason}",
            "Check the bucket, its rights and `s3_endpoint` in prep.yaml; then run the same command.",
        )

    def sync(self) -> None:
        """S3 answers a put only when it is durable."""
