"""The contract of ConvLLaVA: its dataset names, the folder tree that its guide wants, what fits which stage.

Facts are those of the trainer's data page (`docs/Data.md` of alibaba/conv-llava) and of its module of datasets
(`llava/data/data.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prep.config import nearest

IMAGE = "image"
TURNS = "conversations"
KIND = "conversation"  # of tables that this trainer can have
DEFAULT_DATASET = "llava150k"  # of the trainer's option --dataset; none of the nine


class Builder(NamedTuple):
    """What the trainer's module of datasets binds to a dataset name.

    Attributes:
        function: the builder's name there.
        json_path: the publisher's list, below `data/`.
        image_folder: what `image` of its rows is joined to, below `data/`; `.` is `data/` itself.
    """

    function: str
    json_path: str
    image_folder: str


class Folder(NamedTuple):
    """A folder of pictures in the guide's tree.

    Attributes:
        dataset: what fills it, in our catalogue.
        files: how many there are when it is whole; None where nobody says.
    """

    dataset: str
    files: int | None = None


# The names and builders are the trainer's. Which list and folder belong to a name follows from how the paths in the
# lists begin; the guide has no place for the list of LCS, which is put beside its pictures.
NAMES = {
    "lcs": Builder("build_lcs", "llava/llava_pretrain/blip_laion_cc_sbu_558k.json", "llava/llava_pretrain/images"),
    "sharegpt4vpretrain": Builder("build_sharegpt4v", "sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107.json", "."),
    "sharegpt4v100k": Builder("build_sharegpt4v100k", "sharegpt4v/sharegpt4v_instruct_gpt4-vision_cap100k.json", "."),
    "llava665k": Builder("build_llava665k", "llava/llava_v1_5_mix665k.json", "."),
    "vflan": Builder("build_vflan", "vflan/annotation_191-task_1k.json", "vflan/images_191task_1k"),
    "allava_laion_caption": Builder(
        "build_allava_laion_caption", "allava/allava_laion/ALLaVA-Caption-LAION-4V.json", "allava"
    ),
    "allava_vflan_caption": Builder(
        "build_allava_vflan_caption", "allava/allava_vflan/ALLaVA-Caption-VFLAN-4V.json", "allava"
    ),
    "allava_laion_instruct": Builder(
        "build_allava_laion_instruct", "allava/allava_laion/ALLaVA-Instruct-LAION-4V.json", "allava"
    ),
    "allava_vflan_instruct": Builder(
        "build_allava_vflan_instruct", "allava/allava_vflan/ALLaVA-Instruct-VFLAN-4V.json", "allava"
    ),
}

# The guide's tree below `data/`. Counts of COCO to Visual Genome are those of LLaVA's issue 702; LCS has a picture a
# row; of SAM the rows of ShareGPT4V-PT that name one (51 tars of 11,186); Vision-Flan's are in its one zip. LAION's
# pictures of ALLaVA and those of WebData have been counted by nobody who says so.
FOLDERS = {
    "allava/allava_laion/images": Folder("allava"),
    "coco/train2017": Folder("coco-train2017", 118_287),
    "llava/llava_pretrain/images": Folder("lcs-558k", 558_128),  # not in the guide's tree: its first hole
    "sam/images": Folder("sa-1b", 570_486),
    "gqa/images": Folder("gqa", 148_854),
    "ocr_vqa/images": Folder("ocr-vqa", 207_572),
    "textvqa/train_images": Folder("textvqa", 25_119),
    "vg/VG_100K": Folder("visual-genome", 64_346),
    "vg/VG_100K_2": Folder("visual-genome", 43_903),
    "vflan/images_191task_1k": Folder("vision-flan", 181_393),
    "share_textvqa/images": Folder("share-textvqa"),
    "web-celebrity/images": Folder("web-celebrity"),
    "web-landmark/images": Folder("web-landmark"),
    "wikiart/images": Folder("wikiart"),
}

# The second hole: ALLaVA's lists look for Vision-Flan's pictures in a folder of their own. Link -> what it leads to.
LINKS = {"allava/allava_vflan/images": "../../vflan"}

_CAPTIONS = ("sharegpt4vpretrain", "sharegpt4v100k", "allava_laion_caption", "allava_vflan_caption")

# Stage -> names that fit what the guide says of it: captions for the projector; those and a part of Vision-Flan for
# pre-training (which part nobody says); LLaVA's instructions at last.
STAGES: dict[int, tuple[str, ...]] = {1: _CAPTIONS, 2: (*_CAPTIONS, "vflan"), 3: ("llava665k",)}


def dataset_option(names: Sequence[str]) -> str:
    """The value of the trainer's option `--dataset`: it splits at commas and trims nothing."""
    return ",".join(dict.fromkeys(names))


def nearest_name(name: str) -> str:
    """A hint at the dataset name that was meant; empty where none is near."""
    return nearest(name.strip(), NAMES)
