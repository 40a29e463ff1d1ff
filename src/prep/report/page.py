"""A report as one HTML page: no script, nothing fetched, every word of the data escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import prep
from prep.images.chunks import NOT_FETCHED
from prep.progress import size
from prep.report.build import Report, TableReport
from prep.report.exposure import Exposure
from prep.report.flow import StageFlow, TableFlow
from prep.report.histograms import Histogram
from prep.report.pictures import DatasetImages, class_of
from prep.report.provenance import Provenance
from prep.report.sheets import Sheet
from prep.report.svg import histogram_svg, shares_svg, short

MARK = '<meta name="generator" content="prep report">'  # by which a page of ours is known
COLOURS = 8  # of groups; then they come again
_LONG = 1e15  # from here on a number is told by its first digits
_WORDS = 300  # characters of a rule or a note
_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{mark}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
"""
_NOTHING = "<p>Nothing yet.</p>"


def render(report: Report) -> str:
    """The page."""
    style = files("prep.report").joinpath("page.css").read_text(encoding="utf-8")
    parts = [
        _HEAD.format(mark=MARK, title=f"{escape(report.recipe.name)}: report", style=style),
        _header(report),
        _section("Flow", "What every stage has made.", _flow(report.stages) + _tables(report.tables)),
        _section("Mixture", _about_mixture(report), _mixture(report.mixture)),
        _section("Tables", _LEGEND, _details(report)),
        _section("Images", "What became of the images, and which hosts did not give theirs.", _images(report)),
        _section("Provenance", "Where everything comes from, and on what terms.", _provenance(report.provenance)),
        f"<footer>prep {escape(prep.__version__)}</footer>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _cut(text: str, length: int = _WORDS) -> str:
    """A text on one line, not longer than that, escaped."""
    words = " ".join(text.split())
    return escape(words[:length] + "..." * (len(words) > length))


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _anchor(name: str) -> str:
    return escape(f"table-{name}")


def _section(title: str, about: str, body: str) -> str:
    return f'<section id="{title.lower()}">\n<h2>{title}</h2>\n<p class="about">{about}</p>\n{body}\n</section>'


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """An HTML table of cells that are HTML already; columns whose numbers are in `right` hold numbers."""
    sides = ['class="n"' if number in right else "" for number in range(len(head))]
    top = "".join(f"<th {side}>{cell}</th>" for side, cell in zip(sides, head, strict=True))
    lines = [
        f"<tr>{''.join(f'<td {side}>{cell}</td>' for side, cell in zip(sides, row, strict=True))}</tr>" for row in rows
    ]
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


# -- the whole -------------------------------------------------------------------------------------------------------


def _header(report: Report) -> str:
    kept = sum(table.kept or 0 for table in report.tables)
    samples = sum(table.samples or 0 for table in report.tables)
    good = sum(images.good for images in report.images)
    facts = [
        (short(kept), f"rows kept of {short(samples)}"),
        (str(len(report.tables)), "table" if len(report.tables) == 1 else "tables"),
        (short(good), f"images, {size(sum(images.size_bytes for images in report.images))}"),
    ]
    chips = "".join(f"<li><b>{number}</b> {words}</li>" for number, words in facts)
    links = "".join(
        f'<a href="#{name.lower()}">{name}</a>' for name in ("Flow", "Mixture", "Tables", "Images", "Provenance")
    )
    about = f"<p>{_cut(report.recipe.title)}</p>" if report.recipe.title else ""
    name = escape(report.recipe.name)
    return f'<header>\n<h1>{name}</h1>\n{about}\n<ul class="chips">{chips}</ul>\n<nav>{links}</nav>\n</header>'


def _flow(stages: Sequence[StageFlow]) -> str:
    cards = []
    for stage in stages:
        done = (
            f"{stage.done} of {stage.total}" if stage.done < stage.total else "done" if stage.done else "nothing to do"
        )
        bytes_ = "" if stage.size_bytes is None else f"<span>{size(stage.size_bytes)}</span>"
        cards.append(
            f'<li class="{"done" if stage.done == stage.total else "open"}"><em>{stage.stage}</em>'
            f'<b title="{stage.amount:,}">{short(stage.amount)}</b><span>{stage.unit}</span>{bytes_}<i>{done}</i></li>'
        )
    return f'<ol class="flow">{"".join(cards)}</ol>'


def _tables(tables: Sequence[TableFlow]) -> str:
    if not tables:
        return _NOTHING
    rows = []
    for table in tables:
        part = f"{table.kept / table.samples:.1%}" if table.samples and table.kept is not None else "-"
        state = f'<span class="warn">{_cut(table.note)}</span>' if table.note else "up to date"
        rows.append(
            (
                f'<a href="#{_anchor(table.table)}">{escape(table.table)}</a>',
                escape(table.kind),
                _number(table.samples),
                _number(table.kept),
                part,
                "-" if table.kept_bytes is None else size(table.kept_bytes),
                state,
            )
        )
    return _grid(("table", "kind", "rows", "kept", "", "size", "state"), rows, right=(2, 3, 4, 5))


# -- the mixture -----------------------------------------------------------------------------------------------------


def _about_mixture(report: Report) -> str:
    return (
        "What part of training each entry is, and how often each of its rows is expected to be seen in "
        f"{report.steps:,} steps of {report.batch:,} samples."
    )


def _mixture(mixture: Sequence[Exposure]) -> str:
    if not mixture:
        return _NOTHING
    groups = {group: number % COLOURS for number, group in enumerate(dict.fromkeys(item.group for item in mixture))}
    shares = [(item.entry, item.share, groups[item.group]) for item in mixture if item.share]
    most = max((share for _, share, _ in shares), default=1.0)
    lines = []
    for group, colour in groups.items():
        own = [item for item in mixture if item.group == group]
        if group:
            total = sum(item.share or 0.0 for item in own)
            lines.append(f'<h3><i class="swatch c{colour}"></i>{escape(group)} <small>{total:.1%}</small></h3>')
        lines += [_entry(item, colour, most) for item in own]
    return (shares_svg(shares) if shares else "") + f'<div class="bars">{"".join(lines)}</div>'


def _entry(item: Exposure, colour: int, most: float) -> str:
    """One entry as a bar."""
    if item.share is None:
        numbers = "not filtered yet" if item.kept is None else "no rows"
    else:
        sampling = "" if item.sampled == item.kept else f" ({escape(item.sampling)})"
        seen = item.seen or 0.0
        times = _value(seen) if seen >= 100 else f"{seen:.2g}"
        numbers = f"<b>{item.share:.1%}</b> {_number(item.sampled)} rows{sampling}, each seen {times}x"
    table = "" if item.table == item.entry else f" <small>{escape(item.table)}</small>"
    width = 100 * (item.share or 0.0) / most
    return (
        f'<div class="bar"><span class="name">{escape(item.entry)}{table}</span><span class="track">'
        f'<i class="c{colour}" style="width:{width:.2f}%"></i></span><span class="numbers">{numbers}</span></div>'
    )


# -- tables ----------------------------------------------------------------------------------------------------------

_LEGEND = (
    'What each rule took, and what is left: <i class="swatch kept"></i>kept, <i class="swatch dropped"></i>dropped. '
    "A histogram's first and last bars hold all that lies beyond."
)


def _details(report: Report) -> str:
    more = sum(table.kept is not None for table in report.tables) - len(report.details)
    note = f'<p class="about">{more:,} more are filtered; prep stats shows them.</p>' if more > 0 else ""
    return ("".join(map(_table, report.details)) or _NOTHING) + note


def _table(table: TableReport) -> str:
    histograms = "".join(map(_histogram, table.histograms))
    return (
        f'<article id="{_anchor(table.table)}"><h3>{escape(table.table)}</h3>'
        f'{_waterfall(table)}<div class="histograms">{histograms}</div>{_sheets(table.sheets)}</article>'
    )


def _waterfall(table: TableReport) -> str:
    """Every reason as a bar; those of images that are missing are folded into one that opens."""
    lines = [_step("rows", table.rows, 0, table.rows)]
    missing = [step for step in table.steps if step.reason.startswith("image_") and step.reason != NOT_FETCHED]
    for step in table.steps:
        if step not in missing or len(missing) == 1:
            lines.append(_step(step.reason, step.left, step.dropped, table.rows))
        elif step is missing[-1]:
            dropped = sum(one.dropped for one in missing)
            whole = _step("images missing", step.left, dropped, table.rows)
            each = "".join(_step(one.reason, one.left, one.dropped, table.rows) for one in missing)
            lines.append(f"<details><summary>{whole}</summary>{each}</details>")
    lines.append(_step("kept", table.kept, 0, table.rows))
    return f'<div class="bars waterfall">{"".join(lines)}</div>'


def _step(name: str, left: int, dropped: int, rows: int) -> str:
    """One line of a waterfall: what is left, and behind it what went."""
    whole = rows or 1
    percent = f"{left / whole:.1%}"
    took = f"-{dropped:,} " if dropped else ""
    return (
        f'<div class="bar"><span class="name">{escape(name)}</span><span class="track">'
        f'<i class="kept" style="width:{100 * left / whole:.2f}%"></i>'
        f'<i class="dropped" style="width:{100 * dropped / whole:.2f}%"></i></span>'
        f'<span class="numbers"><span class="took">{took}</span><b>{left:,}</b> {percent}</span></div>'
    )


def _histogram(histogram: Histogram, words: Sequence[str] = ("kept", "dropped")) -> str:
    unknown = histogram.kept_unknown + histogram.dropped_unknown
    facts = f"{_value(histogram.low)} to {_value(histogram.high)}" + (f"; {unknown:,} unknown" if unknown else "")
    return (
        f"<figure><figcaption>{escape(histogram.axis.title)}<small>{facts}</small></figcaption>"
        f"{histogram_svg(histogram, words)}</figure>"
    )


def _value(value: float | None) -> str:
    """A number that may be of any size, in few characters."""
    return "-" if value is None else f"{value:,.0f}" if 100 <= abs(value) < _LONG else f"{value:.3g}"


def _sheets(sheets: Sequence[Sheet]) -> str:
    lines = []
    for sheet in sheets:
        title = "Rows spread evenly"
        if sheet.low is not None and sheet.high is not None:
            title = f"Tenth {sheet.tenth} <small>score {sheet.low:.3g} to {sheet.high:.3g}</small>"
        images = []
        for thumbnail in sheet.thumbnails:
            score = "" if thumbnail.score is None else f" ({thumbnail.score:.3g})"
            images.append(
                f'<img src="{thumbnail.data}" width="{thumbnail.width}" height="{thumbnail.height}" '
                f'alt="{escape(thumbnail.text)}" title="{escape(f"{thumbnail.key}{score}: {thumbnail.text}")}">'
            )
        lines.append(f'<div><h4>{title}</h4><div class="thumbnails">{"".join(images)}</div></div>')
    return f'<div class="sheets">{"".join(lines)}</div>' if lines else ""


# -- images ----------------------------------------------------------------------------------------------------------


def _images(report: Report) -> str:
    return "".join(map(_dataset_images, report.images)) or _NOTHING


def _dataset_images(images: DatasetImages) -> str:
    total = images.good + images.missing
    formats = ", ".join(f"{count:,} {escape(name)}" for name, count in images.formats.items())
    parts = [
        f"<article><h3>{escape(images.dataset)} <small>{images.good:,} of {total:,} images, "
        f"{size(images.size_bytes)}{f'; {formats}' if formats else ''}</small></h3>"
    ]
    if images.statuses:
        rows = [
            (escape(status), class_of(status), _number(count), f"{count / total:.1%}")
            for status, count in images.statuses.items()
        ]
        parts.append(_grid(("why not", "class", "images", ""), rows, right=(2, 3)))
    if images.hosts:
        parts.append(_hosts(images))
    if images.histograms:
        histograms = "".join(_histogram(histogram, ("images",)) for histogram in images.histograms)
        parts.append(f'<div class="histograms">{histograms}</div>')
    return "".join([*parts, "</article>"])


def _hosts(images: DatasetImages) -> str:
    rows = []
    for host in images.hosts:
        reasons = ", ".join(f"{count:,} {status}" for status, count in [*host.statuses.items()][:4])
        share = f"{host.failed / host.images:.1%}"
        rows.append(
            (_cut(host.name or "(none)", 80), _number(host.images), _number(host.failed), share, escape(reasons))
        )
    more = images.failing_hosts - len(images.hosts)
    note = f'<p class="about">And {more:,} more hosts with failures.</p>' if more else ""
    return _grid(("host", "images", "failed", "", "why"), rows, right=(1, 2, 3)) + note


# -- provenance ------------------------------------------------------------------------------------------------------


def _provenance(found: Sequence[Provenance]) -> str:
    return "".join(map(_dataset, found)) or _NOTHING


def _dataset(item: Provenance) -> str:
    facts = {
        "licence": _cut(item.license) + (" (gated)" if item.is_gated else ""),
        "home page": _link(item.homepage),
        "source": _cut(item.source),
        "revision": _code(item.revision),
        "slice": _cut(item.slice),
        "parts": f"{item.parts:,}, {size(item.size_bytes)}" if item.raw else "not downloaded yet",
        "manifest of parts": _code(item.raw or ""),
    }
    for table in item.tables:
        rules = "" if table.rules is None else ", ".join(f"{name} {value}" for name, value in table.rules.items())
        facts[f"{escape(table.table)}: rules"] = _cut(rules or ("none" if table.rules is not None else "not filtered"))
        facts[f"{escape(table.table)}: manifests"] = " ".join(
            f"{word} {_code(hash_)}"
            for word, hash_ in (("samples", table.normalized), ("kept", table.filtered))
            if hash_
        )
        for number, passport in enumerate(table.passports, 1):
            facts[f"{escape(table.table)}: scores {number}"] = _passport(passport)
    lines = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
    title = f" <small>{_cut(item.title)}</small>" if item.title else ""
    return f"<article><h3>{escape(item.dataset)}{title}</h3><dl>{lines}</dl></article>"


def _code(text: str) -> str:
    return f"<code>{_cut(text, 100)}</code>" if text else ""


def _link(address: str) -> str:
    """An address that can be followed, if it leads to the web."""
    if not address.startswith(("https://", "http://")):
        return _cut(address)
    return f'<a href="{escape(address)}" rel="noopener noreferrer">{_cut(address)}</a>'


def _passport(passport: Mapping[str, Any]) -> str:
    return f"<code>{_cut(json.dumps(passport, sort_keys=True, ensure_ascii=False), 1000)}</code>"
