"""What is said and asked about a clip of moving shapes; see `vlm_jax.data.moving_scenes`.

Texts have no capitals and no punctuation. The words of a question hide its answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlm_jax.data.scene_graph import COLOURS, SHAPES, pick, shuffled
from vlm_jax.data.schema import Question

STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Direction -> what it adds to x and y, which points down."""

SPEEDS = {"slowly": 0.13, "fast": 0.32}
"""Word -> image sides that an object goes in a whole clip."""

MAX_QUESTIONS, MAX_CAPTIONS = 6, 4
OPENINGS = ("", "", "in this clip ", "here ")

Clip = Mapping[str, Any]
"""A scene of `moving_scenes.sample`."""


def captions(rng: np.random.Generator, scene: Clip, count: int) -> list[str]:
    """That many different captions (at most MAX_CAPTIONS); each tells what both objects do."""
    texts: list[str] = []
    while len(texts) < count:
        text = pick(rng, OPENINGS) + _CAPTIONS_OF[scene["plot"]](rng, scene["objects"])
        texts += [text] * (text not in texts)
    return texts


def _does(thing: Mapping[str, Any], speed: bool = True) -> str:
    """Such as "a red circle moves left fast", or "a red circle stays"."""
    name = f"{thing['colour']} {thing['shape']}"
    name = ("an " if name[0] in "aeiou" else "a ") + name
    if thing["direction"] == "stay":
        return f"{name} stays"
    return f"{name} moves {thing['direction']}" + (f" {thing['speed']}" if speed else "")


def _at_once(rng: np.random.Generator, objects: Sequence[Mapping[str, Any]]) -> str:
    """Such as "a red circle moves left fast and a blue square moves up slowly"."""
    joint = pick(rng, (" and ", " while "))
    return joint.join(_does(thing) for thing in shuffled(rng, objects))


def _in_turn(rng: np.random.Generator, objects: Sequence[Mapping[str, Any]]) -> str:
    """Such as "first a red circle moves left and then a blue square moves up"."""
    first, second = sorted(objects, key=lambda thing: thing["when"])
    if rng.random() < 0.5:
        return f"first {_does(first, False)} and then {_does(second, False)}"
    return f"{_does(second, False)} after {_does(first, False)}"


_CAPTIONS_OF: Mapping[str, Callable[[np.random.Generator, Sequence[Mapping[str, Any]]], str]] = {
    "together": _at_once,
    "in turn": _in_turn,
    "one stays": _at_once,
}

Asked = tuple[str, str] | None
"""A question and its answer; None if the family has no question about this clip."""


def _named(rng: np.random.Generator, thing: Mapping[str, Any]) -> str:
    """One of the phrases that fit this object alone."""
    colour, shape = thing["colour"], thing["shape"]
    return pick(rng, (f"{colour} {shape}", shape, f"{colour} object"))


def _direction(rng: np.random.Generator, scene: Clip) -> Asked:
    """Such as "which way does the red circle move"."""
    thing = pick(rng, [thing for thing in scene["objects"] if thing["direction"] != "stay"])
    return f"which way does the {_named(rng, thing)} move", thing["direction"]


def _faster(rng: np.random.Generator, scene: Clip) -> Asked:
    """Such as "what colour is the object that moves faster", where both move at once."""
    if scene["plot"] != "together":
        return None
    word = pick(rng, ("faster", "more slowly"))
    speed = {"faster": "fast", "more slowly": "slowly"}[word]
    return _which(rng, scene, f"moves {word}", lambda thing: thing["speed"] == speed)


def _order(rng: np.random.Generator, scene: Clip) -> Asked:
    """Such as "what shape is the object that moves first", where one moves after the other."""
    if scene["plot"] != "in turn":
        return None
    word = pick(rng, ("first", "last"))
    when = {"first": "first", "last": "second"}[word]
    return _which(rng, scene, f"moves {word}", lambda thing: thing["when"] == when)


def _moves(rng: np.random.Generator, scene: Clip) -> Asked:
    """Such as "does the red circle move", yes and no by a coin, where one object stays."""
    if scene["plot"] != "one stays":
        return None
    thing = pick(rng, scene["objects"])
    answer = "no" if thing["direction"] == "stay" else "yes"
    return f"does the {_named(rng, thing)} move", answer


def _which(
    rng: np.random.Generator,
    scene: Clip,
    what: str,
    holds: Callable[[Mapping[str, Any]], bool],
) -> Asked:
    key = pick(rng, ("colour", "shape"))
    (thing,) = filter(holds, scene["objects"])
    return f"what {key} is the object that {what}", thing[key]


def _asks(key: str, other: str) -> Callable[[np.random.Generator, Clip], Asked]:
    """The family "what colour is the circle", which a single frame answers."""

    def ask(rng: np.random.Generator, scene: Clip) -> Asked:
        thing = pick(rng, scene["objects"])
        name = thing["shape"] if other == "shape" else f"{thing['colour']} object"
        return f"what {key} is the {name}", thing[key]

    return ask


FAMILIES: Mapping[str, Callable[[np.random.Generator, Clip], Asked]] = {
    "direction": _direction,
    "faster": _faster,
    "order": _order,
    "moves": _moves,
    "colour": _asks("colour", "shape"),
    "shape": _asks("shape", "colour"),
}
"""The `type` of a question -> its family."""

MOTION = ("direction", "faster", "order", "moves")
"""Families that no single frame answers."""

_TRIES = 8  # rounds through the families, after which a clip has no more different questions


def questions(
    rng: np.random.Generator, scene: Clip, count: int, families: Sequence[str]
) -> list[Question]:
    """At most that many different questions, the families taking turns in random order."""
    order = shuffled(rng, families)
    asked: dict[str, Question] = {}
    for turn in range(_TRIES * len(order)):
        if len(asked) == count:
            break
        family = order[turn % len(order)]
        found = FAMILIES[family](rng, scene)
        if found and found[0] not in asked:
            asked[found[0]] = {"question": found[0], "answers": [found[1]], "type": family}
    return list(asked.values())


def answers() -> list[str]:
    """Every word that can answer a question, sorted."""
    return sorted({*STEPS, *COLOURS, *SHAPES, "yes", "no"})


def words() -> list[str]:
    """Every word of every caption, question and answer, sorted: a closed vocabulary."""
    phrases = [*answers(), *OPENINGS, *SPEEDS, "a an and while first then after moves stays"]
    phrases += ["which way does the object move what colour shape is that faster more last"]
    return sorted(set(" ".join(phrases).split()))
