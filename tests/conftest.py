"""The servers that tests share: the small world of publishers, and an S3 service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from prep.publishers import World
from prep.publishers.drive import SCAN_LIMIT
from prep.publishers.hub import WINDOW_SECONDS
from s3_server import S3Server, find_rclone, serve_s3
from worlds import make_workspace, prep

# A busy machine is no reason to fail; and what CI tries it tries again, so that a failure there can be repeated.
settings.register_profile(
    "prep", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("prep")


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
    running_world.server.sent.clear()
    yield running_world
    server = running_world.server
    server.faults.clear()
    server.hub.signature_uses, server.hub.quota, server.hub.window_seconds = None, {}, WINDOW_SECONDS
    server.hub.page_size = 1000
    server.drive.scan_limit, server.drive.page_size = SCAN_LIMIT, 100
    server.drive.over_quota.clear()
    server.drive.private.clear()


@pytest.fixture
def hub(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """The publishers, and this process's hub client pointed at them, with a token and no stored login.

    The client reads its environment when it is imported, which other tests may have done.
    """
    from huggingface_hub import constants

    no_login = str(tmp_path / "no-login")
    for name, value in (world.environment | {"HF_TOKEN_PATH": no_login}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", world.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", no_login)
    template = world.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return world


@pytest.fixture(scope="session")
def running_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 service for all tests of a test process; `s3` is the one to ask for."""
    rclone = find_rclone()
    if rclone is None:
        pytest.skip("rclone is not installed")
    with serve_s3(rclone, tmp_path_factory.mktemp("s3")) as server:
        yield server


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


@pytest.fixture(scope="module")
def stored(running_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with images out of archives, and a lock of it; for tests that copy it before they change it."""
    recipe = {"name": "x", "entries": [{"table": "blip3o-60k", "min_size": 512}]}
    root = make_workspace(tmp_path_factory.mktemp("stored") / "w", recipe, running_world)
    done = prep(root, "run", world=running_world)
    assert done.returncode == 0, done.stderr
    return root
