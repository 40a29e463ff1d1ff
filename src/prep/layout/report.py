"""What a tree holds at last: pictures found per folder, lists, holes, and what brings what is missing."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from prep import progress
from prep.config import Catalogue
from prep.layout.places import FIRST_HOLE, IMAGE
from prep.trainers.convllava import FOLDERS, LINKS, NAMES

_WEB = ("share_textvqa", "web-celebrity", "web-landmark", "wikiart")
# What an archive is called, or its first member -> where it belongs and where it is unpacked, below the root. WebData's
# have `data/` in them, and the next look at the tree puts that right.
_ARCHIVES = {
    r"train2017\.zip|train2017/.*": ("coco", "coco"),
    r"train_val_images\.zip|train_images/.*": ("textvqa", "textvqa"),
    r"VG_100K/.*": ("vg/VG_100K", "vg"),
    r"VG_100K_2/.*": ("vg/VG_100K_2", "vg"),
    r"\d{5}/.*": (FIRST_HOLE, FIRST_HOLE),
    r"images?_191-?task_1k(\.zip|/.*)": ("vflan", "vflan"),
    r"images_\d\.zip": ("allava/allava_laion", "allava/allava_laion"),
    r"ocr_?vqa.*\.zip": ("ocr_vqa", "ocr_vqa"),
    r"(\./)?sa_\d+(\.tar|\.jpg|\.json)": ("sam/images", "sam/images"),
    **{rf"{name}\.zip|data/{name}/.*": (name, ".") for name in _WEB},
    r"web-landmakr\.zip": ("web-landmark", "."),
    r"(gqa|images)\.zip": ("gqa", "gqa"),
}


@dataclass(frozen=True)
class FolderCount:
    """A folder of the tree.

    Attributes:
        expected: files when it is whole; None where nobody says.
        brings: the command that brings what is missing.
    """

    folder: str
    dataset: str
    expected: int | None
    found: int
    brings: str = ""

    @property
    def missing(self) -> int | None:
        """Files that are not there; None where nobody can say."""
        return None if self.expected is None else max(0, self.expected - self.found)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        facts = {"folder": self.folder, "dataset": self.dataset, "expected": self.expected, "found": self.found}
        return facts | {"missing": self.missing, "brings": self.brings}


class Archive(NamedTuple):
    """An archive that lies in a tree.

    Attributes:
        path: below the root.
        belongs: the folder below the root that its pictures are for.
        command: what unpacks it.
    """

    path: str
    belongs: str
    command: str


@dataclass(frozen=True)
class Pair:
    """What the trainer's module of datasets wants for one name.

    Attributes:
        is_there: whether both are.
        is_wanted: whether the recipe has it.
        brings: the command that brings the list.
    """

    name: str
    json_path: Path
    image_folder: Path
    is_there: bool
    is_wanted: bool = True
    brings: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        paths = {"name": self.name, "json": str(self.json_path), "images": str(self.image_folder)}
        return paths | {"is_there": self.is_there, "is_wanted": self.is_wanted, "brings": self.brings}


@dataclass
class Tree:
    """A tree as it is.

    Attributes:
        holes: what the guide's own tree lacks -> `there`, `missing`, or `leads to nothing yet`, of a link.
    """

    folders: list[FolderCount] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    holes: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"folders": self.folders, "pairs": self.pairs, "holes": self.holes}


class Wanted(NamedTuple):
    """What a tree should have.

    Attributes:
        folders: of pictures.
        names: of the trainer's datasets.
        indexed: datasets whose images are all indexed: what is missing of them is in no archive.
    """

    folders: Sequence[str] = tuple(FOLDERS)
    names: Collection[str] = NAMES.keys()
    indexed: Collection[str] = ()


def look_at(root: Path, catalogue: Catalogue, archives: Sequence[Archive], wanted: Wanted) -> Tree:
    """Count what is in a tree.

    Args:
        archives: what lies in the tree and may not be unpacked.
    """
    tree = Tree()
    with progress.bar("layout count", len(wanted.folders), "folders") as advance:
        for folder in wanted.folders:
            known = FOLDERS[folder]
            count = FolderCount(folder, known.dataset, known.files, count_pictures(root / folder))
            if not count.found or count.missing:
                there = [archive.command for archive in archives if f"{folder}/".startswith(f"{archive.belongs}/")]
                brings = (
                    "prep heal" if known.dataset in wanted.indexed else _bringing(known.dataset, catalogue, images=True)
                )
                count = replace(count, brings=" && ".join(there) or brings)
            tree.folders.append(count)
            advance(1)
    for name, builder in NAMES.items():
        path, images = root / builder.json_path, root / builder.image_folder
        is_lacking = name in wanted.names and not path.is_file()
        brings = _bringing(_dataset_of_list(path.name, catalogue), catalogue, images=False) if is_lacking else ""
        is_there = path.is_file() and images.is_dir()
        tree.pairs.append(Pair(name, path, images, is_there, name in wanted.names, brings))
    tree.holes = {path: _hole(root / path) for path in (FIRST_HOLE, *LINKS) if path in (*wanted.folders, *LINKS)}
    return tree


def _hole(path: Path) -> str:
    if path.is_dir():
        return "there"
    return "leads to nothing yet" if path.is_symlink() else "missing"


def folders_of(shown: Sequence[str]) -> list[str]:
    """The folders of the guide's tree that `shown` (where a recipe's tables look) are, or hold."""
    return [folder for folder in FOLDERS if any(f"{folder}/".startswith(f"{path}/") for path in shown)]


def count_pictures(folder: Path) -> int:
    """Pictures below a folder, hidden ones left out; 0 where there is none."""
    count, waiting = 0, [str(folder)]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if IMAGE.fullmatch(entry.name):
                    count += 1
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return count


def known_archives(root: Path, archives: Iterable[str]) -> list[Archive]:
    """Those of a tree's archives that are known, by their names or by their first members."""
    found = []
    for archive in archives:
        path = root / archive
        names = [path.name, _first_member(path)]
        if path.name == "images.zip":  # three publishers call theirs so
            names.reverse()
        fits = (where for name in names for pattern, where in _ARCHIVES.items() if re.fullmatch(pattern, name))
        belongs, into = next(fits, ("", ""))
        if belongs:
            found.append(Archive(archive, belongs, _unpacking(path, root / into)))
    return found


def _unpacking(path: Path, folder: Path) -> str:
    """The command that unpacks an archive and replaces nothing."""
    file, into = shlex.quote(str(path)), shlex.quote(os.path.normpath(folder))
    if path.suffix.lower() == ".zip":
        return f"unzip -nq {file} -d {into}"
    return f"mkdir -p {into} && tar -xkf {file} -C {into}"


def _first_member(path: Path) -> str:
    """The name that an archive begins with: of a zip's first local header, or of a tar's."""
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:4] == b"PK\3\4":
        return start[30 : 30 + int.from_bytes(start[26:28], "little")].decode("utf-8", "replace")
    return start[:100].rstrip(b"\0").decode("utf-8", "replace")


def _dataset_of_list(name: str, catalogue: Catalogue) -> str:
    """The dataset that has a publisher's list; empty where none has it."""
    for dataset in catalogue.datasets():
        if any(table.records.parts.rpartition("/")[2] == name for table in dataset.tables.values()):
            return dataset.name
    return ""


def _bringing(dataset: str, catalogue: Catalogue, *, images: bool) -> str:
    """The commands that bring a dataset, in a workspace that wants it."""
    if dataset not in catalogue.dataset_names():
        return ""
    return f"prep download {dataset}" + (f" && prep images {dataset}" if images else "")
