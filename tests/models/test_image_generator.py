"""The generator: what a token sees in each way of writing, and cached against full decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax import models

KEY = jax.random.key(0)
TOKENIZER = dict(channels=4, multipliers=(1, 2), blocks=1, attention=(), latent=4, groups=2)
TEXT = dict(name="transformer", vocab=12, width=8, layers=1, heads=2, mlp_width=8, max_length=6)
S, CODES = 16, 9
RNG = np.random.default_rng(0)
REAL = np.array([[True] * 5, [True] * 3 + [False] * 2])
TEXTS = {"text": jnp.asarray(RNG.integers(1, 12, (2, 5))), "text_mask": jnp.asarray(REAL)}
ASKS = {"a": "next_tokens", "b": "hidden_tokens"}
HIDDEN = RNG.random((2, S)) < 0.5


@functools.lru_cache
def generator():
    """A tiny generator with every parameter randomised, and two images."""
    quantizer = dict(name="fsq", levels=(3, 3))
    model = models.build(
        dict(
            name="image_generator",
            tokenizer=TOKENIZER | dict(quantizer=quantizer),
            text=TEXT | dict(pooling="none"),
            decoder=dict(width=8, layers=1, heads=2, mlp_width=8, max_length=S),
        )
    )
    images = jnp.asarray(RNG.integers(0, 256, (2, 8, 8, 3), np.uint8))
    batch = {"image": images, "a": TEXTS, "b": TEXTS | {"hidden": jnp.asarray(HIDDEN)}}
    shapes = jax.eval_shape(lambda: model.init(KEY, batch, ASKS))
    draw = lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape) / 3, jnp.float32)
    return model, jax.tree.map(draw, shapes), batch


@functools.lru_cache
def logits_of(method):
    """A compiled function of ids and inputs: the logits of a model method."""
    model, variables, _ = generator()
    call = lambda ids, inputs: model.apply(variables, ids, inputs, method=method)["logits"]
    return jax.jit(call)


def ids(seed=1):
    return np.random.default_rng(seed).integers(0, CODES, (2, S)).astype(np.int32)


def test_outputs_of_both_tasks_and_all_parts_have_parameters():
    model, variables, batch = generator()
    assert set(variables["params"]) == {"tokenizer", "text", "decoder"}
    assert {"encoder", "decoder"} <= set(variables["params"]["tokenizer"])
    outputs = jax.jit(lambda v: model.apply(v, batch, ASKS))(variables)
    assert outputs["a"]["logits"].shape == outputs["b"]["logits"].shape == (2, S, CODES)
    np.testing.assert_array_equal(outputs["a"]["targets"], outputs["b"]["targets"])
    np.testing.assert_array_equal(outputs["b"]["targets_mask"], HIDDEN)


def test_a_token_is_written_from_those_before_it_and_the_text():
    call, before = logits_of("next_tokens"), ids()
    after = before.copy()
    after[:, 7] = (after[:, 7] + 1) % CODES
    a, b = call(before, TEXTS), call(after, TEXTS)
    np.testing.assert_allclose(a[:, :8], b[:, :8], atol=1e-6)
    assert float(jnp.abs(a[:, 8] - b[:, 8]).max()) > 1e-4
    other = TEXTS | {"text": np.roll(TEXTS["text"], 1, axis=1)}
    assert float(jnp.abs(call(before, other) - a)[:, 0].max()) > 1e-4
    padded = np.array(TEXTS["text"])
    padded[1, 3:] = 0
    np.testing.assert_allclose(call(before, TEXTS | {"text": padded}), a, atol=1e-5)


def test_hidden_tokens_are_guessed_from_both_sides_and_not_from_themselves():
    call, before = logits_of("hidden_tokens"), ids()
    inputs = TEXTS | {"hidden": HIDDEN}
    a = call(before, inputs)
    secret = np.where(HIDDEN, (before + 1) % CODES, before)
    np.testing.assert_array_equal(call(secret, inputs), a)
    last = np.flatnonzero(~HIDDEN[0])[-1]
    known = before.copy()
    known[0, last] = (known[0, last] + 1) % CODES
    first = np.flatnonzero(HIDDEN[0])[0]
    assert first < last
    assert float(jnp.abs(call(known, inputs) - a)[0, first].max()) > 1e-4


def test_cached_decoding_equals_reading_all_at_once():
    model, variables, _ = generator()
    tokens = jnp.asarray(np.concatenate([np.full((2, 1), CODES), ids()[:, :-1]], axis=1))

    def cached(variables):
        ask = lambda method, *given: model.apply(variables, *given, method=method)
        memory = ask("read", TEXTS)
        cache = ask("init_cache", memory, S)
        found = []
        first, cache = ask("decode", tokens[:, :1], memory, cache)
        rest = jnp.asarray(tokens[:, 1:]).T[..., None]
        step = lambda cache, one: ask("decode", one, None, cache)[::-1]
        _, found = jax.lax.scan(step, cache, rest)
        return jnp.concatenate([first, found[:, :, 0].swapaxes(0, 1)], axis=1)

    found = jax.jit(cached)(variables)[..., :CODES]
    np.testing.assert_allclose(found, logits_of("next_tokens")(ids(), TEXTS), atol=1e-5)
