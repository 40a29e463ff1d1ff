"""Functions that read what SQL cannot say: one module for each dataset whose records need code, not only a mapping."""

from __future__ import annotations

from collections.abc import Callable

# (width, height) in pixels of the image with this file name, as its file says before any EXIF rotation; None when
# that image is missing.
SizeOf = Callable[[str], tuple[int, int] | None]
