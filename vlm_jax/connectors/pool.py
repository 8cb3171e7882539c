"""Fewer image tokens: averages of neighbours."""

import math

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array

from vlm_jax.layers.norms import make_norm
from vlm_jax.types import Features


class PoolConnector(nn.Module):
    """The average of each block of side x side patches, a norm and a matrix (arXiv:2503.19786).

    width: of the tokens that come out. norm: see make_norm.
    """

    side: int
    width: int
    norm: str = "rms_offset"
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, *, train: bool = False) -> Features:
        """Tokens of a square grid in row-major order to those of a coarser one; no pooled vector.

        Rows and columns beyond the last whole block are not seen. A token is real if any of its
        patches is. ValueError if there is no square grid, or it does not hold one block.
        """
        rows = math.isqrt(visual.tokens.shape[1])
        if rows**2 != visual.tokens.shape[1] or rows < self.side:
            raise ValueError(
                f"{visual.tokens.shape[1]} image tokens are no square grid of blocks of "
                f"{self.side} x {self.side}"
            )
        x = jnp.mean(self._blocks(visual.tokens, rows), axis=(2, 4))  # [B, h, w, D]
        real = jnp.any(self._blocks(visual.mask[..., None], rows), axis=(2, 4))
        x, real = (rearrange(y, "B h w D -> B (h w) D") for y in (x, real))
        x = make_norm(self.norm, epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        x = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="dense")(x)
        return Features(x, real[..., 0])

    @nn.nowrap
    def _blocks(self, x: Array, rows: int) -> Array:
        """[B, S, D] as [B, h, side, w, side, D]."""
        whole = rows // self.side * self.side
        x = rearrange(x, "B (H W) D -> B H W D", H=rows)[:, :whole, :whole]
        sizes = dict(p=self.side, q=self.side)
        return rearrange(x, "B (h p) (w q) D -> B h p w q D", **sizes)
