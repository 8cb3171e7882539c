"""Integration along a flow against closed forms, and what a row's noise depends on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.decode import example_keys
from vlm_jax.decode.flow import integrate, noise

START = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 1)), jnp.float32)
RATE = jnp.array([[-1.0, 2.0], [0.5, 1.5]])


@partial(jax.jit, static_argnames=("steps", "method"))
def linear(start, steps, method):
    """Along dx/dt = a t x, whose solution is x exp(a t^2 / 2)."""
    rate = RATE[None, :, :, None]
    return integrate(
        lambda x, time: rate * time[:, None, None, None] * x, start, steps=steps, method=method
    )


def error(steps, method):
    truth = START * jnp.exp(RATE / 2)[None, :, :, None]
    return float(jnp.abs(linear(START, steps, method) - truth).max())


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_of_a_linear_field_falls_with_the_order_of_the_method(method, order):
    ratio = error(20, method) / error(40, method)
    assert 2**order * 0.85 < ratio < 2**order * 1.2
    assert error(640 if order == 1 else 160, method) < (1e-2 if order == 1 else 1e-4)


def test_euler_takes_the_steps_that_it_says():
    x = np.asarray(START, np.float64)
    rate = np.asarray(RATE, np.float64)[None, :, :, None]
    for step in range(5):
        x = x + rate * (step / 5) * x / 5
    np.testing.assert_allclose(linear(START, 5, "euler"), x, atol=1e-5)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_a_straight_flow_is_exact_in_one_step(method):
    end = jnp.flip(START)
    there = integrate(lambda x, time: end - START, START, steps=1, method=method)
    np.testing.assert_allclose(there, end, atol=1e-6)


def test_velocities_are_asked_for_at_the_ends_of_each_step():
    asked = lambda x, time: jnp.broadcast_to(time[:, None, None, None] ** 2, x.shape)
    found = integrate(asked, START, steps=4, method="heun") - START
    times = np.arange(5) / 4
    trapezoid = np.mean((times[1:] ** 2 + times[:-1] ** 2) / 2)
    np.testing.assert_allclose(found, np.full(START.shape, trapezoid), atol=1e-6)


def test_noise_of_a_row_depends_on_its_key_alone_and_is_normal():
    keys = example_keys(jnp.zeros(4, jnp.int32), jnp.arange(4))
    drawn = noise(keys, (40, 40, 3))
    np.testing.assert_array_equal(noise(keys[2:3], (40, 40, 3))[0], drawn[2])
    assert abs(float(drawn.mean())) < 0.03 and abs(float(drawn.std()) - 1) < 0.02
    assert float(jnp.abs(drawn[0] - drawn[1]).max()) > 0.1


def test_impossible_requests_say_so():
    with pytest.raises(ValueError, match="euler"):
        integrate(lambda x, time: x, START, method="midpoint")
    with pytest.raises(ValueError, match="at least one"):
        integrate(lambda x, time: x, START, steps=0)
