"""Opens images on S3 for LaViDa-O's loader, which imports a module named `piat` for them.

`prep emit-yaml --s3-reader FOLDER` copies this file to FOLDER/piat.py and writes its settings to FOLDER/piat.json. It
runs where training runs, without `prep`: it needs boto3, NumPy and Pillow, and Python 3.9 or newer.

Credentials are found as boto3 finds them everywhere. The environment goes before the settings:

    AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL   the service, where it is not AWS
    AWS_REGION, AWS_DEFAULT_REGION          its region
    PREP_S3_CACHE                           folder for a cache of images on this machine; empty for none (the default)
    PREP_S3_CACHE_BYTES                     how many bytes the cache may grow to, such as 200e9

Nothing here is shared between processes but the cache, so workers may be forked at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import random
import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        PartialCredentialsError,
        ProfileNotFound,
    )
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.parsers import ResponseParserError
except ImportError as error:  # the loader passes over a module of this name that cannot be imported
    raise RuntimeError("images on S3 are opened with boto3, which is not installed: pip install boto3") from error

CONNECT_SECONDS = 10
READ_SECONDS = 30  # without a byte
OBJECT_SECONDS = 120  # for all of one image
ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5  # before the second attempt; doubled before each further one
_CONNECTIONS = 32  # of a process, for its threads
_CHUNK_BYTES = 1 << 16
_PASSING = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "InternalError"}
_STALE_KEYS = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_REDUCED, _RAW = "1024-pil-antialias", "raw"
_REDUCED_SIDE = 1024


@dataclass(frozen=True)
class Settings:
    """What piat.json says; the environment goes before it.

    Attributes:
        endpoint: of a service other than AWS.
        region: of the buckets.
        cache: folder of the cache; None for none.
        cache_bytes: how large it may grow.
        images: `s3://bucket/prefix` that the index's paths are below.
        index: file name of the image index, beside this file.
    """

    endpoint: str | None = None
    region: str | None = None
    cache: str | None = None
    cache_bytes: int = 50_000_000_000
    images: str = ""
    index: str = ""


@cache
def settings() -> Settings:
    """The settings that hold in this process.

    Raises:
        ValueError: PREP_S3_CACHE_BYTES is no number of bytes.
    """
    path = Path(__file__).with_suffix(".json")
    given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = {field.name for field in fields(Settings)}
    found = Settings(**{name: value for name, value in given.items() if name in known})
    environment = os.environ
    if environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"):
        found = replace(found, endpoint=environment.get("AWS_ENDPOINT_URL_S3") or environment["AWS_ENDPOINT_URL"])
    if environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"):
        found = replace(found, region=environment.get("AWS_REGION") or environment["AWS_DEFAULT_REGION"])
    if "PREP_S3_CACHE" in environment:
        cache_folder = os.path.expanduser(environment["PREP_S3_CACHE"])  # noqa: PTH111  (Path's raises without a home)
        found = replace(found, cache=cache_folder or None)
    if environment.get("PREP_S3_CACHE_BYTES"):
        found = replace(found, cache_bytes=_bytes_of(environment["PREP_S3_CACHE_BYTES"]))
    return found


def _bytes_of(text: str) -> int:
    try:
        number = int(float(text))
    except (ValueError, OverflowError):  # no number; infinite
        number = -1
    if number < 0:
        raise ValueError(f"PREP_S3_CACHE_BYTES={text}: write a number of bytes, such as 50000000000 or 50e9")
    return number


# -- the two calls of the loader -------------------------------------------------------------------------------------


def s3_image(address: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The image at `s3://bucket/key` as RGB pixels: an array (height, width, 3) of 8-bit numbers.

    Other colours become RGB as `Image.convert("RGB")` makes them; EXIF's rotation is not applied, as the loader does
    not apply it to local images.

    Raises:
        FileNotFoundError: there is no such object.
        PermissionError: S3 refuses, or there are no credentials.
        ConnectionError: S3 does not answer, or answers with errors, also when asked again.
        OSError: the object is no image, or a broken one.
        ValueError: the address is none of S3.
    """
    return np.array(_open(address))


def get_image(source: Mapping[str, Any], key: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The image with this key in the image index, as RGB pixels.

    Args:
        source: `{"strSource": "raw"}` for the image as it is, `{"strSource": "1024-pil-antialias"}` for one that fits
            within 1024 x 1024 pixels. What the authors' store means by the latter is not known; this is the plain
            reading: reduced with antialiasing, its proportions kept, never enlarged.

    Raises:
        KeyError: no image of the index has this key, or those of several datasets do.
        ValueError: `source` names neither.
        OSError: as `s3_image`.
    """
    name = source.get("strSource")
    if name not in (_REDUCED, _RAW):
        raise ValueError(f"strSource {name!r}: must be {_REDUCED!r} or {_RAW!r}")
    image = _open(_find(key))
    if name == _REDUCED:
        image.thumbnail((_REDUCED_SIDE, _REDUCED_SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
    return np.array(image)


def _open(address: str) -> Image.Image:
    data = _read(address)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise almost anything on broken bytes
        raise OSError(f"{address}: not an image that can be opened: {error}") from error


def _find(key: str) -> str:
    """The address of the image with this key; the index is read in place, never as a whole."""
    now = settings()
    if not now.index:
        raise KeyError(f"{key}: there is no image index; `prep emit-yaml --s3-reader` writes one")
    path = Path(__file__).resolve().with_name(now.index)
    # A connection for every call: it costs a tenth of a millisecond, and none is carried over a fork or to a thread.
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as index:
        found = index.execute("SELECT dataset, path FROM images WHERE key = ?", (key,)).fetchall()
    if not found:
        raise KeyError(f"no image has the key {key}")
    if len(found) > 1:
        raise KeyError(f"images of several datasets have the key {key}: {', '.join(name for name, _ in found)}")
    dataset, place = found[0]
    return f"{now.images}/{dataset}/{place}"


# -- S3 --------------------------------------------------------------------------------------------------------------


class _Process:
    """What belongs to one process: its client, and what guards it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: Any = None


_process = _Process()


def _begin_process() -> None:
    """Forget the parent's client, whose connections it goes on using, and its lock, which a thread there may hold."""
    global _process
    _process = _Process()


os.register_at_fork(after_in_child=_begin_process)


def _client() -> Any:
    process = _process
    with process.lock:
        if process.client is None:
            config = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 1},  # `_fetch` asks again, also for a cut body
                max_pool_connections=_CONNECTIONS,
                response_checksum_validation="when_required",  # few services but AWS know more
            )
            now = settings()
            process.client = boto3.Session().client(
                "s3", endpoint_url=now.endpoint, region_name=now.region, config=config
            )
        return process.client


def _read(address: str) -> bytes:
    """The bytes at an address, out of the cache where there is one and it has them."""
    now = settings()
    if not now.cache:
        return _fetch(address)
    cache = Cache(Path(now.cache), now.cache_bytes)
    name = hashlib.sha256(f"{now.endpoint} {address}".encode()).hexdigest()
    data = cache.get(name)
    if data is None:
        data = _fetch(address)
        cache.put(name, data)
    return data


def _fetch(address: str) -> bytes:
    """The object at an address; what may pass (throttling, 5xx, a lost connection) is tried again a few times."""
    bucket, _, key = address[len("s3://") :].partition("/")
    if not (address.startswith("s3://") and bucket and key):
        raise ValueError(f"{address}: must be s3://bucket/key")
    wait = FIRST_WAIT_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _get(bucket, key)
        except (BotoCoreError, ClientError, ResponseParserError, TimeoutError) as error:
            if not _may_pass(error):
                raise _explained(address, error) from error
            if attempt == ATTEMPTS:
                raise ConnectionError(f"{address}: {error} (asked {ATTEMPTS} times)") from error
        time.sleep(wait * random.uniform(0.5, 1))  # many workers, which must not come back together
        wait *= 2
    raise AssertionError("the last attempt returns or raises")


def _get(bucket: str, key: str) -> bytes:
    deadline = time.monotonic() + OBJECT_SECONDS
    pieces = []
    with contextlib.closing(_client().get_object(Bucket=bucket, Key=key)["Body"]) as body:
        for piece in body.iter_chunks(_CHUNK_BYTES):
            pieces.append(piece)
            if time.monotonic() > deadline:
                raise TimeoutError(f"no more than {sum(map(len, pieces))} bytes came in {OBJECT_SECONDS} s")
    return b"".join(pieces)


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help."""
    if not isinstance(error, ClientError):
        return isinstance(error, (HTTPClientError, NoConnection, IncompleteReadError, TimeoutError))
    code, status = _answer(error)
    if code in _STALE_KEYS:
        _begin_process()  # a new session finds the keys that took their place
        return True
    return code in _PASSING or status >= 500 or status == 429


def _answer(error: ClientError) -> tuple[str, int]:
    """Code and HTTP status of an error that the service answered."""
    response: Mapping[str, Any] = error.response
    return str(response["Error"].get("Code", "")), int(response["ResponseMetadata"].get("HTTPStatusCode", 0))


def _explained(address: str, error: Exception) -> OSError:
    """What will not pass, as the error that it would be of a local file."""
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, ProfileNotFound)):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
        return PermissionError(errno.EACCES, f"no S3 credentials ({error}); {hint}", address)
    code, status = _answer(error) if isinstance(error, ClientError) else ("", 0)
    if status == 404:
        return FileNotFoundError(errno.ENOENT, f"not on S3 ({code})", address)
    if status in (401, 403):
        hint = "check the keys and what they may read; one that may not list takes a missing image for a refusal"
        return PermissionError(errno.EACCES, f"S3 refuses ({code}): {hint}", address)
    return OSError(f"{address}: {error}")


# -- the cache -------------------------------------------------------------------------------------------------------

_HASH_BYTES = 32
_LOCK_SECONDS = 0.1
_NAME = re.compile("[0-9a-f]{2}/[0-9a-f]{62}")


class Cache:
    """Objects on this machine's disk, shared by processes; what is stored there is never larger than its bound.

    A file is the SHA-256 of an object, then the object; one that does not agree with its hash counts as missing. Its
    time of modification is that of its last use. `lock` is held by whoever adds a file, and holds the size of all; a
    killed process leaves a number there that is too high, which the next look through the folder puts right.

    A cache never fails a sample: where it cannot be read or written, there is a warning and images come from S3.
    """

    def __init__(self, folder: Path, bound_bytes: int) -> None:
        self.folder = folder
        self.bound_bytes = bound_bytes

    def get(self, name: str) -> bytes | None:
        """The object called `name` (64 hex digits), or None."""
        path = self._path(name)
        try:
            held = path.read_bytes()
            data = held[_HASH_BYTES:]
            if hashlib.sha256(data).digest() != held[:_HASH_BYTES]:
                path.unlink()
                return None
            with contextlib.suppress(PermissionError):  # a cache that others filled
                os.utime(path)
        except FileNotFoundError:  # never there, or given up between two of these lines
            return None
        except OSError as error:
            self._complain(error)
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep an object, if there is room when older ones are given up, and others are not busy adding theirs."""
        held = hashlib.sha256(data).digest() + data
        if len(held) > self.bound_bytes:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked() as lock:
                path = self._path(name)
                if lock is not None and not path.exists():
                    self._reserve(lock, len(held))
                    path.parent.mkdir(exist_ok=True)
                    temporary = path.with_name(f"{path.name}.tmp")
                    temporary.write_bytes(held)
                    temporary.replace(path)
        except OSError as error:
            self._complain(error)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int | None]:
        """Descriptor of the lock file, locked; None where others hold it for long."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_SECONDS
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        yield None
                        return
                    time.sleep(_LOCK_SECONDS / 20)
            yield descriptor
        finally:
            os.close(descriptor)

    def _reserve(self, lock: int, size_bytes: int) -> None:
        """Count a file that is about to be written; where the bound would be passed, give up those unused longest."""
        noted = os.pread(lock, 32, 0)
        total = int(noted) if noted.isdigit() else None
        if total is None or total + size_bytes > self.bound_bytes:
            total = self._make_room(size_bytes)
        noted = str(total + size_bytes).encode()
        os.pwrite(lock, noted, 0)
        os.ftruncate(lock, len(noted))

    def _make_room(self, size_bytes: int) -> int:
        """Look through the folder and remove files until a new one fits; the size of those that stay.

        A tenth of the cache goes at once, so that this is rarely done.
        """
        files, total = [], 0
        for path in self.folder.glob("??/*"):
            if path.name.endswith(".tmp"):  # of a killed process: only who holds the lock writes one
                path.unlink()
            elif _NAME.fullmatch(f"{path.parent.name}/{path.name}"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    files.append((status.st_mtime_ns, status.st_size, path))
                    total += status.st_size
        goal = max(self.bound_bytes * 9 // 10 - size_bytes, 0) if total + size_bytes > self.bound_bytes else total
        for _, size, path in sorted(files):
            if total <= goal:
                break
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            total -= size
        return total

    def _complain(self, error: OSError) -> None:
        warnings.warn(f"the cache of images in {self.folder} cannot be used: {error}", RuntimeWarning, stacklevel=3)
