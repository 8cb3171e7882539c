"""Every processor against its namesake in transformers, on random scores. Needs torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process as peer

from vlm_jax.decode import processors
from vlm_jax.decode.search import NEVER, Request, Search

B, K, V, P, T, TIME = 4, 3, 11, 4, 9, 6
RNG = np.random.default_rng(0)
SCORES = (RNG.normal(size=(B, K, V)) * 3).astype(np.float32)
TOKENS = RNG.integers(0, V, (B, K, T)).astype(np.int32)
PROMPT = RNG.integers(0, V, (B, P)).astype(np.int32)
REQUEST = Request(jnp.asarray(PROMPT), jnp.full(B, T, jnp.int32))
WORDS = (
    (4,),
    (int(TOKENS[0, 0, 5]), 7),
    (*TOKENS[1, 2, 4:6].tolist(), 2),
    (int(PROMPT[2, 3]), *TOKENS[2, 1, :6].tolist(), 9),
    (*PROMPT[3].tolist(), *PROMPT[3].tolist(), *PROMPT[3].tolist(), 1),  # longer than any past
)


def past(row, hypothesis, time=TIME):
    prompt = PROMPT[row][PROMPT[row] != NEVER]
    return torch.tensor(np.concatenate([prompt, TOKENS[row, hypothesis, :time]]))[None]


def by_peer(processor, time=TIME):
    """The processor on every hypothesis by itself, without padding."""
    found = np.empty_like(SCORES)
    for row, hypothesis in np.ndindex(B, K):
        scores = torch.tensor(SCORES[row, hypothesis])[None]
        found[row, hypothesis] = processor(past(row, hypothesis, time).long(), scores)[0].numpy()
    return found


def by_us(search, time=TIME):
    node = jnp.zeros((B, K), jnp.int32)
    call = lambda scores, tokens, time: processors.narrow(
        processors.process(scores, tokens, node, time, search, REQUEST), search
    )
    return jax.jit(call)(SCORES, TOKENS, jnp.int32(time))


TABLE = {
    "repetition": ({"repetition_penalty": 1.3}, peer.RepetitionPenaltyLogitsProcessor(1.3)),
    "reward": ({"repetition_penalty": 0.5}, peer.RepetitionPenaltyLogitsProcessor(0.5)),
    "unigrams": ({"no_repeat_ngram": 1}, peer.NoRepeatNGramLogitsProcessor(1)),
    "bigrams": ({"no_repeat_ngram": 2}, peer.NoRepeatNGramLogitsProcessor(2)),
    "banned": ({"banned": (3, 8)}, peer.SuppressTokensLogitsProcessor([3, 8])),
    "words": (
        {"banned_words": WORDS},
        peer.NoBadWordsLogitsProcessor([list(word) for word in WORDS]),
    ),
    "temperature": ({"temperature": 0.7}, peer.TemperatureLogitsWarper(0.7)),
    "top-k": ({"top_k": 4}, peer.TopKLogitsWarper(4)),
    "top-k of all": ({"top_k": 99}, peer.TopKLogitsWarper(99)),
    "top-p": ({"top_p": 0.8}, peer.TopPLogitsWarper(0.8)),
    "top-p of one": ({"top_p": 1e-4}, peer.TopPLogitsWarper(1e-4)),
    "min-p": ({"min_p": 0.1}, peer.MinPLogitsWarper(0.1)),
}


@pytest.mark.parametrize("name", TABLE)
def test_equals_transformers(name):
    options, processor = TABLE[name]
    sample = name.startswith(("temp", "top", "min"))
    search = Search(max_length=T, eos=(2,), sample=sample, **options)
    expected = by_peer(processor)
    np.testing.assert_allclose(by_us(search), expected, rtol=1e-6)
    assert not np.array_equal(expected, SCORES) or name == "top-k of all"


def test_trigrams_are_forbidden_once_they_would_repeat():
    repeated = jnp.tile(jnp.array([5, 6, 7]), (B, K, 3))
    search = Search(max_length=T, eos=(2,), no_repeat_ngram=3)
    node = jnp.zeros((B, K), jnp.int32)
    request = REQUEST._replace(prompt=jnp.full((B, 2), NEVER, jnp.int32))
    for time, forbidden in ((6, {5}), (5, {7}), (4, set()), (1, set()), (0, set())):
        arrays = (jnp.asarray(SCORES), repeated, node, jnp.int32(time))
        found = processors.process(*arrays, search, request)
        assert set(np.where(np.isneginf(found))[2].tolist()) == forbidden


@pytest.mark.parametrize(("time", "closed"), [(0, True), (2, True), (3, False)])
def test_min_length_keeps_end_tokens_away(time, closed):
    found = by_us(Search(max_length=T, eos=(2, 5), min_length=3), time)
    expected = by_peer(peer.MinNewTokensLengthLogitsProcessor(P, 3, [2, 5]), time)
    np.testing.assert_array_equal(found, expected)
    assert np.isneginf(found[..., [2, 5]]).all() == closed


def test_words_are_forbidden_where_they_would_be_complete():
    found = np.isneginf(by_us(Search(max_length=T, eos=(2,), banned_words=WORDS)))
    assert found[..., 4].all() and found[0, 0, 7] and found[1, 2, 2] and found[2, 1, 9]
    assert not found[..., [7, 2, 9, 1]].all(axis=(0, 1)).any()


@pytest.mark.parametrize("forced", [(), (7,)])
def test_no_text_begins_with_some_tokens(forced):
    search = Search(max_length=T, eos=(2,), banned_first=(3, 8), forced=forced)
    for time in (0, 1, 2):
        expected = by_peer(peer.SuppressTokensAtBeginLogitsProcessor([3, 8], P + len(forced)), time)
        if time >= len(forced):
            np.testing.assert_array_equal(by_us(search, time), expected)
        assert np.isneginf(expected[..., [3, 8]]).all() == (time == len(forced))


def test_forced_tokens_come_first_and_an_end_token_last():
    search = Search(max_length=T, eos=(2,), forced=(7, 4), force_eos=True)
    for time, forced in ((0, 7), (1, 4), (T - 1, 2)):
        found = by_us(search, time)
        assert np.isfinite(found).sum() == B * K
        np.testing.assert_array_equal(found[..., forced], 0.0)
    np.testing.assert_array_equal(by_us(search, 2), SCORES)
    last = by_peer(peer.ForcedEOSTokenLogitsProcessor(P + T, [2]), T - 1)
    np.testing.assert_array_equal(by_us(search, T - 1), last)


def test_several_together_are_applied_in_the_order_of_transformers():
    options = {"temperature": 0.6, "top_k": 6, "top_p": 0.9, "min_p": 0.15, "banned": (1,)}
    search = Search(max_length=T, eos=(2,), sample=True, repetition_penalty=1.9, **options)
    chain = [
        peer.RepetitionPenaltyLogitsProcessor(1.9),
        peer.SuppressTokensLogitsProcessor([1]),
        peer.TemperatureLogitsWarper(0.6),
        peer.TopKLogitsWarper(6),
        peer.TopPLogitsWarper(0.9),
        peer.MinPLogitsWarper(0.15),
    ]
    together = lambda ids, scores: functools.reduce(lambda s, step: step(ids, s), chain, scores)
    np.testing.assert_allclose(by_us(search), by_peer(together), rtol=1e-6)


def test_top_p_equals_sorting_for_a_large_vocabulary():
    scores = np.random.default_rng(2).normal(size=(5, 1, 5000)).astype(np.float32) * 2
    for mass in (0.1, 0.5, 0.95, 0.999):
        expected = peer.TopPLogitsWarper(mass)(None, torch.tensor(scores[:, 0])).numpy()
        found = np.asarray(processors.keep_top_p(jnp.asarray(scores), mass)[:, 0])
        differing = np.isneginf(found) != np.isneginf(expected)
        assert differing.sum() <= 1  # cumulative sums round differently


def test_padding_is_not_part_of_the_past():
    request = Request(jnp.array([[NEVER, NEVER, 5, 6]]), jnp.array([T]))
    tokens = jnp.zeros((1, 1, T), jnp.int32)
    past = processors.history(tokens, jnp.int32(1), request)[0, 0]
    np.testing.assert_array_equal(past, [NEVER, NEVER, 5, 6, 0] + [NEVER] * (T - 1))
    ones = jnp.ones((1, 1, V))
    found = processors.penalise_repetition(ones, past[None, None], 2.0)[0, 0]
    assert np.flatnonzero(found == 0.5).tolist() == [0, 5, 6]


def test_a_list_is_kept_to_even_if_nothing_of_it_is_possible():
    scores = jnp.asarray(SCORES).at[0, :, 3].set(-jnp.inf).at[1, 0, 3].set(-jnp.inf)
    allowed = jnp.zeros((B, K, V), bool).at[..., 3].set(True)
    alone = processors.keep_to_list(scores, allowed, together=False)
    assert np.isfinite(alone).sum() == B * K
    assert alone[0, 0, 3] == alone[1, 0, 3] == 0.0
    together = processors.keep_to_list(scores, allowed, together=True)
    assert together[0, 0, 3] == 0.0 and np.isneginf(together[1, 0]).all()
