"""Which devices there are, one for each process, and the way there and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prep.errors import UsageError, WorkspaceError
from prep.scorers.devices import CPU, claim_device, devices, open_link


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_the_cpu_needs_no_torch() -> None:
    code = "import sys; from prep.scorers.devices import devices; print(devices('cpu'), 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "['cpu'] False\n"


@pytest.mark.parametrize(
    ("count", "choice", "expected"),
    [
        (0, None, ["cpu"]),
        (2, None, ["cuda:0", "cuda:1"]),
        (2, "cuda", ["cuda:0", "cuda:1"]),
        (2, "cuda:1", ["cuda:1"]),
        (2, "cpu", ["cpu"]),
    ],
)
def test_every_gpu_is_used_unless_one_is_named(
    count: int, choice: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    assert devices(choice) == expected


@pytest.mark.parametrize(
    ("count", "choice", "there"),
    [(0, "cuda", "cpu"), (1, "cuda:1", "cpu, cuda:0"), (1, "tpu", "cpu, cuda:0"), (1, "", "cpu, cuda:0")],
)
def test_a_device_that_is_not_there_is_refused(
    count: int, choice: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UsageError) as caught:
        devices(choice)
    assert caught.value.message == f"--device {choice}: no such device here"
    assert caught.value.next_step.startswith(f"Here are: {there}. ")


CLAIM = """
import sys
from pathlib import Path
from prep.scorers.devices import claim_device
print(claim_device(["cuda:0", "cuda:1"], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_each_process_has_a_device_of_its_own_until_it_ends(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CLAIM, str(tmp_path / "locks")]
        return subprocess.Popen(command, stdin=-1, stdout=-1, text=True)

    def claimed(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    with start() as first, start() as second:
        assert sorted([claimed(first), claimed(second)]) == ["cuda:0", "cuda:1"]
        with pytest.raises(WorkspaceError, match=r"on every device \(cuda:0, cuda:1\)"):
            claim_device(["cuda:0", "cuda:1"], tmp_path / "locks")
        first.kill()
        first.wait()
        with start() as third:
            assert claimed(third) in ("cuda:0", "cuda:1")
            third.kill()
        second.kill()


def test_a_process_keeps_the_device_it_has(tmp_path: Path) -> None:
    assert [claim_device(["cuda:0", "cuda:1"], tmp_path) for _ in range(3)] == ["cuda:0"] * 3


def test_pixels_reach_the_cpu_as_they_are_and_results_come_back_as_float32() -> None:
    torch = pytest.importorskip("torch")
    link = open_link(CPU)
    blocks = [np.full((count, 2, 2, 3), count, np.uint8) for count in (1, 3)]
    batch = link.gather([link.upload(block) for block in blocks])
    assert batch.dtype == torch.uint8
    assert batch.numpy().tolist() == np.concatenate(blocks).tolist()
    results = link.download(torch.tensor([[1.5], [2.5]], dtype=torch.bfloat16))()
    link.synchronize()
    assert results.dtype == np.float32
    assert results.tolist() == [[1.5], [2.5]]


def test_pixels_reach_a_gpu_and_results_come_back() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    link = open_link("cuda:0")
    blocks = [np.full((count, 224, 224, 3), count, np.uint8) for count in range(1, 30)]
    waits = []
    for _ in range(20):
        batch = link.gather([link.upload(block) for block in blocks])
        waits.append(link.download(batch[:, 0, 0, :1].float()))
    expected = [float(count) for count in range(1, 30) for _ in range(count)]
    assert [wait()[:, 0].tolist() for wait in waits] == [expected] * 20
