"""LSTM and GRU stacks against NumPy, and what masks, directions and carries promise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.recurrent import Recurrent

KEY = jax.random.key(0)
CELLS = ("lstm", "gru")


def normal(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def apply(module, variables, *inputs, train=False, **named):
    """Module.apply, compiled as one program."""
    return jax.jit(partial(module.apply, train=train))(variables, *inputs, **named)


def read(params, x, cell):
    """NumPy: the state after each position of [T, D], from the published gate equations."""
    params, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
    hidden = params["hi" if cell == "lstm" else "hr"]["kernel"].shape[0]
    sigmoid = lambda y: 1 / (1 + np.exp(-y))
    dense = lambda name, y: y @ params[name]["kernel"] + params[name].get("bias", 0)
    h, c, states = np.zeros(hidden), np.zeros(hidden), []
    for row in x:
        if cell == "lstm":
            i, f, o = (sigmoid(dense(f"i{g}", row) + dense(f"h{g}", h)) for g in "ifo")
            c = f * c + i * np.tanh(dense("ig", row) + dense("hg", h))
            h = o * np.tanh(c)
        else:
            r, z = (sigmoid(dense(f"i{g}", row) + dense(f"h{g}", h)) for g in "rz")
            h = (1 - z) * np.tanh(dense("in", row) + r * dense("hn", h)) + z * h
        states.append(h)
    return np.stack(states)


@pytest.mark.parametrize("cell", CELLS)
def test_two_bidirectional_layers_equal_numpy(randomise, cell):
    x, stack = normal((2, 4, 3)), Recurrent(5, layers=2, cell=cell, bidirectional=True)
    variables = randomise(stack, x)
    states, carry = apply(stack, variables, x)
    for b in range(2):
        y = x[b]
        for layer in range(2):
            forward = variables["params"][f"layer_{layer}_forward"][cell]
            backward = variables["params"][f"layer_{layer}_backward"][cell]
            y = np.concatenate([read(forward, y, cell), read(backward, y[::-1], cell)[::-1]], -1)
        np.testing.assert_allclose(states[b], y, atol=1e-5)
        last = np.concatenate([y[-1, :5], y[0, 5:]])
        np.testing.assert_allclose(stack.last_state(carry)[b], last, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_on_either_side_or_inside_changes_nothing(randomise, cell):
    words, stack = normal((1, 3, 4)), Recurrent(5, layers=2, cell=cell, bidirectional=True)
    variables = randomise(stack, words)
    _, carry = apply(stack, variables, words)
    for places in ((0, 1, 2), (3, 4, 5), (1, 2, 4)):
        x = jnp.full((1, 6, 4), 99.0).at[:, jnp.array(places)].set(words)
        real = jnp.zeros((1, 6), bool).at[:, jnp.array(places)].set(True)
        _, padded = apply(stack, variables, x, real)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), padded, carry)


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_real_leaves_the_carry_as_it_was(randomise, cell):
    x, stack = normal((1, 3, 4)), Recurrent(5, layers=2, cell=cell)
    variables, empty = randomise(stack, x), stack.empty_carry(1)
    states, carry = apply(stack, variables, x, jnp.zeros((1, 3), bool))
    jax.tree.map(np.testing.assert_array_equal, carry, empty)
    assert float(jnp.abs(states).max()) == 0


@pytest.mark.parametrize("cell", CELLS)
def test_word_by_word_with_a_carry_equals_all_at_once(randomise, cell):
    x, stack = normal((2, 4, 3)), Recurrent(5, layers=2, cell=cell)
    variables = randomise(stack, x)
    full, expected = apply(stack, variables, x)
    carry, states = stack.empty_carry(2), []
    assert {leaf.shape for leaf in jax.tree.leaves(carry)} == {(2, 2, 5)}
    for t in range(4):
        state, carry = apply(stack, variables, x[:, t : t + 1], carry=carry)
        states.append(state)
    np.testing.assert_allclose(jnp.concatenate(states, axis=1), full, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, expected)


def test_one_layer_has_the_counts_of_one_bias_per_gate():
    x = jax.ShapeDtypeStruct((1, 2, 512), jnp.float32)
    for cell, expected in (("lstm", 787_456), ("gru", 590_848)):
        shapes = jax.eval_shape(Recurrent(256, cell=cell).init, KEY, x)
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_dropout_acts_between_layers_in_training_only(randomise):
    x = normal((2, 3, 4))
    for layers, changes in ((1, False), (2, True)):
        stack = Recurrent(5, layers=layers, dropout=0.5)
        variables = randomise(stack, x)
        trained, _ = apply(stack, variables, x, train=True, rngs={"dropout": KEY})
        change = float(jnp.abs(trained - apply(stack, variables, x)[0]).max())
        assert (change > 1e-4) == changes


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_compute_keeps_float32_parameters(randomise, cell):
    x, stack = normal((2, 3, 4)), Recurrent(5, cell=cell, dtype=jnp.bfloat16)
    variables = randomise(stack, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    states, carry = apply(stack, variables, x)
    assert {leaf.dtype for leaf in jax.tree.leaves((states, carry))} == {jnp.dtype("bfloat16")}


def test_unknown_cell_is_explained():
    with pytest.raises(ValueError, match=r"unknown cell 'rnn'.*gru.*lstm"):
        Recurrent(5, cell="rnn").init(KEY, normal((1, 2, 4)))
