"""Gradient maps against gradients taken by hand, on tiny models with every parameter random."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models
from vlm_jax.insight import gradients
from vlm_jax.insight.gradients import Layer
from vlm_jax.insight.subject import Subject, scores

IMAGE = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
INPUTS = dict(
    tokens=jnp.array([[1, 2, 3], [1, 5, 0]]),
    tokens_mask=jnp.array([[1, 1, 1], [1, 1, 0]], bool),
    prefix=jnp.array([1, 1]),
    targets=jnp.array([[2, 3, 9], [5, 9, 0]]),
)
SUBJECT = Subject("generate", IMAGE, INPUTS, jnp.array([[0.0, 1, 1], [1, 0, 0]]))
BLOCK = dict(heads=2, mlp_width=8)
VISION = {
    "vgg": dict(name="vgg", depth=11, width=2),
    "vgg, fully connected": dict(name="vgg", depth=11, width=2, features="fc2", fc_width=8),
    "resnet": dict(name="resnet", stages=(1, 1), width=4, stem="small", norm="group", groups=2),
    "vit": dict(name="vit", patch=8, width=8, layers=3, image_size=32, stop=2, **BLOCK),
}
VISION["resnet, connected"] = VISION["resnet"]
MAP = {"vgg": 4, "vgg, fully connected": 4, "resnet": 256, "vit": 17, "resnet, connected": 256}


@lru_cache
def made(vision):
    attends = "fully" not in vision
    decoder = dict(name="attending_lstm", vocab=11, width=8, attention_width=4)
    decoder = decoder if attends else dict(name="lstm_merge", vocab=11, width=8)
    connector = (
        dict(name="mlp", widths=(6,), norm="layer") if vision.endswith(", connected") else None
    )
    model = models.build(dict(vision=VISION[vision], connector=connector, decoder=decoder))
    batch = {"image": IMAGE, "x": INPUTS}
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(1), batch, {"x": "generate"}))
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    return model, jax.tree.unflatten(structure, drawn)


@pytest.mark.parametrize("vision", VISION)
def test_every_encoder_has_a_layer_to_look_at(vision):
    model, variables = made(vision)
    found = jax.eval_shape(lambda v: gradients.grad_cam(model, v, SUBJECT), variables)
    assert found.shape == (2, MAP[vision])


def test_the_layer_of_a_vit_is_before_the_last_attention():
    assert gradients.usual_layer(made("vit")[0]) == Layer("vision/transformer/layers/self_norm", 1)
    assert gradients.usual_layer(made("resnet")[0]) == Layer("vision")
    last = gradients.usual_layer(made("vgg, fully connected")[0])
    assert last == Layer("vision/block5_conv2")


def test_no_layer_is_looked_at_that_a_normalisation_follows():
    """Its output and gradient are at right angles, so that their products sum to nothing."""
    model, variables = made("resnet, connected")
    assert gradients.usual_layer(model) == Layer("connector")
    cosine = {}
    for path in ("vision", "connector/dense_0", "connector"):
        states, slopes = jax.jit(
            lambda v, path=path: gradients._states_and_slopes(model, v, SUBJECT, Layer(path))
        )(variables)
        sums = jnp.sum(states * slopes, -1)
        lengths = jnp.linalg.norm(states, axis=-1) * jnp.linalg.norm(slopes, axis=-1)
        cosine[path] = float(jnp.mean(jnp.abs(sums) / lengths))
    assert cosine["connector/dense_0"] < 0.01 < 0.1 < cosine["connector"]


def test_cams_are_those_of_gradients_taken_by_hand():
    """The decoder is run on image tokens that are given to it, and differentiated by them."""
    model, variables = made("resnet")
    features = model.apply(variables, IMAGE, method="encode_image")

    def total(tokens):
        visual = features._replace(tokens=tokens)
        logits = model.apply(variables, visual, INPUTS, method="generate")["logits"]
        chances = jax.nn.log_softmax(logits)
        said = jnp.take_along_axis(chances, INPUTS["targets"][..., None], -1)[..., 0]
        return jnp.sum(said * SUBJECT.pick)

    slope = jax.jit(jax.grad(total))(features.tokens)
    expected = np.maximum((slope.mean(1, keepdims=True) * features.tokens).sum(-1), 0)
    found = jax.jit(lambda v: gradients.grad_cam(model, v, SUBJECT))(variables)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * expected.max())
    expected = np.maximum((slope * features.tokens).sum(-1), 0)
    found = jax.jit(lambda v: gradients.hires_cam(model, v, SUBJECT))(variables)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * expected.max())


def test_integrated_gradients_add_up_to_the_difference_of_the_scores():
    model, variables = made("vit")
    baseline = jnp.zeros_like(IMAGE)
    found = jax.jit(
        lambda v: gradients.integrated_gradients(model, v, SUBJECT, baseline=baseline, steps=64)
    )(variables)
    there = scores(model, variables, SUBJECT)
    back = scores(model, variables, SUBJECT._replace(image=baseline))
    assert np.all(np.abs(there - back) > 1e-3)
    np.testing.assert_allclose(found.sum((1, 2)), there - back, rtol=2e-2)


def test_gradient_x_input_is_how_the_score_grows_with_contrast():
    """Summed over pixels: the derivative by a factor in front of the picture."""
    model, variables = made("vit")
    found = jax.jit(lambda v: gradients.gradient_x_input(model, v, SUBJECT))(variables)
    scaled = lambda by: scores(model, variables, SUBJECT._replace(image=by * IMAGE))
    _, growth = jax.jvp(scaled, (1.0,), (1.0,))
    np.testing.assert_allclose(found.sum((1, 2)), growth, rtol=1e-3, atol=1e-5)


def test_rows_are_explained_each_by_its_own_score():
    """Another picture and word in the second row change nothing in the first."""
    model, variables = made("vit")
    other = SUBJECT._replace(
        image=IMAGE.at[1].multiply(-1.0), pick=SUBJECT.pick.at[1].set(jnp.array([0.0, 1, 0]))
    )
    cam = jax.jit(lambda v, image, pick: gradients.grad_cam(
        model, v, SUBJECT._replace(image=image, pick=pick)
    ))  # fmt: skip
    a, b = (np.asarray(cam(variables, s.image, s.pick)) for s in (SUBJECT, other))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-7)
    assert np.abs(a[1] - b[1]).max() > 1e-4 * np.abs(a).max()
