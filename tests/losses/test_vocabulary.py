"""Cross-entropy in blocks of words against the same with all scores at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses import programs
from vlm_jax import losses

B, T, D, V = 8, 5, 12, 58  # neither 4 nor 8 devices divide 58 words
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
TABLE = RNG.normal(size=(V, D)).astype(np.float32)
BIAS = RNG.normal(size=V).astype(np.float32)
TARGETS = jnp.asarray(RNG.integers(0, V, (B, T)), jnp.int32)
MASK = jnp.asarray(RNG.random((B, T)) < 0.7).at[3].set(False)
WEIGHTS = jnp.linspace(0.5, 2.0, B)


def values_and_gradients(block, mesh=(1, 1), bias=True, softcap=None, smoothing=0.0, dtype="f4"):
    def total(hidden, table, bias):
        words = losses.Unembedding(hidden.astype(dtype), table, bias, softcap)
        if block is None:
            logits = words.logits()
            each = losses.masked_cross_entropy(logits, TARGETS, MASK, label_smoothing=smoothing)
        else:
            given = dict(block=block, label_smoothing=smoothing)
            each = losses.blocked_cross_entropy(words, TARGETS, MASK, **given)
        return jnp.sum(WEIGHTS * each), each

    found = programs.mesh(*mesh)
    with jax.set_mesh(found):
        hidden = jax.device_put(HIDDEN, jax.NamedSharding(found, jax.P(("data", "fsdp"))))
        given = (hidden, jnp.asarray(TABLE), jnp.asarray(BIAS) if bias else None)
        places = (0, 1, 2) if bias else (0, 1)
        (_, each), gradients = jax.jit(jax.value_and_grad(total, places, has_aux=True))(*given)
    return jax.device_get((each, gradients))


def check_equal(found, expected, tolerance=2e-6):
    for ours, true in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, true, rtol=tolerance, atol=tolerance * np.abs(true).max())


@pytest.mark.parametrize(
    ("block", "options"),
    [
        (8, {}),
        (58, {"bias": False}),
        (1000, {"smoothing": 0.1}),
        (17, {"smoothing": 0.2, "softcap": 3.0}),  # 17 does not divide 58
    ],
)
def test_blocks_of_words_give_the_same_losses_and_gradients(block, options):
    check_equal(values_and_gradients(block, **options), values_and_gradients(None, **options))


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4), (1, 8)])
def test_wherever_table_and_tokens_lie(mesh):
    options = {"smoothing": 0.1, "softcap": 3.0}
    check_equal(values_and_gradients(5, mesh, **options), values_and_gradients(None, **options))


def test_half_precision_is_kept_out_of_sums():
    found, expected = (values_and_gradients(b, dtype="bfloat16") for b in (7, None))
    check_equal(found, expected, 3e-2)
    exact = values_and_gradients(7)
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-2)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))


def test_blocks_are_counted_in_words():
    with pytest.raises(ValueError, match="block=0"):
        values_and_gradients(0)


def shaped(tokens, words):
    """Inputs that are only shapes: 2 examples."""
    shape = lambda *dims, dtype=jnp.float32: jax.ShapeDtypeStruct(dims, dtype)
    return shape(2, tokens, 4), shape(words, 4), shape(2, tokens, dtype=jnp.int32)


def step(block, hidden, table, targets):
    def loss(hidden, table):
        words, mask = losses.Unembedding(hidden, table), jnp.ones(targets.shape, bool)
        if block is None:
            return losses.masked_cross_entropy(words.logits(), targets, mask).mean()
        return losses.blocked_cross_entropy(words, targets, mask, block=block).mean()

    return jax.value_and_grad(loss, (0, 1))(hidden, table)


def test_scores_of_all_words_exist_nowhere():
    vocabulary, tokens = 257_152, 16
    given = shaped(tokens, vocabulary)
    for block, whole in ((8192, False), (None, True)):
        function = functools.partial(step, block)
        scores = [s for s in programs.shapes(function, *given) if vocabulary in s and 4 not in s]
        assert bool([s for s in scores if np.prod(s) > vocabulary]) == whole
        compiled = jax.jit(function).lower(*given).compile()
        table = vocabulary * 4 * 4
        held = compiled.memory_analysis().temp_size_in_bytes
        assert (held > 2 * tokens * vocabulary * 4) == whole
        if not whole:
            assert held < 2.1 * table + 2 * 2 * tokens * 8192 * 4
            assert f"{vocabulary}]" not in compiled.as_text().replace(f"[{vocabulary}]", "")


def test_a_split_table_is_never_whole_on_a_device():
    mesh = programs.mesh(1, 8)
    hidden, table, targets = shaped(16, 4096)
    hidden, targets = (jax.ShapeDtypeStruct((8, *x.shape[1:]), x.dtype) for x in (hidden, targets))
    place = lambda x, spec: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=jax.NamedSharding(mesh, spec)
    )
    rows, words = jax.P(("data", "fsdp")), jax.P("fsdp")
    given = (place(hidden, rows), place(table, words), place(targets, rows))
    out = (jax.NamedSharding(mesh, jax.P()), tuple(x.sharding for x in given[:2]))
    with jax.set_mesh(mesh):
        compiled = jax.jit(functools.partial(step, 64), out_shardings=out).lower(*given).compile()
    text = compiled.as_text()
    assert "4096,4]" not in text and "[512,4]" in text and "all-gather" not in text
