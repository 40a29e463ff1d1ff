"""Traps that several datasets share, as tables: captions, scores and sizes at the edges of the rules."""

from __future__ import annotations

import math

_LONG_SENTENCES = "".join(f"In row {n} of the tiles a small blue square touches a red one. " for n in range(30))
LONG_CAPTION = f"A caption of 900 characters about a wall of tiles. {_LONG_SENTENCES}"[:899] + "."

ODD_CAPTIONS = (
    "雾中的红色圆形和蓝色方块（a caption in Chinese）",
    "A red circle 🔴, a blue square 🟦 and a family 👩‍👩‍👧 (a caption with emoji)",
    "A cafe\u0301 with a nai\u0308ve sign (a caption with combining marks)",
    "Tom &amp; Jerry&#39;s &lt;b&gt;poster&lt;/b&gt; (a caption with HTML entities)",
    "It&amp;#39;s a caption with doubled HTML entities",
    "A sign that says \"Open\", and 'Closed',\nin a caption of quotes and two lines",
    r"A path like C:\new\table in a caption with backslashes",
    LONG_CAPTION,
)

# The trainer keeps scores strictly above 5 by default, and above 5.67 or 5.5 where its mixtures say so.
SCORES: tuple[tuple[str, float | None], ...] = (
    ("exactly 5", 5.0),
    ("just above 5", 5.01),
    ("exactly 5.5", 5.5),
    ("exactly 5.67", 5.67),
    ("5.6700001", 5.6700001),
    ("5.68", 5.68),
    ("low: 3.2", 3.2),
    ("missing", None),
    ("not a number", math.nan),
)

# Width and height around a least size of 512.
SIZES = ((512, 512), (511, 512), (512, 511), (511, 511), (513, 513), (1600, 700), (200, 300))
GOOD_SIZES = ((640, 512), (512, 768), (800, 600), (1024, 768), (600, 600))
