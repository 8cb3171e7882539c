"""Low-rank factors beside a dense layer's kernel (see vlm_jax.lora) take part in what it computes.

With them the layer gives x W + b + scale (x A) B, and never forms a matrix of the kernel's size.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp


def adapted() -> Any:
    """A context in which every dense layer whose parameters include factors uses them."""
    return nn.intercept_methods(_dense)


def _dense(method: Callable, args: tuple, kwargs: Mapping[str, Any], context: Any) -> Any:
    """The call of a method of any module; of dense layers with factors, their output as well."""
    module = context.module
    out = method(*args, **kwargs)
    dense = isinstance(module, nn.Dense) and context.method_name == "__call__"
    if not dense or not module.has_variable("params", "lora_a"):
        return out
    a, b, scale = (module.get_variable("params", f"lora_{name}") for name in ("a", "b", "scale"))
    x = args[0].astype(out.dtype)
    low = jnp.matmul(x, a.astype(out.dtype)) * scale.astype(out.dtype)
    return out + jnp.matmul(low, b.astype(out.dtype))
