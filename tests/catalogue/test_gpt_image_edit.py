"""GPT-Image-Edit-1.5M through the whole line: records of a model repository, pictures of cut gzip streams."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lines import Finished, finish
from PIL import Image

from prep.publishers import World
from prep.publishers.gpt_image_edit import REPO
from prep.publishers.pictures import Picture
from worlds import make_workspace, prep, prep_json

TABLES = ("hqedit", "omniedit", "ultraedit")
ULTRA = {"name": "tried", "entries": [{"table": "ultraedit"}]}


@pytest.fixture(scope="module")
def line(running_world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("gpt"), [{"table": table} for table in TABLES], running_world)


def picture(name: str, width: int, height: int) -> Image.Image:
    data = Picture.named(f"gpt-image-edit {name}", width, height).encode("PNG")
    return Image.open(io.BytesIO(data)).convert("RGB")


EXPECTED = {
    "hqedit": [
        ("hqedit/edit", "00060995", "Make the sky purple."),
        ("hqedit/edit", "00070858", "Make it look old.\nKeep the frame."),
        ("hqedit/generate", "00060995", "Turn the cat into a dog."),
    ],
    "omniedit": [
        ("omniedit/complex-edit", "obj_1", "Add a hat, and let it rain."),
        ("omniedit/complex-edit", "swap_7", "A turn of the gpt comes first."),
        ("omniedit/addition", "obj_1", "Add a red hat."),
        ("omniedit/style", "style_1", "Paint it as Van Gogh would."),
        ("omniedit/addition", "obj_1", "Put a hat, a red one, on the head."),
    ],
    "ultraedit": [
        ("ultraedit/add", "000021", "Add a tree."),
        ("ultraedit/turn", "000003", "Turn it into a painting."),
        ("ultraedit/add", "000021", "Add a tree, a second one."),
    ],
}
DROPPED = {
    "hqedit": {"hqedit_gpt_edit.json#2": "image_missing", "hqedit_gpt_generate.json#1": "no_instruction"},
    "omniedit": {"omniedit_gpt.json#1": "not_a_pair", "omniedit_gpt.json#2": "not_a_pair"},
    "ultraedit": {
        "ultraedit_gpt.json#2": "duplicate",
        "ultraedit_gpt.json#3": "image_truncated",
        "ultraedit_gpt.json#4": "no_instruction",
    },
}


@pytest.mark.parametrize("table", TABLES)
def test_pairs_and_requests(table: str, line: Finished) -> None:
    assert line.rows(table) == [
        {
            "input_paths": [f"gpt-image-edit-{table}/gpt-edit/{table}/{folder}/input/{pair}.png"],
            "output_paths": f"gpt-image-edit-{table}/gpt-edit/{table}/{folder}/output/{pair}.png",
            "instruction": instruction,
        }
        for folder, pair, instruction in EXPECTED[table]
    ]
    assert line.samples(table) == [
        {
            "images": [picture(f"{folder}/input/{pair}.png", 80, 60), picture(f"{folder}/output/{pair}.png", 96, 144)],
            "text": [instruction],
            "scores": "",
        }
        for folder, pair, instruction in EXPECTED[table]
    ]
    assert line.dropped(table) == {f"training_json/{key}": reason for key, reason in DROPPED[table].items()}
    [entry] = [entry for entry in line.entries() if Path(entry["json_path"]).stem == table]
    assert entry["preprocess_fn"] == "process_gpt_edit"
    assert sorted(entry["columns"]) == ["input_paths", "instruction", "output_paths"]


def test_pictures_that_no_record_names_are_stored_all_the_same(line: Finished) -> None:
    index = pq.read_table(line.root / "index/gpt-image-edit-omniedit.parquet").to_pydict()
    assert dict(zip(index["image_key"], index["status"], strict=True)) == {
        f"omniedit/{name}.png": "ok"
        for name in (
            *("addition/input/obj_1", "addition/input/obj_2", "addition/output/obj_1", "addition/output/obj_2"),
            *("style/input/style_1", "style/output/style_1", "addition/output/obj_1_original"),
            *("complex-edit/input/obj_1", "complex-edit/input/swap_7"),
            *("complex-edit/output/obj_1", "complex-edit/output/swap_7"),
        )
    }


def test_the_imitation_cuts_its_streams_within_members(running_world: World) -> None:
    for table in TABLES:
        parts = sorted((running_world.folder / "hub" / REPO / "gpt-edit").glob(f"{table}.tar.gz.part*"))
        assert [path.name[-3:] for path in parts] == ["001", "002", "003"]
        unzip = zlib.decompressobj(wbits=31)
        first = unzip.decompress(parts[0].read_bytes())
        second = unzip.decompress(parts[1].read_bytes())
        assert not unzip.eof and first and second
        with pytest.raises(zlib.error):
            zlib.decompressobj(wbits=31).decompress(parts[1].read_bytes())


def test_a_recipe_of_ultraedit_brings_no_picture_of_the_others(running_world: World, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace", ULTRA, running_world)
    plan: dict[str, Any] = prep_json(workspace, "download", "--dry-run", world=running_world)
    assert sorted(outcome["name"] for outcome in plan["outcomes"]) == [
        "gpt-image-edit-training",
        "gpt-image-edit-ultraedit",
    ]


def test_a_part_that_is_missing_is_named(running_world: World, tmp_path: Path) -> None:
    source = {"kind": "huggingface", "repo": REPO, "include": ["*/ultraedit*"], "exclude": ["*part002"]}
    sources = running_world.sources | {"gpt-image-edit-ultraedit": source}
    workspace = make_workspace(tmp_path / "workspace", ULTRA, running_world, sources=sources)
    done = prep(workspace, "run", world=running_world)
    assert done.returncode == 1
    assert "gpt-edit/ultraedit.tar.gz.part002 is missing" in " ".join(done.stderr.split())
