"""Classifier-free guidance (arXiv:2207.12598): away from what is written without the text."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def guided(
    decoder: Callable[..., tuple[Array, Any]], scale: float
) -> Callable[..., tuple[Array, Any]]:
    """A decoder for B rows from one for 2 B, whose memory and cache have the B rows with their text
    first, then the same without.

    scale: logits are without + scale * (with - without); 1 ignores the rows without, 0 those with.
    """
    twice = lambda x: None if x is None else jnp.concatenate([x, x])

    def step(tokens: Array, memory: Any, cache: Any = None, **given: Any) -> tuple[Array, Any]:
        given = {name: twice(x) for name, x in given.items()}
        logits, cache = decoder(twice(tokens), memory, cache, **given)
        told, untold = jnp.split(logits, 2)
        return untold + scale * (told - untold), cache

    return step
