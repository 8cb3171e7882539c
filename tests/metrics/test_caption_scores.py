"""BLEU, ROUGE-L and CIDEr-D equal pycocoevalcap's scores of our own captions (caption_golden.json).

`tests/metrics/make_goldens.py` says how they are recomputed.
"""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_jax.metrics import caption_metrics
from vlm_jax.metrics.bleu import BleuStatistics, bleu, bleu_from_statistics, bleu_statistics
from vlm_jax.metrics.cider import cider, cider_scores
from vlm_jax.metrics.rouge import longest_common_subsequence, rouge_l, rouge_l_scores

GOLDEN = json.loads((pathlib.Path(__file__).parent / "caption_golden.json").read_text())
TOLERANCE = {"rtol": 0, "atol": 1e-9}
tokens = st.lists(st.sampled_from("abcd"), max_size=8)


@pytest.mark.parametrize("name", GOLDEN)
def test_corpus_scores_equal_the_official_ones(name):
    case, scores = GOLDEN[name], GOLDEN[name]["scores"]
    pair = case["predictions"], case["references"]
    np.testing.assert_allclose(bleu(*pair), scores["bleu"], **TOLERANCE)
    np.testing.assert_allclose(rouge_l(*pair), scores["rouge_l"], **TOLERANCE)
    np.testing.assert_allclose(cider(*pair), scores["cider"], **TOLERANCE)


@pytest.mark.parametrize("name", GOLDEN)
def test_scores_of_each_example_equal_the_official_ones(name):
    case = GOLDEN[name]
    pair = case["predictions"], case["references"]
    expected = [case["scores"]["per_example"][key] for key in case["predictions"]]
    found = {
        "bleu": bleu_from_statistics(bleu_statistics(*pair)),
        "rouge_l": rouge_l_scores(*pair),
        "cider": cider_scores(*pair),
    }
    for metric, values in found.items():
        np.testing.assert_allclose(values, [row[metric] for row in expected], **TOLERANCE)


def test_order_of_examples_does_not_matter():
    case = GOLDEN["varied"]
    backwards = {key: case["predictions"][key] for key in reversed(case["predictions"])}
    for metric in (bleu, rouge_l, cider):
        forward = metric(case["predictions"], case["references"])
        np.testing.assert_allclose(metric(backwards, case["references"]), forward, **TOLERANCE)


def test_order_of_references_does_not_matter():
    case = GOLDEN["varied"]
    swapped = {key: group[::-1] for key, group in case["references"].items()}
    for metric in (bleu, rouge_l, cider):
        expected = metric(case["predictions"], case["references"])
        np.testing.assert_allclose(metric(case["predictions"], swapped), expected, **TOLERANCE)


def test_bleu_statistics_of_two_parts_add_up():
    case = GOLDEN["varied"]
    keys = list(case["predictions"])
    parts = [
        bleu_statistics(
            {key: case["predictions"][key] for key in half},
            {key: case["references"][key] for key in half},
        )
        for half in (keys[:13], keys[13:])
    ]
    total = BleuStatistics(*(a.sum(0) + b.sum(0) for a, b in zip(*parts, strict=True)))
    np.testing.assert_allclose(bleu_from_statistics(total), case["scores"]["bleu"], **TOLERANCE)


def test_all_captions_empty():
    pair = {"x": "", "y": ""}, {"x": [""], "y": ["", ""]}
    assert bleu(*pair).max() < 1e-3
    assert rouge_l(*pair) == 1.0  # one empty token equals another
    assert cider(*pair) == 0.0


@given(tokens, tokens)
def test_longest_common_subsequence_equals_the_textbook_recursion(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
            )
    assert longest_common_subsequence(first, second) == table[-1, -1]


@given(
    st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=3)), min_size=1, max_size=5)
)
def test_scores_stay_in_their_ranges(examples):
    predictions = {i: " ".join(caption) for i, (caption, _) in enumerate(examples)}
    references = {i: [" ".join(r) for r in group] for i, (_, group) in enumerate(examples)}
    assert ((bleu(predictions, references) >= 0) & (bleu(predictions, references) <= 1)).all()
    assert 0 <= rouge_l(predictions, references) <= 1 + 1e-12
    assert 0 <= cider(predictions, references) <= 10 + 1e-12


def test_raw_captions_are_tokenized():
    scores = caption_metrics(
        {1: "A man's dog.", 2: "Two cats!"}, {1: ["a man 's dog"], 2: ["two cats", "a cat"]}
    )
    assert list(scores) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]
    assert scores["BLEU-1"] == pytest.approx(1)
    assert scores["ROUGE-L"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ({}, {}, "no predictions"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, "without a prediction: 'b'"),
        ({"a": "x", "c": "z"}, {"a": ["x"]}, "without references: 'c'"),
        ({"a": "x"}, {"a": []}, "without references: 'a'"),
        ({"a": "x"}, {"a": "x"}, "one string .*'a'"),
    ],
)
@pytest.mark.parametrize("metric", [bleu, rouge_l, cider, caption_metrics])
def test_ids_that_do_not_fit_are_named(metric, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        metric(predictions, references)
