"""What a condition does to a branch, and stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.residual import Modulation, drop_path, modulate, on_share
from vlm_jax.layers.transformer import Transformer

KEY = jax.random.key(0)
SMALL = dict(heads=2, mlp_width=12, norm="layer_plain", final_norm=False)


def normal(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def test_modulation_starts_at_nothing_and_is_linear_in_the_swish():
    condition = normal((2, 8))
    module = Modulation(3)
    variables = module.init(KEY, condition)
    vectors = module.apply(variables, condition)
    assert [v.shape for v in vectors] == [(2, 1, 8)] * 3
    assert all(not np.any(v) for v in vectors)
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(8, 24)), rng.normal(size=24)
    params = {"params": {"dense": {"kernel": kernel, "bias": bias}}}
    c = np.asarray(condition, np.float64)
    expected = (c / (1 + np.exp(-c)) @ kernel + bias).reshape(2, 3, 8)
    found = jnp.concatenate(module.apply(params, condition), axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_modulate_scales_from_one_and_shifts():
    x, shift, scale = normal((2, 3, 4)), normal((2, 1, 4), 2), normal((2, 1, 4), 3)
    np.testing.assert_allclose(modulate(x, shift, scale), x * (1 + scale) + shift, atol=1e-6)


def test_a_conditioned_stack_starts_as_the_identity_and_nobody_else_has_the_parameters():
    x, condition, context = normal((2, 4, 8)), normal((2, 8), 2), normal((2, 3, 8), 3)
    stack = Transformer(layers=2, **SMALL, parts=("self", "cross", "mlp"))
    given = dict(context=context, condition=condition)
    variables = jax.jit(stack.init)(KEY, x, **given)
    np.testing.assert_array_equal(jax.jit(stack.apply)(variables, x, **given)[0], x)
    kernel = variables["params"]["layers"]["modulation"]["dense"]["kernel"]
    assert kernel.shape == (2, 8, 9 * 8)
    plain = jax.eval_shape(lambda: stack.init(KEY, x, context=context))
    assert "modulation" not in plain["params"]["layers"]


def test_a_condition_moves_its_own_example_only(randomise):
    x, condition = normal((2, 4, 8)), normal((2, 8), 2)
    stack = Transformer(layers=2, **SMALL)
    variables = randomise(stack, x, condition=condition)
    run = jax.jit(lambda c: stack.apply(variables, x, condition=c)[0])
    change = jnp.abs(run(condition.at[0].multiply(-1.0)) - run(condition)).max(axis=(1, 2))
    assert float(change[0]) > 1e-2 and float(change[1]) == 0


def test_drop_path_drops_rows_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 1))
    out = drop_path(x, jnp.float32(0.25), KEY)
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(out[:, 0], out[:, 1])
    assert abs(float(out.mean()) - 1) < 0.03


@pytest.mark.parametrize(
    ("leading", "part", "touched"),
    [
        (None, "mlp", [1, 1, 1, 1]),
        (3, "self", [1, 1, 1, 1]),
        (3, "cross", [1, 1, 1, 0]),
        (3, "mlp", [1, 1, 1, 0]),
        (3, "rest_mlp", [0, 0, 0, 1]),
        (0, "mlp", [0, 0, 0, 0]),
        (4, "rest_mlp", [0, 0, 0, 0]),
    ],
)
def test_a_part_is_of_its_share_of_the_tokens(leading, part, touched):
    x = jnp.zeros((1, 4, 2))
    found = on_share(leading, part, x, lambda y: y + 1)
    np.testing.assert_array_equal(found[0, :, 0], touched)
