"""Beam search as one compiled loop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.decode.hypotheses import Step, branch, follow
from vlm_jax.decode.processors import process
from vlm_jax.decode.search import (
    Generated,
    Request,
    Search,
    is_eos,
    normalise,
    nothing_yet,
)
from vlm_jax.types import Cache


class _Beams(NamedTuple):
    """The state of a beam search.

    running: hypotheses that have not ended, scores not normalised. node: where they stand in the
    trie. finished: the best that have ended, best first, -inf where there is none yet. improvable:
    bool[B], False once a row is settled.
    """

    time: Int[Array, ""]
    running: Generated
    node: Int[Array, "B K"]
    finished: Generated
    improvable: Bool[Array, " B"]


def beam_search(
    logits: Float[Array, "B V"], cache: Cache, step: Step, search: Search, request: Request
) -> Generated:
    """The `beams` best hypotheses found for each row, [B, K, ...], best first.

    logits: of the first token. The procedure is that of `transformers.generate`: of the best
    candidates of each step (twice the beams, more with several end tokens) those that end compete
    for the finished places if they are among the first `beams`, and the others run on. A settled
    row no longer changes, so no row depends on its neighbours.
    """
    batch, beams = len(logits), search.beams

    def unfinished(carry):
        state, _ = carry
        return (state.time < search.max_length) & jnp.any(state.improvable)

    def advance(carry):
        state, cache = carry
        last = jax.lax.dynamic_index_in_dim(state.running.tokens, state.time - 1, 2, keepdims=False)
        logits, cache = step(last, cache)
        state, parents = _extend(state, logits, search, request)
        return state, follow(cache, parents)

    nothing = nothing_yet(batch, beams, search)
    unfilled = jnp.full((batch, beams), -jnp.inf)
    state = _Beams(
        jnp.int32(0),
        running=nothing._replace(scores=unfilled.at[:, 0].set(0.0)),
        node=jnp.zeros((batch, beams), jnp.int32),
        finished=nothing._replace(scores=unfilled),
        improvable=jnp.ones(batch, bool),
    )
    state, _ = _extend(state, repeat(logits, "B V -> B K V", K=beams), search, request)
    state, _ = jax.lax.while_loop(unfinished, advance, (state, branch(cache, beams)))
    return _without_unfilled(state.finished, search)


def _extend(
    state: _Beams, logits: Float[Array, "B K V"], search: Search, request: Request
) -> tuple[_Beams, Int[Array, "B K"]]:
    """One more token for every row, and the beams that the running hypotheses come from."""
    candidates, tokens, parents = _candidates(state, logits, search, request)
    ends = is_eos(tokens, search) | (state.time + 1 >= request.limit[:, None])
    _, stay = jax.lax.top_k(jnp.where(ends, -jnp.inf, candidates.scores), search.beams)
    running = _pick(candidates, stay)
    over = jnp.take_along_axis(ends, stay, axis=1)
    running = running._replace(scores=jnp.where(over, -jnp.inf, running.scores))
    enters = ends & (jnp.arange(ends.shape[1])[None] < search.beams) & state.improvable[:, None]
    finished = _merge(state.finished, candidates, enters, search)
    improvable = state.improvable & _improvable(running, finished, search, request)
    parents, tokens = (jnp.take_along_axis(x, stay, axis=1) for x in (parents, tokens))
    node = jnp.take_along_axis(state.node, parents, axis=1)
    node = node if request.trie is None else request.trie.follow(node, tokens)
    return _Beams(state.time + 1, running, node, finished, improvable), parents


def _candidates(
    state: _Beams, logits: Float[Array, "B K V"], search: Search, request: Request
) -> tuple[Generated, Int[Array, "B J"], Int[Array, "B J"]]:
    """The J best continuations of each row, best first: texts, newest tokens, parents."""
    vocab, time = logits.shape[-1], state.time
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    scores = process(logprobs, state.running.tokens, state.node, time, search, request)
    sums = rearrange(state.running.scores[..., None] + scores, "B K V -> B (K V)")
    most = min(max(2, 1 + len(search.eos)) * search.beams, sums.shape[1])
    sums, choice = jax.lax.top_k(sums, most)
    parents, tokens = choice // vocab, choice % vocab
    logprob = jnp.take_along_axis(rearrange(logprobs, "B K V -> B (K V)"), choice, axis=1)
    put = lambda row, new: jax.lax.dynamic_update_index_in_dim(row, new[..., None], time, axis=2)
    texts = _pick(state.running, parents)
    texts = Generated(
        put(texts.tokens, tokens), texts.lengths + 1, sums, put(texts.logprobs, logprob)
    )
    return texts, tokens, parents


def _merge(
    finished: Generated, candidates: Generated, enters: Bool[Array, "B J"], search: Search
) -> Generated:
    """The best of what was finished and of the candidates that enter."""
    scores = normalise(candidates.scores, candidates.lengths, search)
    candidates = candidates._replace(scores=jnp.where(enters, scores, -jnp.inf))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), finished, candidates)
    return _pick(both, jax.lax.top_k(both.scores, search.beams)[1])


def _improvable(
    running: Generated, finished: Generated, search: Search, request: Request
) -> Bool[Array, " B"]:
    """Whether a running hypothesis may still take a finished place."""
    best, worst = running.scores[:, 0], finished.scores[:, -1]  # -inf where there is none
    if search.early_stopping is True:
        return jnp.isneginf(worst) & ~jnp.isneginf(best)
    lengths = running.lengths[:, 0]
    if search.early_stopping == "never" and search.length_penalty > 0:
        lengths = request.limit
    return normalise(best, lengths, search) > worst


def _pick(hypotheses: Generated, which: Int[Array, "B J"]) -> Generated:
    expand = lambda x: which.reshape(which.shape + (1,) * (x.ndim - 2))
    return jax.tree.map(lambda x: jnp.take_along_axis(x, expand(x), axis=1), hypotheses)


def _without_unfilled(found: Generated, search: Search) -> Generated:
    """Empty texts in the places that nothing could fill."""
    none = jnp.isneginf(found.scores)
    blank = lambda x, value: jnp.where(none[..., None], value, x)
    return Generated(
        blank(found.tokens, search.pad),
        jnp.where(none, 0, found.lengths),
        found.scores,
        blank(found.logprobs, 0.0),
    )
