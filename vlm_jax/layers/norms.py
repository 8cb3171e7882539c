"""Normalisation layers by name, with statistics in float32 whatever the compute dtype."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class OffsetRMSNorm(nn.Module):
    """RMS normalisation whose stored scale is added to one, all in float32 (Gemma's, 2403.08295).

    epsilon: added to the mean square. dtype: of the output.
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Normalise the last axis."""
        scale = self.param("scale", nn.initializers.zeros_init(), (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * (1.0 + scale).reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


# The two-pass variance: E[x^2] - E[x]^2 loses the digits that parity with others needs.
LAYER = partial(nn.LayerNorm, use_fast_variance=False)
NORMS = {
    "layer": LAYER,  # arXiv:1607.06450
    "layer_unbiased": partial(LAYER, use_bias=False),
    "layer_plain": partial(LAYER, use_bias=False, use_scale=False),
    "rms": partial(nn.RMSNorm, use_fast_variance=False),  # arXiv:1910.07467
    "rms_offset": OffsetRMSNorm,
}


def make_norm(kind: str, *, epsilon: float, dtype: DTypeLike, name: str) -> nn.Module:
    """A normalisation over the last axis, by its name in NORMS. ValueError for another name."""
    if kind not in NORMS:
        raise ValueError(f"unknown norm {kind!r}: choose one of {sorted(NORMS)}")
    return NORMS[kind](epsilon=epsilon, dtype=dtype, name=name)
