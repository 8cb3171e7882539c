"""Blocks of patches side by side, against slices of the grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.connectors.merge import MergeConnector
from vlm_jax.encoders.image_features import block_order, grid_places
from vlm_jax.types import Features

ROWS, COLUMNS, SIDE, WIDTH = 4, 6, 2, 3
GRID = np.random.default_rng(0).normal(size=(2, ROWS, COLUMNS, WIDTH)).astype(np.float32)
ORDER = block_order(ROWS, COLUMNS, SIDE)
VISUAL = Features(
    jnp.asarray(GRID.reshape(2, -1, WIDTH)[:, ORDER]),
    jnp.arange(ROWS * COLUMNS)[None] < jnp.array([[24], [9]]),
    places=jnp.broadcast_to(grid_places(ROWS, COLUMNS)[ORDER][None], (2, 24, 3)),
)


def test_a_token_is_a_block_and_an_mlp():
    module = MergeConnector(SIDE, (5, 4), activation="relu")
    variables = module.init(jax.random.key(1), VISUAL)
    found = module.apply(variables, VISUAL)
    first, second = (jax.device_get(variables["params"]["mlp"][f"dense_{n}"]) for n in (0, 1))
    for number in range(6):
        row, column = number // 3 * SIDE, number % 3 * SIDE
        block = GRID[:, row : row + SIDE, column : column + SIDE].reshape(2, -1)
        hidden = np.maximum(block @ first["kernel"] + first["bias"], 0)
        expected = hidden @ second["kernel"] + second["bias"]
        np.testing.assert_allclose(found.tokens[:, number], expected, atol=1e-5)
        assert found.places[0, number].tolist() == [0, number // 3, number % 3]
    assert found.mask.tolist() == [[True] * 6, [True] * 3 + [False] * 3]


def test_patches_are_normalised_each_by_itself():
    module = MergeConnector(SIDE, (4,), norm="layer_plain", epsilon=0.0)
    variables = module.init(jax.random.key(1), VISUAL)
    scaled = VISUAL._replace(tokens=VISUAL.tokens * jnp.arange(1, 25)[None, :, None])
    found, other = (module.apply(variables, x).tokens for x in (VISUAL, scaled))
    np.testing.assert_allclose(found, other, atol=1e-4)


def test_blocks_must_be_whole():
    short = Features(VISUAL.tokens[:, :23], VISUAL.mask[:, :23])
    with pytest.raises(ValueError, match="23 image tokens are not whole blocks of 2 x 2"):
        MergeConnector(SIDE, (4,)).init(jax.random.key(0), short)
    with pytest.raises(ValueError, match="4 x 5 patches are not whole blocks of 2 x 2"):
        block_order(4, 5, 2)
