"""The device mesh, and where batches and states live on it. One CPU, eight fake CPUs and a pod
share this path.

    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        state = jax.jit(init, out_shardings=state_shardings(mesh, jax.eval_shape(init)))()
        state = update(state, shard_batch(mesh, batch))

Never `with mesh:`, under which Flax's sharding constraints silently do nothing.
The axes are always data, fsdp and tensor; a batch is split over data x fsdp, a state over fsdp and
tensor.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vlm_jax import trees
from vlm_jax.kwargs import Config, check_keys

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
SMALL = 2**20
"""Bytes up to which a tensor is replicated: splitting it saves nothing and costs a gather."""

Rules = Sequence[Sequence[Any]]
"""(pattern, axes) pairs: axes names a mesh axis, or None, for every dimension of the tensors that
pattern selects."""


def make_mesh(config: Config = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices (or the given ones) with axes data, fsdp, tensor.

    config: axis to size; at most one size is -1, which takes the devices that are left. Absent axes
    are data = -1, fsdp = 1, tensor = 1. TypeError for another axis; ValueError if the sizes do not
    multiply to the number of devices.
    """
    check_keys(config or {}, AXES, "config.mesh")
    sizes = {"data": -1, "fsdp": 1, "tensor": 1} | dict(config or {})
    devices = list(jax.devices() if devices is None else devices)
    wild = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(wild) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise ValueError(f"config.mesh {sizes}: sizes are positive, and at most one of them is -1")
    if len(devices) % fixed or (not wild and fixed != len(devices)):
        raise ValueError(
            f"config.mesh {sizes} does not fit {len(devices)} devices: the sizes must multiply "
            "to that number"
        )
    sizes |= {axis: len(devices) // fixed for axis in wild}
    # Linen fails under Explicit axes, which are what jax.make_mesh gives when it is not told.
    return jax.make_mesh(
        tuple(sizes[axis] for axis in AXES), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over data x fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split; must divide the global batch size."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """ValueError, proposing the nearest sizes that work, if the global batch size cannot be split
    over the mesh.
    """
    shards = batch_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        below, above = batch_size // shards * shards, (batch_size // shards + 1) * shards
        near = f"{below} or {above}" if below > 0 else str(above)
        raise ValueError(
            f"batch_size={batch_size} is not divisible by the {shards} parts that the mesh "
            f"{dict(mesh.shape)} splits it into: use {near}"
        )


def shard_batch(mesh: Mesh, batch: trees.Tree) -> trees.Tree:
    """A NumPy batch on the devices: this process's rows of every leaf (axis 0) become part of
    global arrays.

    ValueError if the global batch size is not divisible (see `check_batch_size`).
    """
    sharding = batch_sharding(mesh)
    for rows in {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch)}:
        check_batch_size(mesh, rows * jax.process_count())
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def state_shardings(mesh: Mesh, shapes: trees.Tree, rules: Rules = ()) -> trees.Tree:
    """The sharding of every leaf of a state, in the same tree structure.

    shapes: tree of arrays or jax.ShapeDtypeStruct (from jax.eval_shape). rules: the first rule
    whose pattern (see `trees`) selects a leaf and which has as many axes as the leaf has dimensions
    decides; start patterns with ".*" so that they also hold for optimizer moments and averages,
    whose paths end in the parameter's path. Other leaves are replicated if fsdp = 1; else tensors
    over 1 MiB have their largest divisible dimension split over fsdp. ValueError for a rule that
    applies to nothing, names no axis of the mesh, or splits a dimension it does not divide.
    """
    flat = trees.flatten(shapes)
    specs: dict[str, PartitionSpec] = {}
    for pattern, axes in rules:
        unknown = [axis for axis in axes if axis is not None and axis not in AXES]
        if unknown:
            raise ValueError(
                f"sharding rule {pattern!r}: {unknown[0]!r} is none of the axes {', '.join(AXES)}"
            )
        selected = trees.select(pattern, flat, "sharding rules")
        fitting = [path for path in selected if len(flat[path].shape) == len(axes)]
        if not fitting:
            raise ValueError(
                f"sharding rule {pattern!r} has {len(axes)} axes, but {selected[0]!r} has shape "
                f"{list(flat[selected[0]].shape)}"
            )
        for path in fitting:
            _check_divisible(mesh, path, flat[path].shape, axes)
            specs.setdefault(path, PartitionSpec(*axes))
    choose = lambda path, leaf: NamedSharding(mesh, specs.get(path, _default_spec(mesh, leaf)))
    return trees.map_with_path(choose, shapes)


def _check_divisible(
    mesh: Mesh, path: str, shape: Sequence[int], axes: Sequence[str | None]
) -> None:
    """ValueError if a named axis does not divide its dimension."""
    for dimension, (size, axis) in enumerate(zip(shape, axes, strict=True)):
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(
                f"{path!r} of shape {list(shape)}: dimension {dimension} is not divisible by "
                f"{axis}={mesh.shape[axis]}"
            )


def _default_spec(mesh: Mesh, leaf: Any) -> PartitionSpec:
    """Fully sharded data parallelism for big tensors, replication for the rest."""
    parts = mesh.shape["fsdp"]
    divisible = [(size, -axis) for axis, size in enumerate(leaf.shape) if size % parts == 0]
    if parts == 1 or trees.count_bytes(leaf) <= SMALL or not divisible:
        return PartitionSpec()
    axis = -max(divisible)[1]
    return PartitionSpec(*[None] * axis, "fsdp")
