"""The bootstrap interval against the normal approximation, and its edge cases."""

import numpy as np
import pytest

from vlm_jax.metrics import bootstrap_interval


def test_interval_of_a_mean_is_close_to_the_normal_one():
    scores = np.random.default_rng(0).random(2000)
    low, high = bootstrap_interval(scores, resamples=2000)
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)


def test_the_seed_decides():
    scores = np.random.default_rng(1).random(50)
    assert bootstrap_interval(scores, seed=3) == bootstrap_interval(scores, seed=3)
    assert bootstrap_interval(scores, seed=3) != bootstrap_interval(scores, seed=4)


def test_counts_weigh_the_examples():
    assert bootstrap_interval(np.array([2.0, 6.0, 4.0]), np.array([1, 3, 2])) == (2.0, 2.0)
    low, high = bootstrap_interval(np.array([0.0, 1.0]), np.array([0, 1]))
    assert low == high == 1.0


@pytest.mark.parametrize(
    ("sums", "counts", "message"),
    [([], None, "non-empty"), ([1.0], [1, 2], "two"), ([1.0], [0], "nothing to average")],
)
def test_bad_input(sums, counts, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(np.array(sums), None if counts is None else np.array(counts))
