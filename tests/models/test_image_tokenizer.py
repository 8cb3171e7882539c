"""The image tokenizer: VQGAN's sizes, shapes, ids that decode, and images that do not divide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models, trees
from vlm_jax.models.image_tokenizer import ImageTokenizer, to_bytes, to_pixels

KEY = jax.random.key(0)
SMALL = dict(channels=4, multipliers=(1, 2), blocks=1, attention=(1,), latent=4, groups=2, stem=2)
ASKS = {"image_tokens": "reconstruct_image"}


@functools.lru_cache
def small():
    """A tiny tokenizer of 4 x 4 pixels to a token, its variables and two images."""
    config = dict(name="image_tokenizer", quantizer=dict(name="fsq", levels=(3, 3)), **SMALL)
    model = models.build(config)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8))
    variables = jax.jit(lambda x: model.init(KEY, {"image": x}, ASKS))(images)
    return model, variables, images


@pytest.mark.parametrize(("codes", "count"), [(1024, 72_141_699), (16384, 76_073_859)])
def test_the_defaults_are_vqgan_with_f_16(codes, count):
    model = ImageTokenizer(quantizer=dict(name="vq", codes=codes, width=256, decay=None))
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    params = jax.eval_shape(lambda: model.init(KEY, {"image": image}, ASKS))["params"]
    assert trees.count_parameters(params) == count
    assert trees.count_parameters(params["encoder"]) == 29_298_176
    assert trees.count_parameters(params["decoder"]) == 42_449_795
    assert (model.factor, model.codes) == (16, codes)


def test_ids_say_all_that_is_drawn():
    model, variables, images = small()
    apply = lambda v, x: model.apply(v, {"image": x}, ASKS)["image_tokens"]
    outputs = jax.jit(apply)(variables, images)
    assert outputs["drawn"].shape == (2, 8, 8, 3) and outputs["ids"].shape == (2, 4)
    ids = jax.jit(lambda v, x: model.apply(v, x, method="encode"))(variables, images)
    np.testing.assert_array_equal(ids, outputs["ids"])
    drawn = jax.jit(lambda v, x: model.apply(v, x, method="decode"))(variables, ids)
    np.testing.assert_allclose(drawn, outputs["drawn"], atol=1e-5)


def test_a_local_encoder_sees_each_patch_alone():
    config = dict(name="image_tokenizer", quantizer=dict(name="fsq", levels=(8, 8, 8)), **SMALL)
    model = models.build(config | dict(local=2))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8))
    variables = jax.jit(lambda x: model.init(KEY, {"image": x}, ASKS))(images)
    encode = jax.jit(lambda v, x: model.apply(v, x, method="encode"))
    ids = encode(variables, images)
    assert len(np.unique(ids)) > 4
    turned = images[:, :, ::-1].at[:, :4].set(images[:, :4])  # the lower half mirrored
    np.testing.assert_array_equal(encode(variables, turned)[:, :2], ids[:, :2])
    assert np.all(encode(variables, turned)[:, 2:] != ids[:, 2:])
    swapped = jnp.roll(images, 4, axis=2)
    np.testing.assert_array_equal(encode(variables, swapped), ids[:, jnp.array([1, 0, 3, 2])])


def test_pixels_and_bytes_are_each_others_inverse():
    _, _, images = small()
    np.testing.assert_array_equal(to_bytes(to_pixels(jnp.asarray(images))), images)


def test_what_does_not_fit_is_refused():
    model, variables, images = small()
    with pytest.raises(ValueError, match="multiple of 4"):
        model.apply(variables, images[:, :6], method="encode")
    with pytest.raises(ValueError, match="no square grid"):
        model.apply(variables, jnp.zeros((1, 3), jnp.int32), method="decode")
    with pytest.raises(models.InvalidModel, match="cannot do"):
        models.check(dict(name="image_tokenizer"), {"captioning": "generate"})
