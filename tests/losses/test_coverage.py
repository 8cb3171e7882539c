import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.losses.coverage import doubly_stochastic


def test_looking_everywhere_once_costs_nothing():
    weights = jnp.eye(3)[None]
    assert doubly_stochastic(weights, jnp.ones((1, 3), bool))[0] == pytest.approx(0)


def test_the_worked_example():
    """Two words on the first of two tokens, a third that does not count: (1-2)^2 + (1-0)^2, / 2."""
    weights = jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    mask = jnp.array([[True, True, False]])
    np.testing.assert_allclose(doubly_stochastic(weights, mask), [1.0])


def test_rows_do_not_mix_and_an_empty_one_costs_nothing():
    weights = jnp.stack([jnp.full((2, 4), 0.25), jnp.eye(4)[:2]])
    mask = jnp.array([[True, True], [False, False]])
    np.testing.assert_allclose(doubly_stochastic(weights, mask), [4 * 0.5**2 / 2, 0.0])
