"""Short clips of coloured shapes that move, with captions and questions about motion, no bytes on
disk.

Two objects of different colour and shape; in a third of the clips both move, one of them faster; in
a third they move one after the other; in a third one of them stays where it is. Where an object is
in the middle of the clip is drawn without regard to how it moves, so that the frame in the middle
tells nothing about motion: who knows it by heart answers "direction" at 1/4, and the other families
of MOTION, which have two answers each that fit the picture, at 1/2. In the tradition of CLEVRER
(arXiv:1910.01442), in two dimensions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_jax.data import generated
from vlm_jax.data.moving_texts import (
    FAMILIES,
    MAX_CAPTIONS,
    MAX_QUESTIONS,
    SPEEDS,
    STEPS,
    answers,
    captions,
    questions,
    words,
)
from vlm_jax.data.scene_graph import (
    COLOURS,
    HELD_OUT,
    SHAPES,
    SceneObject,
    around,
    box_of,
    pick,
    shuffled,
)
from vlm_jax.data.scenes import render
from vlm_jax.data.schema import Example

__all__ = ["MovingScene", "MovingScenes", "answers", "kinds", "words"]

LENGTHS = {"train": 100_000, "val": 1_000, "test": 1_000}
"""Split -> its default length. The position in this dict is part of the random seed."""

PLOTS = ("together", "in turn", "one stays")
RADIUS = (0.095, 0.110)  # image sides
_REACH = 0.130  # of an object from its centre, tilted, in image sides
_APART = 0.24  # least distance of two centres in the middle of a clip
_CLIP, _CAPTIONS, _QUESTIONS, _PIXELS = range(4)  # independent random streams of one example


class Mover(SceneObject):
    """An object where it is in the middle of the clip, and how it moves.

    direction: a key of STEPS, or "stay". speed: a key of SPEEDS. when: "whole", "first" or
    "second", the part of the clip in which it moves.
    """

    direction: str
    speed: str
    when: str


@dataclass(frozen=True)
class MovingScene:
    """The clip of a scene as the image of an example (see `schema.Video`): frames of any number."""

    scene: Mapping[str, Any]
    seed: tuple[int, ...]

    def __call__(self) -> np.ndarray:
        """The frame in the middle, u8[size, size, 3]."""
        return self.frame(0.5)

    def frames(self, count: int) -> Iterator[np.ndarray]:
        """u8[size, size, 3] each, the middles of `count` equal parts."""
        return (self.frame((i + 0.5) / count) for i in range(count))

    def frame(self, time: float) -> np.ndarray:
        """The picture at a time in [0, 1] of the clip, with pixel noise of its own."""
        objects = [moved(thing, time, self.scene["size"]) for thing in self.scene["objects"]]
        return render({**self.scene, "objects": objects}, (*self.seed, round(1e6 * time)))


@dataclass(frozen=True)
class MovingScenes:
    """A source of clips; example i is a function of (seed, split, i) alone.

    split: "train", "val" or "test"; none has a (colour, shape) pair of `scene_graph.HELD_OUT`.
    size: side of the square frames, at least 32 pixels. length: number of clips, None for
    LENGTHS[split]. questions, captions: how many of each an example has, at most 6 and 4. families:
    of questions that are asked, keys of FAMILIES; an example may then have fewer questions.
    ValueError if out of range.
    """

    split: str = "train"
    size: int = 64
    length: int | None = None
    questions: int = 4
    captions: int = 2
    families: tuple[str, ...] = ("direction", "faster", "order", "moves", "colour", "shape")
    seed: int = 0

    def __post_init__(self):
        """Checks the ranges."""
        own = {
            f"size={self.size} must be at least 32 pixels": self.size >= 32,
            f"families={self.families} must be among {', '.join(FAMILIES)}": (
                bool(self.families) and set(self.families) <= FAMILIES.keys()
            ),
            **generated.within(self, questions=(0, MAX_QUESTIONS), captions=(0, MAX_CAPTIONS)),
        }
        generated.check(self, LENGTHS, own)

    @property
    def name(self) -> str:
        """Such as "moving_scenes/train"."""
        return f"moving_scenes/{self.split}"

    def __len__(self) -> int:
        """The number of clips."""
        return self.length or LENGTHS[self.split]

    def __getitem__(self, index: int) -> Example:
        """The example at a position; its frames are rendered when asked for. IndexError outside."""
        key = generated.key(self, LENGTHS, index)
        stream = lambda number: np.random.default_rng((*key, number))
        scene = sample(stream(_CLIP), self.size)
        return {
            "id": f"{self.split}-{index}",
            "image": MovingScene(scene, (*key, _PIXELS)),
            "captions": captions(stream(_CAPTIONS), scene, self.captions),
            "questions": questions(stream(_QUESTIONS), scene, self.questions, self.families),
            "regions": [
                {
                    "box": [side / self.size for side in thing["box"]],
                    "labels": {name: thing[name] for name in ("shape", "colour", "direction")},
                }
                for thing in scene["objects"]
            ],
            "scene": scene,
        }


def sample(rng: np.random.Generator, size: int) -> dict[str, Any]:
    """A random clip: {"size", "background", "plot", "objects"}, JSON-ready; the two objects are
    `Mover`s, where they are in the middle of the clip.
    """
    plot, grey = pick(rng, PLOTS), 226 + around(rng, 16)
    colours, shapes = shuffled(rng, COLOURS)[:2], shuffled(rng, SHAPES)[:2]
    while HELD_OUT & set(zip(colours, shapes, strict=True)):
        colours, shapes = shuffled(rng, COLOURS)[:2], shuffled(rng, SHAPES)[:2]
    centres = _centres(rng)
    motions = shuffled(rng, _motions(rng, plot))
    rows = zip(colours, shapes, centres, motions, strict=True)
    return {
        "size": size,
        "background": [round(grey + around(rng, 8)) for _ in range(3)],
        "plot": plot,
        "objects": [_mover(rng, *row, size) for row in rows],
    }


def _centres(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Two places in the middle of the clip, in image sides: far enough from the border for every
    motion, so that they tell nothing about it, and from each other.
    """
    room = 0.5 - _REACH - SPEEDS["fast"] / 2
    while True:
        (a, b), (c, d) = (tuple(0.5 + around(rng, room) for _ in range(2)) for _ in range(2))
        if (a - c) ** 2 + (b - d) ** 2 >= _APART**2:
            return [(a, b), (c, d)]


def _motions(rng: np.random.Generator, plot: str) -> list[tuple[str, str, str]]:
    """(direction, speed, when) of the two objects."""
    ways = [pick(rng, list(STEPS)) for _ in range(2)]
    if plot == "together":
        return [(ways[0], "fast", "whole"), (ways[1], "slowly", "whole")]
    if plot == "in turn":
        return [(ways[0], "fast", "first"), (ways[1], "fast", "second")]
    return [(ways[0], pick(rng, list(SPEEDS)), "whole"), ("stay", "slowly", "whole")]


def _mover(
    rng: np.random.Generator,
    colour: str,
    shape: str,
    centre: tuple[float, float],
    motion: tuple[str, str, str],
    size: int,
) -> Mover:
    low, high = RADIUS
    thing = {
        "shape": shape,
        "colour": colour,
        "size": "large",
        "centre": [size * value for value in centre],
        "radius": size * (low + (high - low) * rng.random()),
        "angle": around(rng, 10),
        "rgb": [value + round(around(rng, 10)) for value in COLOURS[colour]],
    }
    thing |= dict(zip(("direction", "speed", "when"), motion, strict=True))
    return thing | {"box": box_of(thing)}  # pyright: ignore[reportReturnType]


def moved(thing: Mapping[str, Any], time: float, size: int) -> dict[str, Any]:
    """The object at a time in [0, 1] of the clip."""
    if thing["direction"] == "stay":
        return dict(thing)
    bounds = {"whole": (0.0, 1.0), "first": (0.0, 0.5), "second": (0.5, 1.0)}[thing["when"]]
    way = SPEEDS[thing["speed"]] * size * (min(max(time, bounds[0]), bounds[1]) - 0.5)
    step = STEPS[thing["direction"]]
    there = {**thing, "centre": [c + way * s for c, s in zip(thing["centre"], step, strict=True)]}
    return there | {"box": box_of(there)}


def kinds() -> dict[str, tuple[str, ...]]:
    """What regions are labelled with: kind of label to its words."""
    return {"shape": SHAPES, "colour": tuple(COLOURS), "direction": (*STEPS, "stay")}
