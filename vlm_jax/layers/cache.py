"""Where new tokens go in a cache, at which position they stand and what they see; the same with no
cache at all.

A decoder's cache is a dict of arrays [layers, batch, ...] (types.Cache). Three of its entries are
kept here: `slot` i32[1, B], the next free slot, equal for all rows; `position` i32[1, B, M], where
in its text the token of each slot stands; and `hypotheses`, whose leaf `read` bool[1, B, K, M] says
which slots each of K continuations of an example has read. Keys and values are written once, each
to a slot of its own, and a search only ever exchanges rows of `read` (see decode.hypotheses). A
fourth, `memory`, is by convention a dict of what is computed once per example, such as keys and
values of image tokens, which no step changes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from vlm_jax.layers.masks import block_mask, cache_mask, causal_mask, padding_mask


class Placement(NamedTuple):
    """How `T` new tokens relate to those before them; M = T without a cache.

    positions: i32[B, T], how many real tokens stand before each; key_positions: i32[B, M], the same
    for the keys. real: bool[B, M], which keys are real tokens. visible: bool[B, 1, T, M], the
    causal mask. slot: i32[], where the first one is written (None without a cache). branched: the
    tokens continue an example each in its own way, instead of following each other.
    """

    positions: Int[Array, "B T"]
    key_positions: Int[Array, "B M"]
    real: Bool[Array, "B M"]
    visible: Bool[Array, "B 1 T M"]
    slot: Int[Array, ""] | None
    branched: bool = False


def empty_slots(batch: int, slots: int) -> dict[str, Any]:
    """The bookkeeping of a cache of M slots in which nothing is written yet, for one hypothesis."""
    return {
        "slot": jnp.zeros((1, batch), jnp.int32),
        "position": jnp.zeros((1, batch, slots), jnp.int32),
        "hypotheses": {"read": jnp.zeros((1, batch, 1, slots), bool)},
    }


def place(real: Bool[Array, "B T"], cache: Mapping | None) -> tuple[Placement, dict[str, Any]]:
    """Place T new tokens of which some are padding; returns the cache's next bookkeeping too ({}
    without a cache).

    Positions count real tokens only, so padding on either side of a prompt changes nothing:
        real = 0 1 1 0, nothing before      positions = 0 0 1 1
    In a cache of K > 1 hypotheses the T = K tokens are one of each, in order. Here 2 of them share
    a prompt of 1 token, went apart in slots 1 and 2, and the second has ousted the first:
        read   1 0 1 - -                    visible   1 0 1 1 0
               1 0 1 - -                              1 0 1 0 1
    ValueError if the number of tokens is not that of the hypotheses.
    """
    if cache is None:
        positions, visible = _positions(real), causal_mask(real.shape[1]) & padding_mask(real)
        return Placement(positions, positions, real, visible, None), {}
    slots, slot, read = cache["slot"], cache["slot"][0, 0], cache["hypotheses"]["read"][0]
    positions = jnp.sum(read, axis=2, dtype=jnp.int32)  # [B, K]
    branched, length = read.shape[1] > 1, real.shape[1]
    if branched and length != read.shape[1]:
        raise ValueError(f"{length} tokens for the {read.shape[1]} hypotheses of a cache")
    if branched:
        new = jnp.eye(length, dtype=bool)[None] & real[:, :, None]  # [B, K, K]
        read = jax.lax.dynamic_update_slice_in_dim(read, new, slot, axis=2)  # [B, K, M]
        visible = read[:, None]
    else:
        positions = positions + _positions(real)
        read = jax.lax.dynamic_update_slice_in_dim(read, real[:, None], slot, axis=2)
        visible = cache_mask(slots[0], length, read[:, 0], bidirectional=False)
    held = jax.lax.dynamic_update_slice_in_dim(cache["position"][0], positions, slot, axis=1)
    return (
        Placement(positions, held, jnp.any(read, axis=1), visible, slot, branched),
        {"slot": slots + length, "position": held[None], "hypotheses": {"read": read[None]}},
    )


def rewind(cache: Mapping, length: Any) -> dict:
    """The cache as if only its first slots were written: what follows goes there once more.

    length: i32[], how many. For one hypothesis; what a decoder keeps beside its slots (`ahead`)
    stays as it is.
    """
    read = cache["hypotheses"]["read"]
    kept = read & (jnp.arange(read.shape[-1]) < length)[None, None, None]
    slot = jnp.full_like(cache["slot"], length)
    return {**cache, "slot": slot, "hypotheses": {"read": kept}}


def enlarged(cache: Mapping, empty: Mapping) -> dict:
    """The contents of a cache at the beginning of an empty one that has more slots."""
    put = lambda old, new: jax.lax.dynamic_update_slice(new, old.astype(new.dtype), (0,) * new.ndim)
    return jax.tree.map(put, dict(cache), dict(empty))


def write(cache: Mapping, new: Mapping, slot: Any) -> dict:
    """The layers' cache with what they computed anew, nested dicts of leaves [L, B, N, M, K], or
    [B, N, M, K] of layers that are apart.

    slot: i32[], or None for layers without self-attention.
    Keys and values called "self" go to slots `slot` and on, here, once for all layers: a scan over
    layers that returned whole caches would copy them at every step. Others replace what was there.
    """
    put = lambda held, fresh: jax.lax.dynamic_update_slice_in_dim(
        held, fresh, slot, axis=held.ndim - 2
    )
    written = dict(cache)
    for name, part in new.items():
        if name == "self":
            written[name] = jax.tree.map(put, cache[name], part)
        elif name == "cross":
            written[name] = part
        else:
            written[name] = write(cache[name], part, slot)
    return written


def both_ways(placement: Placement, blocks: Int[Array, "B T"]) -> Bool[Array, "B 1 T M"]:
    """What the new tokens see of the blocks that they belong to; see `masks.block_mask`."""
    keys = blocks
    if placement.slot is not None:
        empty = jnp.zeros(placement.real.shape, jnp.int32)
        keys = jax.lax.dynamic_update_slice_in_dim(empty, blocks, placement.slot, 1)
    return block_mask(blocks, keys) & padding_mask(placement.real)


def _positions(real: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    return jnp.maximum(jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, 0)


def take(states: Mapping, part: str) -> dict:
    """The entries called `part`, wherever they are in nested dicts; empty dicts are left out."""
    found = {}
    for name, value in states.items():
        inner = value if name == part else take(value, part) if isinstance(value, Mapping) else {}
        found |= {name: inner} if inner else {}
    return found


def without(states: Mapping, part: str) -> dict:
    """Nested dicts with the entries called `part` left out."""
    return {
        name: without(value, part) if isinstance(value, Mapping) else value
        for name, value in states.items()
        if name != part
    }


def merge(first: Mapping, second: Mapping) -> dict:
    """Both nested dicts in one, entry by entry; `second` wins where both have a leaf."""
    merged = {**first, **second}
    for name in first.keys() & second.keys():
        if isinstance(first[name], Mapping) and isinstance(second[name], Mapping):
            merged[name] = merge(first[name], second[name])
    return merged
