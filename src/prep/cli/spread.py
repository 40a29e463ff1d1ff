"""`--rank`, `--world-size`, `--engine` and `--address`: work that many machines share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prep.engine import WHOLE, Share
from prep.errors import UsageError

if TYPE_CHECKING:
    from prep.workspace import Workspace

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Spread:
    """How the work of a command is spread: over the cores of this machine, over ranks, or over a Ray cluster.

    Attributes:
        address: of the Ray cluster; None for the one that is found.
    """

    own: Share = WHOLE
    is_ray: bool = False
    address: str | None = None

    @contextmanager
    def holding(self, workspace: Workspace) -> Iterator[None]:
        """Hold the workspace for writing, and have its stages spread their work meanwhile.

        Raises:
            WorkspaceError: another `prep` is writing here.
            UsageError: there is no cluster.
        """
        from prep.engine import working

        if self.is_ray:
            from prep.engine_ray import ray_cluster

            with workspace.exclusive(), ray_cluster(self.address, workspace.root):
                yield
        elif self.own.is_whole:
            with workspace.exclusive():
                yield
        else:
            with workspace.shared(self.own), working(self.own):
                yield


def spread(
    rank: int | None,
    world_size: int | None,
    engine: str,
    address: str | None,
    *,
    alone: dict[str, bool] | None = None,
    rules: Collection[str] = (),
) -> Spread:
    """How the options say the work is to be spread.

    Args:
        alone: options of the command that one process has to carry out, and whether each was given.
        rules: keys of recipes that were given as options. They are remembered, and taken back where they fail: one rank
            would take back what another has applied.

    Raises:
        UsageError: they do not go together.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: must be {' or '.join(ENGINES)}", "`--engine ray` uses a Ray cluster.")
    if address is not None and not address.strip():
        raise UsageError("--address is empty", "Name the head: --address HOST:PORT; without it one is found.")
    if address is not None and engine != "ray":
        raise UsageError("--address is of a Ray cluster", f"`--engine ray --address {address}`.")
    if (rank is None) != (world_size is None):
        raise UsageError("--rank and --world-size go together", "For example --rank 0 --world-size 8, rank 0 to 7.")
    if rank is None or world_size is None:
        return Spread(is_ray=engine == "ray", address=address)
    if engine == "ray":
        raise UsageError(
            "--rank is for processes that no engine runs", "Give --rank and --world-size, or --engine ray."
        )
    if rank >= world_size:
        raise UsageError(
            f"--rank {rank}: of {world_size} ranks the last is {world_size - 1}", "Ranks are counted from 0."
        )
    given = [option for option, is_given in (alone or {}).items() if is_given]
    if given and world_size > 1:
        raise UsageError(
            f"{given[0]} is for one process, and these are {world_size}",
            f"Run it without --rank, or leave {given[0]} out.",
        )
    if rules and world_size > 1:
        key = next(iter(rules))
        raise UsageError(
            f"--{key.replace('_', '-')} is for one process, and these are {world_size}",
            f"Write `{key}: ...` into the recipe's entries, which all ranks read.",
        )
    return Spread(Share(rank, world_size))
