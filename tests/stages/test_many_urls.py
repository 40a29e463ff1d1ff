"""Twenty thousand addresses, three in ten of them bad: the command ends by itself, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest
from image_sets import make_addresses, picture

from image_server import ImageServer, Reply, reply
from prep.images.index import read_index
from prep.workspace import Workspace
from worlds import QUICK_PREP, environment, prep

COUNT = 20_000
GOOD = picture(1, (64, 48))
REPLIES = {
    "good": reply(body=GOOD),
    "gone": reply("404 Not Found"),
    "down": reply("503 Service Unavailable"),
    "page": reply(body=b"<!doctype html><p>Not a picture"),
    "cut": Reply(reply(body=GOOD, length=len(GOOD) + 100).data, "close"),
    "torn": reply(body=GOOD[:-5]),
    "tiny": reply(body=picture(1, (4, 4))),
    "private": reply("302 Found", headers=["Location: http://169.254.169.254/"]),
    "noai": reply(body=GOOD, headers=["X-Robots-Tag: noai"]),
    "silent": Reply(b"", "hang"),
}
STATUSES = {
    "good": "ok",
    "gone": "http_404",
    "down": "http_5xx",
    "page": "not_an_image",
    "cut": "truncated",
    "torn": "truncated",
    "tiny": "too_small",
    "private": "blocked_address",
    "noai": "opted_out",
    "silent": "timeout",
    "refused": "connect",
}
FAULTS = ["gone", "down", "page", "cut", "torn", "tiny", "private", "noai", "gone", "refused"]


# From a small process: a child's peak counts what its parent had when it was started.
MEASURED = f"""
import resource, subprocess, sys
done = subprocess.run([sys.executable, {str(QUICK_PREP)!r}, "images", "--json"])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(done.returncode)
"""


def addresses(server: ImageServer) -> list[str]:
    urls = []
    for number in range(COUNT):
        kind = "good" if number % 10 < 7 else FAULTS[number // 10 % 10]
        host = f"127.0.{number % 7}.{number % 50 + 1}"
        if kind == "refused":
            urls.append(f"http://127.0.9.{number % 20 + 1}:9/refused/{number}")
        else:
            urls.append(server.url(f"{'silent' if number % 1000 == 9 else kind}/{number}", host))
    return urls


def in_index(workspace: Workspace) -> Counter[tuple[str, str]]:
    """How many images of each kind of address have each status."""
    table = read_index(sorted(workspace.index("pics").glob("*.parquet")))
    kinds = pc.list_element(pc.split_pattern(table["source"], "/"), 3).to_pylist()
    return Counter(zip(kinds, table["status"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def wants() -> Counter[str]:
    with ImageServer({}) as server:
        return Counter(url.split("/")[3] for url in addresses(server))


def test_twenty_thousand(wants: Counter[str], tmp_path: Path) -> None:
    assert 0.28 < sum(count for kind, count in wants.items() if kind != "good") / COUNT < 0.32
    with ImageServer(REPLIES) as server:
        fetch = {"seconds": 2.5, "attempts": 2}
        workspace = make_addresses(tmp_path, addresses(server), workers=2, fetch=fetch)
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", MEASURED], cwd=tmp_path, env=environment(), capture_output=True)
        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)["outcomes"][0]
        seconds, peak = time.monotonic() - started, int(done.stderr.split()[-1]) / 1024
        print(f"{COUNT / seconds:,.0f} addresses a second, {peak:.0f} MB in the largest process")
        assert outcome["rows"] == COUNT
        assert in_index(workspace) == {(kind, STATUSES[kind]): count for kind, count in wants.items()}
        assert seconds < 90 and peak < 400

        # Healed hosts are gone back to for what is named, and for nothing else.
        asked = Counter(server.hits)
        server.replies["silent"] = server.replies["down"] = [reply(body=GOOD)]
        again = prep(tmp_path, "images", "--retry", "timeout,http_5xx", "--json")
        assert again.returncode == 0, again.stderr
        counts = json.loads(again.stdout)["outcomes"][0]["counts"]
        assert counts["ok"] == wants["good"] + wants["silent"] + wants["down"]
        kinds = Counter(path.split("/")[1] for path in server.hits - asked)
        assert kinds == {"silent": wants["silent"], "down": wants["down"]}
