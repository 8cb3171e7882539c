"""One program of a config compiled for devices that need not be there, and read back."""

import re
import time
from typing import Any, NamedTuple

import jax

from vlm_jax.plan import hlo
from vlm_jax.plan.memory import Memory, bytes_per_device, memory_beyond, memory_of

CONSTRAINT = re.compile(r'sharding_constraint [^\n]*\[\{"[^}]*\}, \{[^}]*\}, \{')
"""A place of a lowered program that splits the first of at least three dimensions over a mesh, as
activations are split and no parameter is."""


class Compiled(NamedTuple):
    """A program for the devices of a mesh.

    constraints: how many places of the program say where an activation lives. computations: None
    where the compiler gave up because the chip's memory does not hold it.
    """

    memory: Memory
    seconds: float
    constraints: int
    computations: hlo.Computations | None


def compile_for(mesh: jax.sharding.Mesh, function: Any, *arguments: Any) -> Compiled:
    """Compile a jitted function of jax.ShapeDtypeStruct that know their sharding.

    Errors of the compiler that are not about memory are raised as they are.
    """
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = function.lower(*arguments)
        constraints = count_constraints(lowered.as_text())
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            memory = memory_beyond(error, bytes_per_device(arguments))
            if memory is None:
                raise
            return Compiled(memory, time.perf_counter() - start, constraints, None)
    seconds = time.perf_counter() - start
    return Compiled(memory_of(compiled), seconds, constraints, hlo.parse(compiled.as_text()))


def count_constraints(text: str) -> int:
    """How often a lowered program, as text, says where an activation lives."""
    return len(CONSTRAINT.findall(text))
