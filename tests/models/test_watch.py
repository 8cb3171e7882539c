"""What is watched is what was computed, and watching changes nothing."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decoders.attending_lstm import AttendingLstm
from vlm_jax.layers.attention import Attention
from vlm_jax.layers.transformer import Transformer
from vlm_jax.models import watch
from vlm_jax.types import Features

X = jax.random.normal(jax.random.key(1), (2, 4, 8))
CONTEXT = jax.random.normal(jax.random.key(2), (2, 5, 6))


def shaken(variables):
    """Every parameter random, biases and norms too."""
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    drawn = [0.5 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


class Alone(nn.Module):
    """An attention with a path."""

    fields: dict

    @nn.compact
    def __call__(self, x, context=None, mask=None):
        return Attention(**self.fields, name="attention")(x, context, mask=mask)[0]


def apply(module, *args, **kwargs):
    return lambda variables, mutable: module.apply(variables, *args, **kwargs, mutable=mutable)


MASK = jnp.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], bool)[:, None, None]


@pytest.mark.parametrize(
    "fields",
    [
        dict(heads=2),
        dict(heads=4, kv_heads=2, head_dim=3),  # more keys than channels: in several parts
        dict(heads=2, softcap=1.5, qk_norm="rms", scale=0.7),
    ],
)
def test_weights_are_those_of_the_layer(fields):
    module = Alone(fields)
    variables = shaken(module.init(jax.random.key(0), X, CONTEXT))
    out, watched = watch.attention(apply(module, X, CONTEXT, mask=MASK), variables)
    np.testing.assert_allclose(out, module.apply(variables, X, CONTEXT, mask=MASK), atol=1e-5)
    (weights,) = watched.values.values()
    assert weights.shape == (2, fields["heads"], 4, 5) and watched.cross == {("attention", 0)}
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    assert not np.any(np.where(MASK, 0, weights))
    params = variables["params"]["attention"]
    project = lambda name, x, heads: (
        x @ params[name]["kernel"] + params[name]["bias"][None, None]
    ).reshape(*x.shape[:2], heads, -1)
    if "softcap" not in fields:
        q = project("query", X, fields["heads"])
        k = project("key", CONTEXT, fields.get("kv_heads", fields["heads"]))
        k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
        logits = jnp.einsum("BTNK,BSNK->BNTS", q, k) / np.sqrt(q.shape[-1])
        logits = jnp.where(MASK, logits, -jnp.inf)
        np.testing.assert_allclose(weights, jax.nn.softmax(logits, -1), atol=1e-5)


STACK = Transformer(3, 2, 16, parts=("self", "cross", "mlp"), cross_every=2, remat=True)


@pytest.fixture(scope="module")
def stack():
    return shaken(jax.jit(STACK.init)(jax.random.key(0), X, context=CONTEXT))


def test_scanned_layers_are_seen_in_the_order_in_which_they_run(stack):
    call = apply(STACK, X, context=CONTEXT)
    (out, _), watched = jax.jit(lambda v: watch.attention(call, v)[0])(stack), None
    np.testing.assert_allclose(out, STACK.apply(stack, X, context=CONTEXT)[0], atol=1e-4)
    _, watched = watch.attention(call, stack)
    seen = [(one.path, one.layer, one.cross) for one in watch.in_order(watched)]
    assert seen == [
        ("groups/block_0/self_attention", 0, False),
        ("groups/block_0/cross_attention", 0, True),
        ("groups/block_1/self_attention", 0, False),
        ("rest/block_0/self_attention", None, False),
        ("rest/block_0/cross_attention", None, True),
    ]
    shapes = [one.value.shape for one in watch.in_order(watched)]
    assert shapes == [(2, 2, 4, 4), (2, 2, 4, 5), (2, 2, 4, 4), (2, 2, 4, 4), (2, 2, 4, 5)]
    _, means = watch.attention(call, stack, heads=False)
    for key, value in watched.values.items():
        mean = value.mean(axis=-3, keepdims=True)
        np.testing.assert_allclose(means.values[key], mean, atol=1e-6)


def test_what_is_added_acts_like_a_change_of_the_weights(stack):
    call, key = apply(STACK, X, context=CONTEXT), ("groups/block_0/cross_attention", 0)

    def total(added):
        (out, _), watched = watch.attention(call, stack, added)
        return jnp.sum(out**2), watched.values[key]

    zeros = jnp.zeros((1, 2, 2, 4, 5))
    slope, weights = jax.jit(jax.grad(lambda a: total({key: a}), has_aux=True))(zeros)
    change = 1e-2 * jax.random.normal(jax.random.key(3), zeros.shape)
    there, back = (jax.jit(total)({key: sign * change}) for sign in (1.0, -1.0))
    np.testing.assert_allclose((there[0] - back[0]) / 2, jnp.sum(slope * change), rtol=2e-2)
    np.testing.assert_allclose(there[1], weights + change, atol=1e-6)


def test_outputs_of_any_module_are_seen_and_can_be_moved(stack):
    call = apply(STACK, X, context=CONTEXT)
    names = ("final_norm", "groups/block_1/mlp")
    (out, _), watched = watch.outputs(call, stack, names)
    np.testing.assert_allclose(watched.values["final_norm", 0], out, atol=1e-6)
    assert watched.values["groups/block_1/mlp", 0].shape == (1, 2, 4, 8)
    assert watched.stacked == {("groups/block_1/mlp", 0)}
    added = {("final_norm", 0): jnp.ones_like(out)}
    (moved, _), _ = watch.outputs(call, stack, names, added)
    np.testing.assert_allclose(moved, out + 1, atol=1e-6)
    with pytest.raises(ValueError, match="nowhere.*final_norm"):
        watch.outputs(call, stack, ("nowhere",))


def test_a_recurrent_decoder_tells_where_it_looks():
    tokens = jax.random.randint(jax.random.key(0), (2, 3), 1, 9)
    memory = Features(CONTEXT, MASK[:, 0, 0])

    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self):
            return AttendingLstm(9, width=8, attention_width=4, name="decoder")(tokens, memory)

    variables = shaken(Wrapped().init(jax.random.key(0)))
    (logits, _), watched = watch.attention(partial(_call, Wrapped()), variables)
    np.testing.assert_allclose(logits, Wrapped().apply(variables)[0], atol=1e-6)
    weights = watched.values["decoder", 0]
    assert weights.shape == (2, 1, 3, 5)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    assert not np.any(np.where(MASK, 0, weights))


def _call(module, variables, mutable):
    return module.apply(variables, mutable=mutable)
