"""The TPU's kernel, interpreted on a CPU, is the same function; and is what a TPU gets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import sharding
from vlm_jax.layers import dot_product
from vlm_jax.layers.dot_product import dot_product_attention
from vlm_jax.layers.flash import flash_attention

B, T, S, N, G, K = 8, 140, 130, 4, 2, 24


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs(rows: int):
    return normal(rows, T, N, K), normal(rows, G, S, K, seed=1), normal(rows, G, S, K, seed=2)


MASK = normal(B, 1, 1, S, seed=3) > -0.5
OPTIONS = {
    "a mask for each": {"mask": MASK, "scale": 0.3},
    "one mask, capped": {"mask": MASK[:1], "softcap": 0.8},
}


@pytest.fixture
def tpu(monkeypatch):
    """Attention as on a TPU, for which these lengths are long; returns how often it was tiled."""
    calls = []

    def interpreted(*args, **kwargs):
        calls.append(kwargs)
        return flash_attention(*args, **kwargs, interpret=True)

    monkeypatch.setattr(dot_product, "platform", lambda: "tpu")
    monkeypatch.setattr(dot_product, "LONG", 128)
    monkeypatch.setattr(dot_product, "flash_attention", interpreted)
    return calls


def outputs(q, k, v, **options):
    weight = normal(*q.shape, seed=6)
    loss = lambda *arrays: jnp.sum(weight * dot_product_attention(*arrays, **options))
    return jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)


def close(found, expected):
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients_equal_plain_attention(tpu, name):
    options = {key: x[:2] if key == "mask" else x for key, x in OPTIONS[name].items()}
    with dot_product.plain():
        expected = outputs(*inputs(2), **options)
    assert not tpu
    close(outputs(*inputs(2), **options), expected)
    assert len(tpu) == 1


LAYOUTS = [
    ({"fsdp": 2, "data": 2, "tensor": 2}, G),
    ({"context": 4, "data": 2}, G),
    ({"data": 4, "tensor": 2}, 1),
]


@pytest.mark.parametrize(("layout", "groups"), LAYOUTS)
def test_every_device_computes_its_rows_heads_and_queries(tpu, layout, groups):
    options = OPTIONS["a mask for each"]
    q, *keys = inputs(B)
    given = (q, *(x[:, :groups] for x in keys))
    with dot_product.plain():
        expected = outputs(*given, **options)
    with jax.set_mesh(sharding.make_mesh(layout)):
        found = jax.jit(functools.partial(outputs, **options))(*given)
    close(found, expected)
    assert len(tpu) == 1


def test_what_it_cannot_do_or_does_not_pay_is_left_to_the_others(tpu, monkeypatch):
    q, k, v = inputs(2)
    causal = jnp.tril(jnp.ones((1, 1, T, S), bool))
    outputs(q, k, v, mask=causal)
    outputs(q, k, v, relative=normal(1, N, T, S))
    outputs(q, k, v, dropout=0.5, key=jax.random.key(0))
    monkeypatch.setattr(dot_product, "LONG", 131)
    outputs(q, k, v)
    assert not tpu


def test_a_tpu_is_given_the_kernel(monkeypatch):
    monkeypatch.setattr(dot_product, "platform", lambda: "tpu")
    image = jax.ShapeDtypeStruct((1, 576, 2, 64), jnp.bfloat16)
    keys = jax.ShapeDtypeStruct((1, 2, 576, 64), jnp.bfloat16)
    traced = jax.jit(dot_product_attention).trace(image, keys, keys)
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()
