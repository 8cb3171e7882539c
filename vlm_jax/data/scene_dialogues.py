"""Conversations about scenes of coloured shapes, whose questions go on from what was said before.

A first question names an object; those that follow say "it", which is the object last spoken of:
that of the answer or, if there was none, of the question. Later another picture is shown, and all
is about that. Questions have no capitals and no punctuation, answers are true of the scene graph
and the only ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vlm_jax.data import generated
from vlm_jax.data.scene_graph import (
    ATTRIBUTES,
    COLOURS,
    MAX_OBJECTS,
    RADII,
    RELATIONS,
    SHAPES,
    SceneObject,
    noun,
    pick,
    references,
    related,
    sample_scene,
)
from vlm_jax.data.scenes import LENGTHS, render
from vlm_jax.data.schema import Example, Question
from vlm_jax.data.turns import MARK

NOTHING = "nothing"
_SHARE_OF_NOTHING = 0.2  # of questions about a side on which either something or nothing is
_SHARE_OF_SIDES = 0.5  # of questions, where there is one to ask
_ASKS = {"colour": "what colour is", "shape": "what shape is", "size": "how large is"}
_SCENES, _TURNS, _PIXELS = range(3)  # independent random streams of one example

MAX_TURNS, MAX_PICTURES = 8, 4


@dataclass
class _Talk:
    """What was said about one picture: the number of the object last spoken of, which of its
    attributes and sides are known, the numbers of all objects spoken of, and the questions.
    """

    thing: int
    known: frozenset[str]
    spoken: frozenset[int]
    asked: tuple[str, ...] = ()


def turns(rng: np.random.Generator, objects: Sequence[SceneObject], count: int) -> list[Question]:
    """`count` questions about one scene, in order. Their types are "first/..." for the one that
    begins, "follow_up/..." for those that say "it", and "named/..." for later ones that name an
    object because nothing is left to ask about the last; after the stroke stands "relation", or the
    attribute that is asked for.
    """
    talk, found = None, []
    while len(found) < count:
        going_on = None if talk is None else _follow(rng, objects, talk)
        kind = "follow_up"
        if going_on is None:
            kind = "named" if found else "first"
            going_on = _begin(rng, objects, () if talk is None else talk.asked)
        question, answer, asks, talk = going_on
        found.append({"question": question, "answers": [answer], "type": f"{kind}/{asks}"})
    return found


_Turn = tuple[str, str, str, _Talk]
"""Question, answer, what is asked for, and what is then known."""


def _begin(rng: np.random.Generator, objects: Sequence[SceneObject], asked: Sequence[str]) -> _Turn:
    """A question that names an object and was not asked yet."""
    while True:
        number = pick(rng, range(len(objects)))
        thing = objects[number]
        talk = _Talk(number, frozenset(), frozenset([number]), tuple(asked))
        side = _side(rng, objects, talk) if rng.random() < _SHARE_OF_SIDES else None
        key = None if side else pick(rng, ATTRIBUTES)
        phrases = references(objects, thing, hide=key)
        if not phrases:
            continue
        phrase = pick(rng, phrases)
        talk.known = frozenset(k for k in ATTRIBUTES if thing[k] in phrase.split())
        turn = _ask(objects, talk, f"the {phrase}", side, key)
        if turn[0] not in asked:
            return turn


def _follow(rng: np.random.Generator, objects: Sequence[SceneObject], talk: _Talk) -> _Turn | None:
    """A question about "it" whose answer was not said yet; None if there is none."""
    side = _side(rng, objects, talk)
    keys = [key for key in ATTRIBUTES if key not in talk.known]
    if keys and rng.random() >= _SHARE_OF_SIDES:
        side = None
    if side is None and not keys:
        return None
    return _ask(objects, talk, "it", side, None if side else pick(rng, keys))


def _side(
    rng: np.random.Generator, objects: Sequence[SceneObject], talk: _Talk
) -> tuple[str, int | None] | None:
    """A side of the object last spoken of that is not known, on which at most one object is, and
    which that is; it is none that was spoken of. None if there is no such side.
    """
    there, empty = [], []
    for relation in RELATIONS:
        thing = objects[talk.thing]
        found = [i for i, other in enumerate(objects) if related(other, relation, thing)]
        if relation not in talk.known and not found:
            empty.append((relation, None))
        if relation not in talk.known and len(found) == 1 and found[0] not in talk.spoken:
            there.append((relation, found[0]))
    wanted = empty if rng.random() < _SHARE_OF_NOTHING else there
    return pick(rng, wanted) if wanted else None


def _ask(
    objects: Sequence[SceneObject],
    talk: _Talk,
    name: str,
    side: tuple[str, int | None] | None,
    key: str | None,
) -> _Turn:
    """The turn that asks for an attribute, or for what is on a side, of what is called `name`."""
    if side is None:
        assert key is not None
        question, answer = f"{_ASKS[key]} {name}", objects[talk.thing][key]
        known = _Talk(talk.thing, talk.known | {key}, talk.spoken, (*talk.asked, question))
        return question, answer, key, known
    relation, found = side
    question = f"{'and ' if name == 'it' else ''}what is {relation} {name}"
    asked = (*talk.asked, question)
    if found is None:
        known = talk.known | {relation}
        return question, NOTHING, "relation", _Talk(talk.thing, known, talk.spoken, asked)
    then = _Talk(found, frozenset(("colour", "shape")), talk.spoken | {found}, asked)
    return question, _named(objects[found]), "relation", then


def _named(thing: Mapping[str, Any]) -> str:
    """Such as "a red circle"."""
    phrase = noun({key: thing[key] for key in ("colour", "shape")})
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


@dataclass(frozen=True)
class SceneDialogues:
    """A source of conversations; example i is a function of (seed, split, i) alone.

    split, size, objects, seed: as for `scenes.Scenes`. length: number of conversations, None for
    scenes.LENGTHS[split]. images: how many are shown in each, in [1, 4], one after the other.
    turns: questions about each of them, in [1, 8]; the first has `turns.MARK` in front. They are
    the example's `questions`, in order. Raises ValueError if out of range.
    """

    split: str = "train"
    size: int = 64
    length: int | None = None
    objects: tuple[int, int] = (2, 4)
    images: int = 2
    turns: int = 4
    seed: int = 0

    def __post_init__(self):
        """Checks the ranges."""
        low, high = self.objects
        own = {
            f"size={self.size} must be at least 32 pixels": self.size >= 32,
            f"objects={low, high} must be (fewest, most) in [2, {MAX_OBJECTS}]": (
                2 <= low <= high <= MAX_OBJECTS
            ),
            **generated.within(self, images=(1, MAX_PICTURES), turns=(1, MAX_TURNS)),
        }
        generated.check(self, LENGTHS, own)

    @property
    def name(self) -> str:
        """Such as "scene_dialogues/train"."""
        return f"scene_dialogues/{self.split}"

    def __len__(self) -> int:
        """The number of conversations."""
        return self.length or LENGTHS[self.split]

    def __getitem__(self, index: int) -> Example:
        """The example at a position; its pictures are rendered when called. IndexError outside."""
        example_key = generated.key(self, LENGTHS, index)
        low, high = self.objects
        pictures, questions, regions, scenes = [], [], [], []
        for number in range(self.images):
            key = (*example_key, number)
            rng = lambda stream, key=key: np.random.default_rng((*key, stream))
            held_out = self.split == "test_comp"
            scene = sample_scene(rng(_SCENES), self.size, (low, high), held_out)
            first, *later = turns(rng(_TURNS), scene["objects"], self.turns)
            kind = first.get("type", "")
            first["question"] = f"{MARK} {first['question']}"
            first["type"] = kind.replace("first", "next_picture") if number else kind
            scenes.append(scene)
            questions += [first, *later]
            pictures.append(partial(render, scene, (*key, _PIXELS)))
            regions += [_region(thing, self.size, number) for thing in scene["objects"]]
        return {
            "id": f"{self.split}-{index}",
            "image": pictures[0],
            "pictures": pictures,
            "captions": [],
            "questions": questions,
            "regions": regions,
            "scene": scenes[0],
        }


def _region(thing: SceneObject, size: int, picture: int) -> Any:
    box = [side / size for side in thing["box"]]
    return {"box": box, "labels": {k: thing[k] for k in ATTRIBUTES}, "picture": picture}


def answers() -> list[str]:
    """Every answer, sorted."""
    named = (_named({"colour": colour, "shape": shape}) for colour in COLOURS for shape in SHAPES)
    return sorted({*named, *COLOURS, *SHAPES, *RADII, NOTHING})
