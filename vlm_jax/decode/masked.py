"""Parallel decoding: all tokens are guessed at once, the surest stay, the others are guessed again.

MaskGIT (arXiv:2202.04200, section 3.2) with its cosine schedule, as Muse (arXiv:2301.00704) uses
it.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def still_hidden(steps: int, length: int) -> list[int]:
    """How many of `length` tokens are hidden after each step: the cosine of how far the steps are
    along a quarter turn, none after the last.
    """
    angles = [number / steps * math.pi / 2 for number in range(1, steps)]
    return [math.floor(length * math.cos(angle)) for angle in angles] + [0]


def unmask(
    guess: Callable[[Int[Array, "B S"]], Float[Array, "B S V"]],
    keys: Key[Array, " B"],
    length: int,
    *,
    hidden: int,
    steps: int = 12,
    temperature: float = 1.0,
    choice_temperature: float = 4.5,
) -> Int[Array, "B S"]:
    """Tokens i32[B, S] in [0, V), S = length, guessed in `steps` rounds of one compiled loop.

    guess: scores of all tokens given some, those that are `hidden` being unknown. keys: one per
    row, on which alone its draws depend. temperature: divides the scores from which tokens are
    drawn; 0 takes the best. choice_temperature: of the noise that is added to log-probabilities
    before the surest are chosen, fading to 0. ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: parallel decoding needs at least one")

    left = jnp.asarray(still_hidden(steps, length), jnp.int32)

    def advance(step: Array, tokens: Array) -> Array:
        logits = guess(tokens).astype(jnp.float32)
        unknown = tokens == hidden
        noise = _noise(keys, 2 * step, logits.shape[1:])
        drawn = jnp.argmax(logits + temperature * noise, axis=-1).astype(tokens.dtype)
        drawn = jnp.where(unknown, drawn, tokens)
        sure = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[..., None], axis=-1)[..., 0]
        fading = choice_temperature * (1.0 - (step + 1) / steps)
        sure = sure + fading * _noise(keys, 2 * step + 1, sure.shape[1:])
        return jnp.where(_least(sure, unknown, left[step]), hidden, drawn)

    start = jnp.full((len(keys), length), hidden, jnp.int32)
    return jax.lax.fori_loop(0, steps, advance, start)


def _least(
    sure: Float[Array, "B S"], unknown: Bool[Array, "B S"], count: Int[Array, ""]
) -> Bool[Array, "B S"]:
    """True at the `count` least sure of the unknown tokens of each row, all if there are fewer."""
    order = jnp.argsort(jnp.where(unknown, sure, jnp.inf), axis=1)
    return (jnp.argsort(order, axis=1) < count) & unknown


def _noise(keys: Array, number: Array, shape: tuple[int, ...]) -> Array:
    """Gumbel noise of this shape for each row's key."""
    return jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, number), shape))(keys)
