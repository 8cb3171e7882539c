"""Searches that cannot be are refused; requests are the same however prompts are padded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decode import Search, example_keys, make_request, make_trie
from vlm_jax.decode.search import NEVER, normalise


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 0}, "max_length=0"),
        ({"min_length": 9}, "min_length=9 is not in .* lower it"),
        ({"forced": (5,) * 5}, "5 forced tokens do not fit"),
        ({"forced": (5, 6), "banned": (6,)}, "token 6 is both banned and forced"),
        ({"force_eos": True, "banned": (2,)}, "force_eos needs an end token"),
        ({"banned": (-1,)}, "-1 is no token id"),
        ({"banned_first": (-2,)}, "-2 is no token id"),
        ({"banned_words": ((5, -3),)}, "-3 is no token id"),
        ({"banned_words": ((5,), ())}, "a word without tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram=-1"),
        ({"sample": True, "beams": 2}, "drop beams=2"),
        ({"top_k": 3}, "need sample=True"),
        ({"sample": True, "temperature": 0.0}, "for greedy search drop sample"),
        ({"sample": True, "top_p": 0.0}, "top_p=0.0"),
        ({"sample": True, "min_p": 1.5}, "min_p=1.5"),
        ({"beams": 0}, "beams=0"),
        ({"n_best": 2}, "n_best=2"),
        ({"early_stopping": "always"}, "always"),
    ],
)
def test_impossible_searches_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Search(**({"max_length": 4, "eos": (2,)} | fields))


def test_hypotheses_are_beams_or_samples():
    assert Search(max_length=4, eos=(2,), beams=3, n_best=2).hypotheses == 3
    assert Search(max_length=4, eos=(2,), sample=True, n_best=5).hypotheses == 5
    assert Search(max_length=4, eos=(2,), sample=True).hypotheses == 1


def test_requests_do_not_depend_on_the_side_of_the_padding():
    search = Search(max_length=4, eos=(2,))
    left = make_request(jnp.array([[0, 5, 6]]), jnp.array([[False, True, True]]), search)
    right = make_request(jnp.array([[5, 6, 0]]), jnp.array([[True, True, False]]), search)
    np.testing.assert_array_equal(left.prompt, [[NEVER, 5, 6]])
    np.testing.assert_array_equal(left.prompt, right.prompt)
    np.testing.assert_array_equal(left.limit, [4])


def test_what_a_search_lacks_is_said():
    prompt, mask = jnp.ones((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    with pytest.raises(ValueError, match="one random key per row"):
        make_request(prompt, mask, Search(max_length=4, eos=(2,), sample=True))
    trie = make_trie([[5]], eos=(2,), max_length=4)
    with pytest.raises(ValueError, match="in front of its texts"):
        make_request(prompt, mask, Search(max_length=4, eos=(2,), forced=(5,)), trie=trie)
    for banned in (dict(banned_first=(5,)), dict(banned_words=((5, 6),))):
        with pytest.raises(ValueError, match="leave the texts out"):
            make_request(prompt, mask, Search(max_length=4, eos=(2,), **banned), trie=trie)


def test_keys_belong_to_seed_and_example_alone():
    data = lambda seed, examples: np.asarray(
        jax.random.key_data(
            example_keys(jnp.full(len(examples), seed, jnp.uint32), jnp.array(examples))
        )
    )
    np.testing.assert_array_equal(data(1, [4, 7, 9])[[2, 0]], data(1, [9, 4]))
    assert len({tuple(key) for seed in (1, 2) for key in data(seed, [4, 7, 9])}) == 6


def test_scores_are_divided_by_a_power_of_the_length():
    search = Search(max_length=4, eos=(2,), length_penalty=2.0)
    found = normalise(jnp.array([-8.0, -8.0]), jnp.array([2, 0]), search)
    np.testing.assert_array_equal(found, [-2.0, -8.0])
