"""Averages of blocks of patches, against slices of the grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.connectors.pool import PoolConnector
from vlm_jax.types import Features

GRID = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype(np.float32)
VISUAL = Features(jnp.asarray(GRID.reshape(2, 25, 3)), jnp.ones((2, 25), bool))


def test_a_token_is_the_average_of_a_block():
    """The fifth row and column are beyond the last whole block."""
    module = PoolConnector(2, 4, epsilon=1e-3)
    shapes = jax.eval_shape(module.init, jax.random.key(1), VISUAL)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    params, found = variables["params"], module.apply(variables, VISUAL)
    assert found.tokens.shape == (2, 4, 4)
    for number in range(4):
        row, column = number // 2 * 2, number % 2 * 2
        x = GRID[:, row : row + 2, column : column + 2].mean(axis=(1, 2))
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-3)
        expected = x * (1 + params["norm"]["scale"]) @ params["dense"]["kernel"]
        np.testing.assert_allclose(found.tokens[:, number], expected, atol=1e-5)


def test_a_token_is_real_if_any_of_its_patches_is():
    mask = jnp.zeros((2, 25), bool).at[1, 6].set(True)
    module = PoolConnector(2, 4)
    variables = module.init(jax.random.key(1), VISUAL)
    found = module.apply(variables, VISUAL._replace(mask=mask))
    assert found.mask.tolist() == [[False] * 4, [True, False, False, False]]


@pytest.mark.parametrize("count", [24, 1])
def test_there_must_be_a_grid(count):
    visual = Features(VISUAL.tokens[:, :count], VISUAL.mask[:, :count])
    with pytest.raises(ValueError, match=f"{count} image tokens are no square grid"):
        PoolConnector(2, 4).init(jax.random.key(0), visual)
