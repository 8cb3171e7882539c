"""What a program holds: shapes of all values in it, and meshes of fake devices to run it on."""

import functools

import jax

from vlm_jax import sharding


@functools.cache
def mesh(data: int = 1, fsdp: int = 1):
    devices = jax.devices()[: data * fsdp]
    return sharding.make_mesh({"data": data, "fsdp": fsdp}, devices=devices)


def shapes(function, *arguments) -> set[tuple[int, ...]]:
    """Shapes of every value in the function's jaxpr, those of inner programs included."""
    found = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            found.update(v.aval.shape for v in equation.outvars)
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    walk(inner)

    walk(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found
