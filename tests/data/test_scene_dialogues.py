"""Conversations about scenes: answers are true, and of "it" only one object is meant."""

import pytest

from vlm_jax.data.scene_dialogues import SceneDialogues, answers
from vlm_jax.data.scene_graph import ATTRIBUTES, references, related
from vlm_jax.data.schema import validate
from vlm_jax.data.turns import MARK, marks

EXAMPLES = [SceneDialogues("train", images=1, turns=6)[i] for i in range(300)]
KEYS = {"what colour is": "colour", "what shape is": "shape", "how large is": "size"}


def meant(objects, phrase):
    """The one object that a phrase fits."""
    (found,) = [o for o in objects if phrase in references(objects, o)]
    return found


def answer(objects, thing, asked):
    """The answer to "what is above ..." or "what colour is ..." of an object, and who is "it" then;
    found without the code that asks.
    """
    if asked in KEYS:
        return thing[KEYS[asked]], thing
    relation = asked.removeprefix("and ").removeprefix("what is ")
    there = [o for o in objects if related(o, relation, thing)]
    assert len(there) < 2, "more than one object is there"
    if not there:
        return "nothing", thing
    word = f"{there[0]['colour']} {there[0]['shape']}"
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}", there[0]


def test_answers_are_true_of_the_scene_and_it_is_the_object_last_spoken_of():
    for example in EXAMPLES:
        objects, it = example["scene"]["objects"], None
        for question in example["questions"]:
            text, follows = question["question"].removeprefix(f"{MARK} "), question["type"]
            if text.endswith(" it"):
                assert follows.startswith("follow_up/")
                asked = text.removesuffix(" it")
            else:
                asked, _, phrase = text.partition(" the ")
                it = meant(objects, phrase)
            expected, it = answer(objects, it, asked)
            assert question["answers"] == [expected], (question, objects)


def test_follow_ups_do_not_ask_what_was_just_said():
    for example in EXAMPLES:
        for before, question in zip(example["questions"], example["questions"][1:], strict=False):
            if question["question"].endswith(" it"):
                assert question["answers"][0] == "nothing" or not (
                    {question["answers"][0]} & {*before["answers"][0].split()}
                )


def test_every_kind_of_question_is_asked_first_and_as_a_follow_up():
    kinds = {question["type"] for example in EXAMPLES for question in example["questions"]}
    asked = {f"{group}/{key}" for group in ("first", "follow_up") for key in ATTRIBUTES}
    assert kinds >= asked | {"first/relation", "follow_up/relation", "named/relation"}
    said = {q["answers"][0] for example in EXAMPLES for q in example["questions"]}
    assert said <= set(answers())


def test_each_picture_has_its_own_questions_regions_and_seed():
    source = SceneDialogues("test", images=3, turns=2)
    example = validate(source[5], "scene")
    assert marks(example) == [1, 0, 1, 0, 1, 0] and len(example["pictures"]) == 3
    assert {region["picture"] for region in example["regions"]} == {0, 1, 2}
    assert [q["type"].split("/")[0] for q in example["questions"][::2]] == (
        ["first", "next_picture", "next_picture"]
    )
    shown = [picture() for picture in example["pictures"]]
    assert shown[0].shape == (64, 64, 3) and (shown[0] != shown[1]).any()
    assert (shown[0] == source[5]["image"]()).all() and source[5]["questions"] == example[
        "questions"
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(split="other"), "split 'other'"),
        (dict(objects=(1, 3)), r"objects=\(1, 3\)"),
        (dict(turns=9), "turns=9"),
        (dict(images=0), "images=0"),
    ],
)
def test_what_is_out_of_range_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SceneDialogues(**fields)
