"""Bytes that a compiled program reads from and writes to a chip's memory, loops multiplied out."""

import math
import re
from collections.abc import Mapping, Sequence

from vlm_jax.plan import hlo

FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier", "domain", "async-done",
    "copy-done", "all-gather-done", "all-reduce-done", "collective-permute-done", "send-done",
    "recv-done", "iota",
}  # fmt: skip
"""Kinds that move nothing themselves: views, control flow, and the ends of what was counted when
it began."""

ELSEWHERE = re.compile(r"S\([1-9]\d*\)")
"""A layout that places an array in another memory than the chip's main one."""

SLICES = {"dynamic-slice", "slice", "gather"}


def traffic(computations: hlo.Computations) -> float:
    """Bytes per step and chip that instructions read and write in main memory.

    An operand that an instruction only slices counts as the slice; one that it updates in place
    counts as the update.
    """
    total = 0.0
    for name, times in hlo.executions(computations).items():
        types = {one.name: one.type for one in computations.get(name, ())}
        for instruction in computations.get(name, ()):
            if instruction.kind not in FREE:
                total += times * _moved(instruction, types, computations)
    return total


def largest_with(computations: hlo.Computations, rows: int) -> tuple[float, str, tuple[int, ...]]:
    """Bytes, element type and shape of the largest array with a dimension of `rows` that an
    instruction outside of fusions makes; (0, "", ()) if there is none.
    """
    largest: tuple[float, str, tuple[int, ...]] = (0.0, "", ())
    for name in hlo.executions(computations):
        for instruction in computations.get(name, ()):
            if instruction.kind in FREE:
                continue
            for kind, shape, _ in hlo.arrays(instruction.type):
                if rows in shape:
                    largest = max(largest, (hlo.BYTES[kind] * math.prod(shape), kind, shape))
    return largest


def _moved(
    instruction: hlo.Instruction, types: Mapping[str, str], computations: hlo.Computations
) -> float:
    operands = [_here(types.get(name, "")) for name in instruction.operands]
    result = _here(instruction.type)
    kind = instruction.kind
    if kind == "copy-start":  # its type repeats the operand; either may be on the chip's core
        return result
    if kind == "slice-start":  # of what its type repeats, the slice alone is read
        name, shape, layout = hlo.arrays(instruction.type)[len(operands)]
        part = f"{name}[{','.join(map(str, shape))}]"
        return hlo.size(part) + (0.0 if ELSEWHERE.search(layout) else hlo.size(part))
    if kind.endswith("-start"):  # its type repeats the operands
        return max(sum(operands), result - sum(operands)) + sum(operands)
    if kind in SLICES:
        return 2 * result
    if kind == "dynamic-update-slice":
        return 2 * sum(operands[1:])
    if kind == "fusion":
        called = hlo.CALLED.search(instruction.rest)
        if called and called[1] in computations:
            return _fused(instruction, operands, result, computations[called[1]])
    return sum(operands) + result


def _fused(
    instruction: hlo.Instruction,
    operands: list[float],
    result: float,
    body: Sequence[hlo.Instruction],
) -> float:
    """Bytes of a fusion, whose inner results stay on the chip's core."""
    types = {one.name: one.type for one in body}
    users: dict[str, list[hlo.Instruction]] = {}
    for one in body:
        for name in one.operands:
            users.setdefault(name, []).append(one)
    total, updated = 0.0, 0.0
    for one in body:
        if one.kind == "dynamic-update-slice" and len(one.operands) > 1:
            whole, part = hlo.size(one.type), hlo.size(types.get(one.operands[1], ""))
            updated += whole - part
    for one in body:
        if one.kind != "parameter":
            continue
        read = operands[int(one.inside)] if int(one.inside) < len(operands) else 0.0
        uses = users.get(one.name, [])
        if (
            read
            and uses
            and all(use.kind in SLICES and use.operands[0] == one.name for use in uses)
        ):
            read = min(read, sum(hlo.size(use.type) for use in uses))
        elif uses and all(
            use.kind == "dynamic-update-slice" and use.operands[0] == one.name for use in uses
        ):
            read = 0.0
        total += read
    return total + max(result - updated, 0.0)


def _here(text: str) -> float:
    """Bytes of a type's arrays in main memory."""
    return sum(
        hlo.size(f"{kind}[{','.join(map(str, shape))}]")
        for kind, shape, layout in hlo.arrays(text)
        if not ELSEWHERE.search(layout)
    )
