"""The stream of pictures: order, what is broken, work done at the same time, workers that die, and ends."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prep.errors import PrepError, WorkspaceError
from prep.images import store
from prep.scorers import reading
from prep.scorers.model import Model
from prep.scorers.pixels import CLIP, Preprocessing
from prep.scorers.reading import AHEAD, BLOCK, Block, read_block, why_unreadable
from prep.scorers.scorer import SCORERS, Passport, Picture, Score
from prep.scorers.stream import MAX_BATCH, TRIALS, BatchSize, Stream
from s3_server import S3Server

if TYPE_CHECKING:
    from torch import Tensor

GONE = Score(None, "missing", "no such file")


INFO, PASSPORT = SCORERS["aesthetic-v2"], Passport("aesthetic-v2", "brightness", {}, "", "fp32")


@dataclass
class Brightness:
    """A model whose score is the mean of red, and -1 times it for a picture of the text `dark`.

    Attributes:
        memory: how many images fit into it.
        note: is told what is called.
    """

    memory: int = 10_000
    note: Callable[[str], None] = lambda what: None
    device: str = "cpu"

    @property
    def model(self) -> Model:
        return Model(INFO, PASSPORT, CLIP, self.device, self.run, self.scores)

    def run(self, pixels: Tensor, texts: list[str]) -> Tensor:
        import torch

        assert pixels.shape == (len(texts), 224, 224, 3)
        assert pixels.dtype == torch.uint8
        if len(texts) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.note(f"run {len(texts)}")
        signs = torch.tensor([-1.0 if text == "dark" else 1.0 for text in texts], device=pixels.device)
        return (pixels[:, :, :, 0].float().mean((1, 2)) * signs)[:, None]

    def scores(self, results: np.ndarray) -> np.ndarray:
        self.note(f"scores {len(results)}")
        return results[:, 0].astype(np.float64)


class Unsure(Brightness):
    """Does not know what to make of black."""

    def scores(self, results: np.ndarray) -> np.ndarray:
        return np.where(results[:, 0] == 0, np.nan, results[:, 0].astype(np.float64))


def grey(value: int, side: int = 8) -> bytes:
    """A picture of one brightness, which is its score."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (value, value, value)).save(out, "PNG")
    return out.getvalue()


@cache
def greys() -> tempfile.TemporaryDirectory[str]:
    """A folder with a picture of each brightness: `7.png` has the score 7."""
    folder = tempfile.TemporaryDirectory()
    for value in range(256):
        (Path(folder.name) / f"{value}.png").write_bytes(grey(value))
    return folder


def picture(value: int, text: str = "") -> Picture:
    return Picture(f"{greys().name}/{value}.png", text)


def scored(
    model: Brightness, pictures: Sequence[Picture], workers: int = 0, batch_size: int | None = None
) -> list[Score]:
    pytest.importorskip("torch")
    return list(Stream(model.model, workers=workers, batch_size=batch_size).score(pictures))


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_scores_come_in_the_order_of_the_pictures(workers: int) -> None:
    values = [number * 7 % 256 for number in range(5 * BLOCK + 3)]
    assert scored(Brightness(), [picture(value) for value in values], workers) == [Score(value) for value in values]


@given(values=st.lists(st.none() | st.integers(0, 255), max_size=80), batch_size=st.integers(1, 70))
@settings(max_examples=30, deadline=None)
def test_each_picture_has_its_own_score_or_problem(values: list[int | None], batch_size: int) -> None:
    pictures = [Picture("/none") if value is None else picture(value) for value in values]
    expected = [GONE if value is None else Score(value) for value in values]
    assert scored(Brightness(), pictures, batch_size=batch_size) == expected


def test_texts_stay_with_their_pictures_when_others_are_broken() -> None:
    pictures = [picture(1, "dark"), Picture("/none", "dark"), picture(2), picture(3, "dark")]
    assert scored(Brightness(), pictures) == [Score(-1), GONE, Score(2), Score(-3)]


def test_no_pictures_have_no_scores() -> None:
    assert scored(Brightness(), [], workers=2) == []


def test_batches_have_the_size_that_was_asked_for_and_the_last_one_is_not_filled_up() -> None:
    notes: list[str] = []
    scored(Brightness(note=notes.append), [picture(9)] * 107, batch_size=50)
    assert [note for note in notes if note.startswith("run")] == ["run 50", "run 50", "run 7"]


def test_a_stream_says_what_its_model_is() -> None:
    pytest.importorskip("torch")
    one = Stream(Brightness().model)
    assert (one.info, one.passport, one.batch_size) == (INFO, PASSPORT, 16)


# -- at the same time ------------------------------------------------------------------------------------------------


def test_a_batch_is_queued_before_the_results_of_the_one_before_are_read() -> None:
    notes: list[str] = []
    scored(Brightness(note=notes.append), [picture(9)] * 12, batch_size=4)
    assert notes == ["run 4", "run 4", "scores 4", "run 4", "scores 4", "scores 4"]


def read_and_tell(addresses: Sequence[str], how: Preprocessing, s3_endpoint: str | None) -> Block:
    """Read as ever; the first picture's name says where to leave a file for each block."""
    Path(addresses[0]).with_name(f"read-{time.monotonic_ns()}").touch()
    return read_block(addresses, how, s3_endpoint)


def test_later_pictures_are_decoded_while_the_model_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for_the_others(note: str) -> None:
        if note.startswith("run"):
            assert wait_until(lambda: len(list(tmp_path.glob("read-*"))) == AHEAD, 20)

    (tmp_path / "7.png").write_bytes(grey(7))
    monkeypatch.setattr(reading, "read_block", read_and_tell)
    pictures = [Picture(str(tmp_path / "7.png"))] * 4 * AHEAD
    assert scored(Brightness(note=wait_for_the_others), pictures, 1, 4) == [Score(7)] * 4 * AHEAD


# -- what is broken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_has_its_reason_and_spoils_no_other(tmp_path: Path, workers: int) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(grey(8, 500)[:300])
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate((100 << 20) + 1)
    names = (
        "folder.png",
        "page.jpg",
        "empty.jpg",
        "cut.png",
        "pipe.jpg",
        "huge.jpg",
        "page.jpg/a.jpg",
        "\0",
        "a" * 300,
    )
    pictures = [picture(1), *(Picture(f"{tmp_path}/{name}") for name in names), Picture(""), picture(2)]
    assert scored(Brightness(), pictures, workers) == [
        Score(1),
        Score(None, "unreadable", "not a file"),
        Score(None, "undecodable", "not an image"),
        Score(None, "undecodable", "not an image"),
        Score(None, "undecodable", "image file is truncated"),
        Score(None, "unreadable", "not a file"),
        Score(None, "unreadable", "more than 100 MiB"),
        GONE,
        Score(None, "unreadable", "no name of a file"),
        Score(None, "unreadable", "File name too long"),
        Score(None, "unreadable", "not a file"),
        Score(2),
    ]


def test_a_score_that_is_no_number_is_none() -> None:
    pictures = [picture(3), picture(0), picture(4)]
    assert scored(Unsure(), pictures) == [Score(3), Score(None, "not_finite", "the model's score is nan"), Score(4)]


def test_images_on_s3_are_read_and_what_is_not_there_is_missing(s3: S3Server) -> None:
    s3.put("a/ü 7.png", grey(7))
    block = read_block([f"s3://{s3.bucket}/a/{name}" for name in ("ü 7.png", "none.png")], CLIP, s3.endpoint)
    assert block.problems == [None, GONE]
    assert block.pixels is not None
    assert block.pixels.shape == (1, 224, 224, 3)
    assert (block.pixels == 7).all()


def test_an_s3_that_does_not_answer_ends_the_stream_and_marks_no_picture(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(store.RETRIES, "max_retries", 0)
    with pytest.raises(WorkspaceError, match=r"cannot read s3://pictures/7\.png"):
        read_block(["s3://pictures/7.png"], CLIP, "http://127.0.0.1:9")


def test_addresses_that_s3_can_have_nothing_at_are_unreadable(s3: S3Server) -> None:
    s3.put("7.png", grey(7))
    bad = {
        "s3://": "no name of a bucket",
        "s3:///7.png": "no name of a bucket",
        "s3://[/7.png": "no name of a bucket",
        "s3://two words/7.png": "no name of a bucket",
        "s3://a_b!/7.png": "no name of a bucket",
        "s3://no-such-bucket/7.png": "cannot read s3://no-such-bucket/7.png: ",
        f"s3://{s3.bucket}/a//b/../7.png": f"cannot read s3://{s3.bucket}/a//b/../7.png: ",
    }
    block = read_block([*bad, f"s3://{s3.bucket}/7.png"], CLIP, s3.endpoint)
    *problems, last = block.problems
    assert last is None and block.pixels is not None and len(block.pixels) == 1
    for problem, reason in zip(problems, bad.values(), strict=True):
        assert problem is not None and problem.status == "unreadable" and problem.error.startswith(reason)


def test_without_keys_for_s3_no_picture_is_marked(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    reading._bucket.cache_clear()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(WorkspaceError, match="no S3 credentials"):
        read_block([f"s3://{s3.bucket}/7.png"], CLIP, s3.endpoint)
    reading._bucket.cache_clear()


def test_an_image_that_s3_refuses_is_unreadable(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    reading._bucket.cache_clear()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    address = f"s3://{s3.bucket}/7.png"
    (problem,) = read_block([address], CLIP, s3.endpoint).problems
    assert why_unreadable(address, s3.endpoint) is not None
    reading._bucket.cache_clear()
    assert problem is not None
    assert problem.status == "unreadable"
    assert problem.error.startswith(f"cannot read {address}: ")


# -- bounds and ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_endless_pictures_are_drawn_as_they_are_scored_and_an_end_ends_the_workers(workers: int) -> None:
    pytest.importorskip("torch")
    drawn = 0

    def endless() -> Iterator[Picture]:
        nonlocal drawn
        for value in itertools.cycle(range(256)):
            drawn += 1
            yield picture(value)

    scores = Stream(Brightness().model, workers=workers, batch_size=8).score(endless())
    for count, score in enumerate(itertools.islice(scores, 400)):
        assert score == Score(count % 256)
        assert drawn - count <= 8 * (AHEAD + 3)
    assert len(multiprocessing.active_children()) == workers
    scores.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def read_or_die(addresses: Sequence[str], how: Preprocessing, s3_endpoint: str | None) -> Block:
    if "deadly" in addresses:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_block(addresses, how, s3_endpoint)


def test_a_worker_that_dies_is_told_and_what_was_scored_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(reading, "read_block", read_or_die)
    found: list[Score] = []
    pictures = [*[picture(9)] * 40 * BLOCK, Picture("deadly")]
    with pytest.raises(PrepError, match=r"a process that reads and decodes images died.*\n  Set a smaller --workers"):
        found.extend(Stream(Brightness().model, workers=2, batch_size=BLOCK).score(pictures))
    assert found == [Score(9)] * len(found)
    assert len(found) >= 30 * BLOCK
    assert multiprocessing.active_children() == []


def test_an_error_of_the_pictures_own_comes_through() -> None:
    def pictures() -> Iterator[Picture]:
        yield picture(1)
        raise ZeroDivisionError("of the caller")

    pytest.importorskip("torch")
    with pytest.raises(ZeroDivisionError, match="of the caller"):
        list(Stream(Brightness().model, workers=1).score(pictures()))
    assert multiprocessing.active_children() == []


def score_without_end(address: str) -> None:
    """What the test below interrupts; a process of its own."""
    for number, _ in enumerate(Stream(Brightness().model, workers=2).score(itertools.repeat(Picture(address)))):
        if number == 200:
            print("scoring", flush=True)


def session_of(process: subprocess.Popen[str]) -> list[str]:
    """Processes of a session that have not ended."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        alive += [path.parent.name] if session == str(process.pid) and state != "Z" else []
    return alive


@pytest.mark.parametrize("deadly", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_end_at_once_and_leave_no_process(deadly: signal.Signals) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, __file__, picture(5).address]
    folders = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True, env=folders) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "scoring\n"
        assert len(session_of(process)) > 2
        if deadly == signal.SIGINT:
            os.killpg(process.pid, deadly)  # as a terminal does
        else:
            process.kill()
        process.wait(3)
        assert wait_until(lambda: not session_of(process), 3)
        told = process.stderr.read()
    assert told.count("Traceback") == (deadly == signal.SIGINT)  # of this process alone
    assert ("KeyboardInterrupt" in told) == (deadly == signal.SIGINT)


# -- the size of a batch ---------------------------------------------------------------------------------------------


def found_size(seconds: Callable[[int], float], first: int = 32, limit: int = MAX_BATCH) -> int:
    """The size that is found when a batch of n images takes `seconds(n)`."""
    size = BatchSize(first, limit)
    while not size.is_settled:
        size.measured(size.now, seconds(size.now))
    return size.now


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda count: 0.01 + count / 1000, 256),  # 2 % more from there on
        (lambda count: count / 1000, 32),
        (lambda count: 1.0 if count <= 128 else 3.0, 128),
        (lambda count: 1.0, MAX_BATCH),
    ],
    ids=["less and less gain", "no gain", "a loss", "gain without end"],
)
def test_a_batch_is_doubled_while_that_is_faster(seconds: Callable[[int], float], expected: int) -> None:
    assert found_size(seconds) == expected


def test_the_faster_of_some_batches_counts_and_other_sizes_do_not() -> None:
    size = BatchSize(32, MAX_BATCH)
    for seconds in (9.0, *[0.1] * (TRIALS - 1)):  # the first one has memory to allocate
        size.measured(32, seconds)
    assert size.now == 64
    for count in (32, 48, 65, 128):
        size.measured(count, 0.001)
    assert size.now == 64
    for _ in range(TRIALS):
        size.measured(64, 0.2)
    assert (size.now, size.is_settled) == (32, True)


def test_a_fixed_size_is_settled_and_only_memory_changes_it() -> None:
    size = BatchSize(48, 48)
    assert size.is_settled
    size.halve()
    assert (size.now, size.is_settled) == (24, True)


def test_a_batch_that_memory_does_not_suffice_for_is_halved_and_nothing_is_lost() -> None:
    pytest.importorskip("torch")
    notes: list[str] = []
    one = Stream(Brightness(memory=9, note=notes.append).model, batch_size=64)
    values = list(range(100))
    assert list(one.score(map(picture, values))) == [Score(value) for value in values]
    assert one.batch_size == 8
    assert {note for note in notes if note.startswith("run")} == {"run 8", "run 4"}


def test_a_model_that_leaves_no_memory_at_all_is_told() -> None:
    with pytest.raises(PrepError, match=r"not even one image fits .*\n  Close what else"):
        scored(Brightness(memory=0), [picture(1)])


def test_a_gpu_gives_the_same_scores_and_finds_its_batch_size() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    one = Stream(Brightness(device="cuda:0").model, workers=2)
    values = [number % 256 for number in range(5000)]
    scores = list(one.score(map(picture, values)))
    assert [score.value for score in scores] == pytest.approx(values, abs=1e-3)
    assert one.batch_size >= BLOCK


if __name__ == "__main__":
    score_without_end(sys.argv[1])
