"""How fast `prep images` is beside img2dataset, tar and unzip, on loopback.

python benchmarks/images.py [--quick] [--runs 3] [--img2dataset PYTHON] [--folder FOLDER]

Needs nginx and unzip (`apt-get install nginx-light unzip`) and about 12 GB in FOLDER; img2dataset is installed into a
virtual environment there, unless the interpreter of one that has it is named. Clients run in turn, each as a whole
process, each from nothing, and the clock stops when what they wrote is on the disk. Writes
benchmarks/results/images.md, unless it is a quick run or one of a single part. Aims: at least 8 times img2dataset's
rate over http, 20 times over https, 3 times resized, half its memory; archives in at most 1.5 times the time of tar
and unzip.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import certifi
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import trustme
from PIL import Image

PEER = "img2dataset==1.47.0"
THREADS = (32, 64, 128, 256)
MAX_SIDE = 512
MAX_MEMORY = 0.5  # of img2dataset's
MAX_RATIO = 1.5  # of an unpacker's wall time
SAMPLE = 50  # files of each result that are compared with their source
MAX_OTHERS = 0.15  # of the machine's processor time that anything else may take; the kernel's own writing takes some
TRIES = 4  # of a run that is disturbed
QUIET_SECONDS = 30.0  # that a run waits for others to end
PEER_SECONDS = 25.0  # that a run of img2dataset is to take at most, so that it gets fewer images
LIMIT_SECONDS = 900
RESULT = Path(__file__).parent / "results" / "images.md"
BIN = Path(sys.executable).parent
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{ image/jpeg jpg; }}
  server {{
    listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{https} ssl backlog=4096;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    root {folder}; rewrite ^/\\d+/(.*)$ /$1 break;
  }}
}}
"""

# -- what is fetched and unpacked ------------------------------------------------------------------------------------

SMALL = [(800, 600), (1024, 768), (640, 480), (1200, 800), (640, 640), (600, 900)]
LARGE = [(1600, 1200), (2048, 1536), (1920, 1280), (2000, 2000), (1200, 1800)]


@dataclass(frozen=True)
class Photos:
    """JPEG files of one kind, in a folder of their own."""

    folder: Path
    names: tuple[str, ...]

    def source(self, number: int) -> Path:
        """The file that the `number`th image of a list or an archive is."""
        return self.folder / self.names[number % len(self.names)]

    @property
    def about(self) -> str:
        """What they are like."""
        size = statistics.mean((self.folder / name).stat().st_size for name in self.names)
        sides = [max(Image.open(self.folder / name).size) for name in self.names]
        return f"{len(self.names)} JPEGs of {size / 1000:.0f} kB on average, longest side {min(sides)} to {max(sides)}"


def make_photos(folder: Path, count: int, sizes: Sequence[tuple[int, int]], grain: float, quality: int) -> Photos:
    """Write JPEGs with soft shapes and grain, which take the room that photographs take."""
    folder.mkdir()
    random_numbers = np.random.default_rng(count)
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        shapes = random_numbers.integers(0, 255, (height // 24, width // 24, 3), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC))
        grained = soft + random_numbers.normal(0, grain, (height, width, 1))
        Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=quality)
    return Photos(folder, tuple(sorted(path.name for path in folder.iterdir())))


def member(number: int) -> str:
    """The name of the `number`th image inside an archive; a thousand to a folder."""
    return f"{number // 1000:03d}/{number:06d}.jpg"


def make_archive(path: Path, photos: Photos, count: int) -> None:
    """Write `count` images into a tar, a tar.gz or a zip, in the latter stored as they are."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as zipped:
            for number in range(count):
                zipped.write(photos.source(number), member(number))
        return
    with (
        gzip.open(path, "wb", 6) if path.suffix == ".gz" else path.open("wb") as out,
        tarfile.open(fileobj=out, mode="w") as packed,
    ):
        for number in range(count):
            data = photos.source(number).read_bytes()
            header = tarfile.TarInfo(member(number))
            header.size = len(data)
            packed.addfile(header, io.BytesIO(data))


@dataclass(frozen=True)
class Site:
    """nginx with the photos, over http and https, and the authorities that a client is to trust."""

    http: str
    https: str
    bundle: Path
    pid: int

    def urls(self, scheme: str, photos: Photos, count: int) -> list[str]:
        """`count` addresses, all different, over and over of the same photos."""
        base = self.https if scheme == "https" else self.http
        return [f"{base}/{number}/{photos.folder.name}/{photos.source(number).name}" for number in range(count)]

    def cpu_seconds(self) -> float:
        """What nginx's worker has taken so far."""
        (worker,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serve(folder: Path) -> Iterator[Site]:
    """Run nginx over `folder`, with a certificate of an authority that stands behind those of a real system."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    bundle = folder / "authorities.pem"
    bundle.write_bytes(certifi.contents().encode() + authority.cert_pem.bytes())
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        http, https = one.getsockname()[1], other.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, http=http, https=https))
    nginx = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield Site(f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}", bundle, nginx.pid)
    finally:
        nginx.terminate()
        nginx.wait()


# -- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What one command took, all its processes together.

    Attributes:
        memory_mb: the largest sum that was seen at once.
        other_share: of the machine's processor time, what went to anything but the command and the server.
    """

    images: int
    seconds: float
    cpu_seconds: float
    memory_mb: float
    server_cpu_seconds: float
    other_share: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


# Runs a command in a session of its own and prints what all processes of the session took: wall time until it has
# ended and the disk has everything, the largest of ten sums a second of their memory, pages shared between processes
# counted once, and processor time (orphans come to this process, which waits for them), then its own.
MEASURE = """
import ctypes, json, os, resource, subprocess, sys, threading, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
limit, log, *command = sys.argv[1:]
with open(log, "wb") as out:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
over, peak = threading.Event(), 0
def members():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) >= process.pid:
            try:
                with open(f"/proc/{name}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[3]) == process.pid:
                        yield name
            except OSError:
                continue
def pss(name):
    try:
        with open(f"/proc/{name}/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0
def watch():
    global peak
    while not over.wait(0.1):
        peak = max(peak, sum(map(pss, members())))
watcher = threading.Thread(target=watch)
watcher.start()
code = process.wait(float(limit))
os.sync()
seconds = time.perf_counter() - started
over.set()
watcher.join()
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
cpu = [sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
print(json.dumps([code, seconds, peak / 1000, *cpu]))
"""


def environment(site: Site | None) -> dict[str, str]:
    """This process's environment, with the authorities of the site in place of the system's."""
    # Modules that are compiled already are found so, as those of an installed program are.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    trusted = {"SSL_CERT_FILE": str(site.bundle), "CURL_CA_BUNDLE": str(site.bundle)} if site else {}
    # A library of img2dataset's asks the internet for a newer version of itself whenever it starts, unless told not to.
    return {**kept, **trusted, "NO_PROXY": "127.0.0.1", "NO_ALBUMENTATIONS_UPDATE": "1"}


def busy_seconds() -> float:
    """Processor time of the whole machine so far, without idling and waiting for disks."""
    user, nice, system, _, _, *rest = (int(field) for field in Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet() -> None:
    """Return when nothing else is at work on this machine, or after `QUIET_SECONDS` all the same."""
    end = time.monotonic() + QUIET_SECONDS
    before = busy_seconds()
    while time.monotonic() < end:
        time.sleep(1)
        now = busy_seconds()
        if now - before < MAX_OTHERS:
            return
        before = now


def measure(command: Sequence[str], folder: Path, images: int, site: Site | None = None) -> Run:
    """Run a command in `folder`, which is to give `images` images."""
    os.sync()
    wait_for_quiet()
    log = folder / "log.txt"
    launcher = [sys.executable, "-I", "-S", "-c", MEASURE, str(LIMIT_SECONDS), str(log), *command]
    before, all_before = site.cpu_seconds() if site else 0.0, busy_seconds()
    done = subprocess.run(launcher, cwd=folder, env=environment(site), stdout=subprocess.PIPE, check=True)
    code, seconds, memory_mb, cpu_seconds, own_seconds = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)[:200]} ends with {code}:\n{log.read_text()[-3000:]}")
    server = site.cpu_seconds() - before if site else 0.0
    others = busy_seconds() - all_before - cpu_seconds - own_seconds - server
    return Run(images, seconds, cpu_seconds, memory_mb, server, others / seconds / (os.cpu_count() or 1))


def undisturbed(run: Callable[[], Run]) -> Run:
    """One run, again where something else was at work beside it; the one that was disturbed least."""
    tried: list[Run] = []
    while len(tried) < TRIES and not (tried and tried[-1].other_share < MAX_OTHERS):
        tried.append(run())
        if tried[-1].other_share >= MAX_OTHERS:
            say(f"disturbed: others took {tried[-1].other_share:.0%} of the machine")
    return min(tried, key=lambda one: one.other_share)


def fresh(folder: Path) -> Path:
    """The folder, with nothing in it.

    What was in it is emptied and moved aside, not deleted: for minutes after, ext4 searches past the places of deleted
    files whenever it makes a new one, which takes longer than all the rest.
    """
    if folder.exists():
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)
        folder.rename(folder.with_name(f"{folder.name}.{time.monotonic_ns()}"))
    folder.mkdir(parents=True)
    return folder


# -- prep ------------------------------------------------------------------------------------------------------------

PREP = str(BIN / "prep")


def make_workspace(folder: Path, source: Path, images: dict[str, object], workers: int) -> Path:
    """A workspace of one dataset, `bench`, whose parts are in `source`."""
    select = {"caption": "text", "url": "url"} if images["kind"] == "url" else {"caption": "text"}
    table = {"kind": "text-to-image", "records": {"format": "parquet", "parts": "*.parquet"}, "select": select}
    if images["kind"] != "url":
        table["image"] = "name"
    local = {"kind": "local", "path": str(source)}
    dataset = {"name": "bench", "source": local, "images": images, "tables": {"bench": table}}
    fetch = {"per_host": 64}  # img2dataset knows no limit for one host
    settings = {"recipe": "recipe.yaml", "workers": workers, "allow_private_hosts": True, "fetch": fetch}
    (fresh(folder) / "datasets").mkdir()
    (folder / "datasets" / "bench.yaml").write_text(json.dumps(dataset))
    (folder / "recipe.yaml").write_text(json.dumps({"name": "bench", "entries": [{"table": "bench"}]}))
    (folder / "prep.yaml").write_text(json.dumps(settings))
    for stage in ("download", "normalize", "filter") if images["kind"] == "url" else ("download",):
        done = subprocess.run([PREP, stage], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"prep {stage}: {done.stderr}")
    return folder


def copy_workspace(made: Path, folder: Path) -> Path:
    """A workspace in which only `prep images` is still to do."""
    return shutil.copytree(made, fresh(folder), symlinks=True, dirs_exist_ok=True)


def check_prep(folder: Path, count: int, source: Callable[[str], Path], max_side: int | None) -> None:
    """Compare a finished workspace with the sources of its images.

    Args:
        source: the file that an image of the index was, by the index's `source`.
    """
    index = pa.concat_tables([pq.read_table(path) for path in (folder / "index" / "bench.parquet").glob("*.parquet")])
    statuses = set(index["status"].to_pylist())
    stored = [path for path in (folder / "images").rglob("*") if path.is_file()]
    if statuses != {"ok"} or len(index) != count or len(stored) != count:
        raise SystemExit(f"{folder}: {len(index)} rows of status {statuses}, {len(stored)} files, not {count}")
    for row in random.Random(0).sample(index.to_pylist(), SAMPLE):
        path = folder / "images" / "bench" / row["path"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            raise SystemExit(f"{path} has another hash than the index says")
        check_image(path, source(row["source"]), max_side)


def check_image(path: Path, source: Path, max_side: int | None) -> None:
    """Compare a stored image with what it was: the same bytes, or no side over the limit."""
    if max_side is None:
        is_right = path.read_bytes() == source.read_bytes()
    else:
        with Image.open(path) as image, Image.open(source) as before:
            image.load()
            is_right = max(image.size) == min(max_side, max(before.size))
    if not is_right:
        raise SystemExit(f"{path} is not what {source} was to give")


# -- addresses -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AddressCase:
    """A list of addresses and what is to be made of its images.

    Attributes:
        count: how many addresses `prep` gets; img2dataset gets fewer where it would take minutes.
        aim: how many times img2dataset's rate `prep` is to have.
    """

    name: str
    scheme: str
    photos: Photos
    max_side: int | None
    count: int
    aim: float


@dataclass(frozen=True)
class AddressResult:
    """The runs over one list, of `prep images` and of each img2dataset by its name."""

    case: AddressCase
    prep: list[Run]
    peers: dict[str, list[Run]]


def bench_addresses(case: AddressCase, runs: int, site: Site, peers: dict[str, Path], folder: Path) -> AddressResult:
    """Run all clients `runs` times, in turn; a second img2dataset only over https, where its Python matters."""
    urls = site.urls(case.scheme, case.photos, case.count)
    source = fresh(folder / "list") / "list.parquet"
    pq.write_table(pa.table({"url": urls, "text": [f"photo {number}" for number in range(case.count)]}), source)
    made = make_workspace(folder / "made", source.parent, {"kind": "url"}, 2)
    chosen = list(peers) if case.scheme == "https" else list(peers)[:1]
    tuned = {peer: tune(case, site, peers[peer], folder) for peer in chosen}
    names = {peer: f"{peer}, {threads} threads" for peer, (threads, _) in tuned.items()}
    ours: list[Run] = []
    theirs: dict[str, list[Run]] = {name: [] for name in names.values()}
    for _ in range(runs):
        ours.append(undisturbed(lambda: run_prep_addresses(case, made, site, folder)))
        for peer, name in names.items():
            threads, count = tuned[peer]
            again = partial(run_peer, case, count, threads, site, peers[peer], folder)
            theirs[name].append(undisturbed(again))
        rates = ", ".join(f"{name} {found[-1].rate:.0f}/s" for name, found in theirs.items())
        say(f"{case.name}: {ours[-1].rate:.0f}/s, {rates}")
    return AddressResult(case, ours, theirs)


def run_prep_addresses(case: AddressCase, made: Path, site: Site, folder: Path) -> Run:
    workspace = copy_workspace(made, folder / "workspace")
    options = [] if case.max_side is None else ["--max-side", str(case.max_side)]
    run = measure([PREP, "images", "bench", *options], workspace, case.count, site)
    check_prep(workspace, case.count, lambda url: case.photos.folder / url.rpartition("/")[2], case.max_side)
    return run


def run_peer(case: AddressCase, count: int, threads: int, site: Site, peer: Path, folder: Path) -> Run:
    """Run img2dataset over the first `count` addresses, in two processes, each of which takes half."""
    target = fresh(folder / "peer")
    (target / "urls.txt").write_text("\n".join(site.urls(case.scheme, case.photos, count)))
    common = "--url_list=urls.txt --output_folder=out --output_format=files --processes_count=2 --enable_wandb=False"
    size = f"--thread_count={threads} --number_sample_per_shard={-(-count // 2)}"
    if case.max_side is None:
        how = "--resize_mode=no --skip_reencode=True"
    else:
        how = f"--resize_mode=keep_ratio_largest --image_size={case.max_side} --resize_only_if_bigger=True"
    command = [str(peer.with_name("img2dataset")), *f"{common} {size} {how}".split()]
    run = measure(command, target, count, site)
    stored = sorted((target / "out").rglob("*.jpg"))
    if len(stored) != count:
        raise SystemExit(f"img2dataset gave {len(stored)} of {count} images")
    for path in random.Random(0).sample(stored, SAMPLE):
        url = json.loads(path.with_suffix(".json").read_text())["url"]
        check_image(path, case.photos.folder / url.rpartition("/")[2], case.max_side)
    return run


def tune(case: AddressCase, site: Site, peer: Path, folder: Path) -> tuple[int, int]:
    """The number of threads img2dataset is fastest with, and how many images it then does in some `PEER_SECONDS`."""
    trial = max(case.count // 20, SAMPLE)
    rates = {threads: run_peer(case, trial, threads, site, peer, folder).rate for threads in THREADS}
    say(f"{case.name}: img2dataset by threads: " + ", ".join(f"{t}: {rate:.0f}/s" for t, rate in rates.items()))
    threads = max(rates, key=lambda threads: rates[threads])
    return threads, min(case.count, max(trial, int(rates[threads] * PEER_SECONDS)))


def install_peer(folder: Path) -> Path:
    """The interpreter of a new virtual environment with img2dataset."""
    say(f"installing {PEER} ...")
    venv.create(folder / "peer-venv", with_pip=True)
    python = folder / "peer-venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
    return python


def name_peer(python: Path) -> str:
    return f"img2dataset on {program_version([str(python), '--version'])}"


# -- archives --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArchiveCase:
    """An archive and the command that unpacks it, with the archive's path to be filled in.

    Attributes:
        is_resized: its images are made smaller too, once.
    """

    name: str
    file: str
    count: int
    peer: str
    is_resized: bool = False


@dataclass(frozen=True)
class ArchiveResult:
    """The runs over one archive: of the peer, of `prep images` by what it was asked."""

    case: ArchiveCase
    size_bytes: int
    peer: list[Run]
    prep: dict[str, list[Run]]


ONE, TWO = "one worker", "two workers"
AGAIN = "two workers, nothing to do"
RESIZED = f"two workers, `--max-side {MAX_SIDE}`, a single run"


def bench_archive(case: ArchiveCase, photos: Photos, runs: int, folder: Path) -> ArchiveResult:
    """Unpack an archive with each client `runs` times, in turn, after a round of the peer that warms the file cache."""
    archive = fresh(folder / "parts") / case.file
    make_archive(archive, photos, case.count)
    images: dict[str, object] = {"kind": "archive", "parts": case.file}
    made = {workers: make_workspace(folder / f"made-{workers}", archive.parent, images, workers) for workers in (1, 2)}
    peer = [undisturbed(lambda: run_unpacker(case, archive, photos, folder)) for _ in range(1 + runs)][1:]
    found: dict[str, list[Run]] = {ONE: [], TWO: [], AGAIN: []}
    for _ in range(runs):
        for what, workers in ((ONE, 1), (TWO, 2)):
            found[what].append(undisturbed(partial(run_prep_archive, case, made[workers], photos, None, folder)))
        again = partial(measure, [PREP, "images", "bench"], folder / "workspace", case.count)
        found[AGAIN].append(undisturbed(again))
    if case.is_resized:
        found[RESIZED] = [undisturbed(partial(run_prep_archive, case, made[2], photos, MAX_SIDE, folder))]
    say(f"{case.name}: {peer[-1].seconds:.2f} s; " + ", ".join(f"{w}: {r[-1].seconds:.2f} s" for w, r in found.items()))
    return ArchiveResult(case, archive.stat().st_size, peer, found)


def run_unpacker(case: ArchiveCase, archive: Path, photos: Photos, folder: Path) -> Run:
    target = fresh(folder / "peer")
    run = measure(case.peer.format(archive).split(), target, case.count)
    unpacked = sorted(target.rglob("*.jpg"))
    if len(unpacked) != case.count:
        raise SystemExit(f"{case.peer} gave {len(unpacked)} of {case.count} files")
    for path in random.Random(0).sample(unpacked, SAMPLE):
        check_image(path, photos.source(int(path.stem)), None)
    return run


def run_prep_archive(case: ArchiveCase, made: Path, photos: Photos, max_side: int | None, folder: Path) -> Run:
    workspace = copy_workspace(made, folder / "workspace")
    options = [] if max_side is None else ["--max-side", str(max_side)]
    run = measure([PREP, "images", "bench", *options], workspace, case.count)
    check_prep(workspace, case.count, lambda name: photos.source(int(Path(name).stem)), max_side)
    return run


# -- the page --------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def median(runs: Sequence[Run], what: Callable[[Run], float]) -> float:
    return statistics.median(what(run) for run in runs)


def spread(runs: Sequence[Run], what: Callable[[Run], float], digits: int) -> str:
    """Median, and least to most."""
    values = [what(run) for run in runs]
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def program_version(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout or done.stderr).splitlines()[0].strip()


def intro(runs: int) -> list[str]:
    """What was run, where, and how."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        "# Images",
        "",
        f"{cores} cores shared with the server, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, loopback; medians of {runs} runs in turn (least to most). Every run is a whole "
        "process that starts from nothing; its time ends when a `sync` after it has returned, also the peers'. Memory: "
        "the largest of ten sums a second over all its processes (PSS: shared pages counted once). A run beside which "
        f"anything else took {MAX_OTHERS:.0%} of the machine is done again. After every run the "
        f"files are counted, and {SAMPLE} of them compared with their sources. "
        "Written by `python benchmarks/images.py`.",
        "",
        f"Peers: {PEER.replace('==', ' ')}; {program_version(['tar', '--version'])}; "
        f"{program_version(['unzip', '-v']).partition(',')[0]}. Server: "
        f"{program_version(['nginx', '-v']).partition(': ')[2]}, one worker.",
    ]


def address_lines(results: Sequence[AddressResult]) -> Iterator[str]:
    """The table of fetching."""
    yield from (
        "",
        "## From addresses",
        "",
        "`prep images` with two workers and `fetch: {per_host: 64}`, because img2dataset knows no limit for one host; "
        "img2dataset with two processes and the best of "
        f"{', '.join(str(threads) for threads in THREADS)} threads, files as output. Both trust the authorities of a "
        f"real system and the test's. Resized: to a longest side of {MAX_SIDE} at most, JPEG of quality 95.",
        "",
        "| | | images | images/s | CPU ms per image | of nginx | memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    )
    for result in results:
        for client, runs in {"`prep images`": result.prep, **result.peers}.items():
            yield (
                f"| {result.case.name} | {client} | {runs[0].images:,} | {spread(runs, lambda run: run.rate, 0)} | "
                f"{1000 * median(runs, lambda run: run.cpu_seconds / run.images):.2f} | "
                f"{1000 * median(runs, lambda run: run.server_cpu_seconds / run.images):.2f} | "
                f"{max(run.memory_mb for run in runs):.0f} MB |"
            )
    for photos in dict.fromkeys(result.case.photos for result in results):
        yield from ("", f"`{photos.folder.name}`: {photos.about}.")


def archive_lines(results: Sequence[ArchiveResult]) -> Iterator[str]:
    """The tables of unpacking."""
    for result in results:
        size = f"{result.case.count:,} files, {result.size_bytes / 1e6:,.0f} MB"
        clients = {f"`{result.case.peer.format(result.case.file)}`": result.peer}
        clients |= {f"`prep images`, {what}": runs for what, runs in result.prep.items()}
        yield from (
            "",
            f"## {result.case.name}: {size}",
            "",
            "| | wall s | CPU s | memory |",
            "| --- | --- | --- | --- |",
        )
        for client, runs in clients.items():
            yield (
                f"| {client} | {spread(runs, lambda run: run.seconds, 2)} | "
                f"{median(runs, lambda run: run.cpu_seconds):.2f} | {max(run.memory_mb for run in runs):.0f} MB |"
            )


def address_aims(results: Sequence[AddressResult]) -> Iterator[str]:
    for result in results:
        for name, runs in result.peers.items():
            ratio = median(result.prep, lambda run: run.rate) / median(runs, lambda run: run.rate)
            memory = max(run.memory_mb for run in result.prep) / max(run.memory_mb for run in runs)
            yield (
                f"- {result.case.name}: {ratio:.1f} times the rate of {name}; the aim is at least "
                f"{result.case.aim:g}: {met(ratio >= result.case.aim)}. {memory:.2f} times its memory; the aim is at "
                f"most {MAX_MEMORY:g}: {met(memory <= MAX_MEMORY)}."
            )


def archive_aims(results: Sequence[ArchiveResult]) -> Iterator[str]:
    for result in results:
        peer = median(result.peer, lambda run: run.seconds)
        for what in (ONE, TWO):
            ratio = median(result.prep[what], lambda run: run.seconds) / peer
            yield (
                f"- {result.case.name}, {what}: {ratio:.2f} times the wall time of "
                f"`{result.case.peer.format(result.case.file)}`; the aim is at most {MAX_RATIO:g}: "
                f"{met(ratio <= MAX_RATIO)}."
            )


class Page:
    """The results page; written anew after every case, because all of them take half an hour."""

    def __init__(self, runs: int, is_kept: bool) -> None:
        self._runs, self._is_kept = runs, is_kept
        self._addresses: list[AddressResult] = []
        self._archives: list[ArchiveResult] = []

    def add_addresses(self, result: AddressResult) -> None:
        self._addresses.append(result)
        self._write()

    def add_archive(self, result: ArchiveResult) -> None:
        self._archives.append(result)
        self._write()

    def _write(self) -> None:
        if self._is_kept:
            RESULT.write_text(self.text, encoding="utf-8")

    @property
    def text(self) -> str:
        """The page as it stands."""
        aims = [*address_aims(self._addresses), *archive_aims(self._archives)]
        tables = [*(address_lines(self._addresses) if self._addresses else ()), *archive_lines(self._archives)]
        return "\n".join([*intro(self._runs), *tables, "", "## Aims", "", *aims]) + "\n"


def address_cases(small: Photos, large: Photos, scale: int) -> list[AddressCase]:
    """What is fetched; a quick run takes fewer images by `scale`."""
    return [
        AddressCase(f"{scheme}, {how}, {photos.folder.name}", scheme, photos, max_side, count // scale, aim)
        for scheme, how, photos, max_side, count, aim in (
            ("http", "as they are", small, None, 20_000, 8.0),
            ("https", "as they are", small, None, 20_000, 20.0),
            ("http", "resized", small, MAX_SIDE, 12_000, 3.0),
            ("http", "resized", large, MAX_SIDE, 4_000, 3.0),
            ("https", "resized", small, MAX_SIDE, 12_000, 3.0),
        )
    ]


def archive_cases(scale: int) -> list[ArchiveCase]:
    return [
        ArchiveCase("tar", "photos.tar", 20_000 // scale, "tar xf {}", is_resized=True),
        ArchiveCase("zip", "photos.zip", 20_000 // scale, "unzip -q {}"),
        ArchiveCase("tar.gz", "photos.tar.gz", 6_000 // scale, "tar xzf {}"),
    ]


def main() -> None:
    """Make the photos, run every client over them, write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the images, one run, nothing written")
    parser.add_argument("--only", choices=("addresses", "archives"), help="one part; nothing written")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--img2dataset",
        type=Path,
        metavar="PYTHON",
        action="append",
        help=f"interpreter of an environment with {PEER}; may be given more than once",
    )
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    arguments = parser.parse_args()
    missing = [program for program in ("nginx", "tar", "unzip") if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)} (apt-get install nginx-light tar unzip)")
    runs, scale = (1, 20) if arguments.quick else (arguments.runs, 1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx may serve as another user
        pythons = [python.absolute() for python in arguments.img2dataset or [install_peer(folder)]]
        say("making the photos ...")
        small = make_photos(folder / "small", 400, SMALL, 4.0, 82)
        large = make_photos(folder / "large", 200, LARGE, 4.0, 82)
        page = Page(runs, is_kept=not (arguments.quick or arguments.only))
        if arguments.only != "archives":
            peers = {name_peer(python): python for python in pythons}
            with serve(folder) as site:
                for case in address_cases(small, large, scale):
                    page.add_addresses(bench_addresses(case, runs, site, peers, folder))
        if arguments.only != "addresses":
            for archive in archive_cases(scale):
                page.add_archive(bench_archive(archive, small, runs, folder))
        print(page.text)


if __name__ == "__main__":
    main()
