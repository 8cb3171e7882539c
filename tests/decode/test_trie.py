"""The list as arrays says what a dictionary says; the searches never leave the list."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decode import language
from vlm_jax.decode import Search, example_keys, generate, make_trie
from vlm_jax.types import Features

V, EOS = language.V, language.EOS
TEXTS = [(5, 6), (5, 6, 7), (8,), (9, 5, 5, 5), (5,), (28, 3), (8,)]


def trie(texts=TEXTS, **options):
    return make_trie(texts, **({"eos": (EOS,), "max_length": 8} | options))


def test_allowed_and_follow_are_those_of_the_list():
    tree = trie()
    for text in TEXTS:
        node = jnp.zeros((1, 1), jnp.int32)
        for time, token in enumerate((*text, EOS)):
            ways = {(*t, EOS)[time] for t in TEXTS if len(t) >= time and t[:time] == text[:time]}
            assert set(np.flatnonzero(tree.allowed(node, V)[0, 0])) == ways
            node = tree.follow(node, jnp.full((1, 1), token))
        assert not tree.allowed(node, V).any()


def test_lists_of_similar_size_share_their_shapes():
    shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)] + [tree.width]
    assert shapes(trie()) == shapes(trie([*TEXTS, (8, 8)]))


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "at least one text"),
        ([(5,), (5, 6, 7)], {"max_length": 3}, "text 1 of the list has 3 tokens .*max_length=3"),
        ([(5, 6), (5,)], {"min_length": 2}, "text 1 .*min_length=2"),
        ([(5, EOS)], {}, "text 0 of the list contains the end token 2"),
        ([(5,), (6,)], {"banned": (6,)}, "text 1 of the list needs token 6, which is banned"),
    ],
)
def test_texts_that_could_never_be_written_are_named(texts, options, message):
    with pytest.raises(ValueError, match=message):
        trie(texts, **options)


@functools.partial(jax.jit, static_argnums=3)
def answers(prompt, tree, keys, search):
    memory = Features(jnp.zeros((len(prompt), 1, 1)), jnp.ones((len(prompt), 1), bool))
    more = {"trie": tree, "keys": keys}
    mask = jnp.ones(prompt.shape, bool)
    return generate(language.decoder, language.init_cache, prompt, mask, memory, search, **more)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beams": 4, "n_best": 4},
        {"beams": 8, "n_best": 8, "early_stopping": True},
        {"sample": True, "n_best": 5, "temperature": 2.0},
        {"no_repeat_ngram": 1},
        {"beams": 3, "n_best": 3, "repetition_penalty": 1.5},
    ],
    ids=str,
)
def test_searches_never_leave_the_list(options):
    batch = 32
    prompt = np.random.default_rng(0).integers(3, V, (batch, 2))
    keys = example_keys(jnp.zeros(batch, jnp.uint32), jnp.arange(batch))
    search = Search(max_length=8, eos=(EOS,), **options)
    found = jax.tree.map(np.asarray, answers(prompt, trie(), keys, search))
    tokens, lengths = found.tokens.reshape(-1, 8), found.lengths.reshape(-1)
    written = [tuple(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]
    known = {(*text, EOS) for text in TEXTS}
    assert {text for text in written if text} <= known
    assert len(set(written)) > 2
    empty = np.isneginf(found.scores.reshape(-1))
    assert [text == () for text in written] == empty.tolist()
    if options.get("beams") == 8:  # more places than texts: each text once, the best first
        assert all(np.isfinite(row).sum() == len(known) for row in found.scores)


def test_the_best_answer_is_the_one_that_scores_best_by_itself():
    """Beams as wide as the list find what scoring every text of the list finds."""
    batch, table = 16, jax.nn.log_softmax(jnp.asarray(language.table()))
    prompt = np.random.default_rng(1).integers(3, V, (batch, 2))
    search = Search(max_length=8, eos=(EOS,), beams=8, length_penalty=0.0)
    found = jax.tree.map(np.asarray, answers(prompt, trie(), None, search))
    for row in range(batch):
        scores = {}
        for text in TEXTS:
            state = functools.reduce(language.follow, prompt[row].tolist(), 0)
            scores[text] = 0.0
            for token in (*text, EOS):
                scores[text] += float(table[state, token])
                state = language.follow(state, token)
        best = max(scores, key=scores.get)
        assert tuple(found.tokens[row, : found.lengths[row]]) == (*best, EOS)
        assert found.scores[row] == pytest.approx(scores[best], rel=1e-5)
