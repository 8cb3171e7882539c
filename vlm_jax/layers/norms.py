"""Normalisation layers by name, with statistics in float32 whatever the compute dtype."""

import flax.linen as nn
from jax.typing import DTypeLike

NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


def make_norm(kind: str, *, epsilon: float, dtype: DTypeLike, name: str) -> nn.Module:
    """A normalisation over the last axis: "layer" (arXiv:1607.06450) or "rms" (arXiv:1910.07467).

    ValueError for another name. The two-pass variance is used: E[x^2] - E[x]^2 loses the digits
    that parity with other frameworks needs.
    """
    if kind not in NORMS:
        raise ValueError(f"unknown norm {kind!r}: choose one of {sorted(NORMS)}")
    return NORMS[kind](epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)
