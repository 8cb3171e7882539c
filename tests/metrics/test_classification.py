"""Classification scores equal scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from vlm_jax.metrics.bootstrap import resamples_of
from vlm_jax.metrics.classification import (
    classification_counts,
    classification_measure,
    classification_metrics,
    classification_scores,
)

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)


@given(pairs)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_equal_to_scikit_learn(rows):
    labels, predictions = np.array(rows).T
    expected = {
        "accuracy": sk.accuracy_score(labels, predictions),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predictions),
    }
    for average in ("macro", "micro"):
        scores = sk.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0
        )
        names = [f"{name}_{average}" for name in ("precision", "recall", "f1")]
        expected |= dict(zip(names, scores[:3], strict=True))
    assert classification_metrics(labels, predictions, 6) == pytest.approx(expected, abs=1e-12)


@given(pairs, st.integers(0, 30))
def test_counts_of_parts_add_up(rows, cut):
    labels, predictions = np.array(rows).T
    parts = [
        classification_counts(labels[part], predictions[part], 5)
        for part in (slice(cut), slice(cut, None))
    ]
    assert classification_scores(sum(parts)) == classification_metrics(labels, predictions, 5)


@given(pairs, st.integers(0, 9))
def test_a_resample_counts_examples_as_often_as_drawn(rows, seed):
    labels, predictions = np.array(rows).T
    weights = next(resamples_of(len(rows), seed=seed))
    drawn = np.repeat(np.arange(len(rows)), weights)
    found = classification_measure(labels, predictions, 5).value(weights)
    expected = classification_metrics(labels[drawn], predictions[drawn], 5)
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-12)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], "must be"),
        ([0, 5], [0, 1], "labels must lie in"),
        ([0, 1], [0, -1], "predictions must lie in"),
        ([0.5], [0], "class indices"),
        ([], [], "no examples"),
    ],
)
def test_bad_input(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(labels), np.array(predictions), 5)
