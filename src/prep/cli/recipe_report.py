"""How a recipe looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prep.config import Recipe
from prep.mixture import Ingredient


def render(recipe: Recipe, found: Sequence[Ingredient]) -> RenderableType:
    """A recipe for a terminal of 80 columns or more: entries, then what is not as published, then what is missing."""
    parts: list[RenderableType] = [Text(f"{recipe.name}: {recipe.title}", style="bold"), Text()]
    if found:
        parts.append(_entries(found))
    differing = [ingredient for ingredient in found if ingredient.status == "differs"]
    missing = [ingredient for ingredient in found if ingredient.status == "not public"]
    parts += _told("Not quite as published", ((item, item.entry.note) for item in differing))
    parts += _told("Not public, and left out", ((item, item.entry.not_public) for item in missing))
    if recipe.notes:
        parts += [Text(), Text(" ".join(recipe.notes.split()))]
    return Group(*parts)


def _entries(found: Sequence[Ingredient]) -> Table:
    shows_progress = any(ingredient.progress for ingredient in found)
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for header in ("entry\ntable", "from\nlicence", "sampling"):
        table.add_column(header, overflow="fold", no_wrap=header == "sampling")
    table.add_column("group\nits share", overflow="fold")
    table.add_column("status" + "\nso far" * shows_progress, no_wrap=True)
    for item in found:
        images = f", images of {', '.join(item.images_from)}" if item.images_from else ""
        table.add_row(
            Text(f"{item.entry.label}\n{item.entry.table}"),
            Text(f"{item.source}\n{item.dataset.license if item.dataset else ''}{images}"),
            item.entry.sampling,
            Text(f"{item.group}\n{'-' if item.share is None else f'{item.share:.1%}'}"),
            f"{item.status}\n{item.progress}" if shows_progress else item.status,
        )
    table.caption = "share: of the batches, for the groups that can be made"
    return table


def _told(title: str, reasons: Iterable[tuple[Ingredient, str]]) -> Iterator[RenderableType]:
    """Reasons, each once, behind the entries that have it."""
    entries: dict[str, list[str]] = {}
    for ingredient, reason in reasons:
        entries.setdefault(" ".join(reason.split()), []).append(ingredient.entry.label)
    if not entries:
        return
    yield Text(f"\n{title} ({sum(map(len, entries.values()))})", style="bold")
    for reason, names in entries.items():
        yield Text(", ".join(dict.fromkeys(names)))
        yield Padding(Text(reason), (0, 0, 0, 2))
