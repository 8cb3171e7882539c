"""Exact match, relaxed accuracy and ANLS on cases worked out by hand, and the edit distance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_jax.metrics import answer_scores
from vlm_jax.metrics.text_answers import anls_score, edit_distance, exact_match_score, relaxed_score

texts = st.text("abc", max_size=9)


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("105", "100", 1.0),
        ("105.1", "100", 0.0),
        ("95", "100", 1.0),
        ("-95", "-100", 1.0),
        ("5%", "0.05", 1.0),
        ("5.2%", "5%", 1.0),
        ("5", "5%", 0.0),
        ("0", "0", 1.0),
        ("0.0", "0", 0.0),
        ("Blue ", "blue", 1.0),
        ("blue", "red", 0.0),
        ("about 100", "100", 0.0),
        ("nan", "100", 0.0),
        ("inf", "inf", 1.0),
    ],
)
def test_relaxed_accuracy(prediction, answer, score):
    assert relaxed_score(prediction, [answer]) == score


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("Hello  World", ["hello world"], 1.0),
        ("hallo", ["hello"], 0.8),
        ("ab", ["abcd"], 0.5),
        ("a", ["abcd"], 0.0),
        ("xyz", ["abc", "xya"], 2 / 3),
        ("", [""], 1.0),
        ("", ["a"], 0.0),
    ],
)
def test_anls(prediction, answers, score):
    assert anls_score(prediction, answers) == pytest.approx(score)


@given(texts, texts)
def test_edit_distance_equals_the_textbook_recursion(first, second):
    table = np.add.outer(np.arange(len(first) + 1), np.arange(len(second) + 1))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = min(
                table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (a != b)
            )
    assert edit_distance(first, second) == table[-1, -1]


def test_exact_match_normalises_as_vqa_does():
    assert exact_match_score("The two dogs.", ["2 dogs"]) == 1.0
    assert exact_match_score("dogs", ["dog", "cats"]) == 0.0


def test_scores_of_a_corpus_stand_in_the_order_of_predictions():
    scores = answer_scores({"b": "10", "a": "red"}, {"a": ["red"], "b": ["10.4"]})
    assert {name: values.tolist() for name, values in scores.items()} == {
        "exact_match": [0.0, 1.0],
        "relaxed_accuracy": [1.0, 1.0],
        "ANLS": [0.5, 1.0],
    }


def test_bad_input():
    with pytest.raises(ValueError, match="not a string: 1"):
        answer_scores({1: 5}, {1: ["5"]})
