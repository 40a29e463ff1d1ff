"""Pictures made from a seed: two shapes before a soft background, and a sentence that says what is there."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "red": (205, 45, 45),
    "green": (40, 150, 70),
    "blue": (45, 80, 200),
    "yellow": (240, 205, 50),
    "purple": (130, 60, 160),
    "black": (20, 20, 20),
}
PLACES = ("in thick fog", "after the rain", "on a winter evening", "behind a window", "under a wide sky")


@dataclass(frozen=True)
class Thing:
    """A shape in a picture; `box` is x, y, width, height in pixels."""

    colour: str
    form: str
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """What a caption calls it, without article."""
        return f"{self.colour} {self.form}"

    @property
    def polygon(self) -> list[float]:
        """Its outline: x1, y1, x2, y2, ... in pixels."""
        x, y, width, height = self.box
        if self.form == "square":
            return [float(n) for n in (x, y, x + width, y, x + width, y + height, x, y + height)]
        angles = [math.tau * step / 16 for step in range(16)]
        centre_x, centre_y = x + width / 2, y + height / 2
        points = [(centre_x + math.cos(a) * width / 2, centre_y + math.sin(a) * height / 2) for a in angles]
        return [round(number, 2) for point in points for number in point]

    def draw(self, canvas: ImageDraw.ImageDraw, fill: Any) -> None:
        """Draw it; the last pixel is inside its box."""
        x, y, width, height = self.box
        shape = canvas.rectangle if self.form == "square" else canvas.ellipse
        shape((x, y, x + width - 1, y + height - 1), fill=fill)


@dataclass(frozen=True)
class Picture:
    """A picture of `width` x `height` pixels; the same seed and size always give the same one."""

    seed: int
    width: int
    height: int

    @classmethod
    def named(cls, name: str, width: int, height: int) -> Picture:
        """The picture whose seed comes from `name`."""
        return cls(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]), width, height)

    @cached_property
    def things(self) -> tuple[Thing, Thing]:
        """The shape on the left and the one on the right."""
        random = Random(self.seed)
        left, right = random.sample(sorted(COLOURS), 2)
        return self._thing(random, left, 0), self._thing(random, right, self.width // 2)

    def _thing(self, random: Random, colour: str, left: int) -> Thing:
        """A shape somewhere in the half of the picture that starts at pixel `left`."""
        side = int(min(self.width / 2, self.height) * random.uniform(0.3, 0.8))
        x = left + random.randint(0, self.width // 2 - side)
        y = random.randint(0, self.height - side)
        return Thing(colour, random.choice(("circle", "square")), (x, y, side, side))

    @property
    def caption(self) -> str:
        """A sentence that says what is there."""
        left, right = self.things
        return f"A {left.name} stands left of a {right.name} {PLACES[self.seed % len(PLACES)]}."

    def draw(self) -> Image.Image:
        """The picture as RGB."""
        random = Random(self.seed)
        background = Image.frombytes("RGB", (4, 3), bytes(random.randrange(150, 256) for _ in range(36)))
        image = background.resize((self.width, self.height), Image.Resampling.BICUBIC)
        canvas = ImageDraw.Draw(image)
        for thing in self.things:
            thing.draw(canvas, COLOURS[thing.colour])
        return image

    def encode(self, kind: str = "JPEG", orientation: int = 1) -> bytes:
        """The picture's bytes as `kind` (JPEG, PNG, WEBP, GIF, BMP), with an EXIF orientation when it is not 1."""
        image = self.draw() if kind not in ("GIF", "BMP") else self.draw().convert("P")
        options: dict[str, Any] = {"quality": 80} if kind in ("JPEG", "WEBP") else {}
        if orientation != 1:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = orientation
        target = io.BytesIO()
        image.save(target, kind, **options)
        return target.getvalue()


def truncate(data: bytes) -> bytes:
    """The first half of an image's bytes: a header that reads, a body that ends too soon."""
    return data[: len(data) // 2]
