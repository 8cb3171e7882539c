"""How a loss is computed where its rows lie: a ring over the mesh axes that split a batch.

Each device keeps one half of the problem; the other half travels, one place at a time, until it is
home again. No device ever holds more than two parts (Ring Attention, arXiv:2310.01889, section 3,
has the same scheme for keys and values).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from vlm_jax.layers.constraints import BATCH, axis_sizes

Axes = tuple[str, ...]
"""Names of mesh axes."""


def batch_axes(rows: int) -> Axes:
    """The axes of the mesh in force (`jax.set_mesh`) that split a batch of this many rows.

    () without a mesh, where it does not split them, or inside a `jax.shard_map` over them.
    """
    sizes = axis_sizes()
    axes = tuple(axis for axis in BATCH if sizes.get(axis, 1) > 1)
    return axes if rows % parts(axes) == 0 else ()


def parts(axes: Axes) -> int:
    """Into how many parts these axes of the mesh in force split something."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return math.prod(sizes[axis] for axis in axes)


def split(function: Callable, inputs: Any, outputs: Any) -> Callable:
    """The function run on every device's parts, split along the axes given for each argument and
    each result: () for what is whole everywhere. Not differentiable as such.

    inputs: one `Axes` per argument; outputs: one per result; each holds for all leaves of a tree.
    """
    if not any((*inputs, *outputs)):
        return function
    specs = lambda all_axes: tuple(
        PartitionSpec(axes) if axes else PartitionSpec() for axes in all_axes
    )
    return jax.shard_map(
        function, in_specs=specs(inputs), out_specs=specs(outputs), check_vma=False
    )


def travel(visit: Callable, axes: Axes, kept: Any, moving: Any) -> tuple[Any, Any]:
    """visit(kept, moving) -> (kept, moving) for all parts of `moving` in turn, inside `split`.

    Both are trees of local arrays. `moving` is passed around the ring of `axes` and comes home with
    what every device has added to it.
    """
    count = parts_inside(axes)
    if count == 1:
        return visit(kept, moving)
    onward = [(place, (place + 1) % count) for place in range(count)]

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        kept, moving = visit(*carry)
        return (kept, jax.tree.map(lambda x: jax.lax.ppermute(x, axes, onward), moving)), None

    return jax.lax.scan(step, (kept, moving), length=count)[0]


def parts_inside(axes: Axes) -> int:
    """`parts`, inside a function that `split` runs."""
    return math.prod(jax.lax.axis_size(axis) for axis in axes)
