"""Typed questions about a scene of coloured shapes, with one-word answers that the text hides.

Each family draws its answer before its wording where it can (a coin for yes or no, the count for
"how many"), so that guessing the commonest answer to a question's text stays a weak baseline.
Questions have no capitals and no punctuation.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations, product

import numpy as np

from vlm_jax.data.scene_captions import NUMBERS
from vlm_jax.data.scene_graph import (
    COLOURS,
    HELD_OUT,
    RADII,
    RELATIONS,
    SHAPES,
    SceneObject,
    noun,
    pick,
    references,
    related,
    shuffled,
)
from vlm_jax.data.schema import Question

VALUES: Mapping[str, Sequence[str]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(RADII),
}

Asked = tuple[str, str] | None
"""A question and its answer; None if the family has no question about this scene."""


def _asks_attribute(key: str) -> Callable[[np.random.Generator, Sequence[SceneObject]], Asked]:
    """The family "what colour is the circle" for one attribute."""

    def ask(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Asked:
        for thing in shuffled(rng, objects):
            if phrases := references(objects, thing, hide=key):
                return f"what {key} is the {pick(rng, phrases)}", thing[key]
        return None

    return ask


def _count(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Asked:
    """Such as "how many red objects are there": first the number, then what there are that many of.

    Zero is drawn half as often as it could be: it is the only number that every scene offers.
    """
    by_count: dict[int, list[dict[str, str]]] = {len(objects): [{}]}
    for key in VALUES:
        for value, amount in _amounts(objects, key).items():
            by_count.setdefault(amount, []).append({key: value})
    amounts = [n for n in sorted(by_count) if n or rng.random() < 0.5]
    amount = pick(rng, amounts)
    return f"how many {noun(pick(rng, by_count[amount]), plural=True)} are there", NUMBERS[amount]


def _amounts(objects: Sequence[SceneObject], key: str) -> dict[str, int]:
    """How many objects have each value of an attribute."""
    shown = [thing[key] for thing in objects]
    return {value: shown.count(value) for value in VALUES[key]}


EXISTENCE_KEYS = (("colour", "shape"), ("colour", "shape"), ("size", "shape"), ("colour",))


def _exist(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Asked:
    """Such as "is there a red circle", yes and no by a coin."""
    keys = pick(rng, EXISTENCE_KEYS)
    if rng.random() < 0.5:
        thing = pick(rng, objects)
        return _is_there({key: thing[key] for key in keys}), "yes"
    return _is_there(_absent(rng, objects, keys)), "no"


def _is_there(attributes: Mapping[str, str]) -> str:
    """Such as "is there an orange star"."""
    phrase = noun(attributes)
    return f"is there {'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _absent(
    rng: np.random.Generator, objects: Sequence[SceneObject], keys: Sequence[str]
) -> dict[str, str]:
    """Attributes that no object has together, as hard as the scene allows.

    Hardest: each of them is in the scene; next: one is; last: none is. A held-out pair is named
    only in scenes that show one.
    """
    present = {tuple(thing[key] for key in keys) for thing in objects}
    barred = present if present & HELD_OUT else present | HELD_OUT
    words = {word for values in present for word in values}
    tiers: dict[int, list[tuple[str, ...]]] = {}
    for values in product(*(VALUES[key] for key in keys)):
        if values not in barred:
            tiers.setdefault(len(words.intersection(values)), []).append(values)
    return dict(zip(keys, pick(rng, tiers[max(tiers)]), strict=True))


def _relate(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Asked:
    """Such as "is the circle above the blue square", yes and no by a coin; no: it is below."""
    if len(objects) < 2:
        return None
    first, second = shuffled(rng, objects)[:2]
    true = pick(rng, [relation for relation in RELATIONS if related(first, relation, second)])
    yes = rng.random() < 0.5
    relation = true if yes else RELATIONS[true]
    names = [pick(rng, references(objects, thing)) for thing in (first, second)]
    return f"is the {names[0]} {relation} the {names[1]}", "yes" if yes else "no"


def _locate(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Asked:
    """Such as "what colour is the object above the circle", where just one object is above it."""
    across, down = (sorted(objects, key=lambda thing: thing["centre"][i]) for i in (0, 1))
    ends = {"left of": across, "right of": across[::-1], "above": down, "below": down[::-1]}
    found = [
        (relation, ordered[0], ordered[1])
        for relation, ordered in ends.items()
        if len(ordered) > 1 and related(ordered[0], relation, ordered[1])
    ]
    if not found:
        return None
    relation, thing, target = pick(rng, found)
    key = pick(rng, ("colour", "shape"))
    phrase = pick(rng, references(objects, target))
    return f"what {key} is the object {relation} the {phrase}", thing[key]


def _compare(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Asked:
    """Such as "are there more circles than squares", for kinds whose numbers differ."""
    key = pick(rng, tuple(VALUES))
    amounts = _amounts(objects, key)
    unequal = [(a, b) for a, b in permutations(VALUES[key], 2) if amounts[a] != amounts[b]]
    if not unequal:
        return None
    shown = [(a, b) for a, b in unequal if amounts[a] and amounts[b]]
    first, second = pick(rng, shown or unequal)
    word = pick(rng, ("more", "fewer"))
    more = (amounts[first] > amounts[second]) == (word == "more")
    phrases = [noun({key: value}, plural=True) for value in (first, second)]
    return f"are there {word} {phrases[0]} than {phrases[1]}", "yes" if more else "no"


FAMILIES: Mapping[str, Callable[[np.random.Generator, Sequence[SceneObject]], Asked]] = {
    "colour": _asks_attribute("colour"),
    "shape": _asks_attribute("shape"),
    "size": _asks_attribute("size"),
    "count": _count,
    "exist": _exist,
    "relate": _relate,
    "locate": _locate,
    "compare": _compare,
}
"""The `type` of a question -> its family."""

MAX_QUESTIONS = 16


def questions(
    rng: np.random.Generator, objects: Sequence[SceneObject], count: int
) -> list[Question]:
    """That many different questions (at most MAX_QUESTIONS), families taking turns at random."""
    order = shuffled(rng, FAMILIES)
    asked: dict[str, Question] = {}
    turn = 0
    while len(asked) < count:
        family = order[turn % len(order)]
        turn += 1
        found = FAMILIES[family](rng, objects)
        if found and found[0] not in asked:
            asked[found[0]] = {"question": found[0], "answers": [found[1]], "type": family}
    return list(asked.values())
