"""A user's own data of every kind, from every format, to what the loader makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import contract_loader
from prep import progress
from prep.add import add_file
from prep.config import Catalogue
from prep.errors import DataError, UsageError
from prep.schema import KINDS
from prep.stages.check import check_yaml
from prep.stages.download import download
from prep.stages.emit_yaml import emit_yaml
from prep.stages.filter import filter_table
from prep.stages.normalize import normalize
from prep.trainers.lavida_o import FUNCTION_OF_KIND
from prep.workspace import Workspace

progress.use(progress.no_bar)

TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A square."}]
TEXT_TURNS = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello."}]

# kind -> the kind's rows as a user may have them; pictures a.png ... d.png lie beside the file.
ROWS: dict[str, list[dict[str, Any]]] = {
    "text-to-image": [{"s3_path": "a.png", "caption": "A", "hpsv2": 0.25}],
    "text-to-image-plan": [
        {
            "s3_path": "a.png",
            "caption": "A",
            "grounding_text": "<LOC_BEGIN>",
            "negatives": "b.png;c.png",
            "negative_reasons": "one;two",
        }
    ],
    "text-to-image-layout": [
        {"s3_path": "a.png", "caption": "A", "cap_short": "B", "cap_detail": "C", "crop_parms": "[0, 0]"}
    ],
    "conversation": [
        {"image": "a.png", "conversations": json.dumps(TURNS)},
        {"image": None, "conversations": json.dumps(TEXT_TURNS)},
    ],
    "conversation-images": [
        {"image": ["a.png"], "conversations": TURNS},
        {"image": None, "conversations": TEXT_TURNS},
    ],
    "grounded-caption": [{"s3_path": "a.png", "loc_caption": "<box_p> A </box_p><LOC_BEGIN>"}],
    "referring-expression": [{"s3_path": "a.png", "label": "left", "loc_string": "<LOC_BEGIN>"}],
    "reflection-judge": [{"image": "a.png", "prompts": "A", "results": "yes"}],
    "edit-prompt": [{"input_image": ["a.png"], "output_image": "b.png", "input_prompt": "Turn"}],
    "edit": [{"input_paths": ["a.png", "b.png"], "output_paths": "c.png", "instruction": "Turn", "hpsv2": 0.25}],
    "edit-plan": [
        {"input_paths": ["a.png"], "output_paths": "c.png", "instruction": "Turn", "grounding_text": "<LOC_BEGIN>"}
    ],
    "edit-local": [{"local_input_image": ["a.png"], "local_output_image": "b.png", "text": "Turn"}],
    "metaquery": [{"source_images_paths": ["a.png"], "tgt_path": "b.png", "dir_name": "", "prompt": "Join"}],
    "uniworld": [
        {
            "image": ["a.png"],
            "image_gen": ["b.png"],
            "image_gen_enc": ["c.png"],
            "folder": "",
            "is_edit": True,
            "conversations": TURNS,
        }
    ],
}


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """The rows as a file of the kind its suffix says; lists in a csv are JSON."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    elif path.suffix == ".csv":
        flat = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        pd.DataFrame(flat).to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def line(root: Path, data: Path, kind: str, **options: Any) -> Workspace:
    """A workspace with one file of the user's, up to the filtered table."""
    Workspace.create(root, Catalogue().recipe_path("empty").read_text())
    (root / "prep.yaml").write_text("recipe: recipe.yaml\nworkers: 1\n")
    add_file(Workspace(root), data, kind=KINDS[kind], **options)
    workspace = Workspace(root)
    download(workspace, workspace.datasets[0])
    normalize(workspace, workspace.table_names[0])
    filter_table(workspace, workspace.table_names[0])
    return workspace


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number, name in enumerate("abcd"):
        Image.new("RGB", (20 + number, 30)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json", ".jsonl"])
@pytest.mark.parametrize("kind", sorted(ROWS))
def test_every_kind_ends_as_samples_that_the_loader_builds(kind: str, suffix: str, pictures: Path) -> None:
    rows = ROWS[kind]
    workspace = line(pictures / "w", write(rows, pictures / f"mine{suffix}"), kind)
    emission = emit_yaml(workspace)
    entries = contract_loader.load_yaml(emission.path)
    assert [entry["preprocess_fn"] for entry in entries] == [FUNCTION_OF_KIND[kind]] * len(rows)
    for row, entry in zip(rows, entries, strict=True):
        [got] = contract_loader.load_entry(entry).to_dict("records")
        for name, value in row.items():
            image = KINDS[kind].column(name)
            if image is not None and image.images and value is not None:
                value = absolute(value, pictures)
            elif name in ("dir_name", "folder"):
                value = {"dir_name": "", "folder": "s3://"}[name]
            assert plain(got[str(name)], name) == plain(value, name), name
        contract_loader.build_sample(entry, 0)
    report = check_yaml(emission.path, images="all")
    assert [finding.problem for finding in report.errors] == []


def absolute(value: str | list[str], folder: Path) -> Any:
    if isinstance(value, list):
        return [absolute(item, folder) for item in value]
    return ";".join(f"{folder}/{path}" for path in value.split(";"))


def plain(value: Any, name: str) -> Any:
    """Native lists as lists; conversations, numbers and yes or no alike from every format."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if name == "conversations" and isinstance(value, str):
        return json.loads(value)
    return str(value).lower() if isinstance(value, bool | str) and name == "is_edit" else value


def test_all_kinds_but_the_private_one_are_tried() -> None:
    assert set(ROWS) == set(KINDS) - {"text-to-image-hash"} and set(FUNCTION_OF_KIND) == set(KINDS)


def test_a_key_of_the_private_store_is_kept_as_it_is(tmp_path: Path) -> None:
    data = write([{"strImagehash": "ab/cd", "longLLA_captions": "A"}], tmp_path / "mine.csv")
    workspace = line(tmp_path / "w", data, "text-to-image-hash")
    [entry] = contract_loader.load_yaml(emit_yaml(workspace).path)
    assert entry["columns"] == ["strImagehash", "longLLA_captions"]
    assert pd.read_parquet(entry["json_path"], columns=entry["columns"]).to_dict("records") == [
        {"strImagehash": "ab/cd", "longLLA_captions": "A"}
    ]


def test_rows_that_lack_what_their_kind_needs_are_dropped_with_a_reason(pictures: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"input_paths": ["a.png"], "output_paths": "b.png", "instruction": "Turn"},
        {"input_paths": [], "output_paths": "b.png", "instruction": "Turn"},
        {"input_paths": ["a.png", ""], "output_paths": "b.png", "instruction": "Turn"},
        {"input_paths": ["a.png", None], "output_paths": "b.png", "instruction": "Turn"},
        {"input_paths": None, "output_paths": "b.png", "instruction": "Turn"},
        {"input_paths": ["a.png"], "output_paths": " ", "instruction": "Turn"},
        {"input_paths": ["a.png"], "output_paths": "b.png", "instruction": ""},
        {"input_paths": ["a.png"], "output_paths": "https://example.org/b.png", "instruction": "Turn"},
    ]
    for suffix in (".json", ".parquet"):
        workspace = line(pictures / f"w{suffix}", write(rows, pictures / f"mine{suffix}"), "edit")
        dropped = pd.read_parquet(workspace.dropped("mine"))
        assert dict(zip(dropped["row"], dropped["reason"], strict=True)) == {
            1: "no_image",
            2: "bad_input_paths",
            3: "bad_input_paths",
            4: "no_image",
            5: "no_image",
            6: "no_instruction",
            7: "path_is_an_address",
        }, suffix


@pytest.mark.parametrize("kind", sorted(ROWS))
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_the_columns_that_a_kind_needs_are_enough(kind: str, suffix: str, pictures: Path) -> None:
    needed = {column.name for column in KINDS[kind].columns if column.required}
    rows = [{name: value for name, value in row.items() if name in needed} for row in ROWS[kind][-1:]]
    workspace = line(pictures / "w", write(rows, pictures / f"mine{suffix}"), kind)
    emission = emit_yaml(workspace)
    [entry] = contract_loader.load_yaml(emission.path)
    contract_loader.build_sample(entry, 0)
    assert [finding.problem for finding in check_yaml(emission.path, images="all").errors] == []


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_list_of_one_image_is_one_image(suffix: str, pictures: Path) -> None:
    rows = [{"image": images, "conversations": json.dumps(TURNS)} for images in (["a.png"], ["a.png", "b.png"])]
    workspace = line(pictures / "w", write(rows, pictures / f"mine{suffix}"), "conversation")
    assert pq.read_table(workspace.filtered("mine"))["image"].to_pylist() == [f"{pictures}/a.png"]
    assert pq.read_table(workspace.dropped("mine"))["reason"].to_pylist() == ["bad_image"]


def test_names_that_would_share_a_place_are_refused(pictures: Path) -> None:
    workspace = line(pictures / "w", write(ROWS["conversation"], pictures / "t.jsonl"), "conversation")
    other = write(ROWS["conversation"], pictures / "t-text.jsonl")
    with pytest.raises(UsageError, match="does not go with"):
        add_file(workspace, other, kind=KINDS["conversation"])
    assert add_file(workspace, other, kind=KINDS["conversation"], name="more").name == "more"


def test_addresses_serve_kinds_with_one_image(pictures: Path) -> None:
    data = write([{"url": "https://example.org/a.png", "loc_caption": "A"}], pictures / "mine.jsonl")
    workspace = line(pictures / "w", data, "grounded-caption")
    assert pq.read_table(workspace.filtered("mine")).to_pylist()[0]["url"] == "https://example.org/a.png"


def test_a_dialogue_about_an_address_waits_for_its_image(pictures: Path) -> None:
    rows = [
        {"url": "https://example.org/a.png", "conversations": TURNS, "author's": 1},
        {"url": "", "conversations": TEXT_TURNS, "author's": 2},
    ]
    workspace = line(pictures / "w", write(rows, pictures / "mine.jsonl"), "conversation")
    assert pq.read_table(workspace.filtered("mine")).num_rows == 1
    assert pq.read_table(workspace.text_only("mine")).num_rows == 1


@pytest.mark.parametrize("folder", ["", "sub", "{0}/sub", "{0}/sub/"])
def test_the_folder_of_images_may_be_whole(folder: str, pictures: Path) -> None:
    (pictures / "sub").mkdir()
    for name in ("a.png", "b.png"):
        (pictures / "sub" / name).write_bytes((pictures / name).read_bytes())
    rows = [ROWS["metaquery"][0] | {"dir_name": folder.format(pictures)}]
    workspace = line(pictures / "w", write(rows, pictures / "mine.jsonl"), "metaquery")
    path = f"{pictures}/sub/b.png" if folder else f"{pictures}/b.png"
    assert pq.read_table(workspace.filtered("mine"))["tgt_path"].to_pylist() == [path]


def test_several_images_cannot_be_behind_addresses(pictures: Path) -> None:
    data = write(
        [{"input_paths": ["a.png"], "url": "https://example.org/a.png", "instruction": "Turn"}], pictures / "e.json"
    )
    with pytest.raises(UsageError, match="several images"):
        line(pictures / "w", data, "edit")


def test_a_file_that_suits_another_kind_is_told(tmp_path: Path) -> None:
    data = write([{"image": "a.png", "conversations": TURNS}], tmp_path / "mine.json")
    with pytest.raises(DataError) as raised:
        line(tmp_path / "w", data, "text-to-image")
    assert "--kind conversation" in raised.value.next_step


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("all", ("all", "all")),
        ("dup:2", ("dup:2", "dup:2")),
        ("first:10%", ("first:10%", "first:10%")),
        ("random:5", ("random:4", "random:1")),
        ("first:1", ("first:1", "first:1")),
    ],
)
def test_text_only_rows_have_their_own_file_and_their_share(
    sampling: str, expected: tuple[str, str], pictures: Path
) -> None:
    rows = [*ROWS["conversation"][:1] * 8, *ROWS["conversation"][1:] * 2]
    workspace = line(pictures / "w", write(rows, pictures / "mine.jsonl"), "conversation")
    recipe = workspace.recipe_path
    recipe.write_text(recipe.read_text().replace("table: mine", f'table: mine\n    sampling: "{sampling}"'))
    with_image, text = contract_loader.load_yaml(emit_yaml(Workspace(workspace.root)).path)
    assert (with_image["name"], text["name"]) == ("mine", "mine-text")
    assert (with_image["sampling_strategy"], text["sampling_strategy"]) == expected
    assert pq.read_table(with_image["json_path"]).num_rows == 8
    assert pq.read_schema(Path(text["json_path"]) / "shard-00000.parquet").field("image").type == pa.null()
    assert list(contract_loader.load_entry(text | {"sampling_strategy": "all"})["image"]) == [None, None]
