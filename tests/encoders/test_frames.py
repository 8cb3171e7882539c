"""Frames of a video are encoded one by one, told apart by what is added to their tokens, and
perhaps pooled over time.
"""

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


def pooled(pool, **fields):
    return FrameEncoder(3, VIT, pool=pool, **fields)


@pytest.mark.parametrize("pool", ["mean", "attention", "join"])
def test_a_pool_leaves_one_token_for_each_place(pool, randomise):
    encoder = pooled(pool)
    variables = randomise(encoder, VIDEO)
    apply = jax.jit(encoder.apply)
    found = apply(variables, VIDEO)
    assert found.tokens.shape == (2, 4, 8) and found.mask.shape == (2, 4)
    turned = apply(variables, VIDEO[:, ::-1]).tokens
    assert np.allclose(found.tokens, turned, atol=1e-5) == (pool == "mean")


def test_the_mean_is_the_mean_of_the_frames_tokens(randomise):
    encoder = FrameEncoder(3, VIT)
    variables = randomise(encoder, VIDEO)
    apart = jax.jit(encoder.apply)(variables, VIDEO).tokens.reshape(2, 3, 4, 8)
    found = jax.jit(pooled("mean").apply)(variables, VIDEO)
    np.testing.assert_allclose(found.tokens, apart.mean(axis=1), atol=1e-5)


def test_joining_is_one_matrix_on_all_frames_of_a_place(randomise):
    encoder = pooled("join")
    variables = randomise(encoder, VIDEO)
    params = variables["params"]
    apart = {name: params[name] for name in ("vit", "time")}
    tokens = jax.jit(FrameEncoder(3, VIT).apply)({"params": apart}, VIDEO).tokens
    rows = np.asarray(tokens).reshape(2, 3, 4, 8).transpose(0, 2, 1, 3).reshape(2, 4, 24)
    expected = rows @ np.asarray(params["join"]["kernel"]) + np.asarray(params["join"]["bias"])
    found = jax.jit(encoder.apply)(variables, VIDEO).tokens
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_mixer_lets_places_see_each_other_and_a_picture_is_a_still_video(randomise):
    encoder = pooled("join", mixer=dict(layers=1, heads=2, mlp_width=8))
    variables = randomise(encoder, VIDEO)
    apply = jax.jit(encoder.apply)
    found = apply(variables, VIDEO).tokens
    other = apply(variables, VIDEO.at[:, 0, 4:, 4:].set(0.0)).tokens
    assert not np.isclose(found, other, atol=1e-6).all(axis=(0, 2)).any()
    still = apply(variables, jnp.repeat(VIDEO[:, :1], 3, axis=1)).tokens
    np.testing.assert_allclose(apply(variables, VIDEO[:, 0]).tokens, still, atol=1e-5)
    mask = jnp.array([[True, False, True, True]] * 2)
    hidden = apply(variables, VIDEO, mask)
    changed = apply(variables, VIDEO.at[:, :, :4, 4:].set(9.0), mask)
    real = np.asarray(hidden.mask)
    np.testing.assert_allclose(hidden.tokens[real], changed.tokens[real], atol=1e-5)


def test_what_a_pool_cannot_do_is_explained():
    shape = lambda encoder, video: jax.eval_shape(encoder.init, jax.random.key(0), video)
    with pytest.raises(ValueError, match="2 frames cannot be joined: it takes 3"):
        shape(pooled("join"), VIDEO[:, :2])
    with pytest.raises(ValueError, match="pool='median': choose one of"):
        shape(pooled("median"), VIDEO)
