"""Single-stream fusion: one transformer over image and text tokens together."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vlm_jax.layers.masks import padding_mask, zero_padding
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Features, concatenate, summary


class CrossModalFusion(nn.Module):
    """A bidirectional transformer over [visual; text] tokens that are told apart by segment
    embeddings.

    VisualBERT (arXiv:1908.03557, section 3.2): norm_first=False, pooling="first". ViLT
    (arXiv:2102.03334, section 3.1): norm_first=True, pooling="class". Image tokens are projected to
    `width`, text tokens only if theirs differs. pooling: "first" real text token, a learned "class"
    token that is prepended and not returned, or "mean" of all real tokens (ValueError otherwise); a
    tanh layer follows. heads: N, a divisor of width.
    """

    width: int
    layers: int = 4
    heads: int = 8
    mlp_width: int = 1024
    norm_first: bool = False
    pooling: str = "first"
    dropout: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, textual: Features, *, train: bool = False) -> Features:
        """Tokens f32[B, S + T, D], visual ones first."""
        if self.pooling not in ("first", "class", "mean"):
            raise ValueError(f'pooling={self.pooling!r}: choose "first", "class" or "mean"')
        both = self._embed(visual, textual)
        if not self.norm_first:
            both = both._replace(
                tokens=nn.LayerNorm(dtype=self.dtype, name="embed_norm")(both.tokens)
            )
        both = both._replace(tokens=nn.Dropout(self.dropout, deterministic=not train)(both.tokens))
        if self.pooling == "class":
            both = concatenate(self._class_token(len(both.tokens)), both)
        stack = Transformer(
            self.layers,
            self.heads,
            self.mlp_width,
            norm_first=self.norm_first,
            final_norm=self.norm_first,
            dropout=self.dropout,
            remat=self.remat,
            dtype=self.dtype,
            name="transformer",
        )
        x, _ = stack(both.tokens, mask=padding_mask(both.mask), train=train)
        pooled = self._pool(x, both, textual)
        pooled = jnp.tanh(nn.Dense(self.width, dtype=self.dtype, name="pooled")(pooled))
        length = visual.tokens.shape[1] + textual.tokens.shape[1]
        return Features(x[:, -length:], both.mask[:, -length:], pooled)

    def _embed(self, visual: Features, textual: Features) -> Features:
        """Both token sets at one width, plus the embedding of their segment: 0 image, 1 text."""
        seen = zero_padding(visual.tokens, visual.mask)
        read = zero_padding(textual.tokens, textual.mask)
        seen = nn.Dense(self.width, dtype=self.dtype, name="visual")(seen)
        if read.shape[-1] != self.width:
            read = nn.Dense(self.width, dtype=self.dtype, name="textual")(read)
        segment = self.param("segment", nn.initializers.normal(0.02), (2, 1, 1, self.width))
        segment = segment.astype(self.dtype)
        return concatenate(
            Features(seen + segment[0], visual.mask), Features(read + segment[1], textual.mask)
        )

    def _class_token(self, batch: int) -> Features:
        token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(self.dtype), (batch, 1, self.width))
        return Features(token, jnp.ones((batch, 1), bool))

    def _pool(
        self, x: Float[Array, "B M D"], both: Features, textual: Features
    ) -> Float[Array, "B D"]:
        if self.pooling == "mean":
            return summary(Features(x, both.mask))
        if self.pooling == "class":
            return x[:, 0]
        first = x.shape[1] - textual.mask.shape[1] + jnp.argmax(textual.mask, axis=1)  # [B]
        return jnp.take_along_axis(x, first[:, None, None], axis=1)[:, 0]
