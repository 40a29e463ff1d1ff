"""How long `prep` takes to say hello, and to find that there is nothing to do.

python benchmarks/startup.py [WORKSPACE]

Times `prep --help` against the import of Typer, and a second `prep run` in a demo's workspace (made in a temporary
folder unless one is named). Writes benchmarks/results/startup.md. Aims: help in at most twice the time of the
import, a second run in under 2 seconds.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 10
MAX_RATIO = 2.0
MAX_RUN_SECONDS = 2.0
RESULT = Path(__file__).parent / "results" / "startup.md"
PREP = str(Path(sys.executable).with_name("prep"))


def seconds(command: list[str]) -> list[float]:
    """Wall time of each of `RUNS` runs, after one that warms the file cache."""
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return times[1:]


def make_workspace(folder: Path) -> Path:
    print("making a demo to run in ...", file=sys.stderr)
    subprocess.run([PREP, "demo", str(folder / "demo")], check=True, stdout=subprocess.DEVNULL)
    return folder / "demo" / "workspace"


def row(what: str, times: list[float]) -> str:
    return f"| {what} | {statistics.median(times):.3f} s | {min(times):.3f} s | {max(times):.3f} s |"


def verdict(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def report(workspace: Path) -> str:
    """Time the commands and return the results page; `workspace` holds a finished line."""
    imported = seconds([sys.executable, "-c", "import typer"])
    helped = seconds([PREP, "--help"])
    ran = seconds([PREP, "-C", str(workspace), "run"])
    ratio = statistics.median(helped) / statistics.median(imported)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        "# Startup",
        "",
        f"{cores} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"{RUNS} runs each, after one to warm up. Written by `python benchmarks/startup.py`.",
        "",
        "| | median | fastest | slowest |",
        "| --- | --- | --- | --- |",
        row('`python -c "import typer"`', imported),
        row("`prep --help`", helped),
        row("second `prep run` in the demo's workspace", ran),
        "",
        f"- `prep --help` takes {ratio:.2f} times the import of Typer; "
        f"the aim is at most {MAX_RATIO:g}: {verdict(ratio <= MAX_RATIO)}.",
        f"- The second `prep run` takes {statistics.median(ran):.2f} s; "
        f"the aim is under {MAX_RUN_SECONDS:g} s: {verdict(statistics.median(ran) < MAX_RUN_SECONDS)}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(sys.argv[1]) if sys.argv[1:] else make_workspace(Path(folder))
        text = report(workspace)
    print(text, end="")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
