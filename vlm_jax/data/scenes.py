"""The built-in data set: coloured shapes in relations, rendered on demand, no bytes on disk.

Image, captions, typed questions and boxes all come from one scene graph, so every text is true by
construction. In the tradition of CLEVR (arXiv:1612.06890) and ShapeWorld (arXiv:1704.04517), with a
compositional test split: (colour, shape) pairs that no other split shows or names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vlm_jax.data import generated
from vlm_jax.data.scene_captions import (
    ASIDE,
    MAX_CAPTIONS,
    NUMBERS,
    OPENINGS,
    PLACES,
    parse_caption,
)
from vlm_jax.data.scene_captions import captions as make_captions
from vlm_jax.data.scene_graph import (
    ATTRIBUTES,
    COLOURS,
    MAX_OBJECTS,
    OUTLINES,
    RADII,
    RELATIONS,
    SHAPES,
    corners,
    noun,
    sample_scene,
)
from vlm_jax.data.scene_questions import MAX_QUESTIONS
from vlm_jax.data.scene_questions import questions as make_questions
from vlm_jax.data.schema import Example

__all__ = ["Scenes", "answers", "kinds", "parse_caption", "render", "words"]

LENGTHS = {"train": 50_000, "val": 1_000, "test": 1_000, "test_comp": 1_000}
"""Split -> its default length. The position in this dict is part of the random seed."""

NOISE = 6
"""Grey levels that pixels are off at most, either way, unless a source says otherwise."""

_SUPERSAMPLING = 3
_GRAPH, _CAPTIONS, _QUESTIONS, _PIXELS = range(4)  # independent random streams of one example


@dataclass(frozen=True)
class Scenes:
    """A source of rendered scenes; example i is a function of (seed, split, i) alone.

    split: "train", "val", "test", or "test_comp", whose every scene shows a (colour, shape) pair of
    `scene_graph.HELD_OUT`, absent from pictures and texts of the others. size: side of the square
    image, at least 32 pixels. length: number of examples, None for LENGTHS[split]. objects: fewest
    and most objects of a scene, in [1, 6]. questions, captions: how many of each an example has, at
    most 16 and 8. noise: levels that pixels are off at most, either way, in [0, 64]. paper: its
    grey level, in [192, 255]; None: each scene's own light colour. Objects and texts depend on none
    of size, noise and paper. Raises ValueError if out of range.
    """

    split: str = "train"
    size: int = 64
    length: int | None = None
    objects: tuple[int, int] = (1, 3)
    questions: int = 6
    captions: int = 4
    noise: int = NOISE
    paper: int | None = None
    seed: int = 0

    def __post_init__(self):
        """Checks the ranges."""
        low, high = self.objects
        own = {
            f"size={self.size} must be at least 32 pixels": self.size >= 32,
            f"paper={self.paper} must be in [192, 255], or None": (
                self.paper is None or 192 <= self.paper <= 255
            ),
            f"objects={low, high} must be (fewest, most) in [1, {MAX_OBJECTS}]": (
                1 <= low <= high <= MAX_OBJECTS
            ),
            **generated.within(
                self, questions=(0, MAX_QUESTIONS), captions=(0, MAX_CAPTIONS), noise=(0, 64)
            ),
        }
        generated.check(self, LENGTHS, own)

    @property
    def name(self) -> str:
        """Such as "scenes/train"."""
        return f"scenes/{self.split}"

    def __len__(self) -> int:
        """The number of examples."""
        return self.length or LENGTHS[self.split]

    def __getitem__(self, index: int) -> Example:
        """The example at a position; its image is rendered when called. IndexError outside."""
        key = generated.key(self, LENGTHS, index)
        held_out = self.split == "test_comp"
        low, high = self.objects
        graph_rng = np.random.default_rng((*key, _GRAPH))
        scene = sample_scene(graph_rng, self.size, (low, high), held_out)
        if self.paper is not None:
            scene["background"] = [self.paper] * 3
        return {
            "id": f"{self.split}-{index}",
            "image": partial(render, scene, (*key, _PIXELS), self.noise),
            "captions": make_captions(
                np.random.default_rng((*key, _CAPTIONS)), scene, self.captions
            ),
            "questions": make_questions(
                np.random.default_rng((*key, _QUESTIONS)), scene["objects"], self.questions
            ),
            "regions": [
                {
                    "box": [side / scene["size"] for side in thing["box"]],
                    "labels": {name: thing[name] for name in ATTRIBUTES},
                }
                for thing in scene["objects"]
            ],
            "scene": scene,
        }


def kinds() -> dict[str, tuple[str, ...]]:
    """What regions are labelled with: kind of attribute to its words."""
    return {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(RADII)}


def render(scene: Mapping[str, Any], seed: int | tuple[int, ...], noise: int = NOISE) -> np.ndarray:
    """The picture of a scene, u8[size, size, 3], antialiased; its pixels are off by `noise` levels
    at most, which `seed` draws.
    """
    side, scale = scene["size"], _SUPERSAMPLING
    canvas = Image.new("RGB", (side * scale, side * scale), tuple(scene["background"]))
    draw = ImageDraw.Draw(canvas)
    for thing in scene["objects"]:
        _draw(draw, thing, scale)
    pixels = np.asarray(canvas.reduce(scale), np.int16)
    off = np.random.default_rng(seed).integers(-noise, noise + 1, pixels.shape, np.int8)
    return np.clip(pixels + off, 0, 255).astype(np.uint8)


def _draw(draw: ImageDraw.ImageDraw, thing: Mapping[str, Any], scale: int) -> None:
    """Paints one object on a canvas that is `scale` times larger than the scene."""
    colour = tuple(thing["rgb"])
    x0, y0, x1, y1 = (value * scale for value in thing["box"])
    box = (x0, y0, x1 - 1, y1 - 1)  # Pillow names the pixels, of which it also paints the last
    if thing["shape"] in OUTLINES:
        points = [(x * scale - 0.5, y * scale - 0.5) for x, y in corners(thing)]
        draw.polygon(points, fill=colour)
    elif thing["shape"] == "ring":
        draw.ellipse(box, outline=colour, width=round(0.45 * thing["radius"] * scale))
    else:
        draw.ellipse(box, fill=colour)


def answers() -> list[str]:
    """Every word that can answer a question, sorted."""
    return sorted({*COLOURS, *SHAPES, *RADII, *NUMBERS, "yes", "no"})


def words() -> list[str]:
    """Every word of every caption, question and answer, sorted: a closed vocabulary."""
    phrases = [*answers(), *OPENINGS, *RELATIONS, *ASIDE.values(), *sum(PLACES, ())]
    phrases += [noun({"shape": shape}, plural=True) for shape in SHAPES]
    phrases += ["a an and the object objects", "what colour shape size is how many are there"]
    phrases += ["more fewer than"]
    return sorted(set(" ".join(phrases).split()))
