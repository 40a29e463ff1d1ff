"""A 200 MB download that is killed hundreds of times: nothing that was safe is fetched again."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prep.publishers import World
from prep.sources.part_file import journal_path, partial_bytes

SIZE = 200_000_000
KILLS = 250
RUNNER = Path(__file__).with_name("resume_runner.py")


def safe_ranges(target: Path) -> list[tuple[int, int]]:
    """What the journal says is safe."""
    if not partial_bytes(target):
        return []
    return [(start, end) for start, end in json.loads(journal_path(target).read_text())["done"]]


def test_hundreds_of_kills_lose_only_what_was_not_flushed(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = random.Random(3).randbytes(1_000_003) * 200
    data = data[:SIZE]
    (world.folder / "files" / "large.bin").write_bytes(data)
    sha256, target = hashlib.sha256(data).hexdigest(), tmp_path / "large.bin"
    command = [sys.executable, str(RUNNER), f"{world.url}/files/large.bin", str(SIZE), sha256, str(target)]
    moments, kills, finished = random.Random(5), 0, 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdin and runner.stdout

        def run(microseconds: int) -> str:
            assert runner.stdin and runner.stdout
            runner.stdin.write(f"{microseconds}\n")
            runner.stdin.flush()
            return runner.stdout.readline().split()[0]

        while kills < KILLS:
            safe = safe_ranges(target)
            world.server.request_headers.clear()
            # Most kills come early, so that there are hundreds of them before the end.
            answer = run(moments.randrange(1_000, 60_000 if kills % 10 else 200_000))
            if answer == "finished":
                assert hashlib.sha256(target.read_bytes()).hexdigest() == sha256
                target.unlink()
                finished += 1
                continue
            assert answer == "killed"
            kills += 1
            for headers in world.server.request_headers:
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", f"bytes=0-{SIZE - 1}"))
                assert asked is not None
                first, last = int(asked[1]), int(asked[2])
                again = [(start, end) for start, end in safe if start <= last and first < end]
                assert again == [], "bytes that were safe are asked for again"
        safe = safe_ranges(target)
        kept = sum(end - start for start, end in safe)
        time.sleep(0.2)  # the server logs an answer after its last byte
        before = sum(answer.size_bytes for answer in world.server.sent)
        world.server.sent.clear()
        assert run(0) == "finished"
    time.sleep(0.2)
    fetched = sum(answer.size_bytes for answer in world.server.sent)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == sha256
    assert [path.name for path in tmp_path.iterdir()] == ["large.bin"]
    assert fetched == SIZE - kept, "the last run fetches exactly what was not safe"
    with capsys.disabled():
        sent_again = before + fetched - (finished + 1) * SIZE
        print(
            f"\n{KILLS} kills over {finished + 1} downloads of {SIZE / 1e6:.0f} MB: "
            f"{sent_again / KILLS / 1e6:.2f} MB sent again for each kill, network buffers included; "
            f"the last run found {kept:,} bytes safe and fetched {fetched:,}"
        )
