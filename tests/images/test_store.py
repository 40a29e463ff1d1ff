"""Where image bytes are kept: a folder, or S3."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from prep.errors import ConfigError, WorkspaceError
from prep.images import store as store_module
from prep.images.store import UNDER_WAY, Clash, DiskStore, S3Store, Store, open_store
from s3_server import S3Server

PATHS = [
    "a.jpg",
    "deep/er/folder/b.png",
    "ü 图 🔴.jpg",
    "a b+c#d?e%20&f.jpg",
    "it's (1) [x] {y}.jpg",
    "x" * 200 + ".webp",
]


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return open_store(str(tmp_path / "images"), "coyo", None)
    s3: S3Server = request.getfixturevalue("s3")
    return open_store(f"s3://{s3.bucket}/{tmp_path.name}", "coyo", s3.endpoint)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_put_can_be_got(store: Store, path: str) -> None:
    data = bytes(range(256)) * 30
    store.put(path, data)
    store.sync()
    assert store.get(path) == data


def test_a_put_replaces(store: Store) -> None:
    for data in (b"long before", b"now", b""):
        store.put("a.jpg", data)
        assert store.get("a.jpg") == data


def test_the_last_of_many_puts_of_one_path_counts(store: Store) -> None:
    for number in range(100):
        store.put("a.jpg", str(number).encode())
        store.put(f"{number}.jpg", b"x" * number)
    store.sync()
    assert store.get("a.jpg") == b"99"


def test_many_can_be_put_at_once_from_an_event_loop(store: Store) -> None:
    async def put_all() -> None:
        await asyncio.gather(*(store.put_async(path, path.encode()) for path in PATHS))
        assert [store.get(path) for path in PATHS] == [path.encode() for path in PATHS], "before any sync"

    asyncio.run(put_all())


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("nothing.jpg")


def test_what_is_deleted_is_gone(store: Store) -> None:
    for path in PATHS:
        store.put(path, b"data")
        store.delete(path)
        store.delete(path)
    store.sync()
    for path in PATHS:
        with pytest.raises(FileNotFoundError):
            store.get(path)


# -- a folder --------------------------------------------------------------------------------------------------------


def test_files_on_disk_lie_below_root_and_dataset(tmp_path: Path) -> None:
    for path in PATHS:
        open_store(str(tmp_path), "coyo", None).put(path, path.encode())
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"coyo/{path}": path.encode() for path in PATHS}


def test_objects_lie_below_bucket_prefix_and_dataset(s3: S3Server) -> None:
    for root, path in ((f"s3://{s3.bucket}/pre/fix", "deep/ü 图.jpg"), (f"s3://{s3.bucket}", "a.jpg")):
        store = open_store(root, "coyo", s3.endpoint)
        store.put(path, b"data")
        store.sync()
    assert s3.path("pre/fix/coyo/deep/ü 图.jpg").read_bytes() == b"data"
    assert s3.path("coyo/a.jpg").read_bytes() == b"data"


def test_a_disk_that_is_full_leaves_no_half_file(tmp_path: Path) -> None:
    # The limit on a file's size stands for the full disk; it needs a process of its own.
    script = """
import resource, sys
from pathlib import Path
from prep.images.store import DiskStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = DiskStore(Path(sys.argv[1]))
store.put("a.jpg", b"old")
try:
    store.put("a.jpg", bytes(5000))
except OSError as error:
    print(error.strerror, store.get("a.jpg"))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "File too large b'old'\n", done.stderr

    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        DiskStore(tmp_path / "file").put("a.jpg", b"data")
    with pytest.raises(NotADirectoryError):
        DiskStore(tmp_path / "file" / "deeper").put("a.jpg", b"data")


@pytest.mark.parametrize("path", ["a.jpg/b.jpg", "a.jpg/b/c.jpg", "folder", "fol/der"])
def test_a_file_and_a_folder_of_one_name_clash(path: str, tmp_path: Path) -> None:
    store = DiskStore(tmp_path, "writer")
    for there in ("a.jpg", "folder/x.jpg", "fol/der/x.jpg"):
        store.put(there, b"data")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Clash, match=f"^{path}: a file and a folder would have one name$"):
        store.put(path, b"other")
    with pytest.raises(Clash):
        asyncio.run(store.put_async(path, b"other"))
    assert sorted(tmp_path.rglob("*")) == before
    store.put("b.jpg", b"the store goes on")
    assert store.get("b.jpg") == b"the store goes on"


# -- S3: what is refused ---------------------------------------------------------------------------------------------


def refused(store: Store) -> list[WorkspaceError]:
    """The errors of all that can be asked of a store, which come quickly."""
    errors: list[WorkspaceError] = []

    def put_and_sync() -> None:
        store.put("a.jpg", b"data")
        store.sync()

    started = time.monotonic()
    for ask in (
        put_and_sync,
        lambda: asyncio.run(store.put_async("a.jpg", b"data")),
        lambda: store.get("a.jpg"),
        lambda: store.delete("a.jpg"),
    ):
        with pytest.raises(WorkspaceError) as caught:
            ask()
        errors.append(caught.value)
    store.sync()  # an error is raised once
    assert time.monotonic() - started < 5
    assert all("s3_endpoint" in error.next_step for error in errors)
    return errors


def verbs(errors: list[WorkspaceError], root: str) -> list[str]:
    """What could not be done, each with the thing's whole address."""
    assert all(f" {root}/coyo/a.jpg: " in error.message for error in errors)
    return [error.message.split(f" {root}")[0] for error in errors]


ALL = ["cannot write", "cannot write", "cannot read", "cannot delete"]


def test_wrong_keys_are_said(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    errors = refused(open_store(f"s3://{s3.bucket}/p", "coyo", s3.endpoint))
    assert verbs(errors, f"s3://{s3.bucket}/p") == ALL
    assert all(error.message.endswith("403 Forbidden") for error in errors)
    assert all(error.next_step.startswith("Check the keys (AWS_ACCESS_KEY_ID") for error in errors)
    assert "wrong-secret" not in "".join(str(error) for error in errors)
    assert not s3.path("p").exists()


def test_a_bucket_that_is_not_there_is_said(s3: S3Server) -> None:
    errors = refused(open_store("s3://no-such-bucket/p", "coyo", s3.endpoint))
    assert verbs(errors, "s3://no-such-bucket/p") == ALL
    assert all(error.message.endswith("404 Not Found") for error in errors)
    assert all(error.next_step.startswith("Make the bucket") for error in errors)


def test_a_service_that_does_not_answer_is_said(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store_module.RETRIES, "max_retries", 1)  # ten of them take some 15 seconds
    with socket.socket() as closed:  # bound and not listening: nobody else can take the port meanwhile
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        errors = refused(open_store(f"s3://{s3.bucket}", "coyo", endpoint))
    assert verbs(errors, f"s3://{s3.bucket}") == ALL
    assert all(error.next_step.startswith("Check the network") for error in errors)


def test_a_bucket_that_vanishes_is_said_at_the_next_put(s3: S3Server) -> None:
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="vanishing")
    store = open_store("s3://vanishing", "coyo", s3.endpoint)
    store.put("first.jpg", b"data")
    store.sync()
    assert store.get("first.jpg") == b"data"
    client.delete_object(Bucket="vanishing", Key="coyo/first.jpg")
    client.delete_bucket(Bucket="vanishing")
    with pytest.raises(WorkspaceError, match=r"^cannot write s3://vanishing/coyo/\d+\.jpg: .* 404 Not Found\n"):
        for number in range(10_000):
            store.put(f"{number}.jpg", b"data")


def test_a_key_that_cannot_be_is_said(s3: S3Server) -> None:
    store = open_store(f"s3://{s3.bucket}/p", "coyo", s3.endpoint)
    store.put("../a.jpg", b"data")
    with pytest.raises(WorkspaceError, match=r"cannot write s3://pictures/p/coyo/\.\./a\.jpg"):
        store.sync()
    with pytest.raises(WorkspaceError, match="cannot write"):
        asyncio.run(store.put_async("../a.jpg", b"data"))


# -- S3: what is under way -------------------------------------------------------------------------------------------


class SlowObjects:
    """Takes objects as obstore does, all but some only when it is let go; counts what it holds meanwhile."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.held: list[int] = []
        self.peak: list[int] = []
        self.done: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()

    def put(self, path: str, data: bytes) -> None:
        with self._lock:
            self.held.append(len(data))
            self.peak = max(self.peak, list(self.held), key=sum)
        assert self.go.wait(10)
        with self._lock:
            self.held.remove(len(data))
            self.done.append((path, data))
        if path.startswith("bad"):
            raise ValueError(f"{path} is refused")


@pytest.fixture
def slow(s3: S3Server) -> tuple[S3Store, SlowObjects]:
    store, objects = S3Store(f"s3://{s3.bucket}", s3.endpoint), SlowObjects()
    target: Any = store
    target._store = objects
    return store, objects


def put_all(store: S3Store, images: list[tuple[str, bytes]]) -> threading.Thread:
    """Put in a thread of its own, as the store makes it wait."""

    def put() -> None:
        for path, data in images:
            store.put(path, data)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    return thread


def wait_until_held(objects: SlowObjects, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(objects.held) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)  # and no more than these
    assert len(objects.held) == count


@pytest.mark.parametrize(
    ("size_bytes", "held"),
    [(10, UNDER_WAY), (10 << 20, 6), (100 << 20, 1)],
    ids=["small images", "large ones", "one larger than all together may be"],
)
def test_few_images_are_in_memory_at_once(slow: tuple[S3Store, SlowObjects], size_bytes: int, held: int) -> None:
    store, objects = slow
    data = bytes(size_bytes)
    thread = put_all(store, [(str(number), data) for number in range(held + 3)])
    wait_until_held(objects, held)
    assert thread.is_alive()
    objects.go.set()
    thread.join(10)
    store.sync()
    assert sorted(objects.done) == sorted((str(number), data) for number in range(held + 3))
    assert sum(objects.peak) <= max(store_module.UNDER_WAY_BYTES, size_bytes)


def test_puts_of_one_path_do_not_overtake_each_other(slow: tuple[S3Store, SlowObjects]) -> None:
    store, objects = slow
    thread = put_all(store, [("a", b"1"), ("b", b"2"), ("a", b"3"), ("c", b"4")])
    wait_until_held(objects, 2)
    objects.go.set()
    thread.join(10)
    store.sync()
    assert sorted(objects.done) == [("a", b"1"), ("a", b"3"), ("b", b"2"), ("c", b"4")]
    assert objects.done.index(("a", b"1")) < objects.done.index(("a", b"3"))


def test_a_put_that_failed_is_raised_by_the_next_or_by_sync_and_ends_no_other(
    slow: tuple[S3Store, SlowObjects],
) -> None:
    store, objects = slow
    for path in ("a", "bad", "worse", "b"):
        store.put(path, b"data")
    objects.go.set()
    with pytest.raises(WorkspaceError, match="cannot write s3://pictures/bad: bad is refused"):
        store.sync()
    store.put("c", b"data")
    store.sync()
    assert sorted(path for path, _ in objects.done) == ["a", "b", "bad", "c", "worse"]
    store.put("bad", b"data")
    with pytest.raises(WorkspaceError, match="bad is refused"):
        for number in range(10_000):
            store.put(str(number), b"data")
    store.sync()


# -- S3: how it is opened --------------------------------------------------------------------------------------------


def test_no_keys_at_all_are_said(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(WorkspaceError) as caught:
        open_store(f"s3://{s3.bucket}/p", "coyo", s3.endpoint)
    assert caught.value.message == f"no S3 credentials for s3://{s3.bucket}/p/coyo"
    assert "AWS_ACCESS_KEY_ID" in caught.value.next_step


def test_a_root_without_a_bucket_is_said(s3: S3Server) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("s3:///prefix", "coyo", s3.endpoint)
    assert str(caught.value) == (
        "s3:///prefix/coyo names no bucket\n  Write `images: s3://bucket/prefix` in prep.yaml."
    )
