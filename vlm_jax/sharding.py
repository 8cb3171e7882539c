"""The device mesh, and where batches and states live on it. One CPU, eight fake CPUs and a pod
share this path.

    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        state = jax.jit(init, out_shardings=state_shardings(mesh, jax.eval_shape(init)))()
        state = update(state, shard_batch(mesh, batch))

Never `with mesh:`, under which sharding constraints silently do nothing. A batch is split over data
x fsdp, the tokens of its activations over context, their heads and hidden units over tensor (see
layers.constraints), and a state over fsdp, context and tensor as the first rule says whose pattern
selects a parameter: those of the config, then RULES.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vlm_jax import trees
from vlm_jax.kwargs import Config, check_keys
from vlm_jax.layers.constraints import BATCH, PARTS, SMALL

AXES = ("data", "fsdp", "tensor", "context")
OPTIONS = ("rules", "small", "gather_dtype", "offload")
"""Keys of config.mesh beside the axes:

rules       (pattern, axes) pairs, see `parameter_specs`
small       bytes up to which a parameter is replicated (1 MiB)
gather_dtype  what matrices are cast to before they are gathered, such as "bfloat16" (None: nothing)
offload     keep the optimizer's state in the host's memory
"""

LARGE = 16 * 2**20
"""Bytes from which a parameter must not be replicated by oversight."""

STACKED = trees.compile_pattern(r"(.*/)?(layers|groups)/.*")
"""Parameters whose axis 0 counts the layers of a scan: splitting that would gather all of them."""

RULES = (
    ("positions", r".*/position", (None, PARTS)),
    ("word vectors", r".*/embedding", ("tensor", PARTS)),
    ("attention in", r".*attention[^/]*/(query|key|value)/(kernel|bias|lora_b)", ("tensor",)),
    ("attention out", r".*attention[^/]*/out/(kernel|lora_a)", ("tensor", None)),
    ("MLP in", r".*mlp[^/]*/(up|gate)/(kernel|bias|lora_b)", ("tensor",)),
    ("MLP out", r".*mlp[^/]*/down/(kernel|lora_a)", ("tensor", None)),
    ("words out", r".*(logits|words)(/kernel|/bias|_bias)", ("tensor",)),
    ("connectors", r".*connector/.*dense[^/]*/(kernel|bias)", ("tensor",)),
    ("fully connected", r".*fc\d/(kernel|bias)", ("tensor",)),
    ("convolutions", r".*conv\d*/kernel", ("tensor",)),
)
"""(name, pattern, axes of the last dimensions): what is split over tensor, by columns where a
layer's outputs are, by rows where its inputs are. Where no dimension is split over fsdp (and
context, whose devices would else hold copies) the largest one that is left is. An axis that does
not divide its dimension is left out.
"""


class Placed(NamedTuple):
    """Where a parameter lives, and the rule that says so: a pattern of the config, a name of RULES,
    or "largest dimension", "small" or "indivisible".
    """

    spec: PartitionSpec
    rule: str


def make_mesh(config: Config = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices (or the given ones) with axes data, fsdp, tensor, context.

    config: config.mesh, of which the sizes are read; at most one is -1, which takes the devices
    that are left. Absent axes are 1, but data takes what no other takes. TypeError for an unknown
    key; ValueError if the sizes do not multiply to the number of devices.
    """
    check_keys(config or {}, (*AXES, *OPTIONS), "config.mesh")
    given = {axis: size for axis, size in dict(config or {}).items() if axis in AXES}
    rest = 1 if -1 in given.values() else -1
    sizes = {"data": rest, "fsdp": 1, "tensor": 1, "context": 1} | given
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
    shape = tuple(sizes[axis] for axis in AXES)
    # Linen fails under Explicit axes, which are what jax.make_mesh gives when it is not told.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over data x fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split; must divide the global batch size."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


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
    sharding, parts = batch_sharding(mesh), batch_shards(mesh)
    own = len(own_rows(mesh, parts))

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        check_batch_size(mesh, len(x) * parts // own)
        shape = (len(x) * parts // own, *x.shape[1:])
        return jax.make_array_from_process_local_data(sharding, x, shape)

    return jax.tree.map(place, batch)


def own_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of a global batch that live on devices of this process, ascending. Processes that
    split a model between them, not the batch, have the same rows.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    parts = [index[0] for index in indices.values() if index is not None]
    return sorted({row for part in parts for row in range(*part.indices(batch_size))})


def state_shardings(mesh: Mesh, state: trees.Tree, config: Config = None) -> trees.Tree:
    """The sharding of every leaf of a state, in the same tree structure.

    state: dict of arrays or jax.ShapeDtypeStruct (from jax.eval_shape). Its entry "params" is split
    as `parameter_specs` says with this config.mesh. Leaves of other entries whose path contains
    that of a parameter (averages, moments) follow it, as far as they have its dimensions; others
    are replicated. Errors as in `parameter_specs`.
    """
    shapes = trees.flatten(state["params"])
    placed = parameter_specs(mesh, state["params"], config)
    moved = dict(config or {}).get("offload")

    def choose(path: str, leaf: Any) -> NamedSharding:
        entry, _, rest = path.partition("/")
        spec = placed[rest].spec if entry == "params" else _following(rest, leaf, shapes, placed)
        if moved and entry == "optimizer" and trees.count_bytes(leaf) > SMALL:
            return NamedSharding(mesh, spec, memory_kind="pinned_host")
        return NamedSharding(mesh, spec)

    return trees.map_with_path(choose, state)


def parameter_specs(mesh: Mesh, params: trees.Tree, config: Config = None) -> dict[str, Placed]:
    """Path of every parameter to where it lives.

    config: config.mesh. Its rules are (pattern, axes) pairs, the first whose pattern (see `trees`)
    selects a parameter decides: axes are those of its last dimensions, each None, a mesh axis or
    several; the dimensions before are whole, () replicates. ValueError for a rule that catches
    nothing, names no axis of the mesh or splits a dimension that it does not divide; and for a
    parameter over 16 MiB that ends up replicated, without a rule that wants it, although the mesh
    has fsdp or tensor devices.
    """
    flat, given = trees.flatten(params), dict(config or {})
    small = given.get("small")
    found = _by_own_rules(mesh, flat, given.get("rules") or ())
    own = set(found)
    found |= {
        path: _by_default(mesh, path, leaf, SMALL if small is None else small)
        for path, leaf in flat.items()
        if path not in own
    }
    spare = max(mesh.shape["fsdp"], mesh.shape["tensor"])
    for path, leaf in flat.items():
        whole = not any(found[path].spec) and path not in own
        if whole and spare > 1 and trees.count_bytes(leaf) > LARGE:
            raise ValueError(
                f"every device of the mesh {dict(mesh.shape)} would hold all "
                f"{trees.count_bytes(leaf) / 2**20:,.0f} MiB of {path!r}, of shape "
                f"{list(leaf.shape)}: choose axes that divide one of its dimensions, or say where "
                f"it goes by a rule in config.mesh.rules (({path!r}, ()) leaves it whole)"
            )
    return {path: found[path] for path in flat}


def cast_for_gathering(mesh: Mesh, params: trees.Tree, config: Config = None) -> Callable:
    """A function of parameters, for use in a step: matrices in config.mesh.gather_dtype.

    They keep the layout of `parameter_specs`, so that what crosses the interconnect, to gather
    parameters and to sum their gradients, is in that dtype. For a model that computes in it, the
    result is the same. The function returns its argument if there is no such dtype.
    """
    dtype = dict(config or {}).get("gather_dtype")
    if dtype is None:
        return lambda params: params
    placed = parameter_specs(mesh, params, config)

    def cast(path: str, x: jax.Array) -> jax.Array:
        if x.ndim < 2 or path.split("/")[-1] not in ("kernel", "embedding"):
            return x
        sharding = NamedSharding(mesh, placed[path].spec)
        return jax.lax.with_sharding_constraint(x.astype(dtype), sharding)

    return lambda params: trees.map_with_path(cast, params)


def fetch(tree: trees.Tree, shardings: trees.Tree) -> trees.Tree:
    """Arrays of a compiled step in the devices' memory, of which some may lie in the host's."""
    if all(leaf.memory_kind != "pinned_host" for leaf in jax.tree.leaves(shardings)):
        return tree
    return jax.device_put(tree, jax.tree.map(lambda x: x.with_memory_kind("device"), shardings))


def _by_own_rules(
    mesh: Mesh, flat: Mapping[str, Any], rules: Sequence[Sequence[Any]]
) -> dict[str, Placed]:
    """What the rules of a config catch; ValueError as in `parameter_specs`."""
    found: dict[str, Placed] = {}
    for pattern, axes in rules:
        axes, where = tuple(axes), f"config.mesh.rules: the rule {pattern!r}"
        unknown = [name for names in axes for name in _names(names) if name not in AXES]
        if unknown:
            raise ValueError(f"{where}: {unknown[0]!r} is none of the axes {', '.join(AXES)}")
        selected = trees.select(pattern, flat, "config.mesh.rules")
        fitting = [path for path in selected if len(flat[path].shape) >= len(axes)]
        if not fitting:
            raise ValueError(
                f"{where} has {len(axes)} axes, but {selected[0]!r} has shape "
                f"{list(flat[selected[0]].shape)}"
            )
        fresh = [path for path in fitting if path not in found]
        if not fresh:
            raise ValueError(f"{where} catches nothing: rules before it caught {fitting[0]!r}")
        for path in fresh:
            _check_divisible(mesh, path, flat[path].shape, axes)
            before = (None,) * (len(flat[path].shape) - len(axes))
            found[path] = Placed(_spec((*before, *axes)), pattern)
    return found


def _names(axes: str | Sequence[str] | None) -> tuple[str, ...]:
    """The mesh axes that one dimension is split over."""
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def _spec(axes: Sequence[Any]) -> PartitionSpec:
    """Without the dimensions at the end that are whole."""
    last = max((i + 1 for i, names in enumerate(axes) if names), default=0)
    single = lambda names: names[0] if names and len(_names(names)) == 1 else names
    return PartitionSpec(*(single(_names(names) or None) for names in axes[:last]))


def _check_divisible(mesh: Mesh, path: str, shape: Sequence[int], axes: Sequence[Any]) -> None:
    """ValueError if the axes of one of the last dimensions do not divide it."""
    first = len(shape) - len(axes)
    for dimension, names in enumerate(axes, start=first):
        parts = math.prod(mesh.shape[name] for name in _names(names))
        if shape[dimension] % parts:
            raise ValueError(
                f"{path!r} of shape {list(shape)}: dimension {dimension} is not divisible by "
                f"{' x '.join(_names(names))} = {parts}"
            )


def _by_default(mesh: Mesh, path: str, leaf: Any, small: int) -> Placed:
    """What RULES say of a parameter, and where it is split for storage."""
    shape, bytes_ = tuple(leaf.shape), trees.count_bytes(leaf)
    if bytes_ <= small:
        return Placed(PartitionSpec(), "small")
    wanted, rule = (), "largest dimension"
    for name, pattern, axes in RULES:
        if trees.compile_pattern(pattern).match(path) and len(axes) <= len(shape):
            wanted, rule = axes, name
            break
    several = lambda names: tuple(name for name in _names(names) if mesh.shape[name] > 1)
    fits = lambda size, names: size % math.prod(mesh.shape[name] for name in names) == 0
    axes = [several(names) for names in (None,) * (len(shape) - len(wanted)) + wanted]
    axes = [names if fits(size, names) else () for size, names in zip(shape, axes, strict=True)]
    first = int(STACKED.match(path) is not None and len(shape) > 1)
    used = {name for names in axes for name in names}
    options = [several(PARTS), several("fsdp"), several("tensor") if bytes_ > LARGE else ()]
    for names in options:  # tensor only for what would else be whole
        if not names or used & {*PARTS} or (used and "tensor" in names):
            continue
        free = [(size, -i) for i, size in enumerate(shape) if i >= first and not axes[i]]
        free = [(size, i) for size, i in free if fits(size, names)]
        if free:
            axes[-max(free)[1]] = names
            used |= set(names)
    return Placed(_spec([names or None for names in axes]), rule if used else "indivisible")


def _following(
    path: str, leaf: Any, shapes: Mapping[str, Any], placed: Mapping[str, Placed]
) -> PartitionSpec:
    """The layout of a leaf made from a parameter, such as a moment or its row and column means."""
    parts = path.split("/")
    ends = [parts[i:] for i in range(len(parts))]
    names = ["/".join(end[:length]) for end in ends for length in (len(end), len(end) - 1)]
    name = next((name for name in names if name in shapes), None)
    if name is None:
        return PartitionSpec()
    shape, spec = tuple(shapes[name].shape), placed[name].spec
    axes = (*spec, *(None,) * (len(shape) - len(spec)))
    if len(leaf.shape) == len(shape):  # as it is, or one number for a row
        kept = zip(leaf.shape, shape, axes, strict=True)
        return _spec([names if own == size else None for own, size, names in kept])
    for i in range(len(shape)):
        if shape[:i] + shape[i + 1 :] == tuple(leaf.shape):
            return _spec(axes[:i] + axes[i + 1 :])
    return PartitionSpec()


def sharding_table(mesh: Mesh, params: trees.Tree, config: Config = None) -> str:
    """Text: what each rule caught, and below every parameter with its layout.

    params: arrays or shapes. config: config.mesh. Sizes are in MiB, of the whole and per device.
    """
    layouts = _layouts(mesh, params, config)
    rows = [
        (path, str(list(leaf.shape)), axes, rule, *(f"{x:,.2f}" for x in sizes))
        for path, (leaf, axes, rule, *sizes) in layouts.items()
    ]
    header = ("parameter", "shape", "axes", "rule", "MiB", "MiB/device")
    sizes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    found = [_rules(layouts), _aligned([header, *rows], 4)]
    return "\n\n".join([f"mesh: {sizes}", *found])


def rule_table(mesh: Mesh, params: trees.Tree, config: Config = None) -> str:
    """Text: which rule laid out how much, and how; arguments and units as in `sharding_table`."""
    return _rules(_layouts(mesh, params, config))


def _rules(layouts: Mapping[str, tuple]) -> str:
    groups: dict[tuple[str, str], list[tuple]] = {}
    for leaf, axes, rule, *sizes in layouts.values():
        groups.setdefault((rule, axes), []).append((leaf, *sizes))
    groups["total", ""] = [one for found in groups.values() for one in found]
    rows = [("rule", "axes", "arrays", "parameters", "MiB", "MiB/device")]
    for (rule, axes), found in groups.items():
        leaves, whole, each = zip(*found, strict=True)
        counts = (f"{len(found):,}", f"{trees.count_parameters(leaves):,}")
        rows.append((rule, axes, *counts, f"{sum(whole):,.2f}", f"{sum(each):,.2f}"))
    return _aligned(rows, 2)


def _layouts(mesh: Mesh, params: trees.Tree, config: Config) -> dict[str, tuple]:
    """By path: the leaf, its axes in words, the rule, and its MiB in all and per device."""
    flat, placed = trees.flatten(params), parameter_specs(mesh, params, config)
    mebibytes = lambda leaf, shape: math.prod(shape) * leaf.dtype.itemsize / 2**20
    found = {}
    for path, leaf in flat.items():
        spec, rule = placed[path]
        axes = " ".join("x".join(_names(names)) or "-" for names in spec) or "whole"
        share = NamedSharding(mesh, spec).shard_shape(leaf.shape)
        found[path] = (leaf, axes, rule, mebibytes(leaf, leaf.shape), mebibytes(leaf, share))
    return found


def _aligned(rows: Sequence[Sequence[str]], texts: int) -> str:
    """Columns of equal width; the first `texts` flush left, numbers flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    sides = [str.ljust if i < texts else str.rjust for i in range(len(widths))]
    cells = lambda row: (side(c, w) for side, c, w in zip(sides, row, widths, strict=True))
    return "\n".join("  ".join(cells(row)).rstrip() for row in rows)
