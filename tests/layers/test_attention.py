"""Attention against a loop over heads, its cache, and its dropout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.attention import Attention
from vlm_jax.layers.masks import cache_mask, causal_mask, padding_mask

KEY = jax.random.key(0)


def normal(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def apply(module, variables, *inputs, train=False, **named):
    """Module.apply, compiled as one program."""
    return jax.jit(partial(module.apply, train=train))(variables, *inputs, **named)


def reference(params, x, context, visible, heads, kv_heads):
    """NumPy, one example, query, and head at a time; visible: bool[B, T, S]."""
    params, x, context = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (params, x, context)
    )
    dense = lambda name, y: y @ params[name]["kernel"] + params[name]["bias"]
    q, k, v = dense("query", x), dense("key", context), dense("value", context)
    size, out = q.shape[-1] // heads, np.zeros(q.shape)
    for b, t, n in np.ndindex(x.shape[0], x.shape[1], heads):
        mine = slice(n * size, (n + 1) * size)
        group = n // (heads // kv_heads)
        theirs = slice(group * size, (group + 1) * size)
        scores = k[b, visible[b, t], theirs] @ q[b, t, mine] / np.sqrt(size)
        weights = np.exp(scores - scores.max())
        out[b, t, mine] = weights / weights.sum() @ v[b, visible[b, t], theirs]
    return dense("out", out)


@pytest.mark.parametrize(("kv_heads", "head_dim"), [(None, None), (2, None), (1, None), (2, 3)])
def test_attention_equals_a_loop_over_heads(randomise, kv_heads, head_dim):
    x, context = normal((2, 3, 8)), normal((2, 5, 6), seed=2)
    real = jnp.arange(5)[None] < jnp.array([[5], [2]])
    layer = Attention(4, kv_heads=kv_heads, head_dim=head_dim)
    variables = randomise(layer, x, context)
    out, cache = apply(layer, variables, x, context, mask=padding_mask(real))
    visible = np.broadcast_to(np.asarray(real)[:, None], (2, 3, 5))
    expected = reference(variables["params"], x, context, visible, 4, kv_heads or 4)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert cache is None


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_the_path_with_dropout_computes_the_same_attention(randomise, kv_heads):
    x, mask = normal((2, 5, 8)), causal_mask(5)
    variables = randomise(Attention(4, kv_heads=kv_heads), x)
    plain, _ = apply(Attention(4, kv_heads=kv_heads), variables, x, mask=mask)
    dropped, _ = apply(
        Attention(4, kv_heads=kv_heads, dropout=1e-12),
        variables,
        x,
        mask=mask,
        train=True,
        rngs={"dropout": KEY},
    )
    np.testing.assert_allclose(dropped, plain, atol=1e-5)


def test_dropout_acts_in_training_only_and_keeps_the_mean(randomise):
    x, layer = normal((1, 4, 8)), Attention(2, dropout=0.5)
    variables = randomise(layer, x)
    run = lambda key: apply(layer, variables, x, train=True, rngs={"dropout": key})[0]
    samples = jax.vmap(run)(jax.random.split(KEY, 4000))
    expected, _ = apply(layer, variables, x)
    assert float(samples.std(axis=0).min()) > 0.01
    np.testing.assert_allclose(samples.mean(axis=0), expected, atol=0.06)


def test_an_example_without_any_visible_key_gets_finite_numbers():
    x, mask = normal((1, 2, 8)), jnp.zeros((1, 1, 1, 2), bool)
    for layer in (Attention(2), Attention(2, dropout=0.1)):
        variables = jax.jit(layer.init)(KEY, x)
        out, _ = apply(layer, variables, x, mask=mask, train=True, rngs={"dropout": KEY})
        assert bool(jnp.isfinite(out).all())


@pytest.mark.parametrize("kv_heads", [None, 1])
def test_self_attention_through_a_cache_equals_the_full_forward(randomise, kv_heads):
    x, layer = normal((2, 4, 8)), Attention(2, kv_heads=kv_heads)
    variables = randomise(layer, x)
    full, _ = apply(layer, variables, x, mask=causal_mask(4))
    empty = jnp.zeros((2, kv_heads or 2, 6, 4))
    cache, real, outs = {"key": empty, "value": empty}, jnp.ones((2, 6), bool), []
    for start, stop in ((0, 2), (2, 3), (3, 4)):
        slots = jnp.full((2,), start)
        mask = cache_mask(slots, stop - start, real, bidirectional=False)
        out, new = apply(layer, variables, x[:, start:stop], mask=mask, cache=cache, slot=slots[0])
        cache = {name: held.at[:, :, start:stop].set(new[name]) for name, held in cache.items()}
        outs.append(out)
    np.testing.assert_allclose(jnp.concatenate(outs, axis=1), full, atol=1e-5)


def test_cross_attention_reuses_the_keys_and_values_it_computed_once(randomise):
    x, context, layer = normal((2, 3, 8)), normal((2, 5, 6), seed=2), Attention(2)
    variables = randomise(layer, x, context)
    empty = jnp.zeros((2, 2, 5, 4))
    first, cache = apply(layer, variables, x, context, cache={"key": empty, "value": empty})
    again, _ = apply(layer, variables, x, None, cache=cache)
    expected, _ = apply(layer, variables, x, context)
    np.testing.assert_allclose(first, expected, atol=1e-6)
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_impossible_heads_are_explained():
    with pytest.raises(ValueError, match="width 8 is not divisible by heads=3"):
        Attention(3).init(KEY, normal((1, 2, 8)))
    with pytest.raises(ValueError, match="heads=4 is not a multiple of kv_heads=3"):
        Attention(4, kv_heads=3).init(KEY, normal((1, 2, 8)))
