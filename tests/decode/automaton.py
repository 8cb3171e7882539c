"""A decoder whose every row is an automaton of its own, and the searches run on it."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.decode import Generated, Request, Search, example_keys

STATES, V, EOS = 23, 5, 2


def table(seed: int, batch: int = 3) -> np.ndarray:
    """Log-probabilities [B, STATES, V] of the next token in each state of each row's automaton."""
    logits = np.random.default_rng(seed).normal(size=(batch, STATES, V)) * 1.5
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def follow(state, token):
    """The automaton: nearly every history has a state of its own, so a wrong beam is noticed."""
    return (state * 5 + token + 1) % STATES


def step(tokens, cache):
    """The automaton as a decoder: its state follows the hypotheses, its table does not."""
    state = follow(cache["hypotheses"]["state"][0], tokens)  # [B, K]
    logits = jnp.take_along_axis(cache["memory"]["table"][0], state[:, :, None], axis=1)
    return logits, cache | {"hypotheses": {"state": state[None]}}


def run(
    kind,
    logprobs: np.ndarray,
    search: Search,
    step=step,
    limits=None,
    seed=0,
    examples=None,
    **more,
) -> Generated:
    """A search over the rows of a table; more: further entries of the cache."""
    batch = len(logprobs)
    cache = {"memory": {"table": jnp.asarray(logprobs)[None]}} | more
    cache["hypotheses"] = {"state": jnp.zeros((1, batch, 1), jnp.int32)}
    limits = np.full(batch, search.max_length, np.int32) if limits is None else limits
    examples = np.arange(batch) if examples is None else examples
    keys = example_keys(jnp.full(batch, seed, jnp.uint32), jnp.asarray(examples))
    request = Request(jnp.full((batch, 1), EOS + 1), jnp.asarray(limits), keys)
    first = lambda cache: cache["memory"]["table"][0][:, 0]
    call = jax.jit(lambda cache, request: kind(first(cache), cache, step, search, request))
    return jax.tree.map(np.asarray, call(cache, request))


def as_pairs(found: Generated, row: int) -> list[tuple[float, tuple[int, ...]]]:
    """(score, tokens) of every text found for a row."""
    return [
        (found.scores[row, k], tuple(found.tokens[row, k, : found.lengths[row, k]].tolist()))
        for k in range(found.scores.shape[1])
        if np.isfinite(found.scores[row, k])
    ]
