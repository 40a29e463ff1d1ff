"""Tell a list with dead addresses, which is normal, from a machine that cannot reach anything, which is not."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from prep.errors import SourceError

if TYPE_CHECKING:
    from prep.images.index import IndexRow

FIRST = 1_000  # results after which the first judgement falls
FEWEST = 100  # fewer than so many are no measure of a list
HOPELESS = 10  # so many addresses, none reached, are no accident
UNREACHED = ("dns", "connect", "tls", "timeout")
OUTAGE = 0.99  # of the last `FIRST`, not reached: the network is gone

_ADVICE = {
    "dns": "Names are not resolved: check the DNS of this machine",
    "connect": "Hosts cannot be connected to: check the network and the firewall of this machine",
    "timeout": "Hosts do not answer in time: check the network, or lower `fetch: {connections: ...}` in prep.yaml",
    "tls": "Certificates do not hold: check this machine's clock and its certificate authorities",
    "http_403": "Hosts refuse this machine's address",
    "http_429": "Hosts find this machine too busy: lower `fetch: {per_host: ...}` in prep.yaml",
    "blocked_address": "Names lead to private addresses: a network that answers for others, or your own "
    "(`allow_private_hosts: true` in prep.yaml allows them)",
    "not_an_image": "Something answers in the hosts' place: a login page of the network, or a proxy",
}


class Guard:
    """Watches one worker's results and ends its work when they cannot be true.

    Args:
        min_success: share of the first `FIRST` that has to give an image; None or 0 to do without.
    """

    def __init__(self, dataset: str, min_success: float | None) -> None:
        self._dataset = dataset
        self._min_success = min_success or 0.0
        self._seen = 0
        self._statuses: Counter[str] = Counter()
        self._examples: dict[str, IndexRow] = {}
        self._last: deque[str] = deque(maxlen=FIRST)

    def see(self, row: IndexRow) -> None:
        """Take one more result.

        Raises:
            SourceError: enough is seen to say that going on makes no sense.
        """
        self._statuses[row.status] += 1
        self._examples.setdefault(row.status, row)
        self._last.append(row.status)
        self._seen += 1
        if self._seen == FIRST:
            self._judge_first()
        if self._seen % FIRST == 0 and self._is_cut_off():
            raise self._stop(Counter(self._last))

    @property
    def is_sure(self) -> bool:
        """Whether the first judgement has fallen."""
        return self._seen >= FIRST

    def end(self) -> None:
        """Judge the whole, if it was too little for a judgement before.

        Raises:
            SourceError: as `see`; or not one address could be reached.
        """
        if FEWEST <= self._seen < FIRST:
            self._judge_first()
        if self._seen >= HOPELESS and sum(self._statuses[status] for status in UNREACHED) == self._seen:
            raise self._stop(self._statuses)

    def _judge_first(self) -> None:
        if self._statuses["ok"] < self._min_success * self._seen:
            raise self._stop(self._statuses)

    def _is_cut_off(self) -> bool:
        return sum(status in UNREACHED for status in self._last) >= OUTAGE * len(self._last)

    def _stop(self, statuses: Counter[str]) -> SourceError:
        status, _ = next(pair for pair in statuses.most_common() if pair[0] != "ok")
        example = self._examples[status]
        counts = ", ".join(f"{count:,} {name}" for name, count in statuses.most_common(4))
        detail = f" ({example.error})" if example.error else ""
        advice = _ADVICE.get(status, "Look at the addresses: the list may be old, or the wrong column")
        return SourceError(
            f"{self._dataset}: of {statuses.total():,} addresses {statuses['ok']:,} gave an image; {counts}; "
            f"for example {status}{detail} for {example.source}",
            f"{advice}. Then run the same command; what is stored stays. `prep images {self._dataset} --min-success 0` "
            "takes them as they are.",
        )
