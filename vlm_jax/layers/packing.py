"""Several examples in one row: who sees whom, and where each of them begins to count.

Segments say which example of its row a token belongs to, from 1 on; 0 is padding. Image tokens have
segments, too (NaViT, arXiv:2307.06304, section 2.1, packs images likewise).
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from vlm_jax.layers.cache import Placement, place
from vlm_jax.layers.masks import block_mask


def places(real: Bool[Array, "B L"], segments: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """How many real tokens of its own segment stand before each.

    segments = 1 2 1 2 2, all real:
        0 0 1 1 2
    """
    before = jnp.tril(jnp.ones((real.shape[1], real.shape[1]), bool), k=-1)[None]
    return jnp.sum(
        block_mask(segments, segments)[:, 0] & before & real[:, None], axis=2, dtype=jnp.int32
    )


def placed(
    decoder: Any,
    real: Bool[Array, "B L"],
    cache: Mapping | None,
    segments: Int[Array, "B L"] | None,
    blocks: Int[Array, "B L"] | None,
    positions: Int[Array, "B L"] | None = None,
) -> tuple[Placement, dict[str, Array], Int[Array, "B L"] | None]:
    """Where tokens stand (see `cache.place`), and their blocks, in rows of one example or, with
    segments, of several. decoder: a `CausalLM`; ValueError if it cannot read several. positions:
    given from outside; ValueError with a cache or segments, which count for themselves.
    """
    placement, slots = place(real, cache)
    if positions is not None:
        if cache is not None or segments is not None:
            raise ValueError("positions are given to a decoder without cache and segments only")
        placement = placement._replace(positions=positions, key_positions=positions)
    if segments is None:
        return placement, slots, blocks
    apart = decoder.memory == "attend" or not decoder.memory_embedded
    if cache is not None or apart or decoder.rope_sections:
        raise ValueError(
            'segments need memory="prepend" or "insert", memory_embedded=True, no rope_sections '
            "and no cache"
        )
    placement, blocks = packed(placement, segments, blocks)
    return placement, slots, blocks


def packed(
    placement: Placement, segments: Int[Array, "B L"], blocks: Int[Array, "B L"] | None
) -> tuple[Placement, Int[Array, "B L"] | None]:
    """A placement without cache, and blocks, of tokens that neither see other segments nor count
    them.
    """
    positions = places(placement.real, segments)
    visible = placement.visible & block_mask(segments, segments)
    if blocks is not None:
        blocks = jnp.where(blocks > 0, blocks * (segments.shape[1] + 1) + segments, 0)
    own = {"positions": positions, "key_positions": positions, "visible": visible}
    return placement._replace(**own), blocks
