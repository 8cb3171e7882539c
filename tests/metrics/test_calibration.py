"""Expected calibration error against its definition, written as a plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_jax.metrics import calibration_measure, score
from vlm_jax.metrics.calibration import calibration_error

rows = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def _by_definition(confidence, correct, bins):
    total, edges = 0.0, np.linspace(0, 1, bins + 1)
    for i in range(bins):
        inside = (confidence > edges[i]) & (confidence <= edges[i + 1])
        inside |= (i == 0) & (confidence == 0)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            total += inside.mean() * gap
    return total


@given(rows)
def test_equal_to_the_definition(rows):
    confidence, correct = np.array(rows, float).T
    expected = _by_definition(confidence, correct, 15)
    assert calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_worked_example():
    assert calibration_error([0.9, 0.9, 0.3, 0.2], [1, 0, 0, 1], bins=2) == pytest.approx(0.325)


def test_a_bin_is_closed_above():
    assert calibration_error([0.5, 0.75], [1, 0], bins=2) == pytest.approx(0.625)


def test_an_interval_counts_examples_as_often_as_drawn():
    measure = calibration_measure([0.9, 0.8, 0.2], [True, False, False])
    doubled = calibration_measure([0.9, 0.9, 0.2], [True, True, False])
    assert measure.value(np.array([2, 0, 1])) == pytest.approx(doubled.value(None))
    found = score([measure])["ECE"]
    assert found.low <= found.value <= found.high and found.n == 3


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [([], [], "non-empty"), ([0.5], [1, 0], "two"), ([1.5], [1], "0, 1"), ([np.nan], [1], "0, 1")],
)
def test_bad_input(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(confidence, correct)
