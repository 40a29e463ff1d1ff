"""`prep emit`: JSON lists that the LLaVA family's trainers load, and what names them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import convllava_loader
from prep import progress
from prep.add import add_file
from prep.config import Catalogue
from prep.errors import ConfigError, DataError, UsageError
from prep.manifest import read_finished
from prep.schema import KINDS
from prep.stages.check_lists import check_module, check_next, next_lists
from prep.stages.download import download
from prep.stages.emit_json import FORMATS, emit_json
from prep.stages.filter import filter_table
from prep.stages.images import images
from prep.stages.lists import copies
from prep.stages.normalize import normalize
from prep.workspace import Workspace
from worlds import prep, prep_json, snapshot

progress.use(progress.no_bar)

SEEN = [{"from": "human", "value": "<image>\nWas für ein Bild?"}, {"from": "gpt", "value": "Ein Quadrat. \U0001f600"}]
READ = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello."}]

TREE = """
name: mine
source: {{kind: local, path: {source}, include: [list.json]}}
images: {{kind: folder, path: {pictures}, key: member}}
tables:
  mix:
    kind: conversation
    records: {{format: json, parts: list.json, fields: {{image: text, conversations: json}}}}
    image: image
    select: {{conversations: conversations}}
"""


def rows(number: int) -> list[dict[str, Any]]:
    """Every third row is text alone."""
    return [
        {"image": None, "conversations": json.dumps(READ)}
        if i % 3 == 1
        else {"image": f"{i}.png", "conversations": json.dumps(SEEN)}
        for i in range(number)
    ]


def pictures(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        Image.new("RGB", (20, 30)).save(folder / f"{i}.png")


def run_stages(workspace: Workspace) -> None:
    for dataset in workspace.datasets:
        download(workspace, dataset)
        if dataset.images and dataset.images.kind != "given":
            images(workspace, dataset)
    for table in workspace.table_names:
        normalize(workspace, table)
        filter_table(workspace, table)


def make(root: Path, tables: Mapping[str, Sequence[Mapping[str, Any]]], entries: str, **keys: str) -> Workspace:
    """A workspace with lists of the user's own, and a recipe of ConvLLaVA over them, up to the filtered tables."""
    Workspace.create(root, Catalogue().recipe_path("empty").read_text())
    (root / "prep.yaml").write_text("recipe: recipe.yaml\nworkers: 1\n")
    for name, items in tables.items():
        data = root.parent / f"{name}.json"
        data.write_text(json.dumps(items))
        add_file(Workspace(root), data, kind=KINDS[keys.get(name, "conversation")])
    (root / "recipe.yaml").write_text(f"name: my-mix.1\ntrainer: convllava\nentries: {entries}\n")
    workspace = Workspace(root)
    run_stages(workspace)
    return workspace


@pytest.fixture
def two(tmp_path: Path) -> Workspace:
    pictures(tmp_path, 9)
    both = {"mix": rows(6), "more": rows(9)[6:]}
    return make(tmp_path / "w", both, "[{table: mix, name: llava665k}, {table: more, name: vflan, sampling: 'dup:2'}]")


def listed(path: str | Path) -> list[dict[str, Any]]:
    text = Path(path).read_text(encoding="ascii")
    items: list[dict[str, Any]] = json.loads(text)
    assert text == "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]\n"
    return items


def shown(items: Sequence[Mapping[str, Any]]) -> list[str | None]:
    return [item.get("image") for item in items]


def test_lists_are_what_the_trainer_loads(two: Workspace, tmp_path: Path) -> None:
    emission = emit_json(two)
    lists = two.root / "training" / "my-mix.1"
    assert emission.path == two.root / "training" / "my_mix_1.py"
    assert emission.image_folder == str(tmp_path)
    assert emission.state == "done"
    assert [*emission.notes] == ["vflan: its list has dup:2 of 3 rows, which makes 6"]
    assert emission.entries[1] == {
        "name": "vflan",
        "table": "more",
        "json_path": str(lists / "vflan-dup-2.json"),
        "image_folder": str(tmp_path),
        "rows": 6,
        "rows_in_table": 3,
        "text_only_in_table": 1,
        "sampling": "dup:2",
    }
    assert listed(lists / "llava665k.json") == [
        {"id": f"mix.json#{i}", "conversations": READ}
        if i % 3 == 1
        else {"id": f"mix.json#{i}", "image": f"{i}.png", "conversations": SEEN}
        for i in range(6)
    ]
    assert shown(listed(lists / "vflan-dup-2.json")) == ["6.png", "6.png", None, None, "8.png", "8.png"]
    module = runpy.run_path(str(emission.path))
    for dataset in convllava_loader.select(module["DATASET"], module["PATHS"]):
        samples = [dataset[number] for number in range(len(dataset))]
        assert not any(sample.is_ignored for sample in samples)
        assert [sample.picture is None for sample in samples] == ["image" not in row for row in dataset.rows]
    assert check_module(emission.path, images="all").findings == []


def test_the_same_inputs_give_the_same_bytes_and_nothing_is_made_twice(two: Workspace) -> None:
    emit_json(two)
    before = snapshot(two.root)
    times = {path: path.stat().st_mtime_ns for path in (two.root / "training").rglob("*")}
    assert emit_json(two).state == "up to date"
    assert {path: path.stat().st_mtime_ns for path in (two.root / "training").rglob("*")} == times
    for path in (two.root / "training").rglob("*.*"):
        if path.is_file():
            path.unlink()
    assert emit_json(two).state == "done"
    assert snapshot(two.root) == before


def test_a_killed_run_is_gone_on_with(two: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from prep.stages import lists

    made = emit_json(two)
    files = snapshot(two.root)
    made.path.unlink()
    folder = two.training_lists
    (folder / "llava665k.json").write_text("[]")
    manifest = json.loads((folder / "_manifest.json").read_text())
    for shard in manifest["shards"]:
        shard |= {"task": "", "size_bytes": 0, "rows": None, "sha256": ""}
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    assert read_finished(folder) is None
    monkeypatch.setattr(lists, "_write", broken := Broken(lists._write))
    with pytest.raises(DataError):
        emit_json(two)
    assert not made.path.exists()
    broken.is_broken = False
    assert emit_json(two).state == "done"
    assert snapshot(two.root) == files


class Broken:
    """Fails in the middle of the second list."""

    def __init__(self, write: Any) -> None:
        self.write, self.is_broken = write, True

    def __call__(self, path: Path, tasks: Any) -> int:
        if self.is_broken and tasks[0].name == "vflan":
            path.write_text("[")
            raise DataError("broken")
        rows: int = self.write(path, tasks)
        return rows


def test_what_a_person_wrote_is_not_replaced(two: Workspace) -> None:
    emission = emit_json(two)
    text = emission.path.read_text()
    mine = two.training_lists / "llava665k.json"
    mine.write_text("[1]")
    with pytest.raises(UsageError, match=r"llava665k\.json is there, and is edited or not prep's"):
        emit_json(two, replace_own=True)
    assert mine.read_text() == "[1]"
    assert emit_json(two, force=True).state == "done"
    assert len(listed(mine)) == 6
    emission.path.write_text(text + "# mine\n")
    with pytest.raises(UsageError, match="it is edited"):
        emit_json(two, replace_own=True)
    assert emit_json(two, force=True).path.read_text() == text


def test_a_changed_recipe_replaces_the_module_that_nobody_edited(two: Workspace) -> None:
    path = emit_json(two).path
    two.recipe_path.write_text(two.recipe_path.read_text().replace("dup:2", "first:1"))
    changed = Workspace(two.root)
    with pytest.raises(UsageError, match="it is as prep wrote it"):
        emit_json(changed)
    assert emit_json(changed, replace_own=True).path == path
    assert shown(listed(two.training_lists / "vflan-first-1.json")) == ["6.png"]


@pytest.mark.parametrize(
    ("sampling", "chosen"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("first:2", [0, 1]),
        ("first:9", [0, 1, 2, 3, 4, 5, 6]),
        ("end:2", [5, 6]),
        ("end:9", [0, 1, 2, 3, 4, 5, 6]),
        ("first:15%", [0, 1]),
        ("random:3", [0, 1, 5]),
        ("random:100%", [0, 1, 2, 3, 4, 5, 6]),
        ("dup:2", [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]),
    ],
)
def test_sampling(sampling: str, chosen: list[int]) -> None:
    assert [number for number, times in enumerate(copies(sampling, 7)) for _ in range(times)] == chosen


def test_more_rows_than_there_are_cannot_be_drawn(two: Workspace) -> None:
    two.recipe_path.write_text(two.recipe_path.read_text().replace("dup:2", "random:4"))
    with pytest.raises(ConfigError, match=r"random:4 asks for more than the 3 rows of more"):
        emit_json(Workspace(two.root))


def test_one_list_of_all(two: Workspace, tmp_path: Path) -> None:
    emission = emit_json(two, format_="llava-json")
    assert emission.path == two.root / "training" / "my-mix.1.json"
    items = listed(emission.path)
    assert shown(items)[-6:] == ["6.png", "6.png", None, None, "8.png", "8.png"] and len(items) == 12
    assert {entry["json_path"] for entry in emission.entries} == {str(emission.path)}
    assert emit_json(two, format_="llava-json").state == "up to date"
    emission.path.write_text("[]")
    with pytest.raises(UsageError, match="is there and differs"):
        emit_json(two, format_="llava-json")
    assert emit_json(two, format_="llava-json", force=True).state == "done"
    assert {path.name for path in (two.root / "training").iterdir()} == {"my-mix.1.json"}
    dataset = convllava_loader.Dataset(str(emission.path), str(emission.image_folder))
    assert sum(dataset[number].picture is not None for number in range(len(dataset))) == 8


def test_the_yaml_of_the_llava_next_family(two: Workspace) -> None:
    two.recipe_path.write_text(two.recipe_path.read_text().replace("llava665k}", "llava665k, sampling: 'random:50%'}"))
    workspace = Workspace(two.root)
    emission = emit_json(workspace, format_="llava-next")
    lists = two.training_lists
    assert yaml.safe_load(emission.path.read_text()) == {
        "datasets": [
            {"json_path": str(lists / "llava665k.json"), "sampling_strategy": "random:50%"},
            {"json_path": str(lists / "vflan-dup-2.json"), "sampling_strategy": "all"},
        ]
    }
    assert [len(listed(lists / name)) for name in ("llava665k.json", "vflan-dup-2.json")] == [6, 6]
    emit_json(workspace)  # both may be had from one workspace
    assert len(listed(lists / "llava665k-random-50-percent.json")) == 3
    assert emit_json(workspace, format_="llava-next").state == "up to date"


def test_a_file_of_ones_own_choice_has_its_lists_beside_it(two: Workspace, tmp_path: Path) -> None:
    emission = emit_json(two, output=tmp_path / "out" / "prep_datasets.py")
    assert sorted(path.name for path in (tmp_path / "out" / "prep_datasets").iterdir()) == [
        "_manifest.json",
        "llava665k.json",
        "vflan-dup-2.json",
    ]
    assert "from prep_datasets import PATHS" in emission.path.read_text()


@pytest.mark.parametrize(
    ("format_", "name", "problem"),
    [
        ("convllava", "data.json", "writes a .py file"),
        ("convllava", "my-data.py", "cannot import"),
        ("llava-json", "data.yaml", "writes a .json file"),
        ("llava-next", "data.py", "writes a .yaml file"),
    ],
)
def test_names_that_do_not_suit_a_format(two: Workspace, format_: Any, name: str, problem: str) -> None:
    assert format_ in FORMATS
    with pytest.raises(UsageError, match=problem):
        emit_json(two, format_=format_, output=Path(name))


def test_a_dry_run_writes_nothing(two: Workspace) -> None:
    for format_ in FORMATS:
        assert emit_json(two, format_=format_, dry_run=True).state == "planned"
    assert not (two.root / "training").exists()


@pytest.mark.parametrize(
    ("entries", "kinds", "problem"),
    [
        ("[{table: mix, name: llava665}]", {}, "no dataset of this name; did you mean 'llava665k'?"),
        ("[{table: mix}]", {}, "entry mix: ConvLLaVA has no dataset of this name"),
        ("[{table: mix, name: lcs}, {table: mix, name: lcs}]", {}, "entry lcs: two entries are called so"),
        ("[{table: mix, name: lcs}]", {"mix": "grounded-caption"}, "and table mix is of grounded-caption"),
    ],
)
def test_entries_that_the_trainer_cannot_have(
    tmp_path: Path, entries: str, kinds: dict[str, str], problem: str
) -> None:
    pictures(tmp_path, 3)
    items = [{"s3_path": "0.png", "loc_caption": "<box_p> A </box_p>"}] if kinds else rows(3)
    workspace = make(tmp_path / "w", {"mix": items}, entries, **kinds)
    with pytest.raises(ConfigError) as raised:
        emit_json(workspace)
    assert problem in raised.value.message


def test_names_are_free_for_one_list(tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    workspace = make(tmp_path / "w", {"mix": rows(3)}, "[{table: mix}]")
    assert len(listed(emit_json(workspace, format_="llava-json").path)) == 3
    assert emit_json(workspace, format_="llava-next").state == "done"
    workspace.recipe_path.write_text("name: m\nentries: [{table: mix, name: a/b}]\n")
    with pytest.raises(ConfigError, match="a file cannot be called so"):
        emit_json(Workspace(workspace.root), format_="llava-json")


def test_what_is_not_ready_is_told_or_left_out(two: Workspace) -> None:
    two.recipe_path.write_text(
        two.recipe_path.read_text().replace("entries: [", "entries: [{table: lcs-558k, name: lcs}, ")
    )
    workspace = Workspace(two.root)
    with pytest.raises(DataError, match="table lcs-558k is not filtered yet"):
        emit_json(workspace)
    emission = emit_json(workspace, partial=True)
    assert emission.left_out == {"lcs-558k": "table lcs-558k is not filtered yet"}
    assert emission.path.read_text().splitlines()[1] == "# Left out: lcs-558k (table lcs-558k is not filtered yet)"


def test_images_in_several_folders_have_the_deepest_common_one(tmp_path: Path) -> None:
    pictures(tmp_path / "all" / "a", 2)
    pictures(tmp_path / "all" / "ab", 2)
    pictures(tmp_path / "lists" / "b", 1)
    items = [
        {"image": str(tmp_path / "all" / "a" / "0.png"), "conversations": json.dumps(SEEN)},
        {"image": str(tmp_path / "all" / "." / "ab" / "1.png"), "conversations": json.dumps(SEEN)},
        {
            "image": str(tmp_path / "lists" / "b" / ".." / ".." / "all" / "ab" / "0.png"),
            "conversations": json.dumps(SEEN),
        },
    ]
    emission = emit_json(make(tmp_path / "w", {"mix": items}, "[{table: mix, name: lcs}]"))
    assert emission.image_folder == str(tmp_path / "all")
    assert shown(listed(emission.entries[0]["json_path"])) == ["a/0.png", "ab/1.png", "ab/0.png"]
    assert check_module(emission.path, images="all").findings == []


# -- images in the store, and in the guide's tree --------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Workspace:
    """A dataset of ours whose pictures are named as ALLaVA's rows name them: below allava/ of the guide's tree."""
    folder = tmp_path / "data" / "allava" / "allava_laion" / "images"
    pictures(folder, 4)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.json").write_text(
        json.dumps([{"image": f"allava_laion/images/{i}.png", "conversations": SEEN} for i in range(3)])
    )
    root = tmp_path / "w"
    Workspace.create(root, "name: tree\ntrainer: convllava\nentries: [{table: mix, name: allava_laion_caption}]\n")
    (root / "prep.yaml").write_text("recipe: recipe.yaml\nworkers: 1\n")
    (root / "datasets").mkdir()
    text = TREE.format(source=tmp_path / "lists", pictures=tmp_path / "data" / "allava")
    (root / "datasets" / "mine.yaml").write_text(text)
    workspace = Workspace(root)
    run_stages(workspace)
    return workspace


def test_images_of_the_tree_are_named_from_its_top(stored: Workspace, tmp_path: Path) -> None:
    emission = emit_json(stored, root=tmp_path / "data")
    [entry] = emission.entries
    assert emission.image_folder == str(tmp_path / "data")
    assert shown(listed(entry["json_path"])) == [f"allava/allava_laion/images/{i}.png" for i in range(3)]
    assert check_module(emission.path, images="all").findings == []
    assert emission.path.name == "tree_tree.py"
    other = emit_json(stored)
    assert other.image_folder == str(tmp_path / "data" / "allava" / "allava_laion" / "images")
    assert Path(other.entries[0]["json_path"]).parent.name == "tree"
    assert Path(entry["json_path"]).parent.name == "tree-tree"  # whose paths are others


def test_a_tree_that_lacks_images_is_refused(stored: Workspace, tmp_path: Path) -> None:
    (tmp_path / "data" / "allava" / "allava_laion" / "images" / "2.png").unlink()
    with pytest.raises(UsageError, match=r"the tree lacks allava/allava_laion/images/2\.png"):
        emit_json(stored, root=tmp_path / "data")
    with pytest.raises(UsageError, match="there is no such folder"):
        emit_json(stored, root=tmp_path / "nowhere")
    stored.recipe_path.write_text("name: tree\nentries: [{table: mix}]\n")
    with pytest.raises(ConfigError, match="the guide's tree has no place"):
        emit_json(Workspace(stored.root), format_="llava-json", root=tmp_path / "data")


def test_own_images_may_lie_in_the_tree_and_not_beside_it(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "own", 2)
    items = [{"image": str(tmp_path / "data" / "own" / "1.png"), "conversations": json.dumps(SEEN)}]
    workspace = make(tmp_path / "w", {"mix": items}, "[{table: mix, name: lcs}]")
    emission = emit_json(workspace, root=tmp_path / "data")
    assert shown(listed(emission.entries[0]["json_path"])) == ["own/1.png"]
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="is not below"):
        emit_json(workspace, root=tmp_path / "other", output=tmp_path / "other.py")


def test_an_edit_that_keeps_a_lists_size_is_not_lost(two: Workspace) -> None:
    path = Path(emit_json(two).entries[0]["json_path"])
    path.write_text(path.read_text().replace("Quadrat", "Dreieck"))
    two.recipe_path.write_text(two.recipe_path.read_text().replace("k}", "k, where: row < 3}"))
    workspace = Workspace(two.root)
    filter_table(workspace, "mix")
    with pytest.raises(UsageError, match="is edited or not prep's"):
        emit_json(workspace)
    assert "Dreieck" in path.read_text()
    assert emit_json(workspace, force=True).state == "done" and "Dreieck" not in path.read_text()


@pytest.mark.parametrize("name", ["class", "json", "1"])
def test_a_recipe_of_any_name_gets_a_module_that_can_be_imported(two: Workspace, name: str) -> None:
    two.recipe_path.write_text(two.recipe_path.read_text().replace("my-mix.1", f"'{name}'"))
    assert emit_json(Workspace(two.root)).path.name == f"_{name}.py"


def test_a_folder_that_holds_other_things_is_no_place_for_lists(two: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other things"):
        emit_json(two, output=tmp_path / "mine.py")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_the_familys_yaml_is_checked_list_by_list(two: Workspace) -> None:
    emission = emit_json(two, format_="llava-next")
    lists = next_lists(emission.path)
    assert lists is not None and lists.keys() == {"llava665k.json", "vflan-dup-2.json"}
    report = check_next(emission.path, lists, None, images="all")
    assert report.findings == [] and [each.images_missing for each in report.lists] == [0, 0]
    done = prep(two.root, "check", str(emission.path), "--version", "plain")
    assert done.returncode == 1 and "<image> is not in the first turn of a row of the format plain" in done.stdout


# -- commands ----------------------------------------------------------------------------------------------------


def test_commands_from_the_recipe_to_the_check(two: Workspace, tmp_path: Path) -> None:
    done = prep(two.root, "run")
    assert done.returncode == 0, done.stderr
    assert "my_mix_1.py: 2 entries" in done.stdout
    assert done.stdout.endswith("Training would start: nothing found.\n")
    assert prep(two.root, "run").stdout.startswith("Nothing to do")
    emitted = prep(two.root, "emit")
    assert f"{two.training_module} is up to date: 2 datasets" in emitted.stdout
    assert f"image folder: {tmp_path}" in emitted.stdout
    assert "Train with --dataset llava665k,vflan\n" in emitted.stderr
    assert prep_json(two.root, "check", "--images", "all")["findings"] == []
    facts = prep_json(two.root, "emit", "--format", "llava-json", "-o", tmp_path / "one.json")
    assert (facts["stage"], facts["format"], facts["state"], facts["image_folder"]) == (
        "emit",
        "llava-json",
        "done",
        str(tmp_path),
    )
    good = prep(two.root, "check", tmp_path / "one.json", "--image-folder", tmp_path)
    assert good.returncode == 0 and "12" in good.stdout
    plain = prep(two.root, "check", tmp_path / "one.json", "--image-folder", tmp_path, "--version", "plain")
    assert plain.returncode == 1
    assert "<image> is not in the first turn of a row of the format plain (4 of 12 rows looked at" in plain.stdout
    assert "datasets:" in prep(two.root, "emit-yaml", "--dry-run").stdout
    assert prep(two.root, "emit-yaml").returncode == 0 and two.training_yaml.is_file()
    assert f"training module: {two.training_module}" in prep(two.root, "status").stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["emit", "--format", "llava"], "--format llava is unknown"),
        (["emit-yaml", "--append", "x.yaml"], "--append, --remap and --s3-reader are for LaViDa-O's YAML"),
        (["check", "--version", "v2"], "--version v2: must be v1 or plain"),
        (["check", "--no-files"], "--no-files is for a training YAML"),
        (["check", "x.json", "--dataset", "lcs"], "--dataset is for a Python module, and x.json is none"),
        (["check", "x.yaml", "--version", "v1"], "--version is for a .py or .json file"),
        (["check"], "there is no"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, arguments: list[str], problem: str) -> None:
    Workspace.create(tmp_path, Catalogue().recipe_path("convllava-s3").read_text())
    done = prep(tmp_path, *arguments)
    assert done.returncode != 0
    assert problem in done.stderr


@pytest.mark.parametrize("name", ["raw.py", "filtered/x.py", "images/x.py", "filtered.py"])
def test_what_the_workspace_keeps_is_no_place_for_lists(tmp_path: Path, name: str) -> None:
    workspace = make(tmp_path, {"mix": rows(3)}, "[{table: mix, name: llava665k}]")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="belongs to the workspace itself"):
        emit_json(workspace, output=tmp_path / name, force=True)
    with pytest.raises(UsageError, match="belongs to the workspace itself"):
        emit_json(workspace, format_="llava-next", output=workspace.recipe_path, force=True)
    assert snapshot(tmp_path) == before
