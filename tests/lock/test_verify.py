"""`prep lock --check` names files that are gone or cut off, and with `--verify` those whose bytes are others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lock_worlds import make, run
from prep.cli.lock_report import check_lock
from prep.errors import DataError
from prep.workspace import Workspace
from worlds import prep, snapshot


@pytest.fixture
def root(stored: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, put back afterwards: elsewhere its tables would be made anew, which hold paths of images."""
    shutil.copytree(stored, tmp_path / "kept")
    yield stored
    shutil.rmtree(stored)
    shutil.copytree(tmp_path / "kept", stored)


def told(root: Path, *, verify: bool = False) -> list[str]:
    """What `prep lock --check` names."""
    before = snapshot(root)
    found = check_lock(Workspace(root), verify=verify).differences
    assert snapshot(root) == before
    return [str(one) for one in found]


def turn(path: Path) -> None:
    """Change a byte of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def first(root: Path, glob: str) -> Path:
    return min(path for path in root.glob(glob) if path.is_file() and not path.name.startswith("_"))


def test_nothing_is_wrong_with_what_was_made(root: Path) -> None:
    assert told(root) == told(root, verify=True) == []


@pytest.mark.parametrize(
    ("glob", "what"),
    [
        ("raw/blip3o-60k/**/*.tar", "dataset"),
        ("index/blip3o-60k.parquet/shard-*", "dataset"),
        ("normalized/blip3o-60k.parquet/shard-*", "table"),
        ("filtered/blip3o-60k.parquet/shard-*", "table"),
    ],
)
def test_a_file_is_named(root: Path, glob: str, what: str) -> None:
    path = first(root, glob)
    whole, key = path.read_bytes(), path.relative_to(root)
    turn(path)
    assert told(root) == [] or what == "dataset"  # an index is read for its images
    found = told(root, verify=True)
    (named,) = (line for line in found if f"{key} sha256" in line)
    assert named.startswith(f"{what} blip3o-60k {key} sha256: ") and named.endswith(" -> other bytes")
    path.write_bytes(whole[:-1])
    assert f"{what} blip3o-60k {key} size_bytes: {len(whole):,} -> {len(whole) - 1:,}" in told(root)
    path.unlink()
    assert f"{what} blip3o-60k {key} size_bytes: {len(whole):,} -> -" in told(root)


def test_images_are_looked_for_and_with_verify_hashed(root: Path) -> None:
    paths = sorted(path for path in (root / "images").rglob("*") if path.is_file())
    folder = root / "images/blip3o-60k"
    turn(paths[3])
    assert told(root) == []
    other = f"dataset blip3o-60k images other bytes: - -> 1, such as {paths[3].relative_to(folder)}"
    assert told(root, verify=True) == [other]
    paths[5].write_bytes(b"")
    paths[6].unlink()
    (gone, others) = told(root)
    assert gone.startswith("dataset blip3o-60k images gone: - -> 1, such as ")
    assert others.startswith("dataset blip3o-60k images other bytes: - -> 1, such as ")
    done = prep(root, "run", "--locked")
    assert done.returncode == 1 and gone in done.stderr and others in done.stderr, done.stderr
    assert "`prep images --verify decode` notes images that are gone" in done.stderr
    shutil.rmtree(root / "images")
    assert told(root)[0].startswith(f"dataset blip3o-60k images gone: - -> {len(paths):,}, such as ")


def test_rows_are_read_anew_whatever_is_noted(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    note = json.loads(workspace.known_rows.read_text())
    rows = note["pets"]["rows"]
    note["pets"]["rows"] = "0" * 32
    workspace.known_rows.write_text(json.dumps(note))
    assert told(workspace.root) == [f"table pets rows: {rows} -> {'0' * 32}"]
    assert told(workspace.root, verify=True) == []
    dropped = workspace.dropped("pets") / "shard-00000.parquet"
    file = pq.ParquetFile(dropped)
    start = file.metadata.row_group(0).column(file.schema_arrow.get_field_index("row")).data_page_offset
    data = bytearray(dropped.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    dropped.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        told(workspace.root, verify=True)


def test_many_files_are_not_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = run(make(tmp_path / "w"))
    monkeypatch.setattr("prep.lock.verify.MOST", 1)
    for path in workspace.raw("pets").glob("*.parquet"):
        path.unlink()
    assert "dataset pets more files: - -> 1" in told(workspace.root)


def test_verify_alone_is_refused(tmp_path: Path) -> None:
    done = prep(make(tmp_path / "w").root, "lock", "--verify")
    assert (done.returncode, done.stdout) == (1, "") and "--verify goes with --check" in done.stderr
