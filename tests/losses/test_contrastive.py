"""Contrastive losses against their formulas; in tiles and in rings they are the same functions."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses import programs
from vlm_jax import losses

B, E = 4, 6
RNG = np.random.default_rng(0)
UNIT = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
IMAGE, TEXT = (UNIT(RNG.normal(size=(B, E))).astype(np.float32) for _ in range(2))
SCALE, BIAS = jnp.float32(5.0), jnp.float32(-2.0)
KINDS = {"softmax": losses.contrastive_softmax, "sigmoid": losses.contrastive_sigmoid}
KINDS["smoothed"] = functools.partial(losses.contrastive_softmax, label_smoothing=0.1)
ROWS = jax.P(("data", "fsdp"))
MESHES = [(1, 1), (8, 1), (4, 2), (1, 2)]


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_contrastive_softmax_is_cross_entropy_in_both_directions():
    logits = 5.0 * IMAGE.astype(np.float64) @ TEXT.T.astype(np.float64)
    rows, columns = log_softmax(logits), log_softmax(logits.T)
    expected = -(np.diag(rows) + np.diag(columns)) / 2
    found = losses.contrastive_softmax(jnp.asarray(IMAGE), jnp.asarray(TEXT), SCALE)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_contrastive_softmax_of_a_model_that_knows_nothing_is_log_of_the_batch():
    same = jnp.broadcast_to(jnp.asarray(IMAGE[:1]), (B, E))
    np.testing.assert_allclose(losses.contrastive_softmax(same, same, SCALE), np.log(B), rtol=1e-5)


def test_contrastive_sigmoid_asks_about_every_pair():
    expected = np.zeros(B)
    for i in range(B):
        for j in range(B):
            logit = 5.0 * float(IMAGE[i].astype(np.float64) @ TEXT[j]) - 2.0
            expected[i] += np.log1p(np.exp(-logit if i == j else logit))
    found = losses.contrastive_sigmoid(jnp.asarray(IMAGE), jnp.asarray(TEXT), SCALE, BIAS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "more"),
    [(losses.contrastive_softmax, (SCALE,)), (losses.contrastive_sigmoid, (SCALE, BIAS))],
)
def test_the_order_of_a_contrastive_batch_does_not_matter(loss, more):
    order = np.array([2, 0, 3, 1])
    image, text = jnp.asarray(IMAGE), jnp.asarray(TEXT)
    np.testing.assert_allclose(
        loss(image[order], text[order], *more), loss(image, text, *more)[order], rtol=1e-5
    )
    gradients = jax.grad(lambda *args: loss(*args, *more).sum(), argnums=(0, 1))(image, text)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradients)


def inputs(rows, size=16, scale=20.0):
    """Vectors of which pairs lie close, so that probabilities are neither 0 nor 1."""
    rng = np.random.default_rng(1)
    image = rng.normal(size=(rows, size))
    text = image + rng.normal(size=(rows, size))
    given = [UNIT(image), UNIT(text), scale]
    return [jnp.asarray(x, jnp.float32) for x in given]


def arguments(kind, rows):
    return inputs(rows) + ([jnp.float32(-7.0)] if kind == "sigmoid" else [])


def differentiated(loss):
    """The losses, and gradients of their weighted mean to all that goes in."""

    def total(*given):
        each = loss(*given)
        return jnp.mean(jnp.asarray(np.linspace(0.5, 1.5, len(each)), each.dtype) * each), each

    return lambda *given: jax.value_and_grad(total, tuple(range(len(given))), has_aux=True)(*given)


def formula(kind, image, text, scale, bias=0.0):
    """The loss in the precision of what goes in."""
    logits = scale * image @ text.T + bias
    if kind == "sigmoid":
        return jnp.sum(jnp.logaddexp(0, (1 - 2 * jnp.eye(len(image))) * logits), axis=1)
    lse = [jax.nn.logsumexp(logits, axis=axis) for axis in (0, 1)]
    own, spread = jnp.diagonal(logits), 0.1 if kind == "smoothed" else 0.0
    average = (jnp.mean(logits, axis=0) + jnp.mean(logits, axis=1)) / 2
    return (lse[0] + lse[1]) / 2 - (1 - spread) * own - spread * average


@functools.cache
def exact(kind, rows):
    with jax.enable_x64(True):
        given = [jnp.asarray(np.asarray(x, np.float64)) for x in arguments(kind, rows)]
        found = jax.jit(differentiated(functools.partial(formula, kind)))(*given)
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(found))
        return jax.device_get(found)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_in_a_ring_are_the_whole_matrix_in_value_and_gradient(kind, mesh):
    given, made = arguments(kind, 48), programs.mesh(*mesh)
    with jax.set_mesh(made):
        given[:2] = jax.device_put(given[:2], jax.NamedSharding(made, ROWS))
        found = jax.jit(differentiated(functools.partial(KINDS[kind], chunk=4)))(*given)
    for ours, true in zip(jax.tree.leaves(found), jax.tree.leaves(exact(kind, 48)), strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 7, 100])
def test_any_tile_size_will_do(chunk):
    given = inputs(7)
    whole = losses.contrastive_softmax(*given)
    np.testing.assert_allclose(losses.contrastive_softmax(*given, chunk=chunk), whole, atol=3e-6)


def test_bfloat16_vectors_are_compared_in_float32():
    image, text, scale = inputs(6)
    half = image.astype(jnp.bfloat16)
    found = jax.grad(lambda x: losses.contrastive_softmax(x, text, scale, chunk=2).sum())(half)
    assert found.dtype == jnp.bfloat16
    exact = losses.contrastive_softmax(half.astype(jnp.float32), text, scale)
    np.testing.assert_allclose(
        losses.contrastive_softmax(half, text, scale, chunk=2), exact, atol=3e-6
    )


def test_tiles_are_counted_in_rows():
    with pytest.raises(ValueError, match="chunk=0"):
        losses.contrastive_softmax(*inputs(4), chunk=0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_matrix_of_all_pairs_exists_and_memory_is_linear_in_the_batch(kind):
    def step(chunk, *given):
        loss = functools.partial(KINDS[kind], chunk=chunk)
        return jax.value_and_grad(lambda *x: loss(*x).mean(), (0, 1))(*given)

    def memory(chunk, rows):
        lowered = jax.jit(functools.partial(step, chunk)).lower(*arguments(kind, rows))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    square = lambda shapes: {s for s in shapes if np.prod(s, dtype=int) >= 256 * 256}
    assert not square(programs.shapes(functools.partial(step, 32), *arguments(kind, 256)))
    assert square(programs.shapes(functools.partial(step, None), *arguments(kind, 256)))
    assert memory(32, 2048) < 2.5 * memory(32, 1024) < memory(None, 1024)
    assert memory(None, 2048) > 3.5 * memory(None, 1024)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_matrix_needs_one_gathering_of_vectors(kind):
    given, mesh = arguments(kind, 48), programs.mesh(8)
    with jax.set_mesh(mesh):
        rows, whole = (jax.NamedSharding(mesh, spec) for spec in (ROWS, jax.P()))
        given[:2] = jax.device_put(given[:2], rows)
        out = ((whole, rows), (rows, rows, *[whole] * (len(given) - 2)))
        step = jax.jit(differentiated(KINDS[kind]), out_shardings=out)
        program = step.lower(*given).compile()
        found = program(*given)
    assert len(re.findall(r" all-gather(?:-start)?\(", program.as_text())) == 1
    assert "[48,48]" not in program.as_text() and "[6,48]" in program.as_text()
    for ours, true in zip(jax.tree.leaves(found), jax.tree.leaves(exact(kind, 48)), strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-5, atol=5e-6)


def test_several_devices_exchange_vectors_and_no_scores():
    mesh = programs.mesh(8)
    given = inputs(64)
    step = jax.value_and_grad(lambda *x: losses.contrastive_softmax(*x, chunk=8).mean(), (0, 1))
    with jax.set_mesh(mesh):
        given[:2] = jax.device_put(given[:2], jax.NamedSharding(mesh, ROWS))
        text = jax.jit(step).lower(*given).compile().as_text()
    assert "collective-permute" in text and "all-gather" not in text
    assert "[64,64]" not in text and "[8,64]" not in text


def test_the_best_of_an_images_vectors_counts():
    rng = np.random.default_rng(0)
    several, text = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 4))
    logits = 2.0 * np.einsum("iqe,je->ijq", several, text).max(axis=2)
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(axis=0, keepdims=True))
    given = [jnp.asarray(x, jnp.float32) for x in (several, text, 2.0)]
    found = losses.contrastive_softmax(*given)
    np.testing.assert_allclose(found, -np.diag(rows + columns) / 2, rtol=1e-5)
    with pytest.raises(ValueError, match="several vectors"):
        losses.contrastive_softmax(*given, chunk=2)
