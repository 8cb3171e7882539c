"""From a config to a model. Which parts go together is the subject of tests/test_matrix.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax import models
from vlm_jax.models.heads import ClassifierHead, ContrastHead, ReconstructionHead

VISION = dict(name="precomputed", width=4)


def test_absent_and_none_parts_are_left_out():
    model = models.build(dict(vision=VISION, text=None, contrast=dict(size=3)))
    assert model.text is None and model.decoder is None and model.contrast_head.size == 3


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            dict(vision=VISION, decoders={}),
            TypeError,
            "'decoders' in config.model; did you mean 'd",
        ),
        (
            dict(vision=dict(name="vitt")),
            ValueError,
            "config.model.vision.name 'vitt'; did you mean",
        ),
        (
            dict(vision=VISION | dict(widht=4)),
            TypeError,
            "config.model.vision; did you mean 'width'",
        ),
        (dict(vision=VISION, contrast=dict(sise=3)), TypeError, "did you mean 'size'"),
        (
            dict(vision=dict(width=4)),
            TypeError,
            "config.model.vision lacks the required key 'name'",
        ),
        (dict(contrast=dict(size=9)), TypeError, "required key 'vision'"),
    ],
)
def test_mistakes_are_named_with_a_suggestion(config, error, message):
    with pytest.raises(error, match=message):
        models.build(config)


def test_image_statistics_come_from_the_config():
    model = models.build(dict(vision=VISION, image_mean=[0.1, 0.2, 0.3], image_std=[1, 1, 1]))
    assert model.image_mean == (0.1, 0.2, 0.3) and model.image_std == (1, 1, 1)


def test_the_temperature_is_clipped_and_a_zero_vector_has_a_finite_gradient():
    head = ContrastHead(3, scale=1000.0, max_scale=100.0)
    image, text = jnp.zeros((2, 4)), jnp.ones((2, 5))
    variables = head.init(jax.random.key(0), {"image": image, "text": text})
    outputs = head.apply(variables, {"image": image, "text": text})
    assert outputs["scale"] == 100 and "bias" not in outputs
    np.testing.assert_allclose(variables["params"]["logit_scale"], np.log(1000), rtol=1e-6)
    embeds = lambda x: head.apply(variables, {"image": x})["image_embeds"]
    gradient = jax.grad(lambda x: embeds(x).sum())(image)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_heads_answer_in_float32_whatever_they_compute_in():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    heads = [
        (ClassifierHead(5, hidden=4, dtype=jnp.bfloat16), (x[:, 0],)),
        (ReconstructionHead(6, dtype=jnp.bfloat16), (x, x[:, 0])),
        (ContrastHead(3, bias=-10.0, dtype=jnp.bfloat16), ({"image": x[:, 0], "text": x[:, 1]},)),
    ]
    for head, inputs in heads:
        outputs, variables = jax.eval_shape(
            lambda head=head, inputs=inputs: head.init_with_output(jax.random.key(0), *inputs)
        )
        assert {leaf.dtype for leaf in jax.tree.leaves((outputs, variables))} == {
            jnp.dtype(jnp.float32)
        }
