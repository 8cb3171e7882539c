"""A text read word by word, by LSTM or GRU layers."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int

from vlm_jax.layers.constraints import look_up
from vlm_jax.layers.recurrent import Recurrent
from vlm_jax.types import Features


class RecurrentEncoder(nn.Module):
    """Word embeddings, then recurrent layers; `pooled` is the state after the last real token.

    vocab: V. width: of the embeddings. hidden: of each layer and direction; D is `hidden`, twice it
    if bidirectional (both directions' last states side by side). cell: "lstm" (as in
    arXiv:1505.00468, section 4) or "gru". dropout: on the embeddings and between layers.
    """

    vocab: int
    width: int = 256
    hidden: int = 256
    layers: int = 1
    cell: str = "lstm"
    bidirectional: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], *, train: bool = False
    ) -> Features:
        """tokens: ids in [0, V); mask: True where real: padding on either side changes nothing.

        A text without real tokens has zeros pooled. ValueError for an unknown cell.
        """
        words = nn.Embed(self.vocab, self.width, dtype=self.dtype, name="embedding")
        x = nn.Dropout(self.dropout, deterministic=not train)(
            look_up(jnp.asarray(words.embedding, self.dtype), tokens)
        )
        recurrent = Recurrent(
            self.hidden,
            self.layers,
            self.cell,
            self.bidirectional,
            self.dropout,
            self.dtype,
            name="recurrent",
        )
        states, carry = recurrent(x, mask, train=train)
        return Features(states, mask, recurrent.last_state(carry))
