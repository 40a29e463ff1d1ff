"""What several downloads would take together: bytes, room on the disks, the hub's quota, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prep.sources.transfer import Session
from prep.stages.plan import Plan, PlannedPart, ask, is_on_the_web
from prep.web import USER_AGENT

MEASURED_SECONDS = 2.0
MEASURED_BYTES = 32 << 20
LEAST_BYTES = 256 << 10  # of less, the time is all greetings
PATIENCE_SECONDS = 15.0  # with servers that are asked for an estimate alone

# https://huggingface.co/docs/hub/rate-limits, "Resolvers", in a window of five minutes.
DOCUMENTED_WINDOW_SECONDS = 300
DOCUMENTED_ANONYMOUS, DOCUMENTED_FREE = 3_000, 5_000


@dataclass(frozen=True)
class Quota:
    """How many files the hub gives out in how much time.

    Attributes:
        requests: files to ask of it.
        allowed: requests in a window of `window_seconds`.
        is_documented: the hub did not say; these are its documentation's figures.
    """

    requests: int
    allowed: int
    window_seconds: int
    is_documented: bool

    @property
    def wait_seconds(self) -> int:
        """What the windows alone make of it: all requests but those of the last window have to wait."""
        return max(0, self.requests - 1) // self.allowed * self.window_seconds


@dataclass(frozen=True)
class Disk:
    """Room on one file system: the first folder of `raw/` on it, bytes needed, bytes free."""

    folder: Path
    needed_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What the downloads would take together.

    Attributes:
        bytes_per_second: as measured just now over one connection; None where nothing could be measured.
    """

    bytes_to_bring: int
    bytes_there: int
    parts: int
    unknown_sizes: int
    disks: tuple[Disk, ...]
    quota: Quota | None
    bytes_per_second: float | None

    @property
    def eta_seconds(self) -> float | None:
        """Time that the bytes, or the hub's windows, take; None where the rate is not known."""
        if self.bytes_per_second is None:
            return None
        return max(self.bytes_to_bring / self.bytes_per_second, self.quota.wait_seconds if self.quota else 0)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        quota = asdict(self.quota) | {"wait_seconds": self.quota.wait_seconds} if self.quota else None
        return {
            "parts": self.parts,
            "bytes_to_bring": self.bytes_to_bring,
            "bytes_there": self.bytes_there,
            "unknown_sizes": self.unknown_sizes,
            "disks": [asdict(disk) for disk in self.disks],
            "hub": quota,
            "bytes_per_second": self.bytes_per_second,
            "eta_seconds": self.eta_seconds,
        }


def estimate(plans: Sequence[Plan], *, bytes_there: int = 0, allow_private_hosts: bool = False) -> Estimate:
    """Add up `plans`, ask the hub for its quota, and bring a little of the largest missing part to nowhere.

    Args:
        bytes_there: bytes of datasets that need no plan.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    with Session(allow_private_hosts=allow_private_hosts, deadline=until) as session:
        return Estimate(
            sum(plan.bytes_to_bring for plan in plans),
            sum(plan.bytes_there for plan in plans) + bytes_there,
            sum(len(plan.missing) for plan in plans),
            sum(plan.unknown_sizes for plan in plans),
            _disks(plans),
            _quota(plans),
            _measure(session, plans),
        )


def _disks(plans: Sequence[Plan]) -> tuple[Disk, ...]:
    """A dataset's folder may be a link to another disk."""
    disks: dict[int, Disk] = {}
    for plan in plans:
        device = plan.disk_folder.stat().st_dev
        before = disks.get(device, Disk(plan.disk_folder, 0, plan.disk_free))
        disks[device] = Disk(before.folder, before.needed_bytes + plan.disk_needed, before.free_bytes)
    return tuple(disks.values())


def _quota(plans: Sequence[Plan]) -> Quota | None:
    """The hub's quota, as it says itself in the answer for one file; None where nothing is to be had from it."""
    requests = sum(plan.hub_requests for plan in plans)
    plan = next((plan for plan in plans if plan.hub_requests), None)
    if plan is None:
        return None
    from huggingface_hub.utils import build_hf_headers, get_session, parse_ratelimit_headers  # type: ignore[attr-defined]

    headers = build_hf_headers(user_agent=USER_AGENT)
    url = plan.missing[0].part.url
    try:  # its client rather than ours: the hub's own answer counts, not that of the storage it redirects to
        answer = get_session().head(url, headers=headers, follow_redirects=False, timeout=PATIENCE_SECONDS)
    except Exception:  # of any kind that its client knows: an estimate is no reason to fail
        return None
    said = parse_ratelimit_headers(answer.headers)
    if said and said.limit and said.window_seconds:
        return Quota(requests, said.limit, said.window_seconds, False)
    allowed = DOCUMENTED_FREE if "authorization" in headers else DOCUMENTED_ANONYMOUS
    return Quota(requests, allowed, DOCUMENTED_WINDOW_SECONDS, True)


def _measure(session: Session, plans: Sequence[Plan]) -> float | None:
    """Bytes a second of one connection to where the largest missing part is; None where that cannot be told."""

    def to_come(choice: tuple[Plan, PlannedPart]) -> int:
        return (choice[1].size_bytes or 0) - choice[1].kept_bytes

    missing = [(plan, part) for plan in plans for part in plan.missing if is_on_the_web(part.part)]
    if not missing:
        return None
    plan, part = max(missing, key=to_come)
    started = time.monotonic()
    answer = ask(session, plan.place.source, part.part, limit=MEASURED_BYTES, seconds=MEASURED_SECONDS)
    if answer is None or len(answer.body) < LEAST_BYTES:
        return None
    return len(answer.body) / (time.monotonic() - started)
