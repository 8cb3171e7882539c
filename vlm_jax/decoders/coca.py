"""CoCa's text side: a text tower and, on top of it, a decoder that looks at the image."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.decoders.output_layer import at
from vlm_jax.layers.cache import empty_slots, merge, place, take, without
from vlm_jax.layers.embed import TokenEmbedding
from vlm_jax.layers.masks import causal_mask, padding_mask, zero_padding
from vlm_jax.layers.norms import NORMS
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Cache, Features

RELEASED = ("self", "mlp", "cross", "cross_mlp")
PAPER = ("self", "cross", "mlp")


class CoCaDecoder(nn.Module):
    """Unimodal layers, whose class token stands for the text, then layers that attend to the image.

    CoCa (arXiv:2205.01917, section 3.2). vocab: V. width: D. max_length: longest text. layers,
    heads, mlp_width: of the unimodal part; fused_layers, fused_heads, fused_mlp_width: of the
    multimodal one. parts: of a multimodal block: RELEASED, with an MLP after either attention, as
    open_clip trains it, or PAPER, with one.
    """

    vocab: int
    width: int = 512
    max_length: int = 76
    layers: int = 12
    heads: int = 8
    mlp_width: int = 2048
    fused_layers: int = 12
    fused_heads: int = 8
    fused_mlp_width: int = 2048
    parts: tuple[str, ...] = RELEASED
    activation: str = "gelu"
    epsilon: float = 1e-5
    dropout: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The text tower (embed, class_token, unimodal, text_norm), then fused and logits."""
        length = self.max_length + 1  # the class token's position comes last
        self.embed = TokenEmbedding(self.vocab, self.width, length, dtype=self.dtype)
        self.class_token = self.param("class_token", nn.initializers.normal(0.01), (self.width,))
        own, fused = self._stacks()
        self.unimodal = Transformer(**own)
        self.text_norm = NORMS["layer"](epsilon=self.epsilon, dtype=self.dtype)
        self.fused = Transformer(**fused)
        self.logits = nn.Dense(self.vocab, use_bias=False, dtype=self.dtype)

    def encode(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], *, train: bool = False
    ) -> Features:
        """The text tower by itself; `pooled` is its class token, which follows the text.

        ValueError for more than max_length tokens.
        """
        x = self.embed.words(tokens)
        own = jnp.broadcast_to(self.class_token.astype(self.dtype), (len(x), 1, self.width))
        x = self._located(jnp.concatenate([x, own], axis=1), mask)
        seen = jnp.concatenate([_seen(mask), mask[:, -1:]], axis=1)
        visible = causal_mask(seen.shape[1]) & padding_mask(seen)
        x, _ = self.unimodal(x, mask=visible, train=train)
        return Features(x[:, :-1], mask, self.text_norm(x[:, -1]))

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
        """Logits after each token; prefix changes nothing, as all is read from left to right.

        ValueError without memory and cache, or for more than max_length tokens.
        """
        real = jnp.ones(tokens.shape, bool) if mask is None else mask
        context = _context(memory, cache)
        if cache is None:
            x = self._located(self.embed.words(tokens), real)
            causal = causal_mask(x.shape[1])
            x, _ = self.unimodal(x, mask=causal & padding_mask(_seen(real)), train=train)
            begun = jnp.cumsum(real, axis=1) > 0
            x, _ = self.fused(x, mask=causal & padding_mask(begun), train=train, **context)
            return self.logits(at(x, after)).astype(jnp.float32), None
        placement, slots = place(real, cache)
        own = {name: cache[name] for name in ("unimodal", "fused")}
        states = merge(own, take(cache["memory"], "cross"))
        around: dict[str, Any] = dict(mask=placement.visible, slot=placement.slot, train=train)
        x = self.embed.locate(self.embed.words(tokens), placement.positions)
        x, first = self.unimodal(x, cache=states["unimodal"], **around)
        x, second = self.fused(x, cache=states["fused"], **around, **context)
        found = {"unimodal": first, "fused": second}
        known = {"mask": context["context_mask"][:, 0, 0][None]}
        cache = {**without(found, "cross"), **slots, "memory": merge(take(found, "cross"), known)}
        return self.logits(at(x, after)).astype(jnp.float32), cache

    def init_cache(self, memory: Features, length: int, extra: int = 0) -> Cache:
        """Zeros for this memory and `length` text tokens, and `extra` slots for more hypotheses.

        ValueError if they are too many.
        """
        if length > self.max_length:
            raise ValueError(f"{length} tokens do not fit max_length={self.max_length}")
        batch, held = memory.mask.shape
        slots = length + extra
        own, fused = (Transformer(**fields, parent=None) for fields in self._stacks())
        states = {
            "unimodal": own.empty_cache(self.width, batch, slots),
            "fused": fused.empty_cache(self.width, batch, slots, held),
        }
        known = {"mask": jnp.zeros((1, batch, held), bool)}
        memory_states = merge(take(states, "cross"), known)
        return {**without(states, "cross"), **empty_slots(batch, slots), "memory": memory_states}

    @nn.nowrap
    def _stacks(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields of the unimodal and of the multimodal layers."""
        shared: dict[str, Any] = dict(activation=self.activation, epsilon=self.epsilon)
        shared |= dict(dropout=self.dropout, remat=self.remat, dtype=self.dtype)
        own = dict(layers=self.layers, heads=self.heads, mlp_width=self.mlp_width, final_norm=False)
        fused = dict(layers=self.fused_layers, heads=self.fused_heads)
        fused |= dict(mlp_width=self.fused_mlp_width, parts=tuple(self.parts), context_norm=True)
        return shared | own, shared | fused

    @nn.nowrap
    def _located(self, x: Float[Array, "B T D"], real: Bool[Array, "B S"]) -> Float[Array, "B T D"]:
        """X with positions that count from the first real token on."""
        if x.shape[1] > self.max_length + 1:
            raise ValueError(
                f"{x.shape[1]} tokens do not fit max_length={self.max_length}: shorten the text or "
                "raise max_length in the model's config"
            )
        before = jnp.argmax(real, axis=1)[:, None]
        return self.embed.locate(x, jnp.maximum(jnp.arange(x.shape[1])[None] - before, 0))


def _seen(real: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """The first real token and the one after each: the released networks' mask is one place off, so
    that their class token sees the first padding, and then itself only if there is none. Within a
    text, what follows a token with the id of padding is hidden in its place.
    """
    first = real & (jnp.cumsum(real, axis=1) == 1)
    return first | jnp.pad(real, ((0, 0), (1, 0)))[:, :-1]


def _context(memory: Features | None, cache: Mapping | None) -> dict[str, Any]:
    """What cross-attention reads: nothing if its keys and values are cached."""
    if memory is not None:
        seen = zero_padding(memory.tokens, memory.mask)
        return {"context": seen, "context_mask": padding_mask(memory.mask)}
    if cache is None:
        raise ValueError("CoCa's decoder needs a memory, or a cache that was filled with one")
    return {"context_mask": padding_mask(cache["memory"]["mask"][0])}
