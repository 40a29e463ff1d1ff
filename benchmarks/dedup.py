"""How fast `prep dedup` is and what memory it takes, and how many near duplicates it finds.

python benchmarks/dedup.py [--rows 100000000] [--quick] [--folder FOLDER]

A table of addresses with COYO's columns is made as `prep filter` would leave it: of its rows a quarter has the address
of another, and a tenth a perceptual hash at most 2 bits from another's. Whole processes are measured: the memory is
that of all of them together, asked for five times a second. Beside it DuckDB alone, with the same memory, groups the
same addresses. Near duplicates are looked for in a made set with known answers. Needs some 250 bytes of disk a row in
FOLDER. Writes benchmarks/results/dedup.md, unless it is a quick run. Aim: 100 million keys in less than 2 GB.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import duckdb
import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageEnhance

from prep.files import hash_file
from prep.images.phash import phash
from prep.manifest import Manifest, Shard, write_manifest

ROWS, PARTS = 100_000_000, 8
PICTURES = 1_000
MAX_MEMORY_MB = 2_000
RESULT = Path(__file__).parent / "results" / "dedup.md"
PREP = str(Path(sys.executable).parent / "prep")

# -- the table -------------------------------------------------------------------------------------------------------

SAMPLES = """
    SELECT 'part-{part:05d}.parquet#' || (i - {first}) AS key, i - {first} AS row,
           'https://cdn.site-' || same % 4_001 || '.com/s/files/1/' || same || '/products/a-picture-of-something.jpg'
               AS url,
           'a picture of something, number ' || i AS caption, 5 + (hash(i) % 300) / 100.0 AS fltLaionAesthScore,
           200 + (hash(i + 2) % 1_400)::INTEGER AS intHeight, 200 + (hash(i + 3) % 1_400)::INTEGER AS intWidth,
           CAST(NULL AS VARCHAR) AS s3_path, printf('%016x', look) AS image_phash
    FROM (SELECT i, CASE WHEN hash(i + 1) % 4 = 0 THEN hash(i + 5) % {rows} ELSE i END AS same,
                 CASE WHEN hash(i + 7) % 10 = 0
                      THEN xor(hash(hash(i + 8) % {rows}),
                               (1::UBIGINT << (hash(i + 9) % 64)) | (1::UBIGINT << (hash(i + 10) % 64)))
                      ELSE hash(i) END AS look
          FROM range({first}, {end}) t(i))
"""


def make_table(root: Path, rows: int) -> None:
    """A workspace whose one table is filtered, as far as its manifests tell."""
    (root / "datasets").mkdir(parents=True)
    (root / "prep.yaml").write_text("recipe: recipe.yaml\n")
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "entries": [{"table": "t"}]}))
    table = {
        "kind": "text-to-image",
        "records": {"format": "parquet", "parts": "*.parquet"},
        "select": {"caption": "text"},
        "extra": {"image_phash": "image_phash"},
        "scores": {},
    }
    dataset = {"name": "t", "source": {"kind": "local", "path": "."}, "images": {"kind": "url"}, "tables": {"t": table}}
    (root / "datasets" / "t.yaml").write_text(yaml.safe_dump(dataset))
    columns = ["s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth"]
    shards: dict[str, list[Shard]] = {"normalized": [], "filtered": []}
    with duckdb.connect() as connection:
        for part in range(PARTS):
            first, end = rows * part // PARTS, rows * (part + 1) // PARTS
            samples = SAMPLES.format(part=part, first=first, end=end, rows=rows)
            for folder, query in {
                "normalized": f"SELECT row, image_phash FROM ({samples})",
                "filtered": f"SELECT * EXCLUDE (image_phash) FROM ({samples})",
                "dropped": f"SELECT *, '' AS reason FROM ({samples}) WHERE false",
            }.items():
                path = root / folder / "t.parquet" / f"shard-{part:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
                if folder in shards:
                    counts = {"image_phash": end - first}
                    shards[folder].append(
                        Shard(path.name, f"{part}", end - first, path.stat().st_size, hash_file(path), counts)
                    )
    parts = [f"part-{part:05d}.parquet" for part in range(PARTS)]
    facts = {"dataset": "t", "kind": "text-to-image"}
    of_normalize = facts | {"parts": parts}
    write_manifest(root / "normalized/t.parquet", Manifest("normalize", tuple(shards["normalized"]), of_normalize))
    of_filter = facts | {"columns": columns, "rules": {}, "has_images": False, "rows_in": rows}
    write_manifest(root / "filtered/t.parquet", Manifest("filter", tuple(shards["filtered"]), of_filter))


# -- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One command: what it took, and what it said."""

    wall: float
    cpu: float
    memory_mb: float
    said: str


def measure(command: Sequence[str], cwd: Path) -> Run:
    """Run a command and add up the memory of its processes meanwhile."""
    started = time.monotonic()
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True) as process:
        most, cpu = 0.0, dict[int, float]()
        while process.poll() is None:
            most = max(most, _memory_mb(process.pid, cpu))
            time.sleep(0.2)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(time.monotonic() - started, sum(cpu.values()), most, said)


def _memory_mb(root: int, cpu: dict[int, float]) -> float:
    """Memory of a process and all below it, without what comes from files; notes the CPU seconds of each in `cpu`."""
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        seconds[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        cpu[pid] = seconds.get(pid, 0.0)
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
        except (OSError, StopIteration):
            continue
    return total / 1_000


DUCKDB = """
import duckdb, sys
limits = {{"memory_limit": "{memory}MB", "temp_directory": "{folder}/spill", "threads": {threads}}}
connection = duckdb.connect(config=limits)
connection.execute("SET enable_progress_bar = false")
best = "arg_min(key, struct_pack(s := -fltLaionAesthScore, p := -intHeight * intWidth, k := key))"
groups = f"SELECT url, count(*) AS n, {{best}} FROM '{folder}/filtered/t.parquet/*.parquet' GROUP BY url"
print("{{}} duplicates".format(connection.execute(f"SELECT sum(n - 1) FROM ({{groups}})").fetchall()[0][0]))
"""


# -- near duplicates ---------------------------------------------------------------------------------------------------


def scene(seed: int, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """A picture of soft light, shapes and lines, other for every seed."""
    numbers = random.Random(seed)
    light = np.random.default_rng(seed).integers(0, 256, (3, 5, 6), dtype=np.uint8)
    image = Image.merge("RGB", [Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC) for plane in light])
    draw = ImageDraw.Draw(image)
    for _ in range(numbers.randrange(4, 20)):
        x, y = numbers.randrange(-40, size[0]), numbers.randrange(-40, size[1])
        wide, high = numbers.randrange(15, 260), numbers.randrange(15, 260)
        colour = tuple(numbers.randrange(256) for _ in range(3))
        numbers.choice([draw.ellipse, draw.rectangle])((x, y, x + wide, y + high), fill=colour)
        draw.line((x, y, numbers.randrange(size[0]), numbers.randrange(size[1])), fill=colour, width=3)
    return image


def encoded(image: Image.Image, format_: str = "JPEG", **options: int) -> bytes:
    data = io.BytesIO()
    image.save(data, format_, **options)
    return data.getvalue()


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without so much of each side."""
    wide, high = (round(length * share) for length in image.size)
    return image.crop((wide, high, image.width - wide, image.height - high))


def resized(image: Image.Image, times: float) -> Image.Image:
    return image.resize((round(image.width * times), round(image.height * times)), Image.Resampling.LANCZOS)


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG, quality 75": lambda image: encoded(image, quality=75),
    "JPEG, quality 30": lambda image: encoded(image, quality=30),
    "WebP, quality 50": lambda image: encoded(image, "WEBP", quality=50),
    "PNG": lambda image: encoded(image, "PNG"),
    "half the size": lambda image: encoded(resized(image, 0.5), quality=85),
    "a fifth of the size": lambda image: encoded(resized(image, 0.2), quality=85),
    "one and a half of the size": lambda image: encoded(resized(image, 1.5), quality=85),
    "10 % brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.1), quality=85),
    "1 % cropped from each side": lambda image: encoded(cropped(image, 0.01), quality=85),
    "3 % cropped from each side": lambda image: encoded(cropped(image, 0.03), quality=85),
    "mirrored": lambda image: encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=85),
}
DISTANCES = (0, 2, 4, 6, 8, 10)


def near_duplicates(pictures: int) -> list[str]:
    """A Markdown table: of each change how many are found, and of what is found how much is right."""
    originals = [scene(number) for number in range(pictures)]
    own = np.array([phash(encoded(image, quality=95)) for image in originals], dtype=np.uint64)
    lines = [
        "| what was done to the picture | " + " | ".join(f"distance {distance}" for distance in DISTANCES) + " |",
        "| --- |" + " --- |" * len(DISTANCES),
    ]
    hashes = [own]
    for name, change in CHANGES.items():
        changed = np.array([phash(change(image)) for image in originals], dtype=np.uint64)
        far = np.bitwise_count(own ^ changed)
        lines.append(f"| {name} | " + " | ".join(f"{np.mean(far <= d):.1%}" for d in DISTANCES) + " |")
        hashes += [changed] if name != "mirrored" else []
    every, which = np.concatenate(hashes), np.tile(np.arange(pictures), len(hashes))
    right, wrong = np.zeros(65, dtype=np.int64), np.zeros(65, dtype=np.int64)
    for number in range(len(every)):
        far = np.bitwise_count(every[number + 1 :] ^ every[number])
        is_same = which[number + 1 :] == which[number]
        right += np.bincount(far[is_same], minlength=65)
        wrong += np.bincount(far[~is_same], minlength=65)
    shares = [right[: d + 1].sum() / max(1, right[: d + 1].sum() + wrong[: d + 1].sum()) for d in DISTANCES]
    lines.append("| **precision**: pairs found of one picture | " + " | ".join(f"{s:.3%}" for s in shares) + " |")
    pairs = [f"{wrong[: d + 1].sum():,} of {wrong.sum():,}" for d in DISTANCES]
    return [*lines, "| pairs of different pictures found | " + " | ".join(pairs) + " |"]


# -- the run ----------------------------------------------------------------------------------------------------------


def run(rows: int, pictures: int, folder: Path) -> list[str]:
    """Everything, as Markdown."""
    lines = [
        "| | wall s | CPU s | keys/s | keys/CPU s | memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    make_table(folder, rows)
    found = []

    def tell(what: str, result: Run) -> None:
        speed = "|" if "nothing" in what else f"{rows / result.wall:,.0f} | {rows / max(result.cpu, 0.01):,.0f}"
        lines.append(f"| {what} | {result.wall:.1f} | {result.cpu:.1f} | {speed} | {result.memory_mb:,.0f} MB |")
        print(lines[-1], result.said.strip().replace("\n", "; "), flush=True)
        found.append(f"- {what}: {' '.join(result.said.split())}")

    threads = len(os.sched_getaffinity(0))
    script = DUCKDB.format(memory=MAX_MEMORY_MB, folder=folder, threads=threads)
    tell("DuckDB groups the addresses", measure([sys.executable, "-c", script], folder))
    for by, more in (("url", []), ("phash", ["--distance", "4"])):
        command = [PREP, "dedup", "--reset", "--by", by, *more]
        tell(f"`{' '.join(['prep', *command[1:2], *command[3:]])}`", measure(command, folder))
    tell("the same, nothing to do", measure([PREP, "dedup"], folder))
    most = max(float(line.split("|")[-2].replace(",", "").split()[0]) for line in lines[3:])
    verdict = "met" if most < MAX_MEMORY_MB else "**missed**"
    return [
        f"## {rows:,} keys in {PARTS} shards",
        "",
        *lines,
        "",
        f"At most {MAX_MEMORY_MB:,} MB: {most:,.0f} MB, {verdict}. What was found:",
        "",
        *found,
        "",
        f"## Near duplicates among {pictures:,} made pictures",
        "",
        "Share of the changed pictures within the distance of the original (a JPEG of quality 95):",
        "",
        *near_duplicates(pictures),
    ]


def main() -> None:
    """Run every case, and write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--quick", action="store_true", help="little data; nothing is written")
    parser.add_argument("--folder", type=Path, help="where to make the table; by default a temporary one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        rows, pictures = (200_000, 50) if options.quick else (options.rows, PICTURES)
        lines = run(rows, pictures, folder / "workspace")
    finally:
        shutil.rmtree(folder)
    about = (
        f"{len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, "
        f"duckdb {version('duckdb')}, numpy {version('numpy')}, pillow {version('pillow')}. "
        "Whole processes, CPU and memory (without pages of files) of all of them together, one run each. Written by "
        "`python benchmarks/dedup.py`."
    )
    text = "\n".join(["# Dedup: time, memory, and what is found", "", about, "", *lines, ""])
    print(text)
    if not options.quick:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
