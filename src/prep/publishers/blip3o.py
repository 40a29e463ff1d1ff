"""BLIP3o's four repositories: WebDataset tars of `<key>.jpg` and `<key>.txt`, with no size and no score.

Names: BLIP3o-60k has eleven tars and prompt files beside them; Long-Caption three families with gaps in their
numbers; Short-Caption lacks 00842 and 01812. Keys repeat from tar to tar.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prep.publishers.packs import tar, write
from prep.publishers.pictures import Picture, truncate
from prep.publishers.traps import GOOD_SIZES, ODD_CAPTIONS

SIXTY_K = "BLIP3o/BLIP3o-60k"
LONG_CAPTION = "BLIP3o/BLIP3o-Pretrain-Long-Caption"
SUBJECTS = (
    "dalle3",
    "geneval_train",
    "human_gestures",
    "journeyDB",
    "mscoco_human",
    "object_1",
    "object_2",
    "occupation_1",
    "occupation_2",
    "text_1",
    "text_2",
)
PRETRAIN = {
    LONG_CAPTION: (
        "sa_000000",
        "sa_000002",
        "webdataset_shard_000",
        "webdataset_shard_1520",
        "webdataset_JDB_000",
    ),
    "BLIP3o/BLIP3o-Pretrain-Short-Caption": ("00841", "00843", "01811", "01813"),
    "BLIP3o/BLIP3o-Pretrain-JourneyDB": ("JourneyDB_001", "JourneyDB_054"),
}
Members = dict[str, bytes]


def write_blip3o(hub: Path) -> None:
    """Write the four repositories."""
    for subject in SUBJECTS:
        members = _samples(subject, 5)
        if subject in TRAPS:
            TRAPS[subject](members)
        write(hub / SIXTY_K / f"{subject}.tar", tar(members))
        lines = "".join(f"A prompt about {subject}, number {n}, not a caption\n" for n in range(6))
        (hub / SIXTY_K / f"{subject}.txt").write_text(lines, encoding="utf-8")
    for repo, stems in PRETRAIN.items():
        for stem in stems:
            members = _samples(stem, 3)
            if stem in PRETRAIN_TRAPS:
                PRETRAIN_TRAPS[stem](members)
            write(hub / repo / f"{stem}.tar", tar(members))


def _samples(stem: str, count: int) -> Members:
    """`count` picture-caption pairs whose keys start at 0 in every tar."""
    members: Members = {}
    for n in range(count):
        picture = Picture.named(f"{stem}-{n}", *GOOD_SIZES[n % len(GOOD_SIZES)])
        _add(members, n, picture.encode(), f"{picture.caption} From {stem}.")
    return members


def _add(members: Members, key: int, image: bytes | None, caption: str | None, suffix: str = "jpg") -> None:
    if image is not None:
        members[f"{key:09}.{suffix}"] = image
    if caption is not None:
        members[f"{key:09}.txt"] = caption.encode()


def _lone_members(members: Members) -> None:
    _add(members, 101, Picture(701, 560, 540).encode(), None)
    _add(members, 102, None, "A caption whose picture is missing")
    _add(members, 103, Picture(703, 560, 540).encode(), "")
    _add(members, 104, Picture(704, 560, 540).encode(), " \n")


def _broken_images(members: Members) -> None:
    _add(members, 111, truncate(Picture(711, 560, 540).encode()), "A JPEG that ends half way")
    _add(members, 112, b"", "A picture of no bytes at all")
    _add(members, 113, b"<html>not found</html>", "A member that is an HTML page")


def _other_formats(members: Members) -> None:
    _add(members, 121, Picture(721, 520, 520).encode("PNG"), "A picture in a .png member", "png")
    _add(members, 122, Picture(722, 560, 540).encode("WEBP"), "A picture in a .webp member", "webp")
    _add(members, 123, Picture(723, 560, 540).encode("WEBP"), "A WebP in a .jpg member")
    _add(members, 124, Picture(724, 560, 540).encode(), "A picture in a .jpeg member", "jpeg")


def _odd_captions(members: Members) -> None:
    for n, caption in enumerate(ODD_CAPTIONS):
        _add(members, 130 + n, Picture(730 + n, 560, 540).encode(), caption)


def _edge_sizes(members: Members) -> None:
    for n, (width, height) in enumerate(((512, 512), (511, 512), (512, 511), (513, 513))):
        caption = f"A picture of {width} by {height} pixels"
        _add(members, 140 + n, Picture(740 + n, width, height).encode(), caption)


TRAPS: dict[str, Callable[[Members], None]] = {
    "journeyDB": _lone_members,
    "object_1": _broken_images,
    "object_2": _other_formats,
    "text_1": _odd_captions,
    "occupation_1": _edge_sizes,
}
PRETRAIN_TRAPS: dict[str, Callable[[Members], None]] = {
    "sa_000002": _broken_images,
    "webdataset_shard_1520": _other_formats,
    "webdataset_JDB_000": _lone_members,
    "00843": _broken_images,
    "01813": _other_formats,
    "JourneyDB_054": _edge_sizes,
}
