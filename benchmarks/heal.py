"""How fast `prep heal` is, beside the loops that people write.

python benchmarks/heal.py [--rows 1000000] [--runs 3] [--folder FOLDER]

Needs about 6 GB in FOLDER for a million rows and as many small JPEGs. Every case is a whole process; memory is that of
its largest process. Writes benchmarks/results/heal.md. Aim: a million rows and images in under 60 s on 2 cores when
nothing needs decoding, in memory that does not grow with their number.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MAX_SECONDS = 60
SHARES = {  # of a million rows, as in mix665k and ShareGPT4V's captions
    "coco/train2017": 0.3,
    "sam/images": 0.3,
    "llava/llava_pretrain/images": 0.2,
    "vg/VG_100K": 0.1,
    "ocr_vqa/images": 0.1,
}
ANSWER = "The picture shows a street with two people who wait for a bus; behind them is a shop with a red sign. " * 5
RESULT = Path(__file__).parent / "results" / "heal.md"
BIN = Path(sys.executable).parent

# Runs a command and prints what it took, from a process of its own.
MEASURE = """
import json, os, sys, time
started = time.perf_counter()
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)
])
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - started
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000]))
"""
EXISTS = """
import json, os, sys
rows = json.load(open(sys.argv[1]))
missing = [row for row in rows if "image" in row and not os.path.exists(os.path.join(sys.argv[2], row["image"]))]
"""
OPEN = """
import json, os, sys
from PIL import Image
for row in json.load(open(sys.argv[1])):
    try:
        Image.open(os.path.join(sys.argv[2], row["image"])).verify()
    except Exception:
        pass
"""


@dataclass(frozen=True)
class Run:
    """What one whole process took."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


def jpeg() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(target, "JPEG")
    return target.getvalue()


def gif() -> bytes:
    target = io.BytesIO()
    Image.new("P", (32, 32)).save(target, "GIF")
    return target.getvalue()


def names(count: int) -> list[str]:
    """Paths as rows have them."""
    found = []
    for folder, share in SHARES.items():
        for number in range(round(count * share)):
            step = f"{number // 1000:05d}/" if "pretrain" in folder else ""
            found.append(f"{folder}/{step}{number:012d}.jpg")
    return found


def write_rows(path: Path, images: Sequence[str]) -> None:
    with path.open("w") as out:
        out.write("[")
        for number, image in enumerate(images):
            turns = [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": f"{ANSWER}{number}"},
            ]
            row = {"id": str(number), "image": image, "conversations": turns}
            out.write(("," if number else "") + "\n" + json.dumps(row))
        out.write("\n]\n")


def write_images(data: Path, images: Sequence[str]) -> None:
    """Write one file for each path."""
    for folder in {image.rpartition("/")[0] for image in images}:
        (data / folder).mkdir(parents=True)
    for image in images:
        descriptor = os.open(f"{data}/{image}", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, JPEG)
        os.close(descriptor)


def move_deeper(data: Path, images: Sequence[str], *, back: bool = False) -> None:
    """Move every image into a folder of its folder's name, or back."""
    for folder in {data / image.rpartition("/")[0] for image in images}:
        aside = folder.with_name(".aside")
        if back:
            (folder / folder.name).rename(aside)
            folder.rmdir()
            aside.rename(folder)
        else:
            folder.rename(aside)
            folder.mkdir()
            aside.rename(folder / folder.name)


def damage(data: Path, images: Sequence[str]) -> None:
    """Let one image in twenty not be as its row says, in one of ten ways."""
    for number, image in enumerate(images[::20]):
        path, way = data / image, number % 10
        if way == 0:
            path.unlink()
        elif way in (1, 2):
            path.rename(path.with_suffix(".JPG"))
        elif way in (3, 4, 5):
            (path.parent / path.parent.name).mkdir(exist_ok=True)
            path.rename(path.parent / path.parent.name / path.name)
        elif way == 6:
            path.rename(path.with_suffix(".jpeg"))
        elif way == 7:
            path.unlink()
            path.with_suffix(".gif").write_bytes(GIF)
        else:
            path.write_bytes(b"" if way == 8 else JPEG[:-9])


JPEG, GIF = jpeg(), gif()


def measure(command: Sequence[str]) -> Run:
    """Run a command."""
    os.sync()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", MEASURE, *command], stdout=subprocess.PIPE, check=True, text=True
    )
    code, *figures = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)} ends with {code}")
    return Run(*figures)


def bench(folder: Path, count: int, runs: int) -> dict[str, list[Run]]:
    """Every case over one set of files; what changes files is taken back, and so runs once."""
    images = names(count)
    file, data = folder / "rows.json", folder / "data"
    print(f"writing {len(images):,} images ...", file=sys.stderr)
    write_rows(file, images)
    write_images(data, images)
    results: dict[str, list[Run]] = {}

    def time(name: str, command: Sequence[str | Path], times: int = 1) -> None:
        results[name] = [measure([str(word) for word in command]) for _ in range(times)]
        print(f"{name}: {results[name]}", file=sys.stderr)

    heal: list[str | Path] = [BIN / "prep", "heal", "--json", file, "--images", data]
    undo: list[str | Path] = [BIN / "prep", "heal", "--images", data, "--undo"]
    time("all in place: `prep heal`", heal, runs)
    time("all in place: a loop with `os.path.exists`", [sys.executable, "-c", EXISTS, file, data], runs)
    time("all in place: a loop with Pillow's `verify`", [sys.executable, "-c", OPEN, file, data])
    move_deeper(data, images)
    time("every image a folder too deep: `prep heal`", heal, runs)
    time("every image a folder too deep: `prep heal --apply`", [*heal, "--apply"])
    time("every image a folder too deep: `prep heal --undo`", undo)
    move_deeper(data, images, back=True)
    damage(data, images)
    time("1 image in 20 wrong: `prep heal`", heal, runs)
    time("1 image in 20 wrong: `prep heal --apply`", [*heal, "--apply"])
    time("1 image in 20 wrong: `prep heal --undo`", undo)
    return results


def report(results: dict[int, dict[str, list[Run]]]) -> str:
    """The results page."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Heal",
        "",
        f"{cores} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; files of "
        f"{len(JPEG)} bytes that the system had just written, so in its cache; medians, wall time fastest to slowest, "
        "memory of the largest process. Written by `python benchmarks/heal.py`.",
    ]
    for count, cases in results.items():
        lines += ["", f"## {count:,} rows and images", "", "| | wall | CPU | memory |", "| --- | --- | --- | --- |"]
        for name, runs in cases.items():
            walls = [run.seconds for run in runs]
            spread = f" ({min(walls):.1f} to {max(walls):.1f})" if len(walls) > 1 else ""
            lines.append(
                f"| {name} | {statistics.median(walls):.1f} s{spread} | "
                f"{statistics.median(run.cpu_seconds for run in runs):.1f} s | "
                f"{max(run.memory_mb for run in runs):.0f} MB |"
            )
    return "\n".join([*lines, "", "## Aims", "", *verdicts(results)]) + "\n"


def verdicts(results: dict[int, dict[str, list[Run]]]) -> list[str]:
    """Lines that hold the figures of the largest run against the aims."""
    small, large = min(results), max(results)
    lines = []
    for name, runs in results[large].items():
        if name.endswith("`prep heal`"):
            seconds = statistics.median(run.seconds for run in runs)
            before = max(run.memory_mb for run in results[small][name])
            after = max(run.memory_mb for run in runs)
            lines.append(
                f"- {name}: {seconds:.1f} s for {large:,}; the aim is under {MAX_SECONDS}: "
                f"{'met' if seconds < MAX_SECONDS else '**missed**'}. Memory {before:.0f} MB for {small:,}, "
                f"{after:.0f} MB for {large:,}."
            )
    return lines


def main() -> None:
    """Write files, run every case, write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; a temporary folder by default")
    arguments = parser.parse_args()
    results = {}
    for count in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            results[count] = bench(Path(name), count, arguments.runs)
    RESULT.write_text(report(results), encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
