"""Soft attention has no order of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.decoders.attending_lstm import AttendingLstm
from vlm_jax.decoders.causal_lm import CausalLM
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
