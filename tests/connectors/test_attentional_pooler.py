"""The pooler against attention and norms applied by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.connectors.attentional_pooler import AttentionalPooler
from vlm_jax.layers.attention import Attention
from vlm_jax.types import Features

VISUAL = Features(
    jax.random.normal(jax.random.key(0), (2, 5, 6)),
    jnp.arange(5)[None] < jnp.array([[5], [3]]),
)


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p["bias"]


@pytest.fixture(scope="module")
def pooler():
    module = AttentionalPooler(queries=4, width=8, heads=2)
    shapes = jax.eval_shape(module.init, jax.random.key(1), VISUAL)
    rng = np.random.default_rng(2)
    return module, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def test_queries_read_the_image_once(pooler):
    module, variables = pooler
    found, params = module.apply(variables, VISUAL), variables["params"]
    query = norm(np.asarray(params["query"]), params["query_norm"])
    query = jnp.broadcast_to(query, (2, 4, 8))
    seen = norm(np.asarray(VISUAL.tokens), params["context_norm"])
    mask = VISUAL.mask[:, None, None]
    attend = jax.jit(Attention(2).apply)
    x, _ = attend({"params": params["attention"]}, query, seen, mask=mask)
    expected = norm(np.asarray(x), params["norm"])
    np.testing.assert_allclose(found.tokens, expected[:, 1:], atol=1e-4)
    np.testing.assert_allclose(found.pooled, expected[:, 0], atol=1e-4)
    assert found.mask.shape == (2, 3)
    mean = module.clone(pooling="mean").apply(variables, VISUAL)
    np.testing.assert_allclose(mean.pooled, expected[:, 1:].mean(axis=1), atol=1e-4)


def test_masked_tokens_influence_nothing(pooler):
    module, variables = pooler
    other = VISUAL._replace(tokens=jnp.where(VISUAL.mask[..., None], VISUAL.tokens, 7.0))
    expected = module.apply(variables, VISUAL)
    np.testing.assert_allclose(module.apply(variables, other).tokens, expected.tokens, atol=1e-5)


def test_unknown_pooling_is_explained():
    with pytest.raises(ValueError, match="pooling='last'"):
        AttentionalPooler(pooling="last").init(jax.random.key(0), VISUAL)
