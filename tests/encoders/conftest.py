"""What the tests of encoders share."""

import jax
import numpy as np
import pytest


@pytest.fixture
def randomise():
    """randomise(module, *inputs): its variables, all noise: zeros and ones hide mistakes."""

    def make(module, *inputs, scale=0.4, **named):
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs, **named)
        noise = lambda leaf: np.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)
        variables = jax.tree.map(noise, shapes)
        if (
            "batch_stats" in variables
        ):  # variances, so positive; as means any positive number will do
            variables["batch_stats"] = jax.tree.map(
                lambda y: abs(y) + 0.5, variables["batch_stats"]
            )
        return variables

    return make
