"""The small MLP against dense layers and a norm applied by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.connectors.mlp import MlpConnector
from vlm_jax.types import Features

TOKENS = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
VISUAL = Features(jnp.asarray(TOKENS), jnp.ones((2, 3), bool), jnp.ones((2, 4)))


def run(module: MlpConnector):
    """Its result with random parameters, and these."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), VISUAL)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    return module.apply(variables, VISUAL), variables["params"]


def test_dense_layers_with_an_activation_between():
    found, params = run(MlpConnector((5, 6), activation="relu"))
    hidden = np.maximum(TOKENS @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], 0)
    expected = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    np.testing.assert_allclose(found.tokens, expected, atol=1e-5)
    assert found.pooled is None


def test_a_norm_comes_last():
    found, params = run(MlpConnector((5,), bias=False, norm="layer"))
    x = TOKENS @ params["dense_0"]["kernel"]
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    expected = x * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(found.tokens, expected, atol=1e-4)
