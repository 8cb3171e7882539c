"""The recurrent text encoder; its cells are tested with the layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.encoders.text_recurrent import RecurrentEncoder

TOKENS = jnp.array([[3, 1, 4], [2, 2, 1]])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_pooled_is_the_last_real_state_whatever_the_padding(randomise, cell, bidirectional):
    fields = {"width": 3, "hidden": 5, "layers": 2, "cell": cell, "bidirectional": bidirectional}
    encoder, mask = RecurrentEncoder(6, **fields), jnp.ones((2, 3), bool)
    variables, run = randomise(encoder, TOKENS, mask), jax.jit(encoder.apply)
    features = run(variables, TOKENS, mask)
    last = features.tokens[:, -1, :5]
    if bidirectional:
        last = jnp.concatenate([last, features.tokens[:, 0, 5:]], axis=-1)
    np.testing.assert_allclose(features.pooled, last, atol=1e-6)
    padded = run(variables, jnp.pad(TOKENS, ((0, 0), (0, 2))), jnp.pad(mask, ((0, 0), (0, 2))))
    np.testing.assert_allclose(padded.pooled, features.pooled, atol=1e-6)
    np.testing.assert_allclose(padded.tokens[:, :3], features.tokens, atol=1e-6)


def test_order_matters(randomise):
    encoder, mask = RecurrentEncoder(6, width=3, hidden=5), jnp.ones((2, 3), bool)
    variables, run = randomise(encoder, TOKENS, mask, scale=1.0), jax.jit(encoder.apply)
    change = run(variables, TOKENS, mask).pooled - run(variables, TOKENS[:, ::-1], mask).pooled
    assert float(jnp.abs(change).max(axis=1).min()) > 1e-3
