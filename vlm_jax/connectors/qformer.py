"""BLIP-2's Q-Former: a few learned queries read the image tokens for a language model."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from vlm_jax.layers.masks import padding_mask, zero_padding
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.transformer import stack
from vlm_jax.types import Features


class QFormer(nn.Module):
    """Learned queries through a BERT-type stack that also attends to the image (arXiv:2301.12597,
    section 3.1).

    queries: Q, how many tokens come out. width: D. cross_every: the first of each so many layers
    has cross-attention. The others are those of `layers.transformer.Transformer`; dropout is also
    on the queries. The defaults are those of the paper.
    """

    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    cross_every: int = 2
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, visual: Features, *, train: bool = False) -> Features:
        """Q tokens of width D per image, all real; no pooled vector."""
        shape, batch = (1, self.queries, self.width), len(visual.tokens)
        queries = self.param("queries", nn.initializers.normal(0.02), shape).astype(self.dtype)
        norm = make_norm("layer", epsilon=self.epsilon, dtype=self.dtype, name="queries_norm")
        x = jnp.broadcast_to(norm(queries), (batch, *shape[1:]))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        own = dict(parts=("self", "cross", "mlp"), norm_first=False, final_norm=False)
        layers = stack(self, **own, name="transformer")
        seen = zero_padding(visual.tokens, visual.mask)
        x, _ = layers(x, context=seen, context_mask=padding_mask(visual.mask), train=train)
        return Features(x, jnp.ones(x.shape[:2], bool))
