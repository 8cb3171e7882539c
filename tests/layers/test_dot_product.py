"""Attention one example at a time is the same function, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import sharding
from vlm_jax.layers import dot_product
from vlm_jax.layers.dot_product import dot_product_attention

B, T, S, N, K = 3, 5, 7, 4, 6


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs(heads: int):
    return normal(B, T, N, K), normal(B, heads, S, K, seed=1), normal(B, heads, S, K, seed=2)


GIVEN = {
    "nothing": {},
    "a mask for each example": {"mask": normal(B, 1, T, S, seed=3) > -0.5},
    "one mask": {"mask": normal(1, 1, T, S, seed=3) > -0.5, "scale": 0.7},
    "a bias for each": {"relative": normal(B, N, T, S, seed=4)},
    "one bias and a mask": {"relative": normal(1, N, T, S, seed=4)}
    | {"mask": normal(B, 1, 1, S, seed=5) > -0.5},
}


@pytest.mark.parametrize("heads", [N, 2, 1])
@pytest.mark.parametrize("name", GIVEN)
def test_every_way_gives_the_same(monkeypatch, name, heads):
    q, k, v = inputs(heads)
    weight = normal(B, T, N, K, seed=6)

    def outputs(attend):
        loss = lambda *arrays: jnp.sum(weight * attend(*arrays))
        return attend(q, k, v), jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    options = dict(GIVEN[name])
    expected = outputs(
        lambda q, k, v: jax.nn.dot_product_attention(
            *(q, k.swapaxes(1, 2), v.swapaxes(1, 2), options.get("relative"), options.get("mask")),
            scale=options.get("scale"),
        )
    )
    for few, big in ((0, 0), (T, 0), (0, 10**9)):
        monkeypatch.setitem(dot_product.BIG, "cpu", big)
        monkeypatch.setattr(dot_product, "FEW", few)
        found = outputs(functools.partial(dot_product_attention, **options))
        for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, want, atol=5e-6)


SPLIT_GIVEN = {
    "nothing": {},
    "a mask for each example": {"mask": normal(8, 1, 6, S, seed=3) > -0.5},
    "one mask": {"mask": normal(1, 1, 1, S, seed=3) > -0.5, "softcap": 0.8},
    "one bias": {"relative": normal(1, N, 6, S, seed=4)},
}


@pytest.mark.parametrize("heads", [2, 1])
@pytest.mark.parametrize("name", SPLIT_GIVEN)
def test_devices_compute_their_share_some_examples_at_a_time(monkeypatch, name, heads):
    q, k, v = normal(8, 6, N, K), normal(8, heads, S, K, seed=1), normal(8, heads, S, K, seed=2)
    weight, options = normal(*q.shape, seed=6), SPLIT_GIVEN[name]

    def outputs(q, k, v):
        loss = lambda *arrays: jnp.sum(weight * dot_product_attention(*arrays, **options))
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)

    expected = outputs(q, k, v)
    monkeypatch.setattr(dot_product, "platform", lambda: "tpu")
    monkeypatch.setattr(dot_product, "FEW", 0)
    monkeypatch.setitem(dot_product.BIG, "tpu", 2 * 3 * 2 * S)  # two examples' products
    with jax.set_mesh(sharding.make_mesh({"data": 2, "tensor": 2, "context": 2})):
        program = jax.jit(outputs).lower(q, k, v)
        found = program.compile()(q, k, v)
    assert f"tensor<2x1x2x3x{S}xf32>" in program.as_text()
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=5e-6)


def test_softcap_and_dropout_do_not_depend_on_the_way(monkeypatch):
    q, k, v = inputs(2)
    options = {"softcap": 0.8, "dropout": 0.3, "key": jax.random.key(0)}
    expected = dot_product_attention(q, k, v, **options)
    monkeypatch.setitem(dot_product.BIG, "cpu", 0)
    monkeypatch.setattr(dot_product, "FEW", 0)
    np.testing.assert_allclose(dot_product_attention(q, k, v, **options), expected, atol=1e-6)
    assert not np.allclose(dot_product_attention(q, k, v, softcap=0.8), expected, atol=1e-3)


def test_big_products_are_never_all_in_memory(monkeypatch):
    """16 examples of 8 heads and 256 x 256 products: 33.5 MB in f32, in a gradient several times.

    A GPU has other implementations: there they are the compiler's business.
    """
    shapes = [(16, 256, 8, 4), (16, 8, 256, 4), (16, 8, 256, 4)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    loss = lambda q, k, v: jnp.sum(dot_product_attention(q, k, v) ** 2)

    def temporaries():
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    products = 16 * 8 * 256 * 256 * 4
    assert temporaries() < products / 2
    monkeypatch.setattr(dot_product, "platform", lambda: "gpu")
    assert temporaries() > products


def test_a_gpu_computes_halves_by_cudnn_where_that_is_there(monkeypatch):
    asked = []
    plain = jax.nn.dot_product_attention

    def attend(*args, implementation=None, **kwargs):
        asked.append(implementation)
        if implementation and len(asked) > 1:
            raise RuntimeError("cuDNN is not detected.")
        return plain(*args, **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    monkeypatch.setattr(dot_product, "platform", lambda: "gpu")
    monkeypatch.setattr(dot_product, "FEW", 0)
    q, k, v = normal(2, T, N, 8), normal(2, N, S, 8, seed=1), normal(2, N, S, 8, seed=2)
    mask = normal(2, 1, T, S, seed=3) > -0.5
    halves = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    with pytest.warns(UserWarning, match="without cuDNN: cuDNN is not detected"):
        found = [dot_product_attention(*halves) for _ in range(2)]
    assert asked == ["cudnn", "cudnn", None] and (found[0] == found[1]).all()
    dot_product_attention(q, k, v), dot_product_attention(*halves, mask=mask)
    assert asked[3:] == [None, None]
