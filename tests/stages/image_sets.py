"""Small datasets of images in a workspace, for tests of the images stage."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from prep.images.index import read_index
from prep.stages.download import download
from prep.stages.filter import filter_table
from prep.stages.images import ImageOptions, images
from prep.stages.normalize import normalize
from prep.stages.shards import Outcome
from prep.workspace import Workspace

TABLE: dict[str, Any] = {
    "kind": "text-to-image",
    "records": {"format": "parquet", "parts": "*.parquet"},
    "select": {"caption": "caption"},
}


def picture(shade: int = 1, size: tuple[int, int] = (64, 48), format_: str = "JPEG") -> bytes:
    """An image of one colour."""
    data = io.BytesIO()
    Image.new("RGB", size, (shade % 256, 90, 30)).save(data, format_)
    return data.getvalue()


def make(
    root: Path, dataset: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] | None = None, **config: Any
) -> Workspace:
    """A workspace with one dataset `pics`, whose parts are linked from `root/parts`."""
    (root / "parts").mkdir(parents=True, exist_ok=True)
    (root / "datasets").mkdir()
    if rows is not None:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), root / "parts/rows.parquet")
    source = {"kind": "local", "path": "parts", "copy": True}
    (root / "datasets/pics.yaml").write_text(yaml.safe_dump({"name": "pics", "source": source, **dataset}))
    settings = {"recipe": "recipe.yaml", "workers": 1, "allow_private_hosts": True, **config}
    (root / "prep.yaml").write_text(yaml.safe_dump(settings))
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "entries": [{"table": "pics"}]}))
    return Workspace(root)


def make_addresses(root: Path, urls: Sequence[str], **config: Any) -> Workspace:
    """A workspace whose `pics` are behind addresses, ready for their images; captions are the addresses."""
    rows = [{"url": url, "caption": url} for url in urls]
    workspace = make(root, {"images": {"kind": "url"}, "tables": {"pics": TABLE}}, rows, **config)
    download(workspace, workspace.catalogue.dataset("pics"))
    normalize(workspace, "pics")
    filter_table(workspace, "pics")
    return workspace


def run(workspace: Workspace, *, force: bool = False, dry_run: bool = False, **options: Any) -> Outcome:
    """One run of the images stage."""
    dataset = workspace.catalogue.dataset("pics")
    return images(workspace, dataset, options=ImageOptions(**options), force=force, dry_run=dry_run)


def index(workspace: Workspace) -> list[dict[str, Any]]:
    """Every row of the index, in the order of its shards."""
    rows: list[dict[str, Any]] = read_index(sorted(workspace.index("pics").glob("*.parquet"))).to_pylist()
    return rows


def statuses(workspace: Workspace, column: str = "source") -> dict[str, str]:
    """Status of every image, by its address or member."""
    return {row[column].rpartition("/")[2]: row["status"] for row in index(workspace)}
