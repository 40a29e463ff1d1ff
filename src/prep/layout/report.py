"""What a tree holds at last: pictures found per folder, lists, holes, and what brings what is missing."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from prep import progress
from prep.config import Catalogue
from prep.layout.places import FIRST_HOLE, IMAGE, behind_links, place_of
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
    r"gqa\.zip": ("gqa", "gqa"),
}
_ANYBODYS = re.compile(r"images(_\d+)?\.(zip|tar|tar\.gz|tgz)")  # three publishers call theirs so


@dataclass(frozen=True)
class FolderCount:
    """A folder of the tree.

    Attributes:
        expected: files when it is whole; None where nobody says.
        brings: the command that brings what is missing.
        note: why no command does.
    """

    folder: str
    dataset: str
    expected: int | None
    found: int
    brings: str = ""
    note: str = ""

    @property
    def missing(self) -> int | None:
        """Files that are not there; None where nobody can say."""
        return None if self.expected is None else max(0, self.expected - self.found)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        facts = {"folder": self.folder, "dataset": self.dataset, "expected": self.expected, "found": self.found}
        return facts | {"missing": self.missing, "brings": self.brings, "note": self.note}


class Archive(NamedTuple):
    """An archive that lies in a tree.

    Attributes:
        path: below the root.
        belongs: the folder below the root that its pictures are for.
        into: the folder below the root that it is unpacked in.
        command: what unpacks it.
    """

    path: str
    belongs: str
    into: str
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
        indexed: datasets whose images are all indexed -> why no command brings more of them.
        slices: datasets of which some parts were downloaded.
        links: as in the trainer's LINKS.
    """

    folders: Sequence[str] = tuple(FOLDERS)
    names: Collection[str] = NAMES.keys()
    indexed: Mapping[str, str] = {}
    slices: Collection[str] = ()
    links: Mapping[str, str] = LINKS


def links_of(names: Iterable[str]) -> dict[str, str]:
    """Those of the tree's links that the lists of some of the trainer's datasets need: they lie beside them."""
    folders = {NAMES[name].json_path.rpartition("/")[0] for name in names}
    return {path: to for path, to in LINKS.items() if path.rpartition("/")[0] in folders}


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
                note = "" if there else wanted.indexed.get(known.dataset, "")
                brings = _bringing(known.dataset, catalogue, images=True, is_slice=known.dataset in wanted.slices)
                count = replace(count, brings=" && ".join(there) or ("" if note else brings), note=note)
            tree.folders.append(count)
            advance(1)
    for name, builder in NAMES.items():
        path, images = root / builder.json_path, root / builder.image_folder
        is_lacking = name in wanted.names and not path.is_file()
        brings = _bringing(_dataset_of_list(path.name, catalogue), catalogue, images=False) if is_lacking else ""
        is_there = path.is_file() and images.is_dir()
        tree.pairs.append(Pair(name, path, images, is_there, name in wanted.names, brings))
    tree.holes = {path: _hole(root, path) for path in (FIRST_HOLE, *LINKS) if path in (*wanted.folders, *wanted.links)}
    return tree


def _hole(root: Path, path: str) -> str:
    """What is in the place of a hole: of a link, whether the folders of pictures are found through it."""
    behind = behind_links(path)
    inside = [path + folder.removeprefix(behind) for folder in FOLDERS if f"{folder}/".startswith(f"{behind}/")]
    if all((root / folder).is_dir() for folder in inside):
        return "there"
    is_link = any((root / place).is_symlink() for place in (path, *inside))
    return "leads to nothing yet" if is_link else "missing"


def folders_of(shown: Sequence[str]) -> list[str]:
    """The folders of the guide's tree that `shown` (where a recipe's tables look) are, or hold."""
    return [folder for folder in FOLDERS if any(f"{folder}/".startswith(f"{path}/") for path in shown)]


def count_pictures(folder: Path) -> int:
    """Pictures below a folder, hidden ones left out; 0 where there is none."""
    count, waiting = 0, [str(folder)]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
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


def known_archives(root: Path, archives: Iterable[str]) -> tuple[list[Archive], list[str]]:
    """Those of a tree's archives that are known, and the others, a sentence for each folder of them."""
    found, unknown = [], Counter[str]()
    examples: dict[str, str] = {}
    for archive in archives:
        path = root / archive
        folder = archive.rpartition("/")[0]
        belongs, into = _whose(path.name, _first_member(path), folder)
        if belongs:
            found.append(Archive(archive, belongs, into, _unpacking(path, root / into)))
        else:
            unknown[folder] += 1
            examples.setdefault(folder, path.name)
    sentences = [
        f"{count:,} archive{'s' * (count > 1)} in {folder or '.'} of which nothing says whose it is, such as "
        f"{examples[folder]}"
        for folder, count in unknown.items()
    ]
    return found, sentences


def _whose(name: str, first_member: str, folder: str) -> tuple[str, str]:
    """Which folder an archive's pictures are for, and where it is unpacked; empty where nothing tells.

    A name that anybody's may have tells less than the first member, and than the folder that the archive lies in.
    """
    by_name, by_member = (
        next((where for pattern, where in _ARCHIVES.items() if re.fullmatch(pattern, text)), ("", ""))
        for text in (name, first_member)
    )
    if not _ANYBODYS.fullmatch(name):
        return by_name if by_name[0] else by_member
    place = place_of(folder.split("/")) if folder else None
    by_folder = ("", "")
    if place is not None:
        by_folder = place.path, place.path.rpartition("/")[0] if first_member.startswith("images/") else place.path
    return next((where for where in (by_member, by_folder, by_name) if where[0]), ("", ""))


def _unpacking(path: Path, folder: Path) -> str:
    """The command that unpacks an archive and replaces nothing."""
    file, into = shlex.quote(str(path)), shlex.quote(os.path.normpath(folder))
    if path.suffix.lower() == ".zip":
        return f"unzip -nq {file} -d {into}"
    return f"mkdir -p {into} && tar -xkf {file} -C {into}"


def _first_member(path: Path) -> str:
    """The name that an archive begins with: of a zip's first local header, or of a tar's; empty if it is not read."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except PermissionError:
        return ""
    if start[:4] == b"PK\3\4":
        return start[30 : 30 + int.from_bytes(start[26:28], "little")].decode("utf-8", "replace")
    return start[:100].rstrip(b"\0").decode("utf-8", "replace")


def _dataset_of_list(name: str, catalogue: Catalogue) -> str:
    """The dataset that has a publisher's list; empty where none has it."""
    for dataset in catalogue.datasets():
        if any(table.records.parts.rpartition("/")[2] == name for table in dataset.tables.values()):
            return dataset.name
    return ""


def _bringing(dataset: str, catalogue: Catalogue, *, images: bool, is_slice: bool = False) -> str:
    """The commands that bring a dataset, in a workspace that wants it."""
    if dataset not in catalogue.dataset_names():
        return ""
    return f"prep download {dataset}{' --all' * is_slice}" + (f" && prep images {dataset}" if images else "")
