"""Fusion by attention: text tokens look at the image and add what they find."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vlm_jax.layers.attention import Attention
from vlm_jax.layers.masks import padding_mask, zero_padding
from vlm_jax.layers.mlp import Mlp
from vlm_jax.layers.norms import make_norm
from vlm_jax.types import Features, summary


class AttentionFusion(nn.Module):
    """Text attends to the image in `layers` layers, each with a residual connection and a norm
    after it.

    heads: N, a divisor of the text's width D (ValueError otherwise); the image may have any width.
    mlp_width: of an MLP after each attention, as in a transformer decoder without self-attention
    (arXiv:1706.03762); 0 for none. layers >= 1.

    The texts may have n times as many rows as the images, rows i * n to i * n + n - 1 for image i:
    what is computed of an image is then computed once.
    """

    heads: int = 8
    layers: int = 1
    mlp_width: int = 0
    activation: str = "gelu"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    shares_images: ClassVar[bool] = True

    @nn.compact
    def __call__(self, visual: Features, textual: Features, *, train: bool = False) -> Features:
        """Tokens f32[B, T, D], the text's; pooled is the mean of the real ones."""
        if self.layers < 1:
            raise ValueError(f"attention fusion needs at least one layer, not layers={self.layers}")
        context = zero_padding(visual.tokens, visual.mask)
        x = textual.tokens.astype(self.dtype)
        # Words do not see each other here, so the texts of an image can be one long text.
        x = x.reshape(len(context), -1, x.shape[-1])
        for layer in range(self.layers):
            attention = Attention(
                self.heads, dropout=self.dropout, dtype=self.dtype, name=f"attention_{layer}"
            )
            attended, _ = attention(x, context, mask=padding_mask(visual.mask), train=train)
            x = self._add(f"attention_norm_{layer}", x, attended, train)
            if self.mlp_width:
                mlp = Mlp(
                    self.mlp_width,
                    self.activation,
                    dropout=self.dropout,
                    dtype=self.dtype,
                    name=f"mlp_{layer}",
                )
                x = self._add(f"mlp_norm_{layer}", x, mlp(x, train=train), train)
        fused = Features(x.reshape(textual.tokens.shape), textual.mask)
        return fused._replace(pooled=summary(fused))

    def _add(self, name: str, x: Array, added: Array, train: bool) -> Float[Array, "B T D"]:
        added = nn.Dropout(self.dropout, deterministic=not train)(added)
        return make_norm("layer", epsilon=1e-6, dtype=self.dtype, name=name)(x + added)
