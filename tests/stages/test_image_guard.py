"""Dead addresses are normal; a machine that reaches nothing is not, and is told apart by what came first."""

from __future__ import annotations

import pytest

from prep.errors import SourceError
from prep.images.index import IndexRow
from prep.stages import image_guard
from prep.stages.image_guard import Guard


def seen(statuses: list[str], *, min_success: float | None = 0.1) -> str | None:
    """What the guard says of these results; None when it lets all pass."""
    guard = Guard("set", min_success)
    try:
        for number, status in enumerate(statuses):
            guard.see(IndexRow(f"key-{number}", status, f"http://h/{number}", error=None if status == "ok" else "why"))
        guard.end()
    except SourceError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_guard, "FIRST", 20)
    monkeypatch.setattr(image_guard, "FEWEST", 10)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("dns", "check the DNS of this machine"),
        ("connect", "check the network and the firewall"),
        ("tls", "check this machine's clock"),
        ("http_403", "Hosts refuse this machine's address"),
        ("http_429", "lower `fetch: {per_host: ...}`"),
        ("blocked_address", "`allow_private_hosts: true`"),
        ("not_an_image", "a login page of the network"),
        ("http_404", "the list may be old, or the wrong column"),
    ],
)
def test_a_first_shard_far_below_normal_is_stopped_and_says_why(status: str, advice: str) -> None:
    said = seen(["ok"] + [status] * 39)
    assert said is not None and said.startswith(
        f"set: of 20 addresses 1 gave an image; 19 {status}, 1 ok; for example {status} (why) for http://h/1\n"
    )
    assert advice in said and "`prep images set --min-success 0`" in said


def test_a_list_with_many_dead_addresses_passes() -> None:
    assert seen((["ok"] * 2 + ["http_404"] * 10 + ["dns"] * 8) * 3) is None
    assert seen(["http_404"] * 60, min_success=0.0) is None
    assert seen(["http_404"] * 60, min_success=None) is None


def test_a_handful_is_no_measure() -> None:
    assert seen(["http_404"] * 9) is None
    assert seen(["http_404"] * 10) is not None
    assert seen(["dns"] * 9) is None
    said = seen(["dns"] * 10, min_success=0)
    assert said is not None and said.startswith("set: of 10 addresses 0 gave an image; 10 dns;")


def test_a_network_that_goes_in_the_middle_is_noticed() -> None:
    good = ["ok"] * 40
    said = seen(good + ["connect"] * 20, min_success=None)
    assert said is not None and said.startswith("set: of 20 addresses 0 gave an image; 20 connect;")
    assert seen(good + ["connect"] * 19 + ["ok"]) is None
    assert seen(good + ["http_404"] * 20) is None
