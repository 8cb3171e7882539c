"""Show, Attend and Tell: an LSTM that looks at the image anew before every word."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.decoders.output_layer import at
from vlm_jax.layers.constraints import BATCH, constrain, look_up
from vlm_jax.layers.masks import zero_padding
from vlm_jax.types import Cache, Features, summary

LstmCarry = tuple[Float[Array, "B D"], Float[Array, "B D"]]
"""(c, h) of the LSTM."""


class AttendStep(nn.Module):
    """One word: attend with the previous state, gate what was seen, update the state
    (arXiv:1502.03044, section 3.1.2).
    """

    width: int
    attention_width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        carry: LstmCarry,
        x: Float[Array, "B D"],
        real: Bool[Array, " B"],
        seen: dict[str, Array],
    ) -> tuple[LstmCarry, tuple[Float[Array, "B D"], Float[Array, "B C"], Float[Array, "B S"]]]:
        """x: the word's vector. Returns the new carry, and (its h, the gated image context, the
        attention weights).
        """
        dense = lambda width, name: nn.Dense(width, dtype=self.dtype, name=name)
        hidden = carry[1]
        query = dense(self.attention_width, "query")(hidden)[:, None]  # [B, 1, A]
        scores = dense(1, "score")(jnp.tanh(seen["keys"] + query))[..., 0]  # [B, S]
        scores = jnp.where(seen["mask"], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        context = jnp.einsum("BS,BSC->BC", weights, seen["tokens"])
        context = jax.nn.sigmoid(dense(1, "gate")(hidden)) * context
        cell = nn.OptimizedLSTMCell(self.width, dtype=self.dtype, name="lstm")
        new, _ = cell(carry, jnp.concatenate([x, context], axis=-1))
        carry = jax.tree.map(
            lambda after, before: jnp.where(real[:, None], after, before), new, carry
        )
        return carry, (carry[1], context, weights)


class AttendingLstm(nn.Module):
    """Soft attention over image tokens, with its gate and deep output layer (arXiv:1502.03044,
    section 4.2 and eq. 7).

    vocab: V. width: D of word vectors and LSTM state. attention_width: of the additive attention.
    dropout: on word vectors and before the output layer.
    """

    vocab: int
    width: int = 512
    attention_width: int = 512
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        memory: Features | None,
        cache: Cache | None = None,
        **given: Any,
    ) -> tuple[Float[Array, "B _ V"], Cache | None]:
        """Logits; given: mask, prefix (not used), after and train, as in `look`."""
        logits, cache, _ = self.look(tokens, memory, cache, **given)
        return logits, cache

    @nn.compact
    def look(
        self,
        tokens: Int[Array, "B T"],
        memory: Features | None,
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        prefix: Int[Array, " B"] | None = None,
        after: Int[Array, " B"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B _ V"], Cache | None, Float[Array, "B T S"]]:
        """Logits after each token, the cache, and which image tokens each token looked at: weights
        that sum to 1 over S. ValueError without memory, unless the cache already knows it.
        """
        dense = lambda width, name: nn.Dense(width, dtype=self.dtype, name=name)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        real = jnp.ones(tokens.shape, bool) if mask is None else mask
        if memory is not None:
            carry, seen = self._begin(memory)
        elif cache is not None:
            carry, seen = jax.tree.map(lambda leaf: leaf[0], (cache["carry"], cache["memory"]))
        else:
            raise ValueError(
                "AttendingLstm needs the image: pass memory, or a cache that was filled with it"
            )
        words = nn.Embed(self.vocab, self.width, dtype=self.dtype, name="token")
        x = drop(look_up(jnp.asarray(words.embedding, self.dtype), tokens))
        x = constrain(x, BATCH)  # read one by one, so not split over devices
        carry, (hidden, context, weights) = self._scan()(carry, x, real, seen)  # [B, T, D or C]
        deep = jnp.tanh(
            x
            + dense(self.width, "deep_hidden")(hidden)
            + dense(self.width, "deep_context")(context)
        )
        logits = dense(self.vocab, "logits")(drop(at(deep, after))).astype(jnp.float32)
        if cache is not None:
            cache = jax.tree.map(lambda leaf: leaf[None], {"carry": carry, "memory": seen})
        return logits, cache, weights.astype(jnp.float32)

    def init_cache(self, memory: Features, length: int, extra: int = 0) -> Cache:
        """Zeros for the batch and tokens of `memory`; an LSTM's state grows neither with length nor
        with extra.
        """
        batch, slots, channels = memory.tokens.shape
        zeros = jnp.zeros((1, batch, self.width), self.dtype)
        seen = {
            "tokens": jnp.zeros((1, batch, slots, channels), self.dtype),
            "keys": jnp.zeros((1, batch, slots, self.attention_width), self.dtype),
            "mask": jnp.zeros((1, batch, slots), bool),
        }
        return {"carry": (zeros, zeros), "memory": seen}

    def _begin(self, memory: Features) -> tuple[LstmCarry, dict[str, Array]]:
        """The first carry, from the mean image token, and what every step attends to."""
        tokens = zero_padding(memory.tokens, memory.mask).astype(self.dtype)
        mean = summary(Features(tokens, memory.mask))
        first = lambda name: jnp.tanh(nn.Dense(self.width, dtype=self.dtype, name=name)(mean))
        keys = nn.Dense(self.attention_width, dtype=self.dtype, name="keys")(tokens)
        carry = (first("first_cell"), first("first_hidden"))
        return carry, {"tokens": tokens, "keys": keys, "mask": memory.mask}

    def _scan(self) -> nn.Module:
        scan = nn.scan(
            AttendStep,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(1, 1, nn.broadcast),  # pyright: ignore[reportArgumentType]  flax's stub knows ints only
            out_axes=1,
        )
        return scan(self.width, self.attention_width, self.dtype, name="step")
