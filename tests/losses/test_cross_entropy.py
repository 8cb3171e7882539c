"""Losses against their formulas written out in NumPy, and what must hold for any input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import losses

B, T, V = 4, 5, 7
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(B, T, V)).astype(np.float32)
TARGETS = RNG.integers(0, V, (B, T)).astype(np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_masked_cross_entropy_is_the_mean_over_real_targets(smoothing):
    expected = np.zeros(B)
    for row in range(B):
        terms = []
        for t in np.flatnonzero(MASK[row]):
            target = np.full(V, smoothing / V)
            target[TARGETS[row, t]] += 1 - smoothing
            terms.append(-(target * log_softmax(LOGITS[row, t].astype(np.float64))).sum())
        expected[row] = np.mean(terms) if terms else 0.0
    found = losses.masked_cross_entropy(
        *map(jnp.asarray, (LOGITS, TARGETS, MASK)), label_smoothing=smoothing
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[3] == 0


def test_what_is_masked_has_no_gradient_and_what_is_extreme_a_finite_one():
    extreme = jnp.asarray(LOGITS).at[:, 0].set(1e4).at[0, 1].set(-1e4)
    gradient = jax.grad(
        lambda x: losses.masked_cross_entropy(
            x, jnp.asarray(TARGETS), jnp.asarray(MASK), label_smoothing=0.1
        ).sum()
    )(extreme)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert bool(jnp.all(gradient[~MASK] == 0)) and bool(jnp.all(jnp.any(gradient[MASK] != 0, -1)))


def test_bfloat16_logits_are_summed_in_float32():
    found = losses.masked_cross_entropy(
        jnp.zeros((1, 1, 5000), jnp.bfloat16), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.log(5000), rtol=1e-6)


def test_softmax_cross_entropy_is_the_log_probability_of_the_label():
    logits, label = LOGITS[:, 0], TARGETS[:, 0]
    expected = -log_softmax(logits.astype(np.float64))[np.arange(B), label]
    found = losses.softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(label))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_binary_cross_entropy_sums_over_classes_and_bears_certainty():
    logits = LOGITS[:, 0].astype(np.float64)
    weights = RNG.random((B, V)).astype(np.float32)
    p = 1 / (1 + np.exp(-logits))
    expected = -(weights * np.log(p) + (1 - weights) * np.log(1 - p)).sum(axis=-1)
    found = losses.binary_cross_entropy(jnp.asarray(LOGITS[:, 0]), jnp.asarray(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    sure = jnp.array([[1e4, -1e4]])
    assert losses.binary_cross_entropy(sure, jnp.array([[1.0, 0.0]]))[0] == 0
    assert bool(jnp.isfinite(losses.binary_cross_entropy(sure, jnp.array([[0.0, 1.0]]))[0]))
