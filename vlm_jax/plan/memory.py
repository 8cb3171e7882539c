"""What a compiled program needs of each chip's memory, and what the compiler says if that is too
much.
"""

import math
import re
from typing import Any, NamedTuple

import jax

from vlm_jax import trees
from vlm_jax.plan.chips import GIB

TOO_MUCH = re.compile(r"Used ([\d.]+)([KMGT]) of|temporaries \(([\d.]+)([KMGT])\) exceeds")
UNITS = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}
"""GiB in the units of the compiler's messages."""


class Memory(NamedTuple):
    """GiB per device. arguments: what is there before the step (parameters, optimizer state,
    batch). temporaries: what comes and goes within it. output: what is new after it (donated
    arguments are not). code: the program itself.
    """

    arguments: float
    temporaries: float
    output: float
    code: float = 0.0

    @property
    def total(self) -> float:
        """All of it together."""
        return sum(self)


def memory_of(compiled: Any) -> Memory:
    """Of a jax.stages.Compiled."""
    found = compiled.memory_analysis()
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    parts = (found.argument_size_in_bytes, found.temp_size_in_bytes, new)
    return Memory(*(part / GIB for part in (*parts, found.generated_code_size_in_bytes)))


def memory_beyond(error: Exception, arguments: int) -> Memory | None:
    """What a program needs that the compiler gave up, by its message; None for other messages.

    arguments: bytes per device, which are known beforehand.
    """
    found = TOO_MUCH.search(str(error))
    if not found:
        return None
    amount, unit = found.group(1, 2) if found[1] else found.group(3, 4)
    before = arguments / GIB
    return Memory(before, max(float(amount) * UNITS[unit] - before, 0.0), 0.0)


def bytes_per_device(shapes: trees.Tree) -> int:
    """Of a tree of jax.ShapeDtypeStruct that know their sharding."""
    sizes = [
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    ]
    return sum(sizes)
