"""The wiring around the flow: what it learns from, what it draws through, what steers it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.text_to_image import dit
from vlm_jax import models, trees, workdir
from vlm_jax.models.flow_generator import straight_path

KEY = jax.random.key(0)
TOKENIZER = dict(stem=2, channels=4, multipliers=(1, 2), blocks=1, attention=(), latent=4, groups=2)
TEXT = dict(name="transformer", vocab=12, width=6, layers=1, heads=2, mlp_width=8, max_length=6)
NETWORK = dict(width=8, layers=1, heads=2, mlp_width=8)
PIXELS = dict(text=TEXT | dict(pooling="mean"), predicts="image")
PIXELS |= dict(network=NETWORK | dict(size=8, channels=3, patch=4, parts=("self", "cross", "mlp")))
FSQ = TOKENIZER | dict(quantizer=dict(name="fsq", levels=(5, 5)))
LATENT = dict(classes=3, tokenizer=FSQ, scale=0.5)
LATENT |= dict(network=NETWORK | dict(size=2, channels=2, patch=1))
RNG = np.random.default_rng(0)
REAL = np.array([[True] * 5, [True] * 3 + [False] * 2])
INPUTS = {
    "text": jnp.asarray(RNG.integers(1, 12, (2, 5))),
    "text_mask": jnp.asarray(REAL),
    "label": jnp.array([1, 3]),
    "time": jnp.array([0.25, 0.99]),
    "noise": jnp.array([7, 4_000_000_000], jnp.uint32),
}
IMAGES = jnp.asarray(RNG.integers(0, 256, (2, 8, 8, 3), np.uint8))


@functools.lru_cache
def generator(kind):
    """A tiny generator with every parameter randomised."""
    fields, rng = dict(pixels=PIXELS, latent=LATENT)[kind], np.random.default_rng(1)
    model = models.build(dict(name="flow_generator", **fields))
    batch = {"image": IMAGES, "task": INPUTS}
    shapes = jax.eval_shape(lambda: model.init(KEY, batch, {"task": "velocity"}))
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 3, jnp.float32)
    return model, jax.tree.map(draw, shapes), batch


@functools.lru_cache
def call(kind, method):
    model, variables, _ = generator(kind)
    return jax.jit(lambda *given: model.apply(variables, *given, method=method))


@pytest.mark.parametrize(("size", "count"), [("S", 32_865_056), ("XL", 674_834_720)])
def test_the_config_has_the_size_of_the_paper_beside_its_tokenizer(size, count):
    model = models.build(workdir.to_json(dit.get_config(f"size={size}"))["model"])
    one = {"label": jnp.zeros(1, jnp.int32), "time": jnp.zeros(1)}
    one |= {"noise": jnp.zeros(1, jnp.uint32)}
    batch = {"image": jnp.zeros((1, 256, 256, 3), jnp.uint8), "task": one}
    params = jax.eval_shape(lambda: model.init(KEY, batch, {"task": "velocity"}))["params"]
    assert set(params) == {"network", "label", "tokenizer"}
    assert trees.count_parameters(params) - trees.count_parameters(params["tokenizer"]) == count
    assert f"{count:,}" in dit.__doc__


def test_the_path_is_straight():
    start, end = (jnp.asarray(RNG.normal(size=(3, 2, 2, 1)), jnp.float32) for _ in range(2))
    time = jnp.array([0.0, 0.25, 1.0])
    x, velocity = straight_path(start, end, time)
    np.testing.assert_allclose(x[0], start[0])
    np.testing.assert_allclose(x[1], 0.75 * start[1] + 0.25 * end[1], atol=1e-6)
    np.testing.assert_allclose(x[2], end[2])
    later, _ = straight_path(start, end, time + 0.5)
    np.testing.assert_allclose((later - x) / 0.5, velocity, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("pixels", {"network", "text", "pooled"}), ("latent", {"network", "label", "tokenizer"})],
)
def test_outputs_of_a_task_and_all_parts_have_parameters(kind, parts):
    model, variables, batch = generator(kind)
    assert set(variables["params"]) == parts
    found = jax.jit(lambda: model.apply(variables, batch, {"task": "velocity"}))()["task"]
    assert found["velocity"].shape == found["target"].shape == (2, *model.shape)
    if kind == "latent":
        assert {"encoder", "decoder"} <= set(variables["params"]["tokenizer"])


def test_the_target_leads_from_the_examples_own_noise_to_its_picture():
    data, first = call("pixels", "encode")(IMAGES), call("pixels", "velocity")
    found = first(data, INPUTS)
    keys = [jax.random.key(seed) for seed in np.asarray(INPUTS["noise"])]
    start = np.stack([jax.random.normal(key, (8, 8, 3)) for key in keys])
    np.testing.assert_allclose(found["target"], data - start, atol=1e-6)
    turned = jax.tree.map(lambda x: x[::-1], INPUTS)
    again = first(data[::-1], turned)
    np.testing.assert_allclose(again["velocity"][::-1], found["velocity"], atol=1e-4)


def test_a_network_that_says_the_image_has_the_velocity_that_leads_there():
    model, variables, _ = generator("pixels")
    x = jnp.asarray(RNG.normal(size=(2, 8, 8, 3)), jnp.float32)
    memory = call("pixels", "read")(INPUTS)
    velocity = call("pixels", "flow")(x, INPUTS["time"], memory)
    said = jax.jit(
        lambda: model.network.apply(
            {"params": variables["params"]["network"]}, x, INPUTS["time"], memory
        )
    )()
    np.testing.assert_allclose(x[0] + 0.75 * velocity[0], said[0], atol=1e-5)
    np.testing.assert_allclose(x[1] + 0.05 * velocity[1], said[1], atol=1e-5)  # not 0.01


def test_latents_are_drawn_as_the_tokenizer_would_decode_them():
    model, variables, _ = generator("latent")
    data = call("latent", "encode")(IMAGES)
    bound = dict(variables=variables["params"]["tokenizer"])
    tokenizer = {"params": bound["variables"]}
    ids = model.tokenizer.apply(tokenizer, IMAGES, method="encode")
    whole = model.tokenizer.apply(tokenizer, ids, method="decode")
    expected = np.clip(np.round((whole + 1) * 127.5), 0, 255)
    np.testing.assert_allclose(call("latent", "draw")(data), expected, atol=1)
    vectors = model.tokenizer.apply(tokenizer, IMAGES, method="vectors")
    np.testing.assert_allclose(data.reshape(2, 4, 2), 0.5 * vectors, atol=1e-6)


@pytest.mark.parametrize("kind", ["pixels", "latent"])
def test_what_is_told_steers_the_flow(kind):
    model, _, _ = generator(kind)
    x = jnp.asarray(RNG.normal(size=(2, *model.shape)), jnp.float32)
    run = lambda inputs: call(kind, "flow")(x, inputs["time"], call(kind, "read")(inputs))
    key = dict(pixels="text", latent="label")[kind]
    other = INPUTS | {key: INPUTS[key].at[0].set(INPUTS[key][0] - 1)}
    change = jnp.abs(run(other) - run(INPUTS)).max(axis=(1, 2, 3))
    assert float(change[0]) > 1e-4 and float(change[1]) < 1e-6
    if kind == "pixels":
        padded = INPUTS | {"text": INPUTS["text"].at[1, 3:].set(0)}
        np.testing.assert_allclose(run(padded), run(INPUTS), atol=1e-5)


def test_a_config_that_fits_nothing_is_refused():
    with pytest.raises(ValueError, match="text or classes"):
        models.build(dict(name="flow_generator", network=NETWORK))
    with pytest.raises(ValueError, match="text or classes"):
        models.build(dict(name="flow_generator", network=NETWORK, text=TEXT, classes=2))
    with pytest.raises(ValueError, match="predicts='noise'"):
        models.build(dict(name="flow_generator", network=NETWORK, classes=2, predicts="noise"))
    with pytest.raises(models.InvalidModel, match="flow_generator"):
        models.check(dict(name="image_generator"), {"flow_matching": "velocity"})
