"""A fixed number of learned queries that read all image tokens: CoCa's pooler."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from vlm_jax.layers.attention import Attention
from vlm_jax.layers.masks import padding_mask
from vlm_jax.layers.norms import make_norm
from vlm_jax.types import Features


class AttentionalPooler(nn.Module):
    """Queries attend once to the image (arXiv:2205.01917, section 3.2, as open_clip released it).

    queries: their number; the first becomes `pooled`, the others the tokens. width: of both.
    pooling: "first", or "mean" of the others. epsilon: of the three norms, of the queries, of what
    they read and of what comes out.
    """

    queries: int = 256
    width: int = 768
    heads: int = 8
    pooling: str = "first"
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, *, train: bool = False) -> Features:
        """Q - 1 tokens and their summary, [B, width]. ValueError for another pooling."""
        if self.pooling not in ("first", "mean"):
            raise ValueError(f'pooling={self.pooling!r}: choose "first" or "mean"')
        norm = lambda name: make_norm("layer", epsilon=self.epsilon, dtype=self.dtype, name=name)
        shape, batch = (self.queries, self.width), visual.tokens.shape[0]
        table = self.param("query", nn.initializers.normal(1.0), shape)
        query = norm("query_norm")(table[None])
        query = jnp.broadcast_to(query, (batch, *shape))
        attention = Attention(self.heads, dtype=self.dtype, name="attention")
        seen = norm("context_norm")(visual.tokens)
        x, _ = attention(query, seen, mask=padding_mask(visual.mask))
        x = norm("norm")(x)
        pooled = x[:, 0] if self.pooling == "first" else jnp.mean(x[:, 1:], axis=1)
        return Features(x[:, 1:], jnp.ones((batch, self.queries - 1), bool), pooled)
