"""Recipes as the authors' mixtures, entry by entry, and what `prep recipe show` says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from prep.config import Catalogue, Recipe, load
from prep.errors import ConfigError
from prep.manifest import Manifest, Shard, write_manifest
from prep.mixture import ingredients
from prep.trainers.lavida_o import DEFAULT_AES_CUTOFF, DEFAULT_GROUP, FUNCTION_OF_KIND
from prep.workspace import Workspace
from worlds import prep

PUBLISHED = Path(__file__).parent / "trainers" / "published"
CATALOGUE = Catalogue()
STAGES = {"lavida-o-s1": "s1_und_gnd_data", "lavida-o-s2": "s2_t2i_pretrain", "lavida-o-s3": "s3_interleaved"}
PREFIXES = ("s3_prefix", "s3_prefix_enc")
HASH = "preproces_text_to_image_generation_piat_hash"


def recipe(name: str) -> Recipe:
    return load(Recipe, CATALOGUE.recipe_path(name))


def published(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((PUBLISHED / f"{STAGES[name]}.yaml").read_text())
    return data


# -- the recipes are the published mixtures --------------------------------------------------------------------

# Cutoffs that a published table had passed before, told by its file's name.
ALREADY_CUT = {"coyo-recap-5_5_dedup": 5.5, "laion-recap-5_67_dedup": 5.67, "laion-recap-19M-5_67_dedup-300k": 5.67}


def as_published(entry: dict[str, Any]) -> dict[str, Any]:
    """What an entry of a recipe has to say for an entry of the authors'."""
    arguments = {key: value for key, value in entry.get("process_fn_kwargs", {}).items() if key not in PREFIXES}
    if entry["preprocess_fn"] == HASH:
        arguments.pop("caption_key", None)  # the public tables have their captions in `caption`
    cutoff = entry.get("aes_cutoff", DEFAULT_AES_CUTOFF) if "fltLaionAesthScore" in entry["columns"] else None
    return {
        "name": entry["name"],
        "sampling": entry["sampling_strategy"],
        "group": entry.get("length_group", DEFAULT_GROUP),
        "aes_cutoff": ALREADY_CUT.get(Path(entry["json_path"]).stem, cutoff),
        "min_size": entry.get("min_size"),
        "arguments": arguments,
    }


@pytest.mark.parametrize("name", STAGES)
def test_entries_are_those_of_the_published_mixture_in_their_order(name: str) -> None:
    found = [
        {
            "name": entry.label,
            "sampling": entry.sampling,
            "group": entry.group or DEFAULT_GROUP,
            "aes_cutoff": entry.aes_cutoff,
            "min_size": entry.min_size,
            "arguments": entry.arguments,
        }
        for entry in recipe(name).entries
        if entry.table != "echo-4o-instruction"  # of one published table two are made
    ]
    assert found == [as_published(entry) for entry in published(name)["datasets"]]


UNUSED = ("mjv6", "picabanana")  # groups without an entry
LEFT_TO_THE_LOADER = {"laion_coyo": 1, "und_vw": 1}


@pytest.mark.parametrize("name", STAGES)
def test_weights_and_batch_factors_are_the_published_ones(name: str) -> None:
    made, theirs = recipe(name), published(name)
    weights = {group: weight for group, weight in theirs.get("weights", {}).items() if group not in UNUSED}
    assert made.weights == weights
    assert made.batch_sizes == theirs.get("batch_sizes", {}) | (LEFT_TO_THE_LOADER if made.batch_sizes else {})


@pytest.mark.parametrize("name", STAGES)
def test_functions_are_the_published_ones_or_their_public_stand_ins(name: str) -> None:
    theirs = {entry["name"]: entry["preprocess_fn"] for entry in published(name)["datasets"]}
    for entry in recipe(name).entries:
        if not entry.not_public:
            kind = CATALOGUE.dataset_of_table(entry.table).tables[entry.table].kind
            expected = theirs[entry.label].replace("_piat_hash", "_s3")
            assert FUNCTION_OF_KIND[kind] == expected, entry.label
        else:
            [command] = [word for word in entry.not_public.split("`") if word.startswith("prep add")]
            _, _, _, kind_option, kind, name_option, table = command.split()
            assert (kind_option, name_option, table) == ("--kind", "--name", entry.table)
            assert FUNCTION_OF_KIND[kind] == theirs[entry.label], entry.label


# -- what is known of a recipe ---------------------------------------------------------------------------------

RECIPE = """\
name: mix
title: A mixture
entries:
  - {table: blip3o-60k, group: t2i, sampling: "dup:2"}
  - {table: grand-f-flickr, name: grand-f, group: grounding, note: Fewer rows.}
  - {table: plans, group: plan, not_public: nobody published it. `prep add FILE --name plans`}
weights: {t2i: 300, plan: 50}
notes: Two of three.
"""
BLIP = {
    "entry": "blip3o-60k",
    "table": "blip3o-60k",
    "dataset": "blip3o-60k",
    "source": "BLIP3o/BLIP3o-60k",
    "homepage": "https://huggingface.co/datasets/BLIP3o/BLIP3o-60k",
    "license": "apache-2.0",
    "images_from": [],
    "sampling": "dup:2",
    "group": "t2i",
    "weight": 300.0,
    "share": 0.75,
    "status": "ready to build",
    "note": "",
    "progress": "1,234 rows kept",
}
GRAND_F = {
    "entry": "grand-f",
    "table": "grand-f-flickr",
    "dataset": "grand-f",
    "source": "MBZUAI/GranD-f",
    "homepage": "https://huggingface.co/datasets/MBZUAI/GranD-f",
    "license": "apache-2.0",
    "images_from": ["flickr30k"],
    "sampling": "all",
    "group": "grounding",
    "weight": 100.0,
    "share": 0.25,
    "status": "differs",
    "note": "Fewer rows.",
    "progress": "not begun",
}
PLANS: dict[str, Any] = {
    "entry": "plans",
    "table": "plans",
    "dataset": None,
    "source": None,
    "homepage": None,
    "license": None,
    "images_from": [],
    "sampling": "all",
    "group": "plan",
    "weight": None,
    "share": None,
    "status": "not public",
    "note": "nobody published it. `prep add FILE --name plans`",
    "progress": "",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace.create(tmp_path, RECIPE)
    finish(made.filtered("blip3o-60k"), "filter", 1234)
    return made


def finish(folder: Path, stage: str, rows: int = 0, **facts: int) -> None:
    """A stage's folder as if the stage had finished."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, Manifest(stage, (Shard("shard-00000.parquet", "", rows, 0, ""),), facts))


def test_whole_document_of_a_workspaces_recipe(workspace: Workspace) -> None:
    done = prep(workspace.root, "recipe", "show", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "recipe": "mix",
        "title": "A mixture",
        "notes": "Two of three.",
        "entries": [BLIP, GRAND_F, PLANS],
    }


def test_whole_page_of_a_workspaces_recipe(workspace: Workspace) -> None:
    done = prep(workspace.root, "recipe", "show", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "mix: A mixture",
        "",
        "entry           from                                  group      status",
        "table           licence                     sampling  its share  so far",
        "blip3o-60k      BLIP3o/BLIP3o-60k           dup:2     t2i        ready to build",
        "blip3o-60k      apache-2.0                            75.0%      1,234 rows kept",
        "grand-f         MBZUAI/GranD-f              all       grounding  differs",
        "grand-f-flickr  apache-2.0, images of                 25.0%      not begun",
        "                flickr30k",
        "plans                                       all       plan       not public",
        "plans                                                 -",
        "share: of the batches, for the groups that can be made",
        "",
        "Not quite as published (1)",
        "grand-f",
        "  Fewer rows.",
        "",
        "Not public, and left out (1)",
        "plans",
        "  nobody published it. `prep add FILE --name plans`",
        "",
        "Two of three.",
    ]


def test_a_table_of_ones_own_takes_the_place_of_one_that_is_not_public(workspace: Workspace) -> None:
    (workspace.root / "plans.csv").write_text("s3_path,caption,grounding_text\n/a.png,A cat.,a cat at 1 2 3 4\n")
    done = prep(workspace.root, "add", "plans.csv", "--kind", "text-to-image-plan", "--name", "plans")
    assert done.returncode == 0, done.stderr
    supplied = Workspace(workspace.root)
    assert supplied.recipe == workspace.recipe
    found = ingredients(supplied.recipe, supplied.catalogue, supplied)[2]
    assert (found.status, found.share, found.progress) == ("ready to build", 50 / 450, "1 row normalized")


def test_a_new_workspace_tells_of_what_is_not_public(tmp_path: Path) -> None:
    said = prep(tmp_path, "init", "lavida-o-s3").stderr
    assert "16 entries are not public and left out (`prep recipe show` says why)." in said


def test_progress_goes_by_the_last_stage_that_finished(workspace: Workspace) -> None:
    def progress() -> str:
        return ingredients(workspace.recipe, workspace.catalogue, workspace)[1].progress

    assert progress() == "not begun"
    finish(workspace.raw("grand-f"), "download", missing=1)
    assert progress() == "partly downloaded"
    finish(workspace.raw("grand-f"), "download")
    assert progress() == "downloaded"
    finish(workspace.normalized("grand-f-flickr"), "normalize", 5)
    assert progress() == "5 rows normalized"


def test_a_recipe_of_the_catalogue_needs_no_workspace(tmp_path: Path) -> None:
    done = prep(tmp_path, "recipe", "show", "lavida-o-s3", "--json")
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)["entries"]
    assert [entry["entry"] for entry in entries] == [entry.label for entry in recipe("lavida-o-s3").entries]
    assert {entry["progress"] for entry in entries} == {""}
    shares = {entry["group"]: entry["share"] for entry in entries if entry["share"] is not None}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["t2i"] == pytest.approx(250 / 1680)
    assert prep(tmp_path, "recipe", "show").stderr.startswith(f"Error: {tmp_path} is not in a workspace")
    assert "did you mean 'lavida-o-s1'?" in prep(tmp_path, "recipe", "show", "lavida-s1").stderr


def test_recipes_are_listed_as_by_init(tmp_path: Path) -> None:
    assert prep(tmp_path, "recipe", "list").stdout == prep(tmp_path, "init", "--list").stdout
    listed = json.loads(prep(tmp_path, "recipe", "list", "--json").stdout)
    assert [item["name"] for item in listed] == [name for name in CATALOGUE.recipe_names() if name != "empty"]


def test_a_public_entry_without_its_table_is_an_error(tmp_path: Path) -> None:
    mixture = Recipe.model_validate({"name": "mix", "entries": [{"table": "blip3o-60"}]})
    with pytest.raises(ConfigError, match="no dataset has a table 'blip3o-60'; did you mean 'blip3o-60k'"):
        ingredients(mixture, CATALOGUE)
