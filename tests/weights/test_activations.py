"""Every activation that a config.json may name is the reference's, or an error names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.activations import ACT2CLS, ACT2FN

from vlm_jax.layers.activations import ACTIVATIONS
from vlm_jax.weights.family import activation
from vlm_jax.weights.folder import WeightsError

POINTS = np.linspace(-12.01, 11.9, 101).astype(np.float32)
OTHER = {
    "prelu": "has a parameter",
    "xielu": "has two parameters",
    "sqrtsoftplus": "scores experts, which no model here has",
}


@pytest.mark.parametrize("name", sorted(ACT2CLS))
def test_names_mean_what_the_reference_means(name):
    if name in OTHER:
        with pytest.raises(WeightsError, match=f"hidden_act='{name}' is not supported"):
            activation(dict(hidden_act=name))
        return
    ours = ACTIVATIONS[activation(dict(hidden_act=name))]
    points = torch.tensor(POINTS, requires_grad=True)
    expected = ACT2FN[name](points)
    expected.sum().backward()
    slopes = jax.vmap(jax.grad(ours))(jnp.asarray(POINTS))
    assert points.grad is not None
    np.testing.assert_allclose(ours(jnp.asarray(POINTS)), expected.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(slopes, points.grad.numpy(), atol=1e-4)
