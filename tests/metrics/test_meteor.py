"""METEOR from the counts that its Java program made of our own captions, and its absence."""

import shutil

import numpy as np
import pytest

from vlm_jax.metrics import meteor, score
from vlm_jax.metrics.meteor import measure_of_counts, meteor_measure, why_no_meteor

# "a man rides a big horse on the beach", "two dogs play in the snow", nothing, "z q", and a caption
# equal to its reference; the program's answers to SCORE, and to EVAL with all five.
COUNTS = """
    10 9 5 4 2 2 4 4 1 1 0 0 1 1 0 0 0 0 0 0 5 8 8
    5 6 2 3 1 1 1 1 0 0 0 0 0 0 0 0 1 1 1 1 3 4 4
    0 3 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
    2 3 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
    6 6 3 3 3 3 3 3 0 0 0 0 0 0 0 0 0 0 0 0 1 6 6
"""
SCORES = [0.3365220101884543, 0.2341522326267997, 0.0, 0.0, 1.0]
TOGETHER = 0.286173199136912


def _counts():
    return np.array([line.split() for line in COUNTS.strip().splitlines()], float)


def test_scores_equal_the_programs():
    for row, expected in zip(_counts(), SCORES, strict=True):
        assert measure_of_counts(row[None]).value(None)[0] == pytest.approx(expected, abs=1e-12)
    measure = measure_of_counts(_counts())
    assert measure.value(None)[0] == pytest.approx(TOGETHER, abs=1e-12)


def test_a_resample_is_the_score_of_the_set_that_was_drawn():
    measure = measure_of_counts(_counts())
    drawn = measure_of_counts(_counts()[[0, 0, 1, 4, 4]])
    assert measure.value(np.array([2, 1, 0, 0, 2])) == pytest.approx(drawn.value(None), abs=1e-12)
    found = score([measure])["METEOR"]
    assert found.low < found.value < found.high


def test_what_is_missing_is_said_and_nothing_is_scored(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(meteor, "meteor_jar", lambda: None)
    assert why_no_meteor() == "needs java and the package pycocoevalcap"
    with pytest.raises(RuntimeError, match="METEOR needs java"):
        meteor_measure({1: "a"}, {1: ["a"]})
