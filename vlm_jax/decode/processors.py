"""What may come next: scores of tokens, changed by what a search forbids, forces or discourages.

Each function is one of the logits processors of `transformers` 5 on scores f32[B, K, V] of K
hypotheses, with the same results; `process` and `narrow` apply them in its order. Padding is never
part of a prompt here, so it is neither penalised nor counted in an n-gram.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.decode.search import NEVER, Request, Search

Scores = Float[Array, "B K V"]
Texts = Int[Array, "B K T"]
Time = Int[Array, ""]


def process(
    scores: Scores,
    tokens: Texts,
    node: Int[Array, "B K"],
    time: Time,
    search: Search,
    request: Request,
) -> Scores:
    """All that applies to every kind of search; -inf where a token must not follow.

    tokens: what is written so far, `time` of it. node: where each hypothesis stands in the trie.
    """
    if search.repetition_penalty != 1.0 or search.no_repeat_ngram or search.banned_words:
        past = history(tokens, time, request)
        end = request.prompt.shape[1] + time
        if search.repetition_penalty != 1.0:
            scores = penalise_repetition(scores, past, search.repetition_penalty)
        if search.no_repeat_ngram:
            scores = forbid_ngrams(scores, past, end, search.no_repeat_ngram)
        if search.banned_words:
            scores = forbid_words(scores, past, end, search.banned_words)
    if search.min_length:
        early = among(search.eos, scores.shape[-1]) & (time < search.min_length)
        scores = jnp.where(early, -jnp.inf, scores)
    if request.trie is not None:
        allowed = request.trie.allowed(node, scores.shape[-1])
        scores = keep_to_list(scores, allowed, together=search.beams > 1)
    if search.forced:
        scores = force_first(scores, time, search.forced)
    if search.force_eos:
        last = (time + 1 == request.limit)[:, None, None]
        scores = jnp.where(last, only(search.eos, scores.shape[-1]), scores)
    if search.banned:
        scores = jnp.where(among(search.banned, scores.shape[-1]), -jnp.inf, scores)
    if search.banned_first:
        first = among(search.banned_first, scores.shape[-1]) & (time == len(search.forced))
        scores = jnp.where(first, -jnp.inf, scores)
    return scores


def narrow(scores: Scores, search: Search) -> Scores:
    """What applies to drawing only: temperature, top-k, top-p, min-p, in this order."""
    if search.temperature != 1.0:
        scores = scores / search.temperature
    if search.top_k:
        scores = keep_top_k(scores, search.top_k)
    if search.top_p < 1.0:
        scores = keep_top_p(scores, search.top_p)
    if search.min_p > 0.0:
        scores = keep_min_p(scores, search.min_p)
    return scores


# --- For every search -----------------------------------------------------------------------------


def history(tokens: Texts, time: Time, request: Request) -> Int[Array, "B K past"]:
    """Prompt and text of every hypothesis without a gap, `NEVER` outside them."""
    batch, hypotheses, length = tokens.shape
    prompt = jnp.broadcast_to(request.prompt[:, None], (batch, hypotheses, request.prompt.shape[1]))
    written = jnp.where(jnp.arange(length)[None, None] < time, tokens, NEVER)
    return jnp.concatenate([prompt, written], axis=2)


def penalise_repetition(scores: Scores, past: Texts, penalty: float) -> Scores:
    """Tokens of the past: positive scores / penalty, negative ones * penalty (arXiv:1909.05858)."""
    index = jnp.where(past == NEVER, scores.shape[-1], past)
    present = jnp.take_along_axis(scores, jnp.maximum(past, 0), axis=2)
    present = jnp.where(present < 0, present * penalty, present / penalty)
    return _put(scores, index, present)


def forbid_ngrams(scores: Scores, past: Texts, end: Time, size: int) -> Scores:
    """Tokens that would complete an n-gram of `size` tokens which the past already has.

    end: where the next token goes.

    past = 5 6 7 5 6 -, end = 5, size = 3: not 7 again
    """
    padded, newest = _newest(past, end, size - 1)
    matches = past != NEVER
    for offset in range(size - 1):
        shifted = padded[:, :, offset : offset + past.shape[2]]
        suffix = newest[:, :, offset : offset + 1]
        matches &= (shifted == suffix) & (suffix != NEVER)
    index = jnp.where(matches, past, scores.shape[-1])
    return _put(scores, index, jnp.full(index.shape, -jnp.inf, scores.dtype))


def forbid_words(
    scores: Scores, past: Texts, end: Time, words: tuple[tuple[int, ...], ...]
) -> Scores:
    """Tokens that would complete one of `words` after what the past ends with.

    end: where the next token goes.

    past = 5 6 -, end = 2, words = (6 7), (5 7 8), (9,): neither 7 nor 9
    """
    for size in sorted({len(word) for word in words}):
        alike = np.array([[[word for word in words if len(word) == size]]], np.int32)
        _, newest = _newest(past, end, size - 1)
        complete = jnp.all(newest[:, :, None] == alike[..., :-1], axis=-1)  # [B, K, words]
        index = jnp.where(complete, alike[..., -1], scores.shape[-1])
        scores = _put(scores, index, jnp.full(index.shape, -jnp.inf, scores.dtype))
    return scores


def _newest(past: Texts, end: Time, count: int) -> tuple[Array, Int[Array, "B K {count}"]]:
    """The past behind `count` times NEVER, and the `count` tokens before `end`."""
    before = jnp.full((*past.shape[:2], count), NEVER, past.dtype)
    padded = jnp.concatenate([before, past], axis=2)
    return padded, jax.lax.dynamic_slice_in_dim(padded, end, count, axis=2)


def keep_to_list(scores: Scores, allowed: Bool[Array, "B K V"], *, together: bool) -> Scores:
    """Only allowed tokens; where nothing allowed is left they all score 0, so the list is kept.

    together: hypotheses compete, so only an example without any possible token counts as such.
    """
    kept = jnp.where(allowed, scores, -jnp.inf)
    lost = jnp.all(jnp.isneginf(kept), axis=(1, 2) if together else 2, keepdims=True)
    return jnp.where(lost, jnp.where(allowed, 0.0, -jnp.inf), kept)


def force_first(scores: Scores, time: Time, forced: tuple[int, ...]) -> Scores:
    """At times 0 ... n - 1 only the token forced[time], with score 0."""
    token = jnp.asarray(forced)[jnp.minimum(time, len(forced) - 1)]
    alone = jnp.where(jnp.arange(scores.shape[-1]) == token, 0.0, -jnp.inf)[None, None]
    return jnp.where(time < len(forced), alone, scores)


def among(tokens: tuple[int, ...], vocab: int) -> np.ndarray:
    """bool[1, 1, V], True for these tokens; IndexError for one outside the vocabulary."""
    mask = np.zeros((1, 1, vocab), bool)
    mask[..., list(tokens)] = True
    return mask


def only(tokens: tuple[int, ...], vocab: int) -> np.ndarray:
    """f32[1, 1, V]: 0 for these tokens, -inf for all others."""
    return np.where(among(tokens, vocab), 0.0, -np.inf).astype(np.float32)


def _put(scores: Array, index: Array, values: Array) -> Array:
    """Scores with `values` [B, K, J] at `index` along the last axis, indices outside it dropped."""
    batch = jnp.arange(scores.shape[0])[:, None, None]
    row = jnp.arange(scores.shape[1])[None, :, None]
    return scores.at[batch, row, index].set(values, mode="drop")


# --- For drawing ----------------------------------------------------------------------------------


def keep_top_k(scores: Scores, size: int) -> Scores:
    """The `size` best tokens, and what ties with the last of them."""
    best, _ = jax.lax.top_k(scores, min(size, scores.shape[-1]))
    return jnp.where(scores < best[..., -1:], -jnp.inf, scores)


def keep_top_p(scores: Scores, mass: float) -> Scores:
    """The fewest best tokens whose probabilities sum to `mass` or more, ties included.

    The smallest probability to keep is found by bisection on its bits, 31 sums over V: on a CPU
    XLA needs 7 ms to sort 30,522 numbers and 15 us to sum them.
    """
    probabilities = jax.nn.softmax(scores, axis=-1)
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)  # in the order of the numbers

    def halve(_, bounds):
        low, high = bounds  # below low: too much mass above it; from high on: little enough
        middle = low + (high - low) // 2
        above = jnp.sum(jnp.where(bits > middle, probabilities, 0.0), axis=-1, keepdims=True)
        fits = above < mass
        return jnp.where(fits, low, middle + 1), jnp.where(fits, middle, high)

    top = jnp.max(bits, axis=-1, keepdims=True)
    _, least = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(top), top))
    return jnp.where(bits < least, -jnp.inf, scores)


def keep_min_p(scores: Scores, share: float) -> Scores:
    """Tokens with at least `share` of the best one's probability."""
    probabilities = jax.nn.softmax(scores, axis=-1)
    least = share * jnp.max(probabilities, axis=-1, keepdims=True)
    return jnp.where(probabilities < least, -jnp.inf, scores)
