"""What happens on the way of a branch that is added to what passes by: stochastic depth, the shift,
scale and gate that a condition sets, and which tokens it is of.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key


class Modulation(nn.Module):
    """`count` vectors of width D from a condition, all 0 at first (adaLN-Zero of DiT,
    arXiv:2212.09748, section 3.2).
    """

    count: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, condition: Float[Array, "B D"]) -> tuple[Float[Array, "B 1 D"], ...]:
        """The vectors, with an axis for the tokens that they are the same for."""
        zeros = nn.initializers.zeros_init()
        size = self.count * condition.shape[-1]
        dense = nn.Dense(size, kernel_init=zeros, dtype=self.dtype, name="dense")
        return tuple(jnp.split(dense(nn.silu(condition))[:, None], self.count, axis=-1))


def modulate(
    x: Float[Array, "B T D"], shift: Float[Array, "B 1 D"], scale: Float[Array, "B 1 D"]
) -> Float[Array, "B T D"]:
    """X scaled by 1 + scale and shifted."""
    return x * (1.0 + scale) + shift


def drop_path(
    x: Float[Array, "B T D"], rate: Float[Array, ""], key: Key[Array, ""]
) -> Float[Array, "B T D"]:
    """Stochastic depth (arXiv:1603.09382): a branch of an example vanishes, rate in [0, 1)."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, 1))
    return jnp.where(keep, x / (1.0 - rate).astype(x.dtype), jnp.zeros_like(x))


def on_share(
    leading: int | None, part: str, x: Float[Array, "B T D"], function: Callable[[Array], Array]
) -> Float[Array, "B T D"]:
    """X with `function` applied to the tokens that a part of a block is of.

    leading: how many tokens come first, None where all parts are of all tokens. Part "self" is of
    all, "rest_mlp" of those after the first, every other part of these; a part of none is left out.
    """
    if leading is None or part == "self":
        return function(x)
    shares = [x[:, :leading], x[:, leading:]]
    own = 1 if part == "rest_mlp" else 0
    if shares[own].shape[1]:
        shares[own] = function(shares[own])
    return jnp.concatenate(shares, axis=1)
