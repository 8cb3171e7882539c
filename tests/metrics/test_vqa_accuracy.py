"""Normalisation pairs and scores follow the official VQA evaluator."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_jax.metrics.vqa_accuracy import (
    MISSPELT,
    normalize_answer,
    vqa_accuracy,
    vqa_accuracy_score,
)


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("u.s.a.", "usa"),
        ("St. John's", "st john's"),
        ("a dog", "dog"),
        ("Two dogs", "2 dogs"),
        ("dont know", "don't know"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("10:30", "10:30"),
        ("none", "0"),
        ("$5.00", "$5.00"),
        ("the", ""),
        ("hello, world", "hello world"),
        ("a.b", "ab"),
        ("yes\n", "yes"),
    ],
)
def test_golden_normalisation(answer, normalized):
    assert normalize_answer(answer) == normalized


def test_contractions_are_restored_from_any_one_missing_apostrophe():
    assert MISSPELT["couldnt've"] == MISSPELT["couldn'tve"] == "couldn't've"
    assert MISSPELT["whats"] == "what's"
    assert MISSPELT["somebody'd"] == "somebodyd"


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)]
)
def test_ten_annotators(matches, accuracy):
    answers = ["red"] * matches + [f"other{i}" for i in range(10 - matches)]
    assert vqa_accuracy_score("Red", answers) == pytest.approx(accuracy)


def test_unanimous_answers_are_compared_raw():
    assert vqa_accuracy_score("a dog", ["a dog"] * 10) == 1.0
    assert vqa_accuracy_score("dog", ["a dog"] * 10) == 0.0
    assert vqa_accuracy_score("dog", ["a dog"] * 9 + ["cat"]) == 1.0


def test_fewer_than_four_annotators_need_one_match():
    assert vqa_accuracy_score("A dog", ["dog"]) == 1.0
    assert vqa_accuracy_score("cat", ["dog", "cat", "cow"]) == 1.0
    assert vqa_accuracy_score("cat", ["dog"]) == 0.0


@given(st.lists(st.sampled_from(["yes", "no", "a cat"]), min_size=4, max_size=12), st.randoms())
def test_score_is_the_mean_over_left_out_annotators_in_any_order(answers, random):
    normal = normalize_answer if len(set(answers)) > 1 else str
    given_answer = normal("yes")
    left_out = [[normal(a) for j, a in enumerate(answers) if j != i] for i in range(len(answers))]
    expected = sum(min(1, rest.count(given_answer) / 3) for rest in left_out) / len(answers)
    random.shuffle(answers)
    assert vqa_accuracy_score("yes", answers) == pytest.approx(expected)


def test_corpus_is_the_mean_over_questions():
    answers = {1: ["yes"] * 10, 2: ["no"] * 2 + ["yes"] * 8}
    assert vqa_accuracy({1: "yes", 2: "no"}, answers) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("predictions", "answers", "message"),
    [
        ({}, {}, "no predictions"),
        ({1: "x"}, {1: []}, "without references: 1"),
        ({1: "x"}, {1: "x"}, "one string"),
        ({1: "x"}, {1: ["x"], 2: ["y"]}, "without a prediction: 2"),
    ],
)
def test_bad_input(predictions, answers, message):
    with pytest.raises(ValueError, match=message):
        vqa_accuracy(predictions, answers)
