"""The use of a codebook."""

import numpy as np
import pytest

from vlm_jax.tokenizers.vq_image import codebook_use


def test_use_of_a_codebook():
    assert codebook_use(np.array([0, 1, 2, 3]), 8) == pytest.approx((0.5, 4.0))
    assert codebook_use(np.zeros(9, int), 4) == pytest.approx((0.25, 1.0))
