"""What Features and caches promise to everything that reads them."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.types import Features, concatenate, gather_rows, summary

TOKENS = jnp.arange(12.0).reshape(2, 3, 2)


def test_summary_is_the_pooled_vector_if_there_is_one():
    pooled = jnp.ones((2, 5))
    assert summary(Features(TOKENS, jnp.ones((2, 3), bool), pooled)) is pooled


def test_summary_is_the_mean_of_real_tokens_and_zeros_without_any():
    mask = jnp.array([[True, False, True], [False] * 3])
    np.testing.assert_allclose(summary(Features(TOKENS, mask)), [[2.0, 3.0], [0.0, 0.0]])


def test_concatenate_keeps_order_and_masks_and_forgets_the_summaries():
    left, right = jnp.ones((2, 3), bool), jnp.zeros((2, 1), bool)
    both = concatenate(
        Features(TOKENS, left, jnp.ones((2, 2))), Features(-TOKENS[:, :1], right, jnp.ones((2, 2)))
    )
    assert both.pooled is None
    np.testing.assert_array_equal(both.tokens, np.concatenate([TOKENS, -TOKENS[:, :1]], axis=1))
    np.testing.assert_array_equal(both.mask, [[True, True, True, False]] * 2)


def test_concatenate_names_widths_that_differ():
    mask = jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="widths 2 and 1: project"):
        concatenate(Features(TOKENS, mask), Features(TOKENS[..., :1], mask))


def test_gather_rows_reorders_the_batch_of_every_leaf():
    cache = {"self": {"key": jnp.arange(6).reshape(1, 3, 2)}, "slot": jnp.array([[5, 6, 7]])}
    moved = gather_rows(cache, jnp.array([2, 2, 0, 1]))
    np.testing.assert_array_equal(moved["slot"], [[7, 7, 5, 6]])
    np.testing.assert_array_equal(moved["self"]["key"][0, :, 0], [4, 4, 0, 2])
