"""What is said about clips is true, balanced, and made of a closed set of words."""

from collections import Counter
from functools import lru_cache

import numpy as np
import pytest

from vlm_jax.data.moving_scenes import MovingScenes, sample
from vlm_jax.data.moving_texts import FAMILIES, MOTION, STEPS, answers, captions, questions, words
from vlm_jax.data.scene_graph import COLOURS, SHAPES


@lru_cache
def asked(families=tuple(FAMILIES)):
    """(scene, question) of many clips."""
    source = MovingScenes(length=1500, questions=4, families=families)
    return [(clip["scene"], q) for clip in source for q in clip["questions"]]


def of(family):
    return [(scene, q["question"], q["answers"][0]) for scene, q in asked() if q["type"] == family]


def named(scene, question):
    """The one object that a question's phrase fits."""
    said = question.split()
    fits = lambda thing: all(
        thing[key] in said
        for key, all_words in (("colour", COLOURS), ("shape", SHAPES))
        if set(all_words) & set(said)
    )
    (thing,) = [thing for thing in scene["objects"] if fits(thing)]
    return thing


def test_answers_are_true():
    for scene, question, answer in of("direction"):
        assert named(scene, question)["direction"] == answer in STEPS
    for scene, question, answer in of("moves"):
        assert (named(scene, question)["direction"] != "stay") == (answer == "yes")
    for scene, question, answer in of("faster"):
        wanted = "slowly" if "slowly" in question else "fast"
        (thing,) = [thing for thing in scene["objects"] if thing["speed"] == wanted]
        assert answer == thing["colour" if "colour" in question else "shape"]
    for scene, question, answer in of("order"):
        wanted = "first" if "first" in question else "second"
        (thing,) = [thing for thing in scene["objects"] if thing["when"] == wanted]
        assert answer == thing["colour" if "colour" in question else "shape"]
    for family in ("colour", "shape"):
        assert all(named(scene, text)[family] == answer for scene, text, answer in of(family))


def test_every_family_is_asked_and_its_answers_are_balanced():
    counts = {family: Counter(answer for *_, answer in of(family)) for family in FAMILIES}
    assert all(sum(found.values()) > 200 for found in counts.values())
    for family, most in (("direction", 0.29), ("moves", 0.56), ("faster", 0.15), ("order", 0.15)):
        share = counts[family].most_common(1)[0][1] / sum(counts[family].values())
        assert share < most, (family, counts[family])


def test_which_of_the_two_it_is_cannot_be_guessed_from_what_they_are():
    """Of two objects the one earlier in the alphabet is the answer half of the time."""
    for family in ("faster", "order"):
        first = [
            answer
            == min(thing["colour" if "colour" in text else "shape"] for thing in s["objects"])
            for s, text, answer in of(family)
        ]
        assert 0.42 < np.mean(first) < 0.58


def test_families_may_be_chosen():
    kinds = Counter(q["type"] for _, q in asked(MOTION))
    assert set(kinds) == set(MOTION)
    assert len({(id(scene), q["question"]) for scene, q in asked()}) == len(asked())


def test_captions_tell_what_both_objects_do():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample(rng, 64)
        texts = captions(rng, scene, 4)
        assert len(set(texts)) == 4
        for text in texts:
            for thing in scene["objects"]:
                does = "stays" if thing["direction"] == "stay" else f"moves {thing['direction']}"
                assert f"{thing['colour']} {thing['shape']} {does}" in text
            if scene["plot"] == "in turn":
                early, late = sorted(scene["objects"], key=lambda thing: thing["when"])
                swap = "after" in text
                places = [text.index(thing["shape"]) for thing in (early, late)]
                assert (places[0] < places[1]) != swap
            if scene["plot"] == "together":
                assert "fast" in text and "slowly" in text


def test_the_vocabulary_is_closed_and_has_no_word_too_many():
    used = set()
    for clip in MovingScenes(length=1500, questions=6, captions=4):
        texts = [*clip["captions"], *(q["question"] for q in clip["questions"])]
        used |= set(" ".join([*texts, *(q["answers"][0] for q in clip["questions"])]).split())
    assert used == set(words())
    assert set(answers()) <= set(words())


def test_questions_stop_where_there_are_no_more():
    scene = sample(np.random.default_rng(1), 64) | {"plot": "together"}
    assert questions(np.random.default_rng(0), scene, 6, ("moves",)) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_question_does_not_hold_its_answer(family):
    assert all(answer not in text.split() for _, text, answer in of(family))
