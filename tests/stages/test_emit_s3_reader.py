"""The reader of images on S3 as `prep emit-yaml --s3-reader` writes it, with its index of images."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import contract_loader
from prep.errors import PrepError, UsageError, WorkspaceError
from prep.images.index import SCHEMA
from prep.manifest import Manifest, Shard, write_manifest
from prep.stages.check import check_yaml
from prep.stages.emit_s3_reader import EmittedReader, check_s3_reader, emit_s3_reader
from prep.stages.emit_yaml import emit_yaml
from prep.trainers import s3_reader
from prep.trainers.lavida_o_sample import reader_on_path
from prep.workspace import Workspace
from s3_reading import imported
from s3_server import S3Server


def make(root: Path, images: str = "s3://pictures/mix", endpoint: str | None = None) -> Workspace:
    """A workspace with two datasets of archives."""
    (root / "datasets").mkdir(parents=True)
    config = {"recipe": "recipe.yaml", "images": images} | ({"s3_endpoint": endpoint} if endpoint else {})
    (root / "prep.yaml").write_text(yaml.safe_dump(config))
    (root / "recipe.yaml").write_text("name: x\nentries: [{table: cats}, {table: dogs}]\n")
    for name in ("cats", "dogs"):
        table = {
            "kind": "text-to-image", "records": {"format": "parquet", "parts": "*"}, "image": "file",
            "select": {"caption": "text"},
        }  # fmt: skip
        dataset = {
            "name": name, "source": {"kind": "local", "path": "/nowhere"},
            "images": {"kind": "archive", "parts": "*.zip", "key": "member"}, "tables": {name: table},
        }  # fmt: skip
        (root / "datasets" / f"{name}.yaml").write_text(yaml.safe_dump(dataset))
    return Workspace(root)


def write_index(workspace: Workspace, dataset: str, *shards: Mapping[str, str | None], sha256: str = "0" * 64) -> None:
    """An image index with these keys and paths."""
    folder = workspace.index(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    described = []
    for number, paths in enumerate(shards):
        rows = [
            dict.fromkeys(SCHEMA.names) | {"image_key": key, "path": path, "status": "ok" if path else "dns"}
            for key, path in paths.items()
        ]
        path = folder / f"shard-{number:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
        described.append(Shard(path.name, "task", len(rows), path.stat().st_size, sha256))
    write_manifest(folder, Manifest("images", tuple(described), {"store": workspace.config.images}))


def put(s3: S3Server, key: str, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Store a picture; its pixels."""
    noise = Image.effect_noise(size, 80).convert("RGB")
    path = s3.folder / "made.png"
    noise.save(path)
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
    client.put_object(Bucket=s3.bucket, Key=key, Body=path.read_bytes())
    client.close()
    return np.array(noise)


def test_images_are_found_by_their_key(s3: S3Server, tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", f"s3://{s3.bucket}/keyed", s3.endpoint)
    small, wide = put(s3, "keyed/cats/a.zip/1.png", (40, 30)), put(s3, "keyed/dogs/b/2 .png", (2048, 300))
    write_index(workspace, "cats", {"one": "a.zip/1.png", "both": "x", "failed": None}, {"local": "/adopted/y.png"})
    write_index(workspace, "dogs", {"Two é": "b/2 .png", "both": "x"})
    folder = tmp_path / "read er?#"
    assert emit_s3_reader(workspace, folder) == EmittedReader(folder, 4)
    plain, reduced = {"strSource": "raw"}, {"strSource": "1024-pil-antialias"}
    with imported(folder) as piat:
        for source in (plain, reduced):
            assert np.array_equal(piat.get_image(source, "one"), small)  # never enlarged
        assert np.array_equal(piat.get_image(plain, "Two é"), wide)
        expected = np.array(Image.fromarray(wide).resize((1024, 150), Image.Resampling.LANCZOS))
        assert np.array_equal(piat.get_image(reduced, "Two é"), expected)
        for key in ("failed", "local", "ONE", "", "x' OR 1=1 --"):
            with pytest.raises(KeyError, match="no image has the key"):
                piat.get_image(plain, key)
        with pytest.raises(KeyError, match="several datasets have the key both: cats, dogs"):
            piat.get_image(plain, "both")
        with pytest.raises(ValueError, match="strSource '512'"):
            piat.get_image({"strSource": "512"}, "one")
        rows = pa.table({"strImagehash": ["one"], "longLLA_captions": ["A cat"]})
        pq.write_table(rows, tmp_path / "t.parquet")
        entry = {
            "json_path": str(tmp_path / "t.parquet"), "preprocess_fn": "preproces_text_to_image_generation_piat_hash",
        }  # fmt: skip
        sample = contract_loader.build_sample(entry, 0)
        assert sample["text"] == ["A cat"] and np.array_equal(np.array(sample["images"][0]), small)


def test_settings_say_where_everything_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    workspace = make(tmp_path / "w", endpoint="http://here:1")
    write_index(workspace, "cats", {"one": "1.png"})
    folder = tmp_path / "reader"
    emit_s3_reader(workspace, folder)
    settings = json.loads((folder / "piat.json").read_text())
    index_of = settings.pop("index_of")
    assert settings == {
        "endpoint": "http://here:1", "region": "eu-west-3", "cache": None, "cache_bytes": 50_000_000_000,
        "images": "s3://pictures/mix", "index": "piat.sqlite",
    }  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["piat.json", "piat.py", "piat.sqlite"]
    assert (folder / "piat.py").read_text() == Path(s3_reader.__file__).read_text()

    before = (folder / "piat.sqlite").stat().st_ino
    edited = settings | {"cache": "/fast", "cache_bytes": 7, "endpoint": "http://old", "index_of": index_of}
    (folder / "piat.json").write_text(json.dumps(edited))
    assert emit_s3_reader(workspace, folder).images == 1
    again = json.loads((folder / "piat.json").read_text())
    assert again == edited | {"endpoint": "http://here:1"}  # a person's cache stays
    assert (folder / "piat.sqlite").stat().st_ino == before  # of the same images

    write_index(workspace, "cats", {"one": "1.png", "two": "2.png"}, sha256="1" * 64)
    assert emit_s3_reader(workspace, folder).images == 2
    (folder / "piat.json").write_text("not JSON")
    (folder / "piat.sqlite").unlink()
    assert emit_s3_reader(workspace, folder).images == 2


def test_an_index_of_many_images(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    shards = [{f"{number:05d}": f"a/{number}.png" for number in range(start, 30_000, 3)} for start in range(3)]
    write_index(workspace, "cats", *shards)
    folder = tmp_path / "reader"
    assert emit_s3_reader(workspace, folder).images == 30_000
    with sqlite3.connect(folder / "piat.sqlite") as index:
        plan = index.execute("EXPLAIN QUERY PLAN SELECT path FROM images WHERE key = 'x'").fetchall()
        assert index.execute("SELECT path FROM images WHERE key = '12345'").fetchall() == [("a/12345.png",)]
    index.close()
    assert "USING PRIMARY KEY" in plan[0][3]


def test_before_there_are_images_the_index_is_empty(tmp_path: Path) -> None:
    assert emit_s3_reader(make(tmp_path / "w"), tmp_path / "reader").images == 0


def test_nothing_is_written_in_a_dry_run(tmp_path: Path) -> None:
    assert emit_s3_reader(make(tmp_path / "w"), tmp_path / "r", dry_run=True) == EmittedReader(tmp_path / "r", None)
    assert not (tmp_path / "r").exists()


def test_where_it_is_of_no_use_or_in_the_way(tmp_path: Path) -> None:
    local = make(tmp_path / "local", "images")
    with pytest.raises(UsageError, match="--s3-reader opens images on S3"):
        check_s3_reader(local, tmp_path / "reader")
    remote = make(tmp_path / "remote")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "piat.py").write_text("def s3_image(address): ...")
    with pytest.raises(UsageError, match="there and not prep's"):
        emit_s3_reader(remote, theirs)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        emit_s3_reader(remote, tmp_path / "file")
    assert [path.name for path in theirs.iterdir()] == ["piat.py"]


@pytest.mark.parametrize(
    ("old", "is_refused"),
    [("s3://pictures/m", True), ("s3://pictures/mixture", True), ("s3://pictures/mix/", False), ("s3://", False)],
)
def test_a_remap_is_of_whole_folders(old: str, is_refused: bool, tmp_path: Path) -> None:
    with pytest.raises(PrepError) as caught:  # the others have tables that are not ready
        emit_yaml(make(tmp_path / "w"), remap=[(old, "/mnt")])
    assert ("no path here is below" in caught.value.message) == is_refused


def test_a_folder_that_it_cannot_be_written_to_or_should_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make(tmp_path / "w")
    folder = tmp_path / "locked"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != folder)
        with pytest.raises(WorkspaceError, match=f"{folder}: Permission denied"):
            check_s3_reader(workspace, folder)

    def fail(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", fail)
        with pytest.raises(WorkspaceError, match=f"{folder}/piat.sqlite: unable to open"):
            emit_s3_reader(workspace, folder)
    monkeypatch.chdir(workspace.root)
    with pytest.raises(UsageError, match="is the workspace itself"):
        check_s3_reader(workspace, Path())
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def s3_image(:\n", "cannot be used: SyntaxError"),
        ("raise RuntimeError('pip install boto3')\n", "cannot be used: RuntimeError: pip install boto3"),
        ("def other(): ...\n", "has no function s3_image"),
    ],
)
def test_a_reader_that_is_of_no_use_is_told_as_itself(code: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "piat.py").write_text(code)
    with pytest.raises(UsageError, match=problem), reader_on_path(tmp_path):
        pass
    assert "piat" not in sys.modules and str(tmp_path) not in sys.path


def test_a_reader_with_wrong_settings_is_told_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emit_s3_reader(make(tmp_path / "w"), tmp_path / "r")
    monkeypatch.setenv("PREP_S3_CACHE_BYTES", "50 GB")
    with pytest.raises(UsageError, match="PREP_S3_CACHE_BYTES=50 GB: write a number"), reader_on_path(tmp_path / "r"):
        pass


def test_s3_that_is_silent_is_not_asked_for_every_image(tmp_path: Path) -> None:
    code = "asked = []\ndef s3_image(address):\n    asked.append(address)\n    raise ConnectionError(address)\n"
    (tmp_path / "piat.py").write_text(code)
    addresses = [f"s3://b/{number}.png" for number in range(100)]
    entries = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"s3_path": addresses, "caption": ["c"] * 100}), path)
        entries.append({
            "name": name, "json_path": str(path), "columns": ["s3_path", "caption"],
            "preprocess_fn": "preproces_text_to_image_generation_s3",
        })  # fmt: skip
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"datasets": entries}))
    with reader_on_path(tmp_path):
        for checks in (1, 2):  # a later check asks again
            found = check_yaml(tmp_path / "t.yaml", images="all").findings
            problem = "S3 does not answer (100 of 100 rows looked at; first in row 0, s3://b/0.png)"
            assert [f.problem for f in found if f.level == "error"] == [problem, problem]
            assert checks <= len(sys.modules["piat"].asked) <= checks * 8  # one for each thread at most


def test_check_opens_images_with_the_reader(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make(tmp_path / "w", f"s3://{s3.bucket}/checked", s3.endpoint)
    folder = tmp_path / "reader"
    emit_s3_reader(workspace, folder)
    put(s3, "checked/1.png", (20, 20))
    there, gone = f"s3://{s3.bucket}/checked/1.png", f"s3://{s3.bucket}/checked/gone.png"
    pq.write_table(pa.table({"s3_path": [there, gone], "caption": ["a", "b"]}), tmp_path / "t.parquet")
    entry = {
        "name": "t", "json_path": str(tmp_path / "t.parquet"), "columns": ["s3_path", "caption"],
        "preprocess_fn": "preproces_text_to_image_generation_s3",
    }  # fmt: skip
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"datasets": [entry]}))

    def findings(reader: Path | None) -> list[tuple[str, str]]:
        with reader_on_path(reader):
            return [(finding.level, finding.problem) for finding in check_yaml(tmp_path / "t.yaml").findings]

    without = ("warning", f"an image is on S3 (2 of 2 rows looked at; first in row 0, {there})")
    assert findings(None) == [without]
    missing = ("error", f"an image is not there (1 of 2 rows looked at; first in row 1, {gone})")
    assert findings(folder) == [missing]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = ("error", f"S3 does not give an image (2 of 2 rows looked at; first in row 0, {there})")
    assert findings(folder) == [refused]
    assert findings(None) == [without] and "piat" not in sys.modules
    with pytest.raises(UsageError, match=r"has no piat\.py"):
        findings(tmp_path)
