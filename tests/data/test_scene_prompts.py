"""Prompts say what they want, true pictures are judged right and those of other scenes wrong."""

import functools
from collections import Counter

import numpy as np

from vlm_jax.data.scene_captions import parse_caption
from vlm_jax.data.scene_graph import HELD_OUT, RELATIONS, related
from vlm_jax.data.scene_prompts import (
    SEEN,
    Wanted,
    judge,
    most_alike,
    of_scene,
    single,
    two_related,
)
from vlm_jax.data.scenes import Scenes, words


@functools.lru_cache
def scenes(objects=(1, 3), length=40):
    """(picture, example) of each scene."""
    source = Scenes("test", 64, length, objects, questions=0)
    return [(example["image"](), example) for example in source]


def test_true_pictures_are_right_and_those_of_other_scenes_wrong():
    pairs = scenes()
    own = [judge(picture, of_scene(example)) for picture, example in pairs]
    others = [judge(picture, of_scene(pairs[i - 1][1])) for i, (picture, _) in enumerate(pairs)]
    assert all(all(verdict) for verdict in own)
    assert np.mean([verdict.right for verdict in others]) < 0.05
    assert np.mean([verdict.objects for verdict in others]) < 0.05
    assert np.mean([verdict.count for verdict in others]) < 0.6


def test_relations_are_judged_by_the_boxes():
    seen = Counter()
    for picture, example in scenes((2, 2), 20):
        first, second = example["scene"]["objects"]
        objects = of_scene(example).objects
        for relation in RELATIONS:
            holds = related(first, relation, second)
            holds |= objects[0] == objects[1] and related(second, relation, first)
            verdict = judge(picture, Wanted("", objects, relation))
            assert verdict.objects and verdict.right == holds
            seen[holds] += 1
    assert min(seen.values()) > 15


def test_a_wrong_colour_a_wrong_shape_and_one_too_many_are_told_apart():
    picture, example = next(pair for pair in scenes() if len(pair[1]["scene"]["objects"]) == 1)
    ((colour, shape),) = of_scene(example).objects
    other_colour = "red" if colour != "red" else "blue"
    other_shape = "ring" if shape != "ring" else "star"
    verdicts = [
        judge(picture, Wanted("", objects))
        for objects in (
            ((other_colour, shape),),
            ((colour, other_shape),),
            ((colour, shape), (colour, shape)),
        )
    ]
    assert [verdict[:4] for verdict in verdicts] == [
        (True, False, True, False),
        (True, True, False, False),
        (False, False, False, False),
    ]
    assert not any(verdict.right for verdict in verdicts)


def test_prompts_name_what_they_want_in_the_words_of_scenes():
    vocabulary = set(words())
    assert len(SEEN) == 42 and not set(SEEN) & HELD_OUT
    for pairs in (SEEN, sorted(HELD_OUT)):
        alone, two = single(pairs, 60), two_related(pairs, 60)
        assert {wanted.objects[0] for wanted in alone} == set(pairs)
        assert {wanted.objects[0] for wanted in two} == set(pairs)
        for wanted in alone + two:
            assert parse_caption(wanted.text) == set(wanted.objects)
            assert set(wanted.text.split()) <= vocabulary
        assert {wanted.relation for wanted in two} == set(RELATIONS)
        assert all(wanted.objects[1] in SEEN for wanted in two)
        assert two == two_related(pairs, 60) != two_related(pairs, 60, seed=1)
    assert single([("orange", "star")], 1)[0].text == "an orange star"


def test_the_most_alike_text_shares_most_words():
    others = ["a red circle", "a blue square and a red circle", "a green star", "a red circle"]
    found = most_alike(["a circle red", "a red circle and a blue star", "star"], others)
    assert found == [0, 1, 2]
