"""The transformer decoder: causal attention to the text, cross-attention to the memory."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.cache import empty_slots, place
from vlm_jax.layers.embed import TokenEmbedding
from vlm_jax.layers.masks import padding_mask, zero_padding
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Cache, Features


class CrossAttentionDecoder(nn.Module):
    """arXiv:1706.03762, section 3.1, over a memory of any width: its keys and values are projected
    to D.

    vocab: V. width: D. max_length: longest text in tokens. positions: see TokenEmbedding. tied:
    logits from the token embedding (arXiv:1608.05859), else from a dense layer of its own. The
    rest: see layers.transformer.Transformer.
    """

    vocab: int
    width: int = 256
    layers: int = 4
    heads: int = 8
    mlp_width: int = 1024
    max_length: int = 64
    positions: str = "learned"
    tied: bool = True
    norm: str = "layer"
    norm_first: bool = True
    activation: str = "gelu"
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
        """Logits after each token; prefix is not used, a prompt is read causally as well.

        ValueError without memory, unless the cache already knows it.
        """
        real = jnp.ones(tokens.shape, bool) if mask is None else mask
        placement, slots = place(real, cache)
        context, context_mask = self._remember(memory, cache)
        embed = TokenEmbedding(
            self.vocab, self.width, self.max_length, self.positions, dtype=self.dtype, name="embed"
        )
        x = nn.Dropout(self.dropout, deterministic=not train)(embed(tokens, placement.positions))
        x, states = Transformer(**self._fields(), name="transformer")(
            x,
            mask=placement.visible,
            context=context,
            context_mask=padding_mask(context_mask),
            cache=None
            if cache is None
            else {"self": cache["self"], "cross": cache["memory"]["cross"]},
            slot=placement.slot,
            train=train,
        )
        head = embed.attend if self.tied else nn.Dense(self.vocab, dtype=self.dtype, name="logits")
        if cache is not None and states is not None:
            known = {"cross": states["cross"], "mask": context_mask[None]}
            cache = {"self": states["self"], "memory": known, **slots}
        return head(x).astype(jnp.float32), cache

    def init_cache(self, memory: Features, length: int) -> Cache:
        """Zeros for `length` text tokens over this memory; ValueError above max_length."""
        if length > self.max_length:
            raise ValueError(
                f"a cache for {length} tokens does not fit max_length={self.max_length}: "
                "generate fewer tokens, shorten the prompt, or raise max_length in the model's "
                "config"
            )
        batch, memory_slots, _ = memory.tokens.shape
        stack = Transformer(**self._fields(), parent=None)
        states = stack.empty_cache(self.width, batch, length, memory_slots)
        known = {"cross": states["cross"], "mask": jnp.zeros((1, batch, memory_slots), bool)}
        return {"self": states["self"], "memory": known, **empty_slots(batch, length)}

    def _remember(
        self, memory: Features | None, cache: Cache | None
    ) -> tuple[Float[Array, "B S C"] | None, Bool[Array, "B S"]]:
        """What cross-attention reads, None if its keys and values are cached, and which of it is
        real.
        """
        if memory is not None:
            return zero_padding(memory.tokens, memory.mask), memory.mask
        if cache is None:
            raise ValueError(
                "CrossAttentionDecoder needs memory, or a cache that was filled with it"
            )
        return None, cache["memory"]["mask"][0]

    def _fields(self) -> Mapping:
        names = (
            "layers",
            "heads",
            "mlp_width",
            "norm",
            "norm_first",
            "activation",
            "dropout",
            "remat",
            "dtype",
        )
        fields = {name: getattr(self, name) for name in names}
        return fields | {"final_norm": self.norm_first, "cross_attention": True}
