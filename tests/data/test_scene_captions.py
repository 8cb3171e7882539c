"""Captions are checked against the boxes by a reader that shares no code with their writer."""

import re

import numpy as np
import pytest

from vlm_jax.data.scene_captions import captions, parse_caption
from vlm_jax.data.scene_graph import sample_scene

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six"]
OPENING = re.compile("^(a picture of |an image with |this shows )")
PART = re.compile(
    r"^(?P<count>a|an|one|two|three|four|five|six) (?:(?P<size>small|large) )?"
    r"(?P<colour>[a-z]+) (?P<shape>circle|square|triangle|star|cross|ring)(?:s|es)?(?P<rest>.*)$"
)
SIDES = {
    "left of": lambda a, b: a[2] <= b[0],
    "right of": lambda a, b: a[0] >= b[2],
    "above": lambda a, b: a[3] <= b[1],
    "below": lambda a, b: a[1] >= b[3],
}


def scene(seed, objects=(1, 6)):
    return sample_scene(np.random.default_rng(seed), 90, objects, held_out=False)


def fits(part, objects):
    """The objects that a parsed noun phrase may mean."""
    keys = [key for key in ("size", "colour", "shape") if part[key]]
    return [o for o in objects if all(o[key] == part[key] for key in keys)]


def is_at(words, box):
    """Whether the centre of a box is in the third of the image that the words name."""
    across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    column = "left" if across < 30 else "right" if across > 60 else None
    row = "top" if down < 30 else "bottom" if down > 60 else None
    return {"left", "right", "top", "bottom"} & set(words.split()) == {column, row} - {None}


def assert_true(text, objects):
    """Every statement of a caption holds, and all objects are counted."""
    mentioned = 0
    for words in OPENING.sub("", text).split(" and "):
        part = PART.match(words)
        assert part, f"cannot read {words!r} of {text!r}"
        count = 1 if part["count"] in ("a", "an") else NUMBERS.index(part["count"])
        mentioned += count
        meant = fits(part, objects)
        assert len(meant) >= count, text
        if part["count"] not in ("a", "an"):
            assert len(meant) == count, text
        rest = part["rest"].removeprefix(" to the").strip()
        relation = next((name for name in SIDES if rest.startswith(name)), None)
        if relation:
            other = PART.match(rest.removeprefix(relation).strip())
            mentioned += 1
            pairs = [(a, b) for a in meant for b in fits(other, objects) if a is not b]
            assert any(SIDES[relation](a["box"], b["box"]) for a, b in pairs), text
        elif rest:
            assert any(is_at(rest, o["box"]) for o in meant), text
    assert mentioned == len(objects), text


def test_every_caption_is_true_and_mentions_every_object():
    kinds = set()
    for seed in range(400):
        graph = scene(seed)
        texts = captions(np.random.default_rng(seed), graph, 4)
        assert len(set(texts)) == 4
        for text in texts:
            assert_true(text, graph["objects"])
            kinds |= set(re.findall("left of|above|two|at the top left|in the middle", text))
    assert len(kinds) == 5


def test_the_reader_notices_lies():
    objects = [
        {"size": "small", "colour": "red", "shape": "ring", "box": [5, 5, 15, 15]},
        {"size": "large", "colour": "blue", "shape": "star", "box": [40, 40, 60, 60]},
    ]
    assert_true("a small red ring above a blue star", objects)
    assert_true("a red ring at the top left and a blue star in the middle", objects)
    for lie in (
        "a red ring below a blue star",
        "a large red ring and a blue star",
        "a red ring",
        "two red rings",
        "a red ring on the left and a blue star in the middle",
    ):
        with pytest.raises(AssertionError):
            assert_true(lie, objects)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_as_many_different_captions_as_asked_even_for_one_object(count):
    for seed in range(50):
        texts = captions(np.random.default_rng(seed), scene(seed, objects=(1, 1)), count)
        assert len(set(texts)) == count


def test_captions_read_back_to_the_scene():
    for seed in range(200):
        graph = scene(seed)
        truth = {(o["colour"], o["shape"]) for o in graph["objects"]}
        for text in captions(np.random.default_rng(seed), graph, 4):
            assert parse_caption(text) == truth


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", set()),
        ("circle red", set()),
        ("a red and a circle", set()),
        ("Two RED circles, one Blue-Cross.", {("red", "circle"), ("blue", "cross")}),
        ("three green crosses", {("green", "cross")}),
        ("a red small circle", {("red", "circle")}),
        ("a red red circle circle", {("red", "circle")}),
        ("a red blue circle", {("red", "circle")}),
        ("the star is pink", {("pink", "star")}),
        ("a ring that is large orange", {("orange", "ring")}),
        ("the star is a red ring", {("red", "ring")}),
        ("a cyan <pad> square </s>", set()),
        ("a reddish circle and a red circlet", set()),
        ("a red circle above a red circle", {("red", "circle")}),
    ],
)
def test_parse_caption_of_odd_texts(text, pairs):
    assert parse_caption(text) == pairs
