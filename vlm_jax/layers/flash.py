"""Attention of long sequences on a TPU: by the Pallas kernel that JAX ships (splash attention),
which keeps the products of queries and keys on the core, tile by tile (FlashAttention,
arXiv:2205.14135).
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LANES = 128
"""What a TPU works on at once: head widths and lengths are filled up to multiples of it."""

LARGEST = 768
"""Side of a tile of products, at most."""


def flash_attention(
    q: Float[Array, "T N K"],
    k: Float[Array, "G S K"],
    v: Float[Array, "G S K"],
    mask: Bool[Array, "1 1 S"] | None = None,
    *,
    scale: float,
    softcap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "T N K"]:
    """Attention of one example; arguments as `layers.dot_product.dot_product_attention` has them.

    A query that sees nothing sees all alike, and zeros beyond them. interpret: run the kernel's
    program without a TPU, slowly.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # late: takes a second

    length, heads, width = q.shape
    keys = k.shape[1]
    q = _filled(q.swapaxes(0, 1) * scale)
    k, v = _filled(k), _filled(v)
    rows, columns = q.shape[1], k.shape[1]
    segments = None
    if mask is not None or columns > keys:
        seen = jnp.ones(keys, jnp.int32) if mask is None else mask[0, 0].astype(jnp.int32)
        seen = jnp.pad(seen, (0, columns - keys))
        segments = splash.SegmentIds(q=jnp.ones(rows, jnp.int32), kv=seen)
    kernel: Any = splash.make_splash_mha_single_device(
        mask=splash.MultiHeadMask([splash.FullMask((rows, columns))] * heads),
        block_sizes=_tiles(splash, rows, columns),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    return kernel(q, k, v, segments)[:, :length, :width].swapaxes(0, 1)


def _filled(x: Float[Array, "N T K"]) -> Float[Array, "N T2 K2"]:
    """Zeros appended until both sides are multiples of LANES."""
    return jnp.pad(x, [(0, 0)] + [(0, -size % LANES) for size in x.shape[1:]])


def _tiles(splash: Any, rows: int, columns: int) -> Any:
    """The sides of the kernel's tiles, as large as divide the lengths."""
    side = lambda length: max(n for n in range(LANES, LARGEST + 1, LANES) if length % n == 0)
    q, kv = side(rows), side(columns)
    forward = dict(block_q=q, block_kv=kv, block_kv_compute=kv)
    backward = dict(block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=kv)
    return splash.BlockSizes(**forward, **backward, use_fused_bwd_kernel=True)
