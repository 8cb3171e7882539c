"""Beam search against plain Python on an automaton."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decode.automaton import EOS, V, as_pairs, follow, run, step, table
from vlm_jax.decode import Search, beam_search


def reference_beams(logprobs: np.ndarray, search: Search) -> list[tuple[float, tuple[int, ...]]]:
    """Beam search of one row in lists and tuples, best hypothesis first."""
    beams, alpha = search.beams, search.length_penalty
    running, finished = [(0.0, (), 0)], []
    for length in range(1, search.max_length + 1):
        candidates = [
            (total + logprobs[state, token], (*tokens, token), follow(state, token))
            for total, tokens, state in running
            for token in range(V)
            if token not in search.banned
            and (token not in search.eos or length > search.min_length)
        ]
        candidates = sorted(candidates, reverse=True)[: max(2, 1 + len(search.eos)) * beams]
        ended = lambda tokens: tokens[-1] in search.eos or len(tokens) == search.max_length
        enter = [(c[0] / length**alpha, c[1]) for c in candidates[:beams] if ended(c[1])]
        finished = sorted(finished + enter, reverse=True)[:beams]
        running = [c for c in candidates if not ended(c[1])][:beams]
        if len(finished) == beams and running:
            ahead = search.max_length if search.early_stopping == "never" and alpha > 0 else length
            if search.early_stopping is True or running[0][0] / ahead**alpha <= finished[-1][0]:
                break
    return finished


@pytest.mark.parametrize(
    "options",
    [
        {"beams": 4},
        {"beams": 3, "length_penalty": 0.0},
        {"beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
        {"beams": 2, "early_stopping": True},
        {"beams": 3, "min_length": 3, "banned": (0,)},
        {"beams": 2, "eos": (2, 4), "length_penalty": -1.0},
    ],
    ids=str,
)
def test_beam_search_equals_plain_python(options):
    search = Search(**({"max_length": 7, "eos": (EOS,)} | options))
    logprobs = table(seed=1, batch=24)
    found = run(beam_search, logprobs, search)
    for row in range(24):
        expected = reference_beams(logprobs[row], search)
        got = as_pairs(found, row)
        assert [tokens for _, tokens in got] == [tokens for _, tokens in expected]
        np.testing.assert_allclose([s for s, _ in got], [s for s, _ in expected], rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_beam_search_finds_the_best_of_all_sequences_when_wide_enough(alpha):
    search = Search(max_length=3, eos=(EOS,), beams=24, length_penalty=alpha)
    logprobs = table(seed=2)
    found = run(beam_search, logprobs, search)
    for row in range(3):
        scores = {}
        for tokens in itertools.product(range(V), repeat=3):
            tokens = tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens
            state, total = 0, 0.0
            for token in tokens:
                total, state = total + logprobs[row, state, token], follow(state, token)
            scores[tokens] = total / len(tokens) ** alpha
        best = max(scores, key=scores.get)
        assert as_pairs(found, row)[0][1] == best
        assert found.scores[row, 0] == pytest.approx(scores[best], rel=1e-5)


def test_rows_may_have_limits_of_their_own():
    logprobs = np.repeat(table(seed=7, batch=1), 3, axis=0)
    limits = np.array([2, 5, 9], np.int32)
    search = Search(max_length=9, eos=(EOS,), beams=3, early_stopping="never")
    found = run(beam_search, logprobs, search, limits=limits)
    for row, limit in enumerate(limits.tolist()):
        alone = Search(max_length=limit, eos=(EOS,), beams=3, early_stopping="never")
        expected = run(beam_search, logprobs[:1], alone)
        assert as_pairs(found, row) == as_pairs(expected, 0)


def test_a_row_does_not_depend_on_its_neighbours():
    search = Search(max_length=8, eos=(EOS,), beams=3)
    logprobs = table(seed=5, batch=8)
    together = run(beam_search, logprobs, search)
    for row in (0, 5):
        alone = run(beam_search, logprobs[row : row + 1], search)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a[0], b[row])


@pytest.mark.parametrize(("early", "steps"), [(True, 2), (False, 2), ("never", 49)])
def test_the_loop_ends_with_the_longest_row(early, steps):
    """End tokens are certain from the third step on: two steps are taken, unless longer texts may
    still win.
    """
    calls = []

    def counted(tokens, cache):
        jax.debug.callback(lambda _: calls.append(1), tokens[0, 0])
        logits, cache = step(tokens, cache)
        time = cache["time"] + 1
        forced = jnp.where(jnp.arange(V)[None, None] == EOS, 0.0, -30.0)
        return jnp.where(time[0] >= 2, forced, logits), cache | {"time": time}

    options = {"min_length": 2, "early_stopping": early, "length_penalty": 20.0}
    search = Search(max_length=50, eos=(EOS,), beams=2, **options)
    found = run(beam_search, table(seed=6), search, step=counted, time=jnp.zeros((1, 1, 1)))
    jax.effects_barrier()
    assert found.lengths[:, 0].tolist() == [3, 3, 3] or early == "never"
    assert len(calls) == steps
