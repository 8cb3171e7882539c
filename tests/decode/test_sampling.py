"""Greedy search against the naive loop; drawn tokens against the distribution they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decode.automaton import EOS, STATES, V, as_pairs, follow, run, step, table
from vlm_jax.decode import Search, beam_search, write
from vlm_jax.decode.sampling import first_argmax


@pytest.mark.parametrize("options", [{}, {"min_length": 4, "banned": (0, 3)}], ids=str)
def test_greedy_is_the_naive_loop(options):
    search = Search(max_length=9, eos=(EOS,), pad=0, **options)
    logprobs = table(seed=3, batch=16)
    found = jax.tree.map(lambda x: x[:, 0], run(write, logprobs, search))
    for row in range(16):
        state, tokens, taken = 0, [], []
        while len(tokens) < 9 and EOS not in tokens:
            allowed = logprobs[row, state].copy()
            allowed[list(search.banned)] = -np.inf
            allowed[EOS] = allowed[EOS] if len(tokens) >= search.min_length else -np.inf
            tokens.append(int(allowed.argmax()))
            taken.append(allowed.max())
            state = follow(state, tokens[-1])
        padding = [0] * (9 - len(tokens))
        assert found.tokens[row].tolist() == tokens + padding
        assert found.lengths[row] == len(tokens)
        np.testing.assert_allclose(found.logprobs[row], taken + padding, atol=1e-5)
        assert found.scores[row] == pytest.approx(np.mean(taken), abs=1e-5)
    assert len(set(found.lengths.tolist())) > 1  # otherwise nothing above was ragged


def test_one_beam_that_stops_early_is_greedy():
    search = Search(max_length=8, eos=(EOS,), early_stopping=True)
    logprobs = table(seed=4, batch=16)
    one, beam = run(write, logprobs, search), run(beam_search, logprobs, search)
    for a, b in zip(one, beam, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_rows_may_have_limits_of_their_own():
    logprobs = np.repeat(table(seed=7, batch=1), 3, axis=0)
    search = Search(max_length=9, eos=(EOS,), min_length=9)
    found = run(write, logprobs, search, limits=np.array([2, 5, 9], np.int32))
    assert found.lengths[:, 0].tolist() == [2, 5, 9]
    for row in range(3):
        assert as_pairs(found, row)[0][1] == as_pairs(found, 2)[0][1][: [2, 5, 9][row]]


def test_the_loop_ends_with_the_longest_row():
    calls = []

    def counted(tokens, cache):
        jax.debug.callback(lambda _: calls.append(1), tokens[0, 0])
        logits, cache = step(tokens, cache)
        time = cache["time"] + 1
        forced = jnp.where(jnp.arange(V)[None, None] == EOS, 0.0, -30.0)
        return jnp.where(time[0] >= 2, forced, logits), cache | {"time": time}

    search = Search(max_length=50, eos=(EOS,), min_length=2)
    found = run(write, table(seed=6), search, step=counted, time=jnp.zeros((1, 1, 1)))
    jax.effects_barrier()
    assert found.lengths[:, 0].tolist() == [3, 3, 3]
    assert len(calls) == 2


def test_drawn_tokens_have_the_probabilities_of_the_narrowed_distribution():
    rows, options = 4000, {"temperature": 0.8, "top_k": 4, "top_p": 0.97}
    one = table(seed=8, batch=1)
    search = Search(max_length=2, eos=(EOS,), min_length=2, sample=True, **options)
    found = run(write, np.repeat(one, rows, axis=0), search)
    scores = one[0, 0].astype(np.float64) / 0.8
    scores[EOS] = -np.inf
    kept = np.argsort(scores)[::-1][:4]
    p = np.exp(scores[kept]) / np.exp(scores[kept]).sum()
    kept, p = kept[np.cumsum(p) - p < 0.97], p[np.cumsum(p) - p < 0.97]
    p = dict(zip(kept.tolist(), p / p.sum(), strict=True))
    counts = np.bincount(found.tokens[:, 0, 0], minlength=V)
    expected = np.array([p.get(token, 0.0) for token in range(V)])
    assert len(p) in (3, 4) and not counts[expected == 0].any()
    deviation = np.abs(counts - rows * expected)
    assert (deviation <= 4 * np.sqrt(rows * expected * (1 - expected))).all()


def test_the_tokens_of_a_text_are_drawn_independently():
    """With one distribution for all states, neighbours are equal as often as chance has it."""
    one = table(seed=8, batch=1)[:, :1]
    logprobs = np.tile(one, (2000, STATES, 1))
    search = Search(max_length=2, eos=(), sample=True)
    first, second = run(write, logprobs, search).tokens[:, 0].T
    chance = np.sum(np.exp(one.astype(np.float64)) ** 2)
    assert np.mean(first == second) == pytest.approx(chance, abs=0.05)


def test_an_example_draws_the_same_wherever_it_stands():
    search = Search(max_length=8, eos=(EOS,), sample=True, n_best=3)
    logprobs, examples = table(seed=9, batch=8), np.array([3, 1, 4, 15, 9, 2, 6, 5])
    together = run(write, logprobs, search, examples=examples)
    order = np.array([5, 2, 7])
    for a, b in zip(
        run(write, logprobs[order], search, examples=examples[order]), together, strict=True
    ):
        np.testing.assert_array_equal(a, b[order])
    other = run(write, logprobs, search, examples=examples, seed=1)
    assert (other.tokens != together.tokens).any(axis=(1, 2)).sum() >= 7


def test_samples_differ_and_the_first_is_the_single_one():
    search = Search(max_length=8, eos=(EOS,), sample=True, n_best=6)
    one = Search(max_length=8, eos=(EOS,), sample=True)
    logprobs = table(seed=10, batch=8)
    many, single = run(write, logprobs, search), run(write, logprobs, one)
    assert np.all(np.diff(many.scores, axis=1) <= 0)
    for row in range(8):
        drawn = [tokens for _, tokens in as_pairs(many, row)]
        assert as_pairs(single, row)[0][1] in drawn
        assert len(set(drawn)) > 1
        for score, tokens in as_pairs(many, row):
            states = [0]
            for token in tokens:
                states.append(follow(states[-1], token))
            taken = [logprobs[row, s, t] for s, t in zip(states, tokens, strict=False)]
            assert score == pytest.approx(np.mean(taken), abs=1e-5)


def test_first_argmax_is_argmax():
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, (STATES, 3, 9)).astype(np.float32))
    np.testing.assert_array_equal(first_argmax(x), jnp.argmax(x, axis=-1))
    none = jnp.full((2, 9), -jnp.inf)
    np.testing.assert_array_equal(first_argmax(none), jnp.argmax(none, axis=-1))
