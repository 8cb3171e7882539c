"""Object-attribute F1 on small sets."""

import numpy as np
import pytest

from vlm_jax.metrics import score
from vlm_jax.metrics.attributes import (
    attribute_counts,
    attribute_f1,
    attribute_measure,
    attribute_scores,
)

RED, BLUE, GREEN = ("red", "square"), ("blue", "circle"), ("green", "square")


def test_counts_and_micro_average():
    assert attribute_counts([RED, RED, BLUE], [RED, GREEN, BLUE]).tolist() == [2, 2, 3]
    scores = attribute_f1({1: {RED}, 2: {RED, BLUE}}, {1: {RED}, 2: {GREEN, BLUE}})
    assert scores == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3})


def test_a_resample_counts_examples_as_often_as_drawn():
    said, true = {1: {RED}, 2: {RED, BLUE}, 3: set()}, {1: {RED}, 2: {GREEN, BLUE}, 3: {RED}}
    measure = attribute_measure(said, true)
    drawn = attribute_f1({1: said[1], 2: said[1], 3: said[3]}, {1: true[1], 2: true[1], 3: true[3]})
    assert measure.value(np.array([2, 0, 1])).tolist() == list(drawn.values())
    assert measure.value(None).tolist() == list(attribute_f1(said, true).values())
    assert score([measure])["attribute_f1"].n == 3


def test_an_object_needs_all_its_attributes():
    scores = attribute_f1({1: {("red", "circle")}}, {1: {RED, BLUE}})
    assert scores == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_nothing_to_name_and_nothing_named():
    assert attribute_scores(attribute_counts([], [])) == {"precision": 0, "recall": 0, "f1": 0}


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [({}, {}, "no predictions"), ({1: set()}, {1: set(), 2: set()}, "1 ids are only in .*: 2")],
)
def test_bad_input(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        attribute_f1(predictions, references)
