"""Doubly stochastic attention: a caption should look everywhere once (Show, Attend and Tell)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def doubly_stochastic(
    weights: Float[Array, "B T S"], mask: Bool[Array, "B T"]
) -> Float[Array, " B"]:
    """Sum over image tokens of (1 - sum over words of their attention) squared, per word.

    Eq. 14 of arXiv:1502.03044, section 4.2.1, without lambda and divided by the number of words, as
    our cross-entropy is. weights: in [0, 1], which sum to 1 over S. mask: the words that count; 0
    for a row without any.
    """
    words = mask[..., None].astype(jnp.float32)  # [B, T, 1]
    looked = jnp.sum(weights.astype(jnp.float32) * words, axis=1)  # [B, S]
    count = jnp.sum(words, axis=(1, 2))
    return jnp.where(count > 0, jnp.sum((1.0 - looked) ** 2, axis=1) / jnp.maximum(count, 1.0), 0.0)
