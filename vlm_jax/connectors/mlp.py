"""A small MLP on every image token, as LLaVA-1.5 has it."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.embed import sincos_2d
from vlm_jax.layers.norms import make_norm
from vlm_jax.types import Features


class MlpConnector(nn.Module):
    """Dense layers with an activation between them (arXiv:2310.03744, section 3.3).

    widths: of the layers; the last is the width of the tokens that come out. norm: a normalisation
    of these (see `layers.norms.make_norm`), or None (GIT, arXiv:2205.14100, has one layer and a
    norm). positions: add the 2-D sin-cos position of each token in a square grid (ValueError for
    another number of tokens), for encoders that know none, such as a ResNet.
    """

    widths: Sequence[int]
    activation: str = "gelu"
    bias: bool = True
    norm: str | None = None
    epsilon: float = 1e-6
    positions: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, *, train: bool = False) -> Features:
        """The same tokens at the new width; no pooled vector."""
        x = visual.tokens
        for number, width in enumerate(self.widths):
            x = x if number == 0 else ACTIVATIONS[self.activation](x)
            name = f"dense_{number}"
            x = nn.Dense(width, use_bias=self.bias, dtype=self.dtype, name=name)(x)
        if self.norm is not None:
            x = make_norm(self.norm, epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        if self.positions:
            side = math.isqrt(x.shape[1])
            if side * side != x.shape[1]:
                raise ValueError(f"positions need a square grid, not {x.shape[1]} tokens")
            x = x + sincos_2d(side, side, x.shape[2]).astype(self.dtype)[None]
        return Features(x, visual.mask)
