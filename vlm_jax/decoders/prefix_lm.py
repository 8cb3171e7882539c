"""The prefix language model: one causal transformer that reads image tokens as if they were
text.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.cache import Placement, empty_slots, place
from vlm_jax.layers.embed import TokenEmbedding
from vlm_jax.layers.masks import prefix_lm_mask, zero_padding
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Cache, Features


class PrefixLM(nn.Module):
    """A transformer over [memory projected to D; text]. Memory and prompt see each other in full,
    the rest is causal.

    GIT (arXiv:2205.14100, section 3.1, no prompt) and PaliGemma (arXiv:2407.07726, section 3.1).
    vocab: V. width: D. max_length: most memory and text tokens together. positions: see
    TokenEmbedding; they count the real tokens of memory and text. tied: logits from the token
    embedding, else from a dense layer of its own. The rest: see layers.transformer.Transformer.
    """

    vocab: int
    width: int = 256
    layers: int = 4
    heads: int = 8
    mlp_width: int = 1024
    max_length: int = 256
    kv_heads: int | None = None
    positions: str = "learned"
    tied: bool = True
    norm: str = "layer"
    norm_first: bool = True
    activation: str = "gelu"
    bias: bool = True
    dropout: float = 0.0
    remat: bool = False
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
        train: bool = False,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Logits after each token.

        prefix: how many of the first real tokens are prompt (None: none of them); given, like
        memory, on the first call only. Without memory and cache this is a language model of text
        alone. ValueError if memory and text exceed max_length.
        """
        text_real = jnp.ones(tokens.shape, bool) if mask is None else mask
        embed = TokenEmbedding(
            self.vocab, self.width, self.max_length, self.positions, dtype=self.dtype, name="embed"
        )
        x, real = embed.token(tokens), text_real
        if memory is not None:
            seen = zero_padding(memory.tokens, memory.mask)
            seen = nn.Dense(self.width, dtype=self.dtype, name="memory")(seen)
            x = jnp.concatenate([seen, x], axis=1)  # [B, S + T, D]
            real = jnp.concatenate([memory.mask, real], axis=1)
        self._check_length(x.shape[1])
        placement, slots = place(real, cache)
        visible = placement.visible
        if memory is not None or prefix is not None:
            visible = self._prefix_visible(placement, text_real, prefix, x.shape[1])
        x = nn.Dropout(self.dropout, deterministic=not train)(embed.locate(x, placement.positions))
        x, states = Transformer(**self._fields(), name="transformer")(
            x,
            mask=visible,
            cache=None if cache is None else {"self": cache["self"]},
            slot=placement.slot,
            train=train,
        )
        head = embed.attend if self.tied else nn.Dense(self.vocab, dtype=self.dtype, name="logits")
        logits = head(x[:, -tokens.shape[1] :]).astype(jnp.float32)
        return logits, None if states is None else {**states, **slots}

    def init_cache(self, memory: Features, length: int) -> Cache:
        """Zeros for this memory and `length` text tokens. ValueError if both together exceed
        max_length.
        """
        batch, memory_slots, _ = memory.tokens.shape
        slots = memory_slots + length
        self._check_length(slots)
        states = Transformer(**self._fields(), parent=None).empty_cache(self.width, batch, slots)
        return {**states, **empty_slots(batch, slots)}

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise ValueError(
                f"{length} memory and text tokens together do not fit "
                f"max_length={self.max_length}: "
                "shorten the text, use fewer image tokens, or raise max_length in the model's "
                "config"
            )

    def _prefix_visible(
        self,
        placement: Placement,
        text_real: Bool[Array, "B T"],
        prefix: Int[Array, " B"] | None,
        length: int,
    ) -> Bool[Array, "B 1 L M"]:
        """The prefix-LM mask of the L = `length` tokens of a first call, whose prefix is counted in
        slots, padding included.
        """
        prefix = jnp.zeros(len(text_real), jnp.int32) if prefix is None else prefix
        in_prompt = jnp.cumsum(text_real, axis=1) <= prefix[:, None]  # [B, T]
        memory_slots = length - text_real.shape[1]
        prefix_slots = memory_slots + jnp.sum(in_prompt, axis=1, dtype=jnp.int32)
        return prefix_lm_mask(placement.real, prefix_slots)[:, :, :length]

    def _fields(self) -> Mapping:
        names = (
            "layers",
            "heads",
            "mlp_width",
            "kv_heads",
            "norm",
            "norm_first",
            "activation",
            "bias",
        )
        fields = {name: getattr(self, name) for name in (*names, "dropout", "remat", "dtype")}
        return fields | {"final_norm": self.norm_first}
