"""Features computed beforehand pass through, or are projected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.encoders.precomputed import Precomputed

REGIONS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)


def test_regions_pass_through_with_their_mask():
    mask = jnp.array([[True, True, False], [True, True, True]])
    features = Precomputed().apply({}, REGIONS, mask)
    np.testing.assert_array_equal(features.tokens, REGIONS)
    np.testing.assert_array_equal(features.mask, mask)
    np.testing.assert_allclose(features.pooled[0], REGIONS[0, :2].mean(axis=0), atol=1e-6)


def test_one_vector_is_one_token_and_its_own_summary():
    features = Precomputed().apply({}, REGIONS[:, 0])
    np.testing.assert_array_equal(features.tokens[:, 0], REGIONS[:, 0])
    np.testing.assert_array_equal(features.pooled, REGIONS[:, 0])
    assert features.mask.shape == (2, 1)


def test_projection_is_one_dense_layer(randomise):
    encoder = Precomputed(width=5)
    variables = randomise(encoder, REGIONS)
    dense = variables["params"]["projection"]
    expected = np.asarray(REGIONS) @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(encoder.apply(variables, REGIONS).tokens, expected, atol=1e-5)


def test_images_are_not_features():
    with pytest.raises(Exception, match=r"B S D|another vision encoder"):
        Precomputed().apply({}, jnp.zeros((1, 8, 8, 3)))


def test_dropout_acts_in_training_only():
    rngs = {"dropout": jax.random.key(0)}
    features = Precomputed(dropout=0.5).apply({}, jnp.ones((4, 64)), train=True, rngs=rngs)
    assert set(np.unique(features.tokens)) == {0.0, 2.0}
