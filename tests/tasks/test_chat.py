"""Conversations as one sequence: what is learned of it, what is asked, and who remembers what."""

import numpy as np
import pytest

from vlm_jax.data.scene_dialogues import SceneDialogues
from vlm_jax.data.schema import DataError
from vlm_jax.data.turns import MARK
from vlm_jax.tasks.chat import Chat
from vlm_jax.tokenizers import make_tokenizer

SOURCE = SceneDialogues("test", length=12, turns=3)
TEXTS = [
    text.replace(MARK, "")
    for i in range(12)
    for question in SOURCE[i]["questions"]
    for text in (question["question"], *question["answers"])
]
WORDS = make_tokenizer({"name": "word"}, lambda: TEXTS)
IMAGE = 200
TASK = Chat(WORDS, {"picture": dict(name="run", token=str(IMAGE), count=4)}, 96, 5)


def test_all_answers_and_their_ends_are_learned_and_nothing_else():
    example = SOURCE[0]
    arrays = TASK.preprocess(example, None)
    tokens, targets = arrays["tokens"], arrays["targets"]
    real = arrays["tokens_mask"]
    np.testing.assert_array_equal(tokens[1:][real[1:]], targets[:-1][real[1:]])
    learned = targets[arrays["targets_mask"]].tolist()
    answers = [q["answers"][0] for q in example["questions"]]
    expected = [i for answer in answers for i in TASK.turns.answered(WORDS, answer)]
    assert learned == expected
    assert (tokens == IMAGE).sum() == 8 and arrays["prefix"] == 0
    assert (tokens[arrays["targets_mask"]] == WORDS.bos).sum() == len(example["questions"])


def test_what_is_asked_is_what_was_learned_up_to_the_answer():
    example = SOURCE[1]
    whole = TASK.preprocess(example, None)["tokens"].tolist()
    for count in range(1, len(example["questions"]) + 1):
        shown = 1 if count <= 3 else 2
        view = {**example, "questions": example["questions"][:count]}
        query = TASK.query(view | {"pictures": example["pictures"][:shown]})
        asked = query["tokens"][query["tokens_mask"]].tolist()
        assert asked == whole[: len(asked)] and asked[-1] == WORDS.bos


def test_turns_that_do_not_fit_are_left_out_and_the_first_must():
    example = SOURCE[0]
    short = Chat(WORDS, TASK.format, 24, 5).preprocess(example, None)
    whole = TASK.preprocess(example, None)
    real = short["tokens_mask"]
    np.testing.assert_array_equal(short["tokens"][real], whole["tokens"][:24][real])
    assert 0 < short["targets_mask"].sum() < whole["targets_mask"].sum()
    assert short["targets"][real][-1] == WORDS.eos
    with pytest.raises(DataError, match=r"example test-0: its first turn needs more than length=6"):
        Chat(WORDS, TASK.format, 6, 5).preprocess(example, None)
    with pytest.raises(DataError, match=r"tokens of conversation do not fit length=24: raise it"):
        Chat(WORDS, TASK.format, 24, 5).query(example)
    with pytest.raises(TypeError, match="unknown key"):
        _ = Chat(WORDS, {"pictur": {}}).turns


class Run:
    """Stands for a trained model: `answer(history, question)`, history a list of both in turn."""

    def __init__(self, answer):
        self.answer, self.saved = answer, []

    def write(self, source, inputs, length):
        found = {}
        for i in range(len(source)):
            inputs(source[i])
            said = [(q["question"], q["answers"][0]) for q in source[i]["questions"]]
            found[i] = self.answer(said[:-1], *said[-1])
        return found

    def save_predictions(self, rows):
        self.saved += rows


def evaluate(answer, train=None):
    run = Run(answer)
    found = dict(TASK.evaluate(run, SOURCE, train))
    return {name: getattr(score, "value", score) for name, score in found.items()}, run


def test_a_perfect_model_is_perfect_and_blindness_is_not():
    found, run = evaluate(lambda before, question, true: true, SOURCE)
    assert found["first/accuracy"] == found["follow_up/accuracy"] == 1 and found["gap"] == 0
    assert found["next_picture/accuracy"] == found["accuracy"] == 1
    assert found["follow_up/accuracy/question_only"] < 1
    assert found["n"] == len(run.saved) == 12 * 6
    assert run.saved[0]["id"] == "test-0/0"


def test_own_answers_are_remembered_true_ones_beside_them():
    """Right if all before was right: one wrong first answer spoils what follows it."""
    right = {e["questions"][t]["question"]: None for e in SOURCE for t in range(6)}

    def answer(before, question, true):
        if not before and question.startswith(MARK) and " it" not in question:
            return "wrong"
        return "wrong" if "wrong" in dict(before).values() else true

    found, _ = evaluate(answer)
    assert right and found["first/accuracy"] == 0 and found["follow_up/accuracy"] == 0
    assert found["follow_up/accuracy/true_history"] == 1
    assert found["gap"] == 0


def test_without_history_the_last_picture_is_there_and_nothing_else():
    seen = []

    def answer(before, question, true):
        if question.startswith(f"{MARK} ") and question.endswith(" it"):
            seen.append(before)
            return "nobody knows"
        return true

    found, _ = evaluate(answer)
    assert seen and not any(seen)
    assert found["follow_up/accuracy/no_history"] == 0 and found["follow_up/accuracy"] == 1
