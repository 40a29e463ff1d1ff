"""Images kept on S3: the same line, the same rows, paths that name objects."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import contract_loader
from prep.publishers import World
from s3_server import S3Server
from worlds import make_workspace, prep

RECIPE = {"name": "on-s3", "entries": [{"table": "blip3o-60k", "min_size": 512}, {"table": "coyo-700m"}]}


def test_the_line_with_images_on_s3(world: World, s3: S3Server, tmp_path: Path) -> None:
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


def test_s3_that_refuses_is_told_with_a_next_step(world: World, s3: S3Server, tmp_path: Path) -> None:
    place = {"images": f"s3://{s3.bucket}/mix", "s3_endpoint": s3.endpoint}
    root = make_workspace(tmp_path / "w", RECIPE | {"entries": [{"table": "blip3o-60k"}]}, world, **place)
    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}
    none = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "HOME": str(tmp_path)}
    for keys, words in ((wrong, "Check the keys (AWS_ACCESS_KEY_ID"), (none, "no S3 credentials")):
        done = prep(root, "run", world=world, **keys)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
