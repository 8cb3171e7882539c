"""Normalisation layers: their formulas, and float32 statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.norms import make_norm

KEY = jax.random.key(0)


def test_norms_equal_their_formulas():
    x = np.random.default_rng(0).normal(3.0, 2.0, (2, 3, 8))
    centred = x - x.mean(-1, keepdims=True)
    expected = {
        "layer": centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1),
        "rms": x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1),
    }
    for kind, values in expected.items():
        norm = make_norm(kind, epsilon=0.1, dtype=jnp.float32, name="norm")
        out = norm.apply(norm.init(KEY, jnp.asarray(x)), jnp.asarray(x))
        np.testing.assert_allclose(out, values, atol=1e-5)


def test_a_large_offset_does_not_eat_the_digits():
    x = jnp.asarray(1e4 + np.random.default_rng(0).normal(size=(1, 1, 64)), jnp.float32)
    norm = make_norm("layer", epsilon=1e-6, dtype=jnp.float32, name="norm")
    out = norm.apply(norm.init(KEY, x), x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean()) / exact.std()
    np.testing.assert_allclose(out, exact, atol=5e-3)


def test_unknown_norm_is_explained():
    with pytest.raises(ValueError, match="unknown norm 'batch'"):
        make_norm("batch", epsilon=1e-6, dtype=jnp.float32, name="norm")
