"""Where activations live on a mesh: what the layers tell the compiler, which guesses badly.

Without this, GSPMD spreads the layout of FSDP parameters onto activations, and their memory per
device grows with the number of devices.

    x = constrain(x, BATCH, LENGTH)         # [B, T, D]: rows over data x fsdp, tokens over context
    q = constrain(q, BATCH, LENGTH, SPLIT)  # [B, T, N, K]: and heads over tensor
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

BATCH = ("data", "fsdp")
"""Mesh axes that rows of a batch are split over."""

LENGTH = ("context",)
"""Mesh axes that the tokens of a sequence are split over."""

SPLIT = ("tensor",)
"""Mesh axes that heads, hidden units and words of a vocabulary are split over."""

PARTS = ("fsdp", "context")
"""Mesh axes that parameters are split over for storage alone."""

SMALL = 2**20
"""Bytes up to which a parameter is replicated: splitting it saves nothing and costs a gather."""

Axes = tuple[str, ...] | None
"""Names of mesh axes that a dimension is split over; None for a dimension that is whole."""


def constrain(x: Array, *axes: Axes) -> Array:
    """X, its dimensions split over these mesh axes and over no others.

    axes: of the first dimensions; those left out are whole, as are dimensions that their axes do
    not divide. Does nothing without a mesh of several devices (see jax.set_mesh), for mesh axes
    that are not Auto (as in jax.shard_map), and for rows that their axes do not divide, such as the
    single one of a decoder that writes one text.
    """
    sizes = axis_sizes()
    if math.prod(sizes.values()) == 1:
        return x
    spec = layout(x.shape, *axes)
    if axes and axes[0] and spec[0] is None and any(sizes.get(name, 1) > 1 for name in axes[0]):
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def layout(shape: Sequence[int], *axes: Axes) -> PartitionSpec:
    """Dimensions of an array of this shape split over these axes, as far as they divide them."""
    return PartitionSpec(*_split(shape, axes))


def share(shape: Sequence[int], *axes: Axes) -> tuple[int, ...]:
    """Shape of the part of such an array that one device holds."""
    sizes = axis_sizes()
    parts = (math.prod(sizes[name] for name in names or ()) for names in _split(shape, axes))
    return tuple(size // count for size, count in zip(shape, parts, strict=True))


def look_up(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Rows of a table, where the tokens live.

    A big table is split over its width, for its gradient as well. Every device then takes its part
    of the vectors of all tokens, and the parts are exchanged: far less than the table, which would
    else be gathered, and than the vectors of a whole batch, which its gradient would else need.
    """
    if table.size * 4 <= SMALL:
        return constrain(jnp.take(table, tokens, axis=0), BATCH, LENGTH)
    found = jnp.take(constrain(table, SPLIT, PARTS), tokens, axis=0)
    return constrain(constrain(found, ("data",), None, PARTS), BATCH, LENGTH)


def axis_sizes() -> dict[str, int]:
    """Devices along each Auto axis of the mesh in force (see jax.set_mesh); {} without a mesh."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    return {} if mesh.empty else {name: mesh.shape[name] for name in mesh.auto_axes}


def platform() -> str:
    """What is compiled for, such as "cpu": the mesh in force says so, or else the backend.

    The two differ where a program is planned for devices that are not there.
    """
    mesh: Any = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def _split(shape: Sequence[int], axes: Sequence[Axes]) -> list[Axes]:
    """For every dimension the axes that split it."""
    sizes = axis_sizes()
    wanted = (*axes, *[None] * (len(shape) - len(axes)))
    return [_fitting(size, names, sizes) for size, names in zip(shape, wanted, strict=True)]


def _fitting(size: int, names: Axes, sizes: dict[str, int]) -> Axes:
    """Those of the axes that split anything, or None if they do not divide a dimension."""
    known = tuple(name for name in names or () if sizes.get(name, 1) > 1)
    parts = math.prod(sizes[name] for name in known)
    return known if known and size % parts == 0 else None
