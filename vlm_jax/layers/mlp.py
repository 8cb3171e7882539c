"""The one MLP of transformers, plain or gated."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, constrain


class Mlp(nn.Module):
    """Two dense layers with an activation between: D -> width -> D.

    gated: the activation multiplies a second projection (GLU variants, arXiv:2002.05202).
    """

    width: int
    activation: str = "gelu"
    bias: bool = True
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    gated: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, train: bool = False) -> Float[Array, "B T D"]:
        """KeyError if the activation is not in layers.activations.ACTIVATIONS."""
        dense = partial(nn.Dense, use_bias=self.bias, dtype=self.dtype)
        activation = ACTIVATIONS[self.activation]
        hidden = dense(self.width, name="up")(x)
        if self.gated:
            hidden = activation(dense(self.width, name="gate")(x)) * hidden
        else:
            hidden = activation(hidden)
        hidden = constrain(hidden, BATCH, LENGTH, SPLIT)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return dense(x.shape[-1], name="down")(hidden)
