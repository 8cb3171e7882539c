"""Drawing along a flow: from noise to data by a learned velocity (rectified flow, arXiv:2209.03003;
flow matching, arXiv:2210.02747). Time goes from 0, noise, to 1, data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Velocity = Callable[[Float[Array, "B ..."], Float[Array, " B"]], Float[Array, "B ..."]]
"""From where each row is and its time in [0, 1] to where it goes, per unit of time."""


def noise(keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Standard normal f32[B, *shape]; a row depends on its own key alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def integrate(
    velocity: Velocity, start: Float[Array, "B ..."], *, steps: int = 32, method: str = "heun"
) -> Float[Array, "B ..."]:
    """Where the flow takes `start` from time 0 to 1, in one compiled loop of equal steps.

    method: "euler", which asks for a velocity once a step, or "heun", twice, whose error falls with
    the square of the number of steps. ValueError for another method, or fewer than one step.
    """
    if method not in ("euler", "heun"):
        raise ValueError(f'method={method!r}: choose "euler" or "heun"')
    if steps < 1:
        raise ValueError(f"steps={steps}: drawing needs at least one")

    def advance(step: Array, x: Array) -> Array:
        now, later = (jnp.full(len(x), (step + i) / steps, jnp.float32) for i in (0, 1))
        first = velocity(x, now)
        if method == "euler":
            return x + first / steps
        second = velocity(x + first / steps, later)
        return x + (first + second) / (2 * steps)

    return jax.lax.fori_loop(0, steps, advance, start)
