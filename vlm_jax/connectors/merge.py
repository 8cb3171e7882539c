"""Fewer image tokens: neighbours side by side in one vector."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike

from vlm_jax.connectors.mlp import MlpConnector
from vlm_jax.layers.norms import make_norm
from vlm_jax.types import Features


class MergeConnector(nn.Module):
    """One token of each block of side x side patches, all their channels side by side, then an MLP.

    The patches of a block follow one another, as a ViT with the same `block` gives them: row after
    row, which makes this the pixel shuffle of Idefics3 (arXiv:2408.12637, section 3.1) and the
    merger of Qwen2-VL (arXiv:2409.12191, section 2.1). norm: of every patch beforehand (see
    make_norm), or None. widths, activation, bias: of the MLP, see `MlpConnector`.
    """

    side: int
    widths: Sequence[int]
    activation: str = "gelu"
    bias: bool = True
    norm: str | None = None
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, *, train: bool = False) -> Features:
        """S / side^2 tokens of the last width; no pooled vector. ValueError if S is no multiple.

        A token is real if any of its patches is. Its place counts blocks.
        """
        x, count = visual.tokens, self.side**2
        if x.shape[1] % count:
            raise ValueError(
                f"{x.shape[1]} image tokens are not whole blocks of {self.side} x {self.side}"
            )
        if self.norm is not None:
            x = make_norm(self.norm, epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        x = rearrange(x, "B (S n) D -> B S (n D)", n=count)
        real = jnp.any(rearrange(visual.mask, "B (S n) -> B S n", n=count), axis=-1)
        mlp = MlpConnector(self.widths, self.activation, self.bias, dtype=self.dtype, name="mlp")
        merged = mlp(Features(x, real), train=train)
        if visual.places is None:
            return merged
        scale = jnp.array([1, self.side, self.side])[None, None]
        return merged._replace(places=visual.places[:, ::count] // scale)
