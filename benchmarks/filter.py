"""How fast `prep filter` is, and how much memory it takes, beside DuckDB's bare COPY, Polars and pandas.

python benchmarks/filter.py [--rows 5000000 20000000 200000000] [--pandas 20000000] [--all 20000000] [--folder FOLDER]

Needs polars, for pandas 0.43 GB of memory for each million rows, and in FOLDER 1.2 GB and 30 MB more for each million.
Samples have LAION's columns, as `prep normalize` leaves them; every client reads the same files with one thread and
keeps the rows of the same three rules. pandas is used as the trainer's loader uses it: the trainer's columns of the
whole table at once, then the cut; of more rows than `--pandas` it is left out, and of more than `--all` all but `prep
filter` and the bare COPY. Writes benchmarks/results/filter.md. Aims: within 1.15 times bare DuckDB; 8 times as fast as
pandas at a tenth of its memory; memory the same whatever the number of rows, below 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import duckdb
from normalize import PREP, Run, measure, say

from prep.files import hash_file
from prep.manifest import Manifest, Shard, write_manifest

SHARD_ROWS = 2_500_000
RESULT = Path(__file__).parent / "results" / "filter.md"
CUTOFF, SIDE, WHERE = 5.5, 512, "punsafe < 0.5 AND pwatermark < 0.8"
RULES = f"fltLaionAesthScore > {CUTOFF} AND intWidth >= {SIDE} AND intHeight >= {SIDE}"
SAMPLES = """
    COPY (
        SELECT 'part-{part:05d}.snappy.parquet#' || i AS key, i AS row, sha256(url) AS image_key, url,
               array_to_string(list_transform(range(4 + (hash(i + 1) % 14)::BIGINT),
                   lambda n: words[(1 + hash(i * 31 + n) % 4000)::BIGINT]), ' ') AS caption,
               (4 + 3 * random())::FLOAT::DOUBLE AS fltLaionAesthScore,
               (200 + hash(i + 2) % 1400)::INTEGER AS intHeight, (200 + hash(i + 3) % 1400)::INTEGER AS intWidth,
               random()::FLOAT AS similarity, random()::FLOAT AS punsafe, random()::FLOAT AS pwatermark,
               (hash(i + 4) >> 1)::BIGINT AS hash, CAST(NULL AS VARCHAR) AS drop_reason
        FROM (SELECT i, words, 'https://images.' || words[(1 + hash(i) % 4000)::BIGINT] || '.com/' || hash(i + 5) % 9999
                     || '/' || words[(1 + hash(i + 6) % 4000)::BIGINT] || '-' || i || '.jpg' AS url
              FROM (SELECT range AS i FROM range({rows})),
                   (SELECT list(substr(md5(n::VARCHAR), 1, (3 + n % 8)::INTEGER)) AS words FROM range(4000) t(n)))
    ) TO '{path}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE_BYTES '4MB')
"""
DATASET = {
    "name": "bench",
    "source": {"kind": "local", "path": "."},
    "images": {"kind": "url"},
    "tables": {
        "bench": {
            "kind": "text-to-image",
            "records": {"format": "parquet", "parts": "*.parquet"},
            "select": {name: name for name in ("caption", "fltLaionAesthScore", "intHeight", "intWidth")},
            "extra": {name: name for name in ("similarity", "punsafe", "pwatermark", "hash")},
        }
    },
}


# -- the files -------------------------------------------------------------------------------------------------------


def make_samples(folder: Path, shards: int) -> None:
    """A workspace whose table has been normalized into some shards; all but the first four are links to those."""
    samples = folder / "normalized" / "bench.parquet"
    samples.mkdir(parents=True)
    (folder / "datasets").mkdir()
    (folder / "datasets" / "bench.yaml").write_text(json.dumps(DATASET))
    (folder / "recipe.yaml").write_text(json.dumps({"name": "bench", "entries": [{"table": "bench"}]}))
    (folder / "prep.yaml").write_text(json.dumps({"recipe": "recipe.yaml", "workers": 1}))
    made: list[Shard] = []
    counts = dict.fromkeys(("caption", "fltLaionAesthScore", "intHeight", "intWidth", "url"), SHARD_ROWS)
    with duckdb.connect() as connection:
        connection.execute("SELECT setseed(0.5)")
        for number in range(shards):
            path = samples / f"shard-{number:05d}.parquet"
            if number < 4:
                connection.execute(SAMPLES.format(part=number, rows=SHARD_ROWS, path=path))
            else:
                os.link(samples / made[number % 4].name, path)
            sha256 = hash_file(path) if number < 4 else made[number % 4].sha256
            made.append(Shard(path.name, f"bench {number}", SHARD_ROWS, path.stat().st_size, sha256, counts))
    facts = {"dataset": "bench", "kind": "text-to-image", "parts": [f"part-{number:05d}" for number in range(shards)]}
    write_manifest(samples, Manifest("normalize", tuple(made), facts))


# -- the clients -----------------------------------------------------------------------------------------------------

DUCKDB = f"""
import sys, duckdb
connection = duckdb.connect(config={{"threads": 1}})
connection.execute("SET enable_progress_bar = false")
for number, shard in enumerate(sys.argv[2:]):
    for name, wanted in ("kept", ""), ("dropped", "NOT"):
        if name in sys.argv[1]:
            connection.execute(
                f"COPY (SELECT * FROM '{{shard}}' WHERE {{wanted}} ({RULES} AND {WHERE})) "
                f"TO '{{name}}-{{number}}.parquet' (FORMAT parquet, COMPRESSION zstd)")
"""
POLARS = f"""
import sys
import polars as pl
rules = ((pl.col("fltLaionAesthScore") > {CUTOFF}) & (pl.col("intWidth") >= {SIDE}) & (pl.col("intHeight") >= {SIDE})
         & (pl.col("punsafe") < 0.5) & (pl.col("pwatermark") < 0.8))
for number, shard in enumerate(sys.argv[1:]):
    pl.scan_parquet(shard).filter(rules).sink_parquet(f"kept-{{number}}.parquet", compression="zstd")
"""
PANDAS = f"""
import sys
import pandas as pd
frame = pd.read_parquet(sys.argv[1], columns=["caption", "url", "fltLaionAesthScore", "intHeight", "intWidth",
                                              "punsafe", "pwatermark"])
frame = frame[frame["fltLaionAesthScore"] > {CUTOFF}]
frame = frame[(frame["intHeight"] >= {SIDE}) & (frame["intWidth"] >= {SIDE})]
print(len(frame[(frame["punsafe"] < 0.5) & (frame["pwatermark"] < 0.8)]))
"""
OURS = [PREP, "filter", "--force", "--aes-cutoff", str(CUTOFF), "--min-size", str(SIDE)]
WITH_WHERE = [*OURS, "--where", WHERE]


@dataclass(frozen=True)
class Client:
    """A command that is measured.

    Attributes:
        is_ours: it works in the workspace.
        most: rows, at most.
    """

    name: str
    command: tuple[str, ...]
    is_ours: bool = False
    most: int | None = None


OUR_NAME = "`prep filter`"
KEPT_NAME, BOTH_NAME = "DuckDB's COPY of the kept rows", "DuckDB's COPY of kept and of dropped rows"
PANDAS_NAME = "pandas, kept rows, none written"


def clients(shards: Sequence[Path], pandas_rows: int, all_rows: int) -> list[Client]:
    """Every client, for samples in these files."""
    paths = tuple(map(str, shards))
    python = (sys.executable, "-c")
    return [
        Client(OUR_NAME, tuple(WITH_WHERE), is_ours=True),
        Client("`prep filter --memory 500MB`", (*WITH_WHERE, "--memory", "500MB"), is_ours=True, most=all_rows),
        Client("`prep filter --sample 1%`", (*WITH_WHERE, "--sample", "1%"), is_ours=True, most=all_rows),
        Client("`prep filter --sample 200000`", (*WITH_WHERE, "--sample", "200000"), is_ours=True, most=all_rows),
        Client(KEPT_NAME, (*python, DUCKDB, "kept", *paths)),
        Client(BOTH_NAME, (*python, DUCKDB, "kept dropped", *paths), most=all_rows),
        Client("Polars, kept rows", (*python, POLARS, *paths), most=all_rows),
        Client(PANDAS_NAME, (*python, PANDAS, str(shards[0].parent)), most=pandas_rows),
    ]


def bench(rows: int, pandas_rows: int, all_rows: int, folder: Path) -> dict[str, Run]:
    """One run of each client over about so many rows; the files are warm in the page cache from their making."""
    workspace, peer = folder / "workspace", folder / "peer"
    say(f"{rows:,} rows: making the files ...")
    make_samples(workspace, rows // SHARD_ROWS)
    shards = sorted((workspace / "normalized" / "bench.parquet").glob("*.parquet"))
    found = {}
    for client in clients(shards, pandas_rows, all_rows):
        if client.most is not None and rows > client.most:
            continue
        if client.is_ours:
            (workspace / "rules.yaml").unlink(missing_ok=True)
        peer.mkdir()
        run = found[client.name] = measure(client.command, workspace if client.is_ours else peer)
        say(f"{client.name}: {run.seconds:.1f} s, CPU {run.cpu_seconds:.1f} s, {run.memory_mb:.0f} MB")
        shutil.rmtree(peer)
    size = sum(shard.stat().st_size for shard in shards)
    shutil.rmtree(workspace)
    say(f"{size / 1e9:.1f} GB of samples")
    return found


# -- the page --------------------------------------------------------------------------------------------------------


def report(results: dict[int, dict[str, Run]]) -> str:
    """The results page."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "polars", "pandas", "pyarrow"))
    lines = [
        "# Filter: beside DuckDB's COPY, Polars and pandas",
        "",
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{versions}; one thread each, shards of {SHARD_ROWS:,} rows (beyond four the same four over and over), one "
        "run, page cache warm; whole processes, memory of the largest one. The machine is shared: CPU seconds tell "
        "more than the clock. `prep filter` writes the kept rows, the number, key and reason of every dropped one, "
        "hashes what it kept, and writes its manifest; of the peers only DuckDB writes dropped rows, whole, where it "
        "says so. Written by `python benchmarks/filter.py`.",
        "",
        f"Rules: `aes_cutoff: {CUTOFF}`, `min_size: {SIDE}`, `where: {WHERE}`.",
    ]
    for rows, runs in results.items():
        lines += ["", f"## {rows:,} rows", "", "| | wall s | CPU s | rows per CPU s | memory |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for name, run in runs.items():
            rate = f"{rows / run.cpu_seconds:,.0f}"
            lines.append(f"| {name} | {run.seconds:.1f} | {run.cpu_seconds:.1f} | {rate} | {run.memory_mb:.0f} MB |")
    return "\n".join([*lines, "", "## Aims", "", *aims(results)]) + "\n"


def aims(results: dict[int, dict[str, Run]]) -> list[str]:
    """Whether each aim is met; times are CPU seconds."""
    largest = max(results)
    most = max(rows for rows, runs in results.items() if BOTH_NAME in runs)
    ours, runs = results[most][OUR_NAME], results[most]
    both, kept = (ours.cpu_seconds / runs[name].cpu_seconds for name in (BOTH_NAME, KEPT_NAME))
    compared = max(rows for rows, runs in results.items() if PANDAS_NAME in runs)
    pandas, beside = results[compared][PANDAS_NAME], results[compared][OUR_NAME]
    speed, memory = pandas.cpu_seconds / beside.cpu_seconds, beside.memory_mb / pandas.memory_mb
    peaks = [runs[OUR_NAME].memory_mb for runs in results.values()]
    return [
        f"- {most:,} rows: {both:.2f} times a COPY of kept and dropped rows, {kept:.2f} times one of the kept rows "
        f"alone; at most 1.15: {met(both <= 1.15)} and {met(kept <= 1.15)}.",
        f"- {compared:,} rows: {speed:.1f} times as fast as pandas, which writes nothing, at {100 * memory:.0f} % of "
        f"its memory; at least 8 and at most 10: {met(speed >= 8)} and {met(memory <= 0.1)}.",
        f"- Memory from {min(results):,} to {largest:,} rows: {min(peaks):.0f} to {max(peaks):.0f} MB; flat: "
        f"{met(max(peaks) <= 1.1 * min(peaks))}.",
        f"- {largest:,} rows under 2 GB: {met(results[largest][OUR_NAME].memory_mb < 2000)}.",
    ]


def met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def main() -> None:
    """Run every case, and write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000_000, 20_000_000, 200_000_000])
    parser.add_argument("--pandas", type=int, default=20_000_000)
    parser.add_argument("--all", type=int, default=20_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    os.environ["POLARS_MAX_THREADS"] = "1"
    results = {}
    for rows in given.rows:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            results[rows] = bench(rows, given.pandas, given.all, Path(folder))
            given.output.write_text(report(results), encoding="utf-8")


if __name__ == "__main__":
    main()
