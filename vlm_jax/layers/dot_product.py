"""Softmax attention, computed in the way that suits the device and the size."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, axis_sizes, layout, platform, share
from vlm_jax.layers.flash import flash_attention

BIG = {"cpu": 2**20, "tpu": 2**24}
"""Products of queries and keys on one device beyond which it computes them for some examples at a
time, by its kind. In a backward pass it then computes them again instead of reading them back. On a
CPU they stay in its cache so; on a TPU they would else be the most of what a tower's step holds."""

LONG = 512
"""Queries and keys from which on a TPU keeps their products on its core (`layers.flash`)."""

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


_plain = ContextVar("plain", default=False)


@contextmanager
def plain() -> Iterator[None]:
    """Within it, programs are traced that compute every product once, whatever the device: what a
    model needs, for those who count.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


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
    tiled = _tiled(q, k, mask, relative, dropout)
    at_once = rows if few or tiled else _at_once(q, k, dropout)
    if at_once == rows and not (few or dropout or tiled) and softcap is None:
        return _jax(q, k.swapaxes(1, 2), v.swapaxes(1, 2), relative, mask, scale)
    one: Any = partial(_one, dropout=dropout) if not tiled else flash_attention
    one = partial(one, scale=scale or q.shape[-1] ** -0.5, softcap=softcap)
    given["key"] = jax.random.split(key, rows) if dropout else None
    given = {name: x for name, x in given.items() if x is not None}
    shared = {name: x[0] for name, x in given.items() if len(x) != rows}
    own = {name: x for name, x in given.items() if name not in shared}

    def some(own: Any, shared: Any) -> Float[Array, "B T N K"]:
        apply = lambda row: one(**row, **shared)
        if at_once == rows:
            return jax.vmap(apply)(own)
        return jax.lax.map(jax.checkpoint(apply), own, batch_size=at_once)

    several = math.prod(axis_sizes().values()) > 1
    if not several or (at_once == rows and not tiled):
        return some(own, shared)
    specs = {name: layout(x.shape, *AXES[name]) for name, x in given.items()}
    inputs = [{name: specs[name] for name in own}]
    inputs.append({name: PartitionSpec(*specs[name][1:]) for name in shared})
    split = {"in_specs": tuple(inputs), "out_specs": specs["q"]}
    return jax.shard_map(some, **split, check_vma=not tiled)(own, shared)  # kernels are not checked


def _jax(
    q: Array, k: Array, v: Array, relative: Array | None, mask: Array | None, scale: float | None
) -> Float[Array, "B T N K"]:
    """JAX's own, on a GPU by cuDNN if that is there and takes these arrays: halves, and nothing
    that tells queries apart, since masks would reach it as whole arrays of f32.
    """
    attend = partial(jax.nn.dot_product_attention, q, k, v, relative, mask, scale=scale)
    halves = q.dtype in (jnp.bfloat16, jnp.float16) and relative is None and mask is None
    unsplit = share(q.shape, *AXES["q"])[1:3] == q.shape[1:3]
    if platform() == "gpu" and halves and unsplit and q.shape[-1] in range(8, 129, 8):
        try:
            return attend(implementation="cudnn")
        except (NotImplementedError, RuntimeError, ValueError) as reason:
            warnings.warn(f"attention without cuDNN: {reason}", stacklevel=2)
    return attend()


def _tiled(q: Array, k: Array, mask: Array | None, relative: Array | None, dropout: float) -> bool:
    """Whether a TPU's kernel computes this: long sequences in which all queries see the same."""
    same = mask is None or mask.shape[1:3] == (1, 1)
    if platform() != "tpu" or _plain.get() or not same or relative is not None or dropout:
        return False
    return min(q.shape[1], k.shape[2]) >= LONG and _by_itself(q, k)


def _by_itself(q: Float[Array, "B T N K"], k: Float[Array, "B G S K"]) -> bool:
    """Whether every device can attend with what it has: the mesh divides the rows that it splits,
    and query heads are where their key heads are.
    """
    here, _, heads, _ = share(q.shape, *AXES["q"])
    groups = share(k.shape, *AXES["k"])[1]
    undivided = here == len(q) > 1 and any(axis_sizes().get(axis, 1) > 1 for axis in BATCH)
    return not undivided and (k.shape[1] == 1 or q.shape[2] * groups == k.shape[1] * heads)


def _at_once(q: Float[Array, "B T N K"], k: Float[Array, "B G S K"], dropout: float) -> int:
    """For how many examples a device computes its products at once; B where it does so for all."""
    rows = len(q)
    here, length, heads, _ = share(q.shape, *AXES["q"])
    each = length * heads * k.shape[2]
    whole = (
        _plain.get(),
        here == 1,
        not _by_itself(q, k),
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
