"""The one transformer stack: pre- or post-norm, with or without cross-attention, scanned."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.layers.attention import Attention
from vlm_jax.layers.norms import make_norm


class Mlp(nn.Module):
    """Two dense layers with an activation between: D -> width -> D."""

    width: int
    activation: str = "gelu"
    bias: bool = True
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, train: bool = False) -> Float[Array, "B T D"]:
        """KeyError if the activation is not in layers.activations.ACTIVATIONS."""
        hidden = nn.Dense(self.width, use_bias=self.bias, dtype=self.dtype, name="up")(x)
        hidden = ACTIVATIONS[self.activation](hidden)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return nn.Dense(x.shape[-1], use_bias=self.bias, dtype=self.dtype, name="down")(hidden)


class Block(nn.Module):
    """Self-attention, optionally cross-attention, and an MLP, each with a residual sum and a norm.

    norm_first: normalise what enters each part (ViT, GPT-2) or what leaves each residual sum
    (BERT). dropout: on attention probabilities and on what each part adds.
    """

    heads: int
    mlp_width: int
    kv_heads: int | None = None
    head_dim: int | None = None
    norm: str = "layer"
    norm_first: bool = True
    epsilon: float = 1e-6
    activation: str = "gelu"
    bias: bool = True
    cross_attention: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: Mapping | None,
        drop_path: Float[Array, ""] | None,
        mask: Bool[Array, "#B #N #T M"] | None,
        context: Float[Array, "B S C"] | None,
        context_mask: Bool[Array, "#B #N #T S"] | None,
        slot: Int[Array, ""] | None,
        train: bool,
    ) -> tuple[Float[Array, "B T D"], Mapping | None]:
        """One layer; cache holds its {"self": ..., "cross": ...} keys and values, or is None."""
        new_cache = {}
        attention: dict[str, Any] = dict(
            heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim
        )
        attention |= dict(bias=self.bias, out_bias=self.bias)
        attention |= dict(dropout=self.dropout, dtype=self.dtype)

        def attend(name, y, *, context=None, mask=None, slot=None):
            module = Attention(**attention, name=f"{name}_attention")
            part = None if cache is None else cache[name]
            out, new_cache[name] = module(y, context, mask=mask, cache=part, slot=slot, train=train)
            return out

        look = partial(attend, "self", mask=mask, slot=slot)
        x = self._residual("self", x, look, drop_path, train)
        if self.cross_attention:
            look = partial(attend, "cross", context=context, mask=context_mask)
            x = self._residual("cross", x, look, drop_path, train)
        mlp = Mlp(self.mlp_width, self.activation, self.bias, self.dropout, self.dtype, name="mlp")
        x = self._residual("mlp", x, partial(mlp, train=train), drop_path, train)
        if (
            context is None
        ):  # cross-attention read what was cached: handing it on would copy it at every step
            new_cache.pop("cross", None)
        return x, None if cache is None else new_cache

    def _residual(self, name, x, part, drop_path, train):
        norm = make_norm(self.norm, epsilon=self.epsilon, dtype=self.dtype, name=f"{name}_norm")
        added = part(norm(x) if self.norm_first else x)
        added = nn.Dropout(self.dropout, deterministic=not train)(added)
        if drop_path is not None:
            added = _drop_path(added, drop_path, self.make_rng("dropout"))
        return x + added if self.norm_first else norm(x + added)


def _drop_path(
    x: Float[Array, "B T D"], rate: Float[Array, ""], key: Array
) -> Float[Array, "B T D"]:
    """Stochastic depth (arXiv:1603.09382): a branch of an example vanishes, rate in [0, 1)."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, 1))
    return jnp.where(keep, x / (1.0 - rate).astype(x.dtype), jnp.zeros_like(x))


class Transformer(nn.Module):
    """`layers` blocks scanned with stacked parameters [L, ...]: compile time ignores depth.

    Fields are those of `Block`, and: drop_path, the stochastic-depth rate of the last layer (the
    first has 0, linear between). final_norm: one more norm at the end, as pre-norm stacks need.
    remat: recompute each layer's activations in the backward pass instead of storing them.
    """

    layers: int
    heads: int
    mlp_width: int
    kv_heads: int | None = None
    head_dim: int | None = None
    norm: str = "layer"
    norm_first: bool = True
    final_norm: bool = True
    epsilon: float = 1e-6
    activation: str = "gelu"
    bias: bool = True
    cross_attention: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: Bool[Array, "#B #N #T M"] | None = None,
        context: Float[Array, "B S C"] | None = None,
        context_mask: Bool[Array, "#B #N #T S"] | None = None,
        cache: Mapping | None = None,
        slot: Int[Array, ""] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Mapping | None]:
        """Run all layers: (hidden states, new cache); cache leaves [L, B, ...] (`empty_cache`)."""
        block = Block
        if self.remat:
            block = nn.remat(Block, prevent_cse=False, static_argnums=(8,))
        scan = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, 0, *(nn.broadcast,) * 5),  # pyright: ignore[reportArgumentType]  flax's stub knows ints only
            length=self.layers,
        )
        fields = {name: getattr(self, name) for name in BLOCK_FIELDS}
        drop_path = None
        if train and self.drop_path:
            drop_path = jnp.linspace(0.0, self.drop_path, self.layers)
        x, new_cache = scan(**fields, name="layers")(
            x.astype(self.dtype), cache, drop_path, mask, context, context_mask, slot, train
        )
        cache = None if cache is None or new_cache is None else {**cache, **new_cache}
        if self.final_norm:
            x = make_norm(self.norm, epsilon=self.epsilon, dtype=self.dtype, name="final_norm")(x)
        return x, cache

    def empty_cache(self, width: int, batch: int, slots: int, memory_slots: int = 0) -> Mapping:
        """Zeroed keys and values [L, B, M, N_kv, K] for this stack at model width `width`."""
        heads = (self.kv_heads or self.heads, self.head_dim or width // self.heads)

        def empty(length):
            shape = (self.layers, batch, length, *heads)
            return {name: jnp.zeros(shape, self.dtype) for name in ("key", "value")}

        cache = {"self": empty(slots)}
        return cache | {"cross": empty(memory_slots)} if self.cross_attention else cache


BLOCK_FIELDS = (
    "heads", "mlp_width", "kv_heads", "head_dim", "norm", "norm_first", "epsilon", "activation",
    "bias", "cross_attention", "dropout", "dtype",
)  # fmt: skip
