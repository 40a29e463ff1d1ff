"""Charts as inline SVG, coloured by the page's own variables so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from prep.report.histograms import Histogram

_WIDTH, _HEIGHT = 320, 128
_LEFT, _RIGHT, _TOP, _BASE = 6, 314, 18, 104  # of the plot
_FEWEST_BINS = 8  # shown, so that bars do not become blocks
_LABELS = 6  # below the axis


def short(number: int) -> str:
    """A number of rows in few characters: exact below 100,000, then three digits and a unit."""
    if number < 100_000:
        return f"{number:,}"
    size = float(number)
    for unit in ("k", "M", "bn", "tn"):
        size /= 1000
        if float(f"{size:.3g}") < 1000 or unit == "tn":
            break
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"


def histogram_svg(histogram: Histogram, words: Sequence[str] = ("kept", "dropped")) -> str:
    """A histogram: a bar a bin, kept rows below and dropped ones above; each bar tells its numbers.

    Args:
        words: what the two are called; one where there is no second.
    """
    shown = _widened(histogram)
    most = max(histogram.kept[number] + histogram.dropped[number] for number in shown) or 1
    step = (_RIGHT - _LEFT) / len(shown)
    parts = [
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(histogram.axis.title)}">',
        f'<text x="{_LEFT}" y="11">{short(most)}</text>',
    ]
    for place, number in enumerate(shown):
        counts = (histogram.kept[number], histogram.dropped[number])
        if not any(counts):
            continue
        told = ", ".join(f"{count:,} {word}" for count, word in zip(counts, words, strict=False))
        parts.append(f"<g><title>{escape(histogram.axis.words_of(number))}: {told}</title>")
        base = float(_BASE)
        for name, count in zip(("kept", "dropped"), counts, strict=True):
            if count:
                height = max(count / most * (_BASE - _TOP), 1.0)
                base -= height
                parts.append(
                    f'<rect class="{name}" x="{_LEFT + place * step + 0.5:.1f}" y="{base:.1f}" '
                    f'width="{step - 1:.1f}" height="{height:.1f}"/>'
                )
        parts.append("</g>")
    parts.append(f'<line x1="{_LEFT}" y1="{_BASE}" x2="{_RIGHT}" y2="{_BASE}"/>')
    return "".join([*parts, *_labels(histogram, shown, step), "</svg>"])


def _widened(histogram: Histogram) -> range:
    """The bins that are shown: those that hold rows, and empty ones beside them where they are few."""
    low, high, all_bins = histogram.bins.start, histogram.bins.stop, len(histogram.kept)
    while high - low < min(_FEWEST_BINS, all_bins):
        low, high = max(low - 1, 0), min(high + 1, all_bins)
    return range(low, high)


def _labels(histogram: Histogram, shown: range, step: float) -> list[str]:
    """Edges below the axis, as many as there is room for."""
    words = histogram.axis.words
    edges = [number for number in range(shown.start, shown.stop + 1) if 0 < number <= len(words)]
    every = -(-len(edges) // _LABELS)
    labels = []
    for number in edges[::every]:
        x = _LEFT + (number - shown.start) * step
        anchor = "start" if x < _LEFT + 12 else "end" if x > _RIGHT - 12 else "middle"
        labels.append(f'<line x1="{x:.1f}" y1="{_BASE}" x2="{x:.1f}" y2="{_BASE + 4}"/>')
        labels.append(f'<text x="{x:.1f}" y="{_BASE + 16}" text-anchor="{anchor}">{escape(words[number - 1])}</text>')
    return labels


def shares_svg(shares: Sequence[tuple[str, float, int]]) -> str:
    """One bar of parts beside each other.

    Args:
        shares: a name, its part (0 to 1) and the number of its colour.
    """
    parts = ['<svg class="shares" viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" aria-label="shares">']
    x = 0.0
    for name, share, colour in shares:
        parts.append(
            f'<rect class="c{colour}" x="{x * 1000:.2f}" y="0" width="{max(share * 1000 - 1.5, 0.5):.2f}" height="40">'
            f"<title>{escape(name)}: {share:.1%}</title></rect>"
        )
        x += share
    return "".join([*parts, "</svg>"])
