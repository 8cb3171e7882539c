"""Softmax attention, computed in the way that suits the device and the size."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vlm_jax.layers.constraints import platform

BIG = 2**20
"""Products of queries and keys beyond which a CPU computes them for one example at a time: they
then stay in its cache, and a backward pass computes them again instead of reading them back."""


FEW = 8
"""Queries up to which keys and values are read as they lie: a step of a decoder reads far more of
them than it computes."""


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
    big = rows > 1 and not few and q[..., 0].size * k.shape[2] > BIG and _on_one_cpu()
    if not (big or few or dropout) and softcap is None:
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        return jax.nn.dot_product_attention(q, k, v, relative, mask, scale=scale)
    one = partial(_one, scale=scale or q.shape[-1] ** -0.5, softcap=softcap, dropout=dropout)
    given: dict[str, Any] = {"q": q, "k": k, "v": v, "mask": mask, "relative": relative}
    given["key"] = jax.random.split(key, rows) if dropout else None
    given = {name: x for name, x in given.items() if x is not None}
    whole = {name: x[0] for name, x in given.items() if len(x) != rows}
    own = {name: x for name, x in given.items() if name not in whole}
    apply = lambda row: one(**row, **whole)
    return jax.lax.map(jax.checkpoint(apply), own) if big else jax.vmap(apply)(own)


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


def _on_one_cpu() -> bool:
    """Whether this is compiled for a single CPU."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    return platform() == "cpu" and (mesh.empty or mesh.size == 1)
