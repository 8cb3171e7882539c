"""A text as a bag of word embeddings: order plays no part."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int

from vlm_jax.layers.constraints import look_up
from vlm_jax.types import Features, summary


class BagOfWords(nn.Module):
    """The embedding of every token, and their mean, as in the iBOWIMG baseline (arXiv:1512.02167).

    vocab: V. width: D. dropout: rate in [0, 1) on the embeddings.
    """

    vocab: int
    width: int = 256
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], *, train: bool = False
    ) -> Features:
        """tokens: ids in [0, V); mask: True where real. `pooled` is zeros if none is real."""
        words = nn.Embed(self.vocab, self.width, dtype=self.dtype, name="embedding")
        x = nn.Dropout(self.dropout, deterministic=not train)(
            look_up(jnp.asarray(words.embedding, self.dtype), tokens)
        )
        return Features(x, mask, summary(Features(x, mask)))
