"""Pictures of a few words: a font, a place, a tilt and two colours, drawn by Pillow on demand.

A picture is a function of its seeds alone (and of the FreeType inside Pillow, whose releases may
round a grey level differently).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vlm_jax.data.fonts import font
from vlm_jax.data.schema import DataError

LEADING = 1.2
"""Distance of two lines, in ems."""

_ASCENT, _BASELINE = 0.2, 0.95  # top of the letters and baseline below the top of a line, in ems
_MARGIN = 0.95  # share of a side that the words may take; hinting widens small letters a little
_WASTE = 0.75  # letters are at least this share of the largest that fit
_MEASURED = 64  # pixels to the em when words are measured
_LEAST_CONTRAST = 100  # grey levels between ink and ground
_BLUR, _NOISE = 0.7, 12.0  # most: pixels, and grey levels of deviation

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1."""


class Placed(NamedTuple):
    """Words with their place. size: height and width of the picture in pixels. em: pixels to the
    em. angle: degrees counter-clockwise around `centre`, x and y in pixels.
    """

    lines: list[str]
    font: str
    size: tuple[int, int]
    em: int
    angle: float
    centre: tuple[float, float]

    def letters(self) -> list[tuple[int, str, Box]]:
        """Each letter with its number in the text, from 1 and with spaces counted, and the box
        around its place, in [0, 1].
        """
        face, found, number = font(self.font, self.em), [], 0
        for line, (left, top) in zip(self.lines, self.starts(), strict=True):
            ends = [left + face.getlength(line[:end]) for end in range(len(line) + 1)]
            span = (top + _ASCENT * self.em, top + _BASELINE * self.em)
            for letter, x0, x1 in zip(line, ends[:-1], ends[1:], strict=True):
                number += 1
                if letter != " ":
                    found.append((number, letter, self._turned((x0, span[0], x1, span[1]))))
            number += 1  # the space where the line was broken
        return found

    def starts(self) -> list[tuple[float, float]]:
        """The upper left corner of every line before it is turned; lines are centred."""
        face, leading = font(self.font, self.em), LEADING * self.em
        top = self.centre[1] - leading * len(self.lines) / 2
        return [
            (self.centre[0] - face.getlength(line) / 2, top + number * leading)
            for number, line in enumerate(self.lines)
        ]

    def _turned(self, box: Box) -> Box:
        """A box whose centre goes around the centre of all, in shares of the sides."""
        x0, y0, x1, y1 = box
        x, y = (x0 + x1) / 2 - self.centre[0], (y0 + y1) / 2 - self.centre[1]
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        x, y = self.centre[0] + x * cos + y * sin, self.centre[1] - x * sin + y * cos
        wide, high = (x1 - x0) / 2, (y1 - y0) / 2
        height, width = self.size
        share = lambda length, side: min(max(length / side, 0.0), 1.0)
        top, bottom = share(y - high, height), share(y + high, height)
        return share(x - wide, width), top, share(x + wide, width), bottom


@dataclass(frozen=True)
class Lettering:
    """How words are placed. size: height and width of the picture in pixels. smallest: pixels to
    the em that letters have at least. tilt: most degrees either way. lines: most of them.
    """

    size: tuple[int, int] = (64, 64)
    smallest: int = 6
    tilt: float = 10.0
    lines: int = 3

    def place(self, text: str, name: str, rng: np.random.Generator) -> Placed:
        """A random place for words with single spaces between them, in one line or more.

        name: of the font, see `data.fonts`. DataError if they do not fit.
        """
        angle, words = rng.uniform(-self.tilt, self.tilt), text.split(" ")
        ways = [broken(words, count) for count in range(1, min(len(words), self.lines) + 1)]
        for degrees in (angle, 0.0):  # what fits only upright stays upright
            fitting = [
                (lines, most)
                for lines in ways
                if (most := self._largest(lines, name, degrees)) >= self.smallest
            ]
            if fitting:
                best = max(most for _, most in fitting)
                fitting = [way for way in fitting if way[1] >= _WASTE * best]
                lines, most = fitting[rng.integers(len(fitting))]
                least = max(self.smallest, int(_WASTE * most))
                em = int(rng.integers(least, most + 1))
                sides = _turned(*_extent(lines, name, em), degrees)
                x, y = (
                    rng.uniform(length / 2, max(side, length) - length / 2)
                    for length, side in zip(sides, reversed(self.size), strict=True)
                )
                return Placed(lines, name, self.size, em, degrees, (x, y))
        raise DataError(
            f"{text!r} in {name!r} does not fit {self.size[0]} x {self.size[1]} pixels with letters"
            f" of at least {self.smallest}: raise size, or lower smallest or longest"
        )

    def _largest(self, lines: Sequence[str], name: str, angle: float) -> int:
        """Most whole pixels to the em with which tilted lines stay in the picture, at most a third
        of its width.
        """
        wide, high = _turned(*_extent(lines, name, _MEASURED), angle)
        height, width = self.size
        return min(int(_MARGIN * _MEASURED * min(width / wide, height / high)), width // 3)


def paint(placed: Placed, seed: Any) -> np.ndarray:
    """The picture u8[H, W, 3]. seed: of colours, blur and noise."""
    height, width = placed.size
    rng, mask = np.random.default_rng(seed), Image.new("L", (width, height))
    pen, face = ImageDraw.Draw(mask), font(placed.font, placed.em)
    for line, (left, top) in zip(placed.lines, placed.starts(), strict=True):
        baseline = top + _BASELINE * placed.em
        pen.text((left, baseline), line, fill=255, font=face, anchor="ls")
    mask = mask.rotate(placed.angle, Image.Resampling.BICUBIC, center=placed.centre)
    mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0, _BLUR)))
    ink, ground = _colours(rng)
    pixels = ground + np.asarray(mask, np.float32)[..., None] / 255 * (ink - ground)
    pixels += rng.uniform(0, _NOISE) * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def broken(words: Sequence[str], count: int) -> list[str]:
    """Words in `count` lines, none empty, the longest line as short as can be."""
    if count == 1:
        return [" ".join(words)]
    ways = [
        [" ".join(words[:cut]), *broken(words[cut:], count - 1)]
        for cut in range(1, len(words) - count + 2)
    ]
    return min(ways, key=lambda lines: max(map(len, lines)))


def _extent(lines: Sequence[str], name: str, em: int) -> tuple[float, float]:
    """Width and height in pixels."""
    face = font(name, em)
    return max(face.getlength(line) for line in lines), LEADING * em * len(lines)


def _turned(width: float, height: float, angle: float) -> tuple[float, float]:
    """Width and height of what holds a tilted rectangle."""
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    return width * cos + height * sin, width * sin + height * cos


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ink and a brighter ground, f32[3] in [0, 255]."""
    weights = np.array([0.3, 0.59, 0.11], np.float32)
    while True:
        ink, ground = rng.uniform(0, 255, (2, 3)).astype(np.float32)
        if (ground - ink) @ weights >= _LEAST_CONTRAST:
            return ink, ground
