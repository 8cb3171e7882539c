"""Parallel decoding: the schedule, what stays, and draws that depend on their own key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decode import unmask
from vlm_jax.decode.masked import _least, still_hidden

S, V = 16, 5
SCORES = jnp.asarray(np.random.default_rng(0).normal(size=(S, V)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 3)


def alike(tokens):
    """The same scores whatever is known."""
    return jnp.broadcast_to(SCORES[None], (len(tokens), S, V))


def test_the_schedule_is_a_quarter_of_a_cosine_that_ends_at_nothing():
    steps = 12
    left = still_hidden(steps, 256)
    assert left[7] == 128 and left[-1] == 0 and len(left) == steps
    assert left == [int(256 * np.cos((i + 1) / steps * np.pi / 2)) for i in range(11)] + [0]
    assert left == sorted(left, reverse=True)


def test_the_least_sure_of_the_unknown_are_hidden_again():
    sure = jnp.array([[0.1, 0.9, 0.3, 0.2]])
    unknown = jnp.array([[True, True, True, False]])
    assert _least(sure, unknown, jnp.int32(2)).tolist() == [[True, False, True, False]]
    assert _least(sure, unknown, jnp.int32(4)).tolist() == unknown.tolist()


def test_without_noise_the_best_tokens_are_found():
    run = jax.jit(lambda keys: unmask(alike, keys, S, hidden=V, temperature=0.0))
    np.testing.assert_array_equal(run(KEYS), np.tile(np.asarray(SCORES).argmax(-1), (3, 1)))


def test_tokens_that_were_sure_stay_and_steer_the_others():
    """Scores that want each token to equal a known neighbour spread one value over all."""

    def like_the_known(tokens):
        known = jnp.where(tokens < V, tokens, 0)
        counts = jnp.sum(jax.nn.one_hot(known, V) * (tokens < V)[..., None], axis=1)
        return jnp.broadcast_to(50.0 * counts[:, None], (len(tokens), S, V))

    run = jax.jit(lambda keys: unmask(like_the_known, keys, S, hidden=V, steps=16))
    tokens = np.asarray(run(KEYS))
    assert (tokens == tokens[:, :1]).all(axis=1).any()
    assert tokens.max() < V


def test_a_row_depends_on_its_own_key_alone():
    run = jax.jit(lambda keys: unmask(alike, keys, S, hidden=V))
    together = np.asarray(run(KEYS))
    np.testing.assert_array_equal(np.asarray(run(KEYS[::-1]))[::-1], together)
    assert len(np.unique(together, axis=0)) == 3
    with pytest.raises(ValueError, match="at least one"):
        unmask(alike, KEYS, S, hidden=V, steps=0)
