"""Frames of a video are encoded one by one and told apart by what is added to their tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.encoders.frames import FrameEncoder
from vlm_jax.encoders.vit import ViT

VIT = dict(patch=4, width=8, layers=1, heads=2, mlp_width=8, image_size=8, pooling="none")
VIDEO = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8, 8, 3)), jnp.float32)


def test_frames_are_pictures_with_a_vector_each(randomise):
    encoder = FrameEncoder(4, VIT)
    variables = randomise(encoder, VIDEO)
    params = variables["params"]
    found = jax.jit(encoder.apply)(variables, VIDEO)
    vit = jax.jit(ViT(**VIT).apply)
    for frame in range(3):
        seen = vit({"params": params["vit"]}, VIDEO[:, frame]).tokens
        tokens = found.tokens[:, 4 * frame : 4 * frame + 4]
        np.testing.assert_allclose(tokens, seen + params["time"][frame], atol=1e-5)
    picture = jax.jit(encoder.apply)(variables, VIDEO[:, 0])
    alone = vit({"params": params["vit"]}, VIDEO[:, 0])
    np.testing.assert_allclose(picture.tokens, alone.tokens, atol=1e-6)
    assert found.mask.shape == (2, 12)


def test_masked_patches_are_masked_in_every_frame(randomise):
    encoder, mask = FrameEncoder(3, VIT), jnp.array([[True, False, True, True]] * 2)
    variables = randomise(encoder, VIDEO)
    found = jax.jit(encoder.apply)(variables, VIDEO, mask)
    np.testing.assert_array_equal(found.mask, np.tile(mask, (1, 3)))


def test_too_many_frames_are_explained():
    with pytest.raises(ValueError, match="3 frames do not fit frames=2"):
        jax.eval_shape(FrameEncoder(2, VIT).init, jax.random.key(0), VIDEO)
