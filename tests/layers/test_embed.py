"""Token and position embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.embed import TokenEmbedding, resize_grid, sincos_1d, sincos_2d

KEY = jax.random.key(0)


def test_sincos_1d_at_chosen_points():
    table = sincos_1d(np.array([0.0, 1.0, 7.0]), 4)
    np.testing.assert_allclose(table[0], [0, 0, 1, 1], atol=1e-7)
    for row, position in ((1, 1.0), (2, 7.0)):
        slow = position / 100  # 10,000 ** (1 / 2)
        expected = [np.sin(position), np.sin(slow), np.cos(position), np.cos(slow)]
        np.testing.assert_allclose(table[row], expected, atol=1e-6)


def test_sincos_2d_is_row_major_and_separable():
    table = np.asarray(sincos_2d(2, 3, 8)).reshape(2, 3, 8)
    np.testing.assert_allclose(table[0, :, :4], sincos_1d(np.arange(3), 4), atol=1e-6)
    np.testing.assert_array_equal(table[0, :, :4], table[1, :, :4])
    np.testing.assert_allclose(table[:, 0, 4:], sincos_1d(np.arange(2), 4), atol=1e-6)
    np.testing.assert_array_equal(table[:, 0, 4:], table[:, 2, 4:])


def test_sincos_rejects_widths_it_cannot_split():
    with pytest.raises(ValueError, match="even width, not 3"):
        sincos_1d(np.arange(2), 3)
    with pytest.raises(ValueError, match="divisible by 4, not 6"):
        sincos_2d(2, 2, 6)


def test_resize_grid_to_its_own_size_is_the_identity():
    table = jax.random.normal(KEY, (6, 4))
    np.testing.assert_allclose(resize_grid(table, (2, 3), (2, 3)), table, atol=1e-6)


def test_resize_grid_keeps_constants_and_orientation():
    rows, columns = np.mgrid[:3, :4].astype(np.float32)
    table = jnp.stack([jnp.ones(12), rows.reshape(-1), columns.reshape(-1)], axis=-1)
    grid = np.asarray(resize_grid(table, (3, 4), (6, 2))).reshape(6, 2, 3)
    np.testing.assert_allclose(grid[..., 0], 1, atol=1e-6)
    assert (np.diff(grid[..., 1], axis=0) > 0).any()
    assert (np.diff(grid[..., 1], axis=0) >= 0).all()
    np.testing.assert_allclose(np.diff(grid[..., 1], axis=1), 0, atol=1e-6)
    assert (np.diff(grid[..., 2], axis=1) > 0).all()
    np.testing.assert_allclose(np.diff(grid[..., 2], axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("positions", ["learned", "sincos", "none"])
def test_token_embedding_adds_the_row_of_each_position(positions):
    layer = TokenEmbedding(vocab=7, width=4, max_length=5, positions=positions)
    tokens = jnp.array([[3, 6, 3], [0, 1, 2]])
    variables = layer.init(KEY, tokens)
    table = variables["params"]["token"]["embedding"]
    if positions == "learned":
        rows = variables["params"]["position"]
    else:
        assert "position" not in variables["params"]
        rows = sincos_1d(np.arange(5), 4) if positions == "sincos" else jnp.zeros((5, 4))
    expected = table[tokens] + rows[None, :3]
    np.testing.assert_allclose(layer.apply(variables, tokens), expected, atol=1e-6)
    where = jnp.array([[2, 0, 4], [1, 1, 3]])
    out = layer.apply(variables, tokens, where)
    np.testing.assert_allclose(out, table[tokens] + rows[where], atol=1e-6)


def test_token_embedding_attend_scores_against_every_token():
    layer = TokenEmbedding(vocab=7, width=4, max_length=5)
    variables = layer.init(KEY, jnp.zeros((1, 2), jnp.int32))
    x = jax.random.normal(KEY, (2, 3, 4))
    scores = layer.apply(variables, x, method="attend")
    table = np.asarray(variables["params"]["token"]["embedding"])
    np.testing.assert_allclose(scores, np.asarray(x) @ table.T, atol=1e-6)


def test_token_embedding_explains_long_texts_and_unknown_positions():
    tokens = jnp.zeros((1, 6), jnp.int32)
    with pytest.raises(ValueError, match="6 tokens do not fit max_length=5"):
        TokenEmbedding(vocab=7, width=4, max_length=5).init(KEY, tokens)
    with pytest.raises(ValueError, match="positions='rope'"):
        TokenEmbedding(vocab=7, width=4, max_length=9, positions="rope").init(KEY, tokens)
