"""Where image bytes are kept: a folder, or S3. Nothing stands under a final name before it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from prep.errors import ConfigError, WorkspaceError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

UNDER_WAY = 32  # objects on their way to S3 at once
UNDER_WAY_BYTES = 64 << 20  # and their bytes together
TIMEOUTS: ClientConfig = {"connect_timeout": "10s", "timeout": "120s", "pool_max_idle_per_host": str(UNDER_WAY)}
# What may pass (5xx, `SlowDown`, a lost connection) is tried again; 403 and 404 are not.
RETRIES: RetryConfig = {
    "max_retries": 100,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}


class Clash(Exception):
    """A path that cannot be stored: it is a folder's, or one of its folders is a file."""


class Store(Protocol):
    """Keeps bytes by path.

    All methods raise WorkspaceError where the place does not answer or refuses.
    """

    def put(self, path: str, data: bytes) -> None:
        """Store `data` at `path`, replacing what was there; it may still be under way when this returns.

        Raises:
            Clash: the path cannot be stored beside what is there.
            WorkspaceError: also for an earlier put that failed since.
        """

    async def put_async(self, path: str, data: bytes) -> None:
        """Store `data` at `path`; many may be under way at once. It is there when this returns.

        Raises:
            Clash: the path cannot be stored beside what is there.
        """

    def get(self, path: str) -> bytes:
        """The bytes at `path`; FileNotFoundError where there are none."""

    def delete(self, path: str) -> None:
        """Remove what is at `path`, if anything is."""

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


# -- a folder --------------------------------------------------------------------------------------------------------


class DiskStore:
    """Bytes as files below a folder."""

    def __init__(self, root: Path, writer: str = "") -> None:
        self.root = root
        self._prefix = f"{root}/"
        self._writer = writer

    def put(self, path: str, data: bytes) -> None:
        """Write beside the target, then rename; `sync` makes it durable, once for many files.

        Raises:
            OSError: a full disk, no right to write.
        """
        target = f"{self._prefix}{path}"  # pathlib would take as long as the file does
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name}.{self._writer}.tmp"
        try:
            _write(temporary, data)
            os.replace(temporary, target)  # noqa: PTH105
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            is_clash = isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError)
            if is_clash and self.root.is_dir():
                raise Clash(f"{path}: a file and a folder would have one name") from error
            raise OSError(error.errno, error.strerror, str(self.root)) from error

    async def put_async(self, path: str, data: bytes) -> None:
        """As `put`, at once: a file takes less time than a thread would."""
        self.put(path, data)

    def get(self, path: str) -> bytes:
        """Read the file."""
        return (self.root / path).read_bytes()

    def delete(self, path: str) -> None:
        """Remove the file; its folder stays."""
        (self.root / path).unlink(missing_ok=True)

    def sync(self) -> None:
        """Flush everything once: cheaper than a flush for each of many thousand images.

        The standard library has no `syncfs`, which would flush this file system alone.
        """
        os.sync()


def _write(path: str, data: bytes) -> None:
    """Write a new file, and its folder where there is none."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


# -- S3 --------------------------------------------------------------------------------------------------------------


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
            client_options={**TIMEOUTS, "allow_http": bool(endpoint and endpoint.startswith("http://"))},
            retry_config=RETRIES,
            **options,  # type: ignore[arg-type]
        )
        self._root = root
        self._threads = ThreadPoolExecutor(UNDER_WAY, "s3")
        self._changed = Condition()  # guards the two below
        self._under_way: dict[str, int] = {}  # path: bytes
        self._errors: list[Exception] = []

    def put(self, path: str, data: bytes) -> None:
        """Hand the object to a thread, as soon as one and some memory are free; S3 shows it only when it is whole.

        Two puts of one path are carried out in their order.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._errors or self._has_room(path, len(data)))
            self._raise_failed()
            self._under_way[path] = len(data)
        self._threads.submit(self._carry_out, path, data)

    def _has_room(self, path: str, size_bytes: int) -> bool:
        if not self._under_way:
            return True
        is_full = len(self._under_way) >= UNDER_WAY or sum(self._under_way.values()) + size_bytes > UNDER_WAY_BYTES
        return not is_full and path not in self._under_way

    def _carry_out(self, path: str, data: bytes) -> None:
        error: Exception | None = None
        try:
            with self._explained("write", path):
                self._store.put(path, data)
        except Exception as raised:  # whatever it is, it belongs to who puts, not to this thread
            error = raised
        with self._changed:
            del self._under_way[path]
            self._errors += [] if error is None else [error]
            self._changed.notify_all()

    def _raise_failed(self) -> None:
        """Raise the first error of the puts that failed, once for all of them."""
        if self._errors:
            error = self._errors[0]
            self._errors.clear()
            raise error

    async def put_async(self, path: str, data: bytes) -> None:
        """Put the object from an event loop."""
        with self._explained("write", path):
            await self._store.put_async(path, data)

    def sync(self) -> None:
        """Wait for what is under way; S3 answers a put only when it is durable."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)
            self._raise_failed()

    def _settle(self, path: str) -> None:
        """Wait for a put of `path` that is under way."""
        with self._changed:
            self._changed.wait_for(lambda: path not in self._under_way)

    def get(self, path: str) -> bytes:
        """Get the object."""
        self._settle(path)
        with self._explained("read", path):
            return bytes(self._store.get(path).bytes())

    def delete(self, path: str) -> None:
        """Delete the object."""
        self._settle(path)
        with self._explained("delete", path):
            self._store.delete(path)

    @contextmanager
    def _explained(self, verb: str, path: str) -> Iterator[None]:
        """Turn what obstore raises into one message with its next step, but for an object that is not there."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as error:  # no right, no bucket, no such key possible
            is_missing = isinstance(error, FileNotFoundError)
            if is_missing and verb == "read" and "NoSuchBucket" not in str(error):
                raise
            next_step = "Check the network, `s3_endpoint` in prep.yaml, and the bucket's region (AWS_REGION)"
            if is_missing:
                next_step = "Make the bucket, or mend `images` or `s3_endpoint` in prep.yaml"
            elif isinstance(error, PermissionDeniedError | UnauthenticatedError):
                next_step = (
                    "Check the keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE), what they may do in the "
                    "bucket, and `s3_endpoint` in prep.yaml"
                )
            reason = str(error).splitlines()[0].split(": <?xml")[0].rstrip(": ")
            raise WorkspaceError(
                f"cannot {verb} {self._root}/{path}: {reason}",
                f"{next_step}; then run the same command: what is done stays done.",
            ) from error
