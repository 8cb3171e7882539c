"""Who sees whom in the prefix language model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decoders.prefix_lm import PrefixLM
from vlm_jax.types import Features

V, T, S = 9, 5, 3
DECODER = PrefixLM(vocab=V, width=8, heads=2, layers=2, mlp_width=8, max_length=16)
TOKENS = jax.random.randint(jax.random.key(0), (2, T), 1, V)
MEMORY = Features(jax.random.normal(jax.random.key(1), (2, S, 4)), jnp.ones((2, S), bool))


@pytest.fixture(scope="module")
def apply():
    variables = DECODER.init(jax.random.key(2), TOKENS, MEMORY)
    return jax.jit(lambda *args, **kwargs: DECODER.apply(variables, *args, **kwargs)[0])


@pytest.mark.parametrize("cached", [False, True])
def test_prompt_is_bidirectional_and_the_rest_causal(apply, cached):
    """Changing token 2 reaches the tokens before it exactly in the row whose prompt contains it."""
    changed = TOKENS.at[:, 2].set(TOKENS[:, 2] % (V - 1) + 1)
    cache = DECODER.init_cache(MEMORY, T) if cached else None
    run = lambda tokens: apply(tokens, MEMORY, cache, prefix=jnp.array([3, 2]))
    difference = jnp.abs(run(TOKENS) - run(changed)).max(axis=-1)
    assert jnp.all(difference[0] > 1e-5)
    assert jnp.all(difference[1, :2] == 0)
    assert jnp.all(difference[1, 2:] > 1e-5)


def test_memory_sees_the_prompt_only(apply):
    """A later layer hands what memory saw to every token: without a prompt the first token is blind
    to the rest.
    """
    changed = TOKENS.at[:, 1:].set(1)
    none, one = (apply(TOKENS, MEMORY, prefix=jnp.full(2, n)) for n in (0, 1))
    assert jnp.array_equal(none[:, 0], apply(changed, MEMORY, prefix=jnp.zeros(2, int))[:, 0])
    assert jnp.abs(none - one).max() > 1e-5


def test_without_memory_it_is_a_causal_language_model(apply):
    empty = Features(jnp.zeros((2, 0, 4)), jnp.zeros((2, 0), bool))
    np.testing.assert_allclose(apply(TOKENS, None), apply(TOKENS, empty), atol=1e-6)


def test_positions_count_memory_and_text(apply):
    """Shifting the position table by one real memory token changes the text's logits."""
    masked = MEMORY._replace(mask=MEMORY.mask.at[:, 0].set(False))
    shorter = Features(MEMORY.tokens[:, 1:], MEMORY.mask[:, 1:])
    np.testing.assert_allclose(apply(TOKENS, masked), apply(TOKENS, shorter), atol=1e-5)
