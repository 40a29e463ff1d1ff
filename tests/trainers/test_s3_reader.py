"""Images on S3 as the trainer's loader opens them: in threads and forked workers, out of a cache, against all odds."""

from __future__ import annotations

import ast
import fcntl
import io
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import contract_loader
from prep.trainers import s3_reader
from prep.trainers.s3_reader import Cache
from s3_reading import Faulty, cut, drip, error, faulty_s3, hang_up, installed, page, silence
from s3_server import S3Server

NAME = "ab" + "0" * 62


def png(colour: tuple[int, int, int] = (200, 10, 90), size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def noise(size: int) -> bytes:
    """A picture of about size x size x 3 bytes."""
    file = io.BytesIO()
    Image.effect_noise((size, size), 90).convert("RGB").save(file, "BMP")
    return file.getvalue()


def store(s3: S3Server, key: str, data: bytes) -> str:
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
    client.put_object(Bucket=s3.bucket, Key=key, Body=data)
    client.close()
    return f"s3://{s3.bucket}/{key}"


@pytest.fixture
def piat(s3: S3Server, tmp_path: Path) -> Iterator[Any]:
    """The reader beside the S3 service."""
    with installed(tmp_path / "reader", endpoint=s3.endpoint, region="us-east-1") as module:
        yield module


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> Iterator[Faulty]:
    """An S3 service whose first answers can be faults."""
    with faulty_s3(png()) as server:
        yield server


@pytest.fixture
def hasty(faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The reader beside the faulty service, which it does not wait long for."""
    with installed(tmp_path / "hasty", endpoint=faulty.endpoint, region="us-east-1") as module:
        monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.001)
        monkeypatch.setattr(module, "READ_SECONDS", 0.3)
        yield module


# -- images ----------------------------------------------------------------------------------------------------------


def test_the_loader_builds_the_same_samples_from_s3_as_from_disk(piat: Any, s3: S3Server, tmp_path: Path) -> None:
    local, remote = [], []
    for number in range(3):
        data = png((number, 90, 30), (40 + number, 30))
        (tmp_path / f"{number}.png").write_bytes(data)
        local.append(str(tmp_path / f"{number}.png"))
        remote.append(store(s3, f"same/{number}.png", data))
    joined = [[path.removeprefix("s3://") for path in remote]] * 3
    for kind, here, there, arguments in (
        ("preproces_text_to_image_generation_s3", {"s3_path": local}, {"s3_path": remote}, {}),
        ("preproces_vw_instruct", {"image": [local] * 3}, {"image": joined}, {"s3_prefix": "s3://"}),
    ):
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
        texts = {"caption": list("abc"), "conversations": [turns] * 3}
        pd.DataFrame(here | texts).to_parquet(tmp_path / "here.parquet")
        pd.DataFrame(there | texts).to_parquet(tmp_path / "there.parquet")
        entry = {"json_path": str(tmp_path / "here.parquet"), "preprocess_fn": kind}
        other = {"json_path": str(tmp_path / "there.parquet"), "preprocess_fn": kind, "process_fn_kwargs": arguments}
        for row in range(3):
            assert contract_loader.build_sample(entry, row) == contract_loader.build_sample(other, row)


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"]


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_pixels_becomes_rgb_as_the_loader_makes_it(mode: str, piat: Any, s3: S3Server) -> None:
    levels = Image.linear_gradient("L").resize((32, 24))
    file = io.BytesIO()
    if mode == "I;16":
        Image.fromarray((np.asarray(levels).astype(np.uint16)) * 257).save(file, "PNG")
    else:
        image = levels.convert("RGB") if mode in ("RGBA", "CMYK", "YCbCr", "LAB", "P") else levels
        if mode == "LAB":
            image = Image.merge("LAB", [levels] * 3)
        image.convert(mode).save(file, "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "TIFF")
    address = store(s3, f"modes/{mode.replace(';', '-')}", file.getvalue())
    pixels = piat.s3_image(address)
    with Image.open(file) as image:
        assert np.array_equal(pixels, np.array(image.convert("RGB")))
    assert pixels.shape == (24, 32, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable


@pytest.mark.parametrize("key", ["a b.png", "100%.png", "a#b?c.png", "ä/犬.png", "a+b&c=d.png", "x/'\".png", "%41.png"])
def test_keys_of_any_kind(key: str, piat: Any, s3: S3Server) -> None:
    assert piat.s3_image(store(s3, f"keys/{key}", png())).shape == (6, 8, 3)


def test_what_is_not_there_is_named(piat: Any, s3: S3Server) -> None:
    for address in (f"s3://{s3.bucket}/gone.png", "s3://no-such-bucket/x.png"):
        with pytest.raises(FileNotFoundError, match=address):
            piat.s3_image(address)
    for address in ("/a.png", "s3://", "s3://bucket", "s3:///x.png", "https://a/b"):
        with pytest.raises(ValueError, match="must be s3://bucket/key"):
            piat.s3_image(address)


@pytest.mark.parametrize("data", [b"", b"text", png()[:-30], noise(50)[:900]])
def test_what_is_no_image_is_named(data: bytes, piat: Any, s3: S3Server) -> None:
    address = store(s3, "broken.png", data)
    with pytest.raises(OSError, match=rf"{address}: not an image that can be opened"):
        piat.s3_image(address)


def test_keys_that_are_wrong_or_none(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = store(s3, "mine.png", png())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with installed(tmp_path / "a", endpoint=s3.endpoint) as piat:
        with pytest.raises(PermissionError, match="S3 refuses") as refused:
            piat.s3_image(address)
        assert refused.value.filename == address
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with (
        installed(tmp_path / "b", endpoint=s3.endpoint) as piat,
        pytest.raises(PermissionError, match="no S3 credentials"),
    ):
        piat.s3_image(address)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with (
        installed(tmp_path / "c", endpoint=s3.endpoint) as piat,
        pytest.raises(PermissionError, match=r"no S3 credentials .*nobody"),
    ):
        piat.s3_image(address)


# -- workers ---------------------------------------------------------------------------------------------------------


def read_all(addresses: list[str]) -> list[int]:
    """The first byte of each image, read by whatever `piat` is in this process."""
    return [int(sys.modules["piat"].s3_image(address)[0, 0, 0]) for address in addresses]


def test_workers_forked_after_the_parent_read_something(piat: Any, s3: S3Server) -> None:
    addresses = [store(s3, f"fork/{number}.png", png((number, 0, 0))) for number in range(12)]
    assert read_all(addresses[:1]) == [0]
    clients = {id(piat._client())}
    held = piat._process.lock
    with held, multiprocessing.get_context("fork").Pool(4) as pool:  # a thread of the parent may hold it for ever
        found = pool.map_async(read_all, [addresses[start::4] for start in range(4)]).get(60)
    assert found == [list(range(start, 12, 4)) for start in range(4)]
    assert {id(piat._client())} == clients


def test_threads_share_one_client(piat: Any, s3: S3Server) -> None:
    addresses = [store(s3, f"threads/{number}.png", png((number, 0, 0))) for number in range(24)]
    with ThreadPoolExecutor(12) as pool:
        clients = set(pool.map(lambda _: id(piat._client()), range(12)))
        found = list(pool.map(lambda address: int(piat.s3_image(address)[0, 0, 0]), addresses))
    assert found == list(range(24)) and len(clients) == 1


# -- a service that misbehaves ---------------------------------------------------------------------------------------

Fault = Callable[[Any], None]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([error(503, "SlowDown"), error(503, "SlowDown")], id="throttled"),
        pytest.param([error(429, "TooManyRequests")], id="429"),
        pytest.param([error(500, "InternalError")], id="500"),
        pytest.param([error(400, "RequestTimeout")], id="a request too slow"),
        pytest.param([error(400, "ExpiredToken")], id="keys that were replaced"),
        pytest.param([page(502), page(504)], id="a gateway's page"),
        pytest.param([cut, cut], id="cut bodies"),
        pytest.param([hang_up, hang_up, hang_up], id="no answer"),
        pytest.param([silence(0.5)], id="silence"),
        pytest.param([cut, hang_up, error(503, "SlowDown"), page(500)], id="one after the other"),
    ],
)
def test_what_passes_is_tried_again(faults: list[Fault], hasty: Any, faulty: Faulty) -> None:
    faulty.first[:] = faults
    assert hasty.s3_image("s3://bucket/x.png").shape == (6, 8, 3)
    assert faulty.paths == ["/bucket/x.png"] * (len(faults) + 1)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (error(404, "NoSuchKey"), FileNotFoundError),
        (error(404, "NoSuchBucket"), FileNotFoundError),
        (error(403, "AccessDenied"), PermissionError),
        (error(403, "SignatureDoesNotMatch"), PermissionError),
        (error(403, "RequestTimeTooSkewed"), PermissionError),
        (error(400, "InvalidRequest"), OSError),
    ],
)
def test_what_stays_is_asked_once(fault: Fault, kind: type[Exception], hasty: Any, faulty: Faulty) -> None:
    faulty.first[:] = [fault]
    with pytest.raises(kind, match=r"s3://bucket/x\.png") as raised:
        hasty.s3_image("s3://bucket/x.png")
    assert type(raised.value) is kind and len(faulty.paths) == 1


@pytest.mark.parametrize("fault", [error(503, "SlowDown"), cut, hang_up, silence(0.4), page(500)])
def test_it_gives_up_in_the_end(fault: Fault, hasty: Any, faulty: Faulty) -> None:
    faulty.first[:] = [fault] * 9
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"s3://bucket/x.png: .*\(asked 5 times\)"):
        hasty.s3_image("s3://bucket/x.png")
    assert len(faulty.paths) == 5 and time.monotonic() - started < 10


def test_a_body_that_drips_is_given_up(hasty: Any, faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hasty, "OBJECT_SECONDS", 0.2)
    faulty.first[:] = [drip(50, 0.1)]
    started = time.monotonic()
    assert hasty.s3_image("s3://bucket/x.png").shape == (6, 8, 3)
    assert time.monotonic() - started < 3 and len(faulty.paths) == 2


def test_nobody_there(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(tmp_path / "r", endpoint="http://127.0.0.1:9") as piat:
        monkeypatch.setattr(piat, "FIRST_WAIT_SECONDS", 0.001)
        with pytest.raises(ConnectionError, match=r"s3://b/x\.png: .*127\.0\.0\.1:9"):
            piat.s3_image("s3://b/x.png")


# -- the cache -------------------------------------------------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("??/*") if path.is_file())


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def test_no_cache_unless_asked_for(hasty: Any, faulty: Faulty, tmp_path: Path) -> None:
    for _ in range(2):
        hasty.s3_image("s3://bucket/x.png")
    assert len(faulty.paths) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hasty"]


def test_the_cache_answers_the_second_time(faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREP_S3_CACHE", str(tmp_path / "deep" / "cache"))
    with installed(tmp_path / "r", endpoint=faulty.endpoint) as piat:
        first = piat.s3_image("s3://bucket/x.png")
        assert np.array_equal(piat.s3_image("s3://bucket/x.png"), first)
        assert faulty.paths == ["/bucket/x.png"]
        piat.s3_image("s3://bucket/y.png")
        assert len(faulty.paths) == 2
    assert len(files(tmp_path / "deep" / "cache")) == 2
    assert (tmp_path / "deep" / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("harm", ["cut", "empty", "other"])
def test_a_broken_cache_file_is_fetched_anew(harm: str, faulty: Faulty, tmp_path: Path) -> None:
    with installed(tmp_path / "r", endpoint=faulty.endpoint, cache=str(tmp_path / "cache")) as piat:
        first = piat.s3_image("s3://bucket/x.png")
        [held] = files(tmp_path / "cache")
        whole = held.read_bytes()
        held.write_bytes({"cut": whole[:-5], "empty": b"", "other": whole[:50] + b"!" + whole[51:]}[harm])
        for _ in range(2):
            assert np.array_equal(piat.s3_image("s3://bucket/x.png"), first)
        assert len(faulty.paths) == 2 and held.read_bytes() == whole


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * 132)
    names = [f"{number:02d}" + "f" * 62 for number in range(12)]
    for age, name in enumerate(names[:10]):
        cache.put(name, bytes(100))
        os.utime(tmp_path / name[:2] / name[2:], (age, age))
    assert cache.get(names[0]) == bytes(100)  # used now
    cache.put(names[10], bytes(100))
    assert [name for name in names if cache.get(name)] == [names[0], *names[3:11]]
    cache.put(names[11], bytes(100))
    assert stored_bytes(tmp_path) == 10 * 132


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 900), st.sampled_from(["put", "get", "break", "lose"]))),
    st.integers(0, 3000),
)
def test_never_more_than_the_bound_and_never_wrong_bytes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str]], bound: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = Cache(folder, bound)
    for number, size, step in steps:
        name = f"{number:064x}"
        data = bytes([number]) * (number * 100 + 1)
        path = folder / name[:2] / name[2:]
        if step == "put":
            cache.put(name, data)
        elif step == "get":
            assert cache.get(name) in (data, None)
        elif path.exists():
            path.write_bytes(path.read_bytes()[:size]) if step == "break" else path.unlink()
        assert stored_bytes(folder) <= bound


def test_what_a_killed_process_left_is_put_right(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    (tmp_path / "lock").write_text("999")  # it had counted a file that it did not write to its end
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / f"{'1' * 62}.tmp").write_bytes(bytes(900))
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / "ab" / "notes.txt").write_text("not ours")
    cache.put(NAME, bytes(500))
    assert cache.get(NAME) == bytes(500)
    assert (tmp_path / "lock").read_text() == "532"
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"lock", "notes.txt", NAME[2:]}
    (tmp_path / "lock").write_text("nonsense")
    cache.put("cd" + "0" * 62, bytes(400))
    assert (tmp_path / "lock").read_text() == str(532 + 432)


def test_a_busy_cache_is_passed_by(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        cache.put(NAME, bytes(10))
        assert time.monotonic() - started < 1 and cache.get(NAME) is None
    cache.put(NAME, bytes(10))
    assert cache.get(NAME) == bytes(10)


def test_a_cache_that_cannot_be_written_costs_a_warning(faulty: Faulty, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        installed(tmp_path / "r", endpoint=faulty.endpoint, cache=str(tmp_path / "file")) as piat,
        pytest.warns(RuntimeWarning, match="the cache of images in .*file cannot be used"),
    ):
        assert piat.s3_image("s3://bucket/x.png").shape == (6, 8, 3)


def read_often(arguments: tuple[list[str], int]) -> int:
    """How many of many reads gave the right image."""
    addresses, seed = arguments
    order = np.random.default_rng(seed).integers(0, len(addresses), 60)
    return sum(int(sys.modules["piat"].s3_image(addresses[i])[0, 0, 0]) == i for i in order)


def test_processes_share_a_cache_that_is_too_small(s3: S3Server, tmp_path: Path) -> None:
    data = [png((number, 7, 7), (60, 60)) for number in range(30)]
    addresses = [store(s3, f"shared/{number}.png", image) for number, image in enumerate(data)]
    largest = max(map(len, data)) + 32
    bound = 12 * largest
    folder = tmp_path / "cache"
    most, is_over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_over.wait(0.002):
            total = 0
            for path in folder.glob("??/*"):
                try:
                    total += path.stat().st_size
                except FileNotFoundError:
                    continue
            most = max(most, total)

    with installed(tmp_path / "r", endpoint=s3.endpoint, cache=str(folder), cache_bytes=bound):
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with multiprocessing.get_context("fork").Pool(4) as pool:
                found = pool.map_async(read_often, [(addresses, seed) for seed in range(4)], chunksize=1).get(100)
        finally:
            is_over.set()
            watcher.join()
    assert found == [60] * 4
    # A look that takes some time may count a file that goes and the one that comes; one for each process at most.
    assert 0 < most <= bound + 4 * largest
    assert stored_bytes(folder) <= bound
    assert int((folder / "lock").read_text()) == stored_bytes(folder)


# -- settings, and where it runs -------------------------------------------------------------------------------------


def test_the_environment_goes_before_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    given = {"endpoint": "http://a", "region": "r", "cache": "/c", "cache_bytes": 5, "images": "s3://b", "newer": 1}

    def settings(**environment: str) -> Any:
        with pytest.MonkeyPatch.context() as patch, installed(tmp_path / "r", **given) as piat:
            for name, value in environment.items():
                patch.setenv(name, value)
            return piat.settings()

    plain = settings()
    assert (plain.endpoint, plain.region, plain.cache, plain.cache_bytes) == ("http://a", "r", "/c", 5)
    other = settings(AWS_ENDPOINT_URL="http://b", AWS_REGION="q", PREP_S3_CACHE="", PREP_S3_CACHE_BYTES="2e9")
    assert (other.endpoint, other.region, other.cache, other.cache_bytes) == ("http://b", "q", None, 2_000_000_000)
    assert settings(AWS_ENDPOINT_URL="http://b", AWS_ENDPOINT_URL_S3="http://c").endpoint == "http://c"
    assert settings(PREP_S3_CACHE="~/c", HOME="/home/me").cache == "/home/me/c"
    for text in ("abc", "50 GB", "inf", "nan", "-1"):
        with pytest.raises(ValueError, match=f"PREP_S3_CACHE_BYTES={text}: write a number of bytes"):
            settings(PREP_S3_CACHE_BYTES=text)


def test_the_endpoint_of_the_environment_is_used(
    faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.endpoint)
    with installed(tmp_path / "r") as piat:
        assert piat.s3_image("s3://bucket/x.png").shape == (6, 8, 3)


def run_alone(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python where `piat` is and `prep` is not."""
    code = f"import sys; sys.modules['prep'] = None; {code}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60
    )


def test_it_runs_without_prep(piat: Any, s3: S3Server) -> None:
    address = store(s3, "alone.png", png())
    done = run_alone(Path(piat.__file__).parent, f"import piat; print(piat.s3_image({address!r}).shape)")
    assert (done.stdout, done.stderr) == ("(6, 8, 3)\n", "")


def test_without_boto3_it_says_so_to_a_loader_that_passes_over_missing_modules(piat: Any) -> None:
    code = "sys.modules['boto3'] = None\ntry:\n    import piat\nexcept ImportError:\n    print('passed over')"
    done = run_alone(Path(piat.__file__).parent, code)
    assert done.stdout == "" and "RuntimeError: images on S3 are opened with boto3" in done.stderr


def test_it_needs_what_a_trainer_has() -> None:
    source = Path(s3_reader.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    assert foreign == {"boto3", "botocore", "numpy", "PIL"}
