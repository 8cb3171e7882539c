"""Guided logits, and caches that hold both kinds of rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decode import guided


def decoder(tokens, memory, cache, *, mask=None, prefix=None):
    """Scores that depend on token, memory and the number of calls; the mask must be doubled."""
    assert mask is None or mask.shape == tokens.shape
    assert prefix is None
    logits = tokens[..., None] + memory[:, None, :] + cache
    return logits, cache + 1.0


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_logits_go_from_those_without_towards_those_with_the_text(scale):
    tokens = jnp.array([[1, 2], [3, 4]], jnp.float32)
    told, untold = np.array([[1.0, 5.0], [2.0, 6.0]]), np.array([[0.5, 0.5], [0.5, 0.5]])
    memory = jnp.concatenate([jnp.asarray(told), jnp.asarray(untold)])
    step = guided(decoder, scale)
    logits, cache = step(tokens, memory, jnp.zeros((1, 1, 1)), mask=tokens > 0, prefix=None)
    mixed = untold + scale * (told - untold)
    np.testing.assert_allclose(logits, np.asarray(tokens)[..., None] + mixed[:, None], rtol=1e-6)
    assert float(cache[0, 0, 0]) == 1.0
