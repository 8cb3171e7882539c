"""Reading a scene of coloured shapes back out of its pixels: a judge for pictures that models draw.

Nothing here is learned. Whatever stands out from the paper is one object; its shape is that of the
SHAPES which, drawn with the same area around the same centre, covers the pixels most alike.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw

from vlm_jax.data.scene_graph import (
    COLOURS,
    OUTLINES,
    SHAPES,
    corners,
    extent,
)

BLOB = "blob"
"""The shape of what has none of SHAPES."""

_STANDS_OUT = 40.0  # RGB distance from the paper: half of the palest colour's, four times the noise
_LEAST_PIXELS = 10  # the smallest shape covers 25 pixels of a 64-pixel image
_LEAST_FIT = 0.7
_ANGLES = (-8.0, -4.0, 0.0, 4.0, 8.0)
_SUPERSAMPLING = 4
_HOLE = 0.55  # of a ring, in radii
_MARGIN = 3  # pixels around an object whose coverage still counts


def parse_scene(image: UInt8[np.ndarray, "S S 3"]) -> list[dict[str, Any]]:
    """The objects of a picture, the highest first, as `scene_graph.SceneObject`s with one more key:
    fit, at most 1, how alike its pixels and those of the shape are; below 0.7 the shape is BLOB.
    The angle is one of a few. ValueError if the picture is not square.
    """
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3:
        raise ValueError(f"a scene is u8[S, S, 3], not {image.shape}")
    pixels = image.astype(np.float64)
    paper = np.median(pixels.reshape(-1, 3), axis=0)
    away = np.linalg.norm(pixels - paper, axis=-1)
    found = [_object(pixels - paper, paper, part) for part in components(away > _STANDS_OUT)]
    return sorted(found, key=lambda thing: (thing["centre"][1], thing["centre"][0]))


def components(mask: Bool[np.ndarray, "H W"]) -> list[Bool[np.ndarray, "H W"]]:
    """The connected parts of a mask, over edges and corners, of at least ten pixels each."""
    left = set(map(tuple, np.argwhere(mask).tolist()))
    parts = []
    while left:
        waiting = [left.pop()]
        part = list(waiting)
        while waiting:
            y, x = waiting.pop()
            near = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            new = left.intersection(near)
            left -= new
            waiting += new
            part += new
        if len(part) >= _LEAST_PIXELS:
            parts.append(np.zeros_like(mask))
            parts[-1][tuple(np.transpose(part))] = True
    return parts


def _object(
    relative: Float[np.ndarray, "S S 3"], paper: Float[np.ndarray, " 3"], part: Any
) -> dict[str, Any]:
    """The object of one component. relative: colours minus that of the paper."""
    away = np.linalg.norm(relative, axis=-1)
    core = part & (away >= np.quantile(away[part], 0.5))
    colour = np.median(relative[core], axis=0)
    names = list(COLOURS)
    nearest = np.argmin([np.linalg.norm(paper + colour - COLOURS[name]) for name in names])
    covered = np.clip(relative @ colour / (colour @ colour), 0.0, 1.0) * _around(part)
    found = max((_fitted(covered, *kind) for kind in _kinds()), key=lambda thing: thing["fit"])
    if found["fit"] < _LEAST_FIT:
        found["shape"] = BLOB
    rgb = np.round(paper + colour).astype(int).tolist()
    size = "small" if found["radius"] < 0.1 * len(part) else "large"
    return found | {"colour": names[int(nearest)], "size": size, "rgb": rgb}


def _around(part: Bool[np.ndarray, "S S"]) -> Bool[np.ndarray, "S S"]:
    """A component and the pixels next to it, which it may cover in part."""
    for axis in (0, 1):
        padded = np.pad(part, [(1, 1) if i == axis else (0, 0) for i in (0, 1)])
        shifted = [np.roll(padded, step, axis) for step in (-1, 0, 1)]
        part = np.any(shifted, axis=0).take(range(1, len(part) + 1), axis)
    return part


@cache
def _kinds() -> list[tuple[str, float, float, Float[np.ndarray, " 2"]]]:
    """Shape, angle, and for a radius of one its area and its centre of mass."""
    kinds = []
    for shape in SHAPES:
        for angle in _ANGLES if shape in OUTLINES else (0.0,):
            if shape in OUTLINES:
                unit = dict(shape=shape, angle=angle, centre=(0.0, 0.0), radius=1.0)
                kinds.append((shape, angle, *_mass(np.array(corners(unit)))))
            else:
                area = np.pi * (1.0 - (_HOLE**2 if shape == "ring" else 0.0))
                kinds.append((shape, angle, float(area), np.zeros(2)))
    return kinds


def _mass(points: Float[np.ndarray, "P 2"]) -> tuple[float, Float[np.ndarray, " 2"]]:
    """Area and centre of mass of a polygon (the shoelace formula)."""
    following = np.roll(points, -1, axis=0)
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    area = cross.sum() / 2
    return abs(float(area)), (points + following).T @ cross / (6 * area)


def _fitted(
    covered: Float[np.ndarray, "S S"], shape: str, angle: float, area: float, middle: Any
) -> dict[str, Any]:
    """The object of this shape and angle that has the area and the centre of mass of what is
    covered.
    """
    mass = covered.sum()
    y, x = ((np.arange(len(covered)) + 0.5) @ covered.sum(axis=1 - axis) / mass for axis in (0, 1))
    radius = float(np.sqrt(mass / area))
    centre = [float(x - radius * middle[0]), float(y - radius * middle[1])]
    thing = dict(shape=shape, angle=angle, centre=centre, radius=radius)
    low = np.clip(np.floor(np.array(centre) - radius * 1.3).astype(int) - _MARGIN, 0, None)
    high = np.ceil(np.array(centre) + radius * 1.3).astype(int) + _MARGIN
    crop = covered[low[1] : high[1], low[0] : high[0]]
    error = np.sum(np.square(crop - _drawn(thing, low, crop.shape)))
    error += np.sum(np.square(covered)) - np.sum(np.square(crop))
    return thing | {"fit": 1.0 - float(error / np.sum(np.square(covered))), "box": extent(thing)}


def _drawn(
    thing: Mapping[str, Any], low: Int[np.ndarray, " 2"], shape: tuple[int, ...]
) -> Float[np.ndarray, "H W"]:
    """What share of each pixel of a window, whose first is at `low`, the object covers."""
    scale = _SUPERSAMPLING
    canvas = Image.new("L", (shape[1] * scale, shape[0] * scale))
    draw = ImageDraw.Draw(canvas)
    inside = lambda x, y: ((x - low[0]) * scale - 0.5, (y - low[1]) * scale - 0.5)
    if thing["shape"] in OUTLINES:
        draw.polygon([inside(*point) for point in corners(thing)], fill=255)
    else:
        (x, y), radius = thing["centre"], thing["radius"]
        disc = lambda r: (*inside(x - r, y - r), *inside(x + r, y + r))
        draw.ellipse(disc(radius), fill=255)
        if thing["shape"] == "ring":
            draw.ellipse(disc(_HOLE * radius), fill=0)
    return np.asarray(canvas.reduce(scale), np.float64) / 255.0
