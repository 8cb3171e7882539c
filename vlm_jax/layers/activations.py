"""Activation functions by the names that papers and checkpoints use."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """X times the normal distribution function of x (arXiv:1606.08415, section 2).

    By erf, not by erfc as in jax.nn.gelu, which is exact further out in the negative tail, where
    what is added to a network is below rounding, and takes a CPU almost three times as long.
    """
    return x * (0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """X * sigmoid(1.702 x), the GELU of OpenAI's CLIP (arXiv:2103.00020)."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
