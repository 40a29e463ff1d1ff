"""The datasets of pictures behind ConvLLaVA's lists: publishers' files to an index, and found by references."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from lines import Finished
from PIL import Image

from prep.config import Catalogue, HttpSource, ManualSource, packaged_configs
from prep.publishers import Fault, World
from prep.publishers.ocr_vqa import ARCHIVE, BROKEN, COPY, REPO, cover
from prep.publishers.sa_1b import picture
from prep.publishers.webdata import ZIPS
from prep.sources import matching
from worlds import make_workspace, prep, prep_json

Index = dict[str, tuple[str, str | None]]

# How references begin in ConvLLaVA's lists -> dataset. `data/<prefix>/<key>` is a picture's place in the guide's tree.
PREFIXES = {
    "gqa/images": "gqa",
    "ocr_vqa/images": "ocr-vqa",
    "sam/images": "sa-1b",
    "share_textvqa/images": "share-textvqa",
    "textvqa/train_images": "textvqa",
    "vg": "visual-genome",
    "web-celebrity/images": "web-celebrity",
    "web-landmark/images": "web-landmark",
    "wikiart/images": "wikiart",
}

# Image key -> status, and path below the dataset's folder in the image store.
OCR = ARCHIVE.removesuffix(".zip") + "/images"
INDEXES: dict[str, Index] = {
    "gqa": {name: ("ok", f"images/images/{name}") for name in ("2375429.jpg", "n1234567.jpg", "51.jpg")},
    "ocr-vqa": {
        "761183272.jpg": ("ok", f"{OCR}/761183272.jpg"),
        "0123456789.jpg": ("ok", f"{OCR}/0123456789.jpg"),
        "014028329X.jpg": ("ok", f"{OCR}/014028329X.jpg"),
        "1565928555.png": ("ok", f"{OCR}/1565928555.png.jpg"),
        "B000234N7K.GIF": ("ok", f"{OCR}/B000234N7K.GIF.jpg"),
        "1437717772.jpg": ("truncated", None),
        "0007179677.jpg": ("ok", f"{OCR}/0007179677.jpg"),
    },
    "sa-1b": {
        "sa_1.jpg": ("ok", "sa_000000/sa_1.jpg"),
        "sa_3.jpg": ("ok", "sa_000000/sa_3.jpg"),
        "sa_5.jpg": ("ok", "sa_000001/sa_5.jpg"),
        "sa_6.jpg": ("ok", "sa_000001/sa_6.jpg"),
        "sa_9.jpg": ("ok", "sa_000002/sa_9.jpg"),
        "sa_000002: bytes 3,584 to 6,143": ("lost", None),
        "sa_12.jpg": ("ok", "sa_000002/sa_12.jpg"),
        "sa_14.jpg": ("damaged", None),
        "sa_000002: bytes 11,546 on": ("lost", None),
    },
    "textvqa": {
        name: ("ok", f"train_val_images/train_images/{name}")
        for name in ("0a1b2c3d4e5f6071.jpg", "ffee0011223344aa.jpg")
    },
    "visual-genome": {
        "VG_100K/2.jpg": ("ok", "images/VG_100K/2.jpg"),
        "VG_100K/61.jpg": ("ok", "images/VG_100K/61.jpg"),
        "VG_100K_2/51.jpg": ("ok", "images2/VG_100K_2/51.jpg"),
        "VG_100K_2/61.jpg": ("ok", "images2/VG_100K_2/61.jpg"),
        "VG_100K_2/52.jpg": ("empty", None),
        "VG_100K_2/53.jpg": ("empty", None),
    },
    "web-celebrity": {
        name: ("ok", f"web-celebrity/data/web-celebrity/images/{name}") for name in ("a b.jpg", "l1.jpg")
    },
    "web-landmark": {"l1.jpg": ("ok", "web-landmark/data/web-landmark/images/l1.jpg")},
    "wikiart": {"w1.jpg": ("ok", "wikiart/data/wikiart/images/w1.jpg")},
    "share-textvqa": {"s1.jpg": ("ok", "share_textvqa/data/share_textvqa/images/s1.jpg")},
}

# Reference -> the index's key that it has to find, or the reason that its row is dropped for.
FOUND = {
    "gqa/images/2375429.jpg": "2375429.jpg",
    "gqa/images/n1234567.jpg": "n1234567.jpg",
    "gqa/images/51.jpg": "51.jpg",
    "ocr_vqa/images/761183272.jpg": "761183272.jpg",
    "ocr_vqa/images/0123456789.jpg": "0123456789.jpg",
    "ocr_vqa/images/014028329X.jpg": "014028329X.jpg",
    "ocr_vqa/images/1565928555.jpg": "1565928555.png",
    "ocr_vqa/images/B000234N7K.jpg": "B000234N7K.GIF",
    "sam/images/sa_1.jpg": "sa_1.jpg",
    "sam/images/sa_5.jpg": "sa_5.jpg",
    "sam/images/sa_9.jpg": "sa_9.jpg",
    "sam/images/sa_12.jpg": "sa_12.jpg",
    "share_textvqa/images/s1.jpg": "s1.jpg",
    "textvqa/train_images/0a1b2c3d4e5f6071.jpg": "0a1b2c3d4e5f6071.jpg",
    "textvqa/train_images/ffee0011223344aa.jpg": "ffee0011223344aa.jpg",
    "vg/VG_100K/2.jpg": "VG_100K/2.jpg",
    "vg/VG_100K/61.jpg": "VG_100K/61.jpg",
    "vg/VG_100K_2/51.jpg": "VG_100K_2/51.jpg",
    "vg/VG_100K_2/61.jpg": "VG_100K_2/61.jpg",
    "web-celebrity/images/a b.jpg": "a b.jpg",
    "web-celebrity/images/l1.jpg": "l1.jpg",
    "web-landmark/images/l1.jpg": "l1.jpg",
    "wikiart/images/w1.jpg": "w1.jpg",
}
DROPPED = {
    "ocr_vqa/images/1437717772.jpg": "image_truncated",
    "ocr_vqa/images/9.jpg": "image_missing",
    "sam/images/sa_2.jpg": "image_missing",
    "sam/images/sa_11.jpg": "image_missing",
    "sam/images/sa_14.jpg": "image_damaged",
    "vg/VG_100K_2/2.jpg": "image_missing",
    "vg/VG_100K_2/52.jpg": "image_empty",
    "web-celebrity/images/Choi_Min-sik.jpg": "image_missing",
}


def dataset_of(reference: str) -> tuple[str, str]:
    """The dataset that a reference leads to, and what follows the prefix."""
    prefix = next(prefix for prefix in PREFIXES if reference.startswith(f"{prefix}/"))
    return PREFIXES[prefix], reference.removeprefix(f"{prefix}/")


def captions(root: Path, references: Iterable[str], prefixes: Mapping[str, str]) -> None:
    """A table with a row for each reference, in the workspace's own datasets."""
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A picture."}]
    rows = [{"image": image, "conversations": turns} for image in references]
    (root / "rows.json").write_text(json.dumps(rows))
    table = {
        "kind": "conversation",
        "images_from": dict(prefixes),
        "records": {"format": "json", "parts": "rows.json", "fields": {"image": "text", "conversations": "json"}},
        "image": "image",
        "match": "stem",
        "select": {"conversations": "conversations"},
        "extra": {"reference": "image"},
    }
    source = {"kind": "local", "path": "rows.json"}
    add_dataset(root, {"name": "rows", "source": source, "tables": {"rows": table}})


def add_dataset(root: Path, dataset: Mapping[str, Any]) -> None:
    (root / "datasets").mkdir(exist_ok=True)
    (root / "datasets" / f"{dataset['name']}.yaml").write_text(yaml.safe_dump(dict(dataset)))


def kept(root: Path) -> dict[str, str]:
    """Reference -> path in the image store."""
    rows = pq.read_table(root / "filtered" / "rows.parquet").to_pylist()
    return {row["image_key"]: row["image"].removeprefix(f"{root}/images/") for row in rows}


def dropped(root: Path) -> dict[str, str]:
    """Reference -> reason."""
    samples = pq.read_table(root / "normalized" / "rows.parquet").to_pylist()
    references = {row["key"]: row["image_key"] for row in samples}
    rows = pq.read_table(root / "dropped" / "rows.parquet").to_pylist()
    return {references[row["key"]]: row["reason"] for row in rows}


def index(root: Path, dataset: str) -> Index:
    rows = pq.read_table(root / "index" / f"{dataset}.parquet").to_pylist()
    return {row["image_key"]: (row["status"], row["path"]) for row in rows}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, running_world: World) -> Finished:
    root = workspace(tmp_path_factory.mktemp("pictures"), running_world)
    return Finished(root, prep_json(root, "run", world=running_world))


def workspace(
    root: Path,
    world: World,
    references: Iterable[str] = (*FOUND, *DROPPED),
    prefixes: Mapping[str, str] = PREFIXES,
    **config: Any,
) -> Path:
    """A workspace whose one table has these pictures, by default some of every dataset."""
    made = make_workspace(root / "workspace", {"name": "tried", "entries": [{"table": "rows"}]}, world, **config)
    captions(made, references, prefixes)
    return made


def fetched(root: Path, world: World, dataset: str) -> Any:
    """Download a dataset and store its pictures; what the download printed."""
    result = prep_json(root, "download", dataset, world=world)
    prep_json(root, "images", dataset, world=world)
    return result


# -- what is stored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", INDEXES)
def test_index(line: Finished, dataset: str) -> None:
    assert index(line.root, dataset) == INDEXES[dataset]


def test_references_find_their_pictures(line: Finished) -> None:
    paths = {}
    for reference, key in FOUND.items():
        dataset, _ = dataset_of(reference)
        paths[reference] = f"{dataset}/{INDEXES[dataset][key][1]}"
    assert kept(line.root) == paths
    assert dropped(line.root) == DROPPED


def test_a_key_is_the_place_in_the_tree(line: Finished) -> None:
    """Without its extension, where OCR-VQA's pictures are concerned."""
    for reference, key in FOUND.items():
        dataset, rest = dataset_of(reference)
        assert rest == (key.partition(".")[0] + ".jpg" if dataset == "ocr-vqa" else key)


def test_covers_are_jpeg_in_rgb_of_the_first_frame(line: Finished) -> None:
    for key, (_, path) in INDEXES["ocr-vqa"].items():
        if path is None or key == BROKEN:
            continue
        with Image.open(line.root / "images" / "ocr-vqa" / path) as image:
            assert (image.format, image.mode, getattr(image, "n_frames", 1)) == ("JPEG", "RGB", 1)
            seen = np.asarray(image, np.float32)
        original = np.array(cover(key.partition(".")[0]).draw(), np.float32)
        if key.endswith(".png"):
            original[: len(original) // 2] = 255  # what is transparent is white
        assert np.abs(seen - original).mean() < 12, key


def test_what_is_saved_of_a_broken_tar_has_its_own_bytes(line: Finished) -> None:
    for number, tar in ((9, "sa_000002"), (12, "sa_000002"), (5, "sa_000001"), (1, "sa_000000")):
        stored = line.root / "images" / "sa-1b" / tar / f"sa_{number}.jpg"
        assert stored.read_bytes() == picture(number).encode()


def test_a_cover_whose_pixels_are_broken_is_found_by_decoding(tmp_path: Path, world: World) -> None:
    root = workspace(tmp_path, world)
    fetched(root, world, "ocr-vqa")
    prep_json(root, "images", "ocr-vqa", "--verify", "decode", world=world)
    assert index(root, "ocr-vqa") == INDEXES["ocr-vqa"] | {BROKEN: ("undecodable", None)}


def test_what_goes_in_the_place_of_the_large_ones(tmp_path: Path, world: World) -> None:
    references = [f"sam/images/sa_{n}.jpg" for n in (1, 9)]
    references += [f"ocr_vqa/images/{key}.jpg" for key in ("761183272", "014028329X", "0123456789")]
    prefixes = {"sam/images": "sam-9k", "ocr_vqa/images": "ocr-vqa-parquet"}
    root = workspace(tmp_path, world, references, prefixes)
    prep_json(root, "run", world=world)
    covers = "ocr-vqa-parquet/data/train-00000-of-00001"
    assert kept(root) == {
        "sam/images/sa_1.jpg": "sam-9k/sam_images_share-sft/sa_1.jpg",
        "ocr_vqa/images/761183272.jpg": f"{covers}/761183272.jpg",
        "ocr_vqa/images/014028329X.jpg": f"{covers}/014028329X.jpg",
    }
    assert dropped(root) == {"sam/images/sa_9.jpg": "image_missing", "ocr_vqa/images/0123456789.jpg": "image_missing"}
    with Image.open(root / "images" / covers / "761183272.jpg") as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")


# -- where it comes from ---------------------------------------------------------------------------------------


def test_ocr_vqa_from_the_copy_where_the_first_is_gone(tmp_path: Path, world: World) -> None:
    root = workspace(tmp_path, world)
    world.faults[f"/api/datasets/{REPO}/revision/main"] = Fault(status=404)
    [downloaded] = fetched(root, world, "ocr-vqa")["outcomes"]
    assert (downloaded["note"], downloaded["facts"]["repo"]) == ("listed by mirror 1 (huggingface)", COPY)
    assert index(root, "ocr-vqa") == INDEXES["ocr-vqa"]


def test_web_pictures_from_the_hub_where_drive_says_too_many(tmp_path: Path, world: World) -> None:
    root = workspace(tmp_path, world, sources={})
    dataset = yaml.safe_load((packaged_configs() / "datasets" / "web-celebrity.yaml").read_text())
    dataset["source"]["endpoint"] = f"{world.url}/drive"
    add_dataset(root, dataset)
    world.server.drive.over_quota.add(ZIPS["web-celebrity"].drive_id)
    fetched(root, world, "web-celebrity")
    assert index(root, "web-celebrity") == INDEXES["web-celebrity"]
    assert any(entry.path.startswith("/cdn/") for entry in world.server.sent)


def test_a_misspelt_zip_that_is_there_already(tmp_path: Path, world: World) -> None:
    (tmp_path / "had").mkdir()
    shutil.copy(world.folder / "files" / "webdata" / "web-landmark.zip", tmp_path / "had" / "web-landmakr.zip")
    root = workspace(tmp_path, world, sources={"web-landmark": {"kind": "local", "path": str(tmp_path / "had")}})
    fetched(root, world, "web-landmark")
    assert index(root, "web-landmark") == {"l1.jpg": ("ok", "web-landmakr/data/web-landmark/images/l1.jpg")}


def sa_1b_source(world: World, **md5s: str) -> dict[str, Any]:
    """The catalogue's source, over the three tars that there are."""
    source = Catalogue().dataset("sa-1b").source.model_dump()
    files = {path.stem: path.read_bytes() for path in sorted((world.folder / "files" / "sa-1b").glob("*.tar"))}
    named = [
        {"path": f"{stem}.tar", "md5": md5s.get(stem, hashlib.md5(data, usedforsecurity=False).hexdigest())}
        for stem, data in files.items()
    ]
    return source | {"files": named, "include": ["sa_00000[0-2].tar"]}


def hand_in_links(root: Path, world: World) -> None:
    """Put the list of links where the instructions want it, with a tar that is not wanted."""
    (root / "raw" / "sa-1b").mkdir(parents=True, exist_ok=True)
    rows = [f"sa_{n:06}.tar\t{world.url}/files/sa-1b/sa_{n:06}.tar?signature=secret" for n in (0, 1, 2, 51)]
    table = "\n".join(["file_name\tcdn_link", *rows, ""])
    (root / "raw" / "sa-1b" / "segment_anything_links.txt").write_text(table)


def test_sa_1b_by_its_list_of_links(tmp_path: Path, world: World) -> None:
    root = workspace(tmp_path, world, sources={"sa-1b": sa_1b_source(world)})
    refused = prep(root, "download", "sa-1b", world=world)
    assert refused.returncode == 1
    assert "Accept the SA-1B Dataset Research License" in refused.stderr
    assert f"Put the files (segment_anything_links*) into {root / 'raw' / 'sa-1b'}" in refused.stderr

    hand_in_links(root, world)
    fetched(root, world, "sa-1b")
    assert index(root, "sa-1b") == INDEXES["sa-1b"]


def test_a_tar_of_sa_1b_that_is_not_the_lists(tmp_path: Path, world: World) -> None:
    root = workspace(tmp_path, world, sources={"sa-1b": sa_1b_source(world, sa_000001="0" * 32)})
    hand_in_links(root, world)
    refused = prep(root, "download", "sa-1b", world=world)
    assert refused.returncode == 1
    assert "sa_000001.tar: md5 is " in refused.stderr
    assert "secret" not in refused.stderr


# -- what the catalogue says -----------------------------------------------------------------------------------


def test_sa_1b_names_the_first_51_tars_and_what_they_hash_to() -> None:
    source = Catalogue().dataset("sa-1b").source
    assert isinstance(source, ManualSource)
    wanted = [f"sa_{number:06}.tar" for number in range(51)]
    assert [file.path for file in source.files] == wanted
    assert all(file.md5 for file in source.files) and len({file.md5 for file in source.files}) == 51
    assert matching([f"sa_{number:06}.tar" for number in range(1000)], source.include) == wanted


def test_hashes_that_publishers_tell_are_compared() -> None:
    for name in ("textvqa", "visual-genome"):
        source = Catalogue().dataset(name).source
        assert isinstance(source, HttpSource)
        assert all(file.sha256 and file.size_bytes for file in source.files)
