"""The servers that tests share: the small world of publishers, and an S3 service."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from prep.publishers import World


@dataclass(frozen=True)
class S3Server:
    """A running S3 service with one bucket, and where it keeps the bucket's objects as files."""

    endpoint: str
    folder: Path
    bucket: str = "pictures"
    key_id: str = "a-key"
    secret: str = "a-secret"

    def path(self, key: str) -> Path:
        """The file behind an object."""
        return self.folder / self.bucket / key


@pytest.fixture(scope="session")
def running_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The publishers, built once for all tests of a test process; `world` is the one to ask for."""
    with World(tmp_path_factory.mktemp("publishers")) as world:
        yield world


@pytest.fixture
def world(running_world: World) -> Iterator[World]:
    """The publishers, their log empty, behaving well again after the test."""
    running_world.requests.clear()
    running_world.server.request_headers.clear()
    yield running_world
    running_world.faults.clear()


@pytest.fixture
def hub(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """The publishers, and this process's hub client pointed at them, with a token and no stored login.

    The client reads its environment when it is imported, which other tests may have done.
    """
    from huggingface_hub import constants

    template = world.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in (world.environment | {"HF_TOKEN_PATH": str(tmp_path / "no-token")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", world.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return world


@pytest.fixture(scope="session")
def running_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3` on a free loopback port; `s3` is the one to ask for."""
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if rclone is None:
        pytest.skip("rclone is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = S3Server(f"http://{address}", tmp_path_factory.mktemp("s3"))
    (server.folder / server.bucket).mkdir()
    keys = f"{server.key_id},{server.secret}"
    command = [rclone, "serve", "s3", "--config", "", "--addr", address, "--auth-key", keys, str(server.folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        _wait_until_it_answers(address, process)
        yield server
        process.terminate()


@pytest.fixture
def s3(running_s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """The S3 service, its keys in the environment, and no other credentials in reach."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": running_s3.key_id,
        "AWS_SECRET_ACCESS_KEY": running_s3.secret,
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return running_s3


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    process.kill()
    pytest.fail(f"rclone does not answer at {address}")
