"""Soft attention has no order of its own, and tells where it looks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decoders.attending_lstm import AttendingLstm
from vlm_jax.decoders.causal_lm import CausalLM
from vlm_jax.losses.coverage import doubly_stochastic
from vlm_jax.tasks.captioning import Captioning
from vlm_jax.tokenizers import make_tokenizer
from vlm_jax.types import Features


def test_memory_tokens_are_a_set():
    tokens = jax.random.randint(jax.random.key(0), (2, 4), 1, 9)
    memory = Features(jax.random.normal(jax.random.key(1), (2, 5, 3)), jnp.ones((2, 5), bool))
    permuted = memory._replace(tokens=memory.tokens[:, ::-1])
    for decoder in (
        AttendingLstm(vocab=9, width=8, attention_width=4),
        CausalLM(memory="attend", vocab=9, width=8, heads=2, layers=1, mlp_width=8),
    ):
        variables = decoder.init(jax.random.key(2), tokens, memory)
        a, b = (decoder.apply(variables, tokens, m)[0] for m in (memory, permuted))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_where_it_looks_comes_out_and_can_be_learned():
    """What a step looked at is what it read: one-hot weights would read one token."""
    tokens = jax.random.randint(jax.random.key(0), (2, 4), 1, 9)
    mask = jnp.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]], bool)
    memory = Features(jax.random.normal(jax.random.key(1), (2, 5, 3)), mask)
    decoder = AttendingLstm(vocab=9, width=8, attention_width=4)
    variables = decoder.init(jax.random.key(2), tokens, memory)
    logits, cache, weights = decoder.apply(variables, tokens, memory, method="look")
    np.testing.assert_allclose(logits, decoder.apply(variables, tokens, memory)[0])
    assert cache is None and weights.shape == (2, 4, 5)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    assert not np.any(np.where(mask[:, None], 0, weights))
    text = jnp.ones((2, 4), bool)

    def missed(variables):
        looked = decoder.apply(variables, tokens, memory, method="look")[2]
        return doubly_stochastic(looked, text).sum()

    slopes = jax.grad(missed)(variables)["params"]["step"]
    assert all(np.any(slopes[name]["kernel"]) for name in ("query", "score"))


def test_captioning_adds_what_was_not_looked_at():
    words = make_tokenizer({"name": "word"}, lambda: ["a dog"])
    task = Captioning(words, look_everywhere=2.0)
    text = jnp.ones((1, 2), bool)
    batch = {"targets": jnp.array([[1, 2]]), "targets_mask": text}
    outputs = {"logits": jnp.zeros((1, 2, 4)), "attention": jnp.array([[[1.0, 0], [1.0, 0]]])}
    plain = Captioning(words).loss(outputs, batch)
    np.testing.assert_allclose(task.loss(outputs, batch), plain + 2.0 * (1 + 1) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="attending_lstm"):
        task.loss({"logits": outputs["logits"]}, batch)
