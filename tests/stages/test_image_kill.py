"""The images stage killed at any moment goes on behind the images it had written down, and ends the same."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from image_sets import index, make, make_addresses, picture, run

from prep.images.index import IndexRow, index_rows
from prep.images.spool import spool_folder
from prep.publishers import Fault, World
from prep.stages.download import download
from prep.workspace import Workspace
from worlds import environment, snapshot

PICTURES = 400


def run_killed(workspace: Workspace, seed: int, check: Callable[[], None], *, least: int) -> None:
    """Run the stage with ever longer lives until it gets through; `check` is called after each."""
    command = [sys.executable, str(Path(__file__).with_name("image_runner.py"))]
    moments, kills = random.Random(seed), 0
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        while True:
            process.stdin.write(f"{workspace.root} {moments.uniform(0.02, 0.1 + kills / 50):.3f}\n")
            process.stdin.flush()
            ended = process.stdout.readline().strip()
            check()
            if ended != "killed":
                break
            kills += 1
            assert kills < 200
        process.stdin.close()
    assert ended == "finished" and kills >= least


def spooled(workspace: Workspace) -> list[IndexRow]:
    """Rows that are written down of shards under way."""
    folders = {spool_folder(path) for path in workspace.index("pics").glob("*.parquet")}
    folders |= set(workspace.index("pics").glob(".*.rows"))
    return [row for folder in folders for piece in sorted(folder.glob("*.parquet")) for row in index_rows(piece)]


def test_no_image_that_is_written_down_is_fetched_again(world: World, tmp_path: Path) -> None:
    for number in range(PICTURES):
        world.faults[f"/pics/{number}"] = Fault(body=picture(number, (64, 40 + number)), drip_seconds=0.02)
    urls = [f"{world.url}/pics/{number}" for number in range(PICTURES)]
    whole = make_addresses(tmp_path / "whole", urls)
    run(whole)
    workspace = make_addresses(tmp_path / "killed", urls, fetch={"connections": 4})
    world.requests.clear()
    safe: set[str] = set()

    def check() -> None:
        asked = {path for _, path in world.requests}
        world.requests.clear()
        assert not asked & safe
        safe.update("/pics/" + row.source.rpartition("/")[2] for row in spooled(workspace) if row.path)

    run_killed(workspace, 3, check, least=10)
    assert index(workspace) == index(whole)
    images, stored = (
        {k: v for k, v in snapshot(w.root).items() if k.startswith(("images", "index"))} for w in (whole, workspace)
    )
    manifest = "index/pics.parquet/_manifest.json"
    assert images.keys() == {path for path in stored if not path.endswith(".tmp")}
    assert {k: v for k, v in images.items() if k != manifest} == {k: stored[k] for k in images if k != manifest}


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_an_archive_killed_on_the_way_ends_the_same(ending: str, tmp_path: Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz" if ending == "tar.gz" else "w") as archive:
        for number in range(PICTURES):
            data = picture(number, (64, 40 + number))
            info = tarfile.TarInfo(f"{number % (PICTURES - 5)}.jpg")  # the last ones stand for the first
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    table = {
        "kind": "text-to-image",
        "records": {"format": "parquet", "parts": "*"},
        "image": "k",
        "select": {"caption": "c"},
    }
    workspaces = []
    for name in ("whole", "killed"):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / f"parts/a.{ending}").write_bytes(target.getvalue())
        dataset = {"images": {"kind": "archive", "parts": "*"}, "tables": {"pics": table}}
        workspace = make(tmp_path / name, dataset)
        download(workspace, workspace.catalogue.dataset("pics"))
        workspaces.append(workspace)
    whole, workspace = workspaces
    run(whole)
    run_killed(workspace, 5, lambda: None, least=3)
    assert index(workspace) == index(whole)
    assert len(index(whole)) == PICTURES - 5
    for row in index(whole):
        stored = Path(workspace.image_root, "pics", row["path"])
        assert stored.read_bytes() == Path(whole.image_root, "pics", row["path"]).read_bytes()
