"""The one multi-head attention: self or cross, grouped-query, with or without a key/value cache."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, constrain
from vlm_jax.layers.dot_product import dot_product_attention
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.rotary import Rotary, rotate

KeyValues = Mapping[str, Array]
"""{"key": [B, N_kv, M, K], "value": [B, N_kv, M, K]}: one layer's share of a cache."""


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (arXiv:1706.03762, section 3.2).

    heads: N. kv_heads: key/value heads, a divisor of N (None: N; fewer is grouped-query attention,
    arXiv:2305.13245). head_dim: K (None: D / N, which must then be whole).
    bias, key_bias, out_bias: of the query and value, the key (None: like bias) and the output
    projection. out_width: what that projects to (None: D). scale: what the products are multiplied
    by (None: K ** -0.5). softcap: c of c tanh(product / c) (arXiv:2408.00118, section 2), or None.
    qk_norm: the norm (see make_norm) of every query and key head, before rotation, or None.
    dropout: rate in [0, 1) on the attention probabilities.
    """

    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    bias: bool = True
    key_bias: bool | None = None
    out_bias: bool = True
    out_width: int | None = None
    scale: float | None = None
    softcap: float | None = None
    qk_norm: str | None = None
    epsilon: float = 1e-6
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S C"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T M"] | None = None,
        rotary: Rotary | None = None,
        relative: Float[Array, "#B N T M"] | None = None,
        cache: KeyValues | None = None,
        slot: Int[Array, ""] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T E"], KeyValues | None]:
        """Attend from x to itself, to `context`, or to what a cache holds: (output, and given a
        cache the keys and values that are to be written to it, see `cache.write`).

        Without cache: keys and values come from `context`, or from x. With cache and slot
        (self-attention): all M slots are attended to, x's own keys and values in slots slot ...
        slot + T - 1. With cache and no slot (cross-attention): those of `context` replace the
        cache, or the cached ones are used if context is None.
        rotary: angles of the T new tokens, applied to their queries and keys. relative: added to
        the products. ValueError if the heads do not divide the width, or the kv_heads the heads.
        """
        self._check(x.shape[-1])
        q = self._project("query", x, self.heads, self._head_dim(x))  # [B, T, N, K]
        q = q if rotary is None else rotate(q, rotary)
        k, v, cache = self._keys(x, context, rotary, cache, slot)
        # Queries stay where their tokens are; every device sees the keys of a whole sequence.
        k, v = (constrain(y, BATCH, SPLIT) for y in (k, v))
        dropped = self.dropout if train else 0.0
        attended = dot_product_attention(  # [B, T, N, K]
            *(q, k, v),
            mask=mask,
            relative=relative,
            scale=self.scale,
            softcap=self.softcap,
            dropout=dropped,
            key=self.make_rng("dropout") if dropped else None,
        )
        size = self.out_width or x.shape[-1]
        out = nn.Dense(size, use_bias=self.out_bias, dtype=self.dtype, name="out")(
            constrain(rearrange(attended, "B T N K -> B T (N K)"), BATCH, LENGTH, SPLIT)
        )
        return out, cache

    def _keys(
        self, x: Array, context: Array | None, by: Rotary | None, cache: Any, slot: Array | None
    ) -> tuple[Float[Array, "B G S K"], Float[Array, "B G S K"], KeyValues | None]:
        """What is attended to, and what of it is new and goes to the cache."""
        if cache is not None and slot is None and context is None:
            return cache["key"], cache["value"], cache
        source = x if context is None else context
        heads = self.kv_heads or self.heads
        k = self._project("key", source, heads, self._head_dim(x))
        k = k if by is None else rotate(k, by)
        v = self._project("value", source, heads, self._head_dim(x))
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [B, N_kv, S, K]
        if cache is None:
            return k, v, None
        new = {"key": k, "value": v}
        if slot is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache["key"], k, slot, axis=2)
            v = jax.lax.dynamic_update_slice_in_dim(cache["value"], v, slot, axis=2)
        return k, v, new

    def _head_dim(self, x: Array) -> int:
        return self.head_dim or x.shape[-1] // self.heads

    def _check(self, width: int) -> None:
        if self.head_dim is None and width % self.heads:
            raise ValueError(
                f"width {width} is not divisible by heads={self.heads}: change one, or set head_dim"
            )
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")

    def _project(self, name: str, x: Array, heads: int, head_dim: int) -> Float[Array, "B S N K"]:
        bias = self.bias
        if name == "key" and self.key_bias is not None:
            bias = self.key_bias
        dense = nn.Dense(heads * head_dim, use_bias=bias, dtype=self.dtype, name=name)
        x = rearrange(dense(x), "B S (N K) -> B S N K", N=heads)
        x = constrain(x, BATCH, LENGTH, SPLIT)
        if self.qk_norm is None or name == "value":
            return x
        norm = {"epsilon": self.epsilon, "dtype": self.dtype, "name": f"{name}_norm"}
        return make_norm(self.qk_norm, **norm)(x)
