"""Write docs/datasets.md from the catalogue, so that the two cannot differ.

python docs/generate_datasets.py           write the file
python docs/generate_datasets.py --check   fail when the file is not what would be written
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from generated_page import write_page

from prep.config import (
    ArchiveImages,
    Catalogue,
    Dataset,
    GoogleDriveSource,
    HttpSource,
    HuggingFaceSource,
    LocalSource,
    ManualSource,
    ParquetImages,
    Recipe,
    S3Source,
    Source,
    UrlImages,
    load,
)
from prep.progress import size
from prep.trainers.lavida_o import FUNCTION_OF_KIND

PAGE = Path(__file__).with_name("datasets.md")
HEAD = """\
# Datasets

<!-- Written by docs/generate_datasets.py (`make docs`); do not edit. -->

Every dataset that `prep` knows, as its YAML in `configs/datasets` has it: where it is, what one has to do to get it,
and what to expect. `prep datasets NAME` prints the YAML, `prep recipe show RECIPE` what a recipe makes of several.
A licence is what the publisher says of the dataset; pictures may be under others. Numbers are the publisher's.
[Adding a dataset](adding-a-dataset.md) takes one more YAML.
"""


def render() -> str:
    """The whole page."""
    catalogue = Catalogue()
    datasets = catalogue.datasets()
    recipes = _recipes_by_table(catalogue)
    lines = [HEAD, "| dataset | what it is | licence | tables |", "| --- | --- | --- | --- |"]
    for dataset in datasets:
        gated = ", gated" if dataset.gated else ""
        cells = [f"[{dataset.name}](#{_anchor(dataset.name)})", _plain(dataset.title), f"{dataset.license}{gated}"]
        lines.append(_row(*cells, ", ".join(f"`{table}`" for table in dataset.tables) or "pictures only"))
    for dataset in datasets:
        lines += ["", f"## {dataset.name}", "", f"{_plain(dataset.title)}.", "", *_facts(dataset, datasets)]
        if dataset.tables:
            lines += ["", *_tables(dataset, recipes)]
        if dataset.notes:
            lines += ["", _plain(dataset.notes)]
        if isinstance(dataset.source, ManualSource):
            lines += ["", f"To get it: {_plain(dataset.source.instructions)}"]
    return "\n".join(lines) + "\n"


def _recipes_by_table(catalogue: Catalogue) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in catalogue.recipe_names():
        for table in dict.fromkeys(entry.table for entry in load(Recipe, catalogue.recipe_path(name)).entries):
            found.setdefault(table, []).append(name)
    return found


def _facts(dataset: Dataset, datasets: Sequence[Dataset]) -> Iterator[str]:
    yield from ("| | |", "| --- | --- |")
    yield _row("page", f"<{dataset.homepage}>")
    yield _row("licence", dataset.license + ("; terms have to be accepted on the hub" if dataset.gated else ""))
    yield _row("files", "; or ".join(_source(source) for source in (dataset.source, *dataset.mirrors)))
    expected = dataset.expected
    amounts = [f"{expected.parts:,} {'part' if expected.parts == 1 else 'parts'}"] if expected.parts else []
    amounts += [f"{expected.records:,} records"] if expected.records else []
    amounts += [size(expected.size_bytes)] if expected.size_bytes else []
    if amounts:
        yield _row("to expect", ", ".join(amounts))
    yield _row("images", _images(dataset))
    users = [
        table
        for other in datasets
        for table, made in other.tables.items()
        if other is not dataset and dataset.name in made.image_datasets(other.name).values()
    ]
    if users:
        yield _row("pictures for", ", ".join(f"`{table}`" for table in users))


def _source(source: Source) -> str:
    """Where files come from, in a few words."""
    match source:
        case HuggingFaceSource():
            kind = " (among the models)" if source.repo_type == "model" else ""
            pinned = "" if source.revision == "main" else f" at `{source.revision}`"
            return f"`{source.repo}` on the Hugging Face hub{kind}{pinned}"
        case HttpSource():
            return f"plain http, {len(source.files)} {'file' if len(source.files) == 1 else 'files'}"
        case GoogleDriveSource():
            return "Google Drive"
        case S3Source() | LocalSource():
            return f"`{source.path}`"
        case ManualSource():
            return "by hand, with prep's instructions"


def _images(dataset: Dataset) -> str:
    match dataset.images:
        case UrlImages():
            return "behind addresses; each is fetched, and some are dead"
        case ArchiveImages(parts=parts):
            return f"in archives: `{parts}`"
        case ParquetImages(parts=parts, column=column):
            return f"in the parquet files `{parts}`, column `{column}`"
        case None:
            sources = [table.image_datasets(dataset.name).values() for table in dataset.tables.values()]
            elsewhere = dict.fromkeys(name for names in sources for name in names if name != dataset.name)
            return "those of " + ", ".join(f"[{name}](#{_anchor(name)})" for name in elsewhere)
        case _:
            return "files that are there already"


def _tables(dataset: Dataset, recipes: dict[str, list[str]]) -> Iterator[str]:
    yield from ("| table | kind | preprocess function | recipes |", "| --- | --- | --- | --- |")
    for name, table in dataset.tables.items():
        used = ", ".join(recipes.get(name, [])) or "none"
        yield _row(f"`{name}`", table.kind, f"`{FUNCTION_OF_KIND[table.kind]}`", used)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """A publisher's or our own words on one line, with nothing that Markdown would take for its own."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)


def _anchor(name: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-")


if __name__ == "__main__":
    write_page(PAGE, render(), __file__)
