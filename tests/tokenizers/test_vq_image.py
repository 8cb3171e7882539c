"""Ids, grids and the use of a codebook."""

import numpy as np
import pytest

from vlm_jax.tokenizers.vq_image import codebook_use, to_grid, to_ids


def test_a_grid_is_the_ids_row_by_row():
    ids = np.arange(8).reshape(2, 4)
    grid = to_grid(ids, 8)
    assert grid.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    np.testing.assert_array_equal(to_ids(grid), ids)


def test_what_is_no_grid_is_refused():
    with pytest.raises(ValueError, match="no square grid"):
        to_grid(np.zeros(5), 8)
    with pytest.raises(ValueError, match=r"image token 8 .* \[0, 8\)"):
        to_grid(np.array([0, 1, 8, 2]), 8)


def test_use_of_a_codebook():
    assert codebook_use(np.array([0, 1, 2, 3]), 8) == pytest.approx((0.5, 4.0))
    assert codebook_use(np.zeros(9, int), 4) == pytest.approx((0.25, 1.0))
