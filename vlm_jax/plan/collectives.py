"""Collective operations of a compiled program: which, along which mesh axes, how many bytes."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vlm_jax.plan import hlo

MOVED = {
    "all-reduce": lambda size, parts: 2 * size * (parts - 1) / parts,
    "all-gather": lambda size, parts: size * (parts - 1) / parts,
    "reduce-scatter": lambda size, parts: size * (parts - 1),
    "all-to-all": lambda size, parts: size * (parts - 1) / parts,
    "ragged-all-to-all": lambda size, parts: size * (parts - 1) / parts,
    "collective-permute": lambda size, parts: size,
    "collective-broadcast": lambda size, parts: size,
}
"""Kind to the bytes that a chip must receive, from those of its result and the size of its group:
the bandwidth-optimal algorithms of Thakur, Rabenseifner and Gropp (2005), sections 4.1 to 4.5."""

MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    r"\s*\{([^}]*)\}"
)
GROUPS = re.compile(r"replica_groups=(\{\{[\d,{} ]*\}\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
CHANNEL = re.compile(r"channel_id=(\d+)")
PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{} ]*\})\}")


class Collective(NamedTuple):
    """One kind of operation along one set of mesh axes ("data+fsdp"; "?" if it is none).

    count: per step. bytes: that each chip receives in them per step.
    """

    kind: str
    axes: str
    count: int
    bytes: float


def collectives(computations: hlo.Computations, mesh: Mapping[str, int]) -> list[Collective]:
    """The collective operations of a program, loops multiplied out, most bytes first.

    mesh: axis to size, in the mesh's order.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for name, times in hlo.executions(computations).items():
        seen: set[str] = set()  # the begin, the end and whatever overlaps name one operation
        for one in _operations(computations.get(name, ()), computations):
            channel = CHANNEL.search(one.rest)
            if channel and channel[1] in seen:
                continue
            seen |= {channel[1]} if channel else set()
            axes, parts = _axes(one.rest, mesh)
            kind = one.kind.removesuffix("-start")
            entry = found.setdefault((kind, axes), [0, 0.0])
            entry[0] += times
            entry[1] += times * MOVED[kind](_result(one), parts)
    listed = [Collective(*key, int(count), size) for key, (count, size) in found.items()]
    return sorted(listed, key=lambda collective: -collective.bytes)


def _operations(
    instructions: Sequence[hlo.Instruction], computations: hlo.Computations
) -> Iterator[hlo.Instruction]:
    """The collective operations of a computation, also those within its fusions."""
    for instruction in instructions:
        if instruction.kind.removesuffix("-start") in MOVED:
            yield instruction
        elif instruction.kind == "fusion":
            called = hlo.CALLED.search(instruction.rest)
            body = computations.get(called[1], ()) if called else ()
            for one in body:
                if one.kind.removesuffix("-start") in MOVED:
                    yield _scattered(one, body)


def _scattered(one: hlo.Instruction, body: Sequence[hlo.Instruction]) -> hlo.Instruction:
    """An all-reduce of which each chip keeps but a slice is a reduce-scatter."""
    roots = [other for other in body if other.root and other.kind == "dynamic-slice"]
    if one.kind == "all-reduce" and roots and roots[0].operands[0] == one.name:
        return one._replace(kind="reduce-scatter", type=roots[0].type)
    return one


def _result(instruction: hlo.Instruction) -> float:
    """Bytes of the result; the type of a -start operation lists operands and results together."""
    types = hlo.arrays(instruction.type)
    sizes = [hlo.BYTES[kind] * math.prod(shape) for kind, shape, _ in types if shape]
    if not instruction.kind.endswith("-start") or instruction.kind == "all-reduce-start":
        return sum(sizes)
    if instruction.kind == "all-gather-start":
        return sum(sizes[len(sizes) // 2 :])
    return max(sizes, default=0.0)


def _axes(rest: str, mesh: Mapping[str, int]) -> tuple[str, int]:
    """The mesh axes along which an operation moves data, and how many chips take part together."""
    devices = np.arange(math.prod(mesh.values())).reshape(list(mesh.values()))
    wide = [axis for axis in mesh if mesh[axis] > 1]
    pairs = PAIRS.search(rest)
    if pairs:
        return _moved(pairs[0], mesh, devices), 2
    groups = {frozenset(group) for group in _groups(rest)}
    if not groups:
        return "+".join(wide) or "?", devices.size
    for count in range(1, len(wide) + 1):
        for chosen in itertools.combinations(wide, count):
            order = sorted(range(len(mesh)), key=lambda i: list(mesh)[i] in chosen)
            rows = devices.transpose(order).reshape(-1, math.prod(mesh[axis] for axis in chosen))
            if groups == {frozenset(row.tolist()) for row in rows}:
                return "+".join(chosen), rows.shape[1]
    return "?", max(map(len, groups))


def _moved(text: str, mesh: Mapping[str, int], devices: np.ndarray) -> str:
    """The axes along which the ends of any pair differ."""
    spots = {int(device): spot for spot, device in np.ndenumerate(devices)}
    moved = set()
    for pair in re.findall(r"\{([\d,]+)\}", text):
        ends = [spots[int(device)] for device in pair.split(",")]
        moved |= {axis for axis, a, b in zip(mesh, *ends, strict=True) if a != b}
    return "+".join(axis for axis in mesh if axis in moved) or "?"


def _groups(rest: str) -> list[list[int]]:
    """Replica groups: named axes of a mesh, or listed, or [groups, size]<=[dims]T(order)."""
    named = MESH.search(rest)
    if named:
        return _named_groups(*named.groups())
    match = GROUPS.search(rest)
    if not match:
        return []
    if match[1].startswith("{"):
        listed = re.findall(r"\{([\d,]+)\}", match[1].replace(" ", ""))
        return [_numbers(group) for group in listed]
    shape, _, dims = match[1].partition("<=")
    dims, _, order = dims.partition("T")
    return _iota(dims, order).reshape(_numbers(shape)).tolist()


def _named_groups(axes: str, dims: str | None, order: str | None, used: str) -> list[list[int]]:
    """Groups along some axes of a mesh written as 'a'=2,'b'=4, devices in the order of an iota."""
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", axes))
    shape = [int(size) for size in sizes.values()]
    devices = _iota(dims or str(math.prod(shape)), order or "").reshape(shape)
    chosen = re.findall(r"'([^']+)'", used)
    last = sorted(range(len(shape)), key=lambda i: list(sizes)[i] in chosen)
    width = math.prod(int(sizes[axis]) for axis in chosen)
    return devices.transpose(last).reshape(-1, width).tolist()


def _iota(dims: str, order: str) -> np.ndarray:
    """0, 1, 2, ... in an array of shape `dims`, its axes then exchanged."""
    devices = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return devices.transpose(_numbers(order)) if order else devices


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
