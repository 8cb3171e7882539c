"""Detected regions: what is added to their features, and what padding may not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.encoders.regions import RegionEncoder
from vlm_jax.layers.transformer import Transformer

REGIONS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)), jnp.float32)
MASK = jnp.array([[True, True, False], [True, True, True]])
STACK = dict(layers=2, heads=2, mlp_width=8)


def test_type_and_position_are_added_to_a_dense_layer(randomise):
    encoder = RegionEncoder(4, types=3, positions=5)
    variables = randomise(encoder, REGIONS)
    params = variables["params"]
    base = np.asarray(REGIONS) @ params["features"]["kernel"] + params["features"]["bias"]
    base = base + params["position"][0]
    types = np.array([[0, 1, 2], [2, 2, 0]])
    table = np.asarray(params["type"]["embedding"])
    typed = encoder.apply(variables, REGIONS, types=jnp.asarray(types)).tokens
    np.testing.assert_allclose(typed, base + table[types], atol=1e-5)
    np.testing.assert_allclose(encoder.apply(variables, REGIONS).tokens, base + table[1], atol=1e-5)


def test_features_and_boxes_are_normalised_by_themselves_and_averaged(randomise):
    encoder = RegionEncoder(4, box_width=2)
    variables = randomise(encoder, REGIONS)
    params = variables["params"]

    def part(name, x):
        x = np.asarray(x) @ params[name]["kernel"] + params[name]["bias"]
        x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        norm = params[f"{name}_norm"]
        return x * norm["scale"] + norm["bias"]

    expected = (part("features", REGIONS[..., :4]) + part("boxes", REGIONS[..., 4:])) / 2
    np.testing.assert_allclose(encoder.apply(variables, REGIONS).tokens, expected, atol=1e-4)


@pytest.mark.parametrize("norm_first", [False, True])
def test_layers_see_real_regions_only(randomise, norm_first):
    encoder = RegionEncoder(4, **STACK, norm_first=norm_first)
    variables = randomise(encoder, REGIONS, MASK)
    apply = jax.jit(encoder.apply)
    found = apply(variables, REGIONS, MASK)
    alone = apply(variables, REGIONS[:1, :2])
    np.testing.assert_allclose(found.tokens[:1, :2], alone.tokens, atol=1e-5)
    np.testing.assert_array_equal(found.mask, MASK)
    dirty = apply(variables, jnp.where(MASK[..., None], REGIONS, jnp.nan), MASK)
    np.testing.assert_array_equal(dirty.tokens[0, :2], found.tokens[0, :2])
    params = variables["params"]
    x = REGIONS @ params["features"]["kernel"] + jnp.asarray(params["features"]["bias"])[None, None]
    stack = Transformer(2, 2, 8, norm_first=norm_first, final_norm=norm_first, epsilon=1e-12)
    expected, _ = jax.jit(stack.apply)({"params": params["transformer"]}, x)
    np.testing.assert_allclose(found.tokens[1], expected[1], atol=1e-4)
