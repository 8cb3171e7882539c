"""The Q-Former's promises: what its queries see, and where it attends to the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.connectors.qformer import QFormer
from vlm_jax.types import Features

FIELDS = dict(queries=3, width=8, heads=2, mlp_width=12)
VISUAL = Features(
    jax.random.normal(jax.random.key(0), (2, 5, 6)),
    jnp.arange(5)[None] < jnp.array([[5], [3]]),
)


def random(module):
    shapes = jax.eval_shape(module.init, jax.random.key(1), VISUAL)
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def test_padding_of_the_image_changes_nothing():
    module = QFormer(layers=2, **FIELDS)
    variables, read = random(module), jax.jit(module.apply)
    changed = jnp.where(VISUAL.mask[..., None], VISUAL.tokens, jnp.nan)
    found = read(variables, VISUAL)
    assert found.tokens.shape == (2, 3, 8)
    assert found.mask.all()
    again = read(variables, VISUAL._replace(tokens=changed))
    np.testing.assert_array_equal(found.tokens, again.tokens)
    other = read(variables, VISUAL._replace(tokens=VISUAL.tokens + 1.0))
    assert jnp.abs(found.tokens - other.tokens).max() > 1e-3


@pytest.mark.parametrize(("layers", "every", "crossed"), [(5, 2, 3), (4, 3, 2), (2, 3, 1)])
def test_the_first_of_each_group_attends_to_the_image(layers, every, crossed):
    params = random(QFormer(layers=layers, cross_every=every, **FIELDS))["params"]
    paths = jax.tree_util.tree_leaves_with_path(params)
    kernels = [
        leaf
        for path, leaf in paths
        if "cross_attention" in jax.tree_util.keystr(path) and leaf.shape[-2:] == (6, 8)
    ]
    count = sum(leaf.shape[0] if leaf.ndim == 3 else 1 for leaf in kernels)
    assert count == 2 * crossed  # keys and values


def test_texts_go_through_mlps_of_their_own():
    module = QFormer(layers=2, reads_text=True, **FIELDS)
    words = Features(jax.random.normal(jax.random.key(3), (2, 4, 8)), jnp.ones((2, 4), bool))
    shapes = jax.eval_shape(module.init, jax.random.key(1), VISUAL, words)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    read = jax.jit(module.apply)
    both, image, text = (
        read(variables, *given) for given in ((VISUAL, words), (VISUAL,), (None, words))
    )
    assert both.tokens.shape == (2, 7, 8) and text.tokens.shape == (2, 4, 8)
    np.testing.assert_allclose(both.pooled, both.tokens[:, :3].mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(text.pooled, text.tokens[:, 0])
    assert image.pooled is None and jnp.abs(image.tokens - both.tokens[:, :3]).max() > 1e-3
    changed = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 1 if "rest_mlp" in jax.tree_util.keystr(path) else x, variables
    )
    np.testing.assert_array_equal(read(changed, VISUAL).tokens, image.tokens)
    assert jnp.abs(read(changed, None, words).tokens - text.tokens).max() > 1e-3
    with pytest.raises(ValueError, match="reads_text=True"):
        QFormer(layers=2, **FIELDS).apply(variables, VISUAL, words)
