"""Activations at points computed with Python's math module."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.activations import ACTIVATIONS

CUBIC = math.sqrt(2 / math.pi)
SCALAR = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + math.tanh(CUBIC * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_equals_its_formula(name):
    points = [-3.0, -1.0, -0.1, 0.0, 0.5, 2.0]
    expected = [SCALAR[name](x) for x in points]
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.array(points)), expected, atol=1e-6)
