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


def clipped_gelu(x: Float[Array, "..."], most: float = 10.0) -> Float[Array, "..."]:
    """GELU, at most `most`, for networks that are quantised (arXiv:2004.09602)."""
    return jnp.minimum(gelu(x), most)


def squared_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square of x where x is positive (arXiv:2109.08668, section 4)."""
    return jnp.square(jax.nn.relu(x))


def laplace(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Half of 1 + erf((x - mean) / (deviation * sqrt(2))), squared ReLU with bounds
    (arXiv:2209.10655, section 3.3).
    """
    return 0.5 * (1 + jax.lax.erf((x - 0.707107) / (0.282095 * math.sqrt(2))))


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """X itself."""
    return x


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_10": clipped_gelu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "hard_silu": jax.nn.hard_silu,
    "laplace": laplace,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": identity,
    "mish": jax.nn.mish,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu2": squared_relu,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
