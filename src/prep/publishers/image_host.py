"""The image host's misbehaving addresses: one table, name -> what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prep.publishers.pictures import Picture, truncate
from prep.publishers.replies import Fault

GOOD = Picture(1, 640, 560)
HTML = b"<!doctype html><title>Gone</title><p>This picture has moved. Here is our home page instead."


@dataclass(frozen=True)
class OddImage:
    """One address `/img/<name>`.

    Attributes:
        says: the caption that its rows get.
        content: the file behind it; None where there is none, or the fault answers instead.
        fault: how the host misbehaves.
    """

    name: str
    says: str
    content: Callable[[], bytes] | None = None
    fault: Fault | None = None


ODD_IMAGES = (
    OddImage("missing.jpg", "A picture that is not there: the host answers 404"),
    OddImage("broken-host.jpg", "A picture whose host answers 500", None, Fault(status=500)),
    OddImage("forbidden.jpg", "A picture whose host answers 403", None, Fault(status=403)),
    OddImage("gone.jpg", "A picture whose host answers 410", None, Fault(status=410)),
    OddImage(
        "html.jpg",
        "A .jpg address that serves an HTML page",
        None,
        Fault(body=HTML, headers={"Content-Type": "text/html"}),
    ),
    OddImage("gif.jpg", "A .jpg address that serves a GIF", lambda: GOOD.encode("GIF")),
    OddImage("webp.jpg", "A .jpg address that serves a WebP", lambda: GOOD.encode("WEBP")),
    OddImage("png.jpg", "A .jpg address that serves a PNG", lambda: Picture(2, 520, 520).encode("PNG")),
    OddImage("bmp.jpg", "A .jpg address that serves a BMP", lambda: Picture(3, 520, 520).encode("BMP")),
    OddImage("truncated.jpg", "A JPEG that ends half way", lambda: truncate(GOOD.encode())),
    OddImage("empty.jpg", "A picture of no bytes at all", lambda: b""),
    OddImage("cut.jpg", "A picture whose connection breaks off", GOOD.encode, Fault(cut_at=1000)),
    OddImage(
        "moved.jpg",
        "A picture that moved: the host redirects to another address",
        None,
        Fault(status=302, headers={"Location": "/img/plain.jpg"}),
    ),
    OddImage("plain.jpg", "The picture that another address redirects to", GOOD.encode),
    OddImage(
        "loop.jpg",
        "A picture whose host redirects to itself for ever",
        None,
        Fault(status=302, headers={"Location": "/img/loop.jpg"}),
    ),
    OddImage(
        "private.jpg",
        "A picture whose host redirects to a private address",
        None,
        Fault(status=302, headers={"Location": "http://169.254.169.254/"}),
    ),
    OddImage("slow.jpg", "A picture that comes in drips", GOOD.encode, Fault(drip_seconds=1.0)),
    OddImage(
        "busy.jpg",
        "A picture whose host first asks to wait a second",
        GOOD.encode,
        Fault(status=429, retry_after="seconds", times=1),
    ),
    OddImage(
        "busy-until.jpg",
        "A picture whose host first asks to wait until a date",
        GOOD.encode,
        Fault(status=429, retry_after="date", times=1),
    ),
    OddImage(
        "noai.jpg",
        "A picture whose owner opted out with X-Robots-Tag: noai",
        GOOD.encode,
        Fault(headers={"X-Robots-Tag": "noai"}),
    ),
)
IMAGE_FAULTS = {f"/img/{odd.name}": odd.fault for odd in ODD_IMAGES if odd.fault}


def write_odd_images(folder: Path) -> None:
    """Write the files behind the odd addresses."""
    for odd in ODD_IMAGES:
        if odd.content:
            (folder / odd.name).write_bytes(odd.content())
