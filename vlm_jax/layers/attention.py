"""The one multi-head attention: self or cross, grouped-query, with or without a key/value cache."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

KeyValues = Mapping[str, Array]
"""{"key": [B, M, N_kv, K], "value": [B, M, N_kv, K]}: one layer's share of a cache."""


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (arXiv:1706.03762, section 3.2).

    heads: N. kv_heads: key/value heads, a divisor of N (None: N; fewer is grouped-query attention,
    arXiv:2305.13245). head_dim: K (None: D / N, which must then be whole). bias, out_bias: of the
    projections. dropout: rate in [0, 1) on the attention probabilities.
    """

    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    bias: bool = True
    out_bias: bool = True
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S C"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T M"] | None = None,
        cache: KeyValues | None = None,
        slot: Int[Array, ""] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], KeyValues | None]:
        """Attend from x to itself, to `context`, or to what a cache holds: (output, new cache).

        Without cache: keys and values come from `context`, or from x. With cache and slot
        (self-attention): those of x are written to slots slot ... slot + T - 1 and all M slots are
        attended to. With cache and no slot (cross-attention): those of `context` replace the cache,
        or the cached ones are used if context is None.
        ValueError if the heads do not divide the width, or the kv_heads the heads.
        """
        width = x.shape[-1]
        kv_heads = self.kv_heads or self.heads
        head_dim = self.head_dim or width // self.heads
        self._check(width, kv_heads)
        q = self._project("query", x, self.heads, head_dim)  # [B, T, N, K]
        if cache is not None and slot is None and context is None:
            k, v = cache["key"], cache["value"]
        else:
            source = x if context is None else context
            k = self._project("key", source, kv_heads, head_dim)  # [B, S, N_kv, K]
            v = self._project("value", source, kv_heads, head_dim)
        if cache is not None:
            if slot is not None:
                k = jax.lax.dynamic_update_slice_in_dim(cache["key"], k, slot, axis=1)
                v = jax.lax.dynamic_update_slice_in_dim(cache["value"], v, slot, axis=1)
            cache = {"key": k, "value": v}
        attended = self._attend(q, k, v, mask, train)  # [B, T, N, K]
        out = nn.Dense(width, use_bias=self.out_bias, dtype=self.dtype, name="out")(
            rearrange(attended, "B T N K -> B T (N K)")
        )
        return out, cache

    def _check(self, width: int, kv_heads: int) -> None:
        if self.head_dim is None and width % self.heads:
            raise ValueError(
                f"width {width} is not divisible by heads={self.heads}: change one, or set head_dim"
            )
        if self.heads % kv_heads:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={kv_heads}")

    def _project(self, name: str, x: Array, heads: int, head_dim: int) -> Float[Array, "B S N K"]:
        dense = nn.Dense(heads * head_dim, use_bias=self.bias, dtype=self.dtype, name=name)
        return rearrange(dense(x), "B S (N K) -> B S N K", N=heads)

    def _attend(self, q: Array, k: Array, v: Array, mask: Array | None, train: bool) -> Array:
        if not (train and self.dropout):
            return jax.nn.dot_product_attention(q, k, v, mask=mask)
        # jax.nn.dot_product_attention cannot drop probabilities, so they are spelled out here.
        k, v = (jnp.repeat(y, self.heads // y.shape[2], axis=2) for y in (k, v))
        logits = jnp.einsum("BTNK,BSNK->BNTS", q, k, preferred_element_type=jnp.float32)
        logits = logits / jnp.sqrt(q.shape[-1])
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        probabilities = jax.nn.softmax(logits, axis=-1)  # [B, N, T, S]
        probabilities = nn.Dropout(self.dropout, deterministic=False)(probabilities)
        return jnp.einsum("BNTS,BSNK->BTNK", probabilities.astype(v.dtype), v)
