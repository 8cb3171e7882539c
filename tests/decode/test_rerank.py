"""The best of n by what another model says."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decode import Generated, rerank

FOUND = Generated(
    jnp.arange(12).reshape(2, 3, 2),
    jnp.array([[1, 2, 1], [2, 2, 0]]),
    jnp.array([[-1.0, -2.0, -3.0], [-1.0, -1.5, -jnp.inf]]),
    jnp.zeros((2, 3, 2)),
)
SIMILARITY = jnp.array([[0.1, 0.3, 0.2], [0.1, 0.4, 0.9]])


def test_the_most_similar_text_comes_first_and_empty_places_stay_last():
    best, ranking = rerank(FOUND, SIMILARITY)
    np.testing.assert_array_equal(best.tokens[:, 0], [[2, 3], [8, 9]])
    np.testing.assert_array_equal(best.scores[0], [-2.0, -3.0, -1.0])
    np.testing.assert_array_equal(best.lengths[1], [2, 2, 0])
    np.testing.assert_allclose(ranking, [[0.3, 0.2, 0.1], [0.4, 0.1, -np.inf]])


def test_the_score_of_the_text_may_have_a_say():
    best, ranking = rerank(FOUND, SIMILARITY, weight=0.5)
    np.testing.assert_array_equal(best.scores[0], [-1.0, -2.0, -3.0])
    np.testing.assert_allclose(ranking[0], [-0.45, -0.85, -1.4], rtol=1e-6)
    with pytest.raises(ValueError, match="weight=2"):
        rerank(FOUND, SIMILARITY, weight=2.0)
