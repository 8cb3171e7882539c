"""Floating-point operations of a program, counted from its jaxpr.

XLA's own cost analysis counts the body of a loop once, however often it runs; here a scan counts
`length` times. Matrix products and convolutions are counted, as the literature counts them;
elementwise work is not.
"""

import math
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Any, *arguments: Any) -> float:
    """Operations of one call, a multiply-add being two; arguments may be jax.ShapeDtypeStruct."""
    return jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def jaxpr_flops(jaxpr: core.Jaxpr) -> float:
    """Operations of a jaxpr and all that it calls. A while loop, whose length is not known
    beforehand, counts once; of the branches of a cond the largest one does.
    """
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: core.JaxprEqn) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    inner = [jaxpr_flops(jaxpr) for jaxpr in _inner(equation.params)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        return max(inner, default=0.0)
    if name == "shard_map":
        return math.prod(equation.params["mesh"].shape.values()) * sum(inner)
    if name == "pallas_call":
        return math.prod(equation.params["grid_mapping"].grid) * sum(inner)
    return sum(inner)


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """The jaxprs among an equation's parameters."""
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                found.append(item)
    return found


def _dot_flops(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    inner = math.prod(left[axis] for axis in contracted)
    return 2.0 * math.prod(_shape(equation.outvars[0])) * inner


def _convolution_flops(equation: core.JaxprEqn) -> float:
    """Of the outputs times the window; of an input spread out by zeros (the backward pass of a
    strided convolution) these are not multiplied.
    """
    numbers = equation.params["dimension_numbers"]
    kernel = _shape(equation.invars[1])
    _, inputs, *window = (kernel[axis] for axis in numbers.rhs_spec)
    spread = math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(_shape(equation.outvars[0])) * inputs * math.prod(window) / spread


def _shape(variable: Any) -> tuple[int, ...]:
    """Of an operand or a result."""
    return variable.aval.shape
