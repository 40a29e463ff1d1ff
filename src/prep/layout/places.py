"""Which folder of a tree that somebody put together is which folder of the guide's.

A folder is known by the end of its path and by what its files are called: both have to agree. Spelling is forgiven
(case, `-` and `_`, `web-landmakr`), so is a step twice in a row, `images` too many or too few, and folders around it
whose names belong to the tree or to its wrappers; below any other folder nothing is known.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from prep.trainers.convllava import FOLDERS, LINKS, NAMES

IMAGE = re.compile(r"(?is).+\.(jpe?g|png|webp|gif|bmp|tiff?)")
ARCHIVE = re.compile(r"(?i).+\.(zip|tar|tar\.gz|tgz)")
FIRST_HOLE = "llava/llava_pretrain/images"  # the guide's tree lacks it, and ShareGPT4V-PT needs it
LISTS = {builder.json_path.rpartition("/")[2]: builder.json_path for builder in NAMES.values()}

_WRAPPERS = ("data", "ShareGPT4V", "ConvLLaVA", "playground", "images", "image_chunks", "train_val_images")
_TAR = re.compile(r"sa\d{6}")  # a folder named like one of SA-1B's archives
_ONLY_THEIRS = ("VG_100K", "VG_100K_2", "images_191task_1k", "image_191-task_1k", "allava_vflan")  # in whatever folder
_MISSPELT = {"weblandmakr": "weblandmark"}


class Place(NamedTuple):
    """A folder of pictures in the guide's tree.

    Attributes:
        path: below `data/`.
        entry: what stands in it is called.
        has_folders: whether that are folders (with pictures in them) and no pictures.
    """

    path: str
    entry: re.Pattern[str]
    has_folders: bool = False


# Folder -> what its entries are called, and other ends of a path that mean it. WebData, OCR-VQA and Vision-Flan call
# their pictures anything. SA-1B's archives hold a JSON file beside each picture.
_KNOWN_AS: dict[str, tuple[re.Pattern[str], tuple[str, ...]]] = {
    "allava/allava_laion/images": (re.compile(r"\d+\.\w+"), ("allava_laion/image_chunks",)),
    "coco/train2017": (re.compile(r"\d{12}\.jpg"), ("train2017",)),
    FIRST_HOLE: (re.compile(r"\d{5}"), ("LLaVA-Pretrain/images", "LLaVA-Pretrain", "llava/images", "llava")),
    "sam/images": (re.compile(r"sa_\d+\.(jpg|json)"), ()),
    "gqa/images": (re.compile(r"n?\d+\.jpg"), ()),
    "ocr_vqa/images": (IMAGE, ("ocr_vqa_images_llava_v15",)),
    "textvqa/train_images": (
        re.compile(r"[0-9a-f]{16}\.jpg"),
        ("train_images", "train_val_images", "textvqa/images", "textvqa"),
    ),
    "vg/VG_100K": (re.compile(r"\d+\.jpg"), ("VG_100K",)),
    "vg/VG_100K_2": (re.compile(r"\d+\.jpg"), ("VG_100K_2",)),
    "vflan/images_191task_1k": (
        IMAGE,
        ("images_191task_1k", "image_191-task_1k", "vflan/images", "vflan", "allava_vflan"),
    ),
}


def _plain(step: str) -> str:
    """A step without what people spell differently."""
    plain = re.sub("[-_]", "", step.casefold())
    return _MISSPELT.get(plain, plain)


def _ends() -> dict[tuple[str, ...], Place]:
    """End of a path, in plain steps -> the place that it means, the longest first."""
    ends = {}
    for path in FOLDERS:
        entry, names = _KNOWN_AS.get(path, (IMAGE, ()))
        own = path.removesuffix("/images")
        for name in (path, own, own.rpartition("/")[2], *names):
            ends[tuple(map(_plain, name.split("/")))] = Place(path, entry, path == FIRST_HOLE)
    return dict(sorted(ends.items(), key=lambda item: -len(item[0])))


_ENDS = _ends()
_COLLECTIONS = {_plain(path.partition("/")[0]) for path in FOLDERS}
_FIRST_STEPS = _COLLECTIONS | {end[0] for end in _ENDS}
_STEPS = {step for end in _ENDS for step in end} | {
    _plain(step) for path in (*_WRAPPERS, *LISTS.values(), *LINKS) for step in path.split("/")
}


def place_of(steps: Sequence[str]) -> Place | None:
    """The place that a folder's path means, if its files agree; None for a folder that is not known.

    A folder inside one of another collection is not known, but for those that nobody else has (`VG_100K`).

    Args:
        steps: of its path below the tree's root.
    """
    plain = [step for step, _ in groupby(map(_plain, steps))]
    while plain and _TAR.fullmatch(plain[-1]):
        plain.pop()
    if not _STEPS.issuperset(plain):
        return None
    whole = tuple(plain)
    for path in (whole, whole[:-1]) if whole[-1:] == ("images",) else (whole,):
        for end, place in _ENDS.items():
            if path[-len(end) :] == end:
                return place if _is_its_own(path, end, place) else None
    return None


def _is_its_own(path: tuple[str, ...], end: tuple[str, ...], place: Place) -> bool:
    """Whether the innermost collection that a path names is that of the place."""
    named = [step for step in path if step in _COLLECTIONS]
    return not named or named[-1] == _plain(place.path.partition("/")[0]) or end[-1] in map(_plain, _ONLY_THEIRS)


def is_of_tree(name: str) -> bool:
    """Whether a file or folder of this name, right below a folder, tells that the folder is a tree."""
    stem = name.partition(".")[0] if ARCHIVE.fullmatch(name) else name
    return _plain(stem) in _FIRST_STEPS or name in LISTS


def behind_links(path: str) -> str:
    """A path below the root as it is without the links of the guide's tree."""
    for link, to in LINKS.items():
        if f"{path}/".startswith(f"{link}/"):
            return posixpath.normpath(f"{posixpath.dirname(link)}/{to}/{path[len(link) :]}")
    return path


def printable(text: str) -> str:
    """A text with file names in it as it can be printed: bytes that are no UTF-8 are written as `\\xe9` is."""
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")
