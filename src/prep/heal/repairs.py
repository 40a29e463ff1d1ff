"""Repairs done: links, moves and images encoded anew, a batch at a time, each batch first written into the journal."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.engine import default_workers, run_tasks
from prep.heal import journal as entries
from prep.heal.inventory import OWN_FOLDER
from prep.heal.journal import Journal, own_folder, put_by
from prep.images.encode import Undecodable, rgb_jpeg

BATCH = 5000  # repairs that are written down together
ENCODED_TOGETHER = 32  # images of one task


@dataclass(frozen=True)
class Repair:
    """What is to be done for one image.

    Attributes:
        action: `link`, `move` or `encode`.
        path: where rows look for it, from the folder of images.
        source: the file that it is made of; the same path for one that is encoded where it stands.
        cause: how the two differ.
    """

    action: str
    path: str
    source: str
    cause: str


@dataclass(frozen=True)
class EncodeTask:
    """Images to encode: where each is, and the file that its JPEG is written to."""

    files: tuple[tuple[str, str], ...]


def encode_files(task: EncodeTask) -> list[tuple[str, str, str]]:
    """Encode images; of each the JPEG's path, and its SHA-256 or else why there is none."""
    results = []
    for source, target in task.files:
        try:
            jpeg = rgb_jpeg(Path(source).read_bytes())
            with Path(target).open("wb") as file:
                file.write(jpeg)
                file.flush()
                os.fsync(file.fileno())
        except (Undecodable, OSError) as error:
            results.append((target, "", str(error)))
        else:
            results.append((target, hashlib.sha256(jpeg).hexdigest(), ""))
    return results


class Surgeon:
    """Does repairs below one folder of images.

    Args:
        workers: processes that encode.
    """

    def __init__(self, base: Path, journal: Journal, workers: int | None = None) -> None:
        self._base, self._journal = base, journal
        self._workers = workers or default_workers()
        self._new = own_folder(base) / "new"
        self._kept = 0
        shutil.rmtree(self._new, ignore_errors=True)  # of a run that was killed
        self._new.mkdir()

    def __enter__(self) -> Surgeon:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._new, ignore_errors=True)

    def repair(self, batch: Sequence[Repair]) -> list[tuple[Repair, str]]:
        """Do a batch; those that could not be done, each with the reason."""
        failures: list[tuple[Repair, str]] = []
        jpegs = self._encode([repair for repair in batch if repair.action == entries.ENCODE], failures)
        plans = []
        for repair in batch:
            if repair.action != entries.ENCODE or repair.path in jpegs:
                try:
                    plans.append((repair, self._plan(repair, jpegs)))
                except OSError as error:
                    failures.append((repair, error.strerror or str(error)))
        self._journal.write([*self._folders(plan["to"] for _, plan in plans), *(plan for _, plan in plans)])
        undone = []
        for repair, plan in plans:
            try:
                self._do(repair, plan, jpegs)
            except OSError as error:
                undone.append({"do": entries.FAILED, "to": plan["to"]})
                failures.append((repair, error.strerror or str(error)))
        self._journal.write(undone)
        return failures

    def _encode(self, repairs: Sequence[Repair], failures: list[tuple[Repair, str]]) -> dict[str, tuple[Path, str]]:
        """Path -> its JPEG for the time being, and that one's hash."""
        targets = {str(self._new / f"{number}.jpg"): repair for number, repair in enumerate(repairs)}
        files = [(str(self._base / repair.source), target) for target, repair in targets.items()]
        tasks = [
            EncodeTask(tuple(files[start : start + ENCODED_TOGETHER]))
            for start in range(0, len(files), ENCODED_TOGETHER)
        ]
        jpegs = {}
        for results in run_tasks(encode_files, tasks, workers=min(self._workers, len(tasks)) or 1):
            for target, sha256, problem in results:
                if problem:
                    failures.append((targets[target], problem))
                else:
                    jpegs[targets[target].path] = (Path(target), sha256)
        return jpegs

    def _plan(self, repair: Repair, jpegs: dict[str, tuple[Path, str]]) -> dict[str, Any]:
        """What is written down of a repair."""
        inode = (self._base / repair.source).lstat().st_ino
        plan: dict[str, Any] = {"do": repair.action, "to": repair.path, "from": repair.source, "cause": repair.cause}
        if repair.action != entries.ENCODE:
            return plan | {"inode": inode}
        kept = None
        if repair.path == repair.source:
            self._kept += 1
            kept = f"{OWN_FOLDER}/{self._journal.originals.name}/{self._kept}{Path(repair.path).suffix}"
        return plan | {"sha256": jpegs[repair.path][1], "kept": kept}

    def _folders(self, paths: Iterable[str]) -> list[dict[str, str]]:
        """Folders that have to be made first, the upper ones before the lower."""
        missing: dict[str, None] = {}
        for path in paths:
            above = [parent for parent in Path(path).parents if not os.path.lexists(self._base / parent)]
            missing |= dict.fromkeys(str(parent) for parent in reversed(above))
        return [{"do": entries.MKDIR, "to": path} for path in missing]

    def _do(self, repair: Repair, plan: dict[str, Any], jpegs: dict[str, tuple[Path, str]]) -> None:
        """Carry it out; nothing that is there is written over."""
        source, target = self._base / repair.source, self._base / repair.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if repair.action == entries.LINK:
            os.link(source, target)
        elif repair.action == entries.MOVE:
            os.link(source, target)
            source.unlink()
        elif plan["kept"] is None:
            os.link(jpegs[repair.path][0], target)
        else:
            put_by(target, self._base / plan["kept"])
            jpegs[repair.path][0].replace(target)
