"""Workspaces with tables that are filtered already, for reports to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from prep.manifest import Manifest, Shard, write_manifest
from prep.schema import KINDS, TEXT_TO_IMAGE
from prep.workspace import Workspace

Rows = Sequence[Mapping[str, Any]]
SAMPLE = pa.schema(
    [
        *(("s3_path", pa.string()), ("caption", pa.string()), ("fltLaionAesthScore", pa.float64())),
        *(("intHeight", pa.int32()), ("intWidth", pa.int32()), ("key", pa.string()), ("row", pa.int64())),
    ]
)
DROPPED = [*("s3_path", "key", "row"), "reason"]  # of images that are given; the rest is in the samples


def make(root: Path, tables: Mapping[str, str], images: str = "given", **recipe: Any) -> Workspace:
    """A workspace with tables (name -> kind) that nobody has made yet."""
    (root / "datasets").mkdir(parents=True)
    (root / "prep.yaml").write_text("workers: 2\n")
    entries = recipe.pop("entries", [{"table": name} for name in tables])
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "mixture", "entries": entries, **recipe}))
    for name, kind in tables.items():
        needed = [column.name for column in KINDS[kind].columns if column.required or column.images]
        select = {name: name for name in needed if images == "given" or name != "s3_path"}
        select |= {"url": "url"} if images == "url" else {}
        table = {"kind": kind, "records": {"format": "parquet", "parts": "*"}, "select": select}
        dataset = {
            "name": name, "license": "cc0", "source": {"kind": "local", "path": "/nowhere"},
            "images": {"kind": images}, "tables": {name: table},
        }  # fmt: skip
        (root / "datasets" / f"{name}.yaml").write_text(yaml.safe_dump(dataset))
    return Workspace(root)


def write_shards(folder: Path, stage: str, shards: Sequence[pa.Table], facts: Mapping[str, Any], **counts: int) -> None:
    """Shards, and their manifest; the counts are the first shard's."""
    folder.mkdir(parents=True, exist_ok=True)
    described = []
    for number, shard in enumerate(shards):
        path = folder / f"shard-{number:05d}.parquet"
        pq.write_table(shard, path)
        found = counts if number == 0 else {}
        described.append(Shard(path.name, "task", shard.num_rows, path.stat().st_size, "0" * 64, found))
    write_manifest(folder, Manifest(stage, tuple(described), facts))


def write_filtered(workspace: Workspace, table: str, kept: Rows, dropped: Rows, shards: int = 1) -> None:
    """A filtered text-to-image table, in so many shards, and its samples."""
    reasons: dict[str, int] = {}
    for row in dropped:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    facts = {
        "dataset": table, "kind": TEXT_TO_IMAGE.name, "columns": ["s3_path", "caption"], "rules": {"min_size": 64},
        "has_images": True, "rows_in": len(kept) + len(dropped),
    }  # fmt: skip
    samples, passed, gone = [], [], []
    for number in range(shards):
        few = kept[number::shards]
        rows = [{**row, "row": at} for at, row in enumerate([*few, *dropped[number::shards]])]
        whole = pa.Table.from_pylist(rows, schema=SAMPLE.append(pa.field("reason", pa.string())))
        samples.append(whole.drop_columns("reason"))
        passed.append(samples[-1].slice(0, len(few)))
        gone.append(whole.slice(len(few)).select(DROPPED))
    facts_of_samples = {"dataset": table, "kind": TEXT_TO_IMAGE.name, "parts": [f"{n}.parquet" for n in range(shards)]}
    write_shards(workspace.normalized(table), "normalize", samples, facts_of_samples)
    write_shards(workspace.filtered(table), "filter", passed, facts, **reasons)
    write_shards(workspace.dropped(table), "filter", gone, {})
    (workspace.dropped(table) / "_manifest.json").unlink()


def sample(number: int = 0, **values: Any) -> dict[str, Any]:
    """A sample without an image that could be opened."""
    return {
        "s3_path": "/nowhere/a.png", "caption": "A dog", "fltLaionAesthScore": 6.0, "intHeight": 100, "intWidth": 200,
        "key": f"k#{number}", "row": number, **values,
    }  # fmt: skip


class Page(HTMLParser):
    """A page's elements and words; every element that is opened has to be closed in its turn."""

    VOID = frozenset({"meta", "img", "br", "link", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        """Its words, on one line."""
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a name."""
        return [attributes for name, attributes in self.tags if name == tag]
