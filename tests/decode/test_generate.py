"""The same tokens and scores as transformers.generate, for every search it has. Needs torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from tests.decode import language, oracle
from vlm_jax.decode import Search, generate
from vlm_jax.types import Features

B, P, T = 8, 5, 12
RNG = np.random.default_rng(1)
LENGTHS = RNG.integers(1, P + 1, B)
TEXTS = [RNG.integers(3, language.V, length) for length in LENGTHS]


def prompts(side: str, rows=slice(None)):
    tokens, mask = np.zeros((B, P), np.int32), np.zeros((B, P), bool)
    for row, text in enumerate(TEXTS):
        start = 0 if side == "right" else P - len(text)
        tokens[row, start : start + len(text)] = text
        mask[row, start : start + len(text)] = True
    return tokens[rows], mask[rows]


@functools.partial(jax.jit, static_argnums=(2, 3))
def ours(prompt, mask, search, side_by_side=True):
    memory = Features(jnp.zeros((len(prompt), 1, 1)), jnp.ones((len(prompt), 1), bool))
    decoder = language.decoder if side_by_side else language.rows_decoder
    init_cache = language.init_cache if side_by_side else language.init_rows_cache
    return generate(decoder, init_cache, prompt, mask, memory, search)


def theirs(search: Search):
    """Tokens [B, n, T] and scores [B, n] of transformers, which sees n-grams in padding: then one
    prompt at a time.
    """
    groups = [slice(i, i + 1) for i in range(B)] if search.no_repeat_ngram else [slice(None)]
    config = GenerationConfig(
        max_new_tokens=search.max_length,
        min_new_tokens=search.min_length or None,
        num_beams=search.beams,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        num_return_sequences=search.n_best or 1,
        repetition_penalty=search.repetition_penalty,
        no_repeat_ngram_size=search.no_repeat_ngram,
        suppress_tokens=list(search.banned) or None,
        begin_suppress_tokens=list(search.banned_first) or None,
        bad_words_ids=[list(word) for word in search.banned_words] or None,
        forced_eos_token_id=search.eos[0] if search.force_eos else None,
        eos_token_id=list(search.eos),
        pad_token_id=language.PAD,
        do_sample=False,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    tokens, scores = [], []
    for rows in groups:
        prompt, mask = (torch.tensor(x) for x in prompts("left", rows))
        prompt, mask = (x[:, mask.any(0)] for x in (prompt.long(), mask.long()))
        found = oracle.automaton().generate(prompt, config, attention_mask=mask)
        written = found.sequences[:, prompt.shape[1] :].numpy()
        missing = search.max_length - written.shape[1]
        tokens.append(np.pad(written, ((0, 0), (0, missing)), constant_values=language.PAD))
        if search.beams > 1:
            scores.append(found.sequences_scores.numpy())
    shape = (B, search.n_best or 1)
    tokens = np.concatenate(tokens).reshape(*shape, -1)
    return tokens, np.concatenate(scores).reshape(shape) if scores else None


PROCESSORS = [
    {},
    {"min_length": 6},
    {"banned": (5, 7, 11)},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram": 1},
    {"no_repeat_ngram": 2, "eos": (language.EOS, 9)},
    {"force_eos": True, "max_length": 4},
    {"eos": (3, 4, 8), "repetition_penalty": 0.8, "no_repeat_ngram": 3, "min_length": 3},
]
CUT = ((0, 2), (1, 3), (5, 1))
"""Where words begin that are forbidden, and how long they are."""

BEAMS = [
    {"length_penalty": alpha, "early_stopping": early}
    for alpha in (0.6, 1.0, 2.0)
    for early in (True, False, "never")
]


def search(**options) -> Search:
    return Search(**({"max_length": T, "eos": (language.EOS,), "pad": language.PAD} | options))


@pytest.mark.parametrize("options", PROCESSORS, ids=str)
def test_greedy_equals_transformers(options):
    found = ours(*prompts("right"), search(**options))
    tokens, _ = theirs(search(**options))
    np.testing.assert_array_equal(found.tokens, tokens[:, 0])


@pytest.mark.parametrize("beams", [1, 4])
def test_words_that_are_not_to_be_written(beams):
    options = dict(beams=beams, n_best=beams) if beams > 1 else {}
    usual = np.asarray(ours(*prompts("right"), search(**options)).tokens).reshape(-1, T)
    words = {tuple(text[start : start + size].tolist()) for text in usual for start, size in CUT}
    words = tuple(sorted(word for word in words if not {language.EOS, language.PAD} & {*word}))
    banned = dict(banned_words=words, banned_first=(int(usual[0, 0]), int(usual[-1, 0])))
    asked = search(**options, **banned)
    found = np.asarray(ours(*prompts("right"), asked).tokens)
    tokens, _ = theirs(asked)
    np.testing.assert_array_equal(found.reshape(tokens.shape), tokens)
    assert {len(word) for word in words} == {1, 2, 3}
    assert (found.reshape(-1, T) != usual).any(axis=1).all()


@pytest.mark.parametrize("options", [*BEAMS, {"length_penalty": -1.0}], ids=str)
def test_beam_search_equals_transformers(options):
    asked = search(beams=4, n_best=4, **options)
    found = ours(*prompts("right"), asked)
    tokens, scores = theirs(asked)
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)


@pytest.mark.parametrize("options", PROCESSORS[1:], ids=str)
def test_beam_search_with_processors_equals_transformers(options):
    asked = search(beams=3, n_best=3, length_penalty=0.6, **options)
    found = ours(*prompts("left"), asked)
    tokens, scores = theirs(asked)
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"beams": 4, "n_best": 4}], ids=str)
def test_a_cache_with_a_row_for_each_hypothesis_gives_the_same(options):
    branched = ours(*prompts("left"), search(**options))
    rows = ours(*prompts("left"), search(**options), False)
    jax.tree.map(np.testing.assert_array_equal, branched, rows)
