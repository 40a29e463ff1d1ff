"""Preview: a page of samples for a person's eyes, above all whether boxes sit on what they name."""

from __future__ import annotations

import html
import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from prep import sql
from prep.datasets.grounding import box_of_location, located_phrases
from prep.errors import DataError, PrepError, UsageError
from prep.files import atomic_path, write_text
from prep.images.probe import open_image
from prep.images.store import S3Store
from prep.manifest import read_finished
from prep.schema import GROUNDED_CAPTION, GROUNDING_TEXT, KEY, REASON, ROW, TURNS, URL, Kind
from prep.trainers.lavida_o import S3_SCHEME, stored_path
from prep.workspace import Workspace

MARK = ".prep-preview"  # in a folder that a preview made
PAGE = "index.html"
SIDE = 1024  # pixels of a picture's longest side
_ABREAST = 4  # images beside each other
_GAP = 8  # pixels between them
_LABEL_LENGTH = 40  # characters
# Columns with boxes, each with the one that names what they show where the text itself does not.
_GROUNDED = {GROUNDED_CAPTION: "", "loc_string": "label", GROUNDING_TEXT: ""}
_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008080",
    "#f032e6",
    "#9a6324",
    "#808000",
    "#000075",
)
_PAPER, _MISSING_PAPER = "#ffffff", "#d0d0d0"
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em; color: #222; }}
article {{ border-top: 1px solid #ccc; padding: 1em 0; }}
img {{ max-width: 100%; }}
dt {{ color: #666; margin-top: .5em; }}
dd {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }}
.problem {{ color: #b00020; }}
</style>
<h1>{title}</h1>
<p>{about}</p>
{articles}
</html>
"""


@dataclass(frozen=True)
class Shown:
    """One row of a preview.

    Attributes:
        number: from 1, in the table's order.
        key: the sample's.
        picture: file name in the folder; None for a row without images.
        images: paths or addresses that were opened.
        boxes: in its texts.
        problems: images that are not there, locations that are none.
    """

    number: int
    key: str
    picture: str | None
    images: tuple[str, ...]
    boxes: int
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def preview_table(
    workspace: Workspace, table: str, *, rows: int = 12, folder: Path | None = None, dropped: bool = False
) -> Iterator[Shown]:
    """Write pictures and a page of rows spread evenly over a table; yields each row as it is drawn, then the page.

    Args:
        rows: how many, the first and the last of the table among them.
        folder: where to; by default `page_folder`.
        dropped: rows that were dropped, each with its reason, in place of those that were kept.

    Raises:
        DataError: the table is not filtered yet, or has no such rows.
        UsageError: the folder holds something that no preview made.
        WorkspaceError: S3 refuses, or does not answer.
    """
    folder = folder or page_folder(workspace, table, dropped)
    shards = table_shards(workspace, table, dropped)
    total = sum(count for _, count in shards)
    if total == 0:
        what = "dropped" if dropped else "kept"
        raise DataError(f"no row of table {table} was {what}", "`prep status` shows how far every table is.")
    _, definition = workspace.table(table)
    _empty(folder)
    pictures = Pictures(workspace, definition.shape)
    articles: list[str] = []
    positions = even_positions(total, rows)
    chosen = _dropped_rows_at(workspace, table, shards, positions) if dropped else rows_at(shards, positions)
    for number, row in enumerate(chosen, 1):
        drawing = pictures.draw(row)
        picture = f"{number:03d}.jpg" if drawing.sheet else None
        if picture and drawing.sheet:
            with atomic_path(folder / picture) as temporary:
                drawing.sheet.save(temporary, "JPEG", quality=90)
        images = tuple(panel.address for panel in drawing.panels)
        shown = Shown(number, str(row[KEY]), picture, images, drawing.boxes, drawing.problems)
        articles.append(_article(shown, drawing.panels, _texts(row, definition.shape)))
        yield shown
    about = f"{len(articles):,} of {total:,} rows that were {'dropped' if dropped else 'kept'}, spread evenly."
    page = _PAGE.format(title=html.escape(table), about=about, articles="\n".join(articles))
    write_text(folder / PAGE, page)


def page_folder(workspace: Workspace, table: str, dropped: bool = False) -> Path:
    """Where the preview of a table goes unless told otherwise."""
    return workspace.preview(f"{table}-dropped" if dropped else table)


def _empty(folder: Path) -> None:
    """Make the folder, or take an earlier preview's files out of it."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "Name a folder with -o.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise UsageError(f"{folder} holds something that no preview made", "Name another folder with -o.")
    write_text(folder / MARK, "Made by `prep preview`, which replaces its files here.\n")
    (folder / PAGE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if re.fullmatch(r"[0-9]{3,}\.jpg", path.name):
            path.unlink()


# -- rows ------------------------------------------------------------------------------------------------------------


def table_shards(workspace: Workspace, table: str, dropped: bool = False) -> list[tuple[Path, int]]:
    """Shards of a table's kept (or dropped) rows, each with how many it has; those without images last.

    Raises:
        DataError: the table is not filtered yet.
    """
    filtered = workspace.read_filtered(table) if dropped else read_finished(workspace.filtered(table))
    if filtered is None:
        late = f"table {table} is not filtered yet, or not since it was normalized"
        raise DataError(late, "`prep run` does all that is missing.")
    folders = [workspace.dropped(table)] if dropped else [workspace.filtered(table), workspace.text_only(table)]
    paths = [path for folder in folders for path in sorted(folder.glob("shard-*.parquet"))]
    return [(path, pq.read_metadata(path).num_rows) for path in paths]


def even_positions(total: int, number: int) -> list[int]:
    """`number` positions at even distances among `total`, first and last among them; all where there are fewer."""
    number = min(number, total)
    return [index * (total - 1) // max(number - 1, 1) for index in range(number)]


def rows_at(
    shards: Sequence[tuple[Path, int]], positions: Sequence[int], columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows at rising positions, counted over all shards; of a shard, one row group is in memory at a time.

    Args:
        columns: what is read of them; all by default.
    """
    start = 0
    for path, count in shards:
        if bisect_left(positions, start) < bisect_left(positions, start + count):
            with pq.ParquetFile(path) as file:
                before = start
                for group in range(file.num_row_groups):
                    end = before + file.metadata.row_group(group).num_rows
                    inside = positions[bisect_left(positions, before) : bisect_left(positions, end)]
                    if inside:
                        rows = file.read_row_group(group, columns=columns)
                        yield from rows.take([position - before for position in inside]).to_pylist()
                    before = end
        start += count


def _dropped_rows_at(
    workspace: Workspace, table: str, shards: Sequence[tuple[Path, int]], positions: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """The same of dropped rows, each with all that its sample has."""
    start = 0
    for path, count in shards:
        inside = [position - start for position in positions if start <= position < start + count]
        start += count
        if inside:
            rows = ", ".join(str(row[ROW]) for row in rows_at([(path, count)], inside, [ROW]))
            whole = sql.completed(path, workspace.normalized(table) / path.name, ROW)
            with sql.connect() as connection, sql.data_errors(str(path), "`prep filter --force` writes it anew."):
                found = connection.sql(f"SELECT * FROM {whole} WHERE {ROW} IN ({rows})").to_arrow_table()
            yield from found.to_pylist()


def _texts(row: Mapping[str, Any], kind: Kind) -> list[tuple[str, str]]:
    """What is shown of a row beside its images: why it was dropped, then the kind's columns that have a value."""
    columns = [REASON, *(column.name for column in kind.columns if not column.images), URL]
    return [
        (name, _turns(row[name]) if name == TURNS else str(row[name])) for name in columns if row.get(name) is not None
    ]


def _turns(value: Any) -> str:
    """A conversation, a line for each turn; what is none stays as it is."""
    try:
        turns = json.loads(value) if isinstance(value, str) else value
        return "\n".join(f"{turn['from']}: {turn['value']}" for turn in turns)
    except (ValueError, TypeError, KeyError, RecursionError):
        return str(value)


# -- images ----------------------------------------------------------------------------------------------------------


@dataclass
class _Panel:
    """One image of a row.

    Attributes:
        image: at most `SIDE` pixels wide and high; where there is none, a grey one.
        size: width and height of the image itself.
        problem: why there is none.
        has_boxes: whether the row's boxes are about it.
    """

    column: str
    address: str
    image: Image.Image
    size: tuple[int, int] | None = None
    problem: str = ""
    has_boxes: bool = True


@dataclass(frozen=True)
class Drawing:
    """The images of one row beside each other, its boxes drawn on them.

    Attributes:
        sheet: None for a row without images.
        boxes: in its texts.
        problems: images that are not there, locations that are none.
    """

    sheet: Image.Image | None
    panels: tuple[_Panel, ...]
    boxes: int
    problems: tuple[str, ...]


class Pictures:
    """Opens the images that rows name, on disk and on S3, and draws their boxes.

    Args:
        side: pixels of a sheet's longest side.
        words: write what they show beside boxes, and columns' names on images.
    """

    def __init__(self, workspace: Workspace, kind: Kind, side: int = SIDE, *, words: bool = True) -> None:
        self._endpoint = workspace.config.s3_endpoint
        self._kind = kind
        self._side, self._words = side, words
        self._stores: dict[str, S3Store] = {}

    def draw(self, row: Mapping[str, Any]) -> Drawing:
        """The images of a row, boxes and all.

        Raises:
            WorkspaceError: S3 refuses, or does not answer.
        """
        panels = self._panels(row)
        boxes, problems = _boxes_of(row)
        problems += [f"{panel.column}: {panel.address} {panel.problem}" for panel in panels if panel.problem]
        if not panels:
            return Drawing(None, (), len(boxes), tuple(problems))
        sheet, hidden = _sheet(panels, boxes, self._side, words=self._words)
        return Drawing(sheet, tuple(panels), len(boxes), (*problems, *hidden))

    def _panels(self, row: Mapping[str, Any]) -> list[_Panel]:
        """The images of a row in its columns' order, so of an edit what it begins with comes first."""
        panels = []
        for column in (column for column in self._kind.columns if column.images):
            value = row.get(column.name)
            paths = value.split(";") if isinstance(value, str) and column.images == "joined" else value
            for path in [paths] if isinstance(paths, str) else paths or ():
                if path is None:  # of a row that was dropped for it
                    panels.append(_Panel(column.name, "an image", _grey(), problem="is not there"))
                    continue
                panel = self._open(column.name, self._address(row, column.name, str(path)))
                panel.has_boxes = column.images != "joined"
                panels.append(panel)
        return panels

    def _address(self, row: Mapping[str, Any], column: str, path: str) -> str:
        """The whole address of an image: where training puts a prefix before paths, those on S3 lack the scheme."""
        address = os.path.join(str(row.get(self._kind.place or "") or ""), path)  # noqa: PTH118  (s3:// stays so)
        is_whole = address.startswith((S3_SCHEME, "/")) or stored_path(column, self._kind.name, S3_SCHEME) != ""
        return address if is_whole else f"{S3_SCHEME}{address}"

    def _open(self, column: str, address: str) -> _Panel:
        try:
            with open_image(self._read(address)) as opened:
                size = opened.size
                if self._side < SIDE:  # a JPEG need not be decoded in full for a thumbnail
                    opened.draft("RGB", (2 * self._side, 2 * self._side))
                image = opened.convert("RGB")
        except PrepError:
            raise  # S3 refuses all of them
        except (FileNotFoundError, NotADirectoryError):
            problem = "is not there"
        except Exception as error:  # Pillow's decoders raise almost anything on broken bytes
            problem = f"cannot be opened ({type(error).__name__})"
        else:
            image.thumbnail((SIDE, SIDE))
            return _Panel(column, address, image, size)
        return _Panel(column, address, _grey(), problem=problem)

    def _read(self, address: str) -> bytes:
        if not address.startswith(S3_SCHEME):
            return Path(address).read_bytes()
        bucket, _, key = address.removeprefix(S3_SCHEME).partition("/")
        if bucket not in self._stores:
            self._stores[bucket] = S3Store(f"{S3_SCHEME}{bucket}", self._endpoint)
        return self._stores[bucket].get(key)


def _sheet(panels: Sequence[_Panel], boxes: Sequence[_Box], side: int, *, words: bool) -> tuple[Image.Image, list[str]]:
    """The images of a row beside each other, boxes and all, and what is wrong with the boxes."""
    lines = [panels[start : start + _ABREAST] for start in range(0, len(panels), _ABREAST)]
    gap = _GAP * side // SIDE
    ratios = [[panel.image.width / panel.image.height for panel in line] for line in lines]
    room = (side - gap * (len(lines[0]) - 1)) / max(map(sum, ratios)), (side - gap * (len(lines) - 1)) / len(lines)
    height = max(int(min(room)), 1)
    widths = [[max(int(ratio * min(room)), 1) for ratio in line] for line in ratios]
    sheet_width = max(sum(line) + gap * (len(line) - 1) for line in widths)
    sheet = Image.new("RGB", (sheet_width, height * len(lines) + gap * (len(lines) - 1)), _PAPER)
    problems: dict[str, None] = {}
    for number, panel in enumerate(panels):
        line, place = divmod(number, _ABREAST)
        image = panel.image.resize((widths[line][place], height), Image.Resampling.LANCZOS)
        if panel.size is not None and panel.has_boxes:
            problems |= dict.fromkeys(_draw_boxes(image, panel.size, boxes, words=words))
        if words and len(panels) > 1:
            _draw_label(image, (0, image.height), f"{number + 1} {panel.column}", "#404040")
        sheet.paste(image, (sum(widths[line][:place]) + gap * place, line * (height + gap)))
    return sheet, list(problems)


def _grey() -> Image.Image:
    """What stands in for an image that cannot be had."""
    image = Image.new("RGB", (SIDE // 2, SIDE // 2), _MISSING_PAPER)
    ImageDraw.Draw(image).text((SIDE // 4, SIDE // 4), "no image", fill="#404040", font_size=24, anchor="mm")
    return image


# -- boxes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """A box to draw: its LOC text, the phrase beside it, the phrase's colour."""

    location: str
    phrase: str
    colour: str


def _boxes_of(row: Mapping[str, Any]) -> tuple[list[_Box], list[str]]:
    """The boxes of a row's grounded texts, and what is wrong with these."""
    boxes: list[_Box] = []
    problems = []
    colours: dict[str, str] = {}
    for column, label in _GROUNDED.items():
        text = row.get(column)
        if not isinstance(text, str):
            continue
        found = located_phrases(text)
        for phrase, locations in found:
            name = phrase or str(row.get(label) or "")
            colour = colours.setdefault(name, _COLOURS[len(colours) % len(_COLOURS)])
            boxes += [_Box(location, name, colour) for location in locations]
        known = [location for _, locations in found for location in locations]
        if text.count("<LOC_") != sum(location.count("<LOC_") for location in known):
            problems.append(f"{column}: has a location that is none")
        elif not known:
            problems.append(f"{column}: has no location")
    return boxes, problems


def _draw_boxes(image: Image.Image, size: tuple[int, int], boxes: Sequence[_Box], *, words: bool) -> Iterator[str]:
    """Draw boxes on an image of `size` as it is shown here; tells those that cannot be seen on it."""
    width, height = size
    for box in boxes:
        edges = box_of_location(box.location, width, height)
        if edges is None:
            yield f"{box.phrase or 'a box'}: {box.location} is no location"
            continue
        left, top, right, bottom = (
            min(max(edge, 0), limit) * shown / limit
            for edge, limit, shown in zip(edges, size * 2, image.size * 2, strict=True)
        )
        if left >= right or top >= bottom:
            yield f"{box.phrase or 'a box'}: {box.location} lies outside of the image"
            continue
        corners = (left, top, max(right - 1, left), max(bottom - 1, top))
        ImageDraw.Draw(image).rectangle(corners, outline=box.colour, width=3 if words else 2)
        if words and box.phrase:
            _draw_label(image, (left, top), box.phrase, box.colour)


def _draw_label(image: Image.Image, corner: tuple[float, float], text: str, colour: str) -> None:
    """White words on a colour, their lower left corner at `corner` as far as the image has room."""
    words = "".join(character for character in text if character.isprintable())[:_LABEL_LENGTH]
    draw = ImageDraw.Draw(image)
    _, _, width, height = draw.textbbox((0, 0), words, font_size=16)
    x = max(min(corner[0], image.width - width - 6), 0)
    y = max(min(corner[1], image.height) - height - 6, 0)
    draw.rectangle((x, y, x + width + 6, y + height + 6), fill=colour)
    draw.text((x + 3, y + 3), words, fill="white", font_size=16)


# -- the page --------------------------------------------------------------------------------------------------------


def _article(shown: Shown, panels: Sequence[_Panel], texts: Sequence[tuple[str, str]]) -> str:
    """One row on the page; every word of the data is escaped."""
    lines = [f"<article>\n<h2>{shown.number}. {html.escape(shown.key)}</h2>"]
    if shown.picture:
        lines.append(
            f'<a href="{shown.picture}"><img src="{shown.picture}" alt="row {shown.number}" loading="lazy"></a>'
        )
    lines += [f'<p class="problem">{html.escape(problem)}</p>' for problem in shown.problems]
    facts = [
        (f"{number} {panel.column}", panel.address + (f"\n{panel.size[0]} x {panel.size[1]}" if panel.size else ""))
        for number, panel in enumerate(panels, 1)
    ]
    definitions = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in [*texts, *facts])
    return "\n".join([*lines, "<dl>", *definitions, "</dl>\n</article>"])
