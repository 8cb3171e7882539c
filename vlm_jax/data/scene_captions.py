"""True sentences about a scene of coloured shapes, and reading the attributes back out of a text.

Every caption mentions every object. Captions have no capitals and no punctuation.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlm_jax.data.scene_graph import (
    COLOURS,
    GRID,
    RADII,
    RELATIONS,
    SHAPES,
    SceneObject,
    noun,
    pick,
    related,
    shuffled,
)

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
MAX_CAPTIONS = 8
OPENINGS = ("", "", "a picture of ", "an image with ", "this shows ")
ASIDE = {"left of": "to the left of", "right of": "to the right of"}
"""Relation -> its other wording."""

PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
"""Grid row, grid column -> words."""

Sentence = Callable[[np.random.Generator, Sequence[SceneObject], int], str]


def captions(rng: np.random.Generator, scene: Mapping[str, Any], count: int) -> list[str]:
    """That many different captions (at most MAX_CAPTIONS), the forms of FORMS in turn."""
    objects: Sequence[SceneObject] = scene["objects"]
    texts: list[str] = []
    turn = 0
    while len(texts) < count:
        form = FORMS[turn % len(FORMS)]
        text = pick(rng, OPENINGS) + form(rng, shuffled(rng, objects), scene["size"])
        turn += 1
        if text not in texts:
            texts.append(text)
    return texts


def _named(rng: np.random.Generator, thing: SceneObject) -> str:
    """Such as "a red circle", half of the time with the size: "a large red circle"."""
    keys = ("size", "colour", "shape") if rng.random() < 0.5 else ("colour", "shape")
    phrase = noun({key: thing[key] for key in keys})
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _list(rng: np.random.Generator, objects: Sequence[SceneObject], side: int) -> str:
    """Such as "a red circle and a small blue square"."""
    return " and ".join(_named(rng, thing) for thing in objects)


def _relation(rng: np.random.Generator, objects: Sequence[SceneObject], side: int) -> str:
    """Such as "a red circle above a blue square and a green star"; a list if there is only one."""
    if len(objects) < 2:
        return _list(rng, objects, side)
    first, second, *rest = objects
    relation = pick(rng, [name for name in RELATIONS if related(first, name, second)])
    wording = pick(rng, [relation, ASIDE.get(relation, relation)])
    pair = f"{_named(rng, first)} {wording} {_named(rng, second)}"
    return " and ".join([pair, *(_named(rng, thing) for thing in rest)])


def _groups(rng: np.random.Generator, objects: Sequence[SceneObject], side: int) -> str:
    """Such as "two red circles and one blue square": equal (colour, shape) pairs are counted."""
    pairs = [(thing["colour"], thing["shape"]) for thing in objects]
    parts = []
    for colour, shape in dict.fromkeys(pairs):
        amount = pairs.count((colour, shape))
        phrase = noun({"colour": colour, "shape": shape}, plural=amount > 1)
        parts.append(f"{NUMBERS[amount]} {phrase}")
    return " and ".join(parts)


def _places(rng: np.random.Generator, objects: Sequence[SceneObject], side: int) -> str:
    """Such as "a red circle at the top left and a blue square in the middle".

    Of more than two objects only the first is placed, which keeps captions of four below 30 words.
    """
    parts = [_named(rng, thing) for thing in objects]
    for i, thing in enumerate(objects[: 1 if len(objects) > 2 else 2]):
        column, row = (int(GRID * value / side) for value in thing["centre"])
        parts[i] += f" {PLACES[row][column]}"
    return " and ".join(parts)


FORMS: tuple[Sentence, ...] = (_list, _relation, _groups, _places)

_COLOUR, _SHAPE = "|".join(COLOURS), "|".join(SHAPES)
_BEFORE = re.compile(rf"\b({_COLOUR})(?: (?:{'|'.join(RADII)}|{_COLOUR}))* ({_SHAPE})(?:s|es)?\b")
_AFTER = re.compile(
    rf"\b({_SHAPE})(?:s|es)? (?:that |which )?(?:is|are|in) (?:{'|'.join(RADII)} )?"
    rf"({_COLOUR})\b(?! (?:{_SHAPE}))"
)


def parse_caption(text: str) -> set[tuple[str, str]]:
    """The (colour, shape) pairs that a text mentions.

    Made for generated text: case, punctuation and nonsense around the pairs do not matter. A colour
    counts for the shape that follows it, with only sizes or more colours between (the first colour
    wins), or for the shape before "is", "are" or "in". Plurals count as one pair.
    """
    plain = " ".join(re.findall(r"[a-z]+", text.lower()))
    before = {(m[1], m[2]) for m in _BEFORE.finditer(plain)}
    return before | {(m[2], m[1]) for m in _AFTER.finditer(plain)}
