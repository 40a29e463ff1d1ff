"""DuckDB as the stages use it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prep import sql
from prep.engine import run_tasks
from prep.errors import DataError


def settings_in(output: Path) -> dict[str, str]:
    with sql.connect(output) as connection:
        return dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())


def test_connections_of_workers_are_single_threaded_quiet_and_bounded(tmp_path: Path) -> None:
    [settings] = run_tasks(settings_in, [tmp_path / "shard.parquet"], workers=2)
    assert settings["threads"] == "1"
    assert settings["enable_progress_bar"] == "false"
    assert settings["autoinstall_known_extensions"] == "false"
    assert settings["temp_directory"] == str(tmp_path / ".shard.parquet.spill")


def test_a_join_keeps_the_order_of_the_samples(tmp_path: Path) -> None:
    """Also where the facts are the larger side, which DuckDB would rather stream."""
    pq.write_table(pa.table({"key": [7, 3, 9, 1], "row": [0, 1, 2, 3]}), tmp_path / "samples.parquet")
    pq.write_table(pa.table({"key": list(range(10_000))}), tmp_path / "facts.parquet")
    samples, facts = (sql.parquet_files([tmp_path / f"{name}.parquet"]) for name in ("samples", "facts"))
    with sql.connect() as connection:
        rows = connection.execute(f"SELECT row FROM {samples} LEFT JOIN {facts} USING (key)").fetchall()
    assert rows == [(0,), (1,), (2,), (3,)]


def test_nan_is_seen_although_parquet_statistics_leave_it_out(tmp_path: Path) -> None:
    numbers = [600.0, 600.5, float("nan"), 1e20, 512.0]
    pq.write_table(pa.table({"x": numbers}), tmp_path / "numbers.parquet")
    rows = f"(SELECT x FROM {sql.parquet_files([tmp_path / 'numbers.parquet'])})"
    query = f"SELECT CASE WHEN x IS NOT NULL AND NOT isnan(x) THEN 'number' ELSE 'nan' END FROM {rows}"
    with sql.connect() as connection:
        found = [word for (word,) in connection.execute(query).fetchall()]
    assert found == ["number", "number", "nan", "number", "number"]


def test_rows_are_completed_with_what_only_the_other_file_has(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.parquet", tmp_path / "part.parquet"
    pq.write_table(pa.table({"row": [0, 1, 2, 3], "Size": [5, 6, 7, 8], "caption": ["a", "b", None, "d"]}), whole)
    pq.write_table(pa.table({"row": [3, 2], "why": ["x", "y"], "size": [80, 70]}), part)
    with sql.connect() as connection:
        found = connection.execute(f"SELECT * FROM {sql.completed(part, whole, 'row')}")
        assert [name for name, *_ in found.description or []] == ["row", "why", "size", "caption"]
        assert found.fetchall() == [(2, "y", 70, None), (3, "x", 80, "d")]
    part.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"part\.parquet cannot be read: .*"):
        sql.completed(part, whole, "row")
    whole.unlink()
    part.unlink()
    for missing in (part, whole):
        with pytest.raises(DataError, match=rf"{missing.name} is gone"):
            sql.completed(part, whole, "row")
        pq.write_table(pa.table({"row": [0]}), missing)


FULL = """
import resource, sys
from pathlib import Path
from prep import sql
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
target = Path(sys.argv[1])
try:
    with sql.connect(target) as connection, sql.data_errors("the samples"):
        sql.copy_to_parquet(connection, "SELECT hash(range) AS x FROM range(1_000_000)", target, {})
except OSError as error:
    print(error)
"""


def test_no_room_is_no_damaged_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "shard.parquet")], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"[Errno {errno.EFBIG}] File too large: 'the samples'\n"
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(OSError, match="the samples") as caught, sql.data_errors("the samples"):
            raise duckdb.IOException(f"IO Error: Could not write file: {os.strerror(number)}")
        assert caught.value.errno == number


def test_literals_and_names_are_quoted() -> None:
    assert (sql.text("it's"), sql.name('a"b')) == ("'it''s'", '"a""b"')


def test_a_failed_copy_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "shard.parquet"
    with sql.connect(target) as connection:
        with pytest.raises(DataError, match=r"the samples: .*not a number"), sql.data_errors("the samples"):
            sql.copy_to_parquet(connection, "SELECT CAST('not a number' AS INTEGER) AS x", target, {})
        assert list(tmp_path.iterdir()) == []
    with sql.connect(target) as connection:
        assert sql.copy_to_parquet(connection, "SELECT 1 AS x", target, {sql.TASK_KEY: "it's"}) == 1
    assert pq.read_metadata(target).metadata[sql.TASK_KEY.encode()] == b"it's"
