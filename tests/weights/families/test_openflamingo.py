"""The layers of OpenFlamingo against PyPI's open-flamingo, of which one file is used."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.weights import parity
from vlm_jax import trees
from vlm_jax.connectors.perceiver import PerceiverResampler
from vlm_jax.layers.masks import latest_image_mask
from vlm_jax.layers.transformer import Transformer
from vlm_jax.types import Features
from vlm_jax.weights import convert
from vlm_jax.weights.families import openflamingo
from vlm_jax.weights.folder import Arrays

COUNTS = {"resampler": 63_019_008, "gated 2048": 36_708_354, "gated 4096": 139_476_994}


@pytest.fixture(scope="module")
def helpers():
    package = importlib.util.find_spec("open_flamingo")
    assert package is not None and package.origin is not None, "`make test` installs open-flamingo"
    path = Path(package.origin).parent / "src" / "helpers.py"
    spec = importlib.util.spec_from_file_location("open_flamingo_helpers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded(module, reference, prefix, rules, *args, **given):
    """Our variables from the reference's parameters, under its names."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **given))
    ours = {"params": {"part": shapes["params"]}}
    names = {prefix + name: p.detach().numpy() for name, p in reference.named_parameters()}
    params = convert.read(Arrays(names), ours, rules)["params"]["part"]
    return {"params": params}


@pytest.mark.parametrize(("heads", "head_dim", "depth"), [(3, 4, 2), (2, 10, 1)])
def test_resampler(helpers, heads, head_dim, depth):
    fields = dict(dim=12, depth=depth, dim_head=head_dim, heads=heads, num_latents=3, ff_mult=2)
    reference = parity.randomise(helpers.PerceiverResampler(**fields))
    options = dict(latents=3, layers=depth, heads=heads, mlp_width=24)
    module = PerceiverResampler(**options, attention=dict(head_dim=head_dim))
    x = parity.pixels(2, 7, 12)
    visual = Features(jnp.asarray(x), jnp.ones((2, 7), bool))
    rules = openflamingo.resampler_rules("part", "perceiver")
    variables = loaded(module, reference, "perceiver.", rules, visual)
    expected = reference(torch.from_numpy(x)[:, None, None])[:, 0].detach()
    found = module.apply(variables, visual).tokens
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("heads", "head_dim"), [(3, 4), (2, 10)])
def test_gated_cross_attention(helpers, heads, head_dim):
    sizes = dict(dim=12, dim_visual=8, dim_head=head_dim, heads=heads, ff_mult=3)
    reference = parity.randomise(helpers.GatedCrossAttentionBlock(**sizes))
    module = gated(heads, head_dim, 36)
    x, media = parity.pixels(2, 6, 12), parity.pixels(2, 2, 4, 8, seed=1)
    marks = np.array([[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]], bool)
    sees = jnp.repeat(latest_image_mask(jnp.asarray(marks), 2), 4, axis=2)[:, None]
    around = dict(context=jnp.asarray(media.reshape(2, 8, 8)), context_mask=sees)
    rules = openflamingo.gated_rules("part/layers", "layers.{}")
    variables = loaded(module, reference, "layers.0.", rules, jnp.asarray(x), **around)
    expected = reference(*map(torch.from_numpy, (x, media, marks))).detach()
    found, _ = module.apply(variables, jnp.asarray(x), **around)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def gated(heads: int, head_dim: int, mlp_width: int) -> Transformer:
    return Transformer(
        1,
        heads,
        mlp_width,
        parts=("cross", "cross_mlp"),
        cross_gate="scalar",
        bias=False,
        epsilon=1e-5,
        final_norm=False,
        attention=dict(head_dim=head_dim),
    )


def test_counts():
    visual = Features(jnp.zeros((1, 1, 1024)), jnp.ones((1, 1), bool))
    found = {}
    resampler = PerceiverResampler(attention=dict(head_dim=64))
    shapes = {"resampler": jax.eval_shape(resampler.init, jax.random.key(0), visual)}
    for width in (2048, 4096):
        layer, x = gated(8, 64, 4 * width), jnp.zeros((1, 1, width))
        init = lambda key, layer=layer, x=x: layer.init(key, x, context=visual.tokens)
        shapes[f"gated {width}"] = jax.eval_shape(init, jax.random.key(0))
    found = {name: trees.count_parameters(tree["params"]) for name, tree in shapes.items()}
    assert found == COUNTS
