"""A user's own csv or parquet through the whole line, against the loader's rules."""

from __future__ import annotations

import math
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import contract_loader
from prep import progress
from prep.add import add_file
from prep.config import Catalogue, Rules
from prep.errors import ConfigError, DataError, PrepError, UsageError
from prep.line import stale_tables
from prep.stages.download import download
from prep.stages.emit_yaml import emit_yaml
from prep.stages.filter import filter_table
from prep.stages.normalize import normalize
from prep.workspace import RulesFile, Workspace
from worlds import prep, snapshot

progress.use(progress.no_bar)


def own_workspace(root: Path, data: Path, **options: Any) -> Workspace:
    """A workspace with one file of the user's, normalized."""
    text = Catalogue().recipe_path("empty").read_text()
    workspace = Workspace.create(root, text)
    (root / "prep.yaml").write_text("recipe: recipe.yaml\nworkers: 1\n")
    add_file(Workspace(root), data, **options)
    workspace = Workspace(root)
    download(workspace, workspace.datasets[0])
    normalize(workspace, workspace.table_names[0])
    return workspace


def emitted(workspace: Workspace) -> dict[str, Any]:
    return contract_loader.load_yaml(emit_yaml(workspace, force=True).path)[0]


# -- the published guide's example -----------------------------------------------------------------------------


def test_the_guides_own_example(tmp_path: Path) -> None:
    """csv, init, add, filter, emit-yaml: the parquet and the entry of the guide."""
    (tmp_path / "pictures").mkdir()
    rows = []
    for number, (score, height) in enumerate([(5.67, 600), (5.68, 512), (6.5, 511), (7.25, 900), (None, 900)]):
        Image.new("RGB", (700, height)).save(tmp_path / f"pictures/{number}.jpg")
        caption = f'Picture {number}, "quoted",\nover two lines 猫'
        rows.append((str(tmp_path / f"pictures/{number}.jpg"), caption, score, height, 700))
    columns = ["s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "our-dataset.csv", index=False)

    for command in (
        ["init"],
        ["add", "our-dataset.csv"],
        ["filter", "--aes-cutoff", "5.67", "--min-size", "512"],
        ["emit-yaml"],
        ["check", "--images", "all"],
    ):
        done = prep(tmp_path, *command)
        assert done.returncode == 0, done.stderr

    assert contract_loader.load_yaml(tmp_path / "training/mixture.yaml") == [
        {
            "name": "our-dataset",
            "json_path": str(tmp_path / "filtered/our-dataset.parquet"),
            "columns": columns,
            "sampling_strategy": "all",
            "preprocess_fn": "preproces_text_to_image_generation_s3",
            "aes_cutoff": 5.67,
            "min_size": 512,
        }
    ]
    kept = pd.read_parquet(tmp_path / "filtered/our-dataset.parquet", columns=columns)
    assert list(kept.itertuples(index=False, name=None)) == [rows[1], rows[3]]
    dropped = pd.read_parquet(tmp_path / "dropped/our-dataset.parquet")
    assert list(dropped["reason"]) == ["aes_cutoff", "min_size", "no_score"]


# -- the rules, against a plain statement of them ----------------------------------------------------------------

scores = st.one_of(st.none(), st.just(math.nan), st.sampled_from([5.0, 5.67, 5.5, -1.0]), st.floats(0, 10, width=32))
sizes = st.one_of(st.none(), st.sampled_from([511, 512, 513]), st.integers(1, 3000))
blanks = ["", " \t\n", "\u00a0\u3000", "\x1c\x85\u200b"]
letters = st.characters(codec="utf-8", categories=["L", "N", "P", "Zs", "Cc"], max_codepoint=0x2FFF)
captions = st.one_of(st.none(), st.sampled_from([*blanks, "a cat"]), st.text(letters, max_size=6))
table_rows = st.lists(st.tuples(captions, scores, sizes, sizes), min_size=1, max_size=12)


def has_something_to_see(caption: object) -> bool:
    return isinstance(caption, str) and any(unicodedata.category(letter)[0] not in "ZC" for letter in caption)


@settings(max_examples=25, deadline=None)
@given(
    rows=table_rows,
    width=st.sampled_from([pa.float32(), pa.float64()]),
    cutoff=st.one_of(st.none(), st.sampled_from([5.67, 5.0, 0.0, 6.123])),
    min_size=st.one_of(st.none(), st.sampled_from([0, 512])),
)
def test_kept_rows_are_those_the_rules_say_and_the_loader_draws(
    rows: list[tuple[Any, ...]],
    width: pa.DataType,
    cutoff: float | None,
    min_size: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("rules")
    types = {"s3_path": pa.string(), "caption": pa.string(), "fltLaionAesthScore": width}
    types |= {"intHeight": pa.int64(), "intWidth": pa.int64()}
    named = [(f"/pictures/{number}.jpg", *row) for number, row in enumerate(rows)]
    columns = [pa.array(values, kind) for values, kind in zip(zip(*named, strict=True), types.values(), strict=True)]
    pq.write_table(pa.table(dict(zip(types, columns, strict=True))), folder / "own.parquet")
    workspace = own_workspace(folder / "workspace", folder / "own.parquet")

    # As the loader would see the publisher's file, in the file's own precision.
    frame = pd.read_parquet(folder / "own.parquet")
    has_scores = frame["fltLaionAesthScore"].notna().any()
    keep = frame["caption"].map(has_something_to_see)
    if has_scores:
        keep &= frame["fltLaionAesthScore"] > frame["fltLaionAesthScore"].dtype.type(5.0 if cutoff is None else cutoff)
    if min_size is not None and frame["intHeight"].notna().any() and frame["intWidth"].notna().any():
        keep &= (frame["intHeight"] >= min_size) & (frame["intWidth"] >= min_size)

    outcome = filter_table(workspace, "own", rules=Rules(aes_cutoff=cutoff, min_size=min_size))
    assert outcome.manifest is not None
    kept = pd.read_parquet(workspace.filtered("own"))
    assert list(kept["s3_path"]) == list(frame["s3_path"][keep])
    assert outcome.manifest.rows + sum(outcome.manifest.counts.values()) == len(rows)
    if len(kept):
        workspace.remember_rules(RulesFile(all=Rules(aes_cutoff=cutoff, min_size=min_size)))
        drawn = contract_loader.load_entry(emitted(workspace))
        assert list(drawn["s3_path"]) == list(kept["s3_path"])


@given(cutoff=st.decimals(-10, 20, places=4), step=st.integers(-2, 2), far=st.floats(-100, 100, width=32))
@settings(max_examples=200, deadline=None)
def test_a_float32_score_compares_after_conversion_as_it_did_before(cutoff: Decimal, step: int, far: float) -> None:
    """At, just above and just below any cutoff a person would write."""
    near = np.float32(cutoff)
    for _ in range(abs(step)):
        near = np.nextafter(near, np.float32(np.inf if step > 0 else -np.inf))
    for score in (near, np.float32(far)):
        query = "SELECT CAST(CAST(CAST(? AS FLOAT) AS VARCHAR) AS DOUBLE)"
        [(converted,)] = duckdb.execute(query, [float(score)]).fetchall()
        assert np.float32(converted) == score
        assert (converted > float(cutoff)) == bool(score > np.float32(cutoff))


# -- add ---------------------------------------------------------------------------------------------------------


def write_csv(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_columns_are_mapped_and_relative_paths_made_absolute(tmp_path: Path) -> None:
    rows = ["a/1.jpg,one,6", "/abs/2.jpg,two,7", "s3://b/3,three,8", ",no path,8", '"  ",blank path,8']
    data = write_csv(tmp_path / "mine.csv", "File,Text,score", *rows)
    workspace = own_workspace(
        tmp_path / "w", data, mapping={"s3_path": "file", "caption": "TEXT", "fltLaionAesthScore": "score"}
    )
    outcome = filter_table(workspace, "mine")
    assert outcome.manifest is not None and outcome.manifest.counts == {"no_image": 2}
    kept = pd.read_parquet(workspace.filtered("mine"))
    assert list(kept["s3_path"]) == [f"{tmp_path}/a/1.jpg", "/abs/2.jpg", "s3://b/3"]
    assert emitted(workspace)["columns"] == ["s3_path", "caption", "fltLaionAesthScore"]


@pytest.mark.parametrize(
    ("header", "options", "error", "words"),
    [
        ("path,caption", {}, DataError, "no column 's3_path'; it has: path, caption"),
        ("s3_path,text", {}, DataError, "--map caption=COLUMN"),
        ("s3_path,text", {"mapping": {"caption": "txt"}}, UsageError, "no column 'txt'; did you mean 'text'?"),
        ("s3_path,text", {"mapping": {"captoin": "text"}}, UsageError, "did you mean 'caption'?"),
        ("s3_path,caption", {"name": "../x"}, UsageError, "cannot be a dataset's name"),
        ("s3_path,caption", {"name": "coyo-700m"}, UsageError, "there already"),
        ("s3_path,caption", {"name": "grand-f-openpsg"}, UsageError, "there already"),
    ],
)
def test_add_refuses(header: str, options: dict[str, Any], error: type[PrepError], words: str, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "mine.csv", header, "a,b")
    with pytest.raises(error) as raised:
        own_workspace(tmp_path / "w", data, **options)
    assert words in str(raised.value)
    assert not list((tmp_path / "w/datasets").glob("*"))


def test_addresses_in_the_path_column_are_told_apart(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "mine.csv", "s3_path,caption", "https://example.org/a.jpg,one", "/a.jpg,two")
    workspace = own_workspace(tmp_path / "w", data)
    outcome = filter_table(workspace, "mine")
    assert outcome.manifest is not None and outcome.manifest.counts == {"path_is_an_address": 1}


def test_a_changed_file_is_taken_again_and_a_folder_of_parquet_is_one_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        table = pa.table({"s3_path": [f"/{number}.jpg"], "caption": [f"picture {number}"]})
        pq.write_table(table, folder / f"part-{number}.parquet")
    workspace = own_workspace(tmp_path / "w", folder)
    filter_table(workspace, "mine")
    assert list(pd.read_parquet(workspace.filtered("mine"))["s3_path"]) == ["/0.jpg", "/1.jpg", "/2.jpg"]

    pq.write_table(pa.table({"s3_path": ["/new.jpg"], "caption": ["new"]}), folder / "part-1.parquet")
    assert download(workspace, workspace.datasets[0]).made == 1
    assert normalize(workspace, "mine").made == 1
    assert filter_table(workspace, "mine").made == 1
    assert list(pd.read_parquet(workspace.filtered("mine"))["s3_path"]) == ["/0.jpg", "/new.jpg", "/2.jpg"]


def test_columns_that_are_nobodys_are_there_for_where(tmp_path: Path) -> None:
    data = write_csv(
        tmp_path / "mine.csv", "s3_path,caption,Sharpness,row,reason", "/1.jpg,one,0.2,x,y", "/2.jpg,two,0.9,x,y"
    )
    workspace = own_workspace(tmp_path / "w", data)
    filter_table(workspace, "mine", rules=Rules(where="sharpness > 0.5"))
    assert list(pd.read_parquet(workspace.filtered("mine"))["s3_path"]) == ["/2.jpg"]


def test_data_around_the_workspace_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"s3_path": ["/1.jpg"], "caption": ["one"]}), tmp_path / "part.parquet")
    with pytest.raises(UsageError, match="contains this workspace"):
        own_workspace(tmp_path / "w", tmp_path)


def test_rules_of_the_command_line_are_kept_for_whom_they_were_given() -> None:
    kept = RulesFile().with_rules(Rules(aes_cutoff=6), []).with_rules(Rules(min_size=512), ["a"])
    kept = kept.with_rules(Rules(aes_cutoff=5.5), ["a", "b"])
    assert kept == RulesFile(
        all=Rules(aes_cutoff=6),
        tables={"a": Rules(aes_cutoff=5.5, min_size=512), "b": Rules(aes_cutoff=5.5)},
    )
    assert kept.with_rules(Rules(), ["a"], reset=True).tables == {"b": Rules(aes_cutoff=5.5)}
    assert kept.with_rules(Rules(min_size=1), ["a"], reset=True).tables["a"] == Rules(min_size=1)
    assert kept.with_rules(Rules(), [], reset=True) == RulesFile()


# -- the training YAML -------------------------------------------------------------------------------------------


@pytest.fixture
def filtered(tmp_path: Path) -> Workspace:
    rows = [f"{tmp_path}/w/images/{number}.jpg,picture {number},{6 + number},600,600" for number in range(3)]
    data = write_csv(tmp_path / "mine.csv", "s3_path,caption,fltLaionAesthScore,intHeight,intWidth", *rows)
    workspace = own_workspace(tmp_path / "w", data)
    filter_table(workspace, "mine")
    return workspace


def test_remap_rewrites_the_yaml_and_the_paths_in_the_tables(filtered: Workspace) -> None:
    emission = emit_yaml(filtered, remap=[(str(filtered.root), "/mnt/data/")])
    entry = contract_loader.load_yaml(emission.path)[0]
    assert entry["json_path"] == "/mnt/data/training/mixture/mine.parquet"
    copied = pd.read_parquet(filtered.root / "training/mixture/mine.parquet")
    assert list(copied["s3_path"]) == [f"/mnt/data/images/{number}.jpg" for number in range(3)]
    assert copied.drop(columns="s3_path").equals(pd.read_parquet(filtered.filtered("mine")).drop(columns="s3_path"))


def test_a_yaml_that_is_there_is_not_clobbered(filtered: Workspace) -> None:
    path = emit_yaml(filtered).path
    assert emit_yaml(filtered).state == "up to date"
    edited = path.read_text().replace("sampling_strategy: all", "sampling_strategy: first:2  # mine")
    path.write_text(edited)
    for replace_own in (False, True):
        with pytest.raises(UsageError, match="is there and differs"):
            emit_yaml(filtered, replace_own=replace_own)
        assert path.read_text() == edited
    assert emit_yaml(filtered, force=True).state == "done"
    assert path.read_text() != edited

    filter_table(filtered, "mine", rules=Rules(aes_cutoff=6.5))
    filtered.remember_rules(RulesFile(all=Rules(aes_cutoff=6.5)))
    with pytest.raises(UsageError, match="as prep wrote it"):
        emit_yaml(filtered)
    assert emit_yaml(filtered, replace_own=True).state == "done"


def test_append_keeps_every_byte_of_the_other_yaml(filtered: Workspace, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.yaml"
    before = (
        "# our mixture\ndatasets:\n    - name: old   # keep\n      json_path: /old.json\n\n# tail\nweights: {a: 1}\n"
    )
    theirs.write_text(before)
    emission = emit_yaml(filtered, append=theirs)
    after = theirs.read_text()
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert [line for line in after.splitlines() if line in before.splitlines()] == before.splitlines()
    assert "name: mine" in added[0]
    data = yaml.safe_load(after)
    assert data == {"datasets": [{"name": "old", "json_path": "/old.json"}, *emission.entries], "weights": {"a": 1}}
    assert emit_yaml(filtered, append=theirs).state == "up to date"
    assert theirs.read_text() == after


def test_append_follows_links_and_keeps_rights(filtered: Workspace, tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("datasets: []\n")
    (tmp_path / "real.yaml").chmod(0o640)
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    emit_yaml(filtered, append=tmp_path / "link.yaml")
    assert (tmp_path / "link.yaml").is_symlink()
    assert (tmp_path / "real.yaml").stat().st_mode & 0o777 == 0o640
    assert "mine" in (tmp_path / "real.yaml").read_text()


def test_each_remapped_yaml_has_tables_of_its_own(filtered: Workspace) -> None:
    here = str(filtered.root)
    for name in ("a", "b"):
        emit_yaml(filtered, output=filtered.root / f"training/{name}.yaml", remap=[(here, f"/{name}")])
    for name in ("a", "b"):
        [entry] = contract_loader.load_yaml(filtered.root / f"training/{name}.yaml")
        assert entry["json_path"] == f"/{name}/training/{name}/mine.parquet"
        paths = pd.read_parquet(filtered.root / f"training/{name}/mine.parquet")["s3_path"]
        assert paths.str.startswith(f"/{name}/images/").all()


def test_a_refused_remap_leaves_the_tables_of_the_yaml_that_is_there(filtered: Workspace) -> None:
    here, path = str(filtered.root), filtered.root / "training/a.yaml"
    emit_yaml(filtered, output=path, remap=[(here, "/a")])
    before = snapshot(filtered.root)
    with pytest.raises(UsageError, match="is there and differs"):
        emit_yaml(filtered, output=path, remap=[(here, "/b")])
    emit_yaml(filtered, output=path, remap=[(here, "/b")], dry_run=True)
    assert snapshot(filtered.root) == before


@pytest.mark.parametrize("remap", [("/here", "s3://bucket"), ("/here", "there"), ("here", "/there")])
def test_a_remap_that_cannot_be_is_refused(remap: tuple[str, str], filtered: Workspace) -> None:
    with pytest.raises(UsageError, match="must be absolute paths"):
        emit_yaml(filtered, remap=[remap])


@pytest.mark.parametrize("name", ["prep.yaml", "recipe.yaml", "rules.yaml", "prep.lock", "datasets/mine.yaml"])
def test_the_workspaces_own_files_are_not_written_over(name: str, filtered: Workspace, tmp_path: Path) -> None:
    before = snapshot(filtered.root)
    path, link = filtered.root / name, tmp_path / "link.yaml"
    link.symlink_to(path)
    for place in (path, link):
        with pytest.raises(UsageError, match="belongs to the workspace itself"):
            emit_yaml(filtered, append=place)
    with pytest.raises(UsageError, match="belongs to the workspace itself"):
        emit_yaml(filtered, output=path, force=True)
    assert snapshot(filtered.root) == before


def test_the_next_run_does_not_write_over_a_yaml_for_another_machine(filtered: Workspace) -> None:
    path = emit_yaml(filtered, remap=[(str(filtered.root), "/mnt/data")]).path
    with pytest.raises(UsageError, match="for another machine"):
        emit_yaml(filtered, replace_own=True)
    assert "/mnt/data/" in path.read_text()


def test_appending_a_table_again_with_other_rules_is_refused(filtered: Workspace, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text("datasets: []\n")
    emit_yaml(filtered, append=theirs)
    filter_table(filtered, "mine", rules=Rules(aes_cutoff=6.5))
    filtered.remember_rules(RulesFile(all=Rules(aes_cutoff=6.5)))
    before = theirs.read_text()
    with pytest.raises(UsageError, match="has the table of mine already"):
        emit_yaml(filtered, append=theirs)
    assert theirs.read_text() == before
    for text in ("datasets: {a: 1}\n", "- a\n"):
        theirs.write_text(text)
        with pytest.raises(PrepError):
            emit_yaml(filtered, append=theirs)
        assert theirs.read_text() == text


def test_what_changed_since_is_not_emitted(filtered: Workspace, tmp_path: Path) -> None:
    """The user's file, or the table's YAML: the tables that are there are no longer what they say."""
    assert stale_tables(filtered) == {}
    data = tmp_path / "mine.csv"
    data.write_text(data.read_text() + "/new.jpg,new,9,600,600\n")
    assert stale_tables(Workspace(filtered.root)) == {"mine": "download has work to do"}
    with pytest.raises(DataError, match="table mine is out of date"):
        emit_yaml(filtered, stale=stale_tables(Workspace(filtered.root)))


# -- rows never vanish -------------------------------------------------------------------------------------------


def many_rows(tmp_path: Path) -> Workspace:
    data = write_csv(tmp_path / "mine.csv", "s3_path,caption", *(f"/{n}.jpg,picture {n}" for n in range(1000)))
    return own_workspace(tmp_path / "w", data)


def test_a_where_that_changes_its_mind_loses_and_doubles_nothing(tmp_path: Path) -> None:
    workspace = many_rows(tmp_path)
    outcome = filter_table(workspace, "mine", rules=Rules(where="random() < 0.5"))
    assert outcome.manifest is not None
    kept = pd.read_parquet(workspace.filtered("mine"))["row"]
    dropped = pd.read_parquet(workspace.dropped("mine"))["row"]
    assert sorted([*kept, *dropped]) == list(range(1000))
    assert outcome.manifest.counts == {"where": len(dropped)}


@pytest.mark.parametrize("where", ["unnest([true, false])", "count(*) > 1", "row_number() OVER () > 2"])
def test_a_where_that_is_no_predicate_is_refused(where: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--where"):
        filter_table(many_rows(tmp_path), "mine", rules=Rules(where=where))


def test_values_that_are_not_what_a_column_holds_are_dropped_with_that_reason(tmp_path: Path) -> None:
    captions = [b"caf\xc3\xa9", b"\xff\xfe", b"fine", b"fine", b"fine", b"fine"]
    columns = {
        "s3_path": pa.array([f"/{n}.jpg" for n in range(6)]),
        "caption": pa.array(captions, pa.binary()),
        "intHeight": pa.array([600.0, 600.0, 600.5, math.nan, 1e20, 512.0]),
        "intWidth": pa.array([600] * 6),
        "_row": pa.array([9] * 6),
    }
    pq.write_table(pa.table(columns), tmp_path / "odd.parquet")
    workspace = own_workspace(tmp_path / "w", tmp_path / "odd.parquet")
    filter_table(workspace, "odd", rules=Rules(min_size=512))
    assert list(pd.read_parquet(workspace.filtered("odd"))["caption"]) == ["café", "fine"]
    dropped = pd.read_parquet(workspace.dropped("odd"))
    assert dict(zip(dropped["key"], dropped["reason"], strict=True)) == {
        "odd.parquet#1": "bad_caption",
        "odd.parquet#2": "bad_intHeight",
        "odd.parquet#3": "no_size",
        "odd.parquet#4": "bad_intHeight",
    }


def test_lists_are_no_captions_and_numbers_are_no_trouble(tmp_path: Path) -> None:
    columns = {"s3_path": [1, 2], "caption": [["a", "b"], ["c"]]}
    pq.write_table(pa.table(columns), tmp_path / "odd.parquet")
    workspace = own_workspace(tmp_path / "w", tmp_path / "odd.parquet")
    outcome = filter_table(workspace, "odd")
    assert outcome.manifest is not None and outcome.manifest.counts == {"bad_caption": 2}


def test_text_of_a_csv_stays_as_it_is(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "mine.csv", "s3_path,caption,n", "/1.jpg,01/02/2020,1", "/2.jpg,007,2.5")
    workspace = own_workspace(tmp_path / "w", data)
    filter_table(workspace, "mine", rules=Rules(where="n > 1.5"))
    assert list(pd.read_parquet(workspace.filtered("mine"))["caption"]) == ["007"]


def test_nothing_left_and_stale_rules_are_told_before_training(filtered: Workspace) -> None:
    filter_table(filtered, "mine", rules=Rules(aes_cutoff=9))
    with pytest.raises(DataError, match="rules of table mine changed"):
        emit_yaml(filtered)
    filtered.remember_rules(RulesFile(all=Rules(aes_cutoff=9)))
    with pytest.raises(DataError, match="left no row of table mine \\(3 aes_cutoff\\)"):
        emit_yaml(filtered)
    assert not filtered.training_yaml.exists()
