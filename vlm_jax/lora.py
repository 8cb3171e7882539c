"""Low-rank adaptation (LoRA, arXiv:2106.09685): a trained product of two thin matrices beside each
frozen kernel W, W' = W + alpha / rank * A B.

    params = add(params, key, rank=8, targets=(".*attention",))   # beside every kernel: its factors
    is_factor = trees.match((FACTORS,), params)                   # what is trained
    params = merge(params)                                        # plain kernels, no factors

The factors are parameters like others, `lora_a` [in, rank] and `lora_b` [rank, out] beside the
`kernel` that they belong to ([L, in, rank] and [L, rank, out] where layers are scanned), and so
take part in checkpoints, averages and shardings. `lora_scale`, alpha / rank, is stored with them: a
tree says by itself what it means. The model applies them on the way (layers.low_rank), so that no
gradient of a frozen kernel is ever computed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vlm_jax import trees
from vlm_jax.kwargs import Number

A, B, SCALE = "lora_a", "lora_b", "lora_scale"

FACTORS = rf"(.*/)?({A}|{B})"
"""Selects what is trained of an adapted model."""

ADDED = rf"(.*/)?({A}|{B}|{SCALE})"
"""Selects all that an adapted model has beside the base model."""


def add(
    params: trees.Tree,
    key: jax.Array,
    *,
    rank: int,
    targets: Sequence[str],
    alpha: Number | None = None,
) -> trees.Tree:
    """The parameters with factors beside the kernel of every dense layer that a target selects.

    rank: of the product, at least 1. targets: patterns of `trees`, of dense layers or of whatever
    holds them. alpha: None for rank, i.e. a scale of 1. A is drawn from a normal distribution of
    variance 1 / in and B is zero, so that nothing changes at first (section 4.1). ValueError for a
    rank that is not lower than both sides of a kernel, or a target without dense layers.
    """
    flat = trees.flatten(params)
    chosen = dict.fromkeys(path for pattern in targets for path in _kernels(pattern, flat))
    for number, path in enumerate(chosen):
        *stack, inputs, outputs = flat[path].shape
        if not 1 <= rank < min(inputs, outputs):
            raise ValueError(
                f"config.optimizer.lora.rank={rank} does not lie between 1 and "
                f"{min(inputs, outputs) - 1}, as {path!r} of shape {list(flat[path].shape)} needs: "
                "change it, or narrow config.optimizer.lora.targets"
            )
        layer, own = path.removesuffix("kernel"), jax.random.fold_in(key, number)
        noise = jax.random.normal(own, (*stack, inputs, rank), jnp.float32)
        flat[layer + A] = noise / math.sqrt(inputs)
        flat[layer + B] = jnp.zeros((*stack, rank, outputs), jnp.float32)
        scale = 1.0 if alpha is None else alpha / rank
        flat[layer + SCALE] = jnp.full(tuple(stack), scale, jnp.float32)
    return trees.unflatten(flat)


def _kernels(pattern: str, flat: Mapping[str, Any]) -> list[str]:
    """Kernels of the dense layers that a pattern selects; those of scanned ones have three axes."""
    where = "config.optimizer.lora.targets"
    selected = trees.select(pattern, flat, where)
    dense = lambda path: path.endswith("/kernel") and len(flat[path].shape) in (2, 3)
    kernels = [path for path in selected if dense(path)]
    if not kernels:
        raise ValueError(f"{where}: {pattern!r} selects no dense layer, only {selected[0]!r}")
    return kernels


def is_adapted(params: trees.Tree) -> bool:
    """Whether any kernel of the tree has factors beside it."""
    return any(path.endswith(f"/{A}") for path in trees.flatten(params))


def merge(params: trees.Tree) -> trees.Tree:
    """The parameters of the base model, kernels with their factors' product added in float32.

    params: nested dictionaries of arrays; returned as they are if they hold no factors.
    """
    if not is_adapted(params):
        return params
    flat = trees.flatten(params)
    for layer in [path.removesuffix(A) for path in flat if path.endswith(f"/{A}")]:
        a, b, scale = (jnp.asarray(flat.pop(layer + name), jnp.float32) for name in (A, B, SCALE))
        kernel = flat[f"{layer}kernel"]
        product = jnp.matmul(a, b, precision="highest") * scale[..., None, None]
        flat[f"{layer}kernel"] = (kernel.astype(jnp.float32) + product).astype(kernel.dtype)
    return trees.unflatten(flat)
