"""A workspace's images at their places in the guide's tree: links to the stored bytes, never a second copy."""

from __future__ import annotations

import errno
import filecmp
import os
import posixpath
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prep import progress
from prep.config import Dataset
from prep.errors import UsageError, WorkspaceError
from prep.images.archives import safe_member
from prep.layout.places import behind_links
from prep.manifest import read_finished
from prep.trainers.convllava import NAMES
from prep.workspace import Workspace

How = Literal["hard", "soft"]
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
FAR = "it is on another disk than the images"
ROWS_AT_ONCE = 4000
THREADS = 8  # on a disk across a network a link is a round trip
EXAMPLES = 20


class Shown(NamedTuple):
    """A folder of the tree and the dataset whose images are linked there.

    Attributes:
        folder: below the tree's root.
        dataset: in the catalogue.
        is_by_stem: rows find its images whatever their extension, and call them `.jpg`.
    """

    folder: str
    dataset: str
    is_by_stem: bool


@dataclass
class Linked:
    """What was linked.

    Attributes:
        counts: folder -> how many images were `linked`, were `there`, had something else `in the way`, were `gone`
            from the store, had an `unsafe` name, or were not `ok` in the index.
        unready: datasets whose images are not indexed yet.
        in_the_way: some of the paths at which something else stands.
        lists: publishers' lists that were linked, or would be.
        no_place: entries of the recipe whose names are none of the trainer's, so that the tree has no place for them.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    unready: list[str] = field(default_factory=list)
    in_the_way: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    no_place: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        counts = {folder: dict(counts) for folder, counts in self.counts.items()}
        entries = {"no_place": self.no_place} if self.no_place else {}
        return {
            "folders": counts,
            "unready": self.unready,
            "in_the_way": self.in_the_way,
            "lists": self.lists,
            **entries,
        }


def shown_folders(workspace: Workspace) -> list[Shown]:
    """Which dataset's images the tables of the recipe look for in which folder: each once, in the recipe's order.

    A reference is joined to its list's image folder, so that is where its prefix is too.
    """
    found: dict[tuple[str, str], bool] = {}
    for entry in workspace.entries:
        own, table = workspace.table(entry.table)
        if entry.label not in NAMES:
            continue
        for prefix, dataset in table.image_datasets(own.name).items():
            folder = behind_links(posixpath.normpath(f"{NAMES[entry.label].image_folder}/{prefix}"))
            found[folder, dataset] = found.get((folder, dataset), False) or table.match == "stem"
    return [Shown(folder, dataset, is_by_stem) for (folder, dataset), is_by_stem in found.items()]


def check_disk(workspace: Workspace, root: Path) -> None:
    """Make sure, before anything is made, that hard links to a workspace's images and lists can be made at `root`.

    Raises:
        WorkspaceError: `root` is, or will be, on another disk than some of them.
    """
    here = next(folder for folder in (root, *root.parents) if folder.exists())
    folders = [Path(workspace.image_root) / item.dataset for item in shown_folders(workspace)]
    folders += [workspace.raw(workspace.table(entry.table)[0].name) for entry in workspace.entries]
    folders += [workspace.path(path, name) for name, path in workspace.config.image_folders.items()]
    if any(folder.exists() and disk_of(folder) != disk_of(here) for folder in folders):
        raise _no_hard_links(root, FAR)


def disk_of(folder: Path) -> int:
    """The number of the disk that a folder is on."""
    return folder.stat().st_dev


def link_all(workspace: Workspace, root: Path, how: How, *, dry_run: bool = False) -> Linked:
    """Give every indexed image and every list of the recipe its place below `root`.

    What stands there already is left: the same file, or one with the same bytes, counts as right.

    Raises:
        UsageError: the images are on S3.
        WorkspaceError: the disk makes no such links, or the tree is on another one.
    """
    if workspace.image_root.startswith("s3://"):
        raise UsageError(
            f"the images are at {workspace.image_root}, and a tree of links needs them on a disk",
            "Set `images` in prep.yaml to a folder, then `prep images`.",
        )
    linked = Linked(no_place=[entry.label for entry in workspace.entries if entry.label not in NAMES])
    shown = shown_folders(workspace)
    for item in shown:
        dataset = workspace.catalogue.dataset(item.dataset)
        manifest = read_finished(workspace.index(item.dataset))
        if manifest is None:
            linked.unready += [] if item.dataset in linked.unready else [item.dataset]
            continue
        shards = [workspace.index(item.dataset) / shard.name for shard in manifest.shards]
        store = f"{workspace.image_root}/{dataset.name}"
        task = _Task(root, item, store, how, dry_run, linked)
        with progress.bar(f"layout {item.folder}", manifest.rows, "images") as advance:
            task.run(shards, advance)
    _link_lists(workspace, root, how, dry_run, linked)
    return linked


@dataclass
class _Task:
    """The images of one dataset in one folder."""

    root: Path
    shown: Shown
    store: str
    how: How
    dry_run: bool
    linked: Linked
    target_fd: int | None = None

    def run(self, shards: Sequence[Path], advance: progress.Bar) -> None:
        """Link all, a few thousand at a time in a few threads."""
        counts = self.linked.counts.setdefault(self.shown.folder, Counter())
        under_way: deque[Future[Counter[str]]] = deque()

        def finish_one() -> None:
            done = under_way.popleft().result()
            counts.update(done)
            advance(done.total())

        self._open()
        try:
            with ThreadPoolExecutor(THREADS, "layout") as threads:
                for rows in _batches(shards):
                    under_way.append(threads.submit(self._link_rows, rows))
                    if len(under_way) > 2 * THREADS:
                        finish_one()
                while under_way:
                    finish_one()
        finally:
            if self.target_fd is not None:
                os.close(self.target_fd)

    def _open(self) -> None:
        """Open the folder: names from there are short, and a link is then to the file that a link leads to."""
        target = self.root / self.shown.folder
        if not self.dry_run:
            target.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            self.target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)

    def _link_rows(self, rows: list[dict[str, Any]]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for row in rows:
            if row["status"] != "ok":
                counts["not ok"] += 1
                continue
            name = safe_member(self._name(row["image_key"], row["format"]))
            state = "unsafe" if name is None else self._link(row["path"], name)
            counts[state] += 1
            if state == "in the way" and len(self.linked.in_the_way) < EXAMPLES:
                self.linked.in_the_way.append(f"{self.shown.folder}/{name}")
        return counts

    def _name(self, key: str, format_: str | None) -> str:
        """What rows call an image: its key; by stem, any JPEG is called `.jpg`."""
        if not self.shown.is_by_stem or format_ != "JPEG" or key.endswith(".jpg"):
            return key
        folder, slash, name = key.rpartition("/")
        return f"{folder}{slash}{name.rpartition('.')[0] or name}.jpg"

    def _link(self, path: str, name: str) -> str:
        if self.dry_run:
            is_there = self.target_fd is not None and self._is_something(name)
            return self._existing(path, name) if is_there else "linked"
        for attempt in range(2):
            try:
                self._make(path, name)
            except FileExistsError:
                return self._existing(path, name)
            except NotADirectoryError:
                return "in the way"
            except FileNotFoundError:
                if attempt:
                    return "gone"
                try:
                    (self.root / self.shown.folder / name).parent.mkdir(parents=True, exist_ok=True)
                except (FileExistsError, NotADirectoryError):
                    return "in the way"
            else:
                return "linked"
        raise AssertionError("the second attempt returns")

    def _is_something(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.target_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _make(self, path: str, name: str) -> None:
        if self.how == "soft":
            os.stat(self._stored(path))  # noqa: PTH116  # a link to nothing would be made without a word
            os.symlink(self._stored(path), name, dir_fd=self.target_fd)
            return
        _hard_link(self._stored(path), name, self.root, self.target_fd)

    def _existing(self, path: str, name: str) -> str:
        at = f"{self.root}/{self.shown.folder}/{name}"
        return "there" if _is_same(at, self._stored(path)) else "in the way"

    def _stored(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.store}/{path}"


def _batches(shards: Sequence[Path]) -> Iterator[list[dict[str, Any]]]:
    import pyarrow.parquet as pq

    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=["image_key", "status", "path", "format"]):
                yield batch.to_pylist()


def _is_same(at: str, stored: str) -> bool:
    """Whether a file is the stored one, or has its bytes."""
    try:
        return os.path.samefile(at, stored) or filecmp.cmp(at, stored, shallow=False)  # noqa: PTH121
    except FileNotFoundError:
        return False


def _hard_link(stored: str, at: str, root: Path, folder: int | None = None) -> None:
    """Make one hard link, to the file that a link leads to; what a disk says to it names the way out.

    Args:
        at: a path, from the open `folder` on.

    Raises:
        WorkspaceError: the disk makes no such links, or the file is on another one.
    """
    try:
        os.link(stored, at, dst_dir_fd=folder) if folder is not None else os.link(os.path.realpath(stored), at)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise _no_hard_links(root, FAR if error.errno == errno.EXDEV else str(error.strerror)) from error


def _no_hard_links(root: Path, why: str) -> WorkspaceError:
    return WorkspaceError(
        f"{root}: no hard links to the stored images can be made there: {why}",
        "Give --link soft, or a --root on the images' disk.",
    )


# -- the publishers' lists ---------------------------------------------------------------------------------------


def _link_lists(workspace: Workspace, root: Path, how: How, dry_run: bool, linked: Linked) -> None:
    """Give the lists of the recipe's entries their places, from the parts that were downloaded."""
    for entry in workspace.entries:
        if entry.label not in NAMES:
            continue
        target = NAMES[entry.label].json_path
        part = _find_part(workspace, workspace.table(entry.table)[0], target.rpartition("/")[2])
        if part is None or target in linked.lists:
            continue
        at = root / target
        if os.path.lexists(at):
            linked.in_the_way += [] if _is_same(str(at), str(part)) else [target]
            continue
        linked.lists.append(target)
        if dry_run:
            continue
        at.parent.mkdir(parents=True, exist_ok=True)
        if how == "soft":
            at.symlink_to(part)
            continue
        _hard_link(str(part), str(at), root)


def _find_part(workspace: Workspace, dataset: Dataset, name: str) -> Path | None:
    """A part of this name; None where there is none."""
    folder = workspace.raw(dataset.name)
    return min((path for path in folder.rglob(name) if path.is_file()), default=None)
