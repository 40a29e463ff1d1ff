"""What models run on: the devices there are, one for each process, and the way of pixels there and of results back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from prep.errors import UsageError, WorkspaceError
from prep.files import try_lock

if TYPE_CHECKING:
    from torch import Tensor

CPU = "cpu"
_claims: dict[Path, tuple[str, int]] = {}  # of this process, by folder of locks: the device, and the locked file


def devices(choice: str | None = None) -> list[str]:
    """The devices to run on, as torch names them: every GPU, else the CPU.

    Args:
        choice: `cpu`, `cuda` (every GPU) or one of them: `cuda:1`.

    Raises:
        UsageError: there is no such device.
    """
    if choice == CPU:
        return [CPU]
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if choice is None:
        return gpus or [CPU]
    chosen = gpus if choice == "cuda" else [gpu for gpu in gpus if gpu == choice]
    if not chosen:
        there = ", ".join([CPU, *gpus])
        raise UsageError(
            f"--device {choice}: no such device here",
            f"Here are: {there}. Leave --device out to take the best; `nvidia-smi` shows whether a GPU is seen.",
        )
    return chosen


def claim_device(choices: Sequence[str], lock_folder: Path) -> str:
    """The first device that no other process has claimed; it stays this process's own until the process ends.

    Args:
        lock_folder: on a file system with locks; the same for all processes that share the devices.

    Raises:
        WorkspaceError: all are taken.
    """
    if lock_folder in _claims:
        return _claims[lock_folder][0]
    lock_folder.mkdir(parents=True, exist_ok=True)
    for device in choices:
        path = lock_folder / f"{device.replace(':', '-')}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if try_lock(descriptor):
            _claims[lock_folder] = device, descriptor
            return device
        os.close(descriptor)
    raise WorkspaceError(
        f"another process runs on every device ({', '.join(choices)})", "Wait for it to end, or name another --device."
    )


# -- there and back --------------------------------------------------------------------------------------------------


class Link(Protocol):
    """The way to a device."""

    def upload(self, pixels: np.ndarray) -> Tensor:
        """Begin to bring a block of pixels to the device; its memory is free again when this returns."""

    def gather(self, blocks: Sequence[Tensor]) -> Tensor:
        """What was uploaded, as one batch that the model can take."""

    def download(self, results: Tensor) -> Callable[[], np.ndarray]:
        """Begin to bring results back; what is returned waits for them and gives them as float32."""

    def synchronize(self) -> None:
        """Wait until the device has nothing left to do."""


def open_link(device: str) -> Link:
    """The way to a device that `devices` named."""
    return CpuLink() if device == CPU else CudaLink(device)


class CpuLink:
    """Hardly a way at all."""

    def upload(self, pixels: np.ndarray) -> Tensor:
        """Copy the pixels to memory of their own."""
        import torch

        return torch.tensor(pixels)

    def gather(self, blocks: Sequence[Tensor]) -> Tensor:
        """Join the blocks."""
        import torch

        return torch.cat(tuple(blocks))

    def download(self, results: Tensor) -> Callable[[], np.ndarray]:
        """Give what is there already."""
        found: np.ndarray = results.float().numpy()
        return lambda: found

    def synchronize(self) -> None:
        """Nothing is under way."""


class CudaLink:
    """Copies beside the model's work: from pinned memory, on a stream of their own."""

    def __init__(self, device: str) -> None:
        import torch

        torch.cuda.set_device(device)  # else pinning would take memory of the first GPU
        self._device = torch.device(device)
        self._copies = torch.cuda.Stream(self._device)

    def upload(self, pixels: np.ndarray) -> Tensor:
        """Begin to copy; torch keeps the pinned memory until the copy is through."""
        import torch

        with torch.cuda.stream(self._copies):
            return torch.from_numpy(pixels).pin_memory().to(self._device, non_blocking=True)

    def gather(self, blocks: Sequence[Tensor]) -> Tensor:
        """Have the model's stream wait for the copies, and join them there."""
        import torch

        work = torch.cuda.current_stream(self._device)
        work.wait_stream(self._copies)
        for block in blocks:
            block.record_stream(work)  # else its memory could be given to the next copy before it has been joined
        return torch.cat(tuple(blocks))

    def download(self, results: Tensor) -> Callable[[], np.ndarray]:
        """Have the copy follow the model's work, and say when it is through."""
        import torch

        pinned = torch.empty(results.shape, dtype=torch.float32, pin_memory=True)
        pinned.copy_(results, non_blocking=True)
        is_there = torch.cuda.Event()
        is_there.record(torch.cuda.current_stream(self._device))

        def wait() -> np.ndarray:
            is_there.synchronize()
            found: np.ndarray = pinned.numpy()
            return found

        return wait

    def synchronize(self) -> None:
        """Wait for both streams."""
        import torch

        torch.cuda.synchronize(self._device)
