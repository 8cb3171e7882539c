"""Caches that branch and follow; with real decoders, texts that depend on their example alone."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import sharding
from vlm_jax.decode import Search, branch, example_keys, follow, generate
from vlm_jax.decoders import DECODERS
from vlm_jax.decoders.causal_lm import CausalLM
from vlm_jax.types import Features

EOS, WORDS, P, T, B = 2, 13, 3, 6, 8
SMALL = {"width": 8, "heads": 2, "layers": 2, "mlp_width": 16}
FIELDS = {
    "lstm_merge": {"width": 8},
    "attending_lstm": {"width": 8, "attention_width": 4},
    "attend": {"memory": "attend", "max_length": 16, **SMALL},
    "prepend": {"memory": "prepend", "max_length": 24, **SMALL},
    "apart": {"memory_embedded": False, "bidirectional": "memory", "max_length": 24, **SMALL},
    "windows": {"positions": "none", "ropes": ({}, {"theta": 100.0}), "windows": (2, None)}
    | {"pattern": (0, 1), "attention": {"kv_heads": 1}, "max_length": 24, **SMALL},
    "relative": {"memory": "attend", "positions": "none", "max_length": 16, **SMALL}
    | {"relative": {"buckets": 4, "distance": 6}},
    "coca": {"fused_layers": 1, "fused_heads": 2, "fused_mlp_width": 16, "max_length": 16, **SMALL},
}

RNG = np.random.default_rng(0)
PROMPT, LENGTHS = RNG.integers(3, WORDS, (B, P)), np.array([3, 1, 2, 2, 3, 1, 1, 3])
MEMORY = Features(
    jnp.asarray(RNG.normal(size=(B, 4, 6)), jnp.float32),
    jnp.arange(4)[None] < jnp.asarray(RNG.integers(2, 5, B))[:, None],
)
EXAMPLES = np.arange(B, dtype=np.uint32) + 40


def test_a_cache_branches_and_follows_side_by_side():
    cache = {"key": jnp.arange(4.0).reshape(1, 2, 2), "hypotheses": {"x": jnp.ones((1, 2, 1, 5))}}
    wide = branch(cache, 3)
    assert wide["key"] is cache["key"]
    assert wide["hypotheses"]["x"].shape == (1, 2, 3, 5)
    state = jnp.arange(6.0).reshape(1, 2, 3)
    moved = follow(wide | {"hypotheses": {"x": state}}, jnp.array([[2, 0, 0], [1, 1, 2]]))
    assert moved["key"] is cache["key"]
    np.testing.assert_array_equal(moved["hypotheses"]["x"], [[[2, 0, 0], [4, 4, 5]]])


def test_a_cache_branches_and_follows_in_rows():
    cache = {"state": jnp.arange(2).reshape(1, 2), "memory": {"x": jnp.arange(2).reshape(1, 2)}}
    wide = branch(cache, 3)
    np.testing.assert_array_equal(wide["state"], [[0, 0, 0, 1, 1, 1]])
    wide = wide | {"state": jnp.arange(6).reshape(1, 6)}
    moved = follow(wide, jnp.array([[2, 0, 0], [1, 1, 2]]))
    np.testing.assert_array_equal(moved["state"], [[2, 0, 0, 4, 4, 5]])
    assert moved["memory"] is wide["memory"]


@functools.cache
def build(name: str):
    decoder = DECODERS.get(name, CausalLM)(vocab=WORDS, **FIELDS[name])
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), jnp.asarray(PROMPT), MEMORY)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.7, shapes)
    apply = functools.partial(decoder.apply, variables)

    @functools.partial(jax.jit, static_argnums=4)
    def call(prompt, mask, memory, examples, search):
        more = {"prefix": jnp.sum(mask, axis=1, dtype=jnp.int32)}
        more["keys"] = example_keys(jnp.full(len(prompt), 7, jnp.uint32), examples)
        return generate(apply, decoder.init_cache, prompt, mask, memory, search, **more)

    return call, jax.jit(apply)


def padded(side: str):
    tokens, mask = np.zeros((B, P), np.int32), np.zeros((B, P), bool)
    for row, length in enumerate(LENGTHS):
        start = 0 if side == "right" else P - length
        tokens[row, start : start + length] = PROMPT[row, :length]
        mask[row, start : start + length] = True
    return tokens, mask


KINDS = {
    "greedy": {},
    "beams": {"beams": 3, "n_best": 3},
    "samples": {"sample": True, "n_best": 2, "temperature": 1.3},
}


@pytest.mark.parametrize("kind", ["beams", "samples"])
@pytest.mark.parametrize("name", FIELDS)
def test_generated_logprobs_are_those_of_teacher_forcing(name, kind):
    """Hypotheses change places; each returned one must still score as the decoder scores it."""
    call, apply = build(name)
    search = Search(max_length=T, eos=(EOS,), banned=(0,), **KINDS[kind])
    found = call(*padded("right"), MEMORY, EXAMPLES, search)
    for best in range(search.n_best):
        full = np.zeros((B, P + T), np.int32)
        for row, length in enumerate(LENGTHS):
            full[row, :length] = PROMPT[row, :length]
            full[row, length : length + T] = found.tokens[row, best]
        logits, _ = apply(full, MEMORY, prefix=LENGTHS.astype(np.int32))
        logprobs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
        for row, length in enumerate(LENGTHS):
            steps = np.arange(found.lengths[row, best])
            tokens = np.asarray(found.tokens[row, best])[steps]
            expected = logprobs[row, length - 1 + steps, tokens]
            np.testing.assert_allclose(found.logprobs[row, best][steps], expected, atol=1e-5)
            score = expected.sum() / len(steps)
            assert math.isclose(found.scores[row, best], score, abs_tol=1e-5)
    assert np.all(np.diff(found.scores, axis=1) <= 0)


@pytest.mark.parametrize(
    ("name", "kind"), [*(("prepend", kind) for kind in KINDS), ("attending_lstm", "beams")]
)
def test_padding_neighbours_and_devices_change_nothing(name, kind):
    """Alone, in a batch of 7, padded on either side, on 1 device or 8."""
    call, _ = build(name)
    search = Search(max_length=T, eos=(EOS,), **KINDS[kind])
    whole = (*padded("right"), MEMORY, EXAMPLES)
    expected = call(*whole, search)
    seven = np.array([6, 3, 5, 0, 1, 7, 4])
    part = lambda batch, rows: jax.tree.map(lambda x: x[rows], batch)
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        spread = sharding.shard_batch(mesh, jax.tree.map(np.asarray, whole))
        eight_devices = call(*spread, search)
        assert len(eight_devices.tokens.sharding.device_set) == 8
    others = {
        "left": (call(*padded("left"), MEMORY, EXAMPLES, search), np.arange(B)),
        "alone": (call(*part(whole, slice(1, 2)), search), np.array([1])),
        "seven": (call(*part(whole, seven), search), seven),
        "eight devices": (eight_devices, np.arange(B)),
    }
    for where, (found, rows) in others.items():
        np.testing.assert_array_equal(found.tokens, expected.tokens[rows], err_msg=where)
        np.testing.assert_allclose(found.scores, expected.scores[rows], atol=1e-5, err_msg=where)
    assert len(np.unique(np.asarray(expected.tokens).reshape(-1, T), axis=0)) > 2


def test_prompts_and_tokens_that_do_not_fit_the_decoder_are_refused():
    call, _ = build("prepend")
    with pytest.raises(ValueError, match="do not fit max_length=24"):
        call(*padded("right"), MEMORY, EXAMPLES, Search(max_length=30, eos=(EOS,)))
    with pytest.raises(ValueError, match="banned has token 13.* ends at 12"):
        call(*padded("right"), MEMORY, EXAMPLES, Search(max_length=4, eos=(EOS,), banned=(13,)))
    everything = Search(max_length=4, eos=(EOS,), banned=tuple(range(13)))
    with pytest.raises(ValueError, match="all 13 tokens are banned"):
        call(*padded("right"), MEMORY, EXAMPLES, everything)
