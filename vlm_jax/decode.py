"""Greedy and beam search as one compiled loop each, for anything that can be asked for the next
token.

Nothing here knows a model: a search starts from the logits f32[B, V] of the first token and a
cache (types.Cache), and then calls `step(tokens i32[B, 1], cache) -> (logits f32[B, V], cache)`.
Everything is traced, so a caller jits encoder, prompt and search together, and the device is
never asked whether it is done: the loop ends by itself once every row is.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.types import Cache, Features, gather_rows

Step = Callable[[Array, Cache], tuple[Array, Cache]]
"""(tokens i32[B, 1], cache) -> (logits f32[B, V], cache)."""


@dataclasses.dataclass(frozen=True)
class Search:
    """How to search; hashable, so it can be a static argument of jit.

    max_length: most tokens to generate, the end token included. min_length: tokens that must come
    before an end token. eos: end tokens; pad fills what follows them. banned: tokens never to
    generate. beams: 1 is greedy. length_penalty: the scores are sum of log-probabilities / length
    ** length_penalty. early_stopping: stop a row once `beams` hypotheses are finished (True), once
    none that is running would beat them if it ended now (False), or ended at max_length ("never").
    n_best: hypotheses to return; None returns the best one without that axis. ValueError if
    impossible.
    """

    max_length: int
    eos: tuple[int, ...]
    min_length: int = 0
    pad: int = 0
    banned: tuple[int, ...] = ()
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    n_best: int | None = None

    def __post_init__(self):
        """Reject what no search can do."""
        if self.max_length < 1 or self.beams < 1:
            raise ValueError(
                f"max_length={self.max_length} and beams={self.beams} must be positive"
            )
        if not 0 <= self.min_length <= self.max_length:
            raise ValueError(f"min_length={self.min_length} is not in [0, {self.max_length}]")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f'early_stopping={self.early_stopping!r}: use True, False or "never"')
        if self.n_best is not None and not 1 <= self.n_best <= self.beams:
            raise ValueError(f"n_best={self.n_best} is not in [1, beams={self.beams}]")


class Generated(NamedTuple):
    """What a search found; where there is an n-best axis, best first, it follows B.

    tokens: i32[B, T], end token included, then padding; T = max_length. lengths: i32[B], end token
    included. scores: f32[B], sum of log-probabilities / length ** length_penalty; -inf marks an
    n-best place that nothing could fill. logprobs: f32[B, T], in nats, 0 at padding; they are the
    model's own, not renormalised over the tokens that were allowed.
    """

    tokens: Int[Array, "B *K T"]
    lengths: Int[Array, "B *K"]
    scores: Float[Array, "B *K"]
    logprobs: Float[Array, "B *K T"]


def generate(
    decoder: Callable[..., tuple[Array, Cache]],
    init_cache: Callable[[Features, int], Cache],
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    memory: Features,
    search: Search,
    *,
    prefix: Int[Array, " B"] | None = None,
) -> Generated:
    """Continue the prompts, which may be padded on either side, with a decoder of this codebase.

    decoder: `(tokens, memory, cache, *, mask, prefix) -> (logits, cache)`, parameters included,
    such as `partial(model.apply, variables)`; init_cache: its `init_cache`. prefix: see decoders.
    Every row needs at least one real prompt token.
    """
    cache = init_cache(
        memory, prompt.shape[1] + search.max_length - 1
    )  # the last token is not read
    logits, cache = decoder(prompt, memory, cache, mask=prompt_mask, prefix=prefix)
    last = jnp.max(jnp.where(prompt_mask, jnp.arange(prompt.shape[1])[None], 0), axis=1)  # [B]
    logits = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]  # [B, V]

    def step(tokens, cache):
        logits, cache = decoder(tokens, None, cache)
        return logits[:, -1], cache

    if search.beams == 1:
        found = greedy(logits, cache, step, search)
        return found if search.n_best is None else jax.tree.map(lambda x: x[:, None], found)
    found = beam_search(logits, cache, step, search)
    return jax.tree.map(
        lambda x: x[:, 0] if search.n_best is None else x[:, : search.n_best], found
    )


# --- Greedy search --------------------------------------------------------------------------------


def greedy(logits: Float[Array, "B V"], cache: Cache, step: Step, search: Search) -> Generated:
    """The most probable token, again and again, until every row has ended or is max_length long."""

    def unfinished(carry):
        time, done, _, _ = carry
        return (time < search.max_length) & ~jnp.all(done)

    def advance(carry):
        time, done, found, cache = carry
        last = jax.lax.dynamic_slice_in_dim(found.tokens, time - 1, 1, axis=1)  # [B, 1]
        logits, cache = step(last, cache)
        return time + 1, *_append_best(time, done, found, logits, search), cache

    found = _nothing((len(logits),), search)
    done = jnp.zeros(len(logits), bool)
    first = _append_best(jnp.int32(0), done, found, logits, search)
    _, _, found, _ = jax.lax.while_loop(unfinished, advance, (jnp.int32(1), *first, cache))
    return found._replace(scores=_normalise(found.scores, found.lengths, search))


def _append_best(time: Array, done: Array, found: Generated, logits: Array, search: Search):
    """Rows that are not done get their most probable token at `time`; `scores` is the sum."""
    logprobs = _allowed_logprobs(logits, time, search)  # [B, V]
    token = jnp.where(done, search.pad, jnp.argmax(logprobs, axis=-1))
    logprob = jnp.where(done, 0.0, jnp.max(logprobs, axis=-1))
    put = lambda row, new: jax.lax.dynamic_update_slice_in_dim(row, new[:, None], time, axis=1)
    found = Generated(
        put(found.tokens, token.astype(jnp.int32)),
        found.lengths + ~done,
        found.scores + logprob,
        put(found.logprobs, logprob),
    )
    return done | _is_eos(token, search), found


# --- Beam search ----------------------------------------------------------------------------------


class _Beams(NamedTuple):
    """The state of a beam search.

    running: hypotheses that have not ended, scores not normalised. finished: the best that have,
    best first, -inf where there is none yet. improvable: bool[B], False once a row is settled.
    """

    time: Int[Array, ""]
    running: Generated
    finished: Generated
    improvable: Bool[Array, " B"]


def beam_search(logits: Float[Array, "B V"], cache: Cache, step: Step, search: Search) -> Generated:
    """The `beams` best hypotheses found for each row, [B, K, ...], best first.

    The procedure is that of `transformers.generate`: of the best candidates of each step (twice the
    beams, more with several end tokens) those that end compete for the finished places if they are
    among the first `beams`, and the others run on. A settled row no longer changes, so no row
    depends on its neighbours. The cache entry "memory" is the same for all hypotheses about a row
    and is not moved (layers/cache.py).
    """
    batch, beams = len(logits), search.beams
    rows = jnp.arange(batch)[:, None]

    def unfinished(carry):
        state, _ = carry
        return (state.time < search.max_length) & jnp.any(state.improvable)

    def advance(carry):
        state, cache = carry
        last = jax.lax.dynamic_slice_in_dim(state.running.tokens, state.time - 1, 1, axis=2)
        logits, cache = step(rearrange(last, "B K 1 -> (B K) 1"), cache)
        logits = rearrange(logits, "(B K) V -> B K V", K=beams)
        state, parents = _extend(state, logits, search)
        return state, _follow(cache, (rows * beams + parents).reshape(-1))

    nothing = _nothing((batch, beams), search)
    unfilled = jnp.full((batch, beams), -jnp.inf)
    state = _Beams(
        jnp.int32(0),
        running=nothing._replace(scores=unfilled.at[:, 0].set(0.0)),
        finished=nothing._replace(scores=unfilled),
        improvable=jnp.ones(batch, bool),
    )
    state, _ = _extend(state, repeat(logits, "B V -> B K V", K=beams), search)
    cache = gather_rows(cache, jnp.repeat(jnp.arange(batch), beams))
    state, _ = jax.lax.while_loop(unfinished, advance, (state, cache))
    return state.finished


def _extend(state: _Beams, logits: Float[Array, "B K V"], search: Search) -> tuple[_Beams, Array]:
    """One more token for every row; returns the beams each running hypothesis comes from, i32[B,
    K].
    """
    vocab = logits.shape[-1]
    logprobs = _allowed_logprobs(logits, state.time, search)
    sums = rearrange(state.running.scores[..., None] + logprobs, "B K V -> B (K V)")
    sums, choice = jax.lax.top_k(sums, max(2, 1 + len(search.eos)) * search.beams)  # [B, J]
    parents, tokens = choice // vocab, choice % vocab
    logprob = jnp.take_along_axis(rearrange(logprobs, "B K V -> B (K V)"), choice, axis=1)
    put = lambda row, new: jax.lax.dynamic_update_slice_in_dim(
        row, new[..., None], state.time, axis=2
    )
    candidates = _pick(state.running, parents)
    candidates = Generated(
        put(candidates.tokens, tokens),
        candidates.lengths + 1,
        sums,
        put(candidates.logprobs, logprob),
    )
    ends = _is_eos(tokens, search) | (state.time + 1 == search.max_length)
    _, stay = jax.lax.top_k(jnp.where(ends, -jnp.inf, sums), search.beams)
    running = _pick(candidates, stay)
    running = running._replace(
        scores=jnp.where(jnp.take_along_axis(ends, stay, 1), -jnp.inf, running.scores)
    )
    enters = ends & (jnp.arange(ends.shape[1])[None] < search.beams) & state.improvable[:, None]
    finished = _merge(state.finished, candidates, enters, search)
    improvable = state.improvable & _improvable(running, finished, search)
    parents = jnp.take_along_axis(parents, stay, axis=1)
    return _Beams(state.time + 1, running, finished, improvable), parents


def _merge(finished: Generated, candidates: Generated, enters: Array, search: Search) -> Generated:
    """The best of what was finished and of the candidates that enter."""
    scores = _normalise(candidates.scores, candidates.lengths, search)
    candidates = candidates._replace(scores=jnp.where(enters, scores, -jnp.inf))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), finished, candidates)
    return _pick(both, jax.lax.top_k(both.scores, search.beams)[1])


def _improvable(running: Generated, finished: Generated, search: Search) -> Bool[Array, " B"]:
    """Whether a running hypothesis may still take a finished place."""
    worst = finished.scores[:, -1]  # -inf while there are places left
    if search.early_stopping is True:
        return jnp.isneginf(worst)
    lengths = running.lengths[:, 0]
    if search.early_stopping == "never" and search.length_penalty > 0:
        lengths = jnp.full_like(lengths, search.max_length)
    return _normalise(running.scores[:, 0], lengths, search) > worst


def _follow(cache: Cache, rows: Int[Array, " R"]) -> Cache:
    moving = {name: part for name, part in cache.items() if name != "memory"}
    return {**cache, **gather_rows(moving, rows)}


def _pick(hypotheses: Generated, which: Int[Array, "B J"]) -> Generated:
    expand = lambda x: which.reshape(which.shape + (1,) * (x.ndim - 2))
    return jax.tree.map(lambda x: jnp.take_along_axis(x, expand(x), axis=1), hypotheses)


# --- Shared by both -------------------------------------------------------------------------------


def _nothing(shape: tuple[int, ...], search: Search) -> Generated:
    tokens = jnp.full((*shape, search.max_length), search.pad, jnp.int32)
    return Generated(
        tokens, jnp.zeros(shape, jnp.int32), jnp.zeros(shape), jnp.zeros(tokens.shape, jnp.float32)
    )


def _allowed_logprobs(logits: Float[Array, "*B V"], time: Array, search: Search) -> Array:
    """Log-probabilities, -inf for banned tokens and for end tokens that come too early."""
    banned, eos = np.zeros((2, *(1,) * (logits.ndim - 1), logits.shape[-1]), bool)
    banned[..., list(search.banned)] = True
    eos[..., list(search.eos)] = True
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.where(banned | (eos & (time < search.min_length)), -jnp.inf, logprobs)


def _is_eos(tokens: Int[Array, "*B"], search: Search) -> Bool[Array, "*B"]:
    return jnp.isin(tokens, np.array(search.eos, np.int32))


def _normalise(scores: Float[Array, "*B"], lengths: Int[Array, "*B"], search: Search) -> Array:
    return scores / lengths.astype(jnp.float32) ** search.length_penalty
