"""Searches against plain Python on an automaton, and against teacher forcing on decoders."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decode import Generated, Search, beam_search, generate, greedy
from vlm_jax.decoders import DECODERS
from vlm_jax.types import Features

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
    state = follow(cache["state"][0], tokens[:, 0])
    logits = jnp.take_along_axis(cache["memory"]["table"][0], state[:, None, None], axis=1)[:, 0]
    return logits, cache | {"state": state[None]}


def run(kind, logprobs: np.ndarray, search: Search, step=step) -> Generated:
    cache = {"state": jnp.zeros((1, len(logprobs)), jnp.int32), "memory": {"table": logprobs[None]}}
    call = jax.jit(lambda cache: kind(cache["memory"]["table"][0][:, 0], cache, step, search))
    return jax.tree.map(np.asarray, call(cache))


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


def as_pairs(found: Generated, row: int) -> list[tuple[float, tuple[int, ...]]]:
    return [
        (found.scores[row, k], tuple(found.tokens[row, k, : found.lengths[row, k]].tolist()))
        for k in range(found.scores.shape[1])
        if np.isfinite(found.scores[row, k])
    ]


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


@pytest.mark.parametrize("options", [{}, {"min_length": 4, "banned": (0, 3)}], ids=str)
def test_greedy_is_the_naive_loop(options):
    search = Search(max_length=9, eos=(EOS,), pad=0, **options)
    logprobs = table(seed=3, batch=16)
    found = run(greedy, logprobs, search)
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
    one, beam = run(greedy, logprobs, search), run(beam_search, logprobs, search)
    for a, b in zip(one, beam, strict=True):
        np.testing.assert_allclose(a, b[:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", [greedy, beam_search])
def test_a_row_does_not_depend_on_its_neighbours(kind):
    search = Search(max_length=8, eos=(EOS,), beams=3)
    logprobs = table(seed=5, batch=8)
    together = run(kind, logprobs, search)
    for row in (0, 5):
        alone = run(kind, logprobs[row : row + 1], search)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a[0], b[row])


@pytest.mark.parametrize("kind", [greedy, beam_search])
def test_the_loop_ends_with_the_longest_row(kind):
    """End tokens are certain from the third step on, so two steps are taken, not 49."""
    calls = []

    def counted(tokens, cache):
        jax.debug.callback(lambda _: calls.append(1), tokens[0, 0])
        logits, cache = step(tokens, cache)
        time = cache["time"] + 1
        forced = jnp.where(jnp.arange(V)[None] == EOS, 0.0, -30.0)
        return jnp.where(time[0][:, None] >= 2, forced, logits), cache | {"time": time}

    search = Search(max_length=50, eos=(EOS,), beams=2, min_length=2, early_stopping=True)
    logprobs = table(seed=6)
    cache = {"state": jnp.zeros((1, 3), jnp.int32), "time": jnp.zeros((1, 3), jnp.int32)}
    cache["memory"] = {"table": jnp.asarray(logprobs)[None]}
    found = jax.jit(lambda cache: kind(jnp.asarray(logprobs[:, 0]), cache, counted, search))(cache)
    jax.effects_barrier()
    lengths = found.lengths if kind is greedy else found.lengths[:, 0]
    assert np.asarray(lengths).tolist() == [3, 3, 3]
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 0}, "max_length=0"),
        ({"min_length": 9}, "min_length=9"),
        ({"n_best": 2}, "n_best=2"),
        ({"early_stopping": "always"}, "always"),
    ],
)
def test_impossible_searches_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Search(**({"max_length": 4, "eos": (EOS,)} | fields))


# --- With real decoders ---------------------------------------------------------------------------

WORDS, P, LENGTHS = 13, 3, (3, 1, 2)
FIELDS = {
    "lstm_merge": {"width": 8},
    "attending_lstm": {"width": 8, "attention_width": 4},
    "cross_attention": {"width": 8, "heads": 2, "layers": 2, "mlp_width": 16, "max_length": 16},
    "prefix_lm": {"width": 8, "heads": 2, "layers": 2, "mlp_width": 16, "max_length": 24},
}
PROMPT = np.random.default_rng(0).integers(3, WORDS, (3, P))
MEMORY = Features(
    jax.random.normal(jax.random.key(1), (3, 4, 6)),
    jnp.arange(4)[None] < jnp.array([[4], [2], [3]]),
)


@functools.cache
def build(name: str):
    decoder = DECODERS[name](vocab=WORDS, **FIELDS[name])
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), jnp.asarray(PROMPT), MEMORY)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.7, shapes)
    apply = functools.partial(decoder.apply, variables)

    @functools.partial(jax.jit, static_argnums=3)
    def call(prompt, mask, memory, search):
        prefix = jnp.sum(mask, axis=1, dtype=jnp.int32)
        return generate(apply, decoder.init_cache, prompt, mask, memory, search, prefix=prefix)

    return call, jax.jit(apply)


def padded(side: str):
    tokens, mask = np.zeros((3, P), np.int32), np.zeros((3, P), bool)
    for row, length in enumerate(LENGTHS):
        start = 0 if side == "right" else P - length
        tokens[row, start : start + length] = PROMPT[row, :length]
        mask[row, start : start + length] = True
    return tokens, mask


@pytest.mark.parametrize("name", DECODERS)
def test_generated_logprobs_are_those_of_teacher_forcing(name):
    """Beams move the cache about; each returned hypothesis must still score as the decoder scores
    it.
    """
    call, apply = build(name)
    search = Search(max_length=6, eos=(EOS,), beams=3, n_best=3, banned=(0,))
    prompt, mask = padded("right")
    found = call(prompt, mask, MEMORY, search)
    for best in range(3):
        full = np.zeros((3, P + 6), np.int32)
        for row, length in enumerate(LENGTHS):
            full[row, :length] = PROMPT[row, :length]
            full[row, length : length + 6] = found.tokens[row, best]
        logits, _ = apply(full, MEMORY, prefix=np.array(LENGTHS, np.int32))
        logprobs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
        for row, length in enumerate(LENGTHS):
            steps = np.arange(found.lengths[row, best])
            tokens = np.asarray(found.tokens[row, best])[steps]
            expected = logprobs[row, length - 1 + steps, tokens]
            np.testing.assert_allclose(found.logprobs[row, best][steps], expected, atol=1e-5)
            score = expected.sum() / len(steps)
            assert math.isclose(found.scores[row, best], score, abs_tol=1e-5)
    assert np.all(np.diff(found.scores, axis=1) <= 0)


@pytest.mark.parametrize("beams", [1, 3])
def test_padding_side_and_neighbours_change_nothing(beams):
    call, _ = build("prefix_lm")
    search = Search(max_length=6, eos=(EOS,), beams=beams)
    right, left = (call(*padded(side), MEMORY, search) for side in ("right", "left"))
    np.testing.assert_array_equal(right.tokens, left.tokens)
    np.testing.assert_allclose(right.scores, left.scores, atol=1e-5)
    one = jax.tree.map(lambda x: x[1:2], (*padded("right"), MEMORY))
    alone = call(*one, search)
    np.testing.assert_array_equal(alone.tokens[0], right.tokens[1])
    np.testing.assert_allclose(alone.scores[0], right.scores[1], atol=1e-5)
