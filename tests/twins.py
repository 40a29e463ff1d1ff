"""Small workspaces whose rows are duplicates of each other, and what `dedup` and `filter` say of them."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image, ImageDraw

from prep.config import Dedup
from prep.stages.dedup import check_asked, dedup
from prep.stages.download import download
from prep.stages.filter import filter_table
from prep.stages.images import images
from prep.stages.normalize import normalize
from prep.stages.shards import Outcome
from prep.workspace import Workspace

Row = Mapping[str, Any]
SELECT = {"caption": "caption", "fltLaionAesthScore": "score", "intHeight": "side", "intWidth": "side"}


def row(url: str, caption: str, score: float | None = 6.0, side: int = 512, **more: Any) -> Row:
    return {"url": url, "caption": caption, "score": score, "side": side, **more}


def addresses(
    root: Path,
    tables: Mapping[str, Sequence[Sequence[Row]]],
    *,
    scores: Mapping[str, str] = {},
    select: Mapping[str, str] = SELECT,
    extra: Mapping[str, str] = {},
    **config: Any,
) -> Workspace:
    """A workspace of lists of addresses: name -> its parts, each a list of rows; all filtered, none fetched."""
    cutoff = {"aes_cutoff": 5} if "fltLaionAesthScore" in select else {}
    (root / "datasets").mkdir(parents=True)
    for name, parts in tables.items():
        (root / "parts" / name).mkdir(parents=True)
        for number, part in enumerate(parts):
            pq.write_table(pa.Table.from_pylist([dict(one) for one in part]), root / f"parts/{name}/{number}.parquet")
        definition = {
            "kind": "text-to-image",
            "records": {"format": "parquet", "parts": "*.parquet"},
            "select": dict(select),
            "extra": dict(extra),
            "scores": {"fltLaionAesthScore": scores.get(name, "aesthetic-v2")} if cutoff else {},
        }
        dataset = {
            "name": name,
            "source": {"kind": "local", "path": f"parts/{name}", "copy": True},
            "images": {"kind": "url"},
            "tables": {name: definition},
        }
        (root / f"datasets/{name}.yaml").write_text(yaml.safe_dump(dataset))
    entries = [{"table": name, **cutoff} for name in tables]
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "entries": entries}))
    (root / "prep.yaml").write_text(yaml.safe_dump({"workers": 1, "allow_private_hosts": True, **config}))
    workspace = Workspace(root)
    for name in tables:
        download(workspace, workspace.catalogue.dataset(name))
        normalize(workspace, name)
        filter_table(workspace, name)
    return workspace


def ask(workspace: Workspace, **asked: Any) -> Workspace:
    workspace.remember_rules(workspace.given_rules().with_dedup(Dedup(**asked), reset=True))
    check_asked(workspace, workspace.given_rules().dedup or Dedup())
    return workspace


def find(workspace: Workspace, **asked: Any) -> list[Outcome]:
    """What is found, and then filtered by."""
    found = list(dedup(ask(workspace, **asked)))
    for name in workspace.table_names:
        filter_table(workspace, name)
    return found


def facts(workspace: Workspace, table: str) -> list[tuple[Any, ...]]:
    """(key of a row, reason, table and key of the one that stays) of every duplicate."""
    found = []
    for shard in sorted(workspace.dedup(table).glob("*.parquet")):
        samples = {
            one["row"]: one["key"] for one in pq.read_table(workspace.normalized(table) / shard.name).to_pylist()
        }
        for one in pq.read_table(shard).to_pylist():
            found.append((samples[one["row"]], one["reason"], one["duplicate_of_table"], one["duplicate_of"]))
    return found


def kept(workspace: Workspace, table: str) -> list[str]:
    return sorted(one["key"] for one in pq.read_table(workspace.filtered(table)).to_pylist())


def dropped(workspace: Workspace, table: str) -> dict[str, str]:
    return {one["key"]: one["reason"] for one in pq.read_table(workspace.dropped(table)).to_pylist()}


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture of soft light and some shapes, other for every seed."""
    numbers = random.Random(seed)
    corners = np.array([[numbers.randrange(256) for _ in range(12)] for _ in range(3)], dtype=np.uint8)
    planes = [Image.fromarray(plane.reshape(3, 4)).resize(size, Image.Resampling.BICUBIC) for plane in corners]
    image = Image.merge("RGB", planes)
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x, y = numbers.randrange(size[0]), numbers.randrange(size[1])
        colour = tuple(numbers.randrange(256) for _ in range(3))
        draw.ellipse((x, y, x + numbers.randrange(20, 120), y + numbers.randrange(20, 120)), fill=colour)
    return image


def encoded(image: Image.Image, format_: str = "JPEG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, format_, **options)
    return data.getvalue()


def pictures(root: Path, files: Mapping[str, bytes], place: str = "../pictures") -> Workspace:
    """A workspace of a table of pictures in a folder (`place`, from the workspace on), one row each, filtered."""
    (root / "datasets").mkdir(parents=True)
    folder = (root / place).resolve()
    for each in (folder, root.parent / "parts"):
        each.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    table = pa.table({"name": list(files), "caption": [f"caption of {name}" for name in files]})
    pq.write_table(table, root.parent / "parts/rows.parquet")
    dataset = {
        "name": "pics",
        "source": {"kind": "local", "path": str(root.parent / "parts"), "copy": True},
        "images": {"kind": "folder", "path": str(folder)},
        "tables": {
            "pics": {
                "kind": "text-to-image",
                "records": {"format": "parquet", "parts": "*.parquet"},
                "image": "name",
                "select": {"caption": "caption"},
            }
        },
    }
    (root / "datasets/pics.yaml").write_text(yaml.safe_dump(dataset))
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "entries": [{"table": "pics"}]}))
    (root / "prep.yaml").write_text("workers: 1\n")
    workspace = Workspace(root)
    download(workspace, workspace.catalogue.dataset("pics"))
    images(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    filter_table(workspace, "pics")
    return workspace
