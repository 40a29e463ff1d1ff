"""How fast `prep normalize` is beside DuckDB's bare COPY, ijson and tar, one worker each.

python benchmarks/normalize.py [--quick] [--runs 3] [--only parquet|json|tar] [--folder FOLDER]

Needs GNU tar and about 16 GB in FOLDER. Datasets are those of the catalogue (coyo-700m, mammoth-vl,
blip3o-short-caption), their files made here. Clients run in turn, each as a whole process; the page cache is warm.
Writes benchmarks/results/normalize.md, unless it is a quick run or one of a single part. Aims: at most 1.3 times the
time of DuckDB's COPY of the same columns, 2 times that of ijson over the same array, 2 times that of tar's listing;
a list of 5 GB in at most 300 MB.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import duckdb
import yaml

ROWS, PARTS = 20_000_000, 4
CONVERSATIONS = 1_000_000
LIST_BYTES = 5_000_000_000
PAIRS = 50_000
PICTURE_BYTES = 20_000
MAX_MEMORY_MB = 300
DATASETS = Path(__file__).parent.parent / "configs" / "datasets"
RESULT = Path(__file__).parent / "results" / "normalize.md"
PREP = str(Path(sys.executable).parent / "prep")

# -- what is normalized ----------------------------------------------------------------------------------------------

WORDS = [
    "".join(random.Random(number).choices("etaoinshrdlucmfwypvbgk", k=2 + number % 8)) for number in range(4_000)
] + ["école", "naïve", "数学", "\\frac{a}{b}", '"quoted"', "\n", "\n\n**Step 1:**", "[1, 2]", "{x}", "&amp;#39;"]

COYO = """
    COPY (
        SELECT i AS id,
               'https://cdn.' || site || '.com/s/files/1/' || (i * 7919) % 10_000_000 || '/products/'
                   || replace(replace(text, ' ', '-'), '\n', '') || '_' || i || '.jpg?v=' || hash(i) % 2_000_000_000
                   AS url,
               text, 200 + (hash(i + 2) % 1_400)::INTEGER AS width, 200 + (hash(i + 3) % 1_400)::INTEGER AS height,
               printf('%016x', hash(i + 4)) AS image_phash, length(text)::INTEGER AS text_length,
               (1 + length(text) // 6)::INTEGER AS word_count, (3 + length(text) // 4)::INTEGER AS num_tokens_bert,
               (3 + length(text) // 4)::INTEGER AS num_tokens_gpt, (hash(i + 5) % 3)::INTEGER AS num_faces,
               (random() * 0.4)::FLOAT AS clip_similarity_vitb32, (random() * 0.4)::FLOAT AS clip_similarity_vitl14,
               (random() * 0.5)::FLOAT AS nsfw_score_opennsfw2, (random() * 0.5)::FLOAT AS nsfw_score_gantman,
               random()::FLOAT AS watermark_score, (2 + random() * 5)::FLOAT AS aesthetic_score_laion_v2
        FROM (SELECT range AS i, words[(1 + hash(i) % len(words))::BIGINT] AS site,
                     array_to_string(list_transform(range(3 + (hash(i + 1) % 16)::BIGINT),
                                     lambda n: words[(1 + hash(i * 31 + n) % len(words))::BIGINT]), ' ') AS text
              FROM range({first}, {end}), (SELECT {words} AS words))
    ) TO '{path}' (FORMAT parquet, COMPRESSION snappy)
"""


def make_parquet(folder: Path, rows: int) -> None:
    """COYO's columns in `PARTS` parts: addresses and alt-texts of made-up words, random scores."""
    (folder / "data").mkdir(parents=True)
    words = "[" + ", ".join("'" + word.replace("'", "''") + "'" for word in WORDS) + "]"
    with duckdb.connect() as connection:
        connection.execute("SELECT setseed(0.5)")
        for number in range(PARTS):
            first, end = rows * number // PARTS, rows * (number + 1) // PARTS
            path = folder / "data" / f"part-{number:05d}.snappy.parquet"
            connection.execute(COYO.format(first=first, end=end, words=words, path=path))


def make_list(path: Path, count: int | None, size: int = 0) -> None:
    """A list like MAmmoTH-VL's, a dialogue of about 2 kB to a line: `count` of them, or some `size` bytes."""
    path.parent.mkdir(parents=True)
    numbers = random.Random(0)
    prose = " ".join(numbers.choices(WORDS, k=3_000_000))
    with path.open("w", encoding="utf-8") as out:
        number = 0
        while out.tell() < size if count is None else number < count:
            turns = _dialogue(prose, numbers)
            image = {} if number % 20 == 0 else {"image": f"LLaVA-OneVision-Data/geo170k/{number:08d}.png"}
            if image:
                turns[0]["value"] = f"<image>\n{turns[0]['value']}"
            item = {"id": f"geo_{number}", **image, "conversations": turns, "source": "geo170k"}
            out.write((",\n" if number else "[\n") + json.dumps(item))
            number += 1
        out.write("\n]\n")


def _dialogue(prose: str, numbers: random.Random) -> list[dict[str, str]]:
    turns = []
    for _ in range(numbers.choice([1, 1, 2, 3])):
        for role, least, most in (("human", 50, 250), ("gpt", 250, 1_600)):
            start = numbers.randrange(len(prose) - most)
            turns.append({"from": role, "value": prose[start : start + numbers.randint(least, most)]})
    return turns


def make_tar(path: Path, pairs: int) -> None:
    """A WebDataset shard of pictures, here of no content, and captions."""
    path.parent.mkdir(parents=True)
    numbers = random.Random(0)
    with tarfile.open(path, "w") as tar:
        for number in range(pairs):
            caption = " ".join(numbers.choices(WORDS, k=20)).encode()
            for name, data in (("jpg", bytes(PICTURE_BYTES)), ("txt", caption)):
                header = tarfile.TarInfo(f"{number:09d}.{name}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


# -- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What one command took, its children included; memory is its largest process's."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


# Runs a command and prints what it took. From a process of its own, because a child counts the memory of the process
# it was forked from.
MEASURE = """
import json, os, sys, time
started = time.perf_counter()
process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    (os.POSIX_SPAWN_DUP2, 1, 2),
])
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - started
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000]))
"""


def measure(command: Sequence[str], folder: Path) -> Run:
    """Run a command in `folder`."""
    os.sync()
    log = folder.parent / "log.txt"
    launcher = [sys.executable, "-I", "-S", "-c", MEASURE, str(log), *command]
    # Modules that are compiled already are found so, as those of an installed program are.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(launcher, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    code, *figures = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)[:200]} ends with {code}:\n{log.read_text()[-3000:]}")
    return Run(*figures)


def make_workspace(folder: Path, source: Path, dataset: str) -> None:
    """A workspace of the first table of a dataset in the catalogue, its files those in `source`, downloaded."""
    content = yaml.safe_load((DATASETS / f"{dataset}.yaml").read_text(encoding="utf-8"))
    table = next(iter(content["tables"].values()))
    content |= {"name": "bench", "source": {"kind": "local", "path": str(source)}, "tables": {"bench": table}}
    content.pop("expected", None)
    (folder / "datasets").mkdir(parents=True)
    (folder / "datasets" / "bench.yaml").write_text(json.dumps(content), encoding="utf-8")
    (folder / "recipe.yaml").write_text(json.dumps({"name": "bench", "entries": [{"table": "bench"}]}))
    (folder / "prep.yaml").write_text(json.dumps({"recipe": "recipe.yaml", "workers": 1}), encoding="utf-8")
    measure([PREP, "download"], folder)


def check_rows(folder: Path, rows: int) -> None:
    """Stop unless the samples of a workspace are `rows`, none of them dropped."""
    files = f"read_parquet('{folder}/normalized/*.parquet/*.parquet')"
    found = duckdb.execute(f"SELECT count(*), count(drop_reason) FROM {files}").fetchall()
    if found != [(rows, 0)]:
        raise SystemExit(f"{folder}: {found} rows and dropped rows, not {rows} and none")


# -- the peers -------------------------------------------------------------------------------------------------------

COPY = """
import sys, duckdb
connection = duckdb.connect(config={"threads": 1})
connection.execute("SET enable_progress_bar = false")
for number, part in enumerate(sys.argv[1:]):
    connection.execute(
        f"COPY (SELECT url, text, aesthetic_score_laion_v2, width, height, watermark_score, clip_similarity_vitb32, "
        f"clip_similarity_vitl14, nsfw_score_opennsfw2, image_phash FROM '{part}') "
        f"TO 'copy-{number}.parquet' (FORMAT parquet, COMPRESSION zstd)")
"""
IJSON = """
import sys
import ijson.backends.yajl2_c as ijson
with open(sys.argv[1], "rb") as file:
    print(sum(1 for _ in ijson.items(file, "item", use_float=True)))
"""


@dataclass(frozen=True)
class Case:
    """Files of one dataset and the command that `prep normalize` is compared with.

    Attributes:
        aim: how many times the peer's time `prep` may take; None where only memory counts.
        is_flat: memory is to stay under `MAX_MEMORY_MB`.
    """

    name: str
    dataset: str
    rows: int
    make: Callable[[Path], None]
    peer: str
    command: Callable[[Path], list[str]]
    aim: float | None
    is_flat: bool = False


def parquet_case(rows: int) -> Case:
    return Case(
        f"Parquet: {rows:,} rows of COYO's columns in {PARTS} parts",
        "coyo-700m",
        rows,
        lambda folder: make_parquet(folder, rows),
        "DuckDB's COPY of ten columns",
        lambda folder: [sys.executable, "-c", COPY, *map(str, sorted((folder / "data").iterdir()))],
        1.3,
    )


def list_case(name: str, count: int | None, size: int, aim: float | None) -> Case:
    return Case(
        name,
        "mammoth-vl",
        count or 0,
        lambda folder: make_list(folder / "mammoth_si_10M.json", count, size),
        "ijson.items, nothing else",
        lambda folder: [sys.executable, "-c", IJSON, str(folder / "mammoth_si_10M.json")],
        aim,
        is_flat=aim is None,
    )


def tar_case(pairs: int) -> Case:
    return Case(
        f"WebDataset: a tar of {2 * pairs:,} members, {pairs:,} captions",
        "blip3o-short-caption",
        pairs,
        lambda folder: make_tar(folder / "00000.tar", pairs),
        "`tar -tf`",
        lambda folder: ["tar", "-tf", str(folder / "00000.tar")],
        2.0,
    )


@dataclass(frozen=True)
class Result:
    """Runs of one case by client."""

    case: Case
    size_bytes: int
    runs: dict[str, list[Run]]


PREP_NAME = "`prep normalize`"
NOTHING = "`prep normalize`, nothing to do"


def bench(case: Case, runs: int, folder: Path) -> Result:
    """Run `prep` and the peer `runs` times, in turn, after a round of both that warms the file cache."""
    source, workspace = folder / "source", folder / "workspace"
    say(f"{case.name}: making the files ...")
    case.make(source)
    make_workspace(workspace, source, case.dataset)
    clients = {
        PREP_NAME: ([PREP, "normalize", "--force"], workspace),
        NOTHING: ([PREP, "normalize"], workspace),
        case.peer: (case.command(source), folder / "peer"),
    }
    (folder / "peer").mkdir()
    results: dict[str, list[Run]] = {client: [] for client in clients}
    for number in range(runs + 1):
        for client, (command, where) in clients.items():
            run = measure(command, where)
            say(f"{client}: {run.seconds:.2f} s, CPU {run.cpu_seconds:.2f} s, {run.memory_mb:.0f} MB")
            if number:
                results[client].append(run)
    if case.rows:
        check_rows(workspace, case.rows)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    for used in (source, workspace, folder / "peer"):
        shutil.rmtree(used)
    return Result(case, size, results)


# -- the page --------------------------------------------------------------------------------------------------------


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def median(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return statistics.median(map(value, runs))


def spread(runs: Sequence[Run], value: Callable[[Run], float]) -> str:
    values = sorted(map(value, runs))
    return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


def report(results: Sequence[Result], runs: int) -> str:
    """The results page."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "pyarrow", "ijson"))
    lines = [
        "# Normalize: beside DuckDB's COPY, ijson and tar",
        "",
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{versions}; one worker, one thread; page cache warm; medians of {runs} runs in turn, after one to warm up "
        "(fastest to slowest); whole processes, memory of the largest one. The machine is shared: CPU seconds tell "
        "more than the clock. Written by `python benchmarks/normalize.py`.",
    ]
    for result in results:
        lines += ["", f"## {result.case.name}: {result.size_bytes / 1e6:,.0f} MB", ""]
        lines += ["| | wall s | CPU s | rows/s | memory |", "| --- | --- | --- | --- | --- |"]
        for client, found in result.runs.items():
            rate = result.case.rows / median(found, lambda run: run.seconds)
            lines.append(
                f"| {client} | {spread(found, lambda run: run.seconds)} | {spread(found, lambda run: run.cpu_seconds)} "
                f"| {f'{rate:,.0f}' if rate and client != NOTHING else ''} "
                f"| {max(run.memory_mb for run in found):.0f} MB |"
            )
    return "\n".join([*lines, "", "## Aims", "", *map(verdict, results)]) + "\n"


def verdict(result: Result) -> str:
    """Whether one case's aim is met."""
    ours, peer = result.runs[PREP_NAME], result.runs[result.case.peer]
    memory = max(run.memory_mb for run in ours)
    line = f"- {result.case.name}: "
    if result.case.aim is not None:
        clock = median(ours, lambda run: run.seconds) / median(peer, lambda run: run.seconds)
        cpu = median(ours, lambda run: run.cpu_seconds) / median(peer, lambda run: run.cpu_seconds)
        aim = result.case.aim
        line += (
            f"{clock:.2f} times the peer's wall time ({cpu:.2f} times its CPU); at most {aim:g}: {met(clock <= aim)}."
        )
    if result.case.is_flat:
        line += f"{memory:.0f} MB; at most {MAX_MEMORY_MB}: {met(memory <= MAX_MEMORY_MB)}."
    return line


def met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def cases(scale: int) -> dict[str, list[Case]]:
    """What is normalized; a quick run takes fewer rows by `scale`."""
    count, size = CONVERSATIONS // scale, LIST_BYTES // scale
    return {
        "parquet": [parquet_case(ROWS // scale)],
        "json": [
            list_case(f"JSON: a list of {count:,} dialogues", count, 0, 2.0),
            list_case(f"JSON: a list of {size / 1e9:g} GB", None, size, None),
        ],
        "tar": [tar_case(PAIRS // scale)],
    }


def main() -> None:
    """Make the files, run every client over them, write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows, one run, nothing written")
    parser.add_argument("--only", choices=("parquet", "json", "tar"), help="one part; nothing written")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    arguments = parser.parse_args()
    runs = 1 if arguments.quick else arguments.runs
    chosen = cases(20 if arguments.quick else 1)
    results = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for part in [arguments.only] if arguments.only else chosen:
            for case in chosen[part]:
                results.append(bench(case, 1 if case.aim is None else runs, Path(name)))
    page = report(results, runs)
    if not (arguments.quick or arguments.only):
        RESULT.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
