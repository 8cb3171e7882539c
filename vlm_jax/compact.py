"""Optimizer states in 16 or 8 bits: any update rule, its moments rounded between steps.

    rule = compact(optax.scale_by_adam(), "float8")      # 2 bytes per parameter instead of 8

Rounding is stochastic (arXiv:2010.06192, section 3): an average that moves by less than half of the
last place would stand still if it were rounded to the nearest. "bfloat16" keeps the range of
float32. "float8" divides each row (the last axis) by its largest value, and has 3 mantissa bits for
momenta and 2, with a wider range, for squares (formats of arXiv:2209.05433; states in 8 bits:
arXiv:2110.02861). What is positive stays positive, so nothing is divided by a rounded-off square.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vlm_jax import trees
from vlm_jax.kwargs import lookup

SMALLEST = 4096
"""Moments with fewer values stay as they are (arXiv:2110.02861, section 2)."""

BITS = {"bfloat16": 16, "float8": 8}
"""Kinds of storage and their bits per value."""

SIGNED = trees.compile_pattern(r".*(mu|trace)/.*")
"""Paths of averages of gradients, which have a sign and need precision more than range."""


class Rows(NamedTuple):
    """An array in 8 bits: values f8[..., N] times scale f32[..., 1]."""

    values: jax.Array
    scale: jax.Array


class CompactState(NamedTuple):
    """count i32[]: steps done, from which the rounding's noise is made. inner: the rule's state."""

    count: jax.Array
    inner: Any


def compact(rule: optax.GradientTransformation, kind: str) -> optax.GradientTransformation:
    """The rule, with every floating matrix of its state of at least 4,096 values stored as `kind`.

    kind: a key of BITS; ValueError for another.
    """
    bits = lookup(BITS, kind, "config.optimizer.state_dtype")

    def init(params: Any) -> CompactState:
        count = jnp.int32(0)
        return CompactState(count, _stored(rule.init(params), bits, count))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, CompactState]:
        inner = jax.tree.map(_plain, state.inner, is_leaf=_is_rows)
        updates, inner = rule.update(updates, inner, params)
        count = state.count + 1
        return updates, CompactState(count, _stored(inner, bits, count))

    return optax.GradientTransformation(init, update)


def _stored(state: Any, bits: int, count: jax.Array) -> Any:
    """The state with its big floating leaves in so many bits."""
    key, numbers = jax.random.fold_in(jax.random.key(0), count), iter(range(2**31))

    def store(path: str, x: Any) -> Any:
        number = next(numbers)
        if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim < 2 or x.size < SMALLEST:
            return x
        own = jax.random.fold_in(key, number)
        if bits == 16:
            return rounded(x, jnp.bfloat16, own)
        kind = jnp.float8_e4m3fn if SIGNED.match(path) else jnp.float8_e5m2
        return _rows(x.astype(jnp.float32), kind, own)

    return trees.map_with_path(store, state)


def _rows(x: jax.Array, kind: Any, key: jax.Array) -> Rows:
    """X in 8 bits; half of the range is left for values that are rounded up."""
    most = float(jnp.finfo(kind).max) / 2
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=-1, keepdims=True), 1e-30) / most
    scaled = x / scale
    least = jnp.asarray(float(jnp.finfo(kind).smallest_subnormal), kind)
    values = rounded(scaled, kind, key)
    lost = (scaled > 0) & (values == 0) & (kind == jnp.float8_e5m2)
    return Rows(jnp.where(lost, least, values), scale)


def rounded(x: jax.Array, kind: Any, key: jax.Array) -> jax.Array:
    """X f32[...] in a shorter floating type, rounded up or down at random so that the mean is x.

    Numbers below the smallest normal one of `kind` are rounded to the nearest.
    """
    spare = 23 - jnp.finfo(kind).nmant
    noise = jax.random.bits(key, x.shape, jnp.uint32) >> (32 - spare)
    number = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32) + noise
    cut = jnp.uint32(2**32 - 2**spare)
    raised = jax.lax.bitcast_convert_type(number & cut, jnp.float32)
    # Carries into the exponent are right for finite numbers; others must not become finite.
    return jnp.where(jnp.isfinite(x), raised, x).astype(kind)


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows)


def _plain(x: Any) -> Any:
    """What was stored, in float32."""
    if _is_rows(x):
        return x.values.astype(jnp.float32) * x.scale
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
