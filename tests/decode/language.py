"""A language model for searches to run on, without parameters to learn or layers to wait for.

Its state is a number that all tokens of the past change, so a wrong history shows at once.
"""

import functools

import jax.numpy as jnp
import numpy as np

STATES, V, EOS, PAD = 997, 29, 2, 1


@functools.cache
def table() -> np.ndarray:
    """Logits [STATES, V], with end tokens likely enough that texts differ in length."""
    logits = np.random.default_rng(0).normal(size=(STATES, V)) * 2.0
    logits[:, EOS] += 1.0
    return logits.astype(np.float32)


def follow(state, token):
    """The state after one more token, for arrays of any library."""
    return (state * 31 + token * 7 + 1) % STATES


def decoder(tokens, memory, cache, *, mask=None, prefix=None, after=None):
    """The model as our searches see it, hypotheses side by side: K tokens are K branches."""
    state = cache["hypotheses"]["state"][0]  # [B, K]
    logits = jnp.asarray(table())
    if memory is None:  # a step
        state = follow(state, tokens)
        return logits[state], {"hypotheses": {"state": state[None]}}
    every = []
    for token, real in zip(tokens.T, mask.T, strict=True):
        state = jnp.where(real[:, None], follow(state, token[:, None]), state)
        every.append(logits[state])
    cache = {"hypotheses": {"state": state[None]}}
    logits = jnp.concatenate(every, axis=1)
    return jnp.take_along_axis(logits, after[:, None, None], axis=1), cache


def rows_decoder(tokens, memory, cache, *, mask=None, prefix=None, after=None):
    """The same with a row for each hypothesis, [B * K, 1]."""
    moved, state = {"hypotheses": {"state": cache["state"][..., None]}}, cache["state"]
    logits, moved = decoder(tokens, memory, moved, mask=mask, after=after)
    return logits, {"state": moved["hypotheses"]["state"][..., 0], "memory": state}


def init_cache(memory, length, extra=0):
    return {"hypotheses": {"state": jnp.zeros((1, len(memory.tokens), 1), jnp.int32)}}


def init_rows_cache(memory, length, extra=0):
    state = jnp.zeros((1, len(memory.tokens)), jnp.int32)
    return {"state": state, "memory": state}
