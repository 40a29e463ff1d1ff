import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile
from PIL import Image
from pycocotools import mask as coco_mask

from prep.config import WorkspaceConfig
from prep.publishers import TOKEN, World
from prep.publishers.traps import ODD_CAPTIONS
from prep.publishers.world import write_world

RESEARCH_SAFE, AESTHETIC = "laion/relaion2B-en-research-safe", "laion/laion2B-en-aesthetic"
REPOS = (
    *(RESEARCH_SAFE, AESTHETIC, "kakaobrain/coyo-700m", "MBZUAI/GranD-f", "BLIP3o/BLIP3o-60k"),
    *(f"BLIP3o/BLIP3o-Pretrain-{name}" for name in ("Long-Caption", "Short-Caption", "JourneyDB")),
    *("FreedomIntelligence/ShareGPT-4o-Image", "Yejy53/Echo-4o-Image", "UCSC-VLAA/GPT-Image-Edit-1.5M"),
    *("MAmmoTH-VL/MAmmoTH-VL-Instruct-12M", "TIGER-Lab/VisualWebInstruct"),
    *("jacklishufan/reflect-DiT", "KonstantinosKK/reflect-dit-train-images"),
    *("weiwu-ww/Recap-Long-Coyo", "weiwu-ww/Recap-Long-Laion", "supermodelresearch/Re-LAION-Caption19M"),
    *("jxu124/refcoco", "jxu124/refcocoplus", "jxu124/refcocog"),
    *("FreedomIntelligence/ALLaVA-4V", "Vision-Flan/vision-flan_191-task_1k", "Lin-Chen/ShareGPT4V"),
    *("liuhaotian/LLaVA-Instruct-150K", "liuhaotian/LLaVA-Pretrain", "DVLe/sharegpt"),
    *("weizhiwang/llava_v15_instruction_images", "BoyangZ/OCR_VQA", "howard-hou/OCR-VQA"),
)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world")) as world:
        yield world


def parts(world: World, repo: str) -> list[Path]:
    return sorted((world.folder / "hub" / repo).rglob("part-*.parquet"))


def rows(world: World, repo: str) -> list[Row]:
    return [row for part in parts(world, repo) for row in pq.read_table(part).to_pylist()]


def grand_f(world: World, name: str) -> Any:
    return json.loads((world.folder / "hub/MBZUAI/GranD-f/train" / f"{name}_train.json").read_text())


def members(world: World, tar: str) -> dict[str, bytes]:
    with tarfile.open(world.folder / "hub/BLIP3o" / f"{tar}.tar") as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def image_of(world: World, address: str) -> Image.Image:
    return Image.open(io.BytesIO((world.folder / "img" / address.rpartition("/")[2]).read_bytes()))


def is_readable(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_same_address_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_world(tmp_path / name, "http://127.0.0.1:1234")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert sum(path.stat().st_size for path in (tmp_path / "one").rglob("*")) < 25_000_000


def test_a_world_is_used_again_for_the_same_port_and_built_anew_for_another(tmp_path: Path) -> None:
    part = (
        tmp_path / "hub/kakaobrain/coyo-700m/data/part-00000-17da4908-939c-46e5-91d0-15f256041956-c000.snappy.parquet"
    )
    with World(tmp_path) as first:
        url, port, built = first.url, int(first.url.rpartition(":")[2]), part.stat().st_mtime_ns
    with World(tmp_path, port) as again:
        assert (again.url, part.stat().st_mtime_ns) == (url, built)
    with World(tmp_path) as other:
        addresses = pq.read_table(part)["url"].to_pylist()
        assert addresses[0] == f"{other.url}/img/coyo-000.jpg"


def test_the_client_reads_every_repository(world: World, tmp_path: Path) -> None:
    api = HfApi(endpoint=world.url, token=TOKEN)
    assert sorted(
        repo.relative_to(world.folder / "hub").as_posix() for repo in (world.folder / "hub").glob("*/*")
    ) == sorted(REPOS)
    for repo in REPOS:
        entries = api.list_repo_tree(repo, recursive=True, revision="main", repo_type="dataset")
        for entry in (entry for entry in entries if isinstance(entry, RepoFile)):
            path = hf_hub_download(
                repo, entry.path, repo_type="dataset", endpoint=world.url, token=TOKEN, local_dir=tmp_path / repo
            )
            assert Path(path).stat().st_size == entry.size
    assert api.dataset_info(RESEARCH_SAFE).gated == api.dataset_info(AESTHETIC).gated == "auto"


def test_its_environment_and_sources_lead_to_it_alone(world: World) -> None:
    code = "import huggingface_hub as h; print(h.HfApi().whoami()['name'], h.constants.HF_HUB_CACHE)"
    environment = {**os.environ, **world.environment}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["reader", str(world.folder / "huggingface/hub")]
    assert set(WorkspaceConfig.model_validate({"sources": world.sources}).sources) == {
        *("coco-2014", "coco-2017", "flickr30k", "grand-f-images", "laion-2b-2022", "blip3o-long-caption"),
        *("refcoco", "refcoco-plus", "refcocog"),
        *("coco-train2017", "gqa", "textvqa", "visual-genome", "sa-1b"),
        *("web-celebrity", "web-landmark", "wikiart", "share-textvqa", "sam-9k"),
    }
    api = HfApi(endpoint=world.url)
    world.requests.clear()
    api.dataset_info("BLIP3o/BLIP3o-60k")
    assert world.requests == [("GET", "/api/datasets/BLIP3o/BLIP3o-60k")]


def test_its_drive_is_served(world: World) -> None:
    with urlopen(f"{world.url}/drive/embeddedfolderview?id={world.drive_folder}", timeout=5) as page:
        names = re.findall('flip-entry-title">(.*?)<', page.read().decode())
    assert names == ["notes &amp; terms", "web-celebrity.zip", "wikiart.zip"]
    with zipfile.ZipFile(world.folder / "drive/web-celebrity.zip") as archive:
        assert all(is_readable(archive.read(name)) for name in archive.namelist())


def test_laion_layout(world: World) -> None:
    for repo, uuid in ((RESEARCH_SAFE, "339dc23d-0869"), (AESTHETIC, "9230b837-b1e0")):
        names = [path.name for path in parts(world, repo)]
        assert [name[:24] for name in names] == [f"part-{n:05}-{uuid}" for n in range(2)]
        assert all((world.folder / "hub" / repo / f".{name}.crc").is_file() for name in names)
    first, second = (pq.read_schema(part) for part in parts(world, RESEARCH_SAFE))
    assert set(first.names) - set(second.names) == {"error_message", "exif"}
    assert "aesthetic" not in first.names
    upper = [pq.read_schema(part) for part in parts(world, AESTHETIC)]
    expected = "URL TEXT WIDTH HEIGHT similarity hash punsafe pwatermark aesthetic"
    assert [schema.names for schema in upper] == [expected.split()] * 2
    assert [str(schema.field("aesthetic").type) for schema in upper] == ["float", "double"]


def test_laion_traps(world: World) -> None:
    found = rows(world, RESEARCH_SAFE)
    captions = [row["caption"] for row in found]
    assert {None, "", *ODD_CAPTIONS} <= set(captions)
    assert max(len(caption or "") for caption in captions) == 900
    assert captions.count("A caption that two rows have") == 2
    by_caption = {row["caption"]: row for row in found}
    big = by_caption["A picture of 1600 by 1200 pixels, stored as 512 by 384"]
    assert [big[n] for n in ("original_width", "original_height", "width", "height")] == [1600, 1200, 512, 384]
    assert by_caption["A row without original sizes"]["original_width"] is None
    assert by_caption["A row without punsafe"]["punsafe"] is None
    assert by_caption["A row without pwatermark"]["pwatermark"] is None
    assert min(row["hash"] for row in found) < 0 < max(row["hash"] for row in found)
    names = {row["url"].removeprefix(f"{world.url}/img/") for row in found}
    assert {"missing.jpg", "gif.jpg", "webp.jpg", "html.jpg", "private.jpg", "noai.jpg"} <= names
    sizes = {(row["original_width"], row["original_height"]) for row in found}
    assert {(512, 512), (511, 512), (512, 511), (513, 513)} <= sizes

    raw = pq.read_table(next((world.folder / "files/laion2B-en").iterdir())).to_pylist()
    first = image_of(world, raw[0]["URL"])
    assert first.size == (raw[0]["HEIGHT"], raw[0]["WIDTH"]) == (640, 512)


@pytest.mark.parametrize(
    ("repo", "text", "score"),
    [(AESTHETIC, "TEXT", "aesthetic"), ("kakaobrain/coyo-700m", "text", "aesthetic_score_laion_v2")],
)
def test_both_widths_of_score_have_every_edge(world: World, repo: str, text: str, score: str) -> None:
    for part, width in zip(parts(world, repo), ("float32", "float64"), strict=True):
        scores = {row[text]: row[score] for row in pq.read_table(part).to_pylist()}
        edges = {
            says.removeprefix("A row whose score is ").removesuffix(f" (the column is {width})"): value
            for says, value in scores.items()
            if says and f"(the column is {width})" in says
        }
        assert math.isnan(edges.pop("not a number"))
        assert edges.pop("missing") is None
        assert edges.pop("exactly 5") == 5.0
        assert edges.pop("exactly 5.5") == 5.5
        exact, above = edges.pop("exactly 5.67"), edges.pop("5.6700001")
        # In float32 the cutoff itself lies above 5.67, so a comparison in float64 would keep it.
        assert (exact == 5.67, exact > 5.67, above > exact) == (
            (True, False, True) if width == "float64" else (False, True, False)
        )
        assert edges == pytest.approx({"just above 5": 5.01, "5.68": 5.68, "low: 3.2": 3.2})


def test_coyo_traps(world: World) -> None:
    found = rows(world, "kakaobrain/coyo-700m")
    assert (world.folder / "hub/kakaobrain/coyo-700m/data/_SUCCESS").read_bytes() == b""
    assert {row["id"] >> 33 for row in found} == {570, 868}
    by_text = {row["text"]: row for row in found}
    first, other_text = found[0], by_text["The same address with another text"]
    copy = by_text["The same picture under another address"]
    assert first["url"] == other_text["url"] != copy["url"]
    assert first["image_phash"] == other_text["image_phash"] == copy["image_phash"]
    assert any("&amp;#39;" in text for text in by_text)
    stale = by_text["A picture that shrank since the crawl of 2021"]
    image = image_of(world, stale["url"])
    assert (stale["width"], stale["height"], image.size) == (1280, 960, (320, 240))
    assert [image_of(world, f"{name}.jpg").format for name in ("gif", "webp", "png", "bmp")] == [
        *("GIF", "WEBP", "PNG", "BMP")
    ]
    assert not is_readable((world.folder / "img/truncated.jpg").read_bytes())
    assert f"{world.url}/img/webp.jpg" in {row["url"] for row in found}


def test_blip3o_traps(world: World) -> None:
    folder = world.folder / "hub/BLIP3o"
    assert len(list((folder / "BLIP3o-60k").glob("*.tar"))) == len(list((folder / "BLIP3o-60k").glob("*.txt"))) == 11
    assert sorted(path.stem for path in (folder / "BLIP3o-Pretrain-Short-Caption").glob("*.tar")) == [
        *("00841", "00843", "01811", "01813")
    ]
    assert "000000000.jpg" in members(world, "BLIP3o-60k/dalle3").keys() & members(world, "BLIP3o-60k/text_1").keys()
    lone = members(world, "BLIP3o-60k/journeyDB")
    assert "000000101.jpg" in lone and "000000101.txt" not in lone
    assert "000000102.txt" in lone and "000000102.jpg" not in lone
    assert lone["000000103.txt"] == b""
    broken = members(world, "BLIP3o-60k/object_1")
    assert [is_readable(broken[f"{key:09}.jpg"]) for key in (0, 111, 112, 113)] == [True, False, False, False]
    formats = members(world, "BLIP3o-60k/object_2")
    suffixes = {name.rpartition(".")[2] for name in formats}
    assert suffixes == {"jpg", "txt", "png", "webp", "jpeg"}
    assert Image.open(io.BytesIO(formats["000000123.jpg"])).format == "WEBP"


def test_open_psg_traps(world: World) -> None:
    found = {
        row["caption"].rpartition(" (")[2].rstrip(')"'): row
        for row in grand_f(world, "OpenPsgGCG")
        if "(" in row["caption"]
    }
    quoted = found["in double quotes, which the offsets count"]
    for phrase, grounding in quoted["groundings"].items():
        start, end = grounding["token_positives"]
        assert quoted["caption"][start:end] == phrase
    assert quoted["caption"][0] == quoted["caption"][-1] == '"'
    firsts: dict[str, Row] = {says: next(iter(row["groundings"].values()), {}) for says, row in found.items()}
    assert firsts["the first phrase has a span that is negative"]["token_positives"] == [-1, -1]
    assert firsts["the first phrase has a span that is empty"]["token_positives"] == [5, 5]
    assert len(firsts["two masks of one phrase"]["rle_masks"]) == 2
    assert coco_mask.area(firsts["an empty mask"]["rle_masks"][0]) == 0
    edge = coco_mask.toBbox(firsts["a mask that touches the right edge"]["rle_masks"][0]).tolist()
    assert edge == [540, 0, 100, 480]
    assert "height" not in found["no height and width"]
    assert found["sizes as strings"]["height"] == "480"
    names = [row["file_name"] for row in grand_f(world, "OpenPsgGCG")]
    assert {name.rpartition("/")[0] for name in names} == {"train2017", "val2017", ""}

    with zipfile.ZipFile(world.folder / "files/coco/train2017.zip") as archive:
        images = {name: archive.read(name) for name in archive.namelist()}
    assert f"train2017/{36:012}.jpg" not in images
    assert not is_readable(images[f"train2017/{37:012}.jpg"])
    rotated = Image.open(io.BytesIO(images[f"train2017/{35:012}.jpg"]))
    assert (rotated.size, rotated.getexif()[0x0112]) == ((640, 480), 6)


def test_refcocog_traps(world: World) -> None:
    found: dict[str, Row] = {}
    for row in grand_f(world, "RefCOCOg_GCG"):
        ((_, only),) = row.items()
        found[only["caption"].rpartition(" (")[2].rstrip(')"')] = only
    case = found["a phrase in mixed case"]
    assert case["refs"][0]["sentence"] not in case["caption"]
    assert case["refs"][0]["sentence"].lower() in case["caption"].lower()
    lacks = found["a phrase that the caption lacks"]
    assert [ref["sentence"] in lacks["caption"].lower() for ref in lacks["refs"]] == [False, True]
    unsaid = found["none of its phrases is in the caption"]
    assert not any(ref["sentence"] in unsaid["caption"].lower() for ref in unsaid["refs"])
    overlap = found["overlapping phrases"]
    starts = [overlap["caption"].lower().index(ref["sentence"]) for ref in overlap["refs"]]
    assert starts[0] < starts[1] < starts[0] + len(overlap["refs"][0]["sentence"])
    assert found["no phrases"]["refs"] == []
    assert found["in double quotes"]["caption"].startswith('"')
    assert min(found["a polygon partly outside"]["refs"][0]["segmentation"][0]) < 0


def test_flickr_traps(world: World) -> None:
    data = grand_f(world, "flickr_mergedGT_GCG")
    assert data["info"] == data["licenses"] == []
    assert {type(image[side]) for image in data["images"] for side in ("width", "height")} == {str}
    assert [image["file_name"] for image in data["images"][:5]] == ["1000092795.jpg"] * 5
    images = {image["caption"].rpartition(" (")[2].rstrip(")"): image for image in data["images"]}
    boxes = {
        says: [row["bbox"] for row in data["annotations"] if row["image_id"] == image["id"]]
        for says, image in images.items()
    }
    assert boxes["a box narrower than a pixel"][0][2] < 1
    assert boxes["a box off the picture"][0][0] > int(images["a box off the picture"]["width"])
    assert boxes["a caption without boxes"] == []
    spans = [len(row["tokens_positive"]) for row in data["annotations"]]
    assert sorted(set(spans)) == [0, 1, 2]
    with tarfile.open(world.folder / "flickr30k/flickr30k-images.tar.gz") as archive:
        names = archive.getnames()
    for says, image in images.items():
        is_there = f"flickr30k-images/{image['file_name']}" in names
        assert is_there == (says != "a file missing from its archive")
