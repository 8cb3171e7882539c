"""The one multi-head attention: self or cross, grouped-query, with or without a key/value cache."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.rotary import Rotary, rotate

KeyValues = Mapping[str, Array]
"""{"key": [B, M, N_kv, K], "value": [B, M, N_kv, K]}: one layer's share of a cache."""


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
        """Attend from x to itself, to `context`, or to what a cache holds: (output, new cache).

        Without cache: keys and values come from `context`, or from x. With cache and slot
        (self-attention): those of x are written to slots slot ... slot + T - 1 and all M slots are
        attended to. With cache and no slot (cross-attention): those of `context` replace the cache,
        or the cached ones are used if context is None.
        rotary: angles of the T new tokens, applied to their queries and keys. relative: added to
        the products. ValueError if the heads do not divide the width, or the kv_heads the heads.
        """
        width = x.shape[-1]
        kv_heads = self.kv_heads or self.heads
        head_dim = self.head_dim or width // self.heads
        self._check(width, kv_heads)
        q = self._project("query", x, self.heads, head_dim)  # [B, T, N, K]
        q = q if rotary is None else rotate(q, rotary)
        if cache is not None and slot is None and context is None:
            k, v = cache["key"], cache["value"]
        else:
            source = x if context is None else context
            k = self._project("key", source, kv_heads, head_dim)  # [B, S, N_kv, K]
            k = k if rotary is None else rotate(k, rotary)
            v = self._project("value", source, kv_heads, head_dim)
        if cache is not None:
            if slot is not None:
                k = jax.lax.dynamic_update_slice_in_dim(cache["key"], k, slot, axis=1)
                v = jax.lax.dynamic_update_slice_in_dim(cache["value"], v, slot, axis=1)
            cache = {"key": k, "value": v}
        attended = self._attend(q, k, v, mask, relative, train)  # [B, T, N, K]
        size = self.out_width or width
        out = nn.Dense(size, use_bias=self.out_bias, dtype=self.dtype, name="out")(
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
        bias = self.bias
        if name == "key" and self.key_bias is not None:
            bias = self.key_bias
        dense = nn.Dense(heads * head_dim, use_bias=bias, dtype=self.dtype, name=name)
        x = rearrange(dense(x), "B S (N K) -> B S N K", N=heads)
        if self.qk_norm is None or name == "value":
            return x
        norm = {"epsilon": self.epsilon, "dtype": self.dtype, "name": f"{name}_norm"}
        return make_norm(self.qk_norm, **norm)(x)

    def _attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Array | None,
        relative: Array | None,
        train: bool,
    ) -> Float[Array, "B T N K"]:
        if not (train and self.dropout) and self.softcap is None:
            return jax.nn.dot_product_attention(q, k, v, relative, mask, scale=self.scale)
        # jax.nn.dot_product_attention can neither cap products nor drop probabilities.
        k, v = (jnp.repeat(y, self.heads // y.shape[2], axis=2) for y in (k, v))
        logits = jnp.einsum("BTNK,BSNK->BNTS", q, k, preferred_element_type=jnp.float32)
        logits = logits * (q.shape[-1] ** -0.5 if self.scale is None else self.scale)
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        if relative is not None:
            logits = logits + relative
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        probabilities = jax.nn.softmax(logits, axis=-1)  # [B, N, T, S]
        probabilities = nn.Dropout(self.dropout, deterministic=not train)(probabilities)
        return jnp.einsum("BNTS,BSNK->BTNK", probabilities.astype(v.dtype), v)
