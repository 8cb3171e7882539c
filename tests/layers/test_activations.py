"""Activations at points computed with Python's math module."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.activations import ACTIVATIONS

CUBIC = math.sqrt(2 / math.pi)
SCALAR = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_10": lambda x: min(x * 0.5 * (1 + math.erf(x / math.sqrt(2))), 10.0),
    "gelu_tanh": lambda x: x * 0.5 * (1 + math.tanh(CUBIC * (x + 0.044715 * x**3))),
    "hard_silu": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
    "laplace": lambda x: 0.5 + 0.5 * math.erf((x - 0.5**0.5) / (math.pi**-0.5 / 2 * 2**0.5)),
    "leaky_relu": lambda x: max(x, 0.01 * x),
    "linear": lambda x: x,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_equals_its_formula(name):
    points = [-4.0, -3.0, -1.0, -0.1, 0.0, 0.5, 2.0, 7.0, 11.0]
    expected = [SCALAR[name](x) for x in points]
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.array(points)), expected, atol=1e-6)
