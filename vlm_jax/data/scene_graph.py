"""What a scene of coloured shapes is: its objects, how one is drawn at random, what is true of it.

A scene is a plain, JSON-ready dict {"size", "background", "objects"}; coordinates are pixels, x to
the right and y down. Each object lies wholly inside its own cell of a 3 x 3 grid, so two objects in
different columns (rows) are beyond doubt left and right of (above and below) each other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from math import cos, pi, sin
from typing import Any, TypedDict, TypeVar

import numpy as np

COLOURS = {
    "red": (214, 36, 40),
    "orange": (244, 134, 30),
    "yellow": (240, 220, 50),
    "green": (40, 150, 60),
    "cyan": (60, 208, 214),
    "blue": (40, 76, 208),
    "purple": (130, 48, 160),
    "pink": (244, 140, 196),
}
"""Name -> RGB. The nearest two are 86 apart in RGB distance; backgrounds are light grey."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
RADII = {"small": (0.070, 0.080), "large": (0.120, 0.136)}
"""Size word -> range of the radius, in image sides."""

HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("yellow", "circle"),
        ("green", "triangle"),
        ("cyan", "cross"),
        ("blue", "ring"),
        ("purple", "square"),
    }
)
"""(colour, shape) pairs that only scenes of the compositional test split show."""

RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
"""Relation -> its opposite."""

_SIDES: dict[str, Callable[[Sequence[float], Sequence[float]], bool]] = {
    "left of": lambda a, b: a[2] <= b[0],
    "right of": lambda a, b: a[0] >= b[2],
    "above": lambda a, b: a[3] <= b[1],
    "below": lambda a, b: a[1] >= b[3],
}
"""Relation -> whether it holds between two boxes."""

ATTRIBUTES = ("size", "colour", "shape")

GRID = 3
MAX_OBJECTS = 6
_TILT = 10.0  # degrees
_SPREAD = cos(_TILT * pi / 180) + sin(_TILT * pi / 180)  # half side of a tilted unit square's box

Choice = TypeVar("Choice")


class SceneObject(TypedDict):
    """shape, colour, size: words. box: [x0, y0, x1, y1] in pixels. centre: [x, y] in pixels.

    radius: half the side of the untilted box, in pixels. angle: degrees. rgb: the colour as drawn.
    """

    shape: str
    colour: str
    size: str
    box: list[float]
    centre: list[float]
    radius: float
    angle: float
    rgb: list[int]


def _star() -> list[tuple[float, float]]:
    """Five points, alternating between the unit circle and one of radius 0.42."""
    radius = (1.0, 0.42)
    turns = [(i, pi * i / 5 - pi / 2) for i in range(10)]
    return [(radius[i % 2] * cos(turn), radius[i % 2] * sin(turn)) for i, turn in turns]


OUTLINES = {
    "square": [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)],
    "triangle": [(0.0, -1.0), (1.0, 0.9), (-1.0, 0.9)],
    "star": _star(),
    "cross": [
        *[(-0.36, -1.0), (0.36, -1.0), (0.36, -0.36), (1.0, -0.36), (1.0, 0.36), (0.36, 0.36)],
        *[(0.36, 1.0), (-0.36, 1.0), (-0.36, 0.36), (-1.0, 0.36), (-1.0, -0.36), (-0.36, -0.36)],
    ],
}
"""Shape -> its corners around (0, 0), in radii. Shapes not listed are round."""


def pick(rng: np.random.Generator, items: Sequence[Choice]) -> Choice:
    """One of the items, each equally likely."""
    return items[int(rng.random() * len(items))]  # rng.integers takes several times longer


def shuffled(rng: np.random.Generator, items: Iterable[Choice]) -> list[Choice]:
    """The items in random order."""
    return sorted(items, key=lambda _: rng.random())


def around(rng: np.random.Generator, most: float) -> float:
    """A number in [-most, most]."""
    return most * (2 * rng.random() - 1)


def corners(thing: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The corners of an object with a straight-edged shape, in pixels."""
    (x, y), radius, turn = thing["centre"], thing["radius"], thing["angle"] * pi / 180
    c, s = radius * cos(turn), radius * sin(turn)
    return [(x + c * u - s * v, y + s * u + c * v) for u, v in OUTLINES[thing["shape"]]]


def sample_scene(
    rng: np.random.Generator, size: int, objects: tuple[int, int], held_out: bool
) -> dict[str, Any]:
    """A random scene.

    size: side of the square image in pixels. objects: fewest and most objects, both included.
    held_out: True: at least one object has a pair of HELD_OUT; False: none has. No two objects
    agree in all of size, colour and shape.
    """
    count = pick(rng, range(objects[0], objects[1] + 1))
    kinds = _sample_kinds(rng, count, held_out)
    cells = shuffled(rng, range(GRID * GRID))[:count]
    grey = 226 + around(rng, 16)  # light paper: every colour is darker than its ground
    return {
        "size": size,
        "background": [round(grey + around(rng, 8)) for _ in range(3)],
        "objects": [_place(rng, kind, cell, size) for kind, cell in zip(kinds, cells, strict=True)],
    }


def _sample_kinds(
    rng: np.random.Generator, count: int, held_out: bool
) -> list[tuple[str, str, str]]:
    """Distinct (size, colour, shape) triples; some repeat the colour or shape of an earlier one."""
    kinds: list[tuple[str, str, str]] = []
    sizes, colours = list(RADII), list(COLOURS)
    if held_out:
        kinds.append((pick(rng, sizes), *pick(rng, sorted(HELD_OUT))))
    while len(kinds) < count:
        colour, shape = pick(rng, colours), pick(rng, SHAPES)
        if kinds and rng.random() < 0.3:  # without repeats there would be little to count
            colour = pick(rng, kinds)[1]
        if kinds and rng.random() < 0.3:
            shape = pick(rng, kinds)[2]
        kind = (pick(rng, sizes), colour, shape)
        if kind not in kinds and (held_out or (colour, shape) not in HELD_OUT):
            kinds.append(kind)
    return kinds


def _place(
    rng: np.random.Generator, kind: tuple[str, str, str], cell: int, size: int
) -> SceneObject:
    """An object of a kind somewhere inside a grid cell, slightly tilted and off its colour."""
    word, colour, shape = kind
    low, high = RADII[word]
    radius = low + (high - low) * rng.random()
    reach = 0.5 / GRID - radius * _SPREAD
    x, y = ((i + 0.5) / GRID + around(rng, reach) for i in (cell % GRID, cell // GRID))
    thing = {
        "shape": shape,
        "colour": colour,
        "size": word,
        "centre": [x * size, y * size],
        "radius": radius * size,
        "angle": around(rng, _TILT),
        "rgb": [value + round(around(rng, 10)) for value in COLOURS[colour]],
    }
    return thing | {"box": box_of(thing)}  # pyright: ignore[reportReturnType]


def box_of(thing: Mapping[str, Any]) -> list[float]:
    """The tight box of an object, in pixels rounded to 1/100."""
    return [round(value, 2) for value in extent(thing)]


def extent(thing: Mapping[str, Any]) -> list[float]:
    """Left, top, right and bottom of an object, in pixels."""
    (x, y), radius = thing["centre"], thing["radius"]
    points = [(x - radius, y - radius), (x + radius, y + radius)]
    if thing["shape"] in OUTLINES:
        points = corners(thing)
    across, down = zip(*points, strict=True)
    return [min(across), min(down), max(across), max(down)]


def related(first: Mapping[str, Any], relation: str, second: Mapping[str, Any]) -> bool:
    """Whether the whole box of the first object is on that side of the second's."""
    return _SIDES[relation](first["box"], second["box"])


def noun(attributes: Mapping[str, str], plural: bool = False) -> str:
    """The noun phrase of some attributes: "small red circle", "red objects", "crosses"."""
    head = attributes.get("shape", "object")
    if plural:
        head = {"cross": "crosses"}.get(head, head + "s")
    return " ".join([*(attributes[k] for k in ("size", "colour") if k in attributes), head])


def references(
    objects: Sequence[SceneObject], target: SceneObject, hide: str | None = None
) -> list[str]:
    """The noun phrases that fit the target and no other object, without the attribute to hide."""
    fitting = _phrases(target["size"], target["colour"], target["shape"])
    for other in objects:
        if other is not target:
            words = {other[key] for key in ATTRIBUTES}
            fitting = [(named, phrase) for named, phrase in fitting if not named <= words]
    hidden = target[hide] if hide else None
    return [phrase for named, phrase in fitting if hidden not in named]


@cache
def _phrases(size: str, colour: str, shape: str) -> list[tuple[frozenset[str], str]]:
    """Every noun phrase of an object, with the words of the attributes that it names."""
    words = (size, colour, shape)
    found = []
    for kept in product((False, True), repeat=len(words)):
        named = {k: word for k, word, keep in zip(ATTRIBUTES, words, kept, strict=True) if keep}
        found.append((frozenset(named.values()), noun(named)))
    return found
