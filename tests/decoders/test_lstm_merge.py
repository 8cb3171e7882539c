"""The merge captioner against its published size and its definition."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.decoders.lstm_merge import LstmMerge
from vlm_jax.types import Features


def test_published_number_of_parameters():
    memory = Features(jnp.zeros((1, 1, 4096)), jnp.ones((1, 1), bool), pooled=jnp.zeros((1, 4096)))
    shapes = jax.eval_shape(
        LstmMerge(vocab=7579).init, jax.random.key(0), jnp.zeros((1, 34), jnp.int32), memory
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 5_527_963


def test_equals_the_lstm_equations():
    """One row by hand, in NumPy, from the parameters alone."""
    decoder, tokens = LstmMerge(vocab=7, width=4), jnp.array([[3, 1, 6]])
    memory = Features(jnp.zeros((1, 1, 5)), jnp.ones((1, 1), bool), pooled=jnp.arange(5.0)[None])
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), tokens, memory)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    params = jax.tree.map(np.asarray, variables["params"])
    logits, _ = decoder.apply(variables, tokens, memory)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    dense = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"]
    image = np.maximum(dense("image", np.arange(5.0)), 0)
    lstm, c, h = params["lstm"]["layer_0_forward"]["lstm"], np.zeros(4), np.zeros(4)
    for step, token in enumerate([3, 1, 6]):
        x = params["token"]["embedding"][token]
        gate = {
            g: x @ lstm["i" + g]["kernel"] + h @ lstm["h" + g]["kernel"] + lstm["h" + g]["bias"]
            for g in "ifgo"
        }
        c = sigmoid(gate["f"]) * c + sigmoid(gate["i"]) * np.tanh(gate["g"])
        h = sigmoid(gate["o"]) * np.tanh(c)
        expected = dense("logits", np.maximum(dense("merged", image + h), 0))
        np.testing.assert_allclose(logits[0, step], expected, atol=1e-5)
