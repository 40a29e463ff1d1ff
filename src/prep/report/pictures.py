"""What became of a dataset's images: why they are missing and from which hosts, and how large those are that came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prep import sql
from prep.config import Dataset, UrlImages
from prep.manifest import read_finished
from prep.report.histograms import IMAGE_HEIGHT, IMAGE_WIDTH, SHAPE, Counter, Histogram, counting
from prep.scorers.scorer import OK
from prep.workspace import Workspace

MAX_HOST = 253  # characters of a name
HOSTS = 12  # listed, of those with the most failures
_SOURCE = r"'^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]/?#]*\]|[^:/?#]*)'"

# What sort of failure a status is; what is not here is an answer with that code.
_CLASSES = {
    "connection": ("dns", "connect", "tls", "timeout", "redirects"),
    "answer": ("empty",),
    "not asked": ("bad_url", "blocked_address", "opted_out"),
    "image": ("not_an_image", "truncated", "undecodable", "too_large", "too_many_pixels", "too_small"),
    "file": ("unsafe_name", "damaged", "lost", "unreadable", "gone"),
}
CLASS_OF = {status: name for name, statuses in _CLASSES.items() for status in statuses}


@dataclass(frozen=True)
class Host:
    """A host that images were asked of.

    Attributes:
        images: asked of it.
        statuses: of those that did not come, the commonest first.
    """

    name: str
    images: int
    failed: int
    statuses: dict[str, int]


@dataclass(frozen=True)
class DatasetImages:
    """What became of a dataset's images.

    Attributes:
        formats: good images by format.
        statuses: the others by status.
        hosts: those with the most failures, of addresses.
        failing_hosts: how many have any.
        histograms: sizes of the good ones, if they were asked for; these are `kept`, and nothing is `dropped`.
    """

    dataset: str
    good: int
    size_bytes: int
    formats: dict[str, int]
    statuses: dict[str, int]
    hosts: tuple[Host, ...]
    failing_hosts: int
    histograms: tuple[Histogram, ...]

    @property
    def missing(self) -> int:
        """Images that are not there."""
        return sum(self.statuses.values())

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"histograms": self.histograms}


def class_of(status: str) -> str:
    """What sort of failure a status is."""
    return CLASS_OF.get(status, "answer")


def dataset_images(workspace: Workspace, dataset: Dataset, *, sizes: bool) -> DatasetImages | None:
    """What became of a dataset's images; None where it has no finished index.

    Args:
        sizes: count them by size too, which is of use where samples do not say theirs.

    Raises:
        DataError: a shard of the index cannot be read.
    """
    folder = workspace.index(dataset.name)
    manifest = read_finished(folder)
    if manifest is None:
        return None
    paths = [folder / shard.name for shard in manifest.shards]
    statuses = {status: count for status, count in _most_first(manifest.counts) if status != OK}
    axes = (IMAGE_WIDTH, IMAGE_HEIGHT, SHAPE) if sizes else ()
    by_url = isinstance(dataset.images, UrlImages)
    with counting(workspace, f"stats {dataset.name}", len(paths) * (1 + by_url + len(axes))) as counter:
        formats, size_bytes = _formats(counter, paths)
        hosts, failing_hosts = _hosts(counter, paths) if by_url else ((), 0)
        histograms = [counter.index_histogram(axis, paths) for axis in axes]
    return DatasetImages(
        dataset.name,
        manifest.counts.get(OK, 0),
        size_bytes,
        formats,
        statuses,
        hosts,
        failing_hosts,
        tuple(histogram for histogram in histograms if histogram.bins),
    )


def _formats(counter: Counter, paths: Sequence[Path]) -> tuple[dict[str, int], int]:
    """Good images by format, and their bytes."""
    counts: dict[str, int] = {}
    size_bytes = 0
    for rows in counter.batches(paths):
        query = f"SELECT coalesce(format, '?'), count(*), sum(size_bytes) FROM {rows} WHERE status = '{OK}' GROUP BY 1"
        for name, count, found in counter.connection.execute(query).fetchall():
            counts[name] = counts.get(name, 0) + count
            size_bytes += int(found or 0)
    return dict(_most_first(counts)), size_bytes


def _hosts(counter: Counter, paths: Sequence[Path]) -> tuple[tuple[Host, ...], int]:
    """Hosts with the most failures, and how many have any; there may be millions, so DuckDB keeps the counts."""
    connection = counter.connection
    connection.execute("CREATE OR REPLACE TEMP TABLE found (host VARCHAR, status VARCHAR, images BIGINT)")
    for rows in counter.batches(paths):
        host = f"lower(left(regexp_extract(source, {_SOURCE}, 1), {MAX_HOST}))"
        connection.execute(f"INSERT INTO found SELECT {host}, status, count(*) FROM {rows} GROUP BY ALL")
    failed = f"sum(images) FILTER (WHERE status != {sql.text(OK)})"
    worst = connection.execute(
        f"SELECT host, sum(images), {failed} AS failed FROM found GROUP BY host "
        f"HAVING failed > 0 ORDER BY failed DESC, host LIMIT {HOSTS}"
    ).fetchall()
    names = [row[0] for row in worst]
    by_status = connection.execute(
        "SELECT host, status, sum(images) FROM found WHERE list_contains($names, host) AND status != $ok GROUP BY ALL",
        {"names": names, "ok": OK},
    ).fetchall()
    failing = f"SELECT count(DISTINCT host) FROM found WHERE status != {sql.text(OK)}"
    [[number]] = connection.execute(failing).fetchall()
    hosts = []
    for name, images, count in worst:
        statuses = {status: int(found) for host, status, found in by_status if host == name}
        hosts.append(Host(name, int(images), int(count), dict(_most_first(statuses))))
    return tuple(hosts), number


def _most_first(counts: Any) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
