"""How fast `prep download` is beside curl, aria2c and `hf download`, on loopback.

python benchmarks/download.py [--runs 3] [--folder FOLDER]

Needs nginx, curl and aria2c (`apt-get install nginx-light curl aria2`) and about 9 GB in FOLDER. All clients fetch the
same files from the same nginx; `hf download`, and `prep` once more beside it, ask an imitation of the hub first, which
sends them on to nginx. Clients run in turn, each as a whole process. Writes benchmarks/results/download.md. Aims: at
most 1.2 times the fastest of the peers, hashing included, in under 150 MB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prep.publishers.hub import Blob, Hub
from prep.publishers.replies import Reply
from prep.publishers.server import PublisherServer

CASES = {"1 x 2 GB": (1, 2_000_000_000), "8 x 256 MB": (8, 256_000_000), "2,000 x 100 kB": (2000, 100_000)}
MAX_RATIO = 1.2
MAX_MEMORY_MB = 150
RESULT = Path(__file__).parent / "results" / "download.md"
BIN = Path(sys.executable).parent
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;
  server {{ listen 127.0.0.1:{port}; root {folder}/hub; location /cdn/ {{ alias {folder}/cdn/; }} }}
}}
"""


@dataclass(frozen=True)
class Case:
    """Some files of one size, on nginx and in a repository of the hub."""

    name: str
    repo: str
    files: tuple[str, ...]
    size_bytes: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class Run:
    """What one whole process took; memory is its largest process's."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


class FastHub(Hub):
    """The imitation of the hub, its repositories read once, its files behind nginx."""

    def __init__(self, folder: Path, cdn_url: str) -> None:
        super().__init__(folder)
        self._cdn_url = cdn_url
        self._listed: dict[str, list[Blob]] = {}

    def blobs(self, repo: str) -> list[Blob]:
        """Every file of `repo`, by path."""
        if repo not in self._listed:
            self._listed[repo] = super().blobs(repo)
        return self._listed[repo]

    def resolve(self, cdn_url: str, path: str, token: str | None) -> Reply:
        """Where nginx has the file."""
        return super().resolve(self._cdn_url, path, token)


def make_case(folder: Path, name: str, count: int, size: int) -> Case:
    """Write the files of one case; all end in .tar, so that they are in the hub's large-file storage."""
    repo = f"bench/{size}"
    root = folder / "hub" / repo
    root.mkdir(parents=True)
    names = tuple(f"file-{number:04d}.tar" for number in range(count))
    for number, file in enumerate(names):
        block = random.Random(number).randbytes(min(size, 1_000_000))
        with (root / file).open("wb") as out:
            for _ in range(size // len(block)):
                out.write(block)
    hub = Hub(folder / "hub")
    sha256 = {blob.path: blob.sha256 or "" for blob in hub.blobs(repo)}
    (folder / "cdn" / repo).mkdir(parents=True)
    for file, digest in sha256.items():
        (folder / "cdn" / repo / digest).symlink_to(root / file)
    return Case(name, repo, names, size, sha256)


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, str]]:
    """Run nginx and the hub; their addresses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port))
    url = f"http://127.0.0.1:{port}"
    server = PublisherServer(folder / "hub", folder)
    server.hub = FastHub(folder / "hub", url)
    server.hub.quota = {"api": 1_000_000_000, "resolvers": 1_000_000_000}
    nginx = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        with server:
            time.sleep(0.5)
            yield url, server.url
    finally:
        nginx.terminate()
        nginx.wait()


# Runs a command and prints what it took. From a process of its own, because a child counts the memory of the process
# it was forked from.
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


def measure(command: list[str], folder: Path, environment: dict[str, str]) -> Run:
    """Run a command in `folder`."""
    os.sync()
    launcher = [sys.executable, "-I", "-S", "-c", MEASURE, *command]
    done = subprocess.run(launcher, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    code, *figures = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)[:200]} ends with {code}")
    return Run(*figures)


# -- the clients ---------------------------------------------------------------------------------------------


def curl(case: Case, url: str, hub_url: str, folder: Path) -> list[str]:
    lines = [f'url = "{url}/{case.repo}/{file}"\noutput = "{file}"' for file in case.files]
    (folder / "curl.txt").write_text("\n".join(lines))
    return ["curl", "-s", "-f", "-Z", "--parallel-max", "8", "-K", "curl.txt"]


def curl_and_hash(case: Case, url: str, hub_url: str, folder: Path) -> list[str]:
    # openssl's SHA-256 takes half the time of sha256sum's, where the processor has instructions for it.
    command = " ".join(curl(case, url, hub_url, folder))
    (folder / "sums.txt").write_text("".join(f"{case.sha256[file]} *{file}\n" for file in case.files))
    return ["sh", "-c", f"{command} && openssl dgst -r -sha256 file-*.tar | cmp - sums.txt"]


def aria2c(case: Case, url: str, hub_url: str, folder: Path) -> list[str]:
    lines = [f"{url}/{case.repo}/{file}\n out={file}" for file in case.files]
    (folder / "aria2.txt").write_text("\n".join(lines))
    return ["aria2c", "-q", "-j", "8", "-x", "4", "-s", "4", "-i", "aria2.txt"]


def aria2c_and_hash(case: Case, url: str, hub_url: str, folder: Path) -> list[str]:
    lines = [f"{url}/{case.repo}/{file}\n out={file}\n checksum=sha-256={case.sha256[file]}" for file in case.files]
    (folder / "aria2.txt").write_text("\n".join(lines))
    return ["aria2c", "-q", "-j", "8", "-x", "4", "-s", "4", "-i", "aria2.txt"]


def hf(case: Case, url: str, hub_url: str, folder: Path) -> list[str]:
    return [str(BIN / "hf"), "download", "--repo-type", "dataset", case.repo, "--local-dir", "."]


def workspace(folder: Path, source: dict[str, object]) -> list[str]:
    table = {
        "kind": "text-to-image",
        "records": {"format": "parquet", "parts": "*.parquet"},
        "select": {"caption": "text", "url": "url"},
    }
    dataset = {"name": "bench", "source": source, "images": {"kind": "url"}, "tables": {"bench": table}}
    (folder / "datasets").mkdir()
    (folder / "datasets" / "bench.yaml").write_text(json.dumps(dataset))
    (folder / "recipe.yaml").write_text(json.dumps({"name": "bench", "entries": [{"table": "bench"}]}))
    (folder / "prep.yaml").write_text(json.dumps({"recipe": "recipe.yaml"}))
    return [str(BIN / "prep"), "download"]


def prep_http(case: Case, url: str, hub_url: str, folder: Path) -> list[str]:
    files = [
        {"url": f"{url}/{case.repo}/{file}", "size_bytes": case.size_bytes, "sha256": case.sha256[file]}
        for file in case.files
    ]
    return workspace(folder, {"kind": "http", "files": files})


def prep_hub(case: Case, url: str, hub_url: str, folder: Path) -> list[str]:
    return workspace(folder, {"kind": "huggingface", "repo": case.repo})


Client = Callable[[Case, str, str, Path], list[str]]
HASHES = "hashing included"
CLIENTS: dict[str, Client] = {
    f"`prep download`, {HASHES}": prep_http,
    "curl": curl,
    f"curl, then openssl: {HASHES}": curl_and_hash,
    "aria2c": aria2c,
    f"aria2c, {HASHES}": aria2c_and_hash,
    f"`prep download` through the hub, {HASHES}": prep_hub,
    "`hf download` through the hub": hf,
}


def bench(case: Case, runs: int, url: str, hub_url: str, folder: Path) -> dict[str, list[Run]]:
    """Run every client `runs` times, in turn, after one round that warms the file cache."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub_url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    results: dict[str, list[Run]] = {name: [] for name in CLIENTS}
    for number in range(runs + 1):
        for name, client in CLIENTS.items():
            target = folder / "out"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            run = measure(client(case, url, hub_url, target), target, environment | {"HF_HOME": str(target / "home")})
            came = sum(file.stat().st_size for file in target.rglob("file-*.tar"))
            if came != len(case.files) * case.size_bytes:
                raise SystemExit(f"{name}: {came} bytes came")
            print(f"{case.name}: {name}: {run.seconds:.2f} s", file=sys.stderr)
            if number:
                results[name].append(run)
    shutil.rmtree(folder / "out")
    return results


# -- the page ------------------------------------------------------------------------------------------------


def report(results: dict[str, dict[str, list[Run]]], runs: int) -> str:
    """The results page."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        "# Download",
        "",
        f"{cores} cores shared with the server, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, loopback; medians of {runs} runs in turn, after one to warm up; wall time "
        "(fastest to slowest), CPU of the client alone, memory of its largest process. "
        "Written by `python benchmarks/download.py`.",
    ]
    verdicts = []
    for case, clients in results.items():
        lines += ["", f"## {case}", "", "| | wall | CPU | memory |", "| --- | --- | --- | --- |"]
        for name, found in clients.items():
            walls = [run.seconds for run in found]
            lines.append(
                f"| {name} | {statistics.median(walls):.2f} s ({min(walls):.2f} to {max(walls):.2f}) | "
                f"{statistics.median(run.cpu_seconds for run in found):.2f} s | "
                f"{max(run.memory_mb for run in found):.0f} MB |"
            )
        verdicts += [verdict(case, clients, peers, what) for peers, what in COMPARED]
        memory = max(run.memory_mb for name in clients if "prep" in name for run in clients[name])
        verdicts.append(
            f"- {case}: {memory:.0f} MB at most; the aim is under {MAX_MEMORY_MB}: {met(memory < MAX_MEMORY_MB)}."
        )
    return "\n".join([*lines, "", "## Aims", "", *verdicts]) + "\n"


NAMES = list(CLIENTS)
COMPARED = [
    (NAMES[2:3] + NAMES[4:5], "the fastest of curl and aria2c with their hashing"),
    (NAMES[1:2] + NAMES[3:4], "the fastest of curl and aria2c without any hashing"),
]


def verdict(case: str, clients: dict[str, list[Run]], peers: Collection[str], what: str) -> str:
    ours = statistics.median(run.seconds for run in clients[NAMES[0]])
    fastest = min(statistics.median(run.seconds for run in clients[name]) for name in peers)
    ratio = ours / fastest
    return f"- {case}: {ratio:.2f} times {what}; the aim is at most {MAX_RATIO:g}: {met(ratio <= MAX_RATIO)}."


def met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def main() -> None:
    """Write the files, run every client over them, write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; a temporary folder by default")
    arguments = parser.parse_args()
    missing = [program for program in ("nginx", "curl", "aria2c", "openssl") if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)} (apt-get install nginx-light curl aria2)")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx may serve as another user
        print("writing the files ...", file=sys.stderr)
        cases = [make_case(folder, case, count, size) for case, (count, size) in CASES.items()]
        with serve(folder) as (url, hub_url):
            results = {case.name: bench(case, arguments.runs, url, hub_url, folder) for case in cases}
    RESULT.write_text(report(results, arguments.runs), encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
