"""Every mask against the drawing in its docstring, and the relations between them."""

import inspect

import jax.numpy as jnp
import numpy as np

from vlm_jax.layers import masks


def drawing(function):
    """The rows of 0, 1 and - (not written yet) drawn in a docstring."""
    lines = [line.split() for line in inspect.getdoc(function).splitlines()]
    rows = [line for line in lines if line and set(line) <= {"0", "1", "-"}]
    return np.array([[cell == "1" for cell in row] for row in rows])


def test_padding_mask_is_as_drawn():
    mask = masks.padding_mask(jnp.array([[True, True, False]]))
    assert mask.shape == (1, 1, 1, 3)
    np.testing.assert_array_equal(mask[0, 0], drawing(masks.padding_mask))


def test_causal_mask_is_as_drawn():
    mask = masks.causal_mask(3)
    assert mask.shape == (1, 1, 3, 3)
    np.testing.assert_array_equal(mask[0, 0], drawing(masks.causal_mask))


def test_open_keys_are_seen_by_all_queries():
    mask = masks.with_open_keys(jnp.array([[[[True, False]]]]), 1)
    np.testing.assert_array_equal(mask[0, 0], drawing(masks.with_open_keys))


def test_block_mask_is_as_drawn():
    blocks = jnp.array([[1, 1, 0, 2, 2]])
    mask = masks.block_mask(blocks, blocks)
    assert mask.shape == (1, 1, 5, 5)
    np.testing.assert_array_equal(mask[0, 0], drawing(masks.block_mask))


def test_window_mask_is_as_drawn():
    positions = jnp.arange(3)[None]
    mask = masks.window_mask(positions, positions, 2)
    assert mask.shape == (1, 1, 3, 3)
    np.testing.assert_array_equal(mask[0, 0], drawing(masks.window_mask))


def test_cache_mask_is_as_drawn():
    real = jnp.array([[True, False, True, True, False]])
    mask = masks.cache_mask(jnp.array([2]), 2, real, bidirectional=False)
    assert mask.shape == (1, 1, 2, 5)
    np.testing.assert_array_equal(mask[0, 0], drawing(masks.cache_mask))


def test_cache_mask_lets_a_prompt_see_itself_but_not_stale_slots():
    real = jnp.array([[True, False, True, True, True]])  # the last slot is left from another text
    mask = masks.cache_mask(jnp.array([2]), 2, real, bidirectional=True)
    np.testing.assert_array_equal(mask[0, 0], np.tile([True, False, True, True, False], (2, 1)))


def test_cache_mask_of_a_whole_text_is_the_causal_mask():
    real = jnp.ones((1, 4), bool)
    mask = masks.cache_mask(jnp.array([0]), 4, real, bidirectional=False)
    np.testing.assert_array_equal(mask, masks.causal_mask(4))


def test_finite_padding_stays_as_it_is():
    x = jnp.array([[[1.0], [2.0], [jnp.nan], [-jnp.inf]]])
    found = masks.finite_padding(x, jnp.array([[True, False, False, False]]))
    np.testing.assert_array_equal(found[0, :, 0], [1, 2, 0, 0])


def test_latest_image_mask_is_as_drawn():
    mask = masks.latest_image_mask(jnp.array([[0, 1, 0, 1, 0]], bool), 2)
    np.testing.assert_array_equal(mask[0], drawing(masks.latest_image_mask))
