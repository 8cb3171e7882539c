"""Where new tokens go in a cache, at which position they stand and what they see; the same with no
cache at all.

A decoder's cache is a dict of arrays [layers, batch, ...] (types.Cache). Two of its entries are
kept here: `slot` i32[1, B], the next free slot, equal for all rows, and `real` bool[1, B, M], the
slots that hold real tokens. A third, `memory`, is by convention a dict of what is computed once per
example (keys and values of image tokens): no step changes it and it is the same for every
hypothesis about an example, so beam search leaves it where it is.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from vlm_jax.layers.masks import block_mask, cache_mask, causal_mask, padding_mask


class Placement(NamedTuple):
    """How `T` new tokens relate to those before them; M = T without a cache.

    positions: i32[B, T], how many real tokens stand before each; key_positions: i32[B, M], the same
    for the keys. real: bool[B, M], which keys are real tokens. visible: bool[B, 1, T, M], the
    causal mask. slot: i32[], where the first one is written (None without a cache).
    """

    positions: Int[Array, "B T"]
    key_positions: Int[Array, "B M"]
    real: Bool[Array, "B M"]
    visible: Bool[Array, "B 1 T M"]
    slot: Int[Array, ""] | None


def empty_slots(batch: int, slots: int) -> dict[str, Array]:
    """The bookkeeping of a cache of M slots in which nothing is written yet."""
    return {"slot": jnp.zeros((1, batch), jnp.int32), "real": jnp.zeros((1, batch, slots), bool)}


def place(real: Bool[Array, "B T"], cache: Mapping | None) -> tuple[Placement, dict[str, Array]]:
    """Place T new tokens of which some are padding; returns the cache's next bookkeeping too ({}
    without a cache).

    Positions count real tokens only, so padding on either side of a prompt changes nothing:
        real = 0 1 1 0, nothing before      positions = 0 0 1 1
    """
    if cache is None:
        positions, visible = _positions(real), causal_mask(real.shape[1]) & padding_mask(real)
        return Placement(positions, positions, real, visible, None), {}
    slots, slot = cache["slot"], cache["slot"][0, 0]
    positions = _positions(real) + jnp.sum(cache["real"][0], axis=1, dtype=jnp.int32)[:, None]
    written = jax.lax.dynamic_update_slice_in_dim(cache["real"][0], real, slot, axis=1)  # [B, M]
    visible = cache_mask(slots[0], real.shape[1], written, bidirectional=False)
    return (
        Placement(positions, _positions(written), written, visible, slot),
        {"slot": slots + real.shape[1], "real": written[None]},
    )


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
