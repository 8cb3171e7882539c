"""VGG: what each kind of features is, in which order, and for which images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.encoders.vgg import VGG

TINY = {"width": 1, "fc_width": 6}


def images(batch=2, size=32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, size, size, 3)), jnp.float32)


def apply(module, variables, *inputs, **options):
    """Module.apply, compiled as one program; options are static."""
    return jax.jit(partial(module.apply, **options))(variables, *inputs)


def output_shapes(network, size):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    run = lambda image: network.init_with_output(jax.random.key(0), image)[0]
    return jax.eval_shape(run, image)


def test_full_size_shapes_are_those_of_the_papers():
    feature_map = output_shapes(VGG(16), 224)
    assert feature_map.tokens.shape == (1, 196, 512)
    assert feature_map.pooled.shape == (1, 512)
    vector = output_shapes(VGG(16, features="fc2"), 224)
    assert vector.tokens.shape == (1, 1, 4096)
    assert vector.pooled.shape == (1, 4096)
    scores = output_shapes(VGG(19, features="fc2", classes=1000), 224)
    assert scores.pooled.shape == (1, 1000)
    assert scores.tokens.shape == (1, 1, 4096)


def test_fc2_reads_the_pooled_map_in_row_column_channel_order(randomise):
    x, network = images(size=64), VGG(16, features="fc2", **TINY)
    variables = randomise(network, x)
    tokens = np.asarray(apply(VGG(16, **TINY), variables, x).tokens)  # 4 x 4 of 8 channels
    pooled = tokens.reshape(2, 2, 2, 2, 2, 8).max(axis=(2, 4)).reshape(2, -1)
    params = variables["params"]
    for name in ("fc1", "fc2"):
        pooled = np.maximum(pooled @ params[name]["kernel"] + params[name]["bias"], 0)
    features = apply(network, variables, x)
    np.testing.assert_allclose(features.pooled, pooled, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(features.tokens[:, 0], features.pooled)


def test_map_tokens_are_in_row_major_order():
    """With every kernel an identity at its centre, tokens are maxima over 16 x 16 pixels."""
    x, network = jnp.abs(images(size=64)), VGG(16, width=3)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    identity = lambda leaf: (
        np.zeros(leaf.shape, np.float32)
        if len(leaf.shape) == 1
        else np.pad(
            np.eye(*leaf.shape[2:], dtype=np.float32)[None, None], ((1, 1), (1, 1), (0, 0), (0, 0))
        )
    )
    tokens = apply(network, jax.tree.map(identity, shapes), x).tokens
    maxima = np.asarray(x).reshape(2, 4, 16, 4, 16, 3).max(axis=(2, 4)).reshape(2, 16, 3)
    np.testing.assert_allclose(tokens[..., :3], maxima, atol=1e-6)


def test_an_image_does_not_depend_on_its_neighbours(randomise):
    x, network = images(3), VGG(16, features="fc2", **TINY)
    variables = randomise(network, x, scale=0.3)  # at 0.4 rounding alone is beyond 1e-5
    together, alone = apply(network, variables, x), apply(network, variables, x[1:2])
    np.testing.assert_allclose(together.pooled[1:2], alone.pooled, atol=1e-5)


def test_dropout_acts_in_training_only(randomise):
    x, network = images(), VGG(16, features="fc2", width=1, fc_width=64, dropout=0.5)
    variables = randomise(network, x)
    trained = apply(network, variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    plain = apply(network, variables, x)
    assert float((trained.pooled == 0).mean()) > float((plain.pooled == 0).mean())


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({"depth": 12}, 32, r"depth \[11, 13, 16, 19\], not 12"),
        ({"features": "fc7"}, 32, "features='fc7'"),
        ({"classes": 10}, 32, 'set features="fc2"'),
        ({}, 31, r"\(31, 31\) is below 32 x 32"),
    ],
)
def test_impossible_fields_are_explained(fields, size, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(VGG(**fields).init, jax.random.key(0), images(1, size))


@pytest.mark.parametrize(("size", "grid"), [((32, 96), 2), ((160, 224), 3), ((32, 32), 2)])
def test_the_map_is_averaged_over_areas_that_may_overlap(size, grid, randomise):
    x, network = images(2, 32), VGG(16, features="fc2", grid=grid, **TINY)
    variables = randomise(network, x)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    maps = apply(VGG(16, width=TINY["width"]), {"params": variables["params"]}, x).tokens
    rows, columns = size[0] // 32, size[1] // 32
    maps = np.asarray(maps).reshape(2, rows, 2, columns, 2, -1).max(axis=(2, 4))
    ends = lambda n: [(i * n // grid, -(-(i + 1) * n // grid)) for i in range(grid)]
    cells = [maps[:, a:b, c:d].mean(axis=(1, 2)) for a, b in ends(rows) for c, d in ends(columns)]
    y = np.stack(cells, axis=1).reshape(2, -1)
    for name in ("fc1", "fc2"):
        y = np.maximum(
            y @ variables["params"][name]["kernel"] + variables["params"][name]["bias"], 0
        )
    np.testing.assert_allclose(apply(network, variables, x).pooled, y, rtol=1e-5)
