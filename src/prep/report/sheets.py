"""Contact sheets: pictures of a table from its lowest scores to its highest, small enough to go into a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from PIL import Image

from prep.preview import Pictures, even_positions, rows_at, table_shards
from prep.progress import bar
from prep.report.histograms import score_column, text_column
from prep.schema import KEY
from prep.workspace import Workspace

SIDE = 132  # pixels of a thumbnail's longest side
MAX_PICTURES = 420  # on one page
MAX_PICTURE_BYTES = 6_000  # of one, before base64: what keeps a page of all of them below 5 MB
TENTHS = 10
_MOST = 60  # pictures of one table
_ASKED = 5_000  # rows whose scores say where the tenths of a table begin
_TEXT_LENGTH = 160  # characters


@dataclass(frozen=True)
class Thumbnail:
    """A row's images, small, with its boxes.

    Attributes:
        data: an address that holds the JPEG itself.
        key, text: the row's, cut.
    """

    data: str
    width: int
    height: int
    key: str
    text: str
    score: float | None


@dataclass(frozen=True)
class Sheet:
    """Some rows of one tenth of a table.

    Attributes:
        tenth: from 1, by rising score; 0 for a table without scores.
        low, high: the scores of the tenth; None without.
    """

    tenth: int
    low: float | None
    high: float | None
    thumbnails: tuple[Thumbnail, ...]


def contact_sheets(workspace: Workspace, table: str, tables: int) -> tuple[Sheet, ...]:
    """Pictures of kept rows by tenths of their score; of a table without scores, of rows spread evenly.

    Tenths are those of at most 5,000 rows at even distances.

    Args:
        tables: how many share the page's pictures.

    Raises:
        DataError: the table is not filtered yet.
        WorkspaceError: S3 refuses, or does not answer.
    """
    shape = workspace.table(table)[1].shape
    if not shape.image_columns:
        return ()
    shards = [(path, rows) for path, rows in table_shards(workspace, table) if path.parent == workspace.filtered(table)]
    positions = even_positions(sum(rows for _, rows in shards), _ASKED)
    number = max(1, min(_MOST, MAX_PICTURES // max(tables, 1)))
    score = score_column(shape)
    scores = _scores(shards, positions, score)
    chosen = _chosen(scores, number) if score and scores else {}
    if not chosen:
        chosen = {0: [positions[index] for index in even_positions(len(positions), min(number, 2 * TENTHS))]}
    pictures = Pictures(workspace, shape, SIDE, words=False)
    wanted = sorted(position for some in chosen.values() for position in some)
    with bar(f"report {table}", len(wanted), "pictures") as advance:
        drawn = {}
        for position, row in zip(wanted, rows_at(shards, wanted), strict=True):
            drawn[position] = _thumbnail(pictures, row, text_column(shape), scores.get(position))
            advance(1)
    return tuple(_sheet(tenth, some, drawn, scores) for tenth, some in chosen.items() if some)


def _scores(shards: Sequence[Any], positions: Sequence[int], column: str | None) -> dict[int, float]:
    """Scores of the rows at these positions, of those that have one."""
    import pyarrow.parquet as pq

    if column is None or not shards or column not in pq.read_schema(shards[0][0]).names:
        return {}
    rows = rows_at(shards, positions, [column])
    found = {position: row[column] for position, row in zip(positions, rows, strict=True)}
    return {position: float(value) for position, value in found.items() if value is not None}


def _tenths(scores: Mapping[int, float]) -> list[list[int]]:
    """Positions by tenths of their scores, each in rising order of them."""
    order = sorted(scores, key=lambda position: (scores[position], position))
    ends = [len(order) * tenth // TENTHS for tenth in range(TENTHS + 1)]
    return [order[start:end] for start, end in pairwise(ends)]


def _chosen(scores: Mapping[int, float], number: int) -> dict[int, list[int]]:
    """Of each tenth, from 1, the positions of rows that are shown; with few pictures, some tenths have none."""
    tenths = _tenths(scores)
    shown = even_positions(TENTHS, min(number, TENTHS))
    of_each = max(1, number // TENTHS)
    return {
        tenth + 1: [tenths[tenth][index] for index in even_positions(len(tenths[tenth]), of_each)] for tenth in shown
    }


def _sheet(
    tenth: int, positions: Sequence[int], drawn: Mapping[int, Thumbnail | None], scores: Mapping[int, float]
) -> Sheet:
    low = high = None
    if tenth:
        own = _tenths(scores)[tenth - 1]
        low, high = scores[own[0]], scores[own[-1]]
    thumbnails = (drawn[position] for position in positions)
    return Sheet(tenth, low, high, tuple(thumbnail for thumbnail in thumbnails if thumbnail is not None))


def _thumbnail(pictures: Pictures, row: Mapping[str, Any], text: str, score: float | None) -> Thumbnail | None:
    """A row small; None for one without images."""
    sheet = pictures.draw(row).sheet
    if sheet is None:
        return None
    words = " ".join(str(row.get(text) or "").split())
    cut = words[:_TEXT_LENGTH] + "..." * (len(words) > _TEXT_LENGTH)
    data = next(data for data in _encodings(sheet) if len(data) <= MAX_PICTURE_BYTES)
    address = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return Thumbnail(address, *sheet.size, str(row[KEY])[:_TEXT_LENGTH], cut, score)


def _encodings(sheet: Image.Image) -> Iterator[bytes]:
    """A picture as JPEG, smaller and smaller."""
    while True:
        for quality in (80, 60, 40, 20):
            buffer = io.BytesIO()
            sheet.save(buffer, "JPEG", quality=quality)
            yield buffer.getvalue()
        sheet = sheet.resize((max(sheet.width // 2, 1), max(sheet.height // 2, 1)))
