"""Plain pixels tell drawings apart, and say so where they cannot help."""

import numpy as np
import pytest

from vlm_jax.data.images import decode
from vlm_jax.data.scenes import Scenes
from vlm_jax.memory.encoders import Pixels, make_encoder


def test_pixels_are_finite_of_one_width_and_know_a_picture_again():
    source = Scenes("test", length=12, size=48)
    vectors = np.stack([vector for _, vector in make_encoder("pixels").images(source)])
    assert vectors.shape == (12, 511) and vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    twice = lambda pixels: pixels.repeat(2, axis=0).repeat(2, axis=1)
    enlarged = [{"image": twice(decode(source[i]["image"]))} for i in range(12)]
    larger = np.stack([v for _, v in Pixels().images(enlarged)])
    assert (np.argmax(larger @ vectors.T, axis=1) == np.arange(12)).all()


def test_white_and_black_pictures_have_vectors():
    flat = lambda value: np.full((20, 30, 3), value, np.uint8)
    source = [{"image": flat(value)} for value in (255, 0)]
    assert all(np.isfinite(vector).all() for _, vector in Pixels().images(source))


def test_pixels_know_no_texts():
    with pytest.raises(ValueError, match="cannot be searched for a text"):
        Pixels().texts(["a dog"])
