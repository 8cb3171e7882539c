"""Token and position embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.layers.embed import (
    RelativePositions,
    TokenEmbedding,
    distance_buckets,
    nearest_to_each,
    resize_grid,
    resize_to_each,
    sincos_1d,
    sincos_2d,
)

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


def test_bicubic_resizing_keeps_constants_and_overshoots_at_steps():
    flat = jnp.full((16, 2), 3.0)
    np.testing.assert_allclose(resize_grid(flat, (4, 4), (7, 3), "bicubic"), 3.0, rtol=1e-6)
    step = jnp.repeat(jnp.array([0.0, 1.0]), 8)[:, None]  # rows 0 and 1 are 0, rows 2 and 3 are 1
    up = np.asarray(resize_grid(step, (4, 4), (8, 4), "bicubic")).reshape(8, 4)
    # Keys' kernel, a = -0.75, at distances 0.25, 0.75, 1.25 and 1.75 from a sample.
    near, middle, far, last = 0.87890625, 0.26171875, -0.10546875, -0.03515625
    assert near + middle + far + last == 1.0
    np.testing.assert_allclose(up[1:5, 0], [last, far, middle + last, near + far], atol=1e-6)
    np.testing.assert_allclose(up[::-1], 1 - up, atol=1e-6)


def test_resizing_to_each_is_resizing_one_by_one():
    table = jax.random.normal(KEY, (16, 3))
    shapes = jnp.array([[2, 7], [6, 1], [4, 4], [9, 2]])
    found = jax.jit(lambda g: resize_to_each(table, 4, g, 18))(shapes)
    for row, (height, width) in enumerate(shapes.tolist()):
        expected = resize_grid(table, (4, 4), (height, width))
        np.testing.assert_allclose(found[row, : height * width], expected, atol=1e-5)
        beyond = np.broadcast_to(expected[:1], (18 - height * width, 3))
        np.testing.assert_allclose(found[row, height * width :], beyond, atol=1e-5)


def test_unknown_resizing_is_explained():
    with pytest.raises(ValueError, match="resize='lanczos'"):
        resize_grid(jnp.ones((4, 2)), (2, 2), (3, 3), "lanczos")


def test_nearest_positions_stand_at_the_same_fraction_of_an_image():
    """3 x 3 positions for the 2 x 3 patches that an image fills of 3 x 4."""
    table = jnp.arange(9.0)[:, None]
    real = np.zeros((2, 3, 4), bool)
    real[0, :2, :3], real[1] = True, True
    found = np.asarray(nearest_to_each(table, 3, jnp.asarray(real))).reshape(2, 3, 4)
    assert found[0].tolist() == [[0, 1, 2, 0], [3, 4, 5, 0], [0, 0, 0, 0]]
    assert found[1].tolist() == [[0, 0, 1, 2], [3, 3, 4, 5], [6, 6, 7, 8]]


def test_nearest_positions_round_as_float32_does():
    """Of 31 patches for 31 positions, four come out one lower, as in PyTorch; of 26, none."""
    for side, lower in ((26, []), (31, [17, 21, 25, 29])):
        table = jnp.arange(float(side) ** 2)[:, None]
        rows = (
            np.asarray(nearest_to_each(table, side, jnp.ones((1, side, 1), bool)))[0, :, 0] / side
        )
        assert np.nonzero(rows != np.arange(side))[0].tolist() == lower


def test_distance_buckets_are_exact_and_then_logarithmic():
    """Every doubling from 8 to 128 takes a quarter of the other 8 buckets."""
    buckets = distance_buckets(16, 128)
    assert buckets[:8].tolist() == list(range(8))
    assert buckets[[8, 16, 32, 64, 127, 128]].tolist() == [8, 10, 12, 14, 15, 15]
    assert (np.diff(buckets) >= 0).all()
    assert len(buckets) == 129


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_positions_know_direction_and_distance(bidirectional):
    module = RelativePositions(2, buckets=8, distance=20, bidirectional=bidirectional)
    queries, keys = jnp.array([[5]]), jnp.array([[5, 4, 6, 500]])
    table = np.arange(16.0, dtype=np.float32).reshape(8, 2)
    found = module.apply({"params": {"table": table}}, queries, keys)
    assert found.shape == (1, 2, 1, 4)
    rows = [0, 1, 5, 7] if bidirectional else [0, 1, 0, 0]
    np.testing.assert_array_equal(found[0, :, 0], table[rows].T)


def test_token_embedding_may_have_extra_rows_or_those_of_another():
    layer, tokens = TokenEmbedding(4, 3, 5, "none", extra=2), jnp.array([[0, 3, 4, 5]])
    variables = layer.init(KEY, tokens)
    tables = [variables["params"][name]["embedding"] for name in ("token", "extra_token")]
    both = np.concatenate(tables)
    np.testing.assert_array_equal(layer.apply(variables, tokens), both[np.asarray(tokens)])
    x = jax.random.normal(KEY, (1, 2, 3))
    np.testing.assert_allclose(layer.apply(variables, x, method="attend"), x @ both.T, atol=1e-6)
    plain, table = TokenEmbedding(4, 3, 5, "none"), jnp.asarray(both[:4])
    assert not plain.init(KEY, tokens, table, method="words")
    found = plain.apply({}, tokens[:, :2], table, method="words")
    np.testing.assert_array_equal(found, both[[[0, 3]]])
    np.testing.assert_allclose(
        plain.apply({}, x, table, method="attend"), x @ both[:4].T, atol=1e-6
    )


def test_places_of_a_grid_share_vectors_by_row_and_by_column():
    embedding = TokenEmbedding(3, 4, 9, "grid")
    tokens = jnp.zeros((1, 9), jnp.int32)
    variables = embedding.init(jax.random.key(0), tokens)
    table = variables["params"]
    assert table["row"].shape == table["column"].shape == (3, 4)
    found = embedding.apply(variables, tokens)[0] - table["token"]["embedding"][0][None]
    expected = [table["row"][i] + table["column"][j] for i in range(3) for j in range(3)]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)
    with pytest.raises(ValueError, match="square number"):
        TokenEmbedding(3, 4, 8, "grid").init(jax.random.key(0), tokens[:, :8])
