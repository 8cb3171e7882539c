"""Codebooks that follow what they stand for, and lattices that need none."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.quantize import (
    FiniteScalarQuantizer,
    VectorQuantizer,
    averaged_codebook,
    nearest,
    straight_through,
)

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_the_nearest_code_is_found():
    x, table = draw(2, 5, 3), draw(7, 3)
    distances = np.square(np.asarray(x)[:, :, None] - np.asarray(table)[None, None]).sum(-1)
    np.testing.assert_array_equal(nearest(x, table), distances.argmin(-1))


def test_the_gradient_passes_straight_through():
    x, target = draw(1, 2, 3), draw(1, 2, 3)
    loss = lambda x: jnp.sum(straight_through(x, jnp.round(x)) * target)
    np.testing.assert_array_equal(jax.grad(loss)(x), target)
    np.testing.assert_allclose(straight_through(x, jnp.round(x)), jnp.round(x), atol=1e-6)


def test_codes_become_the_running_means_of_their_vectors():
    x, ids = draw(1, 4, 2), jnp.array([[0, 0, 1, 0]])
    old = {"vectors": draw(3, 2), "counts": jnp.array([2.0, 1.0, 0.0]), "sums": draw(3, 2)}
    new = averaged_codebook(old, x, ids, KEY, decay=0.9, revive=0.0)
    counts = 0.9 * np.array([2.0, 1.0, 0.0]) + 0.1 * np.array([3, 1, 0])
    of_first = np.asarray(x)[0, [0, 1, 3]].sum(0)
    sums = 0.9 * np.asarray(old["sums"])
    sums[0] += 0.1 * of_first
    sums[1] += 0.1 * np.asarray(x)[0, 2]
    np.testing.assert_allclose(new["counts"], counts, rtol=1e-6)
    np.testing.assert_allclose(new["sums"], sums, rtol=1e-5)
    np.testing.assert_allclose(new["vectors"][:2], sums[:2] / counts[:2, None], rtol=1e-5)
    np.testing.assert_array_equal(new["vectors"][2], old["vectors"][2])  # never used: as it was


def test_dead_codes_are_revived_as_vectors_of_the_batch_and_others_are_not():
    x, ids = draw(2, 8, 2), jnp.zeros((2, 8), jnp.int32)
    old = {"vectors": draw(4, 2), "counts": jnp.zeros(4).at[0].set(9.0), "sums": draw(4, 2)}
    new = averaged_codebook(old, x, ids, KEY, decay=0.9, revive=0.5)
    given = np.asarray(x).reshape(-1, 2)
    for code in (1, 2, 3):
        gaps = np.abs(given - np.asarray(new["vectors"][code])).max(-1)
        assert gaps.min() < 1e-6
    assert np.abs(given - np.asarray(new["vectors"][0])).max(-1).min() > 1e-3


def test_averages_are_state_that_only_training_changes():
    quantizer, x = VectorQuantizer(codes=4, width=2), draw(2, 8, 2)
    variables = quantizer.init({"params": KEY, "dropout": KEY}, x)
    assert "params" not in variables
    before, changed = quantizer.apply(variables, x, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    _, changed = quantizer.apply(
        variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": KEY}
    )
    after = quantizer.apply(changed, x)
    assert float(jnp.sum(after.loss)) < float(jnp.sum(before.loss))
    vectors = quantizer.apply(changed, after.ids, method="look_up")
    np.testing.assert_allclose(after.vectors, vectors, atol=1e-6)


def test_a_learned_codebook_gets_gradients_towards_its_vectors():
    quantizer, x = VectorQuantizer(codes=3, width=2, decay=None), draw(1, 6, 2)
    variables = quantizer.init(KEY, x)
    assert set(variables) == {"params"}
    loss = lambda params: jnp.sum(quantizer.apply({"params": params}, x).loss)
    gradient = jax.grad(loss)(variables["params"])["codebook"]
    moved = {"codebook": variables["params"]["codebook"] - 0.1 * gradient}
    assert float(loss(moved)) < float(loss(variables["params"]))


@pytest.mark.parametrize("levels", [(3, 5), (4, 2, 3)])
def test_a_lattice_has_every_point_once_and_names_it_by_its_id(levels):
    quantizer = FiniteScalarQuantizer(levels)
    assert (quantizer.codes, quantizer.width) == (np.prod(levels), len(levels))
    ids = jnp.arange(quantizer.codes)[None]
    points = quantizer.apply({}, ids, method="look_up")[0]
    digits = itertools.product(*(range(level) for level in reversed(levels)))
    middles = [level // 2 for level in levels]
    expected = [
        [(d - m) / m for d, m in zip(reversed(row), middles, strict=True)] for row in digits
    ]
    np.testing.assert_allclose(points, expected, atol=1e-6)


def test_a_lattice_rounds_to_points_that_look_up_gives_back():
    quantizer, x = FiniteScalarQuantizer((8, 5, 3)), 2.0 * draw(2, 400, 3)
    found = quantizer.apply({}, x)
    again = quantizer.apply({}, found.ids, method="look_up")
    np.testing.assert_allclose(found.vectors, again, atol=1e-5)
    for channel, level in enumerate((8, 5, 3)):
        assert len(np.unique(np.round(again[..., channel], 4))) == level
    gradient = jax.grad(lambda x: jnp.sum(quantizer.apply({}, x).vectors))(x)
    assert float(jnp.min(jnp.abs(gradient))) > 0
    np.testing.assert_array_equal(quantizer.apply({}, jnp.zeros((1, 1, 3))).vectors, 0.0)
