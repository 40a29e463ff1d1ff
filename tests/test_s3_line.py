"""Images kept on S3: the same line, the same rows, paths that name objects."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import contract_loader
from prep.publishers import World
from s3_reading import imported
from s3_server import S3Server
from worlds import make_workspace, prep

RECIPE = {"name": "on-s3", "entries": [{"table": "blip3o-60k", "min_size": 512}, {"table": "coyo-700m"}]}


def test_the_line_with_images_on_s3(
    world: World, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": s3.key_id, "AWS_SECRET_ACCESS_KEY": s3.secret, "AWS_DEFAULT_REGION": "us-east-1"}
    here = make_workspace(tmp_path / "here", RECIPE, world)
    assert prep(here, "run", world=world).returncode == 0
    there = make_workspace(
        tmp_path / "there", RECIPE, world, images=f"s3://{s3.bucket}/mix", s3_endpoint=s3.endpoint, workers=2
    )
    done = prep(there, "run", world=world, **keys)
    assert done.returncode == 0, done.stderr
    assert "s3://" in done.stdout and "piat" in done.stdout  # the check says what the trainer needs for such paths

    for table in ("blip3o-60k", "coyo-700m"):
        local = pd.read_parquet(here / f"filtered/{table}.parquet")
        remote = pd.read_parquet(there / f"filtered/{table}.parquet")
        assert list(local["key"]) == list(remote["key"])
        for path, name in zip(local["s3_path"], remote["s3_path"], strict=True):
            assert name.startswith(f"s3://{s3.bucket}/mix/{table}/")
            assert s3.path(name.removeprefix(f"s3://{s3.bucket}/")).read_bytes() == Path(path).read_bytes()
    entries = contract_loader.load_yaml(there / "training/on-s3.yaml")
    assert [len(contract_loader.load_entry(entry)) for entry in entries] == [
        len(contract_loader.load_entry(entry)) for entry in contract_loader.load_yaml(here / "training/on-s3.yaml")
    ]
    assert not (there / "images").exists()

    # The trainer sees the same pictures through the module that is written for it.
    reader = tmp_path / "a reader"
    assert "prep emit-yaml --s3-reader FOLDER" in " ".join(done.stdout.split())
    done = prep(there, "emit-yaml", "--s3-reader", reader, world=world, **keys)
    assert done.returncode == 0, done.stderr
    assert f"export PYTHONPATH='{reader}':$PYTHONPATH" in done.stderr
    done = prep(there, "check", "--s3-reader", reader, "--images", "all", world=world, **keys)
    assert done.returncode == 0 and "piat" not in done.stdout, done.stdout
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    local_entries = contract_loader.load_yaml(here / "training/on-s3.yaml")
    with imported(reader):
        for entry, local_entry in zip(entries, local_entries, strict=True):
            for row in range(len(contract_loader.load_entry(entry))):
                sample, expected = (contract_loader.build_sample(e, row) for e in (entry, local_entry))
                for one, other in zip(sample.pop("images"), expected.pop("images"), strict=True):
                    assert one.size == other.size and one.tobytes() == other.tobytes()
                assert sample == expected
    done = prep(here, "emit-yaml", "--s3-reader", reader)
    assert done.returncode == 1 and "--s3-reader opens images on S3" in done.stderr
    done = prep(here, "check", "--s3-reader", tmp_path)
    assert done.returncode == 1 and "has no piat.py" in done.stderr


def test_s3_that_refuses_is_told_with_a_next_step(world: World, s3: S3Server, tmp_path: Path) -> None:
    place = {"images": f"s3://{s3.bucket}/mix", "s3_endpoint": s3.endpoint}
    root = make_workspace(tmp_path / "w", RECIPE | {"entries": [{"table": "blip3o-60k"}]}, world, **place)
    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}
    none = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "HOME": str(tmp_path)}
    for keys, words in ((wrong, "Check the keys (AWS_ACCESS_KEY_ID"), (none, "no S3 credentials")):
        done = prep(root, "run", world=world, **keys)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
