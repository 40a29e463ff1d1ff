"""Which rows are looked at together: shards of tables as `filter` left them, and files named with `--against`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prep.config import Dataset, GivenImages, Table, UrlImages
from prep.errors import UsageError
from prep.images.chunks import index_shards
from prep.manifest import Manifest, read_finished
from prep.schema import CAPTION
from prep.stages.dedup_facts import JUDGED_LATER, PHASH, against_files
from prep.stages.dedup_keys import Images, Source, columns_of_file, is_text, keys_of_file
from prep.workspace import Workspace


def is_url(own: Dataset, definition: Table) -> bool:
    """Whether a table's rows are addresses."""
    return isinstance(own.images, UrlImages) and definition.images_from is None


def are_given(workspace: Workspace, table: str) -> bool:
    """Whether a table's samples name their images themselves."""
    own, definition = workspace.table(table)
    shown = definition.image_datasets(own.name).values()
    return any(isinstance(workspace.catalogue.dataset(name).images, GivenImages) for name in shown)


def uses_published(workspace: Workspace, filtered: Mapping[str, Manifest]) -> bool:
    """Whether perceptual hashes are the publishers' own; hashes of two sorts cannot be compared.

    Computed ones are taken where a table has images and no published hash.
    """
    published = {name: _has_phash(workspace, name) for name in filtered}
    return any(published.values()) and not any(
        shown_datasets(workspace, name, filtered[name]) for name in filtered if not published[name]
    )


def _has_phash(workspace: Workspace, table: str) -> bool:
    samples = read_finished(workspace.normalized(table))
    return samples is not None and bool(samples.counts.get(PHASH))


def shown_datasets(workspace: Workspace, table: str, filtered: Manifest) -> tuple[str, ...]:
    """Datasets whose index has the table's images; none where they are given, or not fetched yet."""
    own, definition = workspace.table(table)
    names = tuple(dict.fromkeys(definition.image_datasets(own.name).values()))
    is_indexed = filtered.facts["has_images"] and not are_given(workspace, table)
    return names if is_indexed and definition.shape.image_path else ()


def sources_of(
    workspace: Workspace, asked: Mapping[str, Any], filtered: Mapping[str, Manifest], is_published: bool
) -> list[Source]:
    """Every shard whose rows are looked at, numbered in the order of the tables.

    Raises:
        UsageError: a file has none of the columns that are asked for, or in one of them no texts.
        DataError: a file is no parquet.
    """
    sources: list[Source] = []
    for name in (*asked["tables"], *asked["against"]):
        if name in filtered:
            sources += _of_table(workspace, name, asked, filtered[name], is_published, len(sources))
        else:
            sources += _of_files(workspace, name, asked, len(sources))
    return sources


def _of_table(
    workspace: Workspace,
    name: str,
    asked: Mapping[str, Any],
    filtered: Manifest,
    is_published: bool,
    first: int,
) -> Iterator[Source]:
    own, definition = workspace.table(name)
    samples = read_finished(workspace.normalized(name))
    if samples is None or len(samples.shards) != len(filtered.shards):
        raise UsageError(f"table {name} was normalized anew since it was filtered", "Run `prep filter`.")
    has_phash = is_published and _has_phash(workspace, name)
    shown = shown_datasets(workspace, name, filtered)
    of_addresses = is_url(own, definition)
    folders = (workspace.normalized(name), workspace.filtered(name), workspace.dropped(name))
    has = {"url": of_addresses, "caption": definition.shape.column(CAPTION) is not None, "sha256": bool(shown)}
    has["phash"] = has_phash if is_published else bool(shown)
    indexes = {dataset: read_finished(workspace.index(dataset)) for dataset in shown}
    parts = samples.facts["parts"]
    for number, (shard, part, kept) in enumerate(zip(samples.shards, parts, filtered.shards, strict=True)):
        images = []
        for dataset, index in indexes.items():
            known = () if index is None else index_shards(index, name, shard.name) if of_addresses else index.shards
            of_images = (workspace.index(dataset), workspace.phash(dataset))
            paths = [tuple(folder / fact.name for fact in known) for folder in of_images]
            images.append(Images(dataset, paths[0], () if is_published else paths[1]))
        yield Source(
            name,
            part,
            first + number,
            tuple(key for key in asked["by"] if has[key] and (key in ("url", "caption") or has_phash or _any(images))),
            name in asked["against"],
            definition.kind,
            dict.fromkeys(filtered.facts["columns"], ""),
            of_addresses,
            tuple(folder / shard.name for folder in folders),
            tuple(images),
            workspace.image_root,
            has_phash,
            (kept.rows or 0) + sum(count for reason, count in kept.counts.items() if reason in JUDGED_LATER),
        )


def _any(images: Sequence[Images]) -> bool:
    return any(one.index for one in images)


def _of_files(workspace: Workspace, name: str, asked: Mapping[str, Any], first: int) -> Iterator[Source]:
    import pyarrow.parquet as pq

    for number, path in enumerate(against_files(workspace, name)):
        columns = columns_of_file(path)
        keys = {key: column for key, column in keys_of_file(columns).items() if key in asked["by"]}
        if not keys:
            raise UsageError(
                f"{path} has none of the columns {', '.join(asked['by'])}", f"It has: {', '.join(columns)}."
            )
        for column in keys.values():
            if not is_text(columns[column]):
                raise UsageError(
                    f"{path}: its column {column} is {columns[column]}, and a text is needed",
                    "Write it as text; docs/dedup.md says in which form. Or leave it out of --by.",
                )
        rows = pq.read_metadata(path).num_rows
        yield Source(
            name, path.name, first + number, tuple(keys), True, "", columns, False, (path,), (), "", False, rows
        )
