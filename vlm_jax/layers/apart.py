"""The layers of a decoder as arrays of their own, for those who write much.

A scan takes every layer's parameters, keys and values out of arrays that hold those of all layers,
and on CPUs copies them for it: more than half of the time of a step that reads every parameter once
and a single token of each text. Layers that are apart need no copies; their programs take longer to
compile, and their parameters are there twice.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from vlm_jax.layers.constraints import platform

STACK = ("params", "decoder", "transformer", "layers")
"""Where a decoder has the parameters of its layers, leaves [L, ...]."""

COLLECTION = "apart"
"""The variables' collection of the same, as `blocks` makes them."""

MOST = 2**30
"""Bytes of parameters beyond which memory is worth more than time."""


def is_apart(params: Mapping) -> bool:
    """Whether the parameters of a `Transformer` are apart."""
    return "block_0" in params.get("layers", {})


def with_apart(variables: Mapping) -> Mapping:
    """The variables with those of the decoder's layers apart, too, for `stepper`. Unchanged where
    the device is no CPU, which would gain nothing, the layers are too large to be there twice, or
    the decoder is no plain stack.
    """
    layers: Any = variables
    for name in STACK:
        layers = layers.get(name, {})
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(layers))
    if not 0 < size <= MOST or platform() != "cpu":
        return variables
    return {**variables, COLLECTION: jax.jit(blocks)(layers)}


def stepper(model: Any, variables: Mapping, **given: Any) -> Callable | None:
    """`model.apply` with method="decode" for a token at a time, by layers that are apart, whose
    cache is that of `cache_apart`; None where `with_apart` did not make them. given: further
    arguments of `decode`.
    """
    if COLLECTION not in variables:
        return None
    kept = {name: tree for name, tree in variables.items() if name != COLLECTION}
    made = _replaced(kept, STACK, variables[COLLECTION])
    return partial(model.apply, made, method="decode", **given)


def cache_apart(cache: Mapping) -> dict[str, Any]:
    """A decoder's cache with the keys and values of its layers apart, leaves [B, ...]: what a layer
    attends to is then what is kept, and written once.
    """
    layers = {name: cache[name] for name in ("self", "cross") if name in cache}
    kept = {name: part for name, part in cache.items() if name not in layers}
    if "memory" in kept:  # which has keys and values of its own
        kept["memory"] = cache_apart(kept["memory"])
    return kept | blocks(layers)


def blocks(tree: Any) -> dict[str, Any]:
    """Leaves [L, ...] as those of blocks "block_0" to "block_{L - 1}"; none without leaves."""
    leaves = jax.tree.leaves(tree)
    count = len(leaves[0]) if leaves else 0
    return {f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)}


def _replaced(tree: Mapping, path: tuple[str, ...], new: Any) -> dict[str, Any]:
    first, *rest = path
    return {**tree, first: _replaced(tree[first], tuple(rest), new) if rest else new}
