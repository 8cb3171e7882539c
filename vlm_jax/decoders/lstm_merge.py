"""The merge captioner: an LSTM reads the words, the image joins only where the next word is
chosen.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.decoders.output_layer import at
from vlm_jax.layers.constraints import look_up
from vlm_jax.layers.recurrent import Recurrent
from vlm_jax.types import Cache, Features, summary


class LstmMerge(nn.Module):
    """Image summary and text state meet by addition: "merge" of Tanti et al. (arXiv:1703.09137,
    section 3).

    vocab: V. width: D of the image layer, the embedding, the LSTM and the layer after the addition.
    With V = 7,579, D = 256 and 4,096-d image features (VGG-16 fc2): 5,527,963 parameters. dropout:
    on image features and word vectors.
    """

    vocab: int
    width: int = 256
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        memory: Features | None,
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        prefix: Int[Array, " B"] | None = None,
        after: Int[Array, " B"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B _ V"], Cache | None]:
        """Logits after each token, equal to running the network on each prefix; prefix is not used.

        ValueError without memory, unless the cache already knows it.
        """
        dense = lambda width, name: nn.Dense(width, dtype=self.dtype, name=name)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        real = jnp.ones(tokens.shape, bool) if mask is None else mask
        if memory is not None:
            image = nn.relu(dense(self.width, "image")(drop(summary(memory))))  # [B, D]
        elif cache is not None:
            image = cache["memory"]["image"][0]
        else:
            raise ValueError(
                "LstmMerge needs the image: pass memory, or a cache that was filled with it"
            )
        words = nn.Embed(self.vocab, self.width, dtype=self.dtype, name="token")
        x = drop(look_up(jnp.asarray(words.embedding, self.dtype), tokens))
        carry = None if cache is None else cache["carry"]
        hidden, carry = Recurrent(self.width, dtype=self.dtype, name="lstm")(
            x, real, carry
        )  # [B, T, D]
        merged = nn.relu(dense(self.width, "merged")(image[:, None] + at(hidden, after)))
        logits = dense(self.vocab, "logits")(merged).astype(jnp.float32)
        if cache is not None:
            cache = {"carry": carry, "memory": {"image": image[None]}}
        return logits, cache

    def init_cache(self, memory: Features, length: int, extra: int = 0) -> Cache:
        """Zeros for the batch of `memory`; an LSTM's state grows neither with length nor extra."""
        zeros = jnp.zeros((1, len(memory.tokens), self.width), self.dtype)
        return {"carry": (zeros, zeros), "memory": {"image": zeros}}
