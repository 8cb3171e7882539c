"""What every decoder owes its callers: a cache that changes nothing, causality, blindness to
padding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decoders import DECODERS
from vlm_jax.decoders.causal_lm import CausalLM
from vlm_jax.types import Features

B, T, S, V = 3, 6, 5, 11
SMALL = {"width": 8, "heads": 2, "layers": 2, "mlp_width": 16}
FIELDS = {
    "lstm_merge": {"width": 8},
    "attending_lstm": {"width": 8, "attention_width": 4},
    "attend": {"memory": "attend", "max_length": 12, **SMALL},
    "prepend": {"memory": "prepend", "max_length": 24, **SMALL},
    "gemma 3": {"norm": "rms_offset", "sandwich": True, "pattern": (0, 1), "windows": (3, None)}
    | {"positions": "none", "ropes": ({}, {"theta": 100.0}), "mlp": {"gated": True}}
    | {"attention": {"head_dim": 6, "kv_heads": 1, "qk_norm": "rms_offset", "softcap": 5.0}}
    | {"bidirectional": "memory", "logits_softcap": 3.0, "max_length": 24, **SMALL},
    "t5": {"memory": "attend", "relative": {"buckets": 8, "distance": 6}, "norm": "rms"}
    | {"positions": "none", "max_length": 12, "logits_scale": 0.4, **SMALL},
    "flamingo": {"memory": "attend", "parts": ("cross", "cross_mlp", "self", "mlp")}
    | {"cross_gate": "vector", "cross_every": 2, "cross": {"kv_heads": 1}, "max_length": 12}
    | {**SMALL, "layers": 3},
    "bert": {"norm_first": False, "embedding_norm": True, "logits_transform": True}
    | {"logits_bias": True, "bidirectional": "none", "max_length": 24, **SMALL},
}
FIELDS["coca"] = {
    "max_length": 12,
    "fused_layers": 2,
    "fused_heads": 4,
    "fused_mlp_width": 12,
} | SMALL
TRANSFORMERS = tuple(name for name in FIELDS if name not in DECODERS)
TOKENS = jax.random.randint(jax.random.key(0), (B, T), 1, V)
MEMORY = Features(
    jax.random.normal(jax.random.key(1), (B, S, 6)),
    jnp.arange(S)[None] < jnp.array([[5], [3], [4]]),
)


@functools.cache
def build(name: str, **fields):
    """A decoder, variables that are all noise, and its jitted apply."""
    decoder = DECODERS.get(name, CausalLM)(vocab=V, **(FIELDS[name] | fields))
    shapes = jax.eval_shape(decoder.init, jax.random.key(2), TOKENS, MEMORY)
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 2, shapes)
    return decoder, variables, jax.jit(functools.partial(decoder.apply, variables))


def pad(tokens, lengths, width: int, side: str):
    """The first `lengths[b]` tokens of each row in `width` columns; returns (tokens, mask)."""
    out, mask = np.zeros((len(tokens), width), np.int32), np.zeros((len(tokens), width), bool)
    for row, length in enumerate(lengths):
        start = 0 if side == "right" else width - length
        out[row, start : start + length] = tokens[row, :length]
        mask[row, start : start + length] = True
    return jnp.asarray(out), jnp.asarray(mask)


def test_every_decoder_is_tested():
    assert set(FIELDS) - set(TRANSFORMERS) == set(DECODERS) - {"causal_lm"}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FIELDS)
def test_cached_steps_equal_the_full_forward(name, side):
    """Ragged prompts padded on one side, then token by token, against the unpadded row alone."""
    decoder, _, apply = build(name)
    lengths = [2, 3, 1]
    prompt, mask = pad(TOKENS, lengths, 4, side)
    prefix = jnp.array([1, 2, 0])
    expected = [
        apply(
            TOKENS[b : b + 1],
            jax.tree.map(lambda x, b=b: x[b : b + 1], MEMORY),
            prefix=prefix[b : b + 1],
        )
        for b in range(B)
    ]
    expected = np.concatenate([logits for logits, _ in expected])
    cache = decoder.init_cache(MEMORY, 4 + 3)
    logits, filled = apply(prompt, MEMORY, cache, mask=mask, prefix=prefix)
    assert jax.tree.map(jnp.shape, filled) == jax.tree.map(jnp.shape, cache)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.dtype == b.dtype, filled, cache)))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row][mask[row]], expected[row, :length], atol=1e-5)
    last = jnp.max(jnp.where(mask, jnp.arange(4)[None], 0), axis=1)
    alone, _ = apply(prompt, MEMORY, cache, mask=mask, prefix=prefix, after=last)
    np.testing.assert_allclose(alone[:, 0], logits[np.arange(B), last], atol=1e-6)
    for extra in range(3):
        at = jnp.array(lengths)[:, None] + extra
        logits, filled = apply(jnp.take_along_axis(TOKENS, at, 1), None, filled)
        np.testing.assert_allclose(logits[:, 0], expected[np.arange(B), at[:, 0]], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FIELDS)
def test_padding_changes_nothing_without_a_cache(name, side):
    _, _, apply = build(name)
    lengths, prefix = [4, 6, 2], jnp.array([2, 3, 1])
    tokens, mask = pad(TOKENS, lengths, T + 2, side)
    expected, _ = apply(TOKENS, MEMORY, prefix=prefix)
    logits, cache = apply(tokens, MEMORY, mask=mask, prefix=prefix)
    assert cache is None
    assert logits.dtype == jnp.float32
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row][mask[row]], expected[row, :length], atol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
def test_several_tokens_may_be_appended_at_once(name):
    decoder, _, apply = build(name)
    expected, _ = apply(TOKENS, MEMORY)
    _, cache = apply(TOKENS[:, :2], MEMORY, decoder.init_cache(MEMORY, T))
    logits, _ = apply(TOKENS[:, 2:], None, cache)
    np.testing.assert_allclose(logits, expected[:, 2:], atol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
def test_logits_depend_on_this_and_earlier_tokens_only(name):
    _, _, apply = build(name)
    changed = TOKENS.at[:, 3].set(TOKENS[:, 3] % (V - 1) + 1)
    difference = jnp.abs(apply(TOKENS, MEMORY)[0] - apply(changed, MEMORY)[0]).max(axis=-1)
    assert jnp.all(difference[:, :3] == 0)
    assert jnp.all(difference[:, 3:] > 1e-6)


@pytest.mark.parametrize("name", FIELDS)
def test_masked_memory_is_ignored_and_real_memory_is_not(name):
    _, _, apply = build(name)
    expected, _ = apply(TOKENS, MEMORY)
    hidden = MEMORY._replace(tokens=jnp.where(MEMORY.mask[..., None], MEMORY.tokens, 1e3))
    np.testing.assert_allclose(apply(TOKENS, hidden)[0], expected, atol=1e-5)
    seen = MEMORY._replace(tokens=MEMORY.tokens.at[:, 0].add(jnp.arange(6.0)))
    assert jnp.all(jnp.abs(apply(TOKENS, seen)[0] - expected).max(axis=-1) > 1e-4)


@pytest.mark.parametrize("name", FIELDS)
def test_memory_padding_does_not_move_positions(name):
    _, _, apply = build(name)
    rolled = Features(jnp.roll(MEMORY.tokens, 2, axis=1), jnp.roll(MEMORY.mask, 2, axis=1))
    kept = jax.tree.map(
        lambda x: x[1:2], (TOKENS, MEMORY, rolled)
    )  # 3 real tokens of 5: none wraps around
    np.testing.assert_allclose(apply(kept[0], kept[1])[0], apply(kept[0], kept[2])[0], atol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
def test_rows_do_not_depend_on_their_neighbours(name):
    _, _, apply = build(name)
    together, _ = apply(TOKENS, MEMORY)
    alone, _ = apply(TOKENS[1:2], jax.tree.map(lambda x: x[1:2], MEMORY))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
def test_dropout_acts_in_training_only(name):
    decoder, variables, evaluate = build(name, dropout=0.5)
    train = jax.jit(
        lambda seed: decoder.apply(
            variables, TOKENS, MEMORY, train=True, rngs={"dropout": jax.random.key(seed)}
        )[0]
    )
    assert jnp.array_equal(train(0), train(0))
    assert not jnp.allclose(train(0), train(1))
    assert not jnp.allclose(train(0), evaluate(TOKENS, MEMORY)[0])


@pytest.mark.parametrize(
    "name", ["lstm_merge", "attending_lstm", "attend", "t5", "flamingo", "coca"]
)
def test_memory_is_needed_once(name):
    _, _, apply = build(name)
    with pytest.raises(ValueError, match="memory"):
        apply(TOKENS, None)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_too_much_text_is_refused_before_it_is_generated(name):
    decoder, _, apply = build(name)
    with pytest.raises(ValueError, match="max_length"):
        decoder.init_cache(MEMORY, 20)
    with pytest.raises(ValueError, match="max_length"):
        apply(jnp.ones((B, 25), jnp.int32), MEMORY)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_tied_logits_save_a_matrix(name):
    count = lambda tied: sum(
        leaf.size
        for leaf in jax.tree.leaves(
            jax.eval_shape(
                CausalLM(vocab=V, **(FIELDS[name] | {"logits_bias": False}), tied=tied).init,
                jax.random.key(0),
                TOKENS,
                MEMORY,
            )
        )
    )
    assert count(False) - count(True) == 8 * V
