"""The text of a compiled program, read back: its computations, instructions, and how often each
runs in one step.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

BYTES = {
    "pred": 1, "s2": 0.25, "u2": 0.25, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2,
    "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
    "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1, "f8e4m3b11fnuz": 1, "token": 0,
}  # fmt: skip

COMPUTATION = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s+\(.*\{\s*$")
START = re.compile(r"^\s+(ROOT\s+)?%?([\w.\-]+)\s+=\s+")
KIND = re.compile(r"\s*([\w\-]+)\(")
NAME = re.compile(r"%([\w.\-]+)")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
TRIPS = re.compile(r'known_trip_count"?\s*:\s*\{\s*"?n"?\s*:\s*"?(\d+)')
LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))"
)
CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")


class Instruction(NamedTuple):
    """One line of a program. kind: its operation. inside: what stands in parentheses behind it,
    operands: the names among that; rest: what follows.
    """

    name: str
    type: str
    kind: str
    inside: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the instructions that this one reads."""
        return NAME.findall(self.inside)


Computations = Mapping[str, Sequence[Instruction]]
"""Name of a computation to its instructions in order; that of the program itself is ENTRY."""


def parse(text: str) -> dict[str, list[Instruction]]:
    """The computations of a program, as `Compiled.as_text` prints it."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    for line in text.splitlines():
        header = COMPUTATION.match(line) if line[:1] not in (" ", "}") else None
        if header:
            current = found.setdefault("ENTRY" if header[1] else header[2], [])
        elif line.startswith("}"):
            current = None
        elif current is not None and (start := START.match(line)):
            current.append(_instruction(line, start))
    return found


def _instruction(line: str, start: re.Match) -> Instruction:
    begin, root = start.end(), bool(start[1])
    end = _closing(line, begin) if line[begin] == "(" else line.find(" ", begin)
    kind = KIND.match(line, end)
    if kind is None:
        return Instruction(start[2], line[begin:], "", "", "", root)
    closed = _closing(line, kind.end() - 1)
    inside = line[kind.end() : closed - 1]
    return Instruction(start[2], line[begin:end], kind[1], inside, line[closed:], root)


def _closing(line: str, opening: int) -> int:
    """The position after the parenthesis that closes the one at `opening`."""
    depth = 0
    for position in range(opening, len(line)):
        depth += {"(": 1, ")": -1}.get(line[position], 0)
        if not depth:
            return position + 1
    return len(line)


def executions(computations: Computations) -> dict[str, float]:
    """How often each computation runs in one step: every branch of a conditional as if it were
    taken, a loop's body as often as the compiler or the loop's condition says, or else once.

    Computations within a fusion or a reduction are not counted: they are part of one instruction.
    """
    times: dict[str, float] = {}

    def visit(name: str, count: float) -> None:
        times[name] = times.get(name, 0) + count
        for instruction in computations.get(name, ()):
            rest = instruction.rest
            if instruction.kind == "while":
                loop = LOOP.search(rest)
                if loop:
                    visit(loop[2], count * _trips(rest, computations.get(loop[1], ())))
            elif instruction.kind == "conditional":
                for several, one in BRANCHES.findall(rest):
                    for branch in [one] if one else NAME.findall(several):
                        visit(branch, count)
            elif instruction.kind in ("call", "async-start"):
                for called in CALLED.findall(rest):
                    visit(called, count)

    visit("ENTRY", 1)
    return times


def _trips(rest: str, condition: Sequence[Instruction]) -> int:
    """How often a loop runs: until its counter, which begins at 0, reaches a constant."""
    known = TRIPS.search(rest)
    if known:
        return int(known[1])
    constants = {one.name: one.inside for one in condition if one.kind == "constant"}
    for one in condition:
        if one.root and one.kind == "compare" and "direction=LT" in one.rest:
            limits = [constants[name] for name in one.operands if name in constants]
            return int(limits[0]) if limits and limits[0].isdigit() else 1
    return 1


def arrays(text: str) -> list[tuple[str, tuple[int, ...], str]]:
    """(element type, shape, layout) of every array in a type as printed, tuples taken apart."""
    return [
        (kind, tuple(int(n) for n in shape.split(",") if n), layout)
        for kind, shape, layout in ARRAY.findall(text)
        if kind in BYTES
    ]


def size(text: str) -> float:
    """Bytes of a type, all arrays of a tuple together, without padding."""
    return sum(BYTES[kind] * math.prod(shape) for kind, shape, _ in arrays(text))
