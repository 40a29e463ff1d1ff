"""Where image bytes are kept: a folder, or S3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prep.errors import ConfigError, WorkspaceError
from prep.images.store import DiskStore, Store, open_store
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


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("nothing.jpg")


def test_files_on_disk_lie_below_root_and_dataset(tmp_path: Path) -> None:
    for path in PATHS:
        open_store(str(tmp_path), "coyo", None).put(path, path.encode())
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"coyo/{path}": path.encode() for path in PATHS}


def test_objects_lie_below_bucket_prefix_and_dataset(s3: S3Server) -> None:
    open_store(f"s3://{s3.bucket}/pre/fix", "coyo", s3.endpoint).put("deep/ü 图.jpg", b"data")
    open_store(f"s3://{s3.bucket}", "coyo", s3.endpoint).put("a.jpg", b"data")
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


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        DiskStore(tmp_path / "file").put("a.jpg", b"data")


def refused(s3: S3Server, root: str = "") -> tuple[str, str]:
    """The messages of a put and of a get."""
    store = open_store(root or f"s3://{s3.bucket}/p", "coyo", s3.endpoint)
    with pytest.raises(WorkspaceError) as put:
        store.put("a.jpg", b"data")
    with pytest.raises((WorkspaceError, FileNotFoundError)) as got:
        store.get("a.jpg")
    assert "s3_endpoint" in put.value.next_step
    return put.value.message, str(got.value)


def test_wrong_keys_are_said(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    put, got = refused(s3)
    assert put.startswith(f"cannot write s3://{s3.bucket}/p/coyo/a.jpg: ") and put.endswith("403 Forbidden")
    assert got.startswith(f"cannot read s3://{s3.bucket}/p/coyo/a.jpg: ")
    assert "wrong-secret" not in put + got
    assert not s3.path("p").exists()


def test_a_bucket_that_is_not_there_is_said(s3: S3Server) -> None:
    put, _ = refused(s3, "s3://no-such-bucket/p")
    assert put.startswith("cannot write s3://no-such-bucket/p/coyo/a.jpg: ") and put.endswith("404 Not Found")


def test_a_key_that_cannot_be_is_said(s3: S3Server) -> None:
    with pytest.raises(WorkspaceError, match=r"cannot write s3://pictures/p/coyo/\.\./a\.jpg"):
        open_store(f"s3://{s3.bucket}/p", "coyo", s3.endpoint).put("../a.jpg", b"data")


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
