"""Who sees whom in the causal language model, and where images go."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decoders.causal_lm import CausalLM
from vlm_jax.types import Features

V, T, S = 9, 5, 3
DECODER = CausalLM(vocab=V, width=8, heads=2, layers=2, mlp_width=8, max_length=16)
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


IMAGE = 8
PLACED = CausalLM(
    **dict(vocab=V, width=8, heads=2, layers=2, mlp_width=8, max_length=16, positions="none"),
    **dict(memory="insert", image_token=IMAGE, ropes=({},), rope_sections=(1, 1)),
    bidirectional="none",
)


def test_cached_words_stand_beyond_the_longer_side_of_an_image():
    """The cache knows how far the image of 2 x 2 tokens reached, with padding before the prompt."""
    text = jnp.array([[1, IMAGE, IMAGE, IMAGE, IMAGE, 2, 3, 4]])
    places = jnp.array([[[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]])
    memory = Features(MEMORY.tokens[:1, :1].repeat(4, axis=1), jnp.ones((1, 4), bool), None, places)
    variables = PLACED.init(jax.random.key(2), text, memory)
    apply = jax.jit(lambda *args, **kwargs: PLACED.apply(variables, *args, **kwargs))
    expected, _ = apply(text, memory)
    prompt = jnp.pad(text[:, :6], ((0, 0), (2, 0)))
    cache = PLACED.init_cache(memory, 10)
    logits, cache = apply(prompt, memory, cache, mask=jnp.arange(8)[None] >= 2)
    np.testing.assert_allclose(logits[:, 2:], expected[:, :6], atol=1e-5)
    assert cache["ahead"].tolist() == [[4]]
    for number in (6, 7):
        logits, cache = apply(text[:, number : number + 1], None, cache)
        np.testing.assert_allclose(logits[:, 0], expected[:, number], atol=1e-5)
    moved, _ = apply(text, memory._replace(places=0 * places))
    assert jnp.abs(moved - expected)[:, 5:].max() > 1e-5
    with pytest.raises(ValueError, match="rope_sections"):
        apply(text, memory._replace(places=None))


@pytest.mark.parametrize("windowed", [False, True])
def test_windows_may_cut_blocks(windowed):
    """In a window of 2 the last token of an image of 4 sees the first one only if they may not."""
    decoder = CausalLM(
        **dict(vocab=V, width=8, heads=2, layers=1, mlp_width=8, max_length=16),
        **dict(memory="insert", image_token=IMAGE, memory_projection=False, windows=(2,)),
        **dict(bidirectional="memory", windowed_blocks=windowed),
    )
    text = jnp.full((1, 4), IMAGE)
    memory = Features(jax.random.normal(jax.random.key(1), (1, 4, 8)), jnp.ones((1, 4), bool))
    variables = decoder.init(jax.random.key(2), text, memory)

    def reach(changed, **given):
        """Which tokens notice another one change."""
        other = memory._replace(tokens=memory.tokens.at[:, changed].set(jnp.arange(8.0)))
        apply = jax.jit(partial(decoder.apply, variables, text, **given))
        before, after = (apply(m)[0] for m in (memory, other))
        return (jnp.abs(before - after)[0].max(axis=-1) > 1e-6).tolist()

    assert reach(3) == [True, True, True, True]  # nothing that comes later is too far back
    assert reach(0) == [True, True, not windowed, not windowed]
    assert reach(3, causal=True) == [False, False, False, True]


def test_memory_that_stays_apart_takes_no_positions():
    """GIT's: the text's positions begin at 0, cached or not, however long the real memory is."""
    decoder = CausalLM(
        **dict(vocab=V, width=8, heads=2, layers=2, mlp_width=8, max_length=T),
        **dict(memory_embedded=False, memory_projection=False, embedding_norm=True),
        **dict(bidirectional="memory", norm_first=False),
    )
    memory = Features(jax.random.normal(jax.random.key(1), (2, S, 8)), jnp.ones((2, S), bool))
    memory = memory._replace(mask=memory.mask.at[0, 0].set(False))
    variables = decoder.init(jax.random.key(2), TOKENS, memory)
    apply = jax.jit(lambda *args, **kwargs: decoder.apply(variables, *args, **kwargs))
    expected, _ = apply(TOKENS, memory)
    shorter = Features(memory.tokens[:1, 1:], memory.mask[:1, 1:])
    np.testing.assert_allclose(apply(TOKENS[:1], shorter)[0], expected[:1], atol=1e-5)
    padded = jnp.pad(TOKENS[:, :3], ((0, 0), (1, 0)))
    logits, cache = apply(
        padded, memory, decoder.init_cache(memory, T), mask=jnp.arange(4)[None].repeat(2, 0) >= 1
    )
    np.testing.assert_allclose(logits[:, 1:], expected[:, :3], atol=1e-5)
    logits, cache = apply(TOKENS[:, 3:4], None, cache)
    np.testing.assert_allclose(logits[:, 0], expected[:, 3], atol=1e-5)
    everything = decoder.clone(memory_embedded=True, max_length=T + S)
    position = jnp.zeros((T + S, 8))
    params = variables["params"] | {"embed": variables["params"]["embed"] | {"position": position}}
    other, _ = everything.apply({"params": params}, TOKENS, memory)
    assert jnp.abs(other - expected).max() > 1e-3


SMALL = dict(width=8, heads=2, mlp_width=8, max_length=16, memory="attend")


def random(decoder, *inputs, **given):
    """Its variables, all noise: gates start at 0."""
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), *inputs, **given)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def test_tokens_see_the_images_that_they_are_told_to():
    """Flamingo's: nothing, the first half of the memory, all of it; cached or not."""
    gated = dict(parts=("cross", "cross_mlp", "self", "mlp"), cross_gate="scalar", cross_every=2)
    decoder = CausalLM(vocab=V, layers=3, positions="none", **SMALL, **gated)
    memory = Features(jax.random.normal(jax.random.key(1), (2, 4, 6)), jnp.ones((2, 4), bool))
    sees = jnp.array([[0, 0], [0, 0], [1, 0], [1, 1], [1, 1]], bool)
    sees = jnp.repeat(sees[None], 2, axis=0).repeat(2, axis=2)
    variables = random(decoder, TOKENS, memory, sees=sees)
    apply = jax.jit(lambda *args, **kwargs: decoder.apply(variables, *args, **kwargs))
    expected, _ = apply(TOKENS, memory, sees=sees)

    def reach(changed):
        other = memory._replace(tokens=memory.tokens.at[:, changed].add(1.0))
        difference = jnp.abs(apply(TOKENS, other, sees=sees)[0] - expected).max(axis=(0, 2))
        return (difference > 1e-6).tolist()

    assert reach(0) == [False, False, True, True, True]
    assert reach(3) == [False, False, False, True, True]
    first, cache = apply(TOKENS[:, :4], memory, decoder.init_cache(memory, T), sees=sees[:, :4])
    last, _ = apply(TOKENS[:, 4:], None, cache)
    found = jnp.concatenate([first, last], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_words_to_be_guessed_see_each_other():
    """CapPa's: the first of them knows how many there are; other words do not."""
    decoder = CausalLM(vocab=V, layers=1, parallel=True, tied=False, **SMALL)
    variables = random(decoder, TOKENS, MEMORY)
    hidden = TOKENS.at[0].set(V)
    apply = jax.jit(lambda mask: decoder.apply(variables, hidden, MEMORY, mask=mask)[0])
    full, short = (apply(jnp.arange(T)[None].repeat(2, 0) < length) for length in (T, T - 1))
    assert full.shape == (2, T, V)
    assert jnp.abs(full - short)[0, 0].max() > 1e-5
    np.testing.assert_allclose(full[1, :-1], short[1, :-1], atol=1e-5)
    with pytest.raises(ValueError, match="parallel=True needs memory"):
        DECODER.clone(parallel=True).init(jax.random.key(0), TOKENS, MEMORY)


@pytest.mark.parametrize("tied", [True, False])
def test_extra_words_and_words_of_another_module(tied):
    decoder = CausalLM(vocab=V, layers=1, tied=tied, extra_vocab=2, **SMALL)
    tokens = TOKENS.at[:, 1].set(V + 1)
    variables = random(decoder, tokens, MEMORY)
    apply = jax.jit(decoder.apply)
    expected, _ = apply(variables, tokens, MEMORY)
    assert expected.shape == (2, T, V + 2)
    embed = dict(variables["params"]["embed"])
    table = jnp.asarray(embed.pop("token")["embedding"])
    bare = {"params": variables["params"] | {"embed": embed}}
    found, _ = apply(bare, tokens, MEMORY, words=table)
    np.testing.assert_allclose(found, expected, atol=1e-4)
