"""Several hypotheses about one example in one cache: how it branches, and how it follows a search.

A cache may keep what belongs to single hypotheses in its entry "hypotheses", leaves [layers, batch,
hypotheses, ...], one hypothesis at first; all else belongs to the example. Then a step reads one
token of each hypothesis, i32[B, K], side by side in the example's row, and a search moves nothing
but that entry. For a transformer it is the table of slots that a hypothesis has read: keys and
values are written once, each to a slot of its own, and no search ever moves, copies or repeats
them.

A cache without the entry is repeated for every hypothesis, [layers, batch * hypotheses, ...], and
re-ordered at every step, but for its entry "memory".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from vlm_jax.types import Cache, gather_rows

Step = Callable[[Array, Cache], tuple[Array, Cache]]
"""(tokens i32[B, K], cache) -> (logits f32[B, K, V], cache): one token of each of K hypotheses."""


def branch(cache: Cache, hypotheses: int) -> Cache:
    """The cache of one hypothesis per example as that of K equal ones."""
    if "hypotheses" in cache:
        repeat = lambda leaf: jnp.repeat(leaf, hypotheses, axis=2)
        return {**cache, "hypotheses": jax.tree.map(repeat, cache["hypotheses"])}
    batch = jax.tree.leaves(cache)[0].shape[1]
    return gather_rows(cache, jnp.repeat(jnp.arange(batch), hypotheses))


def follow(cache: Cache, parents: Int[Array, "B K"]) -> Cache:
    """The cache after hypothesis k of each example took the place of hypothesis parents[:, k]."""
    if "hypotheses" in cache:
        batch = jnp.arange(len(parents))[:, None]
        move = lambda leaf: leaf[:, batch, parents]
        return {**cache, "hypotheses": jax.tree.map(move, cache["hypotheses"])}
    rows = jnp.arange(len(parents))[:, None] * parents.shape[1] + parents
    moving = {name: part for name, part in cache.items() if name != "memory"}
    return {**cache, **gather_rows(moving, rows.reshape(-1))}


def read_side_by_side(
    decoder: Callable[..., tuple[Array, Cache]], tokens: Int[Array, "B K"], cache: Cache
) -> tuple[Float[Array, "B K V"], Cache]:
    """One token of every hypothesis through a decoder, whichever of both kinds its cache is."""
    if "hypotheses" in cache:
        return decoder(tokens, None, cache)
    logits, cache = decoder(rearrange(tokens, "B K -> (B K) 1"), None, cache)
    return rearrange(logits, "(B K) 1 V -> B K V", K=tokens.shape[1]), cache
