"""Texts to draw from whose pictures can be judged: how often is a prompt drawn right?"""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from vlm_jax.data.scene_captions import ASIDE
from vlm_jax.data.scene_graph import COLOURS, HELD_OUT, RELATIONS, SHAPES, noun, pick, related
from vlm_jax.data.scene_parser import parse_scene
from vlm_jax.data.schema import Example

Pair = tuple[str, str]
"""Colour and shape."""

SEEN = tuple(pair for pair in product(COLOURS, SHAPES) if pair not in HELD_OUT)
"""The pairs that scenes to learn from show."""


class Wanted(NamedTuple):
    """What a picture should show. text: the prompt. objects: colour and shape of each. relation:
    one of scene_graph.RELATIONS that the first object should have to the second, or None.
    """

    text: str
    objects: tuple[Pair, ...]
    relation: str | None = None


class Judged(NamedTuple):
    """What of a `Wanted` a picture shows. count: as many objects. colours, shapes: those, each as
    often. objects: each shape in its colour, and no others. right: that, and the relation.
    """

    count: bool
    colours: bool
    shapes: bool
    objects: bool
    right: bool


def judge(image: UInt8[np.ndarray, "S S 3"], wanted: Wanted) -> Judged:
    """Whether the picture shows what it should, and nothing else."""
    found = parse_scene(image)
    pairs = [(thing["colour"], thing["shape"]) for thing in found]
    column = lambda rows, i: Counter(row[i] for row in rows)
    colours, shapes = (column(pairs, i) == column(wanted.objects, i) for i in (0, 1))
    objects = right = Counter(pairs) == Counter(wanted.objects)
    if objects and wanted.relation:
        having = lambda pair: [t for t, p in zip(found, pairs, strict=True) if p == pair]
        both = product(*map(having, wanted.objects[:2]))
        right = any(a is not b and related(a, wanted.relation, b) for a, b in both)
    return Judged(len(found) == len(wanted.objects), colours, shapes, objects, right)


def single(pairs: Sequence[Pair], count: int) -> list[Wanted]:
    """`count` prompts such as "a red circle", of the pairs in turn."""
    chosen = [pairs[i % len(pairs)] for i in range(count)]
    return [Wanted(_named(pair), (pair,)) for pair in chosen]


def two_related(pairs: Sequence[Pair], count: int, seed: int = 0) -> list[Wanted]:
    """`count` prompts such as "a red circle above a blue square", the first of the pairs in turn
    and another one of SEEN.
    """
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        first = pairs[number % len(pairs)]
        second = pick(rng, [pair for pair in SEEN if pair != first])
        relation = pick(rng, list(RELATIONS))
        wording = ASIDE.get(relation, relation) if rng.random() < 0.5 else relation
        text = f"{_named(first)} {wording} {_named(second)}"
        found.append(Wanted(text, (first, second), relation))
    return found


def of_scene(example: Example) -> Wanted:
    """The first caption of a scene, which names all of its objects."""
    objects = example.get("scene", {})["objects"]
    return Wanted(example["captions"][0], tuple((o["colour"], o["shape"]) for o in objects))


def most_alike(texts: Sequence[str], others: Sequence[str]) -> list[int]:
    """For each text the position of the first of the others that shares most of its words with it:
    words of both over words of either, each as often as it occurs.
    """
    words = {word: i for i, word in enumerate(sorted(set(" ".join([*texts, *others]).split())))}
    bags = [np.zeros((len(given), len(words)), np.int16) for given in (texts, others)]
    for bag, given in zip(bags, (texts, others), strict=True):
        for row, text in zip(bag, given, strict=True):
            np.add.at(row, [words[word] for word in text.split()], 1)
    best = []
    for row in bags[0]:
        both, either = (f(row, bags[1]).sum(axis=1) for f in (np.minimum, np.maximum))
        best.append(int(np.argmax(both / np.maximum(either, 1))))
    return best


def _named(pair: Pair) -> str:
    """Such as "an orange star"."""
    phrase = noun({"colour": pair[0], "shape": pair[1]})
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
