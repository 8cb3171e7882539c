"""Softmax attention, computed in the way that suits the device and the size."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, axis_sizes, layout, platform, share

BIG = {"cpu": 2**20, "tpu": 2**24}
"""Products of queries and keys on one device beyond which it computes them for some examples at a
time, by its kind. In a backward pass it then computes them again instead of reading them back. On a
CPU they stay in its cache so; on a TPU they would else be the most of what a tower's step holds."""

FEW = 8
"""Queries up to which keys and values are read as they lie: a step of a decoder reads far more of
them than it computes."""

AXES = {
    "q": (BATCH, LENGTH, SPLIT),
    "k": (BATCH, SPLIT),
    "v": (BATCH, SPLIT),
    "mask": (BATCH, SPLIT, LENGTH),
    "relative": (BATCH, SPLIT, LENGTH),
    "key": (BATCH,),
}
"""The mesh axes over which each argument is split, as `Attention` leaves them."""


def dot_product_attention(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S K"],
    *,
    mask: Bool[Array, "#B #N #T S"] | None = None,
    relative: Float[Array, "#B N T S"] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    key: Any = None,
) -> Float[Array, "B T N K"]:
    """What each query sees: values weighted by the softmax of its products with the keys.

    G divides N: each of G key heads serves N / G successive query heads. relative: added to the
    products; mask: False hides a key; scale, softcap: see `Attention`. dropout: rate in [0, 1) on
    the weights, by a PRNG key. Softmax in f32. A query that sees nothing sees all alike.
    """
    rows, few = len(q), q.shape[1] <= FEW
    given: dict[str, Any] = {"q": q, "k": k, "v": v, "mask": mask, "relative": relative}
    at_once = rows if few else _at_once(q, k, dropout)
    if at_once == rows and not (few or dropout) and softcap is None:
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        return jax.nn.dot_product_attention(q, k, v, relative, mask, scale=scale)
    one = partial(_one, scale=scale or q.shape[-1] ** -0.5, softcap=softcap, dropout=dropout)
    given["key"] = jax.random.split(key, rows) if dropout else None
    given = {name: x for name, x in given.items() if x is not None}
    whole = {name: x[0] for name, x in given.items() if len(x) != rows}
    own = {name: x for name, x in given.items() if name not in whole}

    def some(own: Any, whole: Any) -> Float[Array, "B T N K"]:
        apply = lambda row: one(**row, **whole)
        if at_once == rows:
            return jax.vmap(apply)(own)
        return jax.lax.map(jax.checkpoint(apply), own, batch_size=at_once)

    if at_once == rows or math.prod(axis_sizes().values()) == 1:
        return some(own, whole)
    specs = {name: layout(x.shape, *AXES[name]) for name, x in given.items()}
    inputs = [{name: specs[name] for name in own}]
    inputs.append({name: PartitionSpec(*specs[name][1:]) for name in whole})
    return jax.shard_map(some, in_specs=tuple(inputs), out_specs=specs["q"])(own, whole)


def _at_once(q: Float[Array, "B T N K"], k: Float[Array, "B G S K"], dropout: float) -> int:
    """For how many examples a device computes its products at once; B where it does so for all."""
    rows, sizes = len(q), axis_sizes()
    here, length, heads, _ = share(q.shape, *AXES["q"])
    groups = share(k.shape, *AXES["k"])[1]
    each = length * heads * k.shape[2]
    whole = (
        here == 1,
        here == rows and any(sizes.get(axis, 1) > 1 for axis in BATCH),  # they do not divide it
        k.shape[1] > 1 and q.shape[2] * groups != k.shape[1] * heads,  # heads apart from their keys
        dropout and (length, heads) != q.shape[1:3],  # one key draws for all of an example
        here * each <= BIG.get(platform(), math.inf),
    )
    if any(whole):
        return rows
    most = 1 if platform() == "cpu" else max(1, BIG[platform()] // each)
    return max(count for count in range(1, most + 1) if here % count == 0)


def _one(
    q: Float[Array, "T N K"],
    k: Float[Array, "G S K"],
    v: Float[Array, "G S K"],
    mask: Bool[Array, "#N #T S"] | None = None,
    relative: Float[Array, "N T S"] | None = None,
    key: Any = None,
    *,
    scale: float,
    softcap: float | None,
    dropout: float,
) -> Float[Array, "T N K"]:
    """Attention of one example."""
    q = rearrange(q * scale, "T (G R) K -> G R T K", G=len(k))
    split = lambda x: x.reshape(min(len(x), len(k)), -1, *x.shape[1:])  # [G or 1, R or 1, T, S]
    logits = jnp.einsum("GRTK,GSK->GRTS", q, k, preferred_element_type=jnp.float32)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    if relative is not None:
        logits = logits + split(relative)
    if mask is not None:
        logits = jnp.where(split(mask), logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)  # [G, R, T, 1]
    if dropout:
        kept = jax.random.bernoulli(key, 1.0 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1.0 - dropout), 0.0)
    # Dividing what comes out, [G, R, T, K], saves a pass over the weights.
    found = jnp.einsum("GRTS,GSK->GRTK", weights.astype(v.dtype), v)
    return rearrange((found / total).astype(v.dtype), "G R T K -> T (G R) K")
