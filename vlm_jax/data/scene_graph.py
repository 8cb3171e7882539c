"""What a scene of coloured shapes is: its objects, how one is drawn at random, what is true of it.

A scene is a plain, JSON-ready dict {"size", "background", "objects"}; coordinates are pixels, x to
the right and y down. Each object lies wholly inside its own cell of a 3 x 3 grid, so two objects in
different columns (rows) are beyond doubt left and right of (above and below) each other.
"""

from collections.abc import Mapping, Sequence
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
"""Name -> RGB. The nearest two are 86 apart in RGB distance; backgrounds are grey."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
RADII = {"small": (0.060, 0.074), "large": (0.118, 0.136)}
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

ATTRIBUTES = ("size", "colour", "shape")
_KEY_SETS = [
    frozenset(key for key, keep in zip(ATTRIBUTES, kept, strict=True) if keep)
    for kept in product((False, True), repeat=len(ATTRIBUTES))
]

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
    return items[int(rng.integers(len(items)))]


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
    count = int(rng.integers(objects[0], objects[1] + 1))
    kinds = _sample_kinds(rng, count, held_out)
    cells = rng.permutation(GRID * GRID)[:count].tolist()
    return {
        "size": size,
        "background": (int(rng.integers(60, 200)) + rng.integers(-8, 9, 3)).tolist(),
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
    angle = _TILT * (2 * rng.random() - 1)
    reach = 0.5 / GRID - radius * _SPREAD
    x, y = ((np.array([cell % GRID, cell // GRID]) + 0.5) / GRID).tolist()
    x, y = x + reach * (2 * rng.random() - 1), y + reach * (2 * rng.random() - 1)
    thing = {"shape": shape, "centre": [x * size, y * size], "radius": radius * size}
    thing |= {"colour": colour, "size": word, "angle": angle}
    thing["rgb"] = (np.array(COLOURS[colour]) + rng.integers(-10, 11, 3)).tolist()
    return thing | {"box": _box(thing)}  # pyright: ignore[reportReturnType]


def _box(thing: Mapping[str, Any]) -> list[float]:
    """The tight box of an object, in pixels rounded to 1/100."""
    (x, y), radius = thing["centre"], thing["radius"]
    points = [(x - radius, y - radius), (x + radius, y + radius)]
    if thing["shape"] in OUTLINES:
        points = corners(thing)
    across, down = zip(*points, strict=True)
    return [round(value, 2) for value in (min(across), min(down), max(across), max(down))]


def related(
    first: Mapping[str, Any], relation: str, second: Mapping[str, Any], wholly: bool = True
) -> bool:
    """Whether the first object is on that side of the second: its whole box, or its centre."""
    a, b = (thing["box"] if wholly else thing["centre"] * 2 for thing in (first, second))
    sides = {
        "left of": a[2] <= b[0],
        "right of": a[0] >= b[2],
        "above": a[3] <= b[1],
        "below": a[1] >= b[3],
    }
    return sides[relation]


def matching(objects: Sequence[SceneObject], attributes: Mapping[str, str]) -> list[SceneObject]:
    """The objects that have all of the attributes, given as {"colour": "red", ...}."""
    return [o for o in objects if all(o[key] == value for key, value in attributes.items())]


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
    shared = [
        {key for key in ATTRIBUTES if other[key] == target[key]}
        for other in objects
        if other is not target
    ]
    return [
        noun({key: target[key] for key in keys})
        for keys in _KEY_SETS
        if hide not in keys and not any(keys <= agreeing for agreeing in shared)
    ]
