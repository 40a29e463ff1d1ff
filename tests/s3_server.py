"""An S3 service on loopback: `rclone serve s3`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3


@dataclass(frozen=True)
class S3Server:
    """A running S3 service with one bucket; its objects are files below `folder`."""

    endpoint: str
    folder: Path
    bucket: str = "pictures"
    key_id: str = "a-key"
    secret: str = "a-secret"

    def path(self, key: str) -> Path:
        """The file behind an object of the bucket; to be read: the server remembers what is in its folders."""
        return self.folder / self.bucket / key

    def put(self, key: str, data: bytes) -> None:
        """Store an object as any client would."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )
        client.put_object(Bucket=self.bucket, Key=key, Body=data)


def find_rclone() -> str | None:
    """The program: of this environment, or anywhere on the path."""
    return shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


@contextmanager
def serve_s3(rclone: str, folder: Path) -> Iterator[S3Server]:
    """Serve `folder` on a free port; returns when the service answers, and ends it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = S3Server(f"http://{address}", folder)
    (folder / server.bucket).mkdir()
    keys = f"{server.key_id},{server.secret}"
    command = [rclone, "serve", "s3", "--config", "", "--addr", address, "--auth-key", keys, str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_answers(address, process)
            yield server
        finally:
            process.terminate()


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"rclone does not answer at {address}")
