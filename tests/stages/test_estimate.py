"""What downloads take together: the hub's windows, and the slower of bytes and windows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.cli.download_report import lines
from prep.stages.estimate import Disk, Estimate, Quota


@pytest.mark.parametrize(
    ("requests", "wait"), [(1, 0), (3000, 0), (3001, 300), (6000, 300), (6001, 600), (30_000, 2700)]
)
def test_requests_wait_for_whole_windows(requests: int, wait: int) -> None:
    assert Quota(requests, 3000, 300, False).wait_seconds == wait


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 3600))
def test_all_requests_fit_into_the_windows(requests: int, allowed: int, window: int) -> None:
    windows = Quota(requests, allowed, window, False).wait_seconds // window + 1
    assert allowed * (windows - 1) < requests <= allowed * windows


def estimate(free_bytes: int, quota: Quota | None, rate: float | None) -> Estimate:
    disk = Disk(Path("/data/raw"), 63_000_000_000, free_bytes)
    return Estimate(63_000_000_000, 1_200_000_000, 4128, 2, (disk,), quota, rate)


def test_everything_is_told_in_lines() -> None:
    found = estimate(10**12, Quota(4128, 3000, 300, False), 85e6)
    assert found.eta_seconds == 63e9 / 85e6
    assert lines(found) == [
        "to bring: 63.0 GB in 4,128 parts, 2 of them of unknown size; there already: 1.2 GB",
        "disk: 63.0 GB needed, 1.0 TB free in /data/raw",
        "hub: 4,128 requests; it allows 3,000 in 5 min, so it takes 5 min at least",
        "time: at least 12 min at 85.0 MB/s, measured just now over one connection",
    ]


def test_a_full_disk_and_a_slow_quota_are_told() -> None:
    found = estimate(10**9, Quota(90_001, 3000, 300, True), 1e9)
    assert found.eta_seconds == 9000
    assert lines(found)[1:] == [
        "disk: 63.0 GB needed, 1.0 GB free in /data/raw: NOT ENOUGH",
        "hub: 90,001 requests; the documented figure is 3,000 in 5 min, so it takes 2 h 30 min at least",
        "time: at least 2 h 30 min at 1.0 GB/s, measured just now over one connection",
    ]


def test_what_is_not_known_is_left_out() -> None:
    found = estimate(10**12, None, None)
    assert found.eta_seconds is None
    assert [line.split(":")[0] for line in lines(found)] == ["to bring", "disk"]
    assert (found.as_json()["hub"], found.as_json()["bytes_per_second"]) == (None, None)
