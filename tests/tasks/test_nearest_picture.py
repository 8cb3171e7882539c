"""The nearest picture is found by its grey pixels, among those of which the same is asked."""

import numpy as np
import pytest

from vlm_jax.data.pipeline import InputReader
from vlm_jax.tasks.nearest_picture import nearest_answers
from vlm_jax.tasks.vqa import VqaGeneration
from vlm_jax.tokenizers import make_tokenizer

READ = InputReader(size=40)


class Source(list):
    name = "bars"


def example(column, seed, questions=("read", "in german"), shade=200):
    """A bar in a column of a dim, noisy picture, called by its number."""
    pixels = np.random.default_rng(seed).integers(0, 60, (40, 40, 3), np.uint8)
    pixels[:, column : column + 5] += np.uint8(shade - 60)
    asked = [{"question": q, "answers": [f"{q} {column}"], "type": q} for q in questions]
    return {"id": f"{column}-{seed}", "image": pixels, "captions": [], "questions": asked}


def one_question(source):
    pairs = [(e, q) for e in source for q in e["questions"]]
    return {i: {**e, "questions": [q]} for i, (e, q) in enumerate(pairs)}


TRAIN = Source(example(column, 1) for column in (0, 8, 16, 24))
TEST = Source(example(column, 2, shade=140) for column in (24, 8))


def test_the_same_place_is_nearest_whatever_the_contrast():
    found = nearest_answers(READ, one_question(TEST), TRAIN, 10)
    assert list(found.values()) == ["read 24", "in german 24", "read 8", "in german 8"]


def test_only_so_many_and_only_the_same_question():
    assert nearest_answers(READ, one_question(TEST), TRAIN, 2)[2] == "read 8"
    assert nearest_answers(READ, one_question(TEST), TRAIN, 1)[2] == "read 0"
    some = Source([example(8, 1, ("read",)), example(0, 1)])
    found = nearest_answers(READ, one_question(TEST), some, 10)
    assert (found[2], found[3]) == ("read 8", "in german 0")
    assert nearest_answers(READ, one_question(TEST), Source([example(8, 1, ())]), 10)[0] == ""


def test_broken_pictures_are_no_neighbours_and_have_none():
    broken = Source([{**TRAIN[1], "image": b"nothing"}, TRAIN[0]])
    assert nearest_answers(READ, one_question(TEST), broken, 10)[2] == "read 0"
    assert nearest_answers(READ, one_question(broken), TRAIN, 10)[0] == ""


def test_features_are_refused():
    features = Source([{**TRAIN[0], "image": np.zeros((2, 3), np.float32)}])
    with pytest.raises(ValueError, match="leave nearest=0"):
        nearest_answers(READ, one_question(TEST), features, 10)


def test_evaluation_puts_it_beside_the_answers_with_the_character_error_rate():
    class Run:
        def __init__(self):
            self.experiment = self
            self.read = READ

        def write(self, source, inputs, length, **options):
            return {i: source[i]["questions"][0]["answers"][0][:-1] for i in range(len(source))}

        def save_predictions(self, rows):
            self.rows = rows

    task = VqaGeneration(make_tokenizer({"name": "byte"}, list), characters=True, nearest=10)
    found = {name: getattr(v, "value", v) for name, v in task.evaluate(Run(), TEST, TRAIN)}
    assert found["accuracy"] == 0 and found["accuracy/nearest_picture"] == 1
    assert found["CER"] == 6 / (7 + 12 + 6 + 11)  # the space before a lone digit goes, too
    assert found["CER/type/read"] == 3 / (7 + 6) and found["CER/type/read/nearest_picture"] == 0
    assert found["CER/question_only"] > 0
    plain = VqaGeneration(make_tokenizer({"name": "byte"}, list))
    names = {name for name, _ in plain.evaluate(Run(), TEST, TRAIN)}
    assert not any("CER" in name or "nearest" in name for name in names)
